"""What a person names, looked for without anything heavy: a data set, the folder of a bundle."""

import os
import re
from pathlib import Path

from depthwise.errors import DepthwiseError, UsageError, shown

ARRAY_SETS = ("digits", "fashion-mnist")
"""The built-in data sets."""

CONFIG = "config.json"
"""What makes a folder a bundle."""


def is_uri(spec: object) -> bool:
    """Whether `spec` names a place that is not a path on a disk, s3://bucket/set for one."""
    return isinstance(spec, str) and re.match("[a-z][a-z0-9+.-]+://", spec) is not None


_PART = "(?:train|val|test)="


def named_parts(spec: object) -> dict[str, Path]:
    """What `spec` names for each part, as train=a.csv,val=b.csv; nothing for one of another form.

    Raises UsageError for a part that is named twice, or is not there.
    """
    if not isinstance(spec, str | os.PathLike) or os.path.lexists(spec):
        return {}
    text = os.fspath(spec)
    if not re.match(_PART, text):
        return {}
    found: dict[str, Path] = {}
    for piece in re.split(f",(?={_PART})", text):
        part, _, name = piece.partition("=")
        if part in found:
            raise UsageError(f"{text!r} names its {part} part twice: name each once")
        if not name or not os.path.exists(name):
            raise UsageError(
                f"{name!r}, the {part} part of {text!r}, is not there: give a manifest or a folder of CLASS/IMAGE"
            )
        found[part] = Path(name)
    return found


def short_name(spec: str | os.PathLike[str]) -> str:
    """What a data set is called, without where it lies."""
    if parts := named_parts(spec):
        return ",".join(f"{part}={path.name}" for part, path in parts.items())
    return Path(spec).resolve().name


def locate(spec: str | os.PathLike[str]) -> Path | None:
    """The folder or file that `spec` is, or None for a built-in set and for a place that is no path.

    The name of a built-in set means that set, everywhere; a folder of that name is meant by any other way to write
    it, ./digits or digits/, and by a Path. Raises UsageError if there is nothing of the name.
    """
    if is_uri(spec) or (isinstance(spec, str) and spec in ARRAY_SETS):
        return None
    _check_path(spec, "data set")
    if not named_parts(spec) and not Path(spec).exists():
        known = " or ".join(ARRAY_SETS)
        raise UsageError(
            f"{os.fspath(spec)!r} is not there: give a folder of CLASS/IMAGE, or a built-in set, {known}"
        )
    return Path(spec)


def absolute(spec: str | os.PathLike[str]) -> str:
    """`spec` as it can be written down and found again from another directory."""
    if parts := named_parts(spec):
        return ",".join(f"{part}={os.path.abspath(path)}" for part, path in parts.items())
    return os.fspath(spec) if locate(spec) is None else os.path.abspath(spec)


def name_note(spec: str | os.PathLike[str]) -> str | None:
    """A sentence if `spec` names a built-in set and a folder in the working directory as well."""
    if locate(spec) is not None or not os.path.isdir(spec):
        return None
    return f"{spec} is the built-in set here; the folder of that name is ./{spec}"


def find_bundle(path: str | os.PathLike[str]) -> Path:
    """The bundle folder that `path` means: itself, or the `bundle` inside a run directory."""
    _check_path(path, "bundle")
    path = Path(path)
    for folder in (path, path / "bundle"):
        for candidate in (folder, previous(folder)):
            if (candidate / CONFIG).is_file():
                return candidate
    if not path.exists():
        alone = "" if path.name != str(path) else "; the name of a network alone has no trained weights"
        raise DepthwiseError(
            f"{path} does not exist: give a bundle folder or the directory of a training run{alone}"
        )
    raise DepthwiseError(
        f"{path} is not a bundle, it has no {CONFIG}: give a bundle folder or the directory of a finished "
        f"training run"
    )


def _check_path(path: object, what: str) -> None:
    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"{shown(path)} is no path: give that of a {what}, as a text or a Path")


def previous(path: Path) -> Path:
    """Where the bundle `path` stands for the instant in which its successor takes its name."""
    path = path.resolve()
    return path.parent / f".{path.name}.previous"


def check_types(out: object, data: object, model: object, recipe: object) -> None:
    """Raise UsageError for what a run is asked for in Python and no command line could give."""
    if not isinstance(out, str | os.PathLike):
        raise UsageError(f"out={shown(out)} is no path: name the directory of the run")
    if not isinstance(data, str | os.PathLike | None) and not hasattr(data, "splits"):
        raise UsageError(
            f"data={shown(data)} is no data set: give a folder of images, a manifest, digits, fashion-mnist "
            f"or a Dataset"
        )
    if not isinstance(model, str | None):
        raise UsageError(f"model={shown(model)} is no name: give one that depthwise.list_models() has")
    if not isinstance(recipe, str | None) and not hasattr(recipe, "with_settings"):
        raise UsageError(f"recipe={shown(recipe)} is no recipe: give the name of one, or a Recipe")
