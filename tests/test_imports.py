"""The rules that hold the house up: imports go one way, and nothing heavy comes with the package."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import depthwise

SOURCE = Path(depthwise.__file__).parent

# What each part imports besides itself, `errors` and `words`. A part that is not here has not been given its place yet;
# a module that needs more than the rest of its part has a line of its own.
IMPORTS: dict[str, set[str]] = {
    "telemetry": set(),
    "stops": set(),
    "bounds": set(),
    "reading": set(),
    "places": set(),
    "timing": set(),
    "writing": set(),
    "modes": set(),
    "native": set(),
    "gpu": {"bounds", "modes", "timing"},
    "layers": {"native"},
    "models": {"bounds", "gpu", "layers", "native"},
    "analysis": {"bounds", "layers", "modes"},
    "analysis.match": {"bounds", "layers", "models", "modes", "timing"},
    "draw": {"analysis", "layers", "modes"},
    "data": {"bounds", "modes", "places", "reading", "stops", "writing"},
    "evaluate": {"data", "heat", "modes", "native", "writing"},
    "tasks": {"bounds", "data", "evaluate", "heat"},
    "doctor": {"evaluate", "modes"},
    "doctor.checks": {"data", "job", "ship", "train", "writing"},
    "doctor.reading": {"tasks", "train"},
    "examples": {"data"},
    "bundle": {"bounds", "data", "examples", "places", "reading", "tasks", "writing"},
    "heat": {"data", "layers", "modes"},
    "infer": {"data", "heat", "modes", "native", "reading", "tasks", "telemetry", "timing", "writing"},
    "embeddings": {"data", "evaluate", "writing"},
    "weights": {"bounds", "data", "reading", "telemetry"},
    "train": {
        "analysis",
        "bounds",
        "bundle",
        "data",
        "doctor",
        "evaluate",
        "gpu",
        "heat",
        "modes",
        "native",
        "stops",
        "tasks",
        "writing",
    },
    "recipes": {"data", "train"},
    "bench": {
        "data",
        "evaluate",
        "infer",
        "models",
        "native",
        "stops",
        "telemetry",
        "timing",
        "train",
        "writing",
    },
    "comparison": {
        "analysis",
        "data",
        "evaluate",
        "layers",
        "models",
        "modes",
        "native",
        "recipes",
        "stops",
        "timing",
        "train",
        "writing",
    },
    "comparison.worker": {"data", "job", "stops", "telemetry", "train", "writing"},
    "experiments": {"bounds", "comparison", "data", "layers", "models", "recipes", "train"},
    "job": {"bundle", "cluster", "data", "finished", "models", "modes", "places", "recipes", "ship", "train"},
    "training": {"data", "finished", "job", "train"},
    "finished": {"evaluate", "infer", "ship", "train"},
    "serve": {
        "bounds",
        "bundle",
        "data",
        "evaluate",
        "examples",
        "heat",
        "infer",
        "reading",
        "ship",
        "tasks",
    },
    "serve.process": {"serve", "stops", "telemetry"},
    "batch": {"bundle", "data", "infer", "places", "serve", "ship", "writing"},
    "cluster": {"batch", "comparison", "infer", "train"},
    "suspects": {
        "bounds",
        "bundle",
        "data",
        "evaluate",
        "job",
        "models",
        "places",
        "ship",
        "tasks",
        "train",
        "writing",
    },
}
EVERYWHERE = {"errors", "words"}
SEE_EVERYTHING = {"__init__", "__main__", "ship", "cli"}


def part_of(module: str) -> str:
    """The part that `depthwise.part.rest` belongs to; the package itself is `__init__`."""
    return [*module.split("."), "__init__"][1]


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """The line and the full name of every import of this package in `file`, wherever it stands."""
    package = ["depthwise", *file.relative_to(SOURCE).parent.parts]
    aliases = set()
    tree = ast.parse(file.read_text(), str(file))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name == "depthwise":
                    aliases.add(alias.asname or alias.name)
                elif alias.name.startswith("depthwise."):
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            origin = ".".join(filter(None, (start, node.module)))
            if origin == "depthwise":
                yield from ((node.lineno, f"depthwise.{alias.name}") for alias in node.names)
            elif origin.startswith("depthwise."):
                yield node.lineno, origin
    # `import depthwise` is harmless for the version, and a way round the rules for anything else.
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name in aliases:
                if not attribute.startswith("__"):
                    yield node.lineno, f"depthwise.{attribute}"


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts)


def ruled(part: str) -> list[Path]:
    """The files of `part`, but for modules that have a line of their own."""
    files = [file for file in SOURCE.rglob("*.py") if f"{module_of(file)}.".startswith(f"{part}.")]
    return [file for file in files if part == module_of(file) or module_of(file) not in IMPORTS]


def test_the_rules_themselves_go_one_way() -> None:
    order = TopologicalSorter[str]()
    for part, others in IMPORTS.items():
        order.add(part_of(f"depthwise.{part}"), *(others if "." not in part else ()))
    order.prepare()


def test_every_part_has_its_place() -> None:
    parts = {file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in SOURCE.rglob("*.py")}
    assert parts == {part for part in IMPORTS if "." not in part} | EVERYWHERE | SEE_EVERYTHING


@pytest.mark.parametrize("part", [*IMPORTS, *sorted(EVERYWHERE)])
def test_imports_go_one_way(part: str) -> None:
    own = {part_of(f"depthwise.{part}")} | EVERYWHERE
    found = [(file, line, part_of(name)) for file in ruled(part) for line, name in imported(file)]
    allowed = IMPORTS.get(part, set())
    wrong = [
        f"{file.relative_to(SOURCE)}:{line} imports {other}"
        for file, line, other in found
        if other not in allowed | own
    ]
    assert not wrong, f"{part} may import {sorted(allowed)}: {'; '.join(wrong)}"
    unused = allowed - {other for _, _, other in found}
    assert not unused, f"{part} need not import {sorted(unused)}"


def test_every_spelling_of_an_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    file = tmp_path / "data" / "image.py"
    file.parent.mkdir()
    file.write_text(
        "import os, depthwise.models.xception\n"
        "from depthwise import bundle, errors\n"
        "from depthwise.train.loop import train\n"
        "from ..layers import ConvNorm\n"
        "from . import loader\n"
        "def late():\n"
        "    import depthwise as d\n"
        "    return d.__version__, d.create_model\n"
    )
    assert sorted(imported(file)) == [
        (1, "depthwise.models.xception"),
        (2, "depthwise.bundle"),
        (2, "depthwise.errors"),
        (3, "depthwise.train.loop"),
        (4, "depthwise.layers"),
        (5, "depthwise.data"),
        (8, "depthwise.create_model"),
    ]


@pytest.mark.parametrize("module", ["depthwise", "depthwise.cli"])
def test_nothing_heavy_comes_with_the_import(module: str) -> None:
    program = f"import {module}, sys; print(*sorted({{'torch', 'numpy', 'torchvision', 'sklearn'}} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == ""
