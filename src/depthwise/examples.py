"""The pictures that a bundle has for whoever tries its model: image files in its folder `examples`, at any depth."""

import os
from pathlib import Path

from depthwise.data.formats import is_image_name

FOLDER = "examples"
MOST, MOST_BYTES = 12, 8 * 2**20
"""Of pictures, and of each."""


def example_files(bundle: Path) -> list[Path]:
    """At most MOST of them, by name, those of a folder before those in its folders; none that is a link, which may lead
    out of the bundle."""
    root, found = bundle / FOLDER, list[Path]()
    if root.is_symlink():
        return found
    for folder, folders, names in os.walk(root):
        folders.sort()
        found += [file for name in sorted(names) if _is_example(file := Path(folder, name))]
        if len(found) >= MOST:
            break
    return found[:MOST]


def _is_example(file: Path) -> bool:
    if not is_image_name(file.name) or file.is_symlink() or not file.is_file():
        return False
    return 0 < file.stat().st_size <= MOST_BYTES
