"""The pictures that a bundle has for whoever tries its model: image files in its folder `examples`, at any depth."""

import os
from collections.abc import Callable
from pathlib import Path

from depthwise.data.formats import is_image_name

FOLDER = "examples"
MOST, MOST_BYTES, MOST_TRIED = 12, 8 * 2**20, 100
"""Of pictures, of each, and files that are looked into for them."""


def example_files(bundle: Path, readable: Callable[[Path], bool] = lambda file: True) -> list[Path]:
    """At most MOST of them that are `readable`, by name, those of a folder before those in its folders; none that is a
    link, which may lead out of the bundle."""
    root, found = bundle / FOLDER, list[Path]()
    if root.is_symlink():
        return found
    for folder, folders, names in os.walk(root):
        folders.sort()
        found += [file for name in sorted(names) if _is_example(file := Path(folder, name))]
        if len(found) >= MOST_TRIED:
            break
    return [file for file in found[:MOST_TRIED] if readable(file)][:MOST]


def _is_example(file: Path) -> bool:
    try:
        str(file).encode()  # a name that is no UTF-8 cannot be said in JSON
    except UnicodeEncodeError:
        return False
    if not is_image_name(file.name) or file.is_symlink() or not file.is_file():
        return False
    return 0 < file.stat().st_size <= MOST_BYTES
