"""A folder of shards as a data set, opened by its manifest: in time that grows with its files, not with its images.

What the manifest, sizes and indexes of the files say is compared when the set is opened; each image when it is read, by
its CRC-32. `data check` compares the SHA-256 of whole files, too, and decodes every image.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import urlsplit

import torch
from torch import Tensor

from depthwise.data.dataset import BadImage, Dataset, Deep, Split
from depthwise.data.image import DEFAULT, Decoding, UnreadableImageError, examine
from depthwise.data.repeated import Placed
from depthwise.data.sources.blocks import BlockSplit
from depthwise.data.sources.listing import passed_over
from depthwise.data.sources.shard_file import Shard, open_shard
from depthwise.data.sources.shard_manifest import MANIFEST, VOCABULARY, Manifest, Record, read_manifest
from depthwise.data.sources.source import MAX_BAD_FRACTION, Seen, Strays, TooManyUnreadableError, shown
from depthwise.data.sources.verify import Progress
from depthwise.errors import DepthwiseError
from depthwise.reading import open_regular
from depthwise.words import number_of, quote_path

T = TypeVar("T")
R = TypeVar("R")

SINGLE_LABEL = "single-label"
"""The task of images that have one class each, by its name in `tasks.TASKS`."""
UNDIVIDED = "all"
"""The part of a set that was packed without being divided."""


@dataclass(frozen=True)
class ArrowShards:
    """The shards of a part in `folder`, those of the plan `made_for`; see `Blocks`.

    single: one class an image. uri: where they lie if the folder only keeps what was fetched from there.
    """

    folder: str
    part: str
    made_for: str
    single: bool
    uri: str = ""

    def called(self, number: int) -> str:
        return shard_name(self.part, number)

    def open(self, number: int) -> Shard:
        shard = open_shard(self.path(number), single=self.single)
        if shard.facts.made_for != self.made_for:
            raise UnreadableImageError(
                shard.name, f"it belongs to another set of shards: copy the one of {MANIFEST}"
            )
        return shard

    def path(self, number: int) -> Path:
        """The file of a shard, after it was fetched if it lies elsewhere."""
        path = Path(self.folder, self.called(number))
        if not self.uri:
            return path
        from depthwise.data.sources.remote import fetched

        record = _records(self.folder, self.part)[number]
        return fetched(self.uri, path.name, record.bytes, record.sha256)


@lru_cache(maxsize=8)
def _records(folder: str, part: str) -> tuple[Record, ...]:
    return read_manifest(Path(folder))[0].records[part]


def shard_name(part: str, number: int) -> str:
    """The file of a part's shard."""
    return f"{part}-{number:05}.arrow"


class _Part(NamedTuple):
    """The shards of a part that are whole."""

    shards: ArrowShards
    numbers: tuple[int, ...]
    records: tuple[Record, ...]


