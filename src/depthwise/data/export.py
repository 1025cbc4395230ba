"""A split as image files: one folder a class, which any program reads, `open_dataset` among them."""

from collections.abc import Sequence
from pathlib import Path

from torchvision.transforms.v2.functional import to_pil_image

from depthwise.data.source import Split


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
    """
    names = classes if nested else [label.replace("/", "-") for label in classes]
    count = len(split) if limit is None else min(limit, len(split))
    for index in (i * len(split) // count for i in range(count)):
        image = split.image(index)
        target = folder / names[int(split.labels[index])]
        target.mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(target / f"{prefix}-{index:05}.png")
    return count
