"""The package on a machine without a compiler: it installs, and all but the kernels is there."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = ("LICENSE", "MANIFEST.in", "README.md", "native", "pyproject.toml", "setup.py", "src")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package in it, built from a copy of the sources where there is no compiler."""
    folder = tmp_path_factory.mktemp("install")
    (folder / "source").mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / "source" / name)
    for file in [
        *(folder / "source/src").rglob("*.so"),
        *(folder / "source/src").glob("*.egg-info/SOURCES.txt"),
    ]:
        file.unlink()
    run(folder, "pip", "install", "--no-build-isolation", "--no-deps", "--target", "site", "./source")
    return folder


def run(folder: Path, *arguments: str) -> str:
    """What `python -m` this says, all of it; the only program to be found is Python itself."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("DEPTHWISE", "LD_"))
    }
    environment |= {
        "CC": "/nonexistent/cc",
        "CXX": "/nonexistent/c++",
        "PATH": str(folder / "no-programs"),
        "PYTHONPATH": str(folder / "site"),
        "PIP_NO_INDEX": "1",
    }
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_it_installs_without_a_compiler(installed: Path) -> None:
    package = installed / "site/depthwise"
    assert (package / "evaluate/report.html").exists()
    assert not list(package.rglob("*.so"))
    assert "xception" in run(installed, "depthwise", "models")


def test_what_is_lost_is_said_in_a_line(installed: Path) -> None:
    (installed / "lost.py").write_text(
        "import torch, depthwise\n"
        "from depthwise import native\n"
        "print(depthwise.__file__, native.status(), sep='\\n')\n"
        "try:\n"
        "    depthwise.compile(torch.nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8), engine='native')\n"
        "except depthwise.DepthwiseError as error:\n"
        "    print(error)\n"
        "x = torch.randn(1, 4, 5, 5)\n"
        "y = depthwise.separable_conv2d(x, torch.ones(4, 1, 1, 1), None, torch.eye(4)[:, :, None, None])\n"
        "print(torch.equal(x, y))\n"
    )
    why = "no C++ compiler was found when the package was installed"
    assert run(installed, "lost").splitlines() == [
        str(installed / "site/depthwise/__init__.py"),
        f"training runs on PyTorch's own operators: {why}",
        f"the native kernels cannot run here: {why}",
        "True",
    ]


def test_training_runs_on_pytorch_alone(installed: Path) -> None:
    settings = ("epochs=0.04", "width=0.05", "entry=(128,)", "middle=(128,)", "exit=(128,256)", "size=8")
    run(installed, "depthwise", "train", "--data", "digits", "--out", "run", "--set", *settings)
    assert (installed / "run/report.html").exists()
