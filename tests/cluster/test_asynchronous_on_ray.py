"""Asynchronous training by Ray's actors on two nodes: a server, a worker and the front killed; its log repeats it."""

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from tests import processes
from tests.cluster.raylets import Raylets
from tests.train.asynchronous.test_asynchronous_runs import SETTINGS, checked, outcome

SECONDS = 500.0  # of a machine with much else to do, where each actor imports torch
ASKED = ("workers=3", "servers=2", "bound=9", "divide=true")


def begun(out: Path, *arguments: str) -> processes.Forked:
    where = ("--out", str(out), "--checkpoint-steps", "20")
    return processes.start("train", *where, *arguments, OMP_NUM_THREADS="1")


def actors(raylets: Raylets, kind: str) -> list[int]:
    """The processes of a kind of actor, on any node."""
    return [pid for node in range(len(raylets.nodes)) for pid in raylets.workers(node, f"ray::{kind}")]


def num_pushes(out: Path) -> int:
    log = out / "pushes.jsonl"
    return log.read_text().count("\n") - 1 if log.exists() else 0


def test_servers_workers_and_the_front_are_killed_and_the_log_repeats_the_run(
    raylets: Raylets, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    on = ("--ray", raylets.address)
    process = begun(
        out, "--data", "digits", "--model", "xception", "--set", *SETTINGS, *on, "--asynchronous", *ASKED
    )
    process.wait_for(lambda: num_pushes(out) > 10, SECONDS)
    assert (len(actors(raylets, "_Server")), len(actors(raylets, "_Worker"))) == (2, 3), process.printed
    os.kill(actors(raylets, "_Worker")[0], signal.SIGKILL)
    process.wait_for(lambda: num_pushes(out) > 30, SECONDS)
    servers = actors(raylets, "_Server")
    os.kill(servers[0], signal.SIGKILL)
    process.wait_for(lambda: len({*actors(raylets, "_Server")} - {*servers}) == 1, SECONDS)
    process.wait_for(lambda: num_pushes(out) > 70, SECONDS)
    os.kill(process.pid, signal.SIGKILL)
    assert process.code() == -signal.SIGKILL
    said = process.printed[1]
    assert " is lost (its process ended): another takes its place" in said, said
    assert "of 2 ended: the run goes on from the checkpoint of step " in said, said
    assert "Traceback" not in said
    checked(begun(out, "--resume", *on))
    pushes = [json.loads(line) for line in (out / "pushes.jsonl").read_text().splitlines()[1:]]
    counted = [push for push in pushes if push["written"]]
    assert sorted(push["batch"] for push in counted) == list(range(len(counted)))
    assert len({push["worker"] for push in counted}) == 3
    assert max(push["written"] - 1 - push["pulled"] for push in counted) >= 2
    assert "real workers: workers=3 servers=2 bound=9 divide=True" in (out / "report.html").read_text()
    checked(begun(tmp_path / "again", "--data", "digits", "--replay", str(out / "pushes.jsonl")))
    assert outcome(tmp_path / "again") == outcome(out)


def test_backup_workers_are_waited_for_by_nobody_and_the_log_repeats_the_run(
    raylets: Raylets, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    asked = ("epochs=1", "--asynchronous", "workers=2", "backup=1")
    on = ("--ray", raylets.address)
    checked(begun(out, "--data", "digits", "--model", "xception", *on, "--set", *SETTINGS, *asked))
    pushes = [json.loads(line) for line in (out / "pushes.jsonl").read_text().splitlines()[1:]]
    updates = Counter(push["written"] for push in pushes)
    assert updates.pop(None)  # dropped
    assert updates == dict.fromkeys(range(1, len(updates) + 1), 2)
    assert "real workers: workers=2 backup=1" in (out / "report.html").read_text()
    checked(begun(tmp_path / "again", "--data", "digits", "--replay", str(out / "pushes.jsonl")))
    assert outcome(tmp_path / "again") == outcome(out)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--asynchronous", "workers=2"),
            "--asynchronous has its workers on a cluster: say which, with --ray",
        ),
        (
            ("--asynchronous", "workers=2", "backup=1", "bound=3", "--ray", "auto"),
            "asynchronous.backup makes all workers wait, and no gradient is stale then: leave bound and divide out",
        ),
        (("--asynchronous", "worker=2", "--ray", "auto"), "unknown setting of --asynchronous 'worker'"),
        (
            ("--asynchronous", "workers=2", "--simulate", "workers=2", "--ray", "auto"),
            "--simulate makes workers up, and --asynchronous has real ones: give one of them",
        ),
        (("--simulate", "workers=2", "--ray", "auto"), "--simulate trains in one process: leave --ray out"),
    ],
)
def test_what_a_cluster_cannot_do_is_refused(
    tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in checked(begun(tmp_path / "run", "--data", "digits", *arguments), code=2)
