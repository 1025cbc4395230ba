"""Only listed formats are opened, by whatever name a file goes, and nothing else happens meanwhile."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from depthwise.data.formats import FORMATS, IMAGE_SUFFIXES, is_image_name
from depthwise.data.image import UnreadableImageError, decode
from depthwise.errors import DepthwiseError

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8)

# An audit hook sees what the process does in Python, and a `gs` of our own on the path what is started by any way.
WATCHED = """
import os, sys, warnings
from pathlib import Path
from PIL import EpsImagePlugin, Image
Image.init()
from depthwise.data.image import decode
from depthwise.errors import DepthwiseError
seen = []
def hook(event, args):
    if event.startswith(("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.", "tempfile.")):
        seen.append(f"{event} {args[0]}")
    if event == "open" and isinstance(args[0], str) and not args[0].endswith((".py", ".pyc", ".so")):
        seen.append(f"open {args[0]}")
sys.addaudithook(hook)
for path in sys.argv[1:]:
    data = Path(path).read_bytes()
    seen.clear()
    for source in (path, data):
        try:
            print(tuple(decode(source).shape))
        except DepthwiseError as error:
            print(error)
    print("did", sorted(set(seen) - {f"open {path}"}))
"""


def eps(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "EPS")
    return file.getvalue()


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Ghostscript that leaves a mark where the test finds it."""
    mark, folder = tmp_path / "ghostscript-ran", tmp_path / "bin"
    folder.mkdir()
    for name in ("gs", "gswin64c", "gswin32c"):
        program = folder / name
        program.write_text(f"#!/bin/sh\ntouch {mark}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return mark


def test_a_postscript_file_by_any_name_starts_nothing(tmp_path: Path, trap: Path) -> None:
    paths = [
        tmp_path / name for name in ("holiday.jpg", "holiday.png", "holiday.tga", "holiday.eps", "holiday")
    ]
    for path in paths:
        path.write_bytes(eps(Image.fromarray(GREY)))
    with pytest.raises(OSError, match=r"."):  # the trap works: Pillow's own way runs what is called gs
        Image.open(paths[0]).load()
    assert trap.exists()
    trap.unlink()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, *map(str, paths)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2::3] == ["did []"] * len(paths)
    assert all("not an image of a format that can be read" in line for line in [*lines[0::3], *lines[1::3]])
    assert done.stderr == ""
    assert not trap.exists()


def test_a_pillow_image_that_would_start_a_program_is_refused_until_it_is_loaded(
    tmp_path: Path, trap: Path
) -> None:
    path = tmp_path / "holiday.eps"
    path.write_bytes(eps(Image.fromarray(GREY)))
    with pytest.raises(UnreadableImageError, match=r"EPS .* image.copy\(\)"):
        decode(Image.open(path))
    assert not trap.exists()


def test_a_loaded_copy_of_any_format_is_read() -> None:
    file = io.BytesIO()
    Image.fromarray(GREY).save(file, "PCX")
    picture = Image.open(file)
    with pytest.raises(DepthwiseError, match="PCX"):
        decode(picture)
    assert np.array_equal(decode(picture.copy())[0].numpy(), GREY)


def foreign_formats() -> list[str]:
    Image.init()
    return sorted(set(Image.SAVE) & set(Image.OPEN) - set(FORMATS))


@pytest.mark.parametrize("kind", foreign_formats())
def test_formats_that_are_not_listed_stay_closed(kind: str) -> None:
    file = io.BytesIO()
    try:
        Image.fromarray(GREY).convert("RGB").save(file, kind)
    except (OSError, KeyError, ValueError):
        file.write(b"GRIB    \x01" if kind == "GRIB" else b"BUFR" if kind == "BUFR" else b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UnreadableImageError):
        decode(file.getvalue())


def test_what_pillow_logs_is_not_printed() -> None:
    file = io.BytesIO()
    Image.fromarray(GREY).convert("RGB").save(file, "TIFF")
    at = file.getvalue().index(b"\x15\x01\x03\0")  # SamplesPerPixel, a short
    data = file.getvalue()[: at + 8] + b"\x03\x3d" + file.getvalue()[at + 10 :]
    code = f"from depthwise.data.image import decode\ntry: decode({data!r})\nexcept Exception as e: print(e)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("image: ")
    assert done.stderr == ""


def test_each_suffix_belongs_to_a_format_and_pillow_agrees() -> None:
    Image.init()
    for name, suffixes in FORMATS.items():
        for suffix in suffixes.split():
            assert f".{suffix}" in IMAGE_SUFFIXES
            if name != "HEIF":
                assert Image.EXTENSION.get(f".{suffix}", "JPEG" if suffix == "mpo" else None) in (
                    name,
                    "MPO",
                    "PPM",
                )


def test_names() -> None:
    assert is_image_name("a.JPG")
    assert is_image_name("IMG_0001.HEIC")
    assert not is_image_name("a.eps")
    assert not is_image_name("jpg")
