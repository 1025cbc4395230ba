"""The images most like some pictures, as a page: one HTML file in the style of the report, to be opened offline."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from depthwise.embeddings.nearest import Neighbour
from depthwise.errors import DepthwiseError
from depthwise.evaluate import sections
from depthwise.evaluate.pictures import Picture, picture
from depthwise.evaluate.report import page_environment, page_part
from depthwise.words import command_line

PIXELS = 224


class Found(NamedTuple):
    """A picture, uint8 [C, H, W], and the images most like it."""

    name: str
    image: Tensor
    neighbours: Sequence[Neighbour]


def render(
    found: Sequence[Found], read: Callable[[str], Tensor], embeddings: str, command: Sequence[str] = ()
) -> str:
    """The page as text. read: an image, uint8 [C, H, W], by its name; raises DepthwiseError."""
    environment = page_environment("depthwise.embeddings")
    environment.filters.update(cut_path=sections.cut_path, cut_name=sections.cut_name)
    return environment.get_template("similar.html").render(
        found=[
            (of, picture(of.image, PIXELS), [(each, _shown(each.name, read)) for each in of.neighbours])
            for of in found
        ],
        embeddings=embeddings,
        command=command_line(command),
        style=page_part("report.css"),
    )


def _shown(name: str, read: Callable[[str], Tensor]) -> Picture | None:
    try:
        return picture(read(name), PIXELS)
    except DepthwiseError:
        return None
