"""The pictures: what stands on them, and in a real browser that nothing overflows, overlaps or leaves the page."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Browser
from torch import Tensor, nn

from depthwise.draw import draw
from depthwise.draw.page import compose
from depthwise.draw.pieces import BY, Box, Chain, Mark, Piece, Repeat, boxes, chain
from depthwise.draw.read import read
from depthwise.layers import Branches, ConvNorm, Residual, SeparableConv2d, SqueezeExcite, conv2d
from depthwise.models import CATALOGUE, create_model

SVG = "{http://www.w3.org/2000/svg}"

# Of all shapes the places as the browser has them; `trouble` is every text beyond its box, every two things on one
# another, every line through a thing, and everything beyond the page.
TROUBLE = """(font) => {
  const svg = document.documentElement, trouble = [];
  if (font) svg.setAttribute('font-family', font);
  const page = svg.viewBox.baseVal;
  const inside = (a, b) => a.x >= b.x - .1 && a.y >= b.y - .1 &&
    a.x + a.width <= b.x + b.width + .1 && a.y + a.height <= b.y + b.height + .1;
  const apart = (a, b) => a.x + a.width <= b.x + .1 || b.x + b.width <= a.x + .1 ||
    a.y + a.height <= b.y + .1 || b.y + b.height <= a.y + .1;
  const solid = [];
  for (const g of svg.querySelectorAll('g.box, g.mark, g.plus')) {
    const shape = g.querySelector('rect, circle').getBBox();
    solid.push([g.textContent, shape]);
    for (const text of g.querySelectorAll('text'))
      if (!inside(text.getBBox(), shape)) trouble.push('beyond its box: ' + text.textContent);
  }
  for (const text of svg.querySelectorAll('text.label')) {
    const box = text.getBBox(), size = +text.getAttribute('font-size');
    // The line box is taller than what is seen of the letters.
    solid.push([text.textContent, {x: box.x, width: box.width, y: +text.getAttribute('y') - .75 * size, height: size}]);
  }
  solid.forEach(([name, a], i) => {
    if (!inside(a, page)) trouble.push('beyond the page: ' + name);
    for (const [other, b] of solid.slice(0, i))
      if (!apart(a, b)) trouble.push(name + ' on ' + other);
  });
  for (const path of svg.querySelectorAll('path:not([fill]):not(g.plus path)')) {
    if (!inside(path.getBBox(), page)) trouble.push('beyond the page: a line');
    const whole = path.getBBox(), near = solid.filter(([, b]) => !apart(whole, b));
    for (let t = 0, all = path.getTotalLength(); t <= all; t += 2) {
      const p = path.getPointAtLength(t);
      for (const [name, b] of near)
        if (p.x > b.x + 1 && p.x < b.x + b.width - 1 && p.y > b.y + 1 && p.y < b.y + b.height - 1)
          trouble.push('a line through ' + name);
    }
  }
  for (const band of svg.querySelectorAll('rect.band, rect.frame'))
    if (!inside(band.getBBox(), page)) trouble.push('beyond the page: a band');
  const bands = [...svg.querySelectorAll('rect.band')].map((band) => band.getBBox());
  bands.forEach((a, i) => bands.slice(0, i).forEach((b) => apart(a, b) || trouble.push('two bands on one another')));
  return trouble;
}"""


@pytest.fixture(scope="module")
def trouble(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[str]]]:
    """What is wrong with a picture in Chromium, in its own font and in the widest that is common."""
    file = tmp_path_factory.mktemp("pictures") / "picture.svg"
    page = browser.new_page()
    page.set_default_timeout(120_000)

    def look(svg: str) -> list[str]:
        file.write_text(svg, encoding="utf-8")
        page.goto(file.as_uri())
        return [*page.evaluate(TROUBLE, ""), *page.evaluate(TROUBLE, "DejaVu Sans, Verdana, sans-serif")]

    yield look
    page.close()


@cache
def network(name: str, **arguments: Any) -> nn.Module:
    with torch.device("meta"):
        return create_model(name, **arguments)


@cache
def picture(name: str, **arguments: Any) -> str:
    module = network(name, **arguments)
    return draw(module, (module.in_channels, module.input_size, module.input_size), name)


def texts(svg: str) -> list[str]:
    """Everything written on a picture, in order, with x for the multiplication sign."""
    root = ElementTree.fromstring(svg.encode())
    return [(text.text or "").replace(BY, "x") for text in root.iter(f"{SVG}text")]


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_every_network_of_the_catalogue_is_drawn(name: str, trouble: Callable[[str], list[str]]) -> None:
    module = network(name, width=0.25)
    reading = read(module, (3, module.input_size, module.input_size))
    assert [section.name for section in reading.sections] == [
        *dict(module.stages.named_children()),
        "classifier",
    ]
    assert sum(section.parameters for section in reading.sections) == reading.cost.parameters
    assert sum(section.macs for section in reading.sections) == reading.cost.macs
    svg = compose(reading, name)
    assert trouble(svg) == []
    root = ElementTree.fromstring(svg.encode())
    assert root.find(f"{SVG}title").text == f"Architecture of {name}"
    assert "multiply-adds" in root.find(f"{SVG}desc").text
    width, height = map(float, root.get("viewBox").split()[2:])
    assert 0.9 < width / height < 2.5  # a page, not a ribbon
    assert any(f"{reading.cost.parameters:,} parameters" in text for text in texts(svg))
    assert "1000 logits" in texts(svg)


def test_xception_is_figure_5(trouble: Callable[[str], list[str]]) -> None:
    svg = picture("xception")
    assert trouble(svg) == []
    written = texts(svg)
    places = [written.index(flow) for flow in ("Entry flow", "Middle flow", "Exit flow")]
    entry, middle, end = (written[a:b] for a, b in pairwise([*places, len(written)]))
    assert [text for text in entry if "Conv" in text] == [
        "Conv 32, 3x3, stride 2",
        "Conv 64, 3x3",
        *(
            text
            for width in (128, 256, 728)
            for text in (f"SeparableConv {width}, 3x3",) * 2 + (f"Conv {width}, 1x1",)
        ),
    ]
    assert [text for text in middle if "x" in text] == [
        *["SeparableConv 728, 3x3"] * 3,
        "x 8",
        "19x19x728",
    ]
    assert middle.count("ReLU") == 3
    assert [text for text in end if "Conv" in text] == [
        "SeparableConv 728, 3x3",
        "SeparableConv 1024, 3x3",
        "Conv 1024, 1x1",
        "SeparableConv 1536, 3x3",
        "SeparableConv 2048, 3x3",
    ]
    maps = [text for text in written if re.fullmatch(r"\d+x\d+x\d+", text)]
    shapes = ["149x149x32", "147x147x64", "74x74x128", "37x37x256", "19x19x728", "19x19x728"]
    assert maps == [*shapes, "10x10x1024", "10x10x2048"]
    assert {"299x299x3 input", "2048 features", "1000 logits", "Global AveragePooling"} <= set(written)
    assert "299x299x3 · 22,855,952 parameters · 8.36 GMAC" in written
    assert svg.count('<g class="plus">') == 5


def test_the_picture_in_the_docs_is_todays() -> None:
    shown = Path(__file__).parents[1] / "docs" / "xception.svg"
    assert shown.read_text(encoding="utf-8") == picture("xception"), (
        "depthwise draw xception -o docs/xception.svg --force"
    )


def test_an_inception_module_is_columns_that_join(trouble: Callable[[str], list[str]]) -> None:
    svg = picture("inception_v3", aux=True)
    assert trouble(svg) == []
    written = texts(svg)
    assert [text for text in written if text.startswith("concat")][:2] == ["concat 256", "concat 288"]
    assert written.count("x 2") == 3
    assert written.count("auxiliary classifier") == 1
    assert "ReLU" not in written
    assert "ReLU follows every convolution." in written
    for name in ("inception_v1", "inception_v2"):
        svg = picture(name, aux=True)
        assert texts(svg).count("auxiliary classifier") == 2
        assert trouble(svg) == []


def test_a_tower_within_a_stage_stands_where_it_looks() -> None:
    reading = read(create_model("inception_v2", width=0.125, aux=True), (3, 224, 224))
    plain = read(create_model("inception_v2", width=0.125), (3, 224, 224))
    sections = {section.name: section for section in reading.sections}
    names = ["stem1", "stem2", "mixed3", "mixed3c", "mixed4", "mixed4e", "mixed5", "classifier"]
    assert list(sections) == names
    for name, section in sections.items():
        assert bool(section.side) == (name in ("mixed3c", "mixed4e"))
    assert sections["mixed3c"].output[1:] == (14, 14)
    assert sections["mixed4e"].output[1:] == (7, 7)
    for kind in ("parameters", "macs"):
        total = sum(getattr(section, kind) for section in reading.sections)
        assert total == sum(getattr(section, kind) for section in plain.sections)


def test_repeats_are_folded() -> None:
    times = [
        text
        for text in texts(picture("resnet152", width=0.125, num_classes=10))
        if re.fullmatch(r"x \d+", text)
    ]
    assert times == ["x 2", "x 7", "x 35", "x 2"]


@pytest.mark.parametrize(
    "arguments",
    [
        {"residual": False},
        {"middle": (64,) * 3, "entry": (), "exit": (64,)},
        {"middle": ()},
        {"stem": "small", "width": 0.25, "num_classes": 0},
    ],
)
def test_variants_of_xception(arguments: dict[str, Any], trouble: Callable[[str], list[str]]) -> None:
    svg = picture("xception", **arguments)
    assert trouble(svg) == []
    assert "Exit flow" in texts(svg)


class Foreign(nn.Module):
    """Runs its children in another order than it holds them, and one not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(12, 5)
        self.unused = nn.Linear(3, 3)
        self.block = nn.Sequential(
            nn.Conv2d(3, 12, 3, groups=3), nn.BatchNorm2d(12), nn.Tanh(), nn.AvgPool2d(2, stride=(2, 1))
        )
        self.first = nn.Conv2d(1, 3, 5, stride=(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(self.first(x)).mean((2, 3)))


def test_any_module_is_a_chain_of_its_children(trouble: Callable[[str], list[str]]) -> None:
    module = Foreign()
    module.block.eval()
    before = {part: part.training for part in module.modules()}
    svg = draw(module, (1, 28, 24))
    assert trouble(svg) == []
    written = texts(svg)
    assert written[0] == "Foreign"
    assert "What modules compute between their layers is not drawn." in written
    found = [text for text in written if re.match(r"Conv|Depthwise|Tanh|Avg|Fully|block", text)]
    assert found == [
        "Conv 3, 5x5, stride 2x1",
        "block",
        "DepthwiseConv 12, 3x3",
        "Tanh",
        "AvgPooling 2x2, stride 2x1",
        "Fully connected 5",
    ]
    assert {part: part.training for part in module.modules()} == before
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in module.modules())


