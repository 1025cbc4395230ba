"""A split as image files: one folder a class, or of any number of classes a manifest; `open_dataset` reads both."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torchvision.transforms.v2.functional import to_pil_image

from depthwise.data.dataset import Split, all_targets
from depthwise.data.spread import evenly
from depthwise.data.targets import any_number, denials, memberships
from depthwise.errors import DepthwiseError
from depthwise.writing import named, written_folder


@contextmanager
def written_images(out: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to write in, which becomes `out` in the end; its files are moved into an `out` that is there.

    Raises DepthwiseError, before anything is written, if `out` holds something and `force` is off, if another process
    writes it, or if it cannot be written; OSError: no space is left.
    """
    try:
        with written_folder(out.resolve()) as folder:
            if out.exists() and not (out.is_dir() and (force or not any(out.iterdir()))):
                raise DepthwiseError(f"{out} exists: choose another folder, or write into it with --force")
            yield folder
            os.sync()  # once, not a file at a time: there may be many
            _publish(folder, out.resolve())
    except OSError as error:
        raise named(error, out) from error


def _publish(folder: Path, out: Path) -> None:
    if not out.exists():
        folder.rename(out)
        return
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = out / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)


def export(
    split: Split,
    classes: Sequence[str],
    folder: Path,
    *,
    prefix: str,
    limit: int | None = None,
    nested: bool = False,
) -> int:
    """Write `limit` images of `split`, evenly spaced over it, or all, as folder/CLASS/PREFIX-NUMBER.png.

    NUMBER is the image's place in the split. PNG keeps every pixel. nested: a class's name is a path; otherwise a
    slash in it becomes a dash. Returns how many files were written; one of the same name is overwritten.

    Images of any number of classes become folder/images/PREFIX-NUMBER.png, and folder/PREFIX.jsonl lists their labels.
    """
    places = evenly(range(len(split)), len(split) if limit is None else limit)
    if any_number(split):
        _write_labelled(split, classes, folder, prefix, places)
        return len(places)
    names = classes if nested else [label.replace("/", "-") for label in classes]
    labels = all_targets(split)
    for index in places:
        image = split.image(index)
        target = folder / names[int(labels[index])]
        target.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(target / f"{prefix}-{index:05}.png")
    return len(places)


def _write_labelled(
    split: Split, classes: Sequence[str], folder: Path, prefix: str, places: Sequence[int]
) -> None:
    """JSON lines, for a list of labels stays one whatever their names hold."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / f"{prefix}.jsonl").open("w", encoding="utf-8") as manifest:
        for index in places:
            name = f"images/{prefix}-{index:05}.png"
            to_pil_image(split.image(index)).save(folder / name)
            targets = split.targets(torch.tensor([index]))
            line = {"path": name, "labels": [classes[k] for k in memberships(targets)[1].tolist()]}
            if denied := [classes[k] for k in denials(targets)[1].tolist()]:
                line["negatives"] = denied
            print(json.dumps(line, ensure_ascii=False), file=manifest)
