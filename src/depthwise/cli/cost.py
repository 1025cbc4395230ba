"""`depthwise cost`: the bill of a network, a bundle or a kind of layer, beside regular convolutions."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from depthwise.cli.options import Json
from depthwise.cli.output import console, note, print_json, say, table
from depthwise.cli.subject import (
    Classes,
    Name,
    Settings,
    Size,
    Subject,
    build_subject,
    find_subject,
    parse_sides,
)
from depthwise.errors import UsageError, shown, unknown_name

if TYPE_CHECKING:
    from torch import nn

    from depthwise.analysis.cost import Cost

TOTALS = {
    "parameters": ("parameters", 1, ",.0f"),
    "macs": ("multiply-adds, million", 1e6, ",.2f"),
    "activation_bytes": ("outputs of all layers, MB", 1e6, ",.2f"),
    "inference_bytes": ("inference, most at once, MB", 1e6, ",.2f"),
    "training_bytes": ("training, kept for backward, MB", 1e6, ",.2f"),
    "bytes_moved": ("memory traffic, MB", 1e6, ",.2f"),
    "intensity": ("multiply-adds a byte", 1, ",.2f"),
}
"""What a bill adds up to, with its name, unit and format for people."""


def cost(
    name: Name,
    /,
    *,
    size: Size = None,
    classes: Classes = None,
    settings: Settings = None,
    sweep: Annotated[
        str | None,
        Parameter(help="key=value,value,...: a row for each value of an argument, or of size."),
    ] = None,
    match: Annotated[
        str | None,
        Parameter(
            help="parameters=4e6, macs=5e8 or milliseconds=20: the widest network within this budget instead."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Count parameters, multiply-adds and memory, layer by layer, and against regular convolutions.

    A kind of layer is counted for itself and beside its closed formula; its map is 32x32 unless --size says other.
    MobileNet's multipliers are one sweep each, of width and of size, and so are the segments between a regular and a
    depthwise convolution: depthwise cost segments --size 19 --sweep s=1,2,4,364,728

    Example: depthwise cost mobilenet_v1 --sweep width=1,0.75,0.5,0.25
    """
    subject = find_subject(name, size, classes, settings or [])
    if sweep and match:
        raise UsageError("--sweep and --match both vary the network: give one of them")
    if match:
        subject = _matched(subject, match)
    if sweep:
        _sweep(subject, sweep, as_json=json)
    else:
        _bill(subject, as_json=json)


def _count(subject: Subject) -> "tuple[Any, tuple[int, ...], Cost]":
    """The network, the shape it is counted on, and its bill."""
    from depthwise.analysis.cost import cost

    module, shape = build_subject(subject)
    return module, shape, cost(module, shape)


def _regular(subject: Subject, module: "nn.Module", shape: tuple[int, ...]) -> "Cost":
    """The bill of the same with regular convolutions."""
    import torch

    from depthwise.analysis.cost import cost
    from depthwise.analysis.formulas import LAYERS
    from depthwise.analysis.regular import regular_twin

    with torch.device("meta"):
        if subject.layer:
            m, n, k = (subject.arguments[key] for key in "mnk")
            return cost(LAYERS["regular"].build(m, n, k), shape)
        return cost(regular_twin(module, shape), shape)


def _matched(subject: Subject, text: str) -> Subject:
    """The subject at the width that meets the budget that `text` gives."""
    from depthwise.analysis.match import match
    from depthwise.bounds import parse_setting

    kind, budget = parse_setting(text)
    budgets = ("parameters", "macs", "milliseconds")
    if subject.layer:
        raise UsageError(f"--match looks for a width, and the layer {subject.name} has none: take a network")
    if kind not in budgets:
        raise unknown_name("budget", kind, budgets)
    if type(budget) not in (int, float):
        raise UsageError(f"--match {text}: the budget is no number, write for example {kind}=4e6")
    arguments = {key: value for key, value in subject.arguments.items() if key != "width"}
    found = match(subject.name, **{kind: budget}, size=subject.size, **arguments)
    reached = getattr(found, kind)
    note(f"width={found.width} is the widest within {kind}={budget:,.10g}: it reaches {round(reached, 2):,}")
    return replace(subject, arguments={**arguments, "width": found.width})


