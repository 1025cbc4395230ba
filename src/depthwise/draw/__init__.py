"""The architecture of a network as a picture: an SVG with its modules as in the literature, with shapes and costs."""

from collections.abc import Sequence

from torch import nn

from depthwise.draw.page import compose
from depthwise.draw.read import read


def draw(module: nn.Module, input_shape: Sequence[int], name: str = "") -> str:
    """The SVG of `module` for one image of `input_shape`, (C, H, W), under the title `name`.

    A `Network` is drawn stage by stage, any other module as a chain of its children in the order in which they run,
    each where it ran first. Equal modules in a row are folded into one, with their number. The module runs on its
    own device and is left as it was; built under `torch.device("meta")`, it is drawn in a moment whatever its size.
    The same module gives the same bytes. What the module raises for a shape that does not fit is passed on.
    """
    return compose(read(module, tuple(input_shape)), name or type(module).__name__)
