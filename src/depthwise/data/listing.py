"""What lies where in a folder of images: FOLDER/CLASS/IMAGE, or FOLDER/PART/CLASS/IMAGE."""

import os
from dataclasses import dataclass
from pathlib import Path

from depthwise.data.formats import is_image_name
from depthwise.errors import DepthwiseError

_PART_OF = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
# What systems and programs leave in folders, in lower case: Windows, macOS' archives, NAS boxes, ext4, Python.
_LITTER = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("@eadir", "@recycle", "@recently-snapshot", "@sharesnap", "#recycle", "#snapshot", "~snapshot"),
        *("lost+found", "__pycache__"),
    }
)


def passed_over(name: str) -> bool:
    """Whether a file or folder of this name (not a path) is hidden or a system's own, no part of anybody's images."""
    return name.startswith(".") or name.lower() in _LITTER


@dataclass(frozen=True)
class Listing:
    """The image files of `root` by part ("train", "val", "test", or "" alone if it is not divided) and class.

    Paths are relative to `root`; parts and classes, and the files of each, are in order. ignored: paths that are
    no image of a class; hidden files and a file manager's litter are not named. empty: classes without an image.
    """

    root: Path
    parts: dict[str, dict[str, list[str]]]
    ignored: tuple[str, ...]
    empty: tuple[str, ...]

    def names(self) -> list[str]:
        """All the image files."""
        return [name for classes in self.parts.values() for names in classes.values() for name in names]


def list_folder(root: Path) -> Listing:
    """Looks into `root`, its parts and its classes, no deeper; raises DepthwiseError if no image is found there."""
    if not root.exists():
        raise DepthwiseError(f"{root} does not exist: give a folder of CLASS/IMAGE")
    if not root.is_dir():
        raise DepthwiseError(f"{root} is a file: give a folder of CLASS/IMAGE")
    folders, files = _entries(root, "")
    ignored, empty = [*files], []
    places = _places(root, folders)
    if places:
        ignored += [f"{name}/" for name in folders if name not in places.values()]
    parts: dict[str, dict[str, list[str]]] = {}
    for part, place in (places or {"": ""}).items():
        parts[part] = {}
        classes, strays = _entries(root, place)
        ignored += strays if place else []
        for class_folder in classes:
            nested, inside = _entries(root, class_folder)
            images = [name for name in inside if is_image_name(name)]
            ignored += [f"{name}/" for name in nested] + [name for name in inside if not is_image_name(name)]
            if images:
                parts[part][os.path.basename(class_folder)] = images
            else:
                empty.append(class_folder)
    if not any(parts.values()):
        raise DepthwiseError(f"{root} has no image in a class's folder: {_remedy(root, folders, files)}")
    return Listing(root, parts, tuple(ignored), tuple(empty))


def images_below(folder: str | os.PathLike[str]) -> list[str]:
    """The image files in `folder` and its subfolders, in order, with the folder's path before each.

    What `passed_over` says is passed over. What cannot be read, and a folder that cannot be listed, is among them:
    whoever reads it will hear the reason.
    """
    found: list[str] = []
    unlisted: list[str] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: unlisted.append(error.filename)):
        folders[:] = [name for name in folders if not passed_over(name)]
        found += [
            os.path.join(place, name) for name in names if is_image_name(name) and not passed_over(name)
        ]
    return sorted(found + unlisted)


def _places(root: Path, folders: list[str]) -> dict[str, str]:
    """The folder of each part, in the parts' order. A folder called train that holds images is a class of trains."""
    found: dict[str, str] = {}
    for name in folders:
        part = _PART_OF.get(name.lower())
        if part is None:
            continue
        classes, files = _entries(root, name)
        if not classes or any(map(is_image_name, files)):
            continue
        if part in found:
            raise DepthwiseError(
                f"{root} has {found[part]}/ and {name}/, both its {part} part: keep one of them"
            )
        found[part] = name
    return {part: found[part] for part in ("train", "val", "test") if part in found}


def _entries(root: Path, place: str) -> tuple[list[str], list[str]]:
    """The folders and the other files in root/place, relative to `root` and in order; links are followed."""
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(root / place) as entries:
            for entry in entries:
                if passed_over(entry.name):
                    continue
                (folders if entry.is_dir() else files).append(os.path.join(place, entry.name))
    except OSError as error:
        raise DepthwiseError(
            f"{root / place} cannot be listed ({error.strerror}): make it readable"
        ) from error
    return sorted(folders), sorted(files)


def _remedy(root: Path, folders: list[str], files: list[str]) -> str:
    if any(map(is_image_name, files)):
        return "its images stand side by side, sort them into one folder a class"
    for folder in folders:
        for inner in _entries(root, folder)[0]:
            if any(map(is_image_name, _entries(root, inner)[1])):
                return f"did you mean {root / folder}?"
    return "give a folder of CLASS/IMAGE, or of train/CLASS/IMAGE and val/CLASS/IMAGE"
