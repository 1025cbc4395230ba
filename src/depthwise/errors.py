"""What a person is told when something cannot be done: the value, the rule, the remedy, in one sentence."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from reprlib import Repr
from typing import Any

from depthwise.words import spoken


class DepthwiseError(Exception):
    """Something the person can put right; its text is the whole message, the command line adds nothing.

    Written with a command's options (--force), which in Python are arguments (force=True): see `spoken`.
    """

    def __str__(self) -> str:
        return spoken(super().__str__())


class UsageError(DepthwiseError):
    """The request itself is wrong (an unknown name, a bad option): the command line exits with 2."""


class DivergedError(DepthwiseError):
    """A training whose loss is not finite any more: it would be so again, and other runs are as good as before."""


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Let each DepthwiseError from inside this `with` begin with what it is about."""
    try:
        yield
    except DepthwiseError as error:
        raise type(error)(f"{subject}: {error.args[0]}") from error


class _Short(Repr):
    """`repr` of any value, cut to what a sentence can hold, whatever its length or depth."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 60, 60

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out the longest ones.
        digits = int(x.bit_length() * 0.30103) + 1
        return repr(x) if digits <= 20 else f"{'-' if x < 0 else ''}(a number of about {digits} digits)"


_SHORT = _Short()
_MOST_SHOWN = 300


def shown(value: Any) -> str:
    """`value` as a sentence shows it: as it is written in Python, shortened."""
    text = _SHORT.repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


FEW = 8
"""Names that a sentence lists whole."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a `name` that is not among the `known` ones of its `kind`, the nearest first; all of a few.

    Of a dotted name the last part may be the near one: lr is optimizer.lr.
    """
    names = sorted(known)
    written, name = shown(name), name[:100]
    near = get_close_matches(name, names, n=3, cutoff=0.5)
    leaves = {known_name.rpartition(".")[2] for known_name in names}
    leaf = get_close_matches(name, leaves, n=1, cutoff=0.7)
    near += [
        known_name for known_name in names if known_name.rpartition(".")[2] in leaf and known_name not in near
    ]
    if not near or len(names) <= FEW:
        near += [each for each in names if each not in near]
    return UsageError(f"unknown {kind} {written}: use one of {', '.join(near)}")
