"""`depthwise plan` as it is typed: the tables, what they rest on, the paper's own, and what is refused."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from depthwise.cli.app import run

SECOND = ["--step-seconds", "1"]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def document(capsys: pytest.CaptureFixture[str], *tokens: str) -> Any:
    """The JSON that is the whole of standard output."""
    capsys.readouterr()
    assert run(["plan", *tokens, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_papers_imagenet(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, *SECOND)
    assert (found["network"], found["parameters"], found["virtual_shards"]) == ("xception", 22_855_952, 64)
    assert found["samples"] == found["paper"]["samples"] == 100 * 1_281_167
    assert found["paper"]["images_per_second"] == pytest.approx(128_116_700 / 3 / 86_400)
    rows = found["synchronous"]
    assert [row["processes"] for row in rows] == [1, 2, 4, 8, 16, 32, 60]
    assert [row["held"] for row in rows] == [64, 32, 16, 8, 4, 2, 2]
    assert {row["images"] for row in rows} == {64 * 32}
    for row in rows:
        assert row["days"] == pytest.approx(128_116_700 / (2048 / row["update_seconds"]) / 86_400)
    # The gradients by the formula of an all-reduce; batch norm's statistics are a thousandth of them.
    assert rows[1]["sent_bytes"] == pytest.approx(4 * 22_855_952, rel=0.003)
    apart = found["asynchronous"]
    assert [row["staleness"] for row in apart] == [0, 1, 3, 7, 15, 31, 59]
    assert apart[-1]["pull_bytes"] == pytest.approx(4 * 22_855_952, rel=0.003)
    assert apart[-1]["load"] < 1


def test_the_papers_jft(capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "--paper", "jft", "--processes", "64", "--servers", "2", *SECOND)
    assert found["parameters"] == 22_855_952 + 16_000 * 2049  # 17,000 classes
    assert (found["samples"], found["paper"]["days"]) == (960_000_000, 30)
    assert found["paper"]["mode"] == "asynchronous"
    assert found["synchronous"][-1]["held"] == 1
    assert {row["servers"] for row in found["asynchronous"]} == {2}


def test_a_person_sees_every_assumption(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--processes", "3", "--network-gbit", "2.5", "--latency-ms", "0.2", "--samples", "5000", *SECOND]
    sentences = document(capsys, *asked)["assumptions"]
    assert run(["plan", *asked]) == 0
    printed = capsys.readouterr().out
    assert all(f"- {sentence}" in printed for sentence in sentences)
    for words in (
        "1 s: as given",
        "2.5 Gbit/s",
        "0.2 ms",
        "Two thirds",
        "4 x 32 = 128 images",
        "5,000 samples",
    ):
        assert any(words in sentence for sentence in sentences), words
    assert (
        "3 processes share 4 shards unevenly, some have 2 and all wait for these: 2 processes are" in printed
    )
    assert "the paper: about 3 days on 60 K80 GPUs" in printed
    assert "over a month" not in printed


def test_a_bundle_has_its_own_classes_and_a_step_is_measured(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = document(capsys, str(tiny_bundle), "--processes", "2", "--batch-size", "2", "--device", "cpu")
    assert found["arguments"]["num_classes"] == 3
    assert found["step"]["images"] == 2
    assert 0 < found["step"]["seconds"] < 60
    assert "the median of 5 updates here (cpu, " in found["assumptions"][0]


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["--processes", "0"], "--processes=0 must be at least 1 and at most 4,096"),
        (["--network-gbit", "-1"], "--network-gbit=-1.0 must be above 0"),
        (["--latency-ms", "-1"], "--latency-ms=-1.0 must be at least 0"),
        (["--step-seconds", "0"], "--step-seconds=0.0 must be above 0"),
        (["--servers", "0"], "--servers=0 must be at least 1"),
        (["--samples", "0"], "--samples=0 must be at least 1"),
        (["--virtual-shards", "6", *SECOND], "virtual_shards=6 is no power of two: take 8"),
        (["--virtual-shards", "32", *SECOND], "60 processes have 32 shards of each update between them"),
        (["xcepton", *SECOND], "unknown network, layer or bundle 'xcepton'"),
        (["separable", *SECOND], "separable is a kind of layer: give a network"),
        (["--device", "tape"], "device 'tape' cannot be used here"),
    ],
)
def test_what_is_wrong_is_said(tokens: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(["plan", *tokens]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err
