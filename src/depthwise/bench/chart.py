"""The document of `depthwise bench` as a page with its charts: one HTML file, to be opened offline."""

from pathlib import Path
from typing import Any

from depthwise.bench.compare import swept
from depthwise.bench.roofline import PRECISIONS
from depthwise.evaluate.report import packed_plotly, page_environment, page_part
from depthwise.writing import written_whole


def write_chart(document: dict[str, Any], path: Path) -> None:
    """Bars of images a second by engine; for a document with sweeps a line for each engine.

    Raises what `written_whole` does.
    """
    sweeps = {key: swept(document, key) for key in document["sweeps"]}
    runs = [] if sweeps else document["runs"]
    charts = [_chart("", run["batch"], runs, document["macs"]) for run in runs]
    charts += [
        _chart(key, [run[key] for run in each], each, document["macs"]) for key, each in sweeps.items()
    ]
    absent = {
        row["engine"]: row["absent"] for run in document["runs"] for row in run["engines"] if "absent" in row
    }
    page = (
        page_environment("depthwise.bench")
        .get_template("chart.html")
        .render(
            document=document,
            what=f"{'training ' if document['kind'] == 'training' else ''}{document['network']}",
            charts=charts,
            absent=absent,
            style=page_part("report.css"),
            plotly=packed_plotly(),
        )
    )
    with written_whole(path) as file:
        file.write(page.encode())


def _chart(key: str, values: Any, runs: list[dict[str, Any]], macs: int) -> dict[str, Any]:
    """Of each precision its engines' images a second, a number a run (None where it was left out), and its roofline."""
    rows = runs[0]["engines"]
    groups = []
    for precision in PRECISIONS:
        engines = []
        for place, row in enumerate(rows):
            speeds = [run["engines"][place].get("images_per_second") for run in runs]
            if row["precision"] == precision and any(speeds):
                milliseconds = [run["engines"][place].get("milliseconds") for run in runs]
                engines.append({"name": row["engine"], "speeds": speeds, "milliseconds": milliseconds})
        engines.sort(key=lambda engine: max(filter(None, engine["speeds"])))
        peaks = [run["peak_gmacs_per_second"].get(precision) for run in runs]
        roofline = [peak and 1e9 * peak / macs for peak in peaks]
        groups.append({"precision": precision, "engines": engines, "roofline": roofline if engines else []})
    return {"key": key, "values": values, "groups": groups}
