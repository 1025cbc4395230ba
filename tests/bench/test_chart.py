"""The chart of a benchmark in a real browser, offline, in both schemes."""

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from depthwise.bench import Comparison, Measured
from depthwise.bench.chart import write_chart

PEAKS = {"fp32": (40e9,), "bf16": (80e9,), "memory": (5e9,)}


def comparison(batch: int, speed: float) -> Comparison:
    """Of 2-GMAC images: bf16 is twice as fast as fp32, which makes `speed` images a second."""
    engines = (
        Measured("pytorch", "fp32", (batch / speed,) * 2),
        Measured("depthwise bf16", "bf16", (batch / speed / 2,) * 2),
        Measured("openvino int8", "int8", absent="<b>nncf</b> is not installed"),
    )
    return Comparison(batch, 2, engines, PEAKS)


def document(runs: list[Comparison], sweeps: dict[str, list[int]]) -> dict[str, Any]:
    return {
        "kind": "inference",
        "peer": "",
        "network": "mobilenet_v1",
        "image": [3, 224, 224],
        "macs": 2_000_000_000,
        "batch": 1,
        "threads": 2,
        "sweeps": sweeps,
        "rounds": 2,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": {"processor": "a processor"},
        "runs": [run.to_json(2_000_000_000) for run in runs],
    }


def traces(browser: Browser, page_file: Path, scheme: Any) -> list[dict[str, Any]]:
    """What the first chart shows; nothing may be asked of the network or end in the console."""
    trouble: list[str] = []
    context = browser.new_context(color_scheme=scheme, offline=True)
    page = context.new_page()
    page.on("console", lambda message: trouble.append(message.text))
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.goto(page_file.as_uri())
    page.wait_for_function("() => document.querySelector('.chart').data", timeout=120_000)
    shown = page.evaluate(
        """() => document.querySelector('.chart').data.map((trace) =>
            ({ type: trace.type, name: trace.name, x: trace.x, y: trace.y }))"""
    )
    assert "<b>nncf</b> is not installed" in page.inner_text("main")
    context.close()
    assert trouble == []
    return list(shown)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_bars_stand_beside_their_roofline(browser: Browser, tmp_path: Path, scheme: str) -> None:
    write_chart(document([comparison(1, 8.0)], {}), tmp_path / "chart.html")
    assert traces(browser, tmp_path / "chart.html", scheme) == [
        {"type": "bar", "name": "fp32", "x": [8], "y": ["pytorch"]},
        {"type": "scatter", "name": "fp32 peak", "x": [20], "y": ["pytorch"]},
        {"type": "bar", "name": "bf16", "x": [16], "y": ["depthwise bf16"]},
        {"type": "scatter", "name": "bf16 peak", "x": [40], "y": ["depthwise bf16"]},
    ]


def test_a_sweep_is_a_line_for_each_engine(browser: Browser, tmp_path: Path) -> None:
    runs = [comparison(1, 8.0), comparison(4, 10.0)]
    write_chart(document(runs, {"batch": [1, 4]}), tmp_path / "chart.html")
    shown = traces(browser, tmp_path / "chart.html", "light")
    assert [trace["name"] for trace in shown] == ["pytorch", "fp32 peak", "depthwise bf16", "bf16 peak"]
    assert all(trace["x"] == ["1", "4"] for trace in shown)
    assert shown[0]["y"] == [8, 10]
    assert shown[3]["y"] == [40, 40]
