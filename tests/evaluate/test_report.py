"""The report in a real browser, offline: what it shows, that it works, and that nothing in it can do harm."""

import io
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from playwright.sync_api import Page, expect
from report_parts import CONTRAST, EVIL, Open, Pictures, Write, plotted, scrolls_sideways
from torch import Tensor

from depthwise.data.names import natural_key
from depthwise.errors import DepthwiseError
from depthwise.evaluate.classes import Mistake, collect_mistakes, collect_samples
from depthwise.evaluate.metrics import from_logits
from depthwise.evaluate.pictures import picture
from depthwise.evaluate.report import ReportData, write_report
from depthwise.heat import Heat

CHARTS = ("accuracy", "loss", "lr", "rate", "reliability", "coverage")


def choose(page: Page, switch: str, value: str) -> None:
    # The radio itself is drawn as its label; a person clicks that.
    page.locator(f"#{switch} label", has=page.locator(f"input[value={value}]")).click()


def decoded(uri: str) -> Image.Image:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return Image.open(io.BytesIO(b64decode(data)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_offline_and_fits(digits_report: Path, open_page: Open, width: int, scheme: str) -> None:
    page = open_page(digits_report, width=width, scheme=scheme, touch=width < 600)
    assert not scrolls_sideways(page)
    for chart in CHARTS:
        assert page.locator(f"#chart-{chart} svg .scatterlayer .trace").count() > 0
        box = page.locator(f"#chart-{chart} svg.main-svg").first.bounding_box()
        assert box is not None
        assert 200 < box["width"] <= width
    luminance = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).reduce((a, b) => a + +b, 0)"
    )
    assert (luminance < 200) == (scheme == "dark")
    page.locator("summary").click()
    assert not scrolls_sideways(page)


def test_the_numbers_are_the_evaluations(digits_report: Path, open_page: Open, digits: ReportData) -> None:
    page, evaluation = open_page(digits_report), digits.evaluation
    assert 0.8 < evaluation.top1 < 0.97  # a report without mistakes would prove little
    expect(page.locator("h1")).to_have_text("softmax on digits")
    expect(page.locator("#top1")).to_have_text(f"{evaluation.top1:.2%}")
    expect(page.locator("#top5")).to_have_text(f"{evaluation.top5:.2%}")
    expect(page.locator("#loss")).to_have_text(f"{evaluation.loss:.4f}")
    expect(page.locator("#images")).to_have_text(str(evaluation.num_images))
    expect(page.locator("#wrong")).to_have_text(str(evaluation.num_wrong))
    expect(page.locator("#parameters")).to_have_text("650")
    expect(page.locator("#macs")).to_have_text("640")
    expect(page.locator(".lead")).to_contain_text("with averaged weights")

    counts = page.locator("#matrix tbody td").evaluate_all("cells => cells.map(cell => +cell.dataset.count)")
    assert counts == evaluation.confusion.flatten().tolist()
    for k, row in enumerate(page.locator("#per-class tbody tr").all()):
        numbers = evaluation.per_class
        ratios = [f"{float(ratio[k]):.1%}" for ratio in (numbers.precision, numbers.recall, numbers.f1)]
        texts = [f"digit {k}", str(int(numbers.support[k])), *ratios]
        assert [text.strip() for text in row.locator("th, td").all_inner_texts()[:5]] == texts
    top = page.locator("#pairs tbody tr").first.inner_text().split("\t")
    off = evaluation.confusion - torch.diag(evaluation.confusion.diagonal())
    assert top[1] == str(int(off.max()))