def test_a_very_deep_network_fills_a_page(trouble: Callable[[str], list[str]]) -> None:
    with torch.device("meta"):
        module = nn.Sequential(*(nn.Conv2d(1 + i, 2 + i, 3, padding=1) for i in range(150)))
    svg = draw(module, (1, 4, 4), "deep")
    assert trouble(svg) == []
    width, height = map(float, ElementTree.fromstring(svg.encode()).get("viewBox").split()[2:])
    assert 0.5 < width / height < 2.5


def test_the_parts_have_the_papers_words() -> None:
    body = nn.Sequential(
        Branches(
            nn.Identity(),
            ConvNorm(conv2d(16, 16, 3, padding="same"), 16, nn.ReLU6),
            SeparableConv2d(16, 8, 5, between=nn.ELU),
        ),
        nn.Conv2d(40, 16, 1),
        SqueezeExcite(16, 4),
    )
    module = nn.Sequential(Residual(body, activation=nn.ReLU, scale=0.1), nn.Dropout(0.2), nn.Softmax(1))
    assert texts(draw(module, (16, 8, 8), "parts"))[:11] == [
        "parts",
        "8x8x16 · 3,668 parameters · 222 kMAC",
        "8x8x16 input",
        "Residual",
        "3.67 k parameters",
        "222 kMAC, 100%",
        "Conv 16, 3x3",
        "ReLU6",
        "SeparableConv 8, 5x5",
        "ELU between",
        "concat 40",
    ]


