"""`depthwise serve`: bundles as a service over HTTP."""

import os
import signal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from depthwise.bounds import Bounds
from depthwise.cli.options import EngineOption, MaxPixels, PrecisionOption, flag
from depthwise.cli.output import note, say
from depthwise.errors import DepthwiseError, UsageError
from depthwise.places import find_bundle
from depthwise.reading import read_regular
from depthwise.words import number_of

LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    bundle: Annotated[
        list[str],
        Parameter(
            negative="",
            help="Bundle folders or directories of training runs, NAME=PATH to name them; the first answers where a "
            "request names none.",
        ),
    ],
    /,
    *,
    host: Annotated[
        str, Parameter(help="The address to listen on; 0.0.0.0 is all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[int, Bounds(0, 65535), Parameter(help="The port; 0 takes any that is free.")] = 8000,
    topk: Annotated[
        int | None,
        Bounds(1, 1_000_000),
        Parameter(help="How many classes to name where a request does not say."),
    ] = None,
    threads: Annotated[
        int | None,
        Bounds(1, 1024),
        Parameter(help="For decoding and network together; by default one a core."),
    ] = None,
    engine: EngineOption = "auto",
    precision: PrecisionOption = None,
    max_batch: Annotated[
        int, Bounds(1, 1024), Parameter(help="Images that go through the network at once.")
    ] = 16,
    max_queue: Annotated[
        int,
        Bounds(1, 65536),
        Parameter(help="Images that may wait; requests over that are refused with 503."),
    ] = 128,
    max_images: Annotated[int, Bounds(1, 4096), Parameter(help="Images in one request.")] = 64,
    max_bytes: Annotated[int, Bounds(1, 2**30), Parameter(help="Of a request's body.")] = 32 * 2**20,
    max_pixels: MaxPixels = 2**26,
    allow_urls: Annotated[
        list[str] | None,
        Parameter(
            negative="",
            help="Hosts, HOST or HOST:PORT, from which images are fetched by URL, if their addresses are public; by "
            "default none.",
        ),
    ] = None,
    processes: Annotated[
        int,
        Bounds(1, 1024),
        Parameter(help="Processes that answer, which share the threads; each has limits of its own."),
    ] = 1,
    watch: Annotated[
        bool, flag("Load bundles anew when they are replaced on disk; SIGHUP does it once.")
    ] = False,
    token_file: Annotated[
        Path | None, Parameter(help="A file with a token a line; requests without one of them get 401.")
    ] = None,
    certificate: Annotated[Path | None, Parameter(help="A certificate's PEM file, for https.")] = None,
    key: Annotated[Path | None, Parameter(help="The PEM file of its key.")] = None,
    access_log: Annotated[bool, flag("Print a line of JSON for each request on standard error.")] = False,
    seconds: Annotated[
        float, Bounds(0, 3600, above=True), Parameter(help="From a request to its answer; then it is 504.")
    ] = 10.0,
) -> int:
    """Answer requests over HTTP with trained networks; needs depthwise[serve].

    Ctrl-C or SIGTERM ends it when all that was taken is answered. /docs describes what it answers.

    Example: depthwise serve runs/first --port 8000
    """
    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise DepthwiseError(f"serving needs {', '.join(missing)}: pip install 'depthwise[serve]'")
    paths = named(bundle)
    for path in paths.values():
        find_bundle(path)  # before anything heavy is imported
    if (certificate is None) != (key is None):
        raise UsageError("--certificate and --key belong together: give both, or none")
    tokens = _tokens(token_file) if token_file else ()
    threads = threads or os.cpu_count() or 1
    if processes > threads:
        raise UsageError(
            f"--processes {processes} cannot share {number_of(threads, 'thread')}: give fewer, or more --threads"
        )
    from depthwise.serve.limits import Limits
    from depthwise.serve.server import Address, Told, bound, check_certificate
    from depthwise.serve.setup import Setup
    from depthwise.serve.setup import serve as served

    limits = Limits(max_bytes, max_pixels or 2**26, max_images, seconds, max_queue, max_batch)
    address = Address(host, port, *(None if path is None else str(path) for path in (certificate, key)))
    check_certificate(address)
    listening = bound(address)
    hosts = tuple(name.lower() for name in allow_urls or ())
    if wrong := [name for name in hosts if "/" in name or not name]:
        raise UsageError(
            f"--allow-urls {wrong[0]} is no host: give HOST or HOST:PORT, as in images.example.org"
        )
    setup = Setup(
        paths,
        limits,
        address,
        threads // processes,
        engine,
        precision,
        topk,
        hosts,
        tokens,
        watch,
        access_log,
    )
    told = Told(lambda url: say(f"{', '.join(paths)} at {url}"), note)
    if processes == 1:
        stopped = served(setup, listening, told)
    else:
        from depthwise.serve.processes import run

        stopped = run(setup, processes, listening, told)
    if stopped == signal.SIGINT:
        raise KeyboardInterrupt("all that was taken is answered")
    note("stopped, all that was taken is answered")
    return 0


def _tokens(path: Path) -> tuple[str, ...]:
    try:
        tokens = tuple(line.strip() for line in read_regular(path).splitlines() if line.strip())
    except OSError as error:
        raise DepthwiseError(
            f"{path} cannot be read ({error.strerror}): name a file with a token a line"
        ) from None
    if not tokens or not all(token.isascii() and b" " not in token for token in tokens):
        raise DepthwiseError(f"{path} has no tokens: write one a line, in ASCII and without spaces")
    return tuple(token.decode("ascii") for token in tokens)


def named(bundles: list[str]) -> dict[str, str]:
    """The paths by the models' names: what stands before =, or else the run's or the bundle's own."""
    paths: dict[str, str] = {}
    for given in bundles:
        name, equals, path = given.partition("=")
        if not equals or os.path.exists(given):
            path = given
            folder = Path(given).resolve()
            name = folder.parent.name if folder.name == "bundle" else folder.name
        if not name or "/" in name or len(name) > 200:
            raise UsageError(f"{given!r} gives no name that an address can have: write NAME=PATH, without /")
        if name in paths:
            raise UsageError(f"two models are called {name!r}: name them apart, as NAME=PATH")
        paths[name] = path
    return paths
