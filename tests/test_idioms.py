"""One label an image is assumed where it belongs and nowhere else."""

import ast
import re
from pathlib import Path

import pytest

import depthwise

SOURCE = Path(depthwise.__file__).parent

# Attributes and functions that know what a target is, and where they may stand: files, and folders with a stroke.
CLASSES = {"tasks/", "evaluate/metrics.py"}
SHOWN = {"evaluate/classes.py", "evaluate/order.py", "evaluate/sections.py"}
WHERE: dict[str, set[str]] = {
    "argmax": CLASSES,
    "softmax": CLASSES,
    "cross_entropy": {*CLASSES, "bench/training.py"},  # the last: the loop of a tutorial
    "labels": {
        "data/dataset.py",
        "data/sources/stored.py",
        "evaluate/metrics.py",
        *SHOWN,
        "serve/metrics.py",
    },  # the last: a counter's, to Prometheus
    "top1": {*CLASSES, "evaluate/sections.py", "evaluate/tables.py", "cli/models.py"},
    "SingleLabel": {"tasks/"},
}


def used(tree: ast.AST) -> set[str]:
    """The names of all attributes and variables, and of what is imported."""
    names = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name):
                names.add(name)
    return names


@pytest.fixture(scope="module")
def found() -> dict[str, set[str]]:
    """By idiom, the files that have it; a keyword, a parameter or a word in a sentence is none."""
    places: dict[str, set[str]] = {idiom: set() for idiom in WHERE}
    for file in SOURCE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for idiom in WHERE:
            if idiom in (attributes if idiom in ("labels", "top1") else used(tree)):
                places[idiom].add(str(file.relative_to(SOURCE)))
    return places


@pytest.mark.parametrize("idiom", WHERE)
def test_what_is_assumed_of_targets_stands_where_it_belongs(found: dict[str, set[str]], idiom: str) -> None:
    assert found[idiom], f"nobody uses {idiom}: take it off the list"
    elsewhere = {file for file in found[idiom] if not file.startswith(tuple(WHERE[idiom]))}
    assert not elsewhere, f"{idiom} belongs in {sorted(WHERE[idiom])}; ask the task elsewhere"
    unused = {place for place in WHERE[idiom] if not any(file.startswith(place) for file in found[idiom])}
    assert not unused, f"{idiom} need not be allowed in {sorted(unused)}"


def test_processes_that_are_started_import_nothing_from_the_folder_they_are_started_in() -> None:
    """Which may hold images, and anybody's random.py: python -P leaves it off the path."""
    started = [text for file in SOURCE.rglob("*.py") if "[sys.executable" in (text := file.read_text())]
    assert started
    assert not any(re.search(r"\[sys\.executable, (?!\"-P\", )", text) for text in started)
