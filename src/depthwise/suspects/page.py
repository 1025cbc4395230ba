"""The suspects as a page of pictures: one HTML file in the style of the report, to be opened offline."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from depthwise.data.dataset import Split
from depthwise.errors import DepthwiseError
from depthwise.evaluate import sections
from depthwise.evaluate.pictures import Picture, picture
from depthwise.evaluate.report import page_environment, page_part
from depthwise.suspects.found import Copies, Image, Suspects
from depthwise.words import command_line

MOST_LABELS, MOST_GROUPS, MOST_IN_GROUP, MOST_OUTLIERS, MOST_BLANK, MOST_PAIRS = 120, 48, 6, 48, 12, 12
"""Pictures on the page, the likeliest to be wrong; the table has them all."""

PIXELS = 224


class Shown(NamedTuple):
    """An image with its picture, None if it cannot be read any more."""

    image: Image
    picture: Picture | None


def render(found: Suspects, command: Sequence[str] = ()) -> str:
    """The page as text."""
    splits = found.splits
    environment = page_environment("depthwise.suspects")
    environment.filters.update(cut_path=sections.cut_path, cut_name=sections.cut_name)
    return environment.get_template("suspects.html").render(
        found=found,
        judged=sum(found.judged.values()),
        total=sum(found.images.values()),
        labels=[(of, _shown(of.image, splits)) for of in found.wrong_labels[:MOST_LABELS]],
        pairs=found.confused[:MOST_PAIRS],
        copies=[(of, _group(of, splits)) for of in found.copies[:MOST_GROUPS]],
        blank=[_shown(image, splits) for image in found.blank[:MOST_BLANK]],
        outliers=[(of, _shown(of.image, splits)) for of in found.outliers[:MOST_OUTLIERS]],
        command=command_line(command),
        style=page_part("report.css"),
    )


def _group(found: Copies, splits: Mapping[str, Split]) -> list[Shown]:
    """Some of its images, one of each class and part among them as far as there is room."""
    kinds = {(image.part, image.label): image for image in reversed(found.images)}
    first = list(kinds.values())
    rest = [image for image in found.images if image not in first]
    chosen = {*[*first, *rest][:MOST_IN_GROUP]}
    return [_shown(image, splits) for image in found.images if image in chosen]


def _shown(image: Image, splits: Mapping[str, Split]) -> Shown:
    try:
        return Shown(image, picture(splits[image.part].image(image.place), PIXELS))
    except DepthwiseError:
        return Shown(image, None)
