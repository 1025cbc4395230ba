"""The public names are what they say, cost nothing until they are used, and are not hidden by submodules."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import depthwise

HEAVY = ("torch", "torchvision", "numpy", "PIL", "plotly", "sklearn", "tensorboard", "rich")


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    loaded = run_python("import sys, depthwise; print(*sys.modules)").split()
    assert not set(HEAVY) & set(loaded)


def test_every_public_name_is_there() -> None:
    assert dir(depthwise) == sorted(depthwise.__all__)
    for name in depthwise.__all__:
        assert getattr(depthwise, name) is not None
    assert depthwise.__version__ == version("depthwise")
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = depthwise.trian  # type: ignore[attr-defined]


def test_a_function_is_not_hidden_by_the_module_of_its_name() -> None:
    names = ("evaluate", "train")
    imports = "; ".join(f"import depthwise.{name}; from depthwise import {name}" for name in names)
    kinds = ", ".join(f"type({name}).__name__, type(depthwise.{name}).__name__" for name in names)
    assert run_python(f"{imports}; print({kinds})").split() == ["function"] * 2 * len(names)
