from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[[dict[str, int]], Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """make_folder({"train/cat": 3, ...}) writes so many different PNG files into each folder of a new one."""

    def make(counts: dict[str, int]) -> Path:
        root = tmp_path / "set"
        for number, (place, count) in enumerate(counts.items()):
            (root / place).mkdir(parents=True)
            for index in range(count):
                picture = Image.fromarray(noise(1000 * number + index, 12, 10 + index % 3, 3))
                picture.save(root / place / f"{index:03}.png")
        return root

    return make
