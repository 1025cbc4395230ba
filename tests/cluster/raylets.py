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

CPUS = 4  # of each node, more than there are: processes may share cores here
ROOT = Path(__file__).parents[2]

CLOSED = "http://127.0.0.1:9"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A head asks clouds' metadata addresses, and tells that it tells nothing: all of that goes by this proxy.
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), CLOSED),
    "no_proxy": "127.0.0.0/8,127.0.0.1,127.0.0.2,127.0.0.3,localhost",
    "NO_PROXY": "127.0.0.0/8,127.0.0.1,127.0.0.2,127.0.0.3,localhost",
    "RAY_DEDUP_LOGS": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    # A node that is killed is given up in seconds.
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass
class Raylets:
    """The cluster's address, and its nodes: the processes that `ray start --block` is, the head first."""

    address: str
    folder: Path
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, *words: str) -> None:
        """Another node."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]
        size = ["--num-cpus", str(CPUS), "--object-store-memory", str(100 * 2**20)]
        place = ["--node-ip-address", f"127.0.0.{2 + len(self.nodes)}"]
        if self.nodes:
            words = (*words, "--address", self.address)
        self.nodes.append(
            subprocess.Popen(
                [*command, *place, *size, *words],
                env={**os.environ, **QUIET},
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / f"node{len(self.nodes)}.log").open("wb"),
                start_new_session=True,
            )
        )

    def kill(self, node: int) -> None:
        """A whole node, as if its power had failed."""
        self.nodes[node].kill()  # of a session of its own, and so are none of its children
        for pid in descendants(self.nodes[node].pid):
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
def cluster(nodes: int = 2) -> Iterator[Raylets]:
    """So many nodes; they are gone when the `with` ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.2", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # short: Ray has sockets there
    raylets = Raylets(f"127.0.0.2:{port}", folder)
    try:
        raylets.start("--head", "--port", str(port), "--include-dashboard=false", "--temp-dir", str(folder))
        wait_for_port(port)
        for _ in range(nodes - 1):
            raylets.start()
        yield raylets
    finally:
        for node in range(len(raylets.nodes)):
            raylets.kill(node)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_port(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError):
            socket.create_connection(("127.0.0.2", port), 1).close()
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens at {port}")
