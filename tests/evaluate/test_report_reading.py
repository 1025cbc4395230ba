"""What a person reads off the report: numbers that differ look different, nothing is cut without a hint, and terms
are explained where they stand."""

from typing import Any

import pytest
import torch
from playwright.sync_api import Page, expect
from report_parts import Open, Write

from depthwise.evaluate import settings
from depthwise.evaluate.classes import Mistake
from depthwise.evaluate.metrics import from_logits
from depthwise.evaluate.report import ReportData
from depthwise.evaluate.sections import cut_name, cut_path

LONG = "/home/someone/pictures of birds/2026/robin/IMG_20260101_000027_edited-final-version.jpeg"


def history(accuracy: float, apart: float, rate: float, steps: int = 12) -> list[dict[str, Any]]:
    return [
        {
            "kind": "train",
            "step": k,
            "epoch": k / steps,
            "seconds": 2.0 * k,
            "loss": 1e-4 * (2 - k / steps),
            "accuracy": accuracy + apart * k,
            "lr": 1e-5,
            "images_per_second": rate * (1 + k / 50),
        }
        for k in range(1, steps + 1)
    ]


def ticks(page: Page, chart: str, axis: str = "y") -> list[str]:
    return page.locator(f"#chart-{chart} .{axis}tick text").all_text_contents()


@pytest.mark.parametrize(
    ("accuracy", "apart", "rate"),
    [(0.001, 1e-5, 0.45), (0.5, 0.01, 45.0), (0.9991, 1e-6, 45_000.0), (0.3, 0.0, 0.002)],
)
def test_ticks_differ_and_are_plain_numbers(
    write: Write, open_page: Open, accuracy: float, apart: float, rate: float
) -> None:
    page = open_page(write(history=history(accuracy, apart, rate)))
    for chart in ("accuracy", "loss", "lr", "rate", "reliability", "coverage"):
        for axis in "xy":
            found = ticks(page, chart, axis)
            assert found
            assert len(set(found)) == len(found), (chart, found)
            assert not [
                text
                for text in found
                if text.strip("%").lstrip("-\u2212").replace(",", "").strip("0123456789.")
            ]


def test_few_answers_have_ticks_of_their_own(write: Write, open_page: Open) -> None:
    labels = torch.zeros(5000, dtype=torch.int64)
    logits = torch.tensor([[5.0, 0.0]]).repeat(5000, 1)
    logits[:2] = torch.tensor([0.0, 0.1])
    page = open_page(
        write(classes=["a", "b"], evaluation=from_logits(logits, labels), findings=[], samples={}, counts={})
    )
    found = ticks(page, "coverage")
    assert len(set(found)) == len(found) > 1


def test_one_epoch_is_singular(write: Write, open_page: Open) -> None:
    page = open_page(write(history=history(0.5, 0.01, 0.5)))
    facts = page.locator(".facts").inner_text().split("\n")
    assert "1 epoch, 12 steps" in facts
    assert "0.565 images a second" in facts


def test_terms_are_explained_where_they_stand(digits_report: Any, write: Write, open_page: Open) -> None:
    page = open_page(digits_report)
    expect(page.locator(".stats > div", has=page.locator("#loss"))).to_contain_text(
        "0 is perfect, guessing gives 2.30"
    )
    expect(page.locator(".stats > div", has_text="Calibration error")).to_contain_text(
        "how far its certainty is from"
    )
    expect(page.locator("#learning")).to_contain_text("averaged: their moving average")
    raw = open_page(write(history=history(0.5, 0.01, 0.5)))
    expect(raw.locator("#learning")).not_to_contain_text("moving average")


def test_a_mistakes_file_name_is_whole(write: Write, open_page: Open, digits: ReportData) -> None:
    image = digits.findings[0].image
    names = [LONG, "写真.png", "a/" * 40 + "b.png", "x" * 200 + ".png", "-rf.png"]
    for width in (1280, 390):
        page = open_page(
            write(findings=[Mistake(name, image, 0, 1, 0.9, 0.1) for name in names]), width=width
        )
        for shown, name in zip(page.locator(".file").all(), names, strict=True):
            own = shown.locator("bdi").last
            assert own.inner_text() == name.rpartition("/")[2]
            assert own.evaluate("e => e.scrollWidth <= e.clientWidth && e.scrollHeight <= e.clientHeight")
            assert shown.get_attribute("title") == name


