"""`depthwise cost` as it is typed: the bill, the sweeps that reproduce papers, the budgets, and what it refuses."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from depthwise.analysis.formulas import LAYERS
from depthwise.cli.app import run

SMALL = ["--set", "stem=small", "width=0.25", "middle=(8,)"]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def document(capsys: pytest.CaptureFixture[str], *tokens: str) -> Any:
    """The JSON that is the whole of standard output."""
    capsys.readouterr()
    assert run(["cost", *tokens, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def text(capsys: pytest.CaptureFixture[str], *tokens: str) -> str:
    capsys.readouterr()
    assert run(["cost", *tokens]) == 0
    return capsys.readouterr().out


def refusal(capsys: pytest.CaptureFixture[str], *tokens: str, code: int = 2) -> str:
    capsys.readouterr()
    assert run(["cost", *tokens]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_the_bill_of_a_network(capsys: pytest.CaptureFixture[str]) -> None:
    bill = document(capsys, "xception")
    assert bill["input_shape"] == [3, 299, 299]
    assert (bill["parameters"], bill["macs"]) == (22_855_952, 8_357_403_496)
    assert sum(layer["macs"] for layer in bill["layers"]) == bill["macs"]
    assert sum(share["macs"] for share in bill["shares"].values()) == pytest.approx(1)
    # Counted on a network that was built with regular convolutions.
    assert (bill["regular"]["parameters"], bill["regular"]["macs"]) == (179_071_688, 68_818_345_696)
    printed = text(capsys, "xception")
    for figure in ("22,855,952", "8,357.40", "179,071,688", "stages.entry1", "pointwise", "8.23"):
        assert figure in printed


def test_size_classes_and_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    bill = document(capsys, "xception", "--size", "32x48", "--classes", "10", *SMALL)
    assert bill["input_shape"] == [3, 32, 48]
    assert bill["arguments"] == {"stem": "small", "width": 0.25, "middle": [8], "num_classes": 10}
    assert bill["layers"][-1]["output_shape"] == [10]


def test_the_bill_of_a_bundle(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bill = document(capsys, str(tiny_bundle))
    assert (bill["name"], bill["input_shape"]) == ("xception", [3, 32, 32])
    assert bill["layers"][-1]["output_shape"] == [3]
    assert document(capsys, str(tiny_bundle), "--size", "64")["macs"] > 3 * bill["macs"]


@pytest.mark.parametrize("name", LAYERS)
def test_a_kind_of_layer_beside_its_formula(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    bill = document(capsys, name, "--size", "7")
    m, n, k = (bill["arguments"][key] for key in "mnk")
    assert bill["formula"]["parameters"] == bill["parameters"]
    assert bill["macs"] == bill["parameters"] * 49
    assert bill["regular"]["parameters"] == k * k * m * n
    assert "as counted" in text(capsys, name)


def test_the_example_everyone_quotes(capsys: pytest.CaptureFixture[str]) -> None:
    printed = text(capsys, "separable", "--set", "m=16", "n=32", "k=3")
    assert "K²·M + M·N = 656 parameters with M=16, N=32, K=3: as counted" in printed
    assert "4,608" in printed


def test_a_sweep_has_a_row_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    swept = document(capsys, "xception", *SMALL, "--sweep", "width=1,0.5")
    assert (swept["sweep"], [row["width"] for row in swept["rows"]]) == ("width", [1, 0.5])
    assert swept["rows"][0]["macs"] > 2 * swept["rows"][1]["macs"]
    sizes = document(capsys, "xception", *SMALL, "--sweep", "size=64,32x16")["rows"]
    assert [row["size"] for row in sizes] == [64, "32x16"]
    assert sizes[0]["parameters"] == sizes[1]["parameters"]
    assert "32x16" in text(capsys, "xception", *SMALL, "--sweep", "size=64,32x16")
    one = document(capsys, "xception", *SMALL, "--sweep", "residual=False")
    assert [row["residual"] for row in one["rows"]] == [False]


def test_the_spectrum_of_segments(capsys: pytest.CaptureFixture[str]) -> None:
    swept = document(capsys, "segments", "--size", "19", "--sweep", "s=1,2,4,728")
    assert [row["parameters"] for row in swept["rows"]] == [
        9 * 728 * 728 // s + 728 * 728 for s in (1, 2, 4, 728)
    ]
    assert "728" in text(capsys, "segments", "--sweep", "s=1,728")


# Howard 2017, Tables 6 and 7: million multiply-adds and million parameters.
@pytest.mark.parametrize(
    ("sweep", "macs", "parameters"),
    [
        ("width=1,0.75,0.5,0.25", (569, 325, 149, 41), (4.2, 2.6, 1.3, 0.5)),
        ("size=224,192,160,128", (569, 418, 290, 186), (4.2,) * 4),
    ],
)
def test_mobilenets_multipliers(
    sweep: str, macs: tuple[int, ...], parameters: tuple[float, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = document(capsys, "mobilenet_v1", "--sweep", sweep)["rows"]
    assert [row["macs"] / 1e6 for row in rows] == pytest.approx(macs, abs=1)
    assert [round(row["parameters"] / 1e6, 1) for row in rows] == list(parameters)


def test_the_spectrum_in_a_whole_network(capsys: pytest.CaptureFixture[str]) -> None:
    swept = document(capsys, "xception", "--sweep", "conv=separable,segments-4,segments-1,regular")
    rows = {row["conv"]: row["parameters"] for row in swept["rows"]}
    assert list(rows) == ["separable", "segments-4", "segments-1", "regular"]
    assert rows["separable"] == 22_855_952 < rows["segments-4"] < rows["regular"] == 179_071_688
    assert rows["regular"] < rows["segments-1"]  # which has its 1x1 still


def test_a_budget_gives_the_width(capsys: pytest.CaptureFixture[str]) -> None:
    bill = document(
        capsys, "mobilenet_v1", "--set", "stem=small", "--classes", "10", "--match", "parameters=4e5"
    )
    assert 360_000 < bill["parameters"] <= 400_000
    assert run(["cost", "xception", *SMALL, "--match", "macs=5e6"]) == 0
    captured = capsys.readouterr()
    assert "width=0.159 is the widest within macs=5,000,000: it reaches 4,959," in captured.err
    assert "xception on 3x32x32, stem=small, middle=(8,), width=0.159" in captured.out


@pytest.mark.parametrize(
    ("tokens", "sentence"),
    [
        (["xcepton"], "unknown network, layer or bundle 'xcepton': use one of xception"),
        (["xception", "--set", "widht=1"], "unknown argument of xception 'widht': use one of width"),
        (["xception", "--set", "width"], "setting 'width' has no '='"),
        (["xception", "--size", "big"], "size 'big' is no size: write S or HxW"),
        (["separable", "--size", "0"], "size '0' is no size: write S or HxW"),
        (["xception", "--sweep", "size=300,0.5"], "size '0.5' is no size: write S or HxW"),
        (["xception", "--sweep", "width=1,2", "--match", "macs=1e6"], "both vary the network: give one"),
        (["xception", "--match", "macs=few"], "the budget is no number, write for example macs=4e6"),
        (["xception", "--match", "flops=1"], "unknown budget 'flops': use one of macs"),
        (["separable", "--match", "macs=1e6"], "the layer separable has none: take a network"),
        (["separable", "--classes", "3"], "the layer separable has none, leave it out"),
        (["separable", "--set", "q=3"], "unknown argument of the layer 'q'"),
        (
            ["nin", "--set", "num_classes=7", "--classes", "5"],
            "--classes 5 and --set num_classes=7 contradict",
        ),
    ],
)
def test_what_is_wrong_is_said(tokens: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sentence in refusal(capsys, *tokens)


def test_an_image_that_is_too_small_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "below this network's minimum of 71x71" in refusal(capsys, "xception", "--size", "32", code=1)
