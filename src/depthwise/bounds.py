"""What a value may be is declared where it is declared to be: `lr: Annotated[float, Bounds(0, 1e6)] = 0.1`.

`check` holds a dataclass to its annotations, `checked` a function's arguments to its own, `fit` any value to a type:
int, float, bool, str, None, Literal, tuple, Sequence, dict, a class, Callable, unions of these, Any. A whole number
will do for a float, a list for a tuple; no bool is a number, and NaN and infinity are none either.
"""

import ast
import dataclasses
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from depthwise.errors import UsageError, shown, unknown_name

P = ParamSpec("P")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Bounds:
    """The least and the greatest value of a number; with `above` or `below` that end itself is out."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def admit(self, value: float) -> bool:
        """Whether `value` lies within; NaN never does."""
        over = value > self.low if self.above else value >= self.low
        under = value < self.high if self.below else value <= self.high
        return over and under

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {_number(self.low)}"
        return f"{low} and {'below' if self.below else 'at most'} {_number(self.high)}"


@dataclasses.dataclass(frozen=True)
class Length:
    """The least and the greatest number of characters in a text, or of values in a tuple or dict."""

    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.low} to {self.high:,}" if self.low < self.high else f"{self.low}"


class OneOf:
    """The only values that are allowed, `OneOf(1, 3, 4)`; of a Literal they are its own."""

    def __init__(self, *values: Any) -> None:
        self.values = values

    def __str__(self) -> str:
        return " or ".join(map(repr, self.values))


Limit = Bounds | Length | OneOf

# What a type allows that says no more.
_OWN = {float: Bounds(-sys.float_info.max, sys.float_info.max), int: Bounds(-(2**63), 2**63 - 1)}
_LONGEST = Length(0, 10_000)
_DEEPEST = 32


def check(instance: Any, part: str = "") -> None:
    """Hold the dataclass `instance` to its annotations, in its `__post_init__`; lists become tuples, ints floats.

    Raises UsageError, which names the field as `part.field=value`.
    """
    kind: Any = type(instance)
    hints = _hints(kind)
    for field in dataclasses.fields(instance):
        name = f"{part}.{field.name}" if part else field.name
        example = None if field.default is dataclasses.MISSING else field.default
        value = fit(getattr(instance, field.name), hints[field.name], name, example)
        object.__setattr__(instance, field.name, value)


def checked(function: Callable[P, R], named: Callable[[str], str] = str) -> Callable[P, R]:
    """The `function`, held to the annotations of its arguments: raises UsageError, which names the argument, and the
    nearest ones for one that it does not have.

    named: what a person calls the argument of this name.
    """
    signature = inspect.signature(function)
    takes_any = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in signature.parameters and not takes_any:
                raise unknown_name("argument", name, signature.parameters)
        bound, hints = signature.bind(*args, **kwargs), _hints(function)
        for name, value in bound.arguments.items():
            default = signature.parameters[name].default
            example = None if default is inspect.Parameter.empty else default
            bound.arguments[name] = fit(value, hints[name], named(name), example)
        return function(*bound.args, **bound.kwargs)

    return call


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a value stands: what it is called, what is written before it, and an example of a right one."""

    name: str
    before: str
    example: Any = None

    def refuse(self, value: Any, rule: str) -> UsageError:
        remedy = "give one that is"
        if self.example is not None:
            remedy = f"write for example {self.name}={shown(self.example)}"
        return UsageError(f"{self.before}{shown(value)} {rule}: {remedy}")

    def inside(self, value: Any) -> "_Place":
        return dataclasses.replace(self, before=f"{self.name}={shown(value)}: ")


def fit(value: Any, hint: Any, name: str, example: Any = None) -> Any:
    """`value` as the type `hint` takes it. Raises UsageError, with an `example` of what may be written for `name`."""
    return _fit(value, hint, _Place(name, f"{name}=", example))


def _fit(value: Any, hint: Any, place: _Place) -> Any:
    options = list(_options(hint))
    for kind, limit in options:
        if _is_a(value, kind):
            return value if kind in (Any, NoneType) else _within(value, kind, limit, place)
    wanted = " or ".join(str(limit) if isinstance(limit, OneOf) else _called(kind) for kind, limit in options)
    raise place.refuse(value, f"must be {wanted}")


def _options(hint: Any, limit: Limit | None = None) -> Iterator[tuple[Any, Limit | None]]:
    """The plain types that `hint` leaves open, each with what its annotations allow."""
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        yield from _options(kind, next((note for note in notes if isinstance(note, Limit)), limit))
    elif get_origin(hint) in (UnionType, Union):
        for one in get_args(hint):
            yield from _options(one, limit)
    elif get_origin(hint) is Literal:
        yield type(get_args(hint)[0]), OneOf(*get_args(hint))
    else:
        yield NoneType if hint is None else hint, limit