def test_on_a_phone_what_goes_on_beyond_the_edge_says_so(
    write: Write, open_page: Open, digits: ReportData
) -> None:
    classes = [f"a class with a long name, number {k}" for k in range(10)]
    page = open_page(write(classes=classes), width=390, touch=True)
    hint = page.locator(".onward")
    for box in (page.locator("nav"), page.locator(".matrix-box")):
        assert box.get_attribute("data-more") == "right"
        assert "gradient" in box.evaluate("e => getComputedStyle(e).maskImage")
        box.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
        page.wait_for_function("e => e.dataset.more === 'left'", arg=box.element_handle())
        last = box.locator("a, tbody tr:first-child td").last.bounding_box()
        assert last is not None
        assert last["x"] + last["width"] <= 390
    expect(hint).to_be_visible()
    # The names' ends, which tell them apart, are there.
    ends = page.locator("#matrix tbody th .name span:last-child")
    assert [text[-1] for text in ends.all_inner_texts()] == list("0123456789")
    wide = open_page(write(classes=classes))
    assert wide.locator("nav[data-more], .matrix-box[data-more]").count() == 0
    expect(wide.locator(".onward")).to_be_hidden()


def test_the_first_command_stays_and_resumes_stand_beside_it(write: Write, open_page: Open) -> None:
    first = ["depthwise", "train", "--out", "my run"]
    resumes = [
        {"command": [*first, "--resume"], "time": "", "step": step, "changed": []} for step in (5, 1200)
    ]
    page = open_page(write(command=first, resumes=resumes))
    expect(page.locator("#command")).to_have_text("depthwise train --out 'my run'")
    line = "depthwise train --out 'my run' --resume from step"
    assert page.locator("#resumes li").all_inner_texts() == [f"{line} 5", f"{line} 1,200"]
    expect(page.locator("#again")).to_contain_text("went on 2 times, which changes nothing of the result:")
    resumes[1]["changed"] = ["recipe.epochs: 1 -> 2"]
    page = open_page(write(command=first, resumes=resumes))
    expect(page.locator("#again")).to_contain_text("went on 2 times:")
    expect(page.locator("#resumes")).to_contain_text("from step 1,200, with changes: recipe.epochs: 1 -> 2")
    assert open_page(write(command=first)).locator("#resumes").count() == 0


RECIPE = {
    "model": "xception",
    "model_args": {},
    "preprocess": {"kind": "preprocess", "size": [64, 64], "channels": None, "mean": []},
    "clip_norm": 0.0,
    "norm_momentum": None,
    "averaging": 0.0,
    "augment": {
        "kind": "augment",
        "crop": "shift",
        "scale": [0.08, 1.0],
        "shift": 2,
        "randaugment": 0,
        "magnitude": 9,
    },
    "optimizer": {"kind": "sgd", "lr": 0.1},
}


def test_a_recipe_says_what_was_used() -> None:
    preprocess = {"size": (64, 96), "channels": 3, "mean": (0.5, 0.5, 0.5), "stretch": False}
    groups = {name: dict(rows) for name, rows in settings.groups(RECIPE, preprocess)}
    assert groups["preprocessing"] == {
        "size": "64x96 pixels",
        "channels": "3",
        "mean": "0.5, 0.5, 0.5",
        "stretch": "no",
    }
    assert groups[""] == {
        "model": "xception",
        "model_args": "the network's own",
        "clip_norm": "off",
        "norm_momentum": "the network's own",
        "averaging": "off",
    }
    assert groups["augment"] == {"crop": "shift", "shift": "2", "randaugment": "off"}
    assert groups["optimizer"] == {"kind": "sgd", "lr": "0.1"}


def test_paths_and_names_are_cut_where_it_hurts_least() -> None:
    assert cut_path(LONG) == (LONG.rpartition("/")[0] + "/", "IMG_20260101_000027_edited-final-version.jpeg")
    assert cut_path("a.png") == ("", "a.png")
    assert cut_name("class number 11") == ("class numb", "er 11")
    assert cut_name("short name") == ("", "short name")
    assert cut_name("abcdefghe\u0301fghi") == ("abcdefgh", "e\u0301fghi")
    assert "".join(cut_name("a family: 👨\u200d👩\u200d👧 x")) == "a family: 👨\u200d👩\u200d👧 x"
