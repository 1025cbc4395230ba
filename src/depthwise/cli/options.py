"""The options that several commands share, described once."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, ParamSpec, TypeVar, get_args

from cyclopts import Parameter, Token, convert

from depthwise.bounds import Bounds, checked

if TYPE_CHECKING:
    from depthwise.data import Decoding

P = ParamSpec("P")
R = TypeVar("R")

STANDARD_INPUT = "/dev/stdin"
"""What a command sees where a person wrote -."""


def command(function: Callable[P, R]) -> Callable[P, R]:
    """The `function` as a command, whose options are held to the bounds in their annotations."""
    return checked(function, lambda name: f"--{name.replace('_', '-')}")


def whole_numbers(hint: Any, tokens: Sequence[Token]) -> Any:
    """What `tokens` mean as a `hint`, as the parser has it, except that it would round 1.5 to 2 without a word."""
    for token in tokens:
        if int in (hint, *get_args(hint)) and "." in token.value:
            raise ValueError(f"{token.value!r} is no whole number: write for example {token.keyword}=3")
    return convert(hint, tokens)


def flag(help: str, *, name: str | None = None) -> Parameter:
    """An option that is off unless it is given."""
    return Parameter(name=name, negative="", show_default=False, help=help)


Workers = Annotated[int, Bounds(0, 256), Parameter(help="Processes that read image files.")]

BatchSize = Annotated[int, Bounds(1, 4096), Parameter(help="How many images go through the network at once.")]

Json = Annotated[
    bool, flag("Print one JSON document on standard output, all else on standard error.", name="--json")
]

MaxPixels = Annotated[
    int | None,
    Bounds(1, 2**40),
    Parameter(
        help="The largest image that is read, in pixels; one that takes over 8 bytes a pixel to decode counts for more "
        "[default: 178956970]."
    ),
]

AllowTruncated = Annotated[
    bool, flag("Read images that lack pixels, the file being cut off or damaged, as far as they can be.")
]

SkipBad = Annotated[bool, flag("Leave unreadable images out however many they are; over 1% of them stop it.")]

Data = Annotated[
    str,
    Parameter(
        help="A folder of images, one subfolder a class (with train/, val/ and test/ above them or without), "
        "a manifest (CSV, TSV, JSON lines, parquet), tars, a folder of shards, or digits or fashion-mnist; "
        "or a manifest or such a folder for each part, train=a.csv,val=b.csv."
    ),
]

Nested = Annotated[
    bool, flag("Every folder with images is a class by its path, animals/cat, not only those at the top.")
]

IgnoreUnknown = Annotated[bool, flag("Leave out images of classes that the network does not know.")]

BundlePath = Annotated[str, Parameter(help="A bundle folder, or the directory of a training run.")]

RayAddress = Annotated[
    str | None,
    Parameter(
        name="--ray",
        help="Work on a Ray cluster, at HOST:PORT or auto, that of this machine. Its nodes see the same files.",
    ),
]

EngineOption = Annotated[
    Literal["auto", "bundle", "native", "torch", "openvino", "onnxruntime"],
    Parameter(
        name="--engine",
        help="auto: the native kernels where they pay, for more than a few images; native: from the first; torch: "
        "PyTorch; bundle: what the bundle was compiled for.",
    ),
]

PrecisionOption = Annotated[
    Literal["fp32", "bf16"] | None,
    Parameter(
        name="--precision", help="What the bundle was compiled in by default, else fp32; bf16 is faster."
    ),
]


def decoding(
    max_pixels: int | None, allow_truncated: bool, kept: Any = None, white_level: int | None = None
) -> "Decoding":
    """How image files are read: as the options say, and where they are not given as a run has `kept` it."""
    from depthwise.data import Decoding

    return Decoding.asked(
        kept, max_pixels=max_pixels, allow_truncated=allow_truncated or None, white_level=white_level
    )
