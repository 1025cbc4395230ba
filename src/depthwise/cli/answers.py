"""What `depthwise predict` found, as a table for people."""

from collections.abc import Iterable

from depthwise.batch.forms import Document
from depthwise.cli.output import console, table


def as_table(documents: Iterable[Document], threshold: float | None = None) -> None:
    """On standard output."""
    rows = table("image", "class", "probability", right=("probability",))
    for each in documents:
        name = each["image"]
        if "error" in each:
            rows.add_row(name, f"cannot be read: {each['error']}", "", style="red")
            continue
        if not each["predictions"]:
            least = "its threshold" if threshold is None else f"{threshold:.2%}"
            rows.add_row(name, f"none reaches {least}", "")
        for rank, answer in enumerate(each["predictions"]):
            rows.add_row("" if rank else name, answer["class"], f"{answer['probability']:.2%}")
    console().print(rows)
