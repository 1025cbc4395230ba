"""What tests of several parts stand on."""

import random
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Browser, expect, sync_playwright

from depthwise import native
from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data import Preprocess
from depthwise.errors import DepthwiseError
from depthwise.models import create_model

TINY = {"stem": "small", "width": 0.05, "entry": [128], "middle": [128], "exit": [128, 256]}
SLOWEST = (
    # One that has a cluster of its own beside one that has not.
    *("test_train_on_ray.py", "test_resume.py", "test_tasks_on_a_cluster.py", "test_processes.py"),
    *(
        "test_asynchronous_on_ray.py",
        "test_compare.py",
        "test_keras.py",
        "test_compiled.py",
        "test_conduct.py",
    ),
    *(
        "test_hosts.py",
        "test_telemetry.py",
        "test_suspects.py",
        "test_sharded_training.py",
        "test_notebook.py",
    ),
)
"""Files of tests, the longest first."""
CLASSES = ("cat", "dog", "naïve 猫")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzz-seed", metavar="N|new", help="run the tests that draw their cases, from another seed"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # Begun last, they would leave all but one process without work.
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    if config.getoption("--fuzz-seed"):
        items[:] = [item for item in items if "fuzz_seed" in getattr(item, "fixturenames", ())]


@pytest.fixture
def fuzz_seed(request: pytest.FixtureRequest) -> int:
    """What a test draws its cases from: the same each time, for a failure to come again, or another if asked for."""
    given = request.config.getoption("--fuzz-seed") or "11"
    seed = random.randrange(2**31) if given == "new" else int(given)
    print("seed", seed)
    return seed


@pytest.fixture
def one_thread() -> Iterator[None]:
    """On small maps a second thread gains nothing, and on a busy machine waiting for it costs several times over."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept between runs is not the person's who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a small Xception with random weights, for colour pictures of three classes; not to be changed."""
    path = tmp_path_factory.mktemp("tiny") / "bundle"
    torch.manual_seed(0)
    module = create_model("xception", num_classes=len(CLASSES), in_channels=3, **TINY)
    # Probabilities neither all alike nor 0 and 1.
    torch.nn.init.normal_(module.classifier.weight, std=0.05)
    config = BundleConfig(
        model="xception", classes=CLASSES, preprocess=Preprocess((32, 32), channels=3), model_args=TINY
    )
    write_bundle(path, config, module.state_dict())
    return path


def _runnable() -> list[str]:
    before, found = native.library.library.path, []
    for path in native.PATHS:
        try:
            native.use(path)
        except DepthwiseError:
            continue
        found.append(path)
    native.use(before)
    return found


RUNNABLE = _runnable()
"""The kernels that can run here."""


@contextmanager
def using(path: str) -> Iterator[None]:
    """The kernels `path`, as long as this lasts."""
    before = native.library.library.path
    native.use(path)
    try:
        yield
    finally:
        native.use(before)


@pytest.fixture(params=RUNNABLE)
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each of the kernels in turn, in use."""
    with using(request.param):
        yield request.param


def in_threads(work: Callable[[int], object], count: int = 8) -> None:
    """Calls work(0), work(1), ... at the same time, a thread each; raises what the first of them to fail raised."""
    with ThreadPoolExecutor(count) as pool:
        for done in [pool.submit(work, index) for index in range(count)]:
            done.result()


BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# The first: a browser that runs as root refuses its sandbox. The others: it should ask for nothing on its own behalf.
FLAGS = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A real one, for all tests that look at a page: Playwright runs once a process."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(
            "Pages are tested in Chromium, and there is none: install it (Debian: apt-get install chromium)."
        )
    # Long enough for a machine with other work to do; a page that works is as quick as ever.
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield running
        running.close()
