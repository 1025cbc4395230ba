"""What manifest.json says of a set of shards: its parts, how many images each shard has, and by what it is known."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from depthwise.bounds import Bounds, Length, OneOf, check
from depthwise.data.channels import CHANNELS
from depthwise.data.dataset import Deep
from depthwise.errors import DepthwiseError, UsageError, shown
from depthwise.reading import open_regular, parse_json, read_regular

MANIFEST = "manifest.json"
VOCABULARY = "vocabulary.json"
PLAN = "plan.json"
"""What is being written; it goes when all is done."""
KIND = "depthwise shards"
_FORMAT = 1
_HEAD = 256  # bytes of the file among which its kind stands

Count = Annotated[int, Bounds(0, 2**53)]
Sha256 = Annotated[str, Length(64, 64)]
Records = Annotated[tuple[Any, ...], Length(0, 10**7)]


@dataclass(frozen=True)
class Record:
    """A shard's file, how many images and bytes it has, and its SHA-256."""

    file: Annotated[str, Length(1, 255)]
    images: Count
    bytes: Count
    sha256: Sha256

    def __post_init__(self) -> None:
        check(self, "the shard")
        if "/" in self.file or self.file.startswith("."):
            raise UsageError(f"the shard {shown(self.file)} must lie in the folder itself")


@dataclass(frozen=True)
class Manifest:
    """A set of shards.

    name, task, channels, split_source: as of the `Dataset` that was packed. source: its fingerprint. plan: what each
    shard says that it is a part of. vocabulary: the SHA-256 of the file with the names of the classes, in the order of
    their numbers. parts: the records of each part's shards, in order. counts: images of each class, by part. deep: see
    `Dataset`.
    """

    format: Annotated[int, OneOf(_FORMAT)]
    name: str
    task: str
    channels: Annotated[int, OneOf(*CHANNELS)]
    split_source: str
    source: str
    plan: Sha256
    vocabulary: Sha256
    parts: dict[str, Any]
    counts: dict[str, Any]
    deep: Annotated[tuple[Count, ...], Length(3, 3)] | None = None

    def __post_init__(self) -> None:
        check(self)

    @property
    def records(self) -> dict[str, tuple[Record, ...]]:
        """The shards of each part."""
        return {part: tuple(Record(**values) for values in records) for part, records in self.parts.items()}

    @property
    def deep_images(self) -> Deep | None:
        """Those with 16 bits a sample."""
        return Deep(*self.deep) if self.deep else None


def made_manifest(parts: Mapping[str, list[Record]], **facts: Any) -> Manifest:
    """The manifest of these shards and `facts`, the other fields."""
    return Manifest(
        _FORMAT,
        parts={part: [asdict(record) for record in records] for part, records in parts.items()},
        **facts,
    )


def written(manifest: Manifest, kind: str) -> bytes:
    """What manifest.json holds of files of a `kind`; its last line has the SHA-256 of all else."""
    values = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    return json.dumps({"kind": kind, **values, "sha256": _digest(values)}, indent=1).encode() + b"\n"


def is_shards(folder: Path) -> bool:
    """Whether `folder` holds a set of shards, be it damaged."""
    try:
        with open_regular(folder / MANIFEST) as file:
            return KIND.encode() in file.read(_HEAD) or (folder / VOCABULARY).is_file()
    except OSError:
        return is_unfinished(folder)


def is_unfinished(folder: Path) -> bool:
    """Whether shards are being written to `folder`, or were when their writer was stopped."""
    try:
        with open_regular(folder / PLAN) as file:
            return KIND.encode() in file.read(_HEAD) and not (folder / MANIFEST).exists()
    except OSError:
        return False


def read_manifest(folder: Path) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of the shards in `folder`, and the names of the classes.

    Raises DepthwiseError, which names the file that is damaged.
    """
    path = folder / MANIFEST
    if is_unfinished(folder):
        raise DepthwiseError(
            f"{folder} is an unfinished set of shards: give the command that began it, `depthwise data shard`, again, "
            "and it goes on"
        )
    try:
        values = parse_json(read_regular(path))
        if not isinstance(values, dict) or values.pop("kind", None) != KIND:
            raise ValueError(f"it does not call itself {KIND}")
        if values.pop("sha256", None) != _digest(values):
            raise ValueError("its SHA-256 is another than it says")
        unknown = values.keys() - {field.name for field in fields(Manifest)}
        if unknown or not {"format", "parts"} <= values.keys():
            raise ValueError(f"it is not of format {_FORMAT}")
        manifest = Manifest(**values)
        manifest.records  # noqa: B018 (each is held to its bounds)
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    except (UsageError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from None
    return manifest, _read_vocabulary(folder / VOCABULARY, manifest.vocabulary)


def vocabulary_text(classes: tuple[str, ...]) -> bytes:
    """What vocabulary.json holds: the names of the classes, in the order of their numbers."""
    return json.dumps(classes, indent=0).encode() + b"\n"


def _read_vocabulary(path: Path, sha256: str) -> tuple[str, ...]:
    try:
        text = read_regular(path)
        if hashlib.sha256(text).hexdigest() != sha256:
            raise ValueError(f"its SHA-256 is another than in {MANIFEST}")
        return tuple(parse_json(text))
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from None
    except (ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from None


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, reason: str) -> DepthwiseError:
    return DepthwiseError(
        f"{path} is damaged ({reason}): copy it again, or make the set anew with `depthwise data shard`"
    )
