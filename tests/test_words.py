"""What a person is told to type is what a shell hands to the program."""

import os
import random
import subprocess

import pytest

from depthwise.words import command_line, number_of, pace, quote, quote_path

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
