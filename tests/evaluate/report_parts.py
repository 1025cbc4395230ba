"""What the tests of the report and their fixtures share."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page
from torch import Tensor

from depthwise.data.targets import Labels

Open = Callable[..., Page]
Write = Callable[..., Path]

EVIL = [
    '<script>alert("class")</script>',
    "<img src=x onerror=alert('class')>",
    "</script><b>bold</b>",
    "\"'&amp;{{7*7}}",
]


@dataclass(frozen=True)
class Pictures:
    """A split held in memory."""

    images: Tensor
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self, indices: Tensor) -> Tensor:
        return self.labels[indices]

    def image(self, i: int) -> Tensor:
        return self.images[i]

    def name(self, i: int) -> str:
        return f"test/{i:04d}.png"


def scrolls_sideways(page: Page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth > window.innerWidth")


def plotted(page: Page, chart: str, what: str) -> Any:
    return page.evaluate(
        f"(() => {{ const c = document.querySelector('#chart-{chart}'); return {what}; }})()"
    )


# Every text against what lies behind it, as WCAG 2.2 computes it.
CONTRAST = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; } return [255, 255, 255, 255]; };
  const light = (c) => c.slice(0, 3).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, k) => sum + v * [0.2126, 0.7152, 0.0722][k], 0);
  const poor = [], walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest('.hidden, svg')) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push(`${e.className} ${walk.currentNode.data.trim()}`);
  }
  return poor;
})()"""
