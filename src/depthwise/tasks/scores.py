"""What a network's outputs are turned into by whoever asks for it by name, whatever the task."""

from collections.abc import Callable

import torch
from torch import Tensor

from depthwise.errors import UsageError, unknown_name

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda output: output,
    "sigmoid": torch.sigmoid,
    "softmax": lambda output: torch.softmax(output, -1),
}


def scores(output: Tensor, function: str, num_classes: int) -> Tensor:
    """float32 [K] of a network's `output` for an image, by the name of the function; raises UsageError."""
    if function not in FUNCTIONS:
        raise unknown_name("function_to_apply", function, FUNCTIONS)
    if len(output) != num_classes:
        raise UsageError(
            f"function_to_apply={function} needs an output a class, and this network has {len(output)} for "
            f"{num_classes}: leave it out"
        )
    return FUNCTIONS[function](output)