@pytest.mark.parametrize(
    ("module", "shape"), [(nn.Linear(4, 2), (4,)), (nn.Flatten(), (1, 2, 2)), (nn.Identity(), (3, 4, 4))]
)
def test_the_smallest_modules(
    module: nn.Module, shape: tuple[int, ...], trouble: Callable[[str], list[str]]
) -> None:
    assert trouble(draw(module, shape, "small")) == []


def test_what_is_written_is_text_and_nothing_else(trouble: Callable[[str], list[str]]) -> None:
    name = 'a <script>alert("1")</script> & \x00\x1b\udcff]]> 猫' + "m" * 200
    svg = draw(nn.Sequential(nn.Conv2d(1, 2, 3)), (1, 8, 8), name)
    assert trouble(svg) == []
    assert texts(svg)[0].startswith('a <script>alert("1")</script> & \ufffd\ufffd\ufffd]]> 猫mmm')
    assert "<script" not in svg


def test_the_same_network_gives_the_same_bytes() -> None:
    module = network("xception", width=0.25)
    assert draw(module, (3, 299, 299), "xception") == picture("xception", width=0.25)


def unfolded(piece: Piece) -> list[Piece]:
    match piece:
        case Chain(items):
            return [part for item in items for part in unfolded(item)]
        case Repeat(body, times):
            return unfolded(body) * times
        case _:
            return [piece]


PIECES = st.sampled_from([*(Box((name,), "other", (), ()) for name in "abc"), Mark("ReLU")])


@settings(deadline=None)
@given(st.lists(st.one_of(PIECES, st.lists(PIECES, max_size=3)), max_size=14))
def test_folding_loses_nothing(items: list[Any]) -> None:
    parts = [Chain(tuple(item)) if isinstance(item, list) else item for item in items]
    folded = chain(parts)
    assert unfolded(folded) == unfolded(Chain(tuple(parts)))
    saved = sum(isinstance(part, Box) for part in unfolded(folded)) - len(list(boxes(folded)))
    assert saved == 0 or saved >= 3
