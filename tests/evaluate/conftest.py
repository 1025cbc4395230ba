"""A real browser for the report, and a real small training for it to tell of."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page
from report_parts import Open, Pictures, Write
from sklearn.datasets import load_digits
from torch import Tensor, nn

from depthwise.evaluate.classes import class_page, collect_mistakes, collect_samples
from depthwise.evaluate.metrics import from_logits
from depthwise.evaluate.report import ReportData, write_report


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Opens a file offline; afterwards no request, no error in the console, and no dialog may have come of it."""
    trouble: list[str] = []
    contexts = []

    def open_file(path: Path, *, width: int = 1280, scheme: Any = "light", touch: bool = False) -> Page:
        own = path.as_uri()
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            offline=True,
            has_touch=touch,
            reduced_motion="reduce",
        )
        context.set_default_timeout(120_000)
        contexts.append(context)
        page = context.new_page()
        page.on(
            "request",
            lambda r: trouble.append(r.url) if not r.url.startswith((own, "data:", "blob:")) else None,
        )
        page.on("console", lambda m: trouble.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("dialog", lambda dialog: (trouble.append(dialog.message), dialog.dismiss()))
        page.goto(own)
        page.wait_for_function(
            "() => [...document.querySelectorAll('.chart')].every((c) => c.closest('[hidden]') || c.data)"
        )
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert trouble == []


@pytest.fixture(scope="session")
def digits() -> ReportData:
    """Softmax regression on scikit-learn's digits, raw and averaged, with all that a run records."""
    pixels, targets = load_digits(return_X_y=True)
    images = torch.tensor(pixels * 255 / 16).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    labels = torch.tensor(targets)
    train, test = Pictures(images[:1400], labels[:1400]), Pictures(images[1400:], labels[1400:])
    history, logits = softmax_regression(train, test)
    evaluation = from_logits(logits, test.labels)
    return ReportData(
        title="softmax on digits",
        history=history,
        classes=[f"digit {k}" for k in range(10)],
        evaluation=evaluation,
        page=class_page,
        split="test",
        findings=collect_mistakes(evaluation, test),
        samples=collect_samples(train, 10),
        counts={"train": train.labels.bincount().tolist(), "test": test.labels.bincount().tolist()},
        cost={"parameters": 650, "macs": 640, "input_shape": [1, 8, 8]},
        recipe={
            "model": "softmax",
            "epochs": 5.0,
            "flip": False,
            "optimizer": {"lr": 0.05, "betas": [0.9, 0.9]},
        },
        versions={"depthwise": "0.1.0", "torch": torch.__version__},
        command=["depthwise", "train", "--data", "digits", "--out", "runs/my first"],
        data={"spec": "digits", "fingerprint": "3f9c", "split_source": "the first 1400 train", "bad": 0},
    )


def softmax_regression(train: Pictures, test: Pictures) -> tuple[list[dict[str, Any]], Tensor]:
    """The records of 100 steps, and the averaged weights' scores of the test images."""
    generator = torch.Generator().manual_seed(0)
    x, held_out = (split.images.flatten(1) / 255 - 0.3 for split in (train, test))
    weight = torch.zeros(65, 10, requires_grad=True)
    averaged = torch.zeros(65, 10)
    history: list[dict[str, Any]] = []

    def scores(w: Tensor, inputs: Tensor) -> Tensor:
        return inputs @ w[:64] + w[64]

    def record(kind: str, step: int, **values: Any) -> None:
        position = {
            "kind": kind,
            "step": step,
            "epoch": step / 20,
            "samples": step * 70,
            "seconds": step * 2.5,
        }
        history.append(position | values)

    for step in range(1, 101):
        batch = torch.randint(len(x), (70,), generator=generator)
        logits, target = scores(weight, x[batch]), train.labels[batch]
        loss = nn.functional.cross_entropy(logits, target)
        (gradient,) = torch.autograd.grad(loss, weight)
        with torch.no_grad():
            weight -= 0.3 * gradient
            averaged.lerp_(weight, 1 / min(step, 20))
        accuracy = float((logits.argmax(1) == target).double().mean())
        record("train", step, loss=loss.item(), accuracy=accuracy, lr=0.3, images_per_second=28.0)
        kinds = ["eval"] * (step % 20 == 0) + ["test"] * (step == 100)
        for kind in kinds:
            for name, w in (("raw", weight.detach()), ("averaged", averaged)):
                result = from_logits(scores(w, held_out), test.labels)
                values = {"loss": result.loss, "top1": result.top1, "top5": result.top5}
                record(kind, step, split="test", weights=name, **values)
    return history, scores(averaged, held_out)


@pytest.fixture
def write(tmp_path: Path, digits: ReportData) -> Write:
    """Writes the report of the digits with some of its data replaced."""

    def write_with(**changes: Any) -> Path:
        path = tmp_path / "report.html"
        write_report(dataclasses.replace(digits, **changes), path)
        return path

    return write_with


@pytest.fixture(scope="session")
def digits_report(digits: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(digits, path)
    return path
