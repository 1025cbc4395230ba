"""The report of 17,000 labels in a browser: how large it is, and how soon it is there.

An evaluation is made up: images of 1 to 11 labels of a long tail, scores that know something of them. Its page is
written and opened from disk in Chromium, each time in a new context, offline. Times are the page's own clock, from the
start of the navigation: the first paint, the rows of the table of labels, and the charts drawn, with which all of it is
there. Then the table is sorted and searched, until its rows have changed.

    python benchmarks/report_size.py [--labels 17000] [--images 2000] [--rounds 9] [--json]
        [--out benchmarks/results/report-size.json]
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from playwright.sync_api import Browser, sync_playwright

from depthwise.data import ArraySplit
from depthwise.data.targets import LabelLists
from depthwise.evaluate.classes import collect_samples
from depthwise.evaluate.label_metrics import LabelMeters
from depthwise.evaluate.labels import collect_findings, label_page
from depthwise.evaluate.report import ReportData, write_report

BATCH = 100
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Looks every 5 ms, so that no time is taken for the page's while nothing of it runs.
CLOCK = """
const there = {}, look = () => {
  const charts = [...document.querySelectorAll('.chart')];
  if (document.querySelector('#per-label tbody tr')) there.table ??= performance.now();
  if (charts.length && charts.every((chart) => chart.data)) there.all = performance.now();
  else setTimeout(look, 5);
};
window.there = there;
look();
"""
USE = """() => {
  const times = {}, timed = (name, use) => {
    const start = performance.now();
    use();
    document.querySelector('#per-label').getBoundingClientRect();
    times[name] = performance.now() - start;
  };
  const input = document.querySelector('input[aria-controls="per-label"]');
  timed('sort', () => document.querySelector('#per-label thead th:nth-child(4) button').click());
  timed('search', () => { input.value = 'label 99'; input.dispatchEvent(new Event('input')); });
  return times;
}"""


def made_up(num_labels: int, num_images: int) -> ReportData:
    """All that the report tells of an evaluation on images of noise."""
    generator = torch.Generator().manual_seed(0)
    often = torch.arange(1, num_labels + 1).float() ** -0.8
    sizes = torch.randint(1, 12, (num_images,), generator=generator).tolist()
    rows = [torch.multinomial(often, size, generator=generator).tolist() for size in sizes]
    pixels = torch.randint(256, (num_images, 3, 64, 64), dtype=torch.uint8, generator=generator)
    split = ArraySplit(pixels, LabelLists.of(rows), "noise")
    meters = LabelMeters(num_labels, torch.full((num_labels,), 0.5))
    for places in torch.arange(num_images).split(BATCH):
        logits = torch.randn(len(places), num_labels, generator=generator) - 5
        for i, k in enumerate(places.tolist()):
            logits[i, rows[k]] += torch.randn(len(rows[k]), generator=generator) + 5
        meters.update(logits, split.targets(places), places)
    evaluation = meters.compute()
    counts = (3.5e6 * often / often.sum()).long()
    return ReportData(
        title=f"{num_labels:,} labels",
        history=[],
        classes=[f"label {k}, named at some length" for k in range(num_labels)],
        evaluation=evaluation,
        page=partial(label_page, tuned=True),
        split="test",
        findings=collect_findings(evaluation, split),
        samples=collect_samples(split, num_labels),
        counts={"train": counts.tolist(), "test": (counts // 10).tolist()},
        cost={},
        recipe={},
        versions={},
        command=[],
        data={},
    )


def opened(browser: Browser, path: Path) -> dict[str, float]:
    """Milliseconds of one opening, and of what is then done."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    page.add_init_script(CLOCK)
    page.goto(path.as_uri())
    page.wait_for_function("() => there.all")
    times: dict[str, float] = page.evaluate("() => there")
    times["paint"] = page.evaluate(
        "() => performance.getEntriesByName('first-contentful-paint')[0].startTime"
    )
    times |= page.evaluate(USE)
    context.close()
    return times


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--labels", type=int, default=17_000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--out", type=Path, help="also write that document here")
    arguments = parser.parse_args()
    data = made_up(arguments.labels, arguments.images)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path, start = Path(folder) / "report.html", time.perf_counter()
        write_report(data, path)
        seconds, size = time.perf_counter() - start, path.stat().st_size
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        rounds = [opened(browser, path) for _ in range(arguments.rounds)]
        version = browser.version
        browser.close()
    names = ("paint", "table", "all", "sort", "search")
    values = {name: sorted(round(times[name], 1) for times in rounds) for name in names}
    result: dict[str, Any] = {
        "labels": arguments.labels,
        "images": arguments.images,
        "bytes": size,
        "seconds_to_write": round(seconds, 2),
        "browser": f"Chromium {version}",
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "milliseconds": {
            name: {"median": statistics.median(times), "lowest": times[0], "highest": times[-1]}
            for name, times in values.items()
        },
    }
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    if arguments.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{size / 1e6:.1f} MB, written in {seconds:.1f} s")
    for name, times in result["milliseconds"].items():
        print(f"{name:8}{times['median']:8.0f} ms ({times['lowest']:.0f} to {times['highest']:.0f})")


if __name__ == "__main__":
    main()