def test_curves_hold_the_history_and_switch_axes(
    digits_report: Path, open_page: Open, digits: ReportData
) -> None:
    page = open_page(digits_report)
    loss = [line["loss"] for line in digits.history if line["kind"] == "train"]
    assert plotted(page, "loss", "c.data[0].y") == pytest.approx(loss)
    names = plotted(page, "loss", "c.data.filter(t => t.hoverinfo !== 'skip').map(t => t.name)")
    assert names == ["train", "test, raw", "test, averaged", "test, final"]
    top1 = [
        line["top1"] for line in digits.history if line["kind"] == "eval" and line["weights"] == "averaged"
    ]
    assert plotted(page, "accuracy", "c.data.find(t => t.name === 'test, averaged').y") == pytest.approx(top1)

    title = "c.querySelector('.xtitle').textContent"
    for axis, end, words in (
        ("step", 100, "steps"),
        ("epoch", 5, "epochs"),
        ("seconds", 250 / 60, "minutes"),
    ):
        choose(page, "axis", axis)
        for chart in ("accuracy", "loss", "lr", "rate"):
            assert plotted(page, chart, "c.data[0].x.at(-1)") == pytest.approx(end)
            assert plotted(page, chart, title) == words
    choose(page, "scale", "log")
    assert plotted(page, "loss", "c._fullLayout.yaxis.type") == "log"
    low, high = plotted(page, "loss", "c._fullLayout.yaxis.range")
    choose(page, "range", "whole")
    whole = plotted(page, "loss", "c._fullLayout.yaxis.range")
    assert whole[1] - whole[0] > high - low


def test_a_curve_can_be_switched_off(digits_report: Path, open_page: Open) -> None:
    page = open_page(digits_report)
    names = "c.data.map(t => t.name)"
    button = page.get_by_role("button", name="test, raw")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert "test, raw" not in plotted(page, "accuracy", names)
    button.click()
    assert "test, raw" in plotted(page, "accuracy", names)


