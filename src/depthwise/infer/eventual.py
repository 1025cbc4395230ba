"""A network that runs on PyTorch for a few images and on the native kernels for many."""

import os
from collections.abc import Callable
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from depthwise.errors import DepthwiseError
from depthwise.infer.answers import WrongAnswerError
from depthwise.infer.choice import compile
from depthwise.native.library import library

if TYPE_CHECKING:
    from depthwise.infer.kept import Keeper

T = TypeVar("T")

FEW, FEW_KEPT = 32, 2
"""Images that are not worth a plan: if the network must be traced, which takes seconds, and if its trace is kept."""

TOLERANCE = 1e-4
"""The largest difference of a logit from PyTorch's, relative to the largest logit, that is not an error of the plan."""

_alone = RLock()
"""Held while a network is traced or runs: PyTorch's tracing changes what every module in the process does meanwhile."""
# The thread that forks holds the lock: a child would inherit it locked if another thread held it, and no thread of the
# child would release it.
os.register_at_fork(before=_alone.acquire, after_in_parent=_alone.release, after_in_child=_alone.release)


class Eventual(nn.Module):
    """`module` in float32 for the first FEW images, or FEW_KEPT if `keeper` has its trace; after them its plan.

    A network without a plan stays on PyTorch, and so does one whose plan gives other answers. Any number of threads
    may call it. Images are [N, C, H, W] of `shape` [C, H, W]; until there is a plan, PyTorch runs other shapes too.
    """

    def __init__(self, module: nn.Module, shape: tuple[int, ...], keeper: "Keeper") -> None:
        super().__init__()
        self.shape, self.keeper = shape, keeper
        self.seen = 0
        self.decided = library.handle is None
        self.run: nn.Module = module
        """What runs: first PyTorch's module, which is let go once there is a plan."""
        self.few = FEW_KEPT if keeper.has(shape) else FEW
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.using(x, lambda run: run(x))

    def using(self, x: Tensor, work: Callable[[nn.Module], T]) -> T:
        """What `work` makes of the network that runs the images `x` now, which count as seen."""
        if self.decided:
            return work(self.run)
        with _alone:
            self.seen += len(x)
            if not self.decided and self.seen > self.few and tuple(x.shape[1:]) == self.shape:
                if x.device.type == "cpu":
                    self.run = self._planned(self.run, x)
                self.decided = True
            return work(self.run)

    def _planned(self, module: nn.Module, x: Tensor) -> nn.Module:
        try:
            # Tracing reads the version counters of tensors, and tensors made in inference mode have none.
            with torch.inference_mode(False):
                plan = compile(module, torch.zeros(1, *self.shape), engine="native", lower=self.keeper.lower)
        except WrongAnswerError:
            self.keeper.forget(self.shape)
            return module
        except DepthwiseError:
            return module
        expected, found = module(x[:1]), plan(x[:1])
        if not (found - expected).abs().max() <= TOLERANCE * expected.abs().max():
            if expected.isfinite().all():
                self.keeper.forget(self.shape)
            return module
        return plan
