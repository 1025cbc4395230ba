"""Other projects' weights, translated into this one's names and geometry.

`files` reads a file, safely and whatever its format, into named tensors. One module a source then says what
belongs where: `torchvision` and `timm` hold tables of pairs of module paths, `keras` knows layers by their kind
and order. `translate` is the way in for named tensors that are in memory already:

    weights, arguments = translate(their_model.state_dict(), source="timm", model="xception")
    network = create_model("xception", **arguments)
    network.load_state_dict(weights)

`arguments` are those of our builder under which the network computes what theirs does: number of classes and
channels, epsilon, padding. To add a network, see the docstring of `torchvision` or `timm`.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from depthwise.errors import unknown_name
from depthwise.weights import timm, torchvision
from depthwise.weights.layout import Layout, best_layout

LAYOUTS: dict[str, dict[str, Layout]] = {"torchvision": torchvision.LAYOUTS, "timm": timm.LAYOUTS}


def translate(
    state_dict: Mapping[str, Tensor], source: str, model: str
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors under the names that our network `model` has for them, and the arguments to build it with.

    `source` is "torchvision" or "timm". A tensor that has no counterpart keeps its name, so that a comparison
    with the network's own state shows it. Raises UsageError for a source or a model that is not there.
    """
    if source not in LAYOUTS:
        raise unknown_name("source of weights", source, LAYOUTS)
    layouts = [layout for layout in LAYOUTS[source].values() if layout.model == model]
    if not layouts:
        raise unknown_name(f"model of {source}", model, {layout.model for layout in LAYOUTS[source].values()})
    translation = best_layout(layouts, state_dict).translate(state_dict)
    return translation.weights, translation.arguments
