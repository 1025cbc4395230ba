"""Parts stay short: modules and headers of 400 lines, functions of 60 without their signature and docstring."""

import ast
from pathlib import Path

import pytest

import depthwise

SOURCE = Path(depthwise.__file__).parent
NATIVE = Path(__file__).parents[1] / "native"
LINES, FUNCTION_LINES = 400, 60


@pytest.mark.parametrize("path", [*SOURCE.rglob("*.py"), *NATIVE.rglob("*.*")], ids=lambda path: path.name)
def test_a_file_is_short_and_so_are_its_functions(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES
    if path.suffix != ".py":
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[ast.get_docstring(node) is not None and len(node.body) > 1]
            assert (node.end_lineno or 0) - first.lineno < FUNCTION_LINES, node.name
