"""What a person is told when something cannot be done: the value, the rule, the remedy, in one sentence."""

from collections.abc import Iterable
from difflib import get_close_matches


class DepthwiseError(Exception):
    """Something the person can put right; its text is the whole message, the command line adds nothing."""


class UsageError(DepthwiseError):
    """The request itself is wrong (an unknown name, a bad option): the command line exits with 2."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a `name` that is not among the `known` ones of its `kind`, with the nearest of them."""
    names = sorted(known)
    near = get_close_matches(name, names, n=3, cutoff=0.5) or names[:12]
    return UsageError(f"unknown {kind} {name!r}: use one of {', '.join(near)}")
