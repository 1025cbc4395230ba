"""A recipe as a person reads it: the values that were used, in words, without those that had no effect."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

Row = tuple[str, str]
Group = tuple[str, list[Row]]

# What 0 turns off, and which fields mean nothing while another one is off.
_OFF = (
    "clip_norm",
    "averaging",
    "label_smoothing",
    "early_stop",
    "warmup",
    "color",
    "randaugment",
    "erase",
    "mixup",
    "cutmix",
)
_WITH = {"magnitude": "randaugment", "erase_size": "erase"}
_CROPS = {"scale": "resized", "ratio": "resized", "shift": "shift"}
_OF_SHARDS = ("virtual_shards", "reduction")
_THEIR_OWN = ("norm_momentum", "model_args")


def groups(recipe: Mapping[str, Any], preprocess: Mapping[str, Any]) -> list[Group]:
    """The recipe with, in place of its own preprocessing, the one that came of it and of the data."""
    found = outline({name: value for name, value in recipe.items() if name != "preprocess"})
    return [*found[:1], ("preprocessing", _pixels(preprocess)), *found[1:]] if preprocess else found


def outline(values: Mapping[str, Any]) -> list[Group]:
    """A nested dictionary as groups of (name, value in words); what stands at the top is the group ""."""
    flat = [name for name, value in values.items() if not isinstance(value, dict) or not value]
    if values.get("virtual_shards", 1) in (0, 1):
        flat = [name for name in flat if name not in _OF_SHARDS]
    top = [(name, _said(name, values[name])) for name in flat]
    found = [("", top)] if top else []
    for name, value in values.items():
        if isinstance(value, dict) and value:
            kinds = {key: said for key, said in value.items() if (key, said) != ("kind", name)}
            found.append((name, _flat(kinds)))
    return found


def _pixels(preprocess: Mapping[str, Any]) -> list[Row]:
    rows = []
    for name, value in preprocess.items():
        if name == "size":
            said = "x".join(map(str, value)) + " pixels"
        elif isinstance(value, list | tuple):
            said = ", ".join(map(in_words, value))
        else:
            said = in_words(value)
        rows.append((name, said))
    return rows


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[Row]:
    rows = []
    for name, value in values.items():
        inner = isinstance(value, dict) and bool(value)
        if inner:
            rows += _flat(value, f"{prefix}{name}.")
        elif _counts(name, values):
            rows.append((prefix + name, _said(name, value)))
    return rows


def _counts(name: str, values: Mapping[str, Any]) -> bool:
    """Whether the field has an effect beside the others."""
    if name in _WITH and not values.get(_WITH[name], True):
        return False
    return name not in _CROPS or values.get("crop", _CROPS[name]) == _CROPS[name]


def _said(name: str, value: Any) -> str:
    if name in _OFF and value == 0:
        return "off"
    if (name, value) == ("reduction", "all-reduce"):
        return "all-reduce, whose bits depend on the number of processes"
    if name in _THEIR_OWN and value in (None, {}):
        return "the network's own"
    return in_words(value)


def in_words(value: Any) -> str:
    """A value of a recipe as a person writes it."""
    if value is None or value in ({}, [], ()):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, list | tuple):
        runs = [(word, len(list(same))) for word, same in groupby(map(in_words, value))]
        return ", ".join(word if times == 1 else f"{word} ({times} times)" for word, times in runs)
    return str(value)
