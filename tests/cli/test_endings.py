"""How a command ends: with which exit code, and with one sentence on standard error, whatever happens."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from tests.processes import start

from depthwise.cli.app import run

HEAVY = ("torch", "torchvision", "numpy", "PIL", "plotly", "sklearn", "tensorboard")
COMMAND = [sys.executable, "-m", "depthwise"]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def sentence(capsys: pytest.CaptureFixture[str], head: str = "error") -> str:
    """The one line on standard error; nothing is on standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"{head}: ")
    assert captured.err.count("\n") == 1
    return captured.err.removeprefix(f"{head}: ").strip()


@pytest.mark.parametrize(
    "arguments", [[], ["train"], ["eval"], ["predict"], ["models"], ["data"], ["data", "check"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys; from depthwise.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, *sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--help"], capture_output=True, text=True, timeout=60
    )
    exit_code, *loaded = done.stderr.split()
    assert exit_code == "0"
    assert not set(HEAVY) & set(loaded)
    if arguments not in ([], ["data"]):
        assert f"Example: depthwise {' '.join(arguments)}" in done.stdout


def test_what_is_not_there_is_told_before_what_takes_long_is_imported() -> None:
    """One process for all: what is imported stays, so the commands that need the least come first."""
    refusals = [
        *(
            f"{command} nowhere"
            for command in ("eval --data digits", "compile --out x", "data check", "data stats")
        ),
        *(
            "predict nowhere x.png",
            "export nowhere --format onnx --out x.onnx",
            "data export nowhere --out x",
        ),
        *("train --data nowhere --out r", "train --data digits --init nowhere --out r"),
        *(
            "models nosuch",
            "cost nosuch",
            "draw nosuch -o x.svg",
            "train --data digits --model nosuch --out r",
        ),
        *("train --data digits --recipe nosuch --out r", "train --data digits --out r --set epohcs=3"),
    ]
    code = (
        "import sys; from depthwise.cli.app import run\n"
        "def loaded(): return sorted({'torch', 'torchvision', 'scipy', 'sklearn', 'torchmetrics'} & {*sys.modules})\n"
        f"for words in {refusals!r}: print(run(words.split()), *loaded())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stderr.count("\n") == len(refusals), done.stderr
    codes, *_ = zip(*(line.split() for line in done.stdout.splitlines()), strict=False)
    assert {*codes} <= {"1", "2"}
    told = [line.split()[1:] for line in done.stdout.splitlines()]
    assert told == [[]] * 9 + [["torch"]] * 4 + [["torch", "torchvision"]] * 2


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["trian"], 'Did you mean "train"?'),
        (["train", "--out", "x", "--date", "digits"], "Unknown option: --date. Did you mean --data?"),
        (["train"], "--out requires an argument"),
        (["train", "--out", "x"], "--data is missing"),
        (
            ["train", "--out", "x", "--data", "digits", "--recipe", "smal"],
            "unknown recipe 'smal': use one of small",
        ),
        (["train", "--out", "x", "--data", "digits", "--model", "xcption"], "unknown model 'xcption'"),
        (["train", "--out", "x", "--data", "digits", "--set", "epoch=3"], "'epoch': use one of epochs"),
        (["train", "--out", "x", "--data", "digits", "--set", "widht=3"], "'widht': use one of width"),
        (["train", "--out", "x", "--resume", "--model", "xception"], "leave --recipe and --model out"),
        (
            ["train", "--out", "x", "--data", "digits", "--epochs", "3", "--set", "epochs=2"],
            "are the same: give one",
        ),
        (["predict", "b"], "IMAGE requires an argument"),
        (["predict", "b", "x.png", "--topk", "many"], "many"),
        (["predict", "b", "x.png", "--topk", "1.5"], "'1.5' is no whole number"),
        (["data", "check", "digits", "--max-pixels=2.5"], "'2.5' is no whole number"),
        (["cost", "xception", "--size", "96", "--sweep", "size=()"], "names no value"),
        (["predict", "b", "x.png", "--json", "--csv"], "--json and --csv exclude each other"),
        (
            ["predict", "b", "x.png", "--csv", "--out", "a.csv"],
            "--csv prints, and --out writes a file instead",
        ),
        (["predict", "b", "-", "-"], "standard input (-) is named twice"),
        (["models", "xceptoin"], "unknown model 'xceptoin': use one of xception"),
        (["data", "export", "digits", "--out", "x", "--limit", "0"], "--limit=0 must be at least 1"),
    ],
)
def test_wrong_usage_is_2(
    tokens: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(tokens) == 2
    assert expected in sentence(capsys)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["predict", "nowhere", "x.png"], "nowhere does not exist: give a bundle folder"),
        (["eval", "nowhere", "--data", "digits"], "nowhere does not exist: give a bundle folder"),
        (["predict", "xception", "x.png"], "the name of a network alone has no trained weights"),
        (["train", "--out", "nowhere", "--resume"], "nowhere holds no run to resume"),
        (["data", "export", "digits", "--out", "."], ". exists: choose another folder"),
    ],
)
def test_what_fails_is_1(
    tokens: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    assert run(tokens) == 1
    assert expected in sentence(capsys)


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (MemoryError(), 1, "out of memory: use a smaller batch"),
        (
            RuntimeError("first line\nC++ frame #0\n"),
            1,
            "unexpected RuntimeError: first line (run again with",
        ),
        (OSError(28, "No space left on device", "/runs/x"), 1, "No space left on device: /runs/x (run again"),
        (ZeroDivisionError(), 1, "unexpected ZeroDivisionError (run again with --debug for the traceback)"),
        (KeyboardInterrupt(), 130, "nothing is half written, give the command again"),
        (KeyboardInterrupt("go on with --resume"), 130, "go on with --resume"),
    ],
    ids=str,
)
def test_what_nobody_foresaw_is_a_sentence_too(
    error: BaseException,
    code: int,
    expected: str,
    tiny_bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(import_module("depthwise.ship.load"), "load", fail)
    assert run(["predict", str(tiny_bundle), "x.png"]) == code
    head = "interrupted" if code == 130 else "error"
    assert expected in sentence(capsys, head)
    assert run(["predict", str(tiny_bundle), "x.png", "--debug"]) == code
    captured = capsys.readouterr().err
    assert "Traceback (most recent call last)" in captured
    assert captured.splitlines()[-1].startswith(f"{head}: ")
    assert "--debug" not in captured.splitlines()[-1]


def test_debug_behind_the_end_of_options_is_an_argument(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--", "--debug"]) == 2
    assert "unknown model '--debug'" in sentence(capsys)


def test_the_terminal_is_not_steered_by_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "\x1b[2Jgone\n", "x.png"]) == 1
    assert r"\x1b[2Jgone\n does not exist" in sentence(capsys)