def _is_a(value: Any, kind: Any) -> bool:
    """Whether `value` is of the `kind`, whatever its size and what it holds."""
    origin = get_origin(kind) or kind
    if kind is Any:
        return True
    if origin in (int, float):
        return isinstance(value, (int, origin)) and not isinstance(value, bool)
    if origin in (tuple, Sequence):
        return isinstance(value, list | tuple)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    if origin is Callable:
        return callable(value)
    return isinstance(value, origin)


def _within(value: Any, kind: Any, limit: Limit | None, place: _Place) -> Any:
    """`value`, which is of the `kind`, if it is not too large or small, and neither is anything in it."""
    origin = get_origin(kind) or kind
    if isinstance(limit, OneOf) and value not in limit.values:
        if origin is str:
            raise unknown_name(place.name, value, limit.values)
        raise place.refuse(value, f"must be {limit}")
    if origin in (int, float):
        bounds = limit if isinstance(limit, Bounds) else _OWN[origin]
        if isinstance(value, float) and not math.isfinite(value):
            raise place.refuse(value, f"is no finite number, and must be {bounds}")
        if not isinstance(limit, OneOf) and not bounds.admit(value):
            raise place.refuse(value, f"must be {bounds}")
        return origin(value)
    length = limit if isinstance(limit, Length) else _LONGEST
    if origin is str and not length.low <= len(value) <= length.high:
        raise place.refuse(value, f"must have {length} characters")
    if origin in (tuple, Sequence):
        return _items(value, get_args(kind), length, place)
    if origin in (dict, Mapping):
        _check_tree(value, length, place.name)
    return value


def _items(value: Sequence[Any], hints: Any, length: Length, place: _Place) -> tuple[Any, ...]:
    """Each of the tuple's values as its own hint takes it; one hint alone, or with `...`, is that of all."""
    alike = len(hints) == 1 or hints[-1] is Ellipsis
    if not alike:
        length = Length(len(hints), len(hints))
    if not length.low <= len(value) <= length.high:
        raise place.refuse(value, f"must hold {length} values")
    within = place.inside(value)
    each = hints[:1] * len(value) if alike else hints
    return tuple(_fit(item, hint, within) for item, hint in zip(value, each, strict=True))


def _check_tree(value: Any, length: Length, name: str, depth: int = 0) -> None:
    """Raise UsageError unless what a dict holds can be walked through: keys are texts, and nothing lies too deep."""
    if depth > _DEEPEST:
        raise UsageError(f"{name} is nested more than {_DEEPEST} deep: write it flatter")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or len(key) > length.high:
                raise UsageError(f"{name} has the key {shown(key)}: give names of {length} characters")
    if isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            _check_tree(item, length, name, depth + 1)


def _called(kind: Any) -> str:
    origin = get_origin(kind) or kind
    names = {
        bool: "True or False",
        int: "a whole number",
        float: "a number",
        str: "a text",
        tuple: "a tuple",
        list: "a list",
        Sequence: "a tuple",
        dict: "an object",
        Callable: "a function",
        NoneType: "None",
        os.PathLike: "a path",
    }
    return names.get(origin) or f"of type {origin.__name__}"


def _number(value: float) -> str:
    # 1000 and 1000.0 are written alike: typing keeps one of two annotations that are equal.
    whole = int(value)
    if whole == value and abs(whole) < 10**16:
        return f"{whole:,}"
    for short in (0, 1):  # 2**63 - 1
        power = abs(whole) + short
        if whole == value and power & (power - 1) == 0:
            return f"{'-' if value < 0 else ''}2**{power.bit_length() - 1}{' - 1' * short}"
    return f"{value:g}"


@cache
def _hints(declared: Any) -> dict[str, Any]:
    return get_type_hints(declared, include_extras=True)


def parse_setting(setting: str) -> tuple[str, Any]:
    """Key and value of `key=value`, the value a Python literal, or else a text."""
    key, equals, text = setting.partition("=")
    if not equals:
        raise UsageError(f"setting {shown(setting)} has no '=': write key=value, for example epochs=4")
    return key.strip(), _value(text.strip())


def _value(text: str) -> Any:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.ASCII | re.IGNORECASE)


def parse_bytes(text: str, name: str) -> int:
    """How many bytes `text`, which an error calls `name`, means: 256MiB (2**20 each), 500MB (10**6), 4096."""
    found = _BYTES.fullmatch(text.strip())
    size = 0
    if found:
        unit = 1024 if found[3] else 1000
        bytes_in_all = float(found[1]) * unit ** " KMGT".index(found[2].upper() or " ")
        size = round(bytes_in_all) if math.isfinite(bytes_in_all) else 0
    if not 1 <= size <= 2**50:
        raise UsageError(f"{name} {shown(text)} is no number of bytes: write for example 256MiB")
    return size
