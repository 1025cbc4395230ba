"""The options that several commands share, described once."""

from typing import Annotated

from cyclopts import Parameter

STANDARD_INPUT = "/dev/stdin"
"""What a command sees where a person wrote -."""


def flag(help: str, *, name: str | None = None) -> Parameter:
    """An option that is off unless it is given."""
    return Parameter(name=name, negative="", show_default=False, help=help)


Json = Annotated[
    bool, flag("Print one JSON document on standard output, all else on standard error.", name="--json")
]

Data = Annotated[
    str,
    Parameter(
        help="A folder of images, one subfolder a class (with train/, val/ and test/ above them or without), "
        "or digits or fashion-mnist."
    ),
]

Nested = Annotated[
    bool, flag("Every folder with images is a class by its path, animals/cat, not only those at the top.")
]

IgnoreUnknown = Annotated[bool, flag("Leave out images of classes that the network does not know.")]

BundlePath = Annotated[str, Parameter(help="A bundle folder, or the directory of a training run.")]
