"""Our service beside LitServe and Ray Serve with the same bundle, in turns: throughput, and a lone client's latency.

    pip install 'depthwise[serve]' litserve 'ray[serve]'
    python benchmarks/serving_peers.py [--peers litserve ray] [--rounds 7] [--images 128] [--clients 16] [--out FILE]

Xception at 299, MobileNet V1 at 224 pixels, random weights, bf16, 500x375 JPEGs. All run the network by the same
`depthwise.ship.load.load` with the same number of threads and batches of up to 16, so only the serving differs. The
peers' applications are in benchmarks/peers, with their settings. LitServe is there twice: one worker with all threads,
and, as its documentation has it for CPUs, a worker a core with a thread each. The clients run on the same cores.

Nobody pays for the others' idle loops: all processes of a server are stopped (SIGSTOP) while another has its turn.
Before a turn is timed the server answers some requests. A ratio is how many times as fast we are. The peers' usage
statistics are off, and nothing leaves this machine.
"""

import argparse
import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

import torch

from depthwise.bundle import BundleConfig, write_bundle
from depthwise.data import Preprocess
from depthwise.models import create_model
from depthwise.timing import in_turns, ratio, seconds
from serving import CLASSES, LONE, NETWORKS, jpeg

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results/serving-peers.json"
INSTALL = {"litserve": ("litserve", "litserve"), "ray": ("ray.serve", "'ray[serve]'")}
"""Of each peer the module that has to be there, and what pip calls it."""

CLOSED = "http://127.0.0.1:9"
QUIET = {
    # A head of Ray asks clouds' metadata addresses, and tells that it tells nothing: all of that goes by this proxy.
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), CLOSED),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "localhost,127.0.0.1"),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_worker_niceness": "0",  # Ray's own 15 is behind the clients
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # It is stopped for minutes, and is not to be given up for that.
    "RAY_health_check_timeout_ms": "600000",
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
STARTING, WAKING, ENDING = 240.0, 1.0, 20.0
"""Seconds: until a server answers; for one that was stopped to catch up; until it has ended."""

UNCOUNTED = 32
"""Requests before a turn is timed; and so many answers are compared."""

CLOSE = 1e-6
"""How far the probabilities of two servers may be apart."""

Answer = tuple[int, float]
"""The likeliest class, and its probability."""