@dataclass(frozen=True, eq=False)
class ShardSource:
    """A `Source`: shards that were looked over.

    where: what a person calls it. damaged: shards that are left out, num_lost: the images in them. images: what was
    found when all were read.
    """

    where: str
    name: str
    manifest: Manifest
    classes: tuple[str, ...]
    parts: dict[str, _Part]
    damaged: tuple[BadImage, ...]
    num_lost: int
    ignored: tuple[str, ...]
    channels: int
    decoding: Decoding
    workers: int
    images: "_Images | None" = None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the classes and of the shards that are whole."""
        digest = hashlib.sha256(self.manifest.vocabulary.encode())
        for part, (_, _, records) in self.parts.items():
            digest.update("".join([part, *(record.sha256 for record in records)]).encode())
        return digest.hexdigest()

    @property
    def fingerprints(self) -> tuple[str, str]:
        """The shards' own, and that of the set that was packed: what was trained on that one has seen these images."""
        return self.fingerprint, self.manifest.source

    @property
    def strays(self) -> Strays:
        found = self.images or _Images([], [], self.manifest.deep_images)
        kinds = (f"{number_of(len(self.ignored), 'file')} that {MANIFEST} does not name",) * bool(
            self.ignored
        )
        return Strays((*self.damaged, *found.bad), self.ignored, kinds, (), found.deep)

    def dataset(self, *, seed: int = 0, max_bad: float = MAX_BAD_FRACTION, whole: bool = False) -> Dataset:
        """Divided as it was when it was packed, whatever `seed` is."""
        total = sum(record.images for records in self.manifest.records.values() for record in records)
        strays = self.strays
        num_bad = self.num_lost + len(strays.bad) - len(self.damaged)
        if num_bad >= total or num_bad > max_bad * total:
            command = f"depthwise data check {quote_path(self.where)}"
            raise TooManyUnreadableError(self.where, command, strays.bad, num_bad, total, max_bad)
        if not whole and list(self.parts) == [UNDIVIDED]:
            raise DepthwiseError(
                f"{self.where} was packed undivided and has no train part: pack it again without --undivided to train "
                "on it"
            )
        splits: dict[str, Split] = {
            part: BlockSplit(
                shards,
                numbers,
                tuple(record.images for record in records),
                self.channels,
                self.decoding,
                len(self.classes),
                self._counts(part) if len(numbers) == len(self.manifest.records[part]) else None,
            )
            for part, (shards, numbers, records) in self.parts.items()
            if numbers
        }
        return Dataset(
            name=self.name,
            classes=self.classes,
            splits=splits,
            channels=self.channels,
            fingerprint=self.fingerprint,
            split_source=self.manifest.split_source,
            bad=strays.bad,
            ignored=strays.ignored,
            ignored_kinds=strays.ignored_kinds,
            deep=strays.deep,
            decoding=self.decoding,
            task=self.manifest.task,
        )

    def _counts(self, part: str) -> Tensor:
        return torch.tensor(self.manifest.counts[part], dtype=torch.int64)

    def seen(self, dataset: Dataset | None) -> Iterator[Seen]:
        found = self.images or _look_at_images(self.parts, self.classes, self.workers, self.decoding, None)
        yield from found.seen


def open_shards(
    folder: Path,
    *,
    channels: int | None = None,
    workers: int = 2,
    progress: Progress | None = None,
    decoding: Decoding = DEFAULT,
    afresh: bool = False,
    uri: str = "",
) -> ShardSource:
    """The shards in `folder`; raises DepthwiseError if its manifest is damaged. afresh: every byte is read.

    uri: where the shards lie if the folder only keeps what was fetched from there; unless `afresh`, their sizes alone
    are compared then, and all else of a shard when it is fetched.
    """
    manifest, classes = read_manifest(folder)
    listed = _listed(folder, uri)
    parts: dict[str, _Part] = {}
    damaged: list[BadImage] = []
    num_lost = 0
    for part, records in manifest.records.items():
        shards = ArrowShards(os.fspath(folder), part, manifest.plan, manifest.task == SINGLE_LABEL, uri)
        judge = _Judge(shards, listed, afresh)
        verdicts = list(_in_threads(judge.verdict, enumerate(records), workers))
        kept = [number for number, verdict in enumerate(verdicts) if not verdict]
        for record, verdict in zip(records, verdicts, strict=True):
            if verdict:
                lost = number_of(record.images, "image")
                damaged.append(BadImage(record.file, f"{verdict} ({lost} of {part})"))
                num_lost += record.images
        parts[part] = _Part(shards, tuple(kept), tuple(records[number] for number in kept))
    images = _look_at_images(parts, classes, workers, decoding, progress) if afresh else None
    return ShardSource(
        uri or os.fspath(folder),
        urlsplit(uri).path.rstrip("/").rpartition("/")[2] if uri else folder.resolve().name,
        manifest,
        classes,
        parts,
        tuple(damaged),
        num_lost,
        _others(listed, manifest),
        channels or manifest.channels,
        decoding,
        workers,
        images,
    )


def sha256_of(file: BinaryIO) -> str:
    """Of what is left of `file`."""
    digest = hashlib.sha256()
    while part := file.read(2**20):
        digest.update(part)
    return digest.hexdigest()


def open_remote(uri: str, **how: Any) -> ShardSource:
    """The shards at `uri`, a place that Arrow knows; `how` is as for `open_shards`. Raises DepthwiseError."""
    from depthwise.data.sources.remote import fetch_small, kept_in

    folder = kept_in(uri)
    for name in (MANIFEST, VOCABULARY):
        fetch_small(uri, name)
    _records.cache_clear()
    if not (folder / MANIFEST).exists():
        raise DepthwiseError(
            f"{uri} has no {MANIFEST}: sets that lie elsewhere are read if `depthwise data shard` packed them"
        )
    return open_shards(folder, uri=uri, **how)


