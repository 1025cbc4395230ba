"""What a label costs that an image has, and one that it has not: the elementwise losses of label sets.

All are functions of logits x of any shape, each on its own, with p = sigmoid(x); `present` is the loss of labels that
images have, `absent` that of labels that they have not, in nats.
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor
from torch.nn import functional as F

from depthwise.bounds import Bounds, check

Exponent = Annotated[float, Bounds(0, 20)]

_LEAST = 1e-12  # of a probability that is raised to a power: below 1, the derivative at 0 is infinite


def _power(p: Tensor, exponent: float) -> Tensor:
    return p.clamp(min=_LEAST) ** exponent


@dataclass(frozen=True)
class Plain:
    """Cross-entropy: -log p, and -log(1 - p)."""

    def present(self, x: Tensor) -> Tensor:
        """softplus(-x), which is softplus(x) - x."""
        return F.softplus(-x)

    def absent(self, x: Tensor) -> Tensor:
        """softplus(x)."""
        return F.softplus(x)


@dataclass(frozen=True)
class Focal:
    """-alpha (1 - p)^gamma log p, and -(1 - alpha) p^gamma log(1 - p): Lin 2017 (arXiv 1708.02002), section 3."""

    gamma: Exponent = 2.0
    alpha: Annotated[float, Bounds(0, 1)] = 0.25

    def __post_init__(self) -> None:
        check(self, "loss")

    def present(self, x: Tensor) -> Tensor:
        """Less of what is sure to be there."""
        return self.alpha * _power((-x).sigmoid(), self.gamma) * F.softplus(-x)

    def absent(self, x: Tensor) -> Tensor:
        """Less of what is sure not to be there."""
        return (1 - self.alpha) * _power(x.sigmoid(), self.gamma) * F.softplus(x)


@dataclass(frozen=True)
class Asymmetric:
    """-(1 - p)^gamma_present log p, and -q^gamma_absent log(1 - q) with q = max(p - clip, 0).

    Ridnik 2021 (arXiv 2009.14119), sections 2.2 to 2.4; the defaults are the paper's.
    """

    gamma_present: Exponent = 1.0
    gamma_absent: Exponent = 4.0
    clip: Annotated[float, Bounds(0, 1, below=True)] = 0.05

    def __post_init__(self) -> None:
        check(self, "loss")

    def present(self, x: Tensor) -> Tensor:
        """Focal."""
        return _power((-x).sigmoid(), self.gamma_present) * F.softplus(-x)

    def absent(self, x: Tensor) -> Tensor:
        """Nothing for a probability up to `clip`, focal above."""
        if not self.clip:
            return _power(x.sigmoid(), self.gamma_absent) * F.softplus(x)
        shifted = (x.sigmoid() - self.clip).clamp(min=0)
        return -_power(shifted, self.gamma_absent) * (1 - shifted).log()


Loss = Plain | Focal | Asymmetric

LOSSES: dict[str, type] = {"cross-entropy": Plain, "focal": Focal, "asymmetric": Asymmetric}
"""By the name that a recipe gives them."""
