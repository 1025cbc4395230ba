"""A Ray cluster of two nodes on this machine, of which not one packet leaves it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

CPUS = 3  # of each node; processes may share cores here
ROOT = Path(__file__).parents[2]

CLOSED = "http://127.0.0.1:9"
HERE = ",".join(["localhost", "127.0.0.0/8", *(f"127.0.0.{number}" for number in range(1, 10))])
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A head asks clouds' metadata addresses, and tells that it tells nothing: all of that goes by this proxy.
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), CLOSED),
    "no_proxy": HERE,
    "NO_PROXY": HERE,
    "RAY_DEDUP_LOGS": "0",
    "OMP_NUM_THREADS": "1",
    "RAY_prestart_worker_first_driver": "0",  # no worker that nobody has asked for yet
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process more for each start of a run, which imports torch
    # Ray Train counts a dead node's CPUs for some seconds more, and waits so long for them.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
    "RAY_worker_niceness": "0",  # not behind all other tests, as Ray's own 15 is
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    # A node that is killed is given up in seconds.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
NO_ROUTE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For a head, which is told its address: it asks the system for no route to 8.8.8.8 then."""


@dataclass
class Raylets:
    """The cluster's address, and its nodes: the processes that `ray start --block` is, the head first."""

    address: str
    folder: Path
    cpus: int
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *words: str) -> None:
        """Begin another node; `wait` for it."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        command += ["--include-log-monitor", "false"]
        size = ["--num-cpus", str(self.cpus), "--object-store-memory", str(100 * 2**20)]
        place = ["--node-ip-address", f"127.0.0.{2 + len(self.nodes)}"]
        if self.nodes:
            words = (*words, "--address", self.address)
        self.nodes.append(
            subprocess.Popen(
                [*command, *place, *size, *words],
                env={**os.environ, **QUIET, **({} if self.nodes else NO_ROUTE)},
                stdin=subprocess.DEVNULL,
                stdout=(self.folder / f"node{len(self.nodes)}.log").open("wb"),
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def wait(self, node: int = -1, seconds: float = 120) -> None:
        """Until the node, by default the last that was begun, belongs to the cluster."""
        log = self.folder / f"node{range(len(self.nodes))[node]}.log"
        end = time.monotonic() + seconds
        while "Ray runtime started" not in log.read_text():
            if self.nodes[node].poll() is not None or time.monotonic() > end:
                raise RuntimeError(log.read_text())
            time.sleep(0.05)

    def kill(self, node: int) -> None:
        """A whole node, as if its power had failed."""
        # Found before anything is killed: who has lost its parent is nobody's child.
        for pid in (self.nodes[node].pid, *descendants(self.nodes[node].pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.nodes[node].wait()

    def workers(self, node: int, word: str = "") -> list[int]:
        """The node's processes whose command line has `word`."""
        return [pid for pid in descendants(self.nodes[node].pid) if word in command_line(pid)]


def descendants(pid: int) -> list[int]:
    """All processes below one, the nearest first."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found[1:]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


@contextmanager
def cluster(nodes: int = 2, cpus: int = CPUS) -> Iterator[Raylets]:
    """So many nodes of so many CPUs each; they are gone when the `with` ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: Ray has sockets there
    raylets = Raylets(f"127.0.0.2:{port}", folder, cpus)
    try:
        own = ["--include-dashboard=false", "--no-monitor", "--temp-dir", str(folder)]
        raylets.start("--head", "--port", str(port), *own)
        raylets.wait()
        for _ in range(nodes - 1):
            raylets.start()
        for node in range(1, nodes):
            raylets.wait(node)
        yield raylets
    finally:
        for node in range(len(raylets.nodes)):
            raylets.kill(node)
        shutil.rmtree(folder, ignore_errors=True)
