"""How labels are read that stand in a table and not in the names of folders, and which of them become classes."""

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from depthwise.bounds import Bounds, Length, check, fit
from depthwise.errors import DepthwiseError, UsageError, shown, unknown_name
from depthwise.reading import read_regular

MOST_NAMES, MOST_WORDS = 10**7, 20
Names = Annotated[tuple[str, ...], Length(0, MOST_NAMES)]


@dataclass(frozen=True)
class Columns:
    """How a manifest is read; what is None is found out.

    path_column, label_column, split_column: their names. label_separator: between the labels of one image.
    negative_column: labels that an image was looked at for and does not have. image_root: the folder in which paths
    begin, by default the manifest's own. labels_from: a folder's labels are keywords, in files beside the images or
    inside them.

    min_count: images that a label must have to be a class. classes: the only ones, in this order. aliases: pairs of
    another name and the class that it means. ignore: labels that are passed over. absent: what it means that a label is
    not named, for an image that may have several. one_label: an image has one, the first that is named for it.
    """

    path_column: str | None = None
    label_column: str | None = None
    label_separator: Annotated[str, Length(1, 100)] | None = None
    split_column: str | None = None
    negative_column: str | None = None
    image_root: str | None = None
    labels_from: Literal["sidecar", "embedded"] | None = None
    min_count: Annotated[int, Bounds(1, 2**40)] = 1
    classes: Names | None = None
    aliases: Annotated[tuple[tuple[str, str], ...], Length(0, MOST_NAMES)] = ()
    ignore: Names = ()
    absent: Literal["negative", "unknown"] = "negative"
    one_label: bool = False

    def __post_init__(self) -> None:
        check(self)
        if self.image_root is not None:
            object.__setattr__(self, "image_root", os.path.abspath(self.image_root))
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise UsageError(f"classes has {shown(twice)} twice: every class has one place in the order")
        if self.one_label and (self.negative_column is not None or self.absent == "unknown"):
            other = "--absent unknown" if self.negative_column is None else "--negative-column"
            raise UsageError(
                f"--one-label makes one class each of images, and {other} is for any number of labels"
            )
        if dict(self.aliases).keys() & {*(self.classes or ())}:
            name = next(name for name, _ in self.aliases if name in (self.classes or ()))
            raise UsageError(f"{shown(name)} is a class and an alias of one: it can be one of them")

    def given(self) -> Iterator[str]:
        """The fields that say something."""
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                yield field.name

    def to_json(self) -> dict[str, Any]:
        """What a run keeps of it."""
        return {name: value for name, value in asdict(self).items() if name in set(self.given())}

    @staticmethod
    def from_json(values: Any) -> "Columns":
        """Of an object as `to_json` gives it; UsageError about a field that does not exist."""
        known = [field.name for field in fields(Columns)]
        given = fit(values, Mapping[str, Any], "columns")
        for name in given:
            if name not in known:
                raise unknown_name("field of the columns", name, known)
        return Columns(**given)

    @staticmethod
    def asked(kept: Any = None, given: "Columns | None" = None) -> "Columns | None":
        """As a run has `kept` them, an object like `to_json`'s, but for the fields that are `given`."""
        if not isinstance(kept, Mapping) or not kept:  # a bundle may say anything
            return given
        return Columns.from_json({**kept, **(given.to_json() if given else {})})

    def words(self) -> list[str]:
        """What asks for the same on the command line, but for what it takes from files: see `in_files`."""
        words = []
        for name in self.given():
            value = getattr(self, name)
            if value is True:
                words.append(_option(name))
            elif isinstance(value, str | int):
                words += [_option(name), str(value)]
            elif name == "ignore" and len(value) <= MOST_WORDS:
                words += [f"{_option(name)}={each}" for each in value]
        return words

    def in_files(self) -> list[str]:
        """The options given that `words` leaves out, for they are long."""
        said = {word.partition("=")[0] for word in self.words()}
        return [option for name in self.given() if (option := _option(name)) not in said]


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def read_names(path: Path) -> tuple[str, ...]:
    """The lines of `path`, each once, without empty ones. Raises DepthwiseError."""
    return tuple(dict.fromkeys(filter(None, map(str.strip, _text(path).splitlines()))))


def read_aliases(path: Path) -> tuple[tuple[str, str], ...]:
    """The pairs of a CSV without a header, another name and the class that it means. Raises DepthwiseError."""
    pairs = []
    reader = csv.reader(_text(path).splitlines(), strict=True)
    try:
        for values in reader:
            if values:
                name, meant = map(str.strip, values)
                pairs.append((name, meant))
    except (csv.Error, ValueError):
        raise DepthwiseError(
            f"line {reader.line_num} of {path} is no pair: write another name, a comma, and the class that it means"
        ) from None
    return tuple(pairs)


def _text(path: Path) -> str:
    try:
        return read_regular(path).decode("utf-8-sig")
    except OSError as error:
        raise DepthwiseError(f"{path} cannot be read ({error.strerror or error}): give a text file") from None
    except UnicodeDecodeError:
        raise DepthwiseError(f"{path} is not UTF-8: save it as UTF-8") from None
