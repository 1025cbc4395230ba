"""What is written by one process at a time, and what a process that was killed leaves behind."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from depthwise.errors import DepthwiseError
from depthwise.writing import leftover_of, locked, reserved, written_folder, written_whole

HOLD = """
import sys, time
from pathlib import Path
from depthwise.writing import written_folder, written_whole
kind, path = {"file": written_whole, "folder": written_folder}[sys.argv[1]], Path(sys.argv[2])
with kind(path) as held:
    held.write(b"half") if sys.argv[1] == "file" else (held / "half").touch()
    print("inside", flush=True)
    time.sleep(600)
"""


def holder(kind: str, path: Path) -> subprocess.Popen[str]:
    """A real process in the midst of writing `path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    return process


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_second_is_refused_and_a_killed_one_cleaned_up_after(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    first = holder(kind, path)
    try:
        number = str(first.pid) if kind == "folder" else ""
        with pytest.raises(
            DepthwiseError, match=rf"process {number}.*is writing .*thing: wait until it ends"
        ):
            write(kind, path)
        assert not path.exists()
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert os.listdir(tmp_path)
    assert {leftover_of(name) for name in os.listdir(tmp_path)} == {"thing"}
    write(kind, path)
    assert os.listdir(tmp_path) == ["thing"]


def write(kind: str, path: Path) -> None:
    if kind == "file":
        with written_whole(path) as file:
            file.write(b"whole")
    else:
        with written_folder(path) as folder:
            assert list(folder.iterdir()) == []
            folder.rename(path)


def test_the_dead_processes_of_older_versions_are_cleaned_up_after_and_the_living_left(
    tmp_path: Path,
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for name in (f".a.{gone.pid}.partial", f".a.{os.getpid()}.partial", f".b.{gone.pid}.partial"):
        (tmp_path / name).mkdir()
    with written_folder(tmp_path / "a"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([f".a.{os.getpid()}.partial", f".b.{gone.pid}.partial"])


def test_who_comes_second_is_told_before_the_work_and_the_first_may_enter_again(tmp_path: Path) -> None:
    path = tmp_path / "thing"
    with reserved(path):
        other = subprocess.run(
            [sys.executable, "-c", HOLD, "folder", str(path)], capture_output=True, text=True, timeout=60
        )
        assert f"process {os.getpid()} is writing {path}: wait until it ends" in other.stderr
        with pytest.raises(DepthwiseError, match="is writing"), ThreadPoolExecutor(1) as pool:
            pool.submit(write, "folder", path).result()
        write("folder", path)
        assert f".{path.name}.lock" in os.listdir(tmp_path)
    assert os.listdir(tmp_path) == ["thing"]


def test_many_at_once_are_refused_or_whole(tmp_path: Path) -> None:
    """Eight processes that write one file again and again: whenever it is read, it is of one of them."""
    code = """
import sys
from pathlib import Path
from depthwise.errors import DepthwiseError
from depthwise.writing import written_whole
done = refused = 0
while done < 30:
    try:
        with written_whole(Path(sys.argv[1])) as file:
            file.write(sys.argv[2].encode() * 50_000)
            file.write(sys.argv[2].encode() * 50_000)
        done += 1
    except DepthwiseError as error:
        assert "another process is writing" in str(error), error
"""
    path = tmp_path / "file"
    processes = [subprocess.Popen([sys.executable, "-c", code, path, str(number)]) for number in range(8)]
    while any(process.poll() is None for process in processes):
        if path.exists():
            content = path.read_bytes()
            assert content == content[:1] * 100_000
    assert [process.returncode for process in processes] == [0] * 8
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EBADF])
def test_a_file_system_without_locks_is_written_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with locked(tmp_path / ".lock", tmp_path) as lock:
        assert not lock.held
    with written_folder(tmp_path / "folder") as folder:
        assert folder.name == f".folder.{os.getpid()}.partial"
    write("file", tmp_path / "file")
    assert os.listdir(tmp_path) == ["file"]


def test_a_leftover_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    (tmp_path / ".file.tmp").symlink_to("letter")
    with pytest.raises(DepthwiseError, match="file cannot be written"):
        write("file", tmp_path / "file")
    assert (tmp_path / "letter").read_text() == "dear"
