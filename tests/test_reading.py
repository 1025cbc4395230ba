"""Only regular files are read, whatever else bears an image's name, and nothing is waited for."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from depthwise import reading
from depthwise.reading import open_regular, parse_json, read_regular


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # a socket's path is short


SPECIAL: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "a pipe, and only regular files are read"),
    "socket": (_socket, "a socket, and only regular files are read"),
    "zeros": (lambda path: path.symlink_to("/dev/zero"), "a device, and only regular files are read"),
    "terminal": (lambda path: path.symlink_to("/dev/tty"), "a device, and only regular files are read"),
    "folder": (Path.mkdir, "a folder, and only regular files are read"),
    "itself": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "No such file or directory"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_not_read(tmp_path: Path, kind: str) -> None:
    make, reason = SPECIAL[kind]
    make(tmp_path / "a.png")
    with pytest.raises(OSError, match=reason):
        read_regular(tmp_path / "a.png")


def test_regular_files_and_links_to_them_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content" * 1_000_000)
    (tmp_path / "link").symlink_to("a")
    assert read_regular(tmp_path / "link") == b"content" * 1_000_000
    with open_regular(tmp_path / "a") as file:
        assert file.read(7) == b"content"


def test_a_file_that_says_it_is_empty_is_read_to_its_end() -> None:
    assert b"Name:" in read_regular("/proc/self/status")


def test_a_file_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MOST_BYTES", 2**20)
    (tmp_path / "a").write_bytes(bytes(2**20))
    assert len(read_regular(tmp_path / "a")) == 2**20
    (tmp_path / "a").write_bytes(bytes(2**20 + 1))
    with pytest.raises(OSError, match="GiB, more than is read"):
        read_regular(tmp_path / "a")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[" * 100_000, "nested too deep"),
        ('{"a": {"b": 1, "b": 2}}', "it says 'b' twice"),
        (b"\xff\xfe\x00", "codec can't decode"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ("1" * 5000, "digits"),
    ],
    ids=["cut off", "deep", "twice", "no text", "surrogate", "long"],
)
def test_json_of_strangers_is_read_or_refused_in_one_way(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_json_keeps_the_bytes_of_a_name_that_is_no_utf8() -> None:
    assert parse_json('{"classes": ["caf\\udce9"]}') == {"classes": ["caf\udce9"]}
