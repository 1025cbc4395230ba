"""What the fuzz tests throw, values that no field expects and mutated JSON; and processes that survive it."""

import copy
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_MEMORY = 1_500_000_000  # bytes of a process that is fed these

DEEP: list[Any] = []
for _ in range(200):
    DEEP = [DEEP]

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 255, 4096, 8192, 100_000, 2**31, 2**40, 2**63, -(2**63), 10**400),
    *(0.0, -0.0, 1e-300, 1e-9, 0.3, 1.0, 1.5, 1e9, 1e300, -1e300, float("inf"), float("-inf"), float("nan")),
    *(
        "",
        "x",
        "none",
        "native",
        "bf16",
        "xception",
        "vgg16",
        "x" * 5000,
        "\udcff",
        "caf\u00e9\x1b[31m",
        "../../x",
    ),
    *([], [1], [1, 2], [0, 0], [-4, 32], [1e9], [[1]], [None], [True] * 4, [10**400] * 2, [64] * 300, DEEP),
    *({}, {"a": 1}, {"kind": "sgd"}, {"kind": ["sgd"]}, {"": {}}, {"lr": float("nan")}),
)


def paths(values: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where in a JSON value something stands."""
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        yield (*at, key)
        yield from paths(value, (*at, key))


def mutated(values: Any, dice: random.Random) -> Any:
    """A copy of a JSON value in which one to three things are replaced, left out or added."""
    values = copy.deepcopy(values)
    for _ in range(dice.randint(1, 3)):
        *inside, last = dice.choice(list(paths(values)) or [("new",)])
        place = values
        for key in inside:
            place = place[key]
        action = dice.random()
        if action < 0.1:
            del place[last]
        elif action < 0.2 and isinstance(place, dict):
            place[dice.choice(("new", "num_classes", "width", "x" * 3000))] = dice.choice(VALUES)
        else:
            place[last] = copy.deepcopy(dice.choice(VALUES))
    return values


def mutated_text(values: Any, dice: random.Random) -> bytes:
    """JSON text of a mutated value; one in ten is no JSON any more, or says something twice."""
    text = json.dumps(mutated(values, dice)).encode()
    action, at = dice.random(), dice.randrange(max(1, len(text)))
    if action < 0.03:
        return text[:at]
    if action < 0.06:
        return text[:at] + bytes([dice.randrange(256)]) + text[at + 1 :]
    if action < 0.1:
        return text[:1] + b'"model": "vgg16", ' + text[1:]
    return text


def survives(
    code: str, *arguments: object, folder: Path, address_space: int = 12 * 2**30, seconds: int = 300
) -> str:
    """Run Python `code`, which finds this module, in a process of its own, and return what it printed.

    Fails if it ends otherwise than with 0, or took more than MOST_MEMORY.
    """
    environment = os.environ | {"HOME": str(folder / "home"), "XDG_CACHE_HOME": str(folder / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="backslashreplace",
        timeout=seconds,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space)),
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) * 1024 < MOST_MEMORY
    return done.stdout


def print_memory() -> None:
    """As the last word: the most memory that this process took, in KiB."""
    # Not ru_maxrss, which begins with what the process had that started this one.
    print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])


def check_sentence(sentence: str) -> None:
    """Fail unless this is what a person should read: short, of the things at hand, no surprise of Python's."""
    assert "unexpected" not in sentence, sentence
    assert "Traceback" not in sentence, sentence
    assert 10 < len(sentence) < 1000, sentence
    assert "\n" not in sentence, sentence