def _listed(folder: Path, uri: str) -> dict[str, int]:
    """The files that are there, and how many bytes each has."""
    if not uri:
        return {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    from depthwise.data.sources.remote import sizes

    return sizes(uri)


class _Judge(NamedTuple):
    shards: ArrowShards
    listed: dict[str, int]
    afresh: bool

    def verdict(self, numbered: tuple[int, Record]) -> str:
        """Why a shard cannot be used, or ""."""
        number, record = numbered
        if record.file != self.shards.called(number):
            return f"{MANIFEST} has it in another place than its name"
        if (size := self.listed.get(record.file)) is None:
            return "No such file: copy it again"
        if size != record.bytes:
            return f"it has {size:,} bytes, and {record.bytes:,} were written: copy it again"
        try:
            return self._opened(number, record) if self.afresh or not self.shards.uri else ""
        except OSError as error:
            return f"{error.strerror or error}: copy it again"
        except UnreadableImageError as error:
            return error.reason

    def _opened(self, number: int, record: Record) -> str:
        if len(shard := self.shards.open(number)) != record.images:
            return f"it has {len(shard)} images, and {MANIFEST} says {record.images}: copy it again"
        if self.afresh:
            with open_regular(self.shards.path(number)) as file:
                if sha256_of(file) != record.sha256 and all(
                    map(partial(_is_whole, shard), range(len(shard)))
                ):
                    return f"damaged, its SHA-256 is another than in {MANIFEST}: copy it again"
        return ""


def _is_whole(shard: Shard, row: int) -> bool:
    """Whether the image can be read; those that cannot are named one by one, as in training."""
    try:
        shard.encoded(row)
    except UnreadableImageError:
        return False
    return True


class _Images(NamedTuple):
    """What was found when every image was decoded."""

    seen: list[Seen]
    bad: list[BadImage]
    deep: Deep | None


def _look_at_images(
    parts: dict[str, _Part],
    classes: tuple[str, ...],
    workers: int,
    decoding: Decoding,
    progress: Progress | None,
) -> _Images:
    total = sum(record.images for part in parts.values() for record in part.records)
    found = _Images([], [], None)
    spans: list[tuple[int, int]] = []
    places = ((part, number) for part, of_part in parts.items() for number in of_part.numbers)
    for part, number in places:
        shard = parts[part].shards.open(number)
        look = partial(_look_at, shard, part, classes, decoding)
        for image in _in_threads(look, range(len(shard)), workers):
            if isinstance(image, BadImage):
                found.bad.append(image)
            else:
                found.seen.append(image[0])
                spans += [image[1]] if image[1] else []
            if progress:
                progress(len(found.seen) + len(found.bad), total)
    lows, highs = zip(*spans, strict=True) if spans else ((), ())
    return found._replace(deep=Deep(len(spans), min(lows), max(highs)) if spans else None)


def _look_at(
    shard: Shard, part: str, classes: tuple[str, ...], decoding: Decoding, row: int
) -> tuple[Seen, tuple[int, int] | None] | BadImage:
    """What an image is, and its lowest and highest value of 16 bits, or what is wrong with it."""
    key = shard.key(row)
    try:
        data = shard.encoded(row)
        decoded = examine(data, name=key, decoding=decoding)
    except UnreadableImageError as error:
        return BadImage(key, error.reason)
    found = shown(shard.targets(torch.tensor([row]))[0], classes)
    placed = Placed(part, found, key, hashlib.sha256(data).hexdigest())
    _, height, width = decoded.pixels.shape
    return Seen(placed, width, height, f"{decoded.format} {decoded.mode}"), decoded.values


def _in_threads(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """work(item) of each, in order. What takes long here leaves Python's lock: reading, hashing, decoding."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        yield from pool.map(work, items)


def _others(listed: Iterable[str], manifest: Manifest) -> tuple[str, ...]:
    """Files that are no part of the set."""
    known = {MANIFEST, VOCABULARY}
    known |= {record.file for records in manifest.records.values() for record in records}
    return tuple(sorted(name for name in listed if name not in known and not passed_over(name)))
