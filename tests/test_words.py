"""What a person is told to type is what a shell hands to the program."""

import os
import random
import re
import subprocess
from pathlib import Path

import pytest

import depthwise
from depthwise.cli.app import app
from depthwise.errors import DepthwiseError
from depthwise.words import (
    FLAGS,
    command_line,
    duration,
    going_on,
    in_a_shell,
    number_of,
    pace,
    quote,
    quote_path,
    spoken,
)

SOURCE = Path(depthwise.__file__).parent

WORDS = [
    "plain/path.png",
    "my runs/first",
    "it's",
    '"',
    "$HOME",
    "`id`",
    "~",
    "a;b",
    "*",
    "",
    "a\\b",
    "#1",
    "café",
    "写真",
]
HARD = ["two\nlines", "\x1b[31mred", "caf\udce9", "nbsp\u00a0", "it's\t\\n", "\u202eright to left"]


def read_back(line: str) -> list[bytes]:
    """The words that bash makes of `line`."""
    script = f"printf '%s\\0' {line}"
    done = subprocess.run(["bash", "-c", os.fsencode(script)], capture_output=True, check=True, timeout=20)
    return done.stdout.split(b"\0")[:-1]


def test_a_shell_reads_every_word_back(fuzz_seed: int) -> None:
    letters = "ab -'\"\\$`!*?~\n\t\x01\x7fé\udcff\u2028"
    generated = ["".join(random.Random(fuzz_seed + k).choices(letters, k=8)) for k in range(50)]
    words = [*WORDS, *HARD, *generated]
    line = command_line(words)
    assert line.isprintable()
    assert read_back(line) == [os.fsencode(word) for word in words]


def test_what_needs_no_quotes_has_none() -> None:
    assert (
        command_line(["depthwise", "predict", "runs/first", "--topk", "3"])
        == "depthwise predict runs/first --topk 3"
    )
    assert quote("my runs") == "'my runs'"


def test_a_path_is_never_taken_for_an_option() -> None:
    assert quote_path("-rf") == "./-rf"
    assert quote_path("--out dir") == "'./--out dir'"
    assert quote_path("runs/-rf") == "runs/-rf"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 epochs"),
        (1, "1 epoch"),
        (1.0, "1 epoch"),
        (0.5, "0.5 epochs"),
        (2, "2 epochs"),
        (12_345, "12,345 epochs"),
    ],
)
def test_one_is_singular(number: float, words: str) -> None:
    assert number_of(number, "epoch") == words


def test_an_irregular_plural() -> None:
    assert [number_of(n, "class", "classes") for n in (1, 2)] == ["1 class", "2 classes"]


@pytest.mark.parametrize(
    ("number", "said"), [(0.505, "0.505"), (12.34, "12.3"), (1234.5, "1,234"), (99.96, "100")]
)
def test_a_pace_keeps_its_digits(number: float, said: str) -> None:
    assert pace(number) == said


@pytest.mark.parametrize(
    ("written", "in_python"),
    [
        (
            "runs/a holds a run: go on with --resume, replace it with --force, or choose another --out",
            "runs/a holds a run: go on with resume=True, replace it with force=True, or choose another out",
        ),
        ("leave --recipe, --model and settings out", "leave recipe, model and settings out"),
        ("go on all the same with --resume --force", "go on all the same with resume=True, force=True"),
        ("with --set keep=last --force", "with keep='last', force=True"),
        ("try --set optimizer.lr=0.01", "try **{'optimizer.lr': 0.01}"),
        ("use fewer, or --workers 0 to decode here", "use fewer, or workers=0 to decode here"),
        ("give --mean 0.4 0.5 0.6 --std 0.2", "give mean=(0.4, 0.5, 0.6), std=0.2"),
        ("add --init BUNDLE", "add init=BUNDLE"),
        ("and --split=all takes all of it", "and split='all' takes all of it"),
        (
            "see them with `depthwise data check a --nested`, or",
            "see them with `depthwise data check a --nested`, or",
        ),
        ("give it more (docker run --shm-size=1g)", "give it more (docker run --shm-size=1g)"),
        ("the file a--b, or c/--force, is there", "the file a--b, or c/--force, is there"),
    ],
)
def test_a_sentence_names_options_in_a_shell_and_arguments_in_python(written: str, in_python: str) -> None:
    assert spoken(written) == str(DepthwiseError(written)) == in_python
    with in_a_shell():
        assert spoken(written) == str(DepthwiseError(written)) == written
    assert spoken(written) == in_python


def test_the_way_to_go_on_can_be_pasted_where_it_is_read() -> None:
    assert going_on("my runs/a") == "depthwise.train(out='my runs/a', resume=True)"
    with in_a_shell():
        assert going_on("my runs/a") == "depthwise train --out 'my runs/a' --resume"


def test_every_flag_that_a_sentence_names_is_known_as_one() -> None:
    commands = [app[name] for name in app if not name.startswith("-")]
    commands += [command[name] for command in commands for name in command if not name.startswith("-")]
    options = {
        name.removeprefix("--")
        for command in commands
        if command.default_command
        for argument in command.assemble_argument_collection()
        if argument.hint is bool
        for name in argument.names
    }
    named = {
        option
        for file in SOURCE.rglob("*.py")
        if "cli" not in file.parts
        for option in re.findall(r"(?<![\w-])--([a-z][a-z-]*)", file.read_text())
    }
    assert options & named - {"json"} == set(FLAGS)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.24, "0.2 s"),
        (119, "119 s"),
        (120, "2.0 min"),
        (3000, "50 min"),
        (9000, "2.5 h"),
        (4e6, "1,111 h"),
    ],
)
def test_a_duration_is_in_the_unit_that_people_say(seconds: float, text: str) -> None:
    assert duration(seconds) == text
