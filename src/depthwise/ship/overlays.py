"""Pictures with the heat over them, as files: what `depthwise predict --cam` leaves."""

import re
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from depthwise.data import BadImage
from depthwise.errors import DepthwiseError
from depthwise.infer import Prediction, Predictor
from depthwise.infer.predictor import Given
from depthwise.writing import check_free, written_whole

MOST_TOGETHER = 8
"""Pictures in memory whole."""

NAME_LENGTH = 40


def check_folder(folder: Path, force: bool) -> None:
    """Raise, before work is done, unless files can be written to `folder`, which is new or empty unless `force`."""
    if folder.is_dir() and not force and any(folder.iterdir()):
        raise DepthwiseError(f"{folder} holds files already: choose another folder or add --force")
    if folder.exists() and not folder.is_dir():
        raise DepthwiseError(f"{folder} is no folder: name one, for a picture of each image")
    check_free(folder / "0.png", force=True)


def overlay_name(number: int, of: int, image: str) -> str:
    """A file's name for image `number` of so many: the number, which none of the others has, and what it is called."""
    stem = re.sub(r"[^\w.-]+", "_", Path(image).stem)[:NAME_LENGTH]
    return f"{number:0{len(str(of))}}-{stem or 'image'}.png"


def predict_with_overlays(
    predictor: Predictor,
    images: Iterable[Given],
    files: Sequence[Path],
    topk: int | None = None,
    batch_size: int = MOST_TOGETHER,
    threshold: float | None = None,
) -> Generator[Prediction | BadImage, None, None]:
    """What `Predictor.stream` gives; each image's overlay, of its likeliest class, is in its file of `files` by then.

    Each is a PNG as large as the picture, whole or absent. Raises what `stream` and `written_whole` do.
    """
    found = predictor.cams(images, topk, threshold, min(batch_size, MOST_TOGETHER))
    for file, seen in zip(files, found, strict=True):
        if isinstance(seen, BadImage):
            yield seen
            continue
        with written_whole(file) as out:
            seen.overlay().save(out, "PNG")
        yield seen.prediction


def overlay_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """A file in `folder` for each image of these names."""
    return [folder / overlay_name(number, len(names), name) for number, name in enumerate(names, start=1)]