def _bill(subject: Subject, *, as_json: bool) -> None:
    from depthwise.analysis.cost import KINDS

    module, shape, bill = _count(subject)
    regular = _regular(subject, module, shape)
    formula = _formula(subject)
    if as_json:
        print_json(
            {
                "name": subject.name,
                "arguments": subject.arguments,
                "input_shape": list(shape),
                "trainable": bill.trainable,
                **_totals(bill),
                "shares": bill.shares,
                "formula": formula,
                "regular": _totals(regular),
                "layers": [{**asdict(layer), "intensity": layer.intensity} for layer in bill.layers],
            }
        )
        return
    working = [layer for layer in bill.layers if layer.kind in KINDS]
    numbers = ("output", "parameters", "MMAC", "share", "MAC/byte")
    rows = table("layer", "kind", *numbers, right=numbers, title=_title(subject, shape))
    for layer in working:
        rows.add_row(
            layer.name,
            layer.kind,
            "x".join(map(str, layer.output_shape)),
            f"{layer.parameters:,}",
            f"{layer.macs / 1e6:,.2f}",
            f"{layer.macs / bill.macs:.1%}" if bill.macs else "",
            f"{layer.intensity:,.1f}",
        )
    console().print(rows)
    _print_shares(bill)
    _print_totals(bill, regular)
    if formula:
        letters = ", ".join(f"{key.upper()}={value}" for key, value in subject.arguments.items())
        verdict = "as counted" if formula["parameters"] == bill.parameters else "NOT what was counted"
        say(f"{formula['written']} = {formula['parameters']:,} parameters with {letters}: {verdict}")


def _title(subject: Subject, shape: tuple[int, ...]) -> str:
    arguments = "".join(f", {key}={value}" for key, value in subject.arguments.items())
    return f"{subject.name} on {'x'.join(map(str, shape))}{arguments}"


def _formula(subject: Subject) -> dict[str, Any] | None:
    from depthwise.analysis.formulas import LAYERS

    if not subject.layer:
        return None
    layer = LAYERS[subject.name]
    return {"written": layer.written, "parameters": layer.formula(**subject.arguments)}


def _totals(bill: "Cost") -> dict[str, Any]:
    return {key: getattr(bill, key) for key in TOTALS}


def _print_shares(bill: "Cost") -> None:
    rows = table("kind of work", "parameters", "multiply-adds", right=("parameters", "multiply-adds"))
    for kind, share in bill.shares.items():
        rows.add_row(kind, f"{share['parameters']:.2%}", f"{share['macs']:.2%}")
    console().print(rows)


def _print_totals(bill: "Cost", regular: "Cost") -> None:
    numbers = ("as built", "regular convolutions", "times")
    rows = table("for one image", *numbers, right=numbers)
    for key, (label, unit, form) in TOTALS.items():
        ours, theirs = getattr(bill, key), getattr(regular, key)
        times = f"{theirs / ours:.2f}" if ours else ""
        rows.add_row(label, f"{ours / unit:{form}}", f"{theirs / unit:{form}}", times)
    console().print(rows)


def _values(text: str) -> tuple[str, list[Any]]:
    """The key and the values of `key=value,value,...`."""
    from depthwise.bounds import parse_setting

    key, values = parse_setting(text)
    if isinstance(values, str):
        values = [parse_setting(f"{key}={value}")[1] for value in values.split(",")]
    values = list(values) if isinstance(values, list | tuple) else [values]
    if not values:
        raise UsageError(f"--sweep {shown(text)} names no value: give some, for example {key}=1,2,4")
    return key, values


def _sweep(subject: Subject, text: str, *, as_json: bool) -> None:
    """A row for each value of the argument that `text` names."""
    key, values = _values(text)
    bills = []
    for value in values:
        if key == "size":
            varied = replace(subject, size=parse_sides(str(value)))
        else:
            varied = replace(subject, arguments={**subject.arguments, key: value})
        bills.append(_count(varied)[2])
    if as_json:
        rows = [{key: value, **_totals(bill)} for value, bill in zip(values, bills, strict=True)]
        print_json({"name": subject.name, "arguments": subject.arguments, "sweep": key, "rows": rows})
        return
    numbers = (
        "parameters",
        "of the first",
        "MMAC",
        "of the first ",
        "inference MB",
        "training MB",
        "MAC/byte",
    )
    result = table(key, *numbers, right=numbers, title=subject.name)
    first = bills[0]
    for value, bill in zip(values, bills, strict=True):
        result.add_row(
            str(value),
            f"{bill.parameters:,}",
            f"{bill.parameters / first.parameters:.3f}",
            f"{bill.macs / 1e6:,.2f}",
            f"{bill.macs / first.macs:.3f}",
            f"{bill.inference_bytes / 1e6:,.2f}",
            f"{bill.training_bytes / 1e6:,.2f}",
            f"{bill.intensity:.2f}",
        )
    console().print(result)