def test_a_file_that_looks_like_an_option_is_recognised(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["predict", "bundle", "-dash.jpg"]) == 2
    assert "--" not in sentence(capsys)
    (tmp_path / "-dash.jpg").touch()
    assert run(["predict", "bundle", "-dash.jpg"]) == 2
    assert sentence(capsys).endswith("The file of this name goes behind a --, as in: -- -dash.jpg")
    assert run(["predict", "bundle", "--", "-dash.jpg"]) == 1
    assert "bundle does not exist" in sentence(capsys)


@pytest.mark.parametrize("tokens", [["--version"], ["--help"]])
def test_a_reader_that_goes_away_is_no_reason_to_speak(tokens: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        done = subprocess.run(
            [*COMMAND, *tokens], stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr == ""


def test_a_full_disk_behind_standard_output_is_said_once() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "--version"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output cannot be written, no space is left: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_is_130(number: int, tiny_bundle: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = start("predict", str(tiny_bundle), "-", stdin=tmp_path / "pipe")
    with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
        # More than a pipe holds: once it is written, the command reads, and it waits for the rest. A signal in the
        # moment between Python's look for one and the system call would wait for the rest, too.
        pipe.write(bytes(2**20))
        time.sleep(0.5)
        os.kill(command.pid, number)
        done = command.wait(timeout=60)
    assert done.returncode == 130
    assert (done.stdout, done.stderr) == (
        "",
        "interrupted: nothing is half written, give the command again\n",
    )
