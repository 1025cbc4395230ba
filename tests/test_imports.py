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

# What each part may import besides itself and `errors`. A part that is not here has not been given its place yet.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "telemetry": set(),
    "bounds": set(),
    "reading": set(),
    "words": set(),
    "places": set(),
    "ratios": set(),
    "writing": set(),
    "modes": set(),
    "native": set(),
    "layers": {"native"},
    "models": {"bounds", "layers"},
    "cost": {"layers", "modes"},
    "formulas": {"bounds", "layers"},
    "regular": {"cost"},
    "draw": {"cost", "layers", "modes"},
    "match": {"bounds", "cost", "models", "modes"},
    "data": {"bounds", "places", "reading", "writing"},
    "bundle": {"bounds", "data", "places", "reading", "writing"},
    "evaluate": {"data", "modes", "writing"},
    "infer": {"bundle", "data", "layers", "modes", "native", "reading", "telemetry", "writing"},
    "ops": {"infer", "native"},
    "weights": {"bounds", "bundle", "data", "layers", "reading", "telemetry"},
    "train": {"bounds", "bundle", "cost", "data", "evaluate", "modes", "native", "writing"},
    "recipes": {"data", "models", "train"},
    "bench": {"evaluate", "infer", "models", "native", "ratios", "telemetry", "writing"},
    "serve": {"bundle", "data", "infer"},
}
SEE_EVERYTHING = {"__init__", "__main__", "load", "compiling", "exporting", "importing", "cli", "experiments"}


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


def parts() -> list[str]:
    return sorted({file.relative_to(SOURCE).parts[0].removesuffix(".py") for file in SOURCE.rglob("*.py")})


def test_the_rules_themselves_go_one_way() -> None:
    TopologicalSorter(MAY_IMPORT).prepare()


@pytest.mark.parametrize("part", parts())
def test_imports_go_one_way(part: str) -> None:
    if part in SEE_EVERYTHING:
        return
    assert part in MAY_IMPORT, f"say here what {part} may import"
    allowed = MAY_IMPORT[part] | {part, "errors", "words"}
    files = (
        [SOURCE / f"{part}.py"] if (SOURCE / f"{part}.py").exists() else sorted((SOURCE / part).rglob("*.py"))
    )
    found = [(file, line, name) for file in files for line, name in imported(file)]
    wrong = [
        f"{file.relative_to(SOURCE)}:{line} imports {name}"
        for file, line, name in found
        if part_of(name) not in allowed
    ]
    assert not wrong, f"{part} may import {sorted(allowed)}: {'; '.join(wrong)}"


def test_every_spelling_of_an_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SOURCE", tmp_path)
    file = tmp_path / "data" / "image.py"
    file.parent.mkdir()
    file.write_text(
        "import os, depthwise.models.xception\n"
        "from depthwise import cost, errors\n"
        "from depthwise.train.loop import train\n"
        "from ..layers import ConvNorm\n"
        "from . import loader\n"
        "def late():\n"
        "    import depthwise as d\n"
        "    return d.__version__, d.create_model\n"
    )
    assert sorted(imported(file)) == [
        (1, "depthwise.models.xception"),
        (2, "depthwise.cost"),
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