def test_charts_follow_the_colours_and_the_window(digits_report: Path, open_page: Open) -> None:
    page = open_page(digits_report)
    ink, paper = "c._fullLayout.font.color", "getComputedStyle(document.body).backgroundColor"
    light, page_light = plotted(page, "loss", ink), page.evaluate(paper)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(
        f"() => document.querySelector('#chart-loss')._fullLayout.font.color !== '{light}'"
    )
    assert page.evaluate(paper) != page_light
    button = page.locator("#theme")
    button.click()  # light, whatever the system says
    expect(button).to_have_text("Light")
    assert (plotted(page, "loss", ink), page.evaluate(paper)) == (light, page_light)
    button.click()
    expect(button).to_have_text("Dark")
    assert plotted(page, "loss", ink) != light

    before = plotted(page, "loss", "c._fullLayout.width")
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function(f"() => document.querySelector('#chart-loss')._fullLayout.width < {before}")
    page.wait_for_function("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_the_matrix_tells_what_a_cell_is(digits_report: Path, open_page: Open, digits: ReportData) -> None:
    page, confusion = open_page(digits_report), digits.evaluation.confusion
    off = confusion - torch.diag(confusion.diagonal())
    true, said = divmod(int(off.argmax()), 10)
    count, support = int(off.max()), int(confusion[true].sum())
    cell = page.locator("#matrix tbody tr").nth(true).locator("td").nth(said)
    cell.hover()
    expect(page.locator("#tip")).to_be_visible()
    expect(page.locator("#tip")).to_have_text(
        f"true digit {true}, said digit {said}: {count}{count / support:.1%} of all digit {true}"
    )
    assert page.locator("#matrix th.lit").all_inner_texts() == [f"digit {said}", f"digit {true}"]
    choose(page, "cells", "share")
    expect(cell).to_have_text(f"{100 * count / support:.1f}")
    choose(page, "cells", "count")
    expect(cell).to_have_text(str(count))

    first = page.locator("#matrix tbody td").first
    first.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowUp"):  # the last one meets the edge
        page.keyboard.press(key)
    expect(page.locator("#tip")).to_contain_text("true digit 0, said digit 2: ")
    expect(page.locator("#tip")).to_be_visible()
    assert page.locator("#matrix td[tabindex='0']").count() == 1


def test_tables_sort(digits_report: Path, open_page: Open, digits: ReportData) -> None:
    page = open_page(digits_report)
    header = page.locator("#per-class th", has_text="Recall")

    def values() -> list[float]:
        cells = page.locator("#per-class tbody td:nth-child(4)")
        return cells.evaluate_all("cells => cells.map(cell => +cell.dataset.value)")

    recall = digits.evaluation.per_class.recall.tolist()
    assert values() == recall
    header.get_by_role("button").click()
    assert values() == sorted(recall, reverse=True)
    expect(header).to_have_attribute("aria-sort", "descending")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert values() == sorted(recall)
    expect(header).to_have_attribute("aria-sort", "ascending")
    page.locator("#per-class th", has_text="Class").get_by_role("button").click()
    names = [name.strip() for name in page.locator("#per-class tbody th").all_inner_texts()]
    assert names == [f"digit {k}" for k in range(10)]
    expect(header).not_to_have_attribute("aria-sort", re.compile(".*"))


def test_mistakes_are_shown_surest_first(digits_report: Path, open_page: Open, digits: ReportData) -> None:
    page = open_page(digits_report)
    cards = page.locator("#mistakes li").all()
    assert len(cards) == min(24, digits.evaluation.num_wrong)
    for card, mistake in zip(cards, digits.findings, strict=True):
        said, true = (digits.classes[k] for k in (mistake.predicted, mistake.true))
        words = card.inner_text().split("\n")
        assert [words[k] for k in (1, 4)] == [said, true]
        assert [words[k] for k in (2, 5)] == [f"{mistake.probability:.1%}", f"{mistake.true_probability:.1%}"]
        image = card.locator("img")
        assert image.get_attribute("alt") == f"{mistake.name}: true {true}, said {said}"
        assert image.evaluate("i => [i.naturalWidth, getComputedStyle(i).imageRendering]") == [8, "pixelated"]
        assert image.evaluate("i => i.getBoundingClientRect().width") > 100


def test_data_and_recipe_are_told(digits_report: Path, open_page: Open, digits: ReportData) -> None:
    page = open_page(digits_report)
    rows = page.locator("#counts tbody tr")
    assert rows.count() == 10
    assert rows.nth(3).locator("img").count() == 8
    expect(rows.nth(3)).to_contain_text(str(digits.counts["train"][3]))
    expect(page.locator("#data")).to_contain_text("the first 1400 train")
    recipe = dict(
        zip(
            page.locator(".groups th").all_inner_texts(),
            page.locator(".groups td").all_inner_texts(),
            strict=True,
        )
    )
    assert recipe == {"model": "softmax", "epochs": "5", "flip": "no", "lr": "0.05", "betas": "0.9 (2 times)"}
    expect(page.locator(".versions")).to_contain_text(torch.__version__)


def test_the_command_can_be_copied(digits_report: Path, open_page: Open) -> None:
    page = open_page(digits_report)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    assert (
        page.evaluate("navigator.clipboard.readText()")
        == "depthwise train --data digits --out 'runs/my first'"
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it(digits_report: Path, open_page: Open, scheme: str) -> None:
    page = open_page(digits_report, scheme=scheme)
    page.locator("summary").click()
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("th:not([scope])").count() == 0
    assert page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => h.tagName).slice(0, 2)") == [
        "H1",
        "H2",
    ]
    # Every text against what lies behind it, as WCAG 2.2 computes it (1.4.3: 4.5 to 1).
    assert page.evaluate(CONTRAST) == []


