"""What runs where no one process started the others: torchrun on this machine, and two hosts with a slow link."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import processes
from tests.train.shared_runs import ONE_LABEL, begin, left

PATIENCE = 4
LINES = 3
"""Of metrics, when a run is under way."""


def lines(out: Path) -> int:
    metrics = out / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def workers_of(agent: int) -> list[int]:
    """The processes that torchrun has started."""
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [
        int(pid) for pid in children if b"train" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


def test_torchrun_starts_a_killed_process_again(folder: Path, unbroken: Path, tmp_path: Path) -> None:
    """It goes on from the last checkpoint by itself, to the same bits."""
    out = tmp_path / "run"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = begin(folder, out, ONE_LABEL, "--checkpoint-steps", "3")
    agent = subprocess.Popen(
        [*torchrun, "--max-restarts=2", "-m", "depthwise", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    end = time.monotonic() + 120
    while lines(out) < LINES and time.monotonic() < end:
        assert agent.poll() is None, agent.stderr
        time.sleep(0.01)
    os.kill(workers_of(agent.pid)[-1], signal.SIGKILL)
    _, printed = agent.communicate(timeout=200)
    assert agent.returncode == 0, printed
    assert left(out) == left(unbroken)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a link of 50 Mbit/s between them, 10.90.0.1 and 10.90.0.2."""
    names = (f"dw{os.getpid()}a", f"dw{os.getpid()}b")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0], "type", "veth", "peer", "name", names[1])
        for number, name in enumerate(names, start=1):
            ip("link", "set", name, "netns", name)
            ip("-n", name, "link", "set", name, "name", "link0")
            ip("-n", name, "addr", "add", f"10.90.0.{number}/24", "dev", "link0")
            ip("-n", name, "link", "set", "link0", "up")
            ip("-n", name, "link", "set", "lo", "up")
            slow = "qdisc add dev link0 root tbf rate 50mbit burst 64kb latency 100ms"
            subprocess.run(["tc", "-n", name, *slow.split()], check=True, capture_output=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def on_host(host: str, *words: str) -> None:
    """`depthwise *words` in a network namespace."""
    with Path("/run/netns", host).open() as namespace:
        assert ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) == 0, ctypes.get_errno()
    processes.depthwise(*words)


def on_both(hosts: tuple[str, str], words: list[str], out: Path) -> list[processes.Forked]:
    """The leader on the first host, which alone has the run's directory, and one that follows on the second."""
    started = []
    for rank, host in enumerate(hosts):
        environment = {
            "RANK": str(rank),
            "WORLD_SIZE": "2",
            "MASTER_ADDR": "10.90.0.1",
            "MASTER_PORT": "29500",
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "link0",
        }
        place = out if rank == 0 else out.with_name("nothing")
        own = [str(place) if word == str(out) else word for word in words]
        started.append(processes.Forked(on_host, host, *own, **environment))
    return started


@pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("tc")),
    reason="network namespaces take root, ip and tc",
)
def test_two_hosts_whose_link_is_cut(
    hosts: tuple[str, str],
    folder: Path,
    unbroken: Path,
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    more = ("--patience", str(PATIENCE), "--checkpoint-steps", "3")
    leader, other = on_both(hosts, begin(folder, out, ONE_LABEL, *more), out)
    leader.wait_for(lambda: other.ended or lines(out) >= LINES)
    assert not leader.ended, leader.printed
    assert not other.ended, other.printed
    ip("-n", hosts[1], "link", "set", "link0", "down")
    began = time.monotonic()
    ended = leader.wait(timeout=100)
    assert ended.returncode == 1, ended.stderr
    assert f"another of the 2 processes said nothing for {PATIENCE} s (" in ended.stderr
    assert "nothing of the " in ended.stderr
    assert time.monotonic() - began < 10 * PATIENCE
    ended = other.wait(timeout=100)
    assert ended.returncode == 1, ended.stderr
    ip("-n", hosts[1], "link", "set", "link0", "up")
    for process in on_both(hosts, ["train", "--out", str(out), "--resume", *more], out):
        ended = process.wait(timeout=200)
        assert ended.returncode == 0, ended.stderr
    assert left(out) == left(unbroken)