@dataclass(frozen=True)
class Server:
    """A process and those below it, which answer POST of an image file at `path`, GET of `health` once all are up."""

    process: subprocess.Popen[bytes]
    port: int
    path: str
    health: str

    def signal(self, number: int) -> None:
        for pid in (self.process.pid, *descendants(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def asked(self, files: list[bytes], clients: int) -> list[Answer]:
        """All files' answers, by as many clients with a connection each."""

        def client(number: int) -> list[Answer]:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            answers = []
            for file in files[number::clients]:
                connection.request("POST", self.path, file, {"Content-Type": "image/jpeg"})
                response = connection.getresponse()
                content = response.read()
                if response.status != 200:
                    raise ConnectionError(f"{response.status}: {content.decode(errors='replace')[:500]}")
                best = json.loads(content)["images"][0]["predictions"][0]
                answers.append((best["index"], best["probability"]))
            connection.close()
            return answers

        with ThreadPoolExecutor(clients) as pool:
            found = list(pool.map(client, range(clients)))
        return [found[number % clients][number // clients] for number in range(len(files))]

    def turn(self, files: list[bytes], clients: int) -> float:
        """The seconds that the files take, after some that are not counted; the server is stopped before and after."""
        self.signal(signal.SIGCONT)
        time.sleep(WAKING)
        self.asked(files[:UNCOUNTED], clients)
        taken = seconds(lambda: self.asked(files, clients))
        self.signal(signal.SIGSTOP)
        return taken


def main() -> None:
    """Measure each network, and print and write the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", nargs="+", choices=INSTALL, default=list(INSTALL))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # which ends the servers
    if options.rounds < 2:
        parser.error(f"--rounds is {options.rounds} and must be at least 2: a spread needs them")
    for peer in options.peers:
        module, name = INSTALL[peer]
        if subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode:
            sys.exit(f"{peer} is not there: install it with pip install {name}, or leave it out of --peers")
    found: dict[str, object] = {
        "command": " ".join(["python benchmarks/serving_peers.py", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "processor": processor(),
        "threads": options.threads,
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in ("torch", *options.peers)},
    }
    for name in options.networks:
        found[name] = measured(name, NETWORKS[name], options)
    text = json.dumps(found, indent=1)
    print(text)
    options.out.write_text(text + "\n")


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))


def measured(name: str, size: int, options: argparse.Namespace) -> dict[str, object]:
    """How many times as fast we are as each peer, with the range over the rounds, and what each does at its best."""
    files = [jpeg(number) for number in range(options.images)]
    with ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="r", dir="/tmp"))
        )  # short, for sockets
        bundle = folder / name
        torch.manual_seed(0)
        module = create_model(name, num_classes=len(CLASSES))
        compiled = {"precision": "bf16", "engine": "native"}
        config = BundleConfig(name, CLASSES, Preprocess((size, size), channels=3), compiled=compiled)
        write_bundle(bundle, config, module.state_dict())
        servers: dict[str, Server] = {}
        answers: dict[str, list[Answer]] = {}
        for side, start in sides(bundle, folder, options).items():
            servers[side] = stack.enter_context(start())
            answers[side] = servers[side].asked(files[:UNCOUNTED], options.clients)
            servers[side].signal(signal.SIGSTOP)
        check(answers)
        measures: dict[tuple[str, str], Callable[[], float]] = {}
        for side, server in servers.items():
            measures[side, "all"] = partial(server.turn, files, options.clients)
            measures[side, "alone"] = partial(server.turn, files[:LONE], 1)
        times = in_turns(measures, options.rounds)
    peers = [side for side in servers if side != "depthwise"]
    return {
        "times our throughput is theirs": {
            peer: ratio(times[peer, "all"], times["depthwise", "all"]).to_json() for peer in peers
        },
        "times their latency alone is ours": {
            peer: ratio(times[peer, "alone"], times["depthwise", "alone"]).to_json() for peer in peers
        },
        "images a second": {side: options.images / min(times[side, "all"]) for side in servers},
        "milliseconds alone": {
            side: 1000 * min(times[side, "alone"]) / len(files[:LONE]) for side in servers
        },
    }


def check(answers: dict[str, list[Answer]]) -> None:
    """Raise RuntimeError unless all servers have named the same class for each image, with the same probability."""
    for side, theirs in answers.items():
        for (index, probability), (our_index, ours) in zip(theirs, answers["depthwise"], strict=True):
            if index != our_index or abs(probability - ours) > CLOSE:
                raise RuntimeError(
                    f"{side} says {index} with {probability}, depthwise {our_index} with {ours}"
                )


def sides(
    bundle: Path, folder: Path, options: argparse.Namespace
) -> dict[str, Callable[[], AbstractContextManager[Server]]]:
    """What starts each server, by what it is called in the results."""
    own = [sys.executable, "-m", "depthwise", "serve", str(bundle), "--threads", str(options.threads)]
    own += ["--seconds", "60"]
    found: dict[str, Callable[[], AbstractContextManager[Server]]] = {
        "depthwise": partial(started, own, ("/v1/predict", "/v2/health/ready"), folder, options.threads)
    }
    if "litserve" in options.peers:
        command = [sys.executable, str(FOLDER / "peers/litserve_app.py"), str(bundle)]
        found["litserve"] = partial(started, command, ("/predict", "/health"), folder, options.threads)
        many = [*command, "--workers", str(options.threads)]
        found["litserve, a worker a core"] = partial(started, many, ("/predict", "/health"), folder, 1)
    if "ray" in options.peers:
        command = [sys.executable, str(FOLDER / "peers/ray_app.py"), str(bundle), "--temporary", str(folder)]
        command += ["--threads", str(options.threads)]
        found["ray"] = partial(started, command, ("/", "/-/healthz"), folder, options.threads)
    return found


@contextmanager
def started(command: list[str], paths: tuple[str, str], folder: Path, threads: int) -> Iterator[Server]:
    """A server by this command, with so many threads a process, once it answers; all of it ends with the `with`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / f"{port}.log"
    environment = {**os.environ, **QUIET, "OMP_NUM_THREADS": str(threads)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, port, *paths)
    try:
        wait(server, log)
        yield server
    finally:
        end(server)


def wait(server: Server, log: Path) -> None:
    """Until the server answers. Raises RuntimeError with what it said if it ends, or does not answer in time."""
    until = time.monotonic() + STARTING
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
            connection.request("GET", server.health)
            if (response := connection.getresponse()).status != 200:
                raise ConnectionError(f"{server.health} says {response.status}")
            server.asked([jpeg(0)], 1)
            return
        except (OSError, http.client.HTTPException) as error:
            if server.process.poll() is not None or time.monotonic() > until:
                said = log.read_text(errors="replace")[-4000:]
                raise RuntimeError(f"{server.process.args!r} does not answer: {error}\n{said}") from error
        time.sleep(0.2)


def end(server: Server) -> None:
    """The server and all processes below it: asked first, then killed."""
    server.signal(signal.SIGCONT)
    below = descendants(server.process.pid)  # found before: who has lost its parent is nobody's child
    server.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(ENDING)
    for pid in (server.process.pid, *below):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait()


def descendants(pid: int) -> list[int]:
    """All processes below one, the nearest first."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found[1:]


if __name__ == "__main__":
    main()