def test_names_that_are_markup_stay_text(write: Write, open_page: Open, digits: ReportData) -> None:
    # In the order in which a report shows them.
    classes = sorted([*EVIL, *[f"digit {k}" for k in range(4, 10)]], key=natural_key)
    mistakes = [Mistake(f"test/{evil}.png", digits.findings[0].image, 0, 1, 0.9, 0.1) for evil in EVIL]
    history = [line | ({"split": EVIL[0]} if "split" in line else {}) for line in digits.history]
    path = write(
        title=EVIL[1],
        classes=classes,
        findings=mistakes,
        split=EVIL[0],
        history=history,
        command=["run", *EVIL],
        counts={EVIL[0]: [5] * 10, EVIL[1]: [5] * 10},
        recipe={"model": EVIL[0], EVIL[1]: {EVIL[2]: EVIL[3]}},
        versions={EVIL[0]: EVIL[1]},
        data={"spec": EVIL[0], "fingerprint": EVIL[1], "split_source": EVIL[2], "bad": 0},
    )
    page = open_page(path)  # a dialog or an error would fail the test in the end
    expect(page.locator("h1")).to_have_text(EVIL[1])
    names = [name.strip() for name in page.locator("#per-class tbody th").all_inner_texts()]
    assert names == classes
    assert plotted(page, "loss", "c.data.at(-1).name").replace("&lt;", "<") == f"{EVIL[0]}, final"
    for k in range(4):
        page.locator("#matrix tbody tr").nth(k).locator("td").nth(1).hover()
        expect(page.locator("#tip")).to_contain_text(f"true {classes[k]}, said {classes[1]}: ")
    plot = page.locator("#chart-accuracy .nsewdrag")
    plot.hover(position={"x": 0.971 * plot.bounding_box()["width"], "y": 60})
    expect(page.locator("#chart-accuracy .hoverlayer")).to_contain_text("<script>")
    assert page.locator("main img[src='x'], main script, main b:text('bold')").count() == 0
    assert not scrolls_sideways(page)
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_function("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_a_name_that_is_no_unicode_is_written(write: Write, open_page: Open, digits: ReportData) -> None:
    classes = ["caf\udce9", *digits.classes[1:]]
    page = open_page(write(classes=classes))
    assert page.locator("#per-class tbody th").first.inner_text().strip().startswith("caf")


def many(num_classes: int, n: int, lift: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % num_classes
    logits = torch.randn(n, num_classes, generator=generator)
    logits[torch.arange(n), labels] += lift
    return logits, labels


@pytest.mark.parametrize("width", [1280, 390])
def test_a_thousand_classes(write: Write, open_page: Open, width: int) -> None:
    logits, labels = many(1000, 4000, 3.0)
    logits[torch.arange(4000), labels ^ 1] += 2.0
    evaluation = from_logits(logits, labels)
    classes = [f"n{k:08d} a rather long name of class {k}, as they come" for k in range(1000)]
    image = torch.randint(256, (3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Pictures(image.expand(4000, -1, -1, -1), labels)
    path = write(
        classes=classes,
        evaluation=evaluation,
        findings=collect_mistakes(evaluation, split),
        samples=collect_samples(split, 1000),
        counts={"train": [1300] * 1000, "val": [4] * 1000},
        split="val",
    )
    assert path.stat().st_size < 5e6
    page = open_page(path, width=width)
    assert not scrolls_sideways(page)
    rows = page.locator("#matrix tbody tr")
    assert rows.count() == 24
    shown = rows.locator("td").evaluate_all(
        "cells => cells.reduce((sum, cell) => sum + +cell.dataset.count, 0)"
    )
    assert shown == 24 * 4  # with the column of anything else every row adds up to its class
    assert page.locator("#per-class tbody tr").count() == 1000
    page.locator("#filter").fill("class 77,")
    expect(page.locator("#found")).to_have_text("1 of 1000")
    assert page.locator("#per-class tbody tr:visible").count() == 1
    assert 100 < page.locator(".wall img").count() <= 240


def test_two_classes_no_mistakes_no_history(write: Write, open_page: Open) -> None:
    labels = torch.tensor([0, 1] * 20)
    evaluation = from_logits(torch.nn.functional.one_hot(labels, 2) * 6.0, labels)
    page = open_page(
        write(
            title="cats and dogs",
            classes=["cat", "dog"],
            evaluation=evaluation,
            history=[],
            findings=[],
            samples={},
            counts={},
            cost={},
            recipe={},
            versions={},
            command=[],
            data={},
        )
    )
    expect(page.locator("#mistakes")).to_contain_text("No mistakes on 40 images.")
    expect(page.locator(".lead")).to_contain_text("every one is named right")
    assert page.locator("#learning, #top5, #copy, #pairs, #counts").count() == 0
    assert page.locator("#matrix tbody td").count() == 4
    expect(page.locator("#top1")).to_have_text("100.00%")
    assert not scrolls_sideways(page)


def test_a_single_evaluation_and_raw_weights_only(write: Write, open_page: Open, digits: ReportData) -> None:
    history = [
        line for line in digits.history if line.get("weights") != "averaged" and line["step"] in (10, 100)
    ]
    history = [line for line in history if line["kind"] != "test"]
    page = open_page(write(history=history))
    assert plotted(page, "accuracy", "c.data.map(t => [t.name, t.mode, t.x.length])") == [
        ["train", "lines", 2],
        ["test, raw", "markers", 1],
    ]
    expect(page.locator(".lead")).not_to_contain_text("averaged")


def test_losses_that_are_no_numbers_are_said(write: Write, open_page: Open, digits: ReportData) -> None:
    nan = float("nan")
    history = [line | {"loss": nan} if line["step"] in (30, 31) else line for line in digits.history]
    logits = torch.full((len(digits.evaluation.labels), 10), nan)
    page = open_page(
        write(history=history, evaluation=from_logits(logits, digits.evaluation.labels), findings=[])
    )
    expect(page.locator("#loss")).to_have_text("not finite")
    expect(page.locator(".notice")).to_contain_text("not finite in 2 of 112 records, first at step 30")
    expect(page.locator(".notice")).to_contain_text("The final loss is not finite")
    assert plotted(page, "loss", "c.data[0].y.slice(28, 32).map(y => y === null)") == [
        False,
        True,
        True,
        False,
    ]
    assert page.locator("#certainty").count() == 0


def test_unreadable_images_are_said(write: Write, open_page: Open, digits: ReportData) -> None:
    page = open_page(write(data={**digits.data, "bad": 1}))
    expect(page.locator(".notice")).to_contain_text("1 image could not be read")


@pytest.mark.parametrize(
    ("shape", "mode", "size"),
    [
        ((1, 8, 8), "L", (8, 8)),
        ((3, 20, 10), "RGB", (10, 20)),
        ((4, 10, 20), "RGBA", (20, 10)),
        ((2, 5, 5), "L", (5, 5)),
        ((3, 300, 450), "RGB", (224, 149)),
        ((1, 1, 2000), "L", (224, 1)),
    ],
)
def test_pictures(shape: tuple[int, ...], mode: str, size: tuple[int, int]) -> None:
    image = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    made = picture(image, 224)
    shown = decoded(made.uri)
    assert (shown.mode, shown.size, (made.width, made.height)) == (mode, size, size)
    assert made.pixelated == (max(size) < 96)
    assert made.transparent == (mode == "RGBA")
    if max(shape[1:]) <= 224:  # untouched, pixel for pixel
        channels = list(shown.split())
        assert [torch.tensor(list(c.tobytes())).tolist() for c in channels] == image[: len(channels)].flatten(
            1
        ).tolist()


def test_mistakes_are_collected_surest_first_without_files_that_are_gone() -> None:
    logits, labels = many(4, 40, 0.5)
    evaluation = from_logits(logits, labels, indices=torch.arange(40) + 100)
    gone: list[int] = []

    class Files(Pictures):
        def image(self, i: int) -> Tensor:
            if len(gone) < 2 and i not in gone:
                gone.append(i)
            if i in gone:
                raise DepthwiseError("the file is gone")
            return torch.full((1, 2, 2), i, dtype=torch.uint8)

    found = collect_mistakes(evaluation, Files(torch.empty(0), labels), limit=5)
    wrong = (evaluation.predicted != labels).nonzero()[:, 0].tolist()
    probabilities = logits.softmax(1)
    order = sorted(wrong, key=lambda k: -float(probabilities[k].max()))
    assert gone == [k + 100 for k in order[:2]]
    assert [int(mistake.image[0, 0, 0]) for mistake in found] == [k + 100 for k in order[2:7]]
    for mistake, k in zip(found, order[2:], strict=False):
        odds = probabilities[k]
        assert mistake.name == f"test/{k + 100:04d}.png"
        assert (mistake.true, mistake.predicted) == (int(labels[k]), int(odds.argmax()))
        assert (mistake.probability, mistake.true_probability) == (float(odds.max()), float(odds[labels[k]]))


def test_samples_are_spread_over_each_class() -> None:
    labels = torch.tensor([0] * 9 + [2] * 2)
    split = Pictures(torch.arange(11, dtype=torch.uint8).reshape(-1, 1, 1, 1), labels)
    samples = collect_samples(split, 3, per_class=3)
    assert {k: [int(image) for image in images] for k, images in samples.items()} == {
        0: [0, 3, 6],
        2: [9, 10],
    }


def test_it_is_written_whole_or_not_at_all(digits: ReportData, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "report.html"
    write_report(digits, path)
    before = path.read_bytes()
    write_report(digits, path)
    assert path.read_bytes() == before  # nothing in it depends on when or where
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]

    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    for target in (tmp_path / "taken", tmp_path / "file" / "report.html"):
        with pytest.raises(DepthwiseError, match=re.escape(f"{target} cannot be written (")):
            write_report(digits, target)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "new", "taken"]


def test_only_data_and_style_are_allowed_by_its_policy(digits_report: Path) -> None:
    text = digits_report.read_text("utf-8")
    assert "default-src 'none'" in text
    # Outside the packed library the page names no address to go to.
    page: Callable[[str], list[str]] = re.compile(
        r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:|#)([^"')\s>]+)"""
    ).findall
    assert page(re.sub(r'<script type="text/plain".*?</script>', "", text, flags=re.DOTALL)) == []


def test_heat_lies_on_what_the_network_saw_and_can_be_switched_off(
    write: Write, open_page: Open, digits: ReportData
) -> None:
    image = torch.zeros(3, 40, 80, dtype=torch.uint8)
    heat = Heat(
        1, torch.tensor([[0.0, 0.0], [0.0, 1.0]]), "cam", 1.0, 0.75, (40, 80), (4.0, 24.0, 32.0, 32.0)
    )
    mistakes = [Mistake("seen.png", image, 0, 1, 0.9, 0.1, heat), Mistake("plain.png", image, 0, 1, 0.9, 0.1)]
    page = open_page(write(findings=mistakes))
    veil = page.locator("#mistakes .heat")
    expect(veil).to_have_count(1)
    below, above = page.locator("#mistakes .shot > img").first.bounding_box(), veil.bounding_box()
    assert below is not None
    assert above is not None
    scale = below["width"] / 80
    assert below["height"] == pytest.approx(40 * scale, abs=0.5)
    for side, start, extent in (("x", 24, 32), ("y", 4, 32)):
        assert above[side] - below[side] == pytest.approx(start * scale, abs=0.5)
        assert above["width" if side == "x" else "height"] == pytest.approx(extent * scale, abs=0.5)
    pixels = decoded(veil.get_attribute("src") or "")
    assert pixels.getpixel((4, 4)) == (66, 10, 104, 0)
    assert pixels.getpixel((60, 60)) == (252, 255, 164, 199)
    page.get_by_label("heat: where it looked for what it said").uncheck()
    expect(veil).to_be_hidden()
    expect(open_page(write(findings=mistakes[1:])).locator(".heat-switch")).to_have_count(0)
