"""`depthwise models`: the catalogue, and one network in detail."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from depthwise.cli.options import Json
from depthwise.cli.output import console, print_json, table
from depthwise.errors import unknown_name

if TYPE_CHECKING:
    from depthwise.models import Entry


def models(
    name: Annotated[str | None, Parameter(help="A network of the catalogue, to see it in detail.")] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """List the networks there are: size, cost and the accuracy their papers state on ImageNet.

    Example: depthwise models xception
    """
    from depthwise.models import CATALOGUE

    if name is not None and name not in CATALOGUE:
        raise unknown_name("model", name, CATALOGUE)
    if json:
        print_json(_detail(CATALOGUE[name]) if name else [_published(entry) for entry in CATALOGUE.values()])
    elif name:
        _print_detail(CATALOGUE[name])
    else:
        _print_list(list(CATALOGUE.values()))


def _print_list(entries: "list[Entry]") -> None:
    numbers = ("parameters", "MB", "GMAC", "input", "top-1", "top-5")
    rows = table("model", *numbers, "accuracy from", "paper", right=numbers)
    for entry in entries:
        rows.add_row(
            entry.name,
            f"{entry.parameters:,}",
            f"{entry.parameters * 4 / 1e6:.0f}",
            f"{entry.macs / 1e9:.2f}",
            str(entry.input_size),
            *("-" if accuracy is None else f"{accuracy:.1%}" for accuracy in (entry.top1, entry.top5)),
            entry.accuracy_source,
            entry.paper.partition(",")[0],
        )
    console().print(rows)


def _print_detail(entry: "Entry") -> None:
    rows = table("", entry.name)
    for key, value in _detail(entry).items():
        if key not in ("name", "arguments"):
            rows.add_row(key.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    console().print(rows)
    arguments = table("argument", "default")
    for key, default in _detail(entry)["arguments"].items():
        arguments.add_row(key, str(default))
    console().print(arguments)


def _published(entry: "Entry") -> dict[str, Any]:
    return {
        "name": entry.name,
        "parameters": entry.parameters,
        "macs": entry.macs,
        "input_size": entry.input_size,
        "top1": entry.top1,
        "top5": entry.top5,
        "paper": entry.paper,
        "accuracy_source": entry.accuracy_source,
        "weights_source": entry.weights_source,
    }


def _detail(entry: "Entry") -> dict[str, Any]:
    """What is published, and the arguments to build the network with: their defaults, or the names of these."""
    import inspect

    plain = (bool, int, float, str, tuple, type(None))
    defaults = {name: p.default for name, p in inspect.signature(entry.builder).parameters.items()}
    arguments = {
        name: value if isinstance(value, plain) else getattr(value, "__name__", str(value))
        for name, value in defaults.items()
    }
    return {**_published(entry), "arguments": arguments}
