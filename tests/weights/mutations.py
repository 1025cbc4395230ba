"""Run by test_fuzz.py in a process of its own: imports one mutated file of weights after the other, and tells.

Arguments: a folder with files NETWORK-NAME.SUFFIX, a seed, how many. Prints a JSON document: of each file the exit
code, what the command said and the seed it was made with; the most memory (bytes); what was done that no import does.
"""

import codecs
import contextlib
import io
import json
import os
import pickle
import random
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from depthwise.cli.app import run

FORBIDDEN = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.mkdir",
    "os.remove",
    "os.rename",
)
FORBIDDEN += ("socket.connect", "socket.getaddrinfo", "exec", "ctypes.dlopen")

for codec in ("unicode_escape", "raw_unicode_escape", "latin-1", "ascii"):
    codecs.lookup(codec)  # whose code Python runs when a pickle first needs it


class Payload:
    """What a hostile pickle asks for when it is opened."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


def flip(data: bytearray, dice: random.Random, most: int) -> None:
    for _ in range(dice.choice((1, 2, 8, 64))):
        data[dice.randrange(min(most, len(data)))] ^= 1 << dice.randrange(8)


def head(data: bytearray, dice: random.Random) -> None:
    """Where formats keep what they say of themselves."""
    flip(data, dice, 4096)


def tail(data: bytearray, dice: random.Random) -> None:
    """Where ZIP archives do."""
    data.reverse()
    flip(data, dice, 2048)
    data.reverse()


def anywhere(data: bytearray, dice: random.Random) -> None:
    flip(data, dice, len(data))


def numbers(data: bytearray, dice: random.Random) -> None:
    """A length or an address of another size."""
    for _ in range(dice.choice((1, 3, 9))):
        place = dice.randrange(min(8192, len(data) - 8))
        value = dice.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1, len(data)))
        data[place : place + 8] = value.to_bytes(8, "little")


def cut(data: bytearray, dice: random.Random) -> None:
    del data[dice.choice((dice.randrange(64), dice.randrange(len(data)))) :]


def missing(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    del data[place : place + dice.choice((1, 8, 512, 65536))]


def twice(data: bytearray, dice: random.Random) -> None:
    place, to = dice.randrange(len(data)), dice.randrange(len(data))
    data[to:to] = data[place : place + dice.choice((16, 512, 65536))]


def blank(data: bytearray, dice: random.Random) -> None:
    place = dice.randrange(len(data))
    data[place : place + 4096] = bytes([dice.choice((0, 0xFF))]) * 4096


def words(data: bytearray, dice: random.Random) -> None:
    """Names, types and numbers that formats write as text."""
    for old, new in dice.sample(
        [
            (b"float32", b"float99"),
            (b'"F32"', dice.choice([b'"F64"', b'"BF16"', b'"I64"', b'"F4"', b'"BOOL"', b'"?"'])),
            (b'"shape":[', b'"shape":[-1,'),
            (b'"data_offsets":[', b'"data_offsets":[9'),
            (b"FloatStorage", dice.choice([b"DoubleStorage", b"BoolStorage", b"NoStorage"])),
            (b"_rebuild_tensor_v2", b"_rebuild_parameter"),
            (b"torch._utils", b"posix"),
            (b"OrderedDict", b"defaultdict"),
            (b"weight", b"w\x1b[1mt\x00"),
            (b"layers", b"../../"),
            (b"1.0", b"1e999"),
            (b"null", b"[[[[" * 50),
            (b"(", b"K\x00" + b"(" * 200),
        ],
        4,
    ):
        data[:] = data.replace(old, new, dice.choice((1, -1)))


def hostile(data: bytearray, dice: random.Random) -> None:
    """In a pickle, or in a file's place, an order to do something."""
    marker = str(Path.cwd() / "ran")
    order = dice.choice(
        [
            Payload(os.mkdir, marker),
            Payload(os.system, f"mkdir {marker}"),
            Payload(eval, f"__import__('os').mkdir({marker!r})"),
            Payload(exec, f"open({marker!r}, 'w')"),
            Payload(__import__, "this"),
        ]
    )
    payload = pickle.dumps({"state_dict": order}, protocol=dice.choice((2, 2, 4)))
    if data.startswith(b"PK"):
        source, target = io.BytesIO(bytes(data)), io.BytesIO()
        with zipfile.ZipFile(source) as archive, zipfile.ZipFile(target, "w") as packed:
            for entry in archive.infolist():
                own = entry.filename.endswith((".pkl", "config.json"))
                packed.writestr(entry.filename, payload if own else archive.read(entry))
        data[:] = target.getvalue()
    elif data.startswith(b"\x80\x02"):
        place = data.index(b".", 20) + 1  # behind the magic number that PyTorch begins with
        data[dice.choice((0, place)) :] = payload
    else:
        data[:] = payload


MUTATIONS = (head, tail, anywhere, numbers, cut, missing, twice, blank, words, hostile)


def imported(path: Path, network: str) -> tuple[int, str]:
    """The exit code of the command, and all that it said."""
    said, shown = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stderr(said),
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")),
    ):
        code = run(["import", str(path), "--model", network, "--out", "out/bundle", "--force"])
    return code, said.getvalue() + shown.getvalue()


def main(folder: Path, seed: int, count: int) -> dict[str, Any]:
    bases = sorted(folder.iterdir())
    Path("out").mkdir()
    # What is loaded late is loaded now, and is no deed of a file.
    results = [
        {"base": base.name, "seed": None, "outcome": imported(base, base.name.partition("-")[0])}
        for base in bases
    ]
    deeds: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if not watching:
            return
        where = str(arguments[0]) if arguments else ""
        inside = where.startswith(("out/", str(Path.cwd() / "out")))
        inside |= (
            event == "os.remove" and arguments[1] > 2
        )  # in a folder that was opened: a bundle's, to be replaced
        # A descriptor was opened by name before.
        named = event == "open" and isinstance(arguments[0], str | bytes)
        written = named and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if (written or event.startswith(FORBIDDEN)) and not inside:
            deeds.append(f"{event} {arguments!r:.300}")

    sys.addaudithook(watch)
    for number in range(count):
        dice = random.Random(seed + number)
        base = bases[number % len(bases)]
        data = bytearray(base.read_bytes())
        mutation = MUTATIONS[number // len(bases) % len(MUTATIONS)]
        watching = False
        mutation(data, dice)
        name = f"{number}-{mutation.__name__}-{base.name}"
        Path(name).write_bytes(data)
        watching = True
        print(name, file=sys.stderr, flush=True)
        results.append(
            {"base": base.name, "name": name, "outcome": imported(Path(name), base.name.partition("-")[0])}
        )
        watching = False
        os.unlink(name)
    # Not ru_maxrss, which begins with what the process had that started this one.
    status = Path("/proc/self/status").read_text()
    memory = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    return {"results": results, "memory": memory, "deeds": deeds}


if __name__ == "__main__":
    warnings.simplefilter("default")
    document = main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(document))
