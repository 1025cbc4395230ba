"""A data set as shards: files that hold encoded images as they came, their labels and a key, made to be trained on.

What is in which shard follows from the set, the size of a shard and the seed alone. So a run that was killed goes on
with the shards that it lacks, and any number of threads writes the same bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from depthwise.data.dataset import Dataset, Split, encoded
from depthwise.data.forms import FORMS, About, Form
from depthwise.data.order import mix_seed, permuted
from depthwise.data.sources.listing import passed_over
from depthwise.data.sources.shard_file import Row
from depthwise.data.sources.shard_manifest import (
    KIND,
    MANIFEST,
    PLAN,
    VOCABULARY,
    Manifest,
    Record,
    made_manifest,
    vocabulary_text,
    written,
)
from depthwise.data.sources.shards import SINGLE_LABEL, sha256_of
from depthwise.data.sources.verify import Progress
from depthwise.data.spread import evenly
from depthwise.data.targets import NONE, class_counts, in_chunks
from depthwise.errors import DepthwiseError
from depthwise.reading import parse_json, read_regular
from depthwise.writing import named, reserved, written_whole

SEED = 0
MEASURED = 500
"""Images whose files say how large all are."""


@dataclass(frozen=True)
class Plan:
    """What a set of shards is to hold.

    format: a name in FORMS. shards: how many each part has. negatives: whether there is a column of them.
    """

    format: str
    source: str
    seed: int
    images: dict[str, int]
    shards: dict[str, int]
    negatives: bool

    @property
    def sha256(self) -> str:
        """What each shard says that it is a part of."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    def indices(self, part: str, number: int) -> list[int]:
        """The images of a shard, in order.

        A part of several shards is shuffled over them all, for training mixes the images of a few shards at a time. A
        part that fits into one keeps its order.
        """
        n, count = self.images[part], self.shards[part]
        places = torch.arange(number * n // count, (number + 1) * n // count)
        return (places if count == 1 else permuted(places, n, mix_seed(self.seed, "shards", part))).tolist()


@dataclass(frozen=True)
class Packed:
    """A finished set of shards. kept: shards that were there already, of an earlier run that did not end."""

    manifest: Manifest
    kept: int

    def to_json(self) -> dict[str, Any]:
        """By part, how many images and shards there are, and their bytes."""
        parts = {
            part: {
                "images": sum(record.images for record in records),
                "shards": len(records),
                "bytes": sum(record.bytes for record in records),
            }
            for part, records in self.manifest.records.items()
        }
        return {"parts": parts, "classes": len(next(iter(self.manifest.counts.values()))), "kept": self.kept}


def pack(
    dataset: Dataset,
    out: Path,
    *,
    format: str = "arrow",
    shard_bytes: int = 2**28,
    workers: int = 2,
    force: bool = False,
    progress: Progress | None = None,
) -> Packed:
    """Write the images of `dataset` as shards of about `shard_bytes` bytes into the folder `out`.

    format: "arrow", to be trained on, or "parquet", to be published. Each of the `workers` threads has a shard in
    memory. Shards that an earlier run for the same set has left in `out` are verified and kept. force: replace a set
    of shards that is there; what else lies in `out` is left alone.

    Raises:
        DepthwiseError: `out` holds a set that is finished, another one that is not, or something else, another process
            writes it, or it cannot be written.
        UnreadableImageError: an image changed since the set was looked over.
    """
    plan = _plan(dataset, format, shard_bytes)
    with reserved(out.resolve()):
        _begin(out, plan, force)
        jobs = [(part, number) for part, count in plan.shards.items() for number in range(count)]
        records: dict[str, list[Record]] = {part: [] for part in plan.shards}
        kept = done = 0
        pool = ThreadPoolExecutor(max(1, workers))
        try:
            for (part, _), (record, was_there) in zip(
                jobs, pool.map(lambda job: _shard(dataset, plan, out, *job), jobs), strict=True
            ):
                records[part].append(record)
                kept, done = kept + was_there, done + record.images
                if progress:
                    progress(done, sum(plan.images.values()))
        finally:
            pool.shutdown(cancel_futures=True)
        return Packed(_finish(dataset, plan, out, records), kept)


def _plan(dataset: Dataset, format: str, shard_bytes: int) -> Plan:
    images = {part: len(split) for part, split in dataset.splits.items()}
    shards = {
        part: min(len(split), max(1, round(_mean_bytes(split) * len(split) / shard_bytes)))
        for part, split in dataset.splits.items()
    }
    negatives = any(
        bool((targets < NONE).any()) for split in dataset.splits.values() for _, targets in in_chunks(split)
    )
    return Plan(format, dataset.fingerprint, SEED, images, shards, negatives)


def _mean_bytes(split: Split) -> float:
    sizes = [len(encoded(split, index)) for index in evenly(range(len(split)), MEASURED)]
    return sum(sizes) / max(1, len(sizes))


def check_out(out: Path, force: bool) -> None:
    """Raise DepthwiseError, before images are looked over, if shards must not be written to `out`."""
    try:
        names = {name for name in os.listdir(out) if not passed_over(name)} if out.exists() else set()
    except OSError as error:
        raise named(error, out) from error
    if not force and MANIFEST in names:
        raise DepthwiseError(
            f"{out} holds a set of shards: choose another folder, or replace it with --force"
        )
    if not force and PLAN not in names and names:
        raise DepthwiseError(f"{out} is not empty: choose another folder, or write into it with --force")


def _begin(out: Path, plan: Plan, force: bool) -> None:
    """Refuse what must not be written over, and say in `out` what is written there."""
    check_out(out, force)
    try:
        out.mkdir(parents=True, exist_ok=True)
        if (out / PLAN).exists() and _read_plan(out / PLAN) != plan and not force:
            raise DepthwiseError(
                f"{out} has a part of another set of shards, or of this one before it changed: choose another folder, "
                "or begin anew with --force"
            )
        # Before anything else: what is written from now on is no finished set.
        (out / MANIFEST).unlink(missing_ok=True)
        with written_whole(out / PLAN) as file:
            file.write(json.dumps({"kind": KIND, **asdict(plan)}, indent=1).encode())
    except OSError as error:
        raise named(error, out) from error


def _read_plan(path: Path) -> Plan | None:
    try:
        values = parse_json(read_regular(path))
        del values["kind"]
        return Plan(**values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _shard(dataset: Dataset, plan: Plan, out: Path, part: str, number: int) -> tuple[Record, bool]:
    """The record of a shard that is written, or is there and whole: whether it was."""
    form = FORMS[plan.format]
    path, indices = out / form.file(part, number, plan.shards[part]), plan.indices(part, number)
    was_there = path.exists() and form.whole(path) == (plan.sha256, len(indices))
    if not was_there:
        about = About(plan.sha256, dataset.classes, dataset.task == SINGLE_LABEL, plan.negatives)
        with written_whole(path) as file:
            form.write(file, _rows(dataset.splits[part], indices), about)
    with path.open("rb") as file:
        sha256 = sha256_of(file)
    return Record(path.name, len(indices), path.stat().st_size, sha256), was_there


def _rows(split: Split, indices: list[int]) -> Iterator[Row]:
    targets = split.targets(torch.tensor(indices, dtype=torch.int64)).reshape(len(indices), -1)
    for index, values in zip(indices, targets.tolist(), strict=True):
        yield Row(
            split.name(index),
            [value for value in values if value > NONE],
            [-(value + 2) for value in values if value < NONE],
            encoded(split, index),
        )


def _finish(dataset: Dataset, plan: Plan, out: Path, records: dict[str, list[Record]]) -> Manifest:
    """Write what says that the set is whole, the manifest last."""
    form, vocabulary = FORMS[plan.format], vocabulary_text(dataset.classes)
    facts: dict[str, Any] = {
        "name": dataset.name,
        "task": dataset.task,
        "channels": dataset.channels,
        "split_source": dataset.split_source,
        "source": dataset.fingerprint,
        "plan": plan.sha256,
        "vocabulary": hashlib.sha256(vocabulary).hexdigest(),
        "counts": {
            part: class_counts(split, len(dataset.classes)).tolist() for part, split in dataset.splits.items()
        },
        "deep": list(dataset.deep) if dataset.deep else None,
    }
    manifest = made_manifest(records, **facts)
    if form.vocabulary:
        with written_whole(out / VOCABULARY) as file:
            file.write(vocabulary)
    with written_whole(out / MANIFEST) as file:
        file.write(written(manifest, form.kind))
    _sweep(out, manifest, form)
    return manifest


def _sweep(out: Path, manifest: Manifest, form: Form) -> None:
    """Remove the plan, and whole shards of a set that this one replaces; files of other programs may be called so."""
    kept = {record.file for records in manifest.records.values() for record in records}
    kept |= {VOCABULARY} if form.vocabulary else set()
    replaced = [
        path
        for other in FORMS.values()
        for path in out.glob(other.pattern)
        if (found := other.whole(path)) and found[0]  # made for a set of ours
    ]
    for path in [out / PLAN, out / VOCABULARY, *replaced]:
        if path.name not in kept:
            with suppress(OSError):
                path.unlink()
