"""Which networks of the catalogue have a native plan, at which width, image size and precision, and how near it comes.

    python benchmarks/plan_coverage.py [--models vgg16 ...] [--widths 1 0.77 0.5 0.25] [--out FILE] [--anew]

Every network at every width, on images of its published size and of one that nothing divides, in fp32, bf16 and int8:
compiled with engine="native", it either answers, and the largest difference from PyTorch's answers relative to their
largest value is kept, or it is refused, and the sentence is kept. Weights are random, and int8 is calibrated on the
two images that everything is compared on: no accuracy is measured. What --out has already is not done again; the whole
takes about half an hour.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from depthwise.errors import DepthwiseError
from depthwise.infer import compile
from depthwise.infer.graph import Graph
from depthwise.infer.lower import lower
from depthwise.models import create_model, list_models
from depthwise.models.catalogue import CATALOGUE

PRECISIONS = ("fp32", "bf16", "int8")
WIDTHS = (1.0, 0.77, 0.5, 0.25)
IMAGES = 2
SMALLER = 7
"""Pixels by which the other size is smaller: 217 or 292, which halve to odd maps."""

Found = dict[str, float | str]
"""By precision, the largest difference, or the sentence that refuses."""


def network(name: str, width: float) -> nn.Module:
    """With random weights and random numbers in its batch norms, in evaluation."""
    torch.manual_seed(0)
    made = create_model(name, width=width)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, *((0.25, 0.75) if name.startswith("se") else (0.5, 1.5)))
            nn.init.normal_(module.bias, 0.0, 0.1)
            nn.init.normal_(module.running_mean, 0.0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return made.eval()


def measured(name: str, width: float, size: int) -> Found:
    """What compiling one network comes to in every precision."""
    x = torch.randn(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(1))
    module = network(name, width)
    with torch.inference_mode():
        expected = module(x)
    try:
        graph: Graph = lower(module, x[:1])
    except DepthwiseError as error:
        return dict.fromkeys(PRECISIONS, str(error))
    found: Found = {}
    for precision in PRECISIONS:
        try:
            compiled = compile(
                module,
                x[:1],
                precision=precision,
                engine="native",
                calibration=x if precision == "int8" else None,
                lower=lambda module, example: graph,
            )
            difference = (compiled(x) - expected).abs().max() / expected.abs().max()
            found[precision] = float(f"{difference:.2g}")
        except DepthwiseError as error:
            found[precision] = str(error)
    return found


def cases(names: list[str], widths: list[float]) -> Iterator[tuple[str, float, int]]:
    """Network, width and image size."""
    for name in names:
        for width in widths:
            published = CATALOGUE[name].input_size
            for size in (published, published - SMALLER):
                yield name, width, size


def table(results: dict[str, Any]) -> str:
    """A row a network: how many of its forms have a plan, the largest differences; then each refusal."""
    lines = ["| network | plans | fp32 | bf16 | int8 |", "|---|---|---|---|---|"]
    refusals: list[str] = []
    for name in sorted({case.split()[0] for case in results}):
        own = {case: found for case, found in results.items() if case.split()[0] == name}
        values = [value for found in own.values() for value in found.values()]
        row = [name, f"{sum(isinstance(value, float) for value in values)} of {len(values)}"]
        for precision in PRECISIONS:
            differences = [found[precision] for found in own.values() if isinstance(found[precision], float)]
            row.append(f"{max(differences):.1e}" if differences else "-")
        lines.append(f"| {' | '.join(row)} |")
        refusals += [
            f"{case}, {precision}: {value}"
            for case, found in own.items()
            for precision, value in found.items()
            if isinstance(value, str)
        ]
    return "\n".join([*lines, *refusals])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list_models(), choices=list_models())
    parser.add_argument("--widths", nargs="+", type=float, default=WIDTHS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "plan-coverage.json")
    parser.add_argument("--anew", action="store_true", help="do again what --out has")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if arguments.out.exists() and not arguments.anew:
        results = json.loads(arguments.out.read_text())
    for name, width, size in cases(arguments.models, arguments.widths):
        case = f"{name} width {width:g} at {size}"
        if case not in results:
            results[case] = measured(name, width, size)
            print(case, results[case], flush=True)
            arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
