"""The report of label sets in a real browser: its numbers against those worked out by hand, and 17,000 labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect
from report_parts import CONTRAST, EVIL, Open, Pictures, plotted, scrolls_sideways
from torch import Tensor

from depthwise.data.names import natural_key
from depthwise.data.targets import LabelLists
from depthwise.errors import DepthwiseError
from depthwise.evaluate import label_sections
from depthwise.evaluate.classes import collect_samples
from depthwise.evaluate.label_metrics import LabelEvaluation, LabelMeters
from depthwise.evaluate.labels import MOST_DOUBTS, collect_findings, label_page
from depthwise.evaluate.report import ReportData, write_report

Make = Callable[..., Path]


@dataclass
class Made:
    """A split, what a network is made to say of it, and what became of both."""

    rows: Sequence[Sequence[int]]
    logits: Tensor
    classes: Sequence[str]
    split: Pictures = field(init=False)
    evaluation: LabelEvaluation = field(init=False)

    def __post_init__(self) -> None:
        n, num_classes = len(self.rows), len(self.classes)
        shades = torch.arange(n).remainder(256).to(torch.uint8).reshape(-1, 1, 1, 1)
        self.split = Pictures(shades.expand(-1, 1, 8, 8), LabelLists.of(self.rows))
        meters = LabelMeters(num_classes, torch.full((num_classes,), 0.5))
        for places in torch.arange(n).split(100):
            meters.update(self.logits[places], self.split.targets(places), places)
        self.evaluation = meters.compute()

    def report(
        self, path: Path, *, tuned: bool = True, split: str = "test", train: list[int] | None = None
    ) -> Path:
        num_classes = len(self.classes)
        data = ReportData(
            title="made up",
            history=[],
            classes=self.classes,
            evaluation=self.evaluation,
            page=partial(label_page, tuned=tuned),
            split=split,
            findings=collect_findings(self.evaluation, self.split),
            samples=collect_samples(self.split, num_classes),
            counts={"train": train} if train else {},
            cost={},
            recipe={},
            versions={},
            command=[],
            data={},
        )
        write_report(data, path)
        return path


def drawn(n: int, classes: Sequence[str]) -> Made:
    """Labels that are the rarer the higher their number, and scores that know something of them."""
    generator = torch.Generator().manual_seed(0)
    k = len(classes)
    often = 1 / torch.arange(1, k + 1).float() ** 0.7
    rows = [
        torch.multinomial(often, int(size), generator=generator).tolist()
        for size in torch.randint(1, 5, (n,), generator=generator)
    ]
    logits = torch.randn(n, k, generator=generator) - 2
    for i, row in enumerate(rows):
        logits[i, row] += 3
    return Made(rows, logits, classes)


NOTHING = "\N{EN DASH}"
NAMES = [f"tag {k}" for k in range(20)]


@pytest.fixture(scope="module")
def twenty() -> Made:
    return drawn(300, NAMES)


@pytest.fixture(scope="module")
def report(twenty: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = (100 * torch.arange(20, 0, -1)).tolist()
    return twenty.report(tmp_path_factory.mktemp("labels") / "report.html", train=counts)


# Three images that have labels of three, and one without: by hand, see the tests.
BY_HAND = Made(
    [[0], [1, 2], [2], []],
    torch.tensor([[3.0, 1.0, -1.0], [3.0, 1.0, 0.5], [-1.0, -2.0, 2.0], [-1.0, -1.0, -1.0]]),
    ["cat", "dog", "owl"],
)


def test_the_numbers_are_those_worked_out_by_hand(open_page: Open, tmp_path: Path) -> None:
    page = open_page(BY_HAND.report(tmp_path / "report.html", train=[5, 3, 1]))
    # Average precision: 1, (1/2 + 2/3) / 2, 1; the labels by how frequent they are in training: 1, the same, 1/3.
    expect(page.locator("#map")).to_have_text(f"{31 / 36:.2%}")
    expect(page.locator("#baseline")).to_have_text(f"{23 / 36:.2%}")
    expect(page.locator("#normalisers")).to_contain_text(f"retrieval metrics do: {31 / 36:.2%}")
    # Said from 0.5 on: cat and dog; cat, dog and owl; owl; nothing: four of six rightly, of four labels all.
    expect(page.locator("#micro-f1")).to_have_text(f"{2 * 4 / (6 + 4):.2%}")
    expect(page.locator("#macro-f1")).to_have_text(f"{(2 / 3 + 2 / 3 + 1) / 3:.2%}")
    # The scores of cat are 3, 3, -1, -1 with the first right, of dog 1, 1, -1, -2 with the second.
    expect(page.locator("#macro-ap")).to_have_text(f"{(1 / 2 + 1 / 2 + 1) / 3:.2%}")
    # Together: of 3, 3 the first is right, then 2, then one of 1, 1, then 0.5.
    expect(page.locator("#micro-ap")).to_have_text(f"{(1 / 2 + 2 / 3 + 3 / 5 + 4 / 6) / 4:.2%}")
    expect(page.locator("#precision-at")).to_have_text("66.7 · 26.7 · 13.3%")
    expect(page.locator("#recall-at")).to_have_text("66.7 · 100.0 · 100.0%")
    expect(page.locator("#images")).to_have_text("4")
    expect(page.locator("#unlabelled")).to_contain_text("1 without a label")
    cells = [row.locator("th, td").all_inner_texts() for row in page.locator("#per-label tbody tr").all()]
    assert [text.strip() for text in cells[1][:7]] == ["dog", "3", "1", "50.0%", "50.0%", "100.0%", "66.7%"]
    assert cells[2][7:] == ["0.500", f"{float(torch.tensor(-0.25).sigmoid()):.3f}"]
    # Owl is on two images, so it comes first; it is said of both, of one of them with cat and dog.
    counted = page.locator("#together-said tbody td").evaluate_all("cells => cells.map((c) => c.ariaLabel)")
    assert counted[:3] == ["owl: 2 images", "of 2 said owl, also cat: 1", "of 2 said owl, also dog: 1"]
    counted = page.locator("#together-true tbody td").evaluate_all("cells => cells.map((c) => c.ariaLabel)")
    assert counted[:3] == ["owl: 2 images", "of 2 true owl, also cat: 0", "of 2 true owl, also dog: 1"]


def test_thresholds_are_told_as_they_came_about(open_page: Open, tmp_path: Path) -> None:
    for tuned, split, words in (
        (True, "test", "tuned on the val part after training."),
        (True, "val", "tuned on the val part after training: measured on that part, it is optimistic."),
        (False, "val", "a threshold of 0.5 for every label: none was tuned."),
    ):
        text = BY_HAND.report(tmp_path / "report.html", tuned=tuned, split=split).read_text()
        assert words in text
    assert "how frequent they are in these images themselves" in text


def test_the_baseline_ranks_only_what_was_looked_for() -> None:
    rows = torch.tensor([[2, -(0 + 2), -1]])  # it is of class 2 and not of class 0; nobody looked for class 1
    found = label_sections.baseline(rows, [3, 2, 1], 3, True)
    assert found == {"map": 1 / 2, "images": 1, "all": True, "known": True}
    assert label_sections.baseline(rows, [3, 2, 1], 3, False)["map"] == pytest.approx(1 / 3)
    assert label_sections.baseline(torch.full((2, 1), -1), None, 3, False) is None
    unknown = label_sections.baseline(
        torch.tensor([[0, 7]]), None, 3, False
    )  # 7 is no label of the network's: a miss
    assert (unknown["map"], unknown["known"]) == (1 / 2, False)
    # The ranking is 2, 3, 1: 2 is found first and weighs 3, 1 third and weighs 1; the other image weighs nothing.
    heavy = torch.tensor([1.0, 1.0, 3.0, 0.0], dtype=torch.float64)
    rows = torch.tensor([[1, 2], [3, -1]])
    weighed = label_sections.baseline(rows, [1, 5, 9, 7], 4, False, heavy)
    assert weighed["map"] == pytest.approx((3 * 1 + 1 * 2 / 3) / 4)
    many = label_sections.baseline(torch.zeros(10_000, 1, dtype=torch.int64), None, 3, False)
    assert (many["images"], many["all"]) == (label_sections.MOST_RANKED, False)


def test_labels_are_counted_together(twenty: Made) -> None:
    counted = label_sections.counted_together(torch.tensor([[0, 2], [2, -1], [9, 2], [-3, 0]]), [2, 0], 3)
    assert counted.tolist() == [[3, 1], [1, 2]]
    rows, said = twenty.split.targets(torch.arange(300)), twenty.evaluation.said
    found = label_sections.together(twenty.evaluation, rows, said)
    assert found["labels"][:3] == twenty.evaluation.per_label.support.argsort(descending=True)[:3].tolist()
    for kind, sets in (("true", twenty.rows), ("said", [row[row >= 0].tolist() for row in said])):
        for i, first in enumerate(found["labels"]):
            for j, second in enumerate(found["labels"]):
                assert found[kind][i][j] == sum(first in row and second in row for row in sets)
    apart = [abs(pair["true"] - pair["said"]) for pair in found["differences"]]
    assert apart == sorted(apart, reverse=True)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_it_opens_offline_fits_and_is_read(report: Path, open_page: Open, width: int, scheme: str) -> None:
    page = open_page(report, width=width, scheme=scheme, touch=width < 600)
    assert not scrolls_sideways(page)
    assert page.evaluate(CONTRAST) == []
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator("th:not([scope])").count() == 0


def test_curves_are_the_evaluations_and_can_be_switched(report: Path, open_page: Open, twenty: Made) -> None:
    page = open_page(report)
    names = "c.data.map(t => t.name)"
    frequent = [twenty.classes[k] for k in twenty.evaluation.curves if k >= 0]
    assert plotted(page, "precision", names) == ["all labels together", *frequent[:5]]
    for at, k in ((0, -1), (1, next(k for k in twenty.evaluation.curves if k >= 0))):
        shown = plotted(page, "precision", f"c.data[{at}].x.map((x, k) => [x, c.data[{at}].y[k]])")
        assert [value for point in shown for value in point] == pytest.approx(
            [value for point in twenty.evaluation.curves[k] for value in point], abs=1e-5
        )
    button = page.locator("#precision-legend button", has_text=frequent[7])
    expect(button).to_have_attribute("aria-pressed", "false")
    button.click()
    assert plotted(page, "precision", names)[-1] == frequent[7]
    page.locator("#precision-legend button").first.click()
    assert plotted(page, "precision", names)[0] == frequent[0]


def test_a_cell_tells_what_is_true_and_what_was_said(report: Path, open_page: Open, twenty: Made) -> None:
    page = open_page(report)
    first, second = twenty.evaluation.per_label.support.argsort(descending=True, stable=True)[:2].tolist()
    cell = page.locator("#together-true tbody tr").nth(0).locator("td").nth(1)
    cell.hover()
    shares = []
    for sets in (twenty.rows, [row.tolist() for row in twenty.evaluation.said]):
        own = [row for row in sets if first in row]
        shares.append(sum(second in row for row in own) / len(own))
    expect(page.locator("#tip small")).to_have_text(f"true {shares[0]:.1%}, said {shares[1]:.1%}")
    expect(page.locator("#together-said td.twin")).to_have_attribute("data-share", f"{100 * shares[1]:.1f}")
    assert page.locator("th.lit").all_inner_texts() == [NAMES[second], NAMES[first]] * 2
    cell.focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#tip")).to_contain_text(f"{NAMES[second]}: ")


def test_the_worst_mistakes_have_their_labels(report: Path, open_page: Open, twenty: Made) -> None:
    page = open_page(report)
    for kind, doubts in (("wrong", twenty.evaluation.wrong), ("missed", twenty.evaluation.missed)):
        places = list(dict.fromkeys(doubt.place for doubt in doubts))[:MOST_DOUBTS]
        cards = page.locator(f"#{kind} li").all()
        assert [card.locator(".file").get_attribute("title") for card in cards] == [
            f"test/{i:04d}.png" for i in places
        ]
        doubt, lines = doubts[0], cards[0].locator("dd").all_inner_texts()
        assert lines[0].split("\n") == [NAMES[doubt.label], f"{doubt.probability:.1%}"]
        others = [NAMES[k] for k in twenty.rows[doubt.place] if k != doubt.label]
        assert lines[1].strip() == (", ".join(others) or "nothing else")
        said = [k for k in twenty.evaluation.said[doubt.place].tolist() if k >= 0]
        others = [NAMES[k] for k in said if k != doubt.label]
        assert lines[2].strip().startswith(", ".join(others[:5]) or "nothing else")
        assert (doubt.label in said) == (kind == "wrong")


def test_an_image_that_is_gone_is_passed_over(twenty: Made) -> None:
    gone = twenty.evaluation.wrong[0].place

    class Files(Pictures):
        def image(self, i: int) -> Tensor:
            if i == gone:
                raise DepthwiseError("the file is gone")
            return super().image(i)

    found = collect_findings(twenty.evaluation, Files(twenty.split.images, twenty.split.labels))
    names = [doubted.name for doubted in found.wrong]
    assert f"test/{gone:04d}.png" not in names
    assert len(set(names)) == len(names) == MOST_DOUBTS


def column(page: Page, table: str, number: int) -> list[str]:
    cells = page.locator(f"#{table} tbody tr:not(.gap) > :nth-child({number})")
    return [text.strip() for text in cells.all_inner_texts()]


def test_the_table_of_labels_sorts_and_searches(open_page: Open, tmp_path: Path) -> None:
    made = drawn(40, [*NAMES, "nobody has it"])
    made = Made([[k for k in row if k < 20] for row in made.rows], made.logits, made.classes)
    page = open_page(made.report(tmp_path / "report.html"))
    names = sorted(made.classes, key=natural_key)
    assert column(page, "per-label", 1) == names
    ap = made.evaluation.per_label.average_precision
    header = page.locator("#per-label th", has_text="AP")
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "descending")
    known = [k for k in range(21) if ap[k].isfinite()]
    assert column(page, "per-label", 3) == [
        *[f"{float(ap[k]):.1%}" for k in sorted(known, key=lambda k: -float(ap[k]))],
        *[NOTHING] * (21 - len(known)),
    ]
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert column(page, "per-label", 3)[-1] == NOTHING, "what has no number stays at the end"
    assert column(page, "per-label", 3)[0] == f"{float(min(ap[k] for k in known)):.1%}"
    page.get_by_label("Find a label").fill(" TAG 1")
    expect(page.locator("#labels output")).to_have_text("11 of 21")
    assert len(column(page, "per-label", 1)) == 11
    page.locator("#per-label th", has_text="Label").get_by_role("button").click()
    assert column(page, "per-label", 1) == [name for name in names if name.startswith("tag 1")]
    page.get_by_label("Find a label").fill("no such")
    expect(page.locator("#labels output")).to_have_text("0 of 21")
    assert column(page, "per-label", 1) == []
    expect(header).not_to_have_attribute("aria-sort", "ascending")


@pytest.fixture(scope="module")
def jft(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Path]:
    made = drawn(60, [f"label number {k}" for k in range(17_000)])
    path = tmp_path_factory.mktemp("labels") / "report.html"
    return made, made.report(path, train=torch.arange(17_000, 0, -1).tolist())


@pytest.mark.parametrize("width", [1280, 390])
def test_17000_labels(jft: tuple[Made, Path], open_page: Open, width: int) -> None:
    made, path = jft
    assert path.stat().st_size < 5e6
    page = open_page(path, width=width)
    assert not scrolls_sideways(page)
    assert page.evaluate("document.querySelectorAll('*').length") < 8000
    for table in ("per-label", "counts"):
        assert 10 < page.locator(f"#{table} tbody tr").count() < 80
        expect(page.locator(f"#{table}")).to_have_attribute("aria-rowcount", "17001")
        box = page.locator(".scroll", has=page.locator(f"#{table}"))
        box.evaluate("box => { box.scrollIntoView({ block: 'center' }); box.scrollTop = box.scrollHeight; }")
        last = page.locator(f"#{table} tbody tr").last
        expect(last).to_have_attribute("aria-rowindex", "17001")
        expect(last).to_be_in_viewport()
        expect(last.locator("th")).to_have_text("label number 16999")
        height = box.evaluate("box => box.scrollHeight")
        box.evaluate("box => { box.scrollTop = box.scrollHeight / 2; }")
        expect(page.locator(f"#{table} tbody tr[aria-rowindex='8501']")).to_be_in_viewport()
        assert box.evaluate("box => box.scrollHeight") == pytest.approx(height, abs=2)
    page.locator("#per-label th", has_text="Support").get_by_role("button").click()
    support = made.evaluation.per_label.support
    assert [int(text) for text in column(page, "per-label", 3)[:30]] == support.sort(descending=True).values[
        :30
    ].tolist()
    page.get_by_label("Find a label").fill("number 1699")
    expect(page.locator("#labels output")).to_have_text("11 of 17,000")
    assert sorted(column(page, "per-label", 1)) == sorted(n for n in made.classes if "number 1699" in n)


def test_it_is_printed_whole(report: Path, open_page: Open) -> None:
    page = open_page(report)
    page.locator(".scroll", has=page.locator("#per-label")).evaluate(
        "box => { box.style.maxHeight = '90px'; }"
    )
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(column(page, "per-label", 1)) == 20


def test_names_that_are_markup_stay_text(open_page: Open, tmp_path: Path) -> None:
    class Evil(Pictures):
        def name(self, i: int) -> str:
            return f"{EVIL[i % 4]}/{EVIL[i % 4]}.png"

    made = drawn(100, [*EVIL, *(f"tag {k}" for k in range(60))])
    made.split = Evil(made.split.images, made.split.labels)
    page = open_page(
        made.report(tmp_path / "report.html", split=EVIL[0], train=[9] * 64)
    )  # it would fail in the end
    names = sorted(made.classes, key=natural_key)
    assert column(page, "per-label", 1)[:10] == names[:10]
    assert column(page, "counts", 1)[:10] == names[:10]
    page.get_by_label("Find a label").fill("<img")
    assert column(page, "per-label", 1) == [EVIL[1]]
    shown = plotted(page, "precision", "c.data.map(t => t.name)")
    assert {EVIL[0].replace("<", "&lt;"), EVIL[1].replace("<", "&lt;")} <= set(shown)
    page.locator("#together-true tbody tr").nth(0).locator("td").nth(1).hover()
    expect(page.locator("#tip")).to_contain_text("also ")
    assert page.locator("main img[src='x'], main script, main b:text('bold')").count() == 0
    assert not scrolls_sideways(page)


def test_two_labels_and_no_mistakes(open_page: Open, tmp_path: Path) -> None:
    made = Made([[0], [1], [0, 1]], torch.tensor([[4.0, -4.0], [-4.0, 4.0], [4.0, 4.0]]), ["cat", "dog"])
    page = open_page(made.report(tmp_path / "report.html"))
    expect(page.locator("#map")).to_have_text("100.00%")
    expect(page.locator("#doubts")).to_contain_text("Every label that it said is right.")
    expect(page.locator("#doubts")).to_contain_text("It missed none.")
    alone = Made([[0]], torch.tensor([[4.0, -4.0]]), ["cat", "dog"]).report(tmp_path / "report.html")
    assert open_page(alone).locator("#together").count() == 0
