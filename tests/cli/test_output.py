"""What a file or a class is called never steers the terminal, whatever command prints it, nor a spreadsheet."""

import ast
import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.processes import command

from depthwise.bundle import BundleConfig, write_bundle
from depthwise.cli import output
from depthwise.cli.output import to_json
from depthwise.data import Preprocess
from depthwise.models import create_model
from depthwise.words import inert, printable

EVIL = "x\x1b]0;owned\x07\x1b[2J\r\b\x7f\x9b31m\u202e\ty"
"""Sets a terminal's title, wipes its screen, goes back in the line, turns the text around."""

FORMULAS = ["=1+1.png", "+1+1.png", "-1+1.png", "@SUM(A1).png", "\t=1+1.png", "\r=1+1.png", "＝1+1.png"]  # noqa: RUF001


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a data set, pictures and a bundle, all with names that steer terminals."""
    root = tmp_path_factory.mktemp("evil")
    random = np.random.default_rng(0)
    classes = (f"a{EVIL}", f"b{EVIL}")
    for label in classes:
        for number in range(6):
            path = root / f"data{EVIL}" / label / f"{number}{EVIL}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
        (root / f"data{EVIL}" / label / f"bad{EVIL}.png").write_bytes(b"no image")
    config = BundleConfig("nin", classes, Preprocess((32, 32), 3), {"width": 0.1, "stem": "small"})
    module = create_model("nin", num_classes=2, in_channels=3, width=0.1, stem="small")
    write_bundle(root / f"bundle{EVIL}", config, module.state_dict())
    return root


def on_terminal(folder: Path, commands: list[list[str]]) -> tuple[list[int], str]:
    """The exit codes of the commands, run one after another, and all that they print on a terminal."""
    program = "import sys, json; from depthwise.cli.app import run\n"
    program += "print('\\n@', [run(c) for c in json.load(sys.stdin)])"
    ours, theirs = pty.openpty()
    environment = {
        **os.environ,
        "TERM": "dumb",
        "COLUMNS": "200",
    }  # a terminal that is not told about colours
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    assert process.stdin is not None
    process.stdin.write(json.dumps(commands).encode())
    process.stdin.close()
    shown = b""
    while True:
        try:
            part = os.read(ours, 2**16)
        except OSError:  # the other end is closed
            break
        shown += part
    os.close(ours)
    process.wait()
    text, _, codes = shown.decode(errors="surrogateescape").rpartition("@")
    return json.loads(codes), text


def test_no_command_lets_a_name_steer_the_terminal(evil: Path) -> None:
    data, bundle, image = f"data{EVIL}", f"bundle{EVIL}", f"data{EVIL}/a{EVIL}/0{EVIL}.png"
    settings = ["--set", "epochs=1", "width=0.05", "size=32"]
    commands: dict[str, tuple[list[str], int]] = {
        "table": (["predict", bundle, data], 1),
        "csv": (["predict", bundle, data, "--csv", "--exact"], 1),
        "json": (["predict", bundle, data, "--json"], 1),
        "out": (["predict", bundle, data, "--out", f"o{EVIL}.csv"], 1),
        "suffix": (["predict", bundle, data, "--out", f"o.{EVIL}"], 2),
        "no bundle": (["predict", f"no{EVIL}", image], 1),
        "traceback": (["predict", f"no{EVIL}", image, "--debug"], 1),
        "option": (["predict", bundle, image, f"--no{EVIL}"], 2),
        "eval": (["eval", bundle, "--data", data], 0),
        "check": (["data", "check", data], 1),
        "check, json": (["data", "check", data, "--json"], 1),
        "stats": (["data", "stats", data], 0),
        "compile": (["compile", bundle, "--out", f"fast{EVIL}"], 0),
        "export": (["export", bundle, "--format", "torch", "--out", f"e{EVIL}.pt2"], 0),
        "cost": (["cost", bundle], 0),
        "draw": (["draw", bundle, "--out", f"d{EVIL}.svg"], 0),
        "models": (["models", f"no{EVIL}"], 2),
        "import": (["import", image, "--model", "nin", "--out", "i"], 1),
        "train": (["train", "--data", data, "--out", f"run{EVIL}", "--skip-bad", *settings], 0),
    }
    codes, shown = on_terminal(evil, [command for command, _ in commands.values()])
    expected = {name: code for name, (_, code) in commands.items()}
    assert dict(zip(commands, codes, strict=True)) == expected, shown
    assert [c for c in shown.replace("\r\n", "") if not c.isprintable()] == []
    assert shown.count("owned") > len(commands)


def test_everything_that_is_printed_goes_through_one_module() -> None:
    for file in Path(output.__file__).parent.glob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert file.name == "output.py" or not names & {"print", "Console"}, file


def test_csv_in_a_file_has_every_byte_of_a_name_and_no_formula(
    evil: Path, tiny_bundle: Path, tmp_path: Path
) -> None:
    pixels = next((evil / f"data{EVIL}").rglob("[0-9]*.png")).read_bytes()
    names = [*FORMULAS, f"{EVIL}.png", os.fsdecode(b"caf\xe9.png"), "5.png", "plain.png"]
    for name in names:
        (tmp_path / name).write_bytes(pixels)

    def listed(*arguments: str) -> list[str]:
        done = command("predict", str(tiny_bundle), "--topk", "1", *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        text = done.stdout or (tmp_path / "out.csv").read_bytes().decode(errors="surrogateescape")
        file = io.StringIO(text, newline="")
        return [row["image"] for row in csv.DictReader(file)]

    guarded = [f"'{name}" if name in FORMULAS else name for name in names]
    assert listed("--csv", "--", *names) == guarded
    assert listed("--csv", "--exact", "--", *names) == names
    assert listed("--out", "out.csv", "--", *names) == guarded


@pytest.mark.parametrize(
    "text", ["-5", "+3.25", "-1e-5", "-.5", "", "+", "=", "-", "==", "a=1", "cat", "1-2", " "]
)
def test_what_is_no_formula_stays(text: str) -> None:
    assert inert(text) == text


@pytest.mark.parametrize("text", [*FORMULAS, "-x", "-5+A1", "=A1", "@x", "-1e5e5", "-٣"])
def test_formulas_become_text(text: str) -> None:
    assert inert(text) == f"'{text}"


@pytest.mark.parametrize("value", ["\x7f\x1b\x9b\u2028é猫", {"\x7f": ["\\", '"', "\udce9"]}])
def test_json_comes_back_and_has_no_control_characters(value: Any) -> None:
    assert to_json(value).isprintable()
    assert json.loads(to_json(value)) == value


def test_what_was_made_printable_stays() -> None:
    assert printable(EVIL).isprintable()
    assert printable(printable(EVIL)) == printable(EVIL)
    assert printable("ünïcödé 猫 [red]") == "ünïcödé 猫 [red]"
