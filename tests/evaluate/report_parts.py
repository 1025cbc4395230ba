"""What the tests of the report and their fixtures share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page
from torch import Tensor

Open = Callable[..., Page]
Write = Callable[..., Path]


@dataclass(frozen=True)
class Pictures:
    """A split held in memory."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self, indices: Tensor) -> Tensor:
        return self.labels[indices]

    def image(self, i: int) -> Tensor:
        return self.images[i]

    def name(self, i: int) -> str:
        return f"test/{i:04d}.png"
