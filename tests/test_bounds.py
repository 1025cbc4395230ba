"""Declared bounds are held to: what fits comes back as the type takes it, what does not is one short sentence."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from depthwise.bounds import Bounds, Length, OneOf, check, checked, fit
from depthwise.errors import UsageError

Share = Annotated[float, Bounds(0, 1, below=True)]
Count = Annotated[int, Bounds(1, 1_000_000)]
Widths = Annotated[Sequence[Count], Length(1, 3)]


@pytest.mark.parametrize(
    ("hint", "value", "expected"),
    [
        (float, 4, 4.0),
        (Share, 0, 0.0),
        (Count, 1, 1),
        (bool, True, True),
        (Count | None, None, None),
        (Literal["a", "b"], "b", "b"),
        (tuple[Count, Share], [3, 0], (3, 0.0)),
        (tuple[float, ...], (), ()),
        (Widths, [64, 128], (64, 128)),
        (Annotated[Sequence[Widths], Length(0, 9)], [[1], [2, 3]], ((1,), (2, 3))),
        (Callable[[int], int] | str, len, len),
        (dict[str, Any], {"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
    ],
)
def test_what_fits_comes_back_as_the_type_takes_it(hint: Any, value: Any, expected: Any) -> None:
    read = fit(value, hint, "x")
    assert read == expected
    assert type(read) is type(expected)


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("hint", "value", "sentence"),
    [
        (Share, 1, "x=1 must be at least 0 and below 1: write for example x=0.5"),
        (Count, 0, "x=0 must be at least 1 and at most 1,000,000: write"),
        (Count, True, "x=True must be a whole number"),
        (Count, 2.0, "x=2.0 must be a whole number"),
        (Count, 10**400, "x=(a number of about 401 digits) must be at least 1 and"),
        (float, float("nan"), "x=nan is no finite number"),
        (float, float("inf"), "x=inf is no finite number"),
        (float, 10**400, "x=(a number of about 401 digits) must be at least -1.79769e+308"),
        (int, -(10**5000), "x=-(a number of about 5001 digits) must be"),
        (Share | None, "half", "x='half' must be a number or None: write"),
        (Literal["sum", "mean"], "maen", "unknown x 'maen': use one of mean"),
        (Literal["sum", "mean"], 3, "x=3 must be 'sum' or 'mean'"),
        (Annotated[int, OneOf(1, 3)], True, "x=True must be 1 or 3"),
        (tuple[Count, Count], (1,), "x=(1,) must hold 2 values"),
        (
            tuple[Count, Count],
            (1, 0),
            "x=(1, 0): 0 must be at least 1 and at most 1,000,000: write for example x=",
        ),
        (Widths, (1, 2, 3, 4), "x=(1, 2, 3, 4) must hold 1 to 3 values"),
        (Widths, "123", "x='123' must be a tuple"),
        (Annotated[str, Length(1, 5)], "", "x='' must have 1 to 5 characters"),
        (dict[str, Any], [1], "x=[1] must be an object"),
        (dict[str, Any], {1: 2}, "x has the key 1: give names"),
        (dict[str, Any], {"a": deep(10_000)}, "x is nested more than 32 deep"),
        (Count, deep(10_000), "x=[[[[...]]]] must be a whole number"),
        (Share, "\udcff" * 10_000, r"x='\udcff\udcff"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_does_not_is_one_short_sentence(hint: Any, value: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as raised:
        fit(value, hint, "x", 0.5)
    assert sentence in str(raised.value)
    assert len(str(raised.value)) < 250
    assert str(raised.value).isascii()


def test_a_dataclass_names_its_field_as_a_person_writes_it() -> None:
    @dataclass(frozen=True)
    class Sun:
        warmth: Annotated[float, Bounds(0, 10)] = 1.0

        def __post_init__(self) -> None:
            check(self, "sky.sun")

    assert type(Sun(2).warmth) is float
    with pytest.raises(
        UsageError,
        match=r"sky\.sun\.warmth=11 must be at least 0 and at most 10: write .* sky\.sun\.warmth=1\.0",
    ):
        Sun(11)


def test_a_function_names_its_argument() -> None:
    @checked
    def area(height: Count, width: Count = 1, *, scale: Share = 0.5) -> float:
        return height * width * scale

    assert area(4, width=2) == 4.0
    with pytest.raises(UsageError, match=r"height=0 must be at least 1"):
        area(0)
    with pytest.raises(UsageError, match=r"scale=1\.5 must be .* write for example scale=0\.5"):
        area(1, scale=1.5)


@pytest.mark.parametrize(
    ("bound", "written"),
    [
        (1000.0, "1,000"),
        (2**40, "1,099,511,627,776"),
        (1e12, "1,000,000,000,000"),
        (2**63 - 1, "2**63 - 1"),
        (-(2**63), "-2**63"),
        (1e300, "1e+300"),
        (0.001, "0.001"),
        (-0.5, "-0.5"),
    ],
)
def test_a_bound_is_written_as_people_write_it(bound: float, written: str) -> None:
    assert str(Bounds(bound, 1e301)) == f"at least {written} and at most 1e+301"
