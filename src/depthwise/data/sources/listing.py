"""What lies where in a folder of images: FOLDER/CLASS/IMAGE, or FOLDER/PART/CLASS/IMAGE."""

import errno
import heapq
import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from depthwise.data.formats import is_image_name, is_signed
from depthwise.data.names import composed, shortened, some
from depthwise.errors import DepthwiseError
from depthwise.reading import open_regular
from depthwise.words import number_of

_PART_OF = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_EXTENSION = re.compile(r"(?<=.)\.(?=[0-9]*[a-zA-Z])[a-zA-Z0-9]{1,5}$")
_HEAD_BYTES = 4096
MOST_LOOKED_AT = 1000
"""Files of one extension in a folder that are looked into, to tell those that are images under a wrong name."""

# What systems and programs leave in folders, in lower case: Windows, macOS' archives, NAS boxes, ext4, Python.
_LITTER = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("@eadir", "@recycle", "@recently-snapshot", "@sharesnap", "#recycle", "#snapshot", "~snapshot"),
        *("lost+found", "__pycache__"),
    }
)


def part_of(name: str) -> str | None:
    """The part that a folder, a file's stem or a value in a table names in any of the usual ways; None for another."""
    return _PART_OF.get(name.lower())


def passed_over(name: str) -> bool:
    """Whether a file or folder of this name (not a path) is hidden or a system's own, no part of anybody's images."""
    return name.startswith(".") or name.lower() in _LITTER


class Ignored(NamedTuple):
    """A path that is no image of a class: what it is, as one and as many, what can be done about it, or "", and how
    many images are in it."""

    path: str
    kind: str
    kinds: str
    remedy: str = ""
    num_images: int = 0


@dataclass(frozen=True)
class Listing:
    """The image files of `root` by part ("train", "val", "test", or "" alone if it is not divided) and class.

    Paths are relative to `root`; parts and classes, and the files of each, are in order. Classes are named in the
    composed form (see names.py), with `nested` by the whole path below the part. ignored: what is no image of a
    class; hidden files and a file manager's litter are not named. empty: classes without an image. notes: sentences
    about what was taken together.
    """

    root: Path
    parts: dict[str, dict[str, list[str]]]
    ignored: tuple[Ignored, ...]
    empty: tuple[str, ...]
    nested: bool = False
    notes: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """All the image files."""
        return [name for classes in self.parts.values() for names in classes.values() for name in names]


def list_folder(root: Path, *, nested: bool = False) -> Listing:
    """Looks into `root`, its parts and its classes; raises DepthwiseError if no image is found there.

    A class is a folder in `root`, or in a part of it; with `nested` every folder below that holds images, called by
    its path: animals/cat.
    """
    if not root.exists():
        raise DepthwiseError(f"{root} does not exist: give a folder of CLASS/IMAGE")
    if not root.is_dir():
        raise DepthwiseError(
            f"{root} is a file: give a folder of CLASS/IMAGE, or a manifest that ends in .csv, .tsv, .jsonl, "
            f".parquet or .tar"
        )
    top = _entries(root, "")
    places = _places(root, top.folders)
    ignored, empty, notes = _beside_classes(root, top), [], []
    if places:
        beside = " and ".join(f"{place}/" for place in places.values())
        others = (name for name in top.folders if name not in places.values())
        ignored += [
            Ignored(f"{name}/", f"folder beside {beside}", f"folders beside {beside}") for name in others
        ]
    parts: dict[str, dict[str, list[str]]] = {}
    for part, place in (places or {"": ""}).items():
        classes: dict[str, list[str]] = {}
        if place:
            ignored += _beside_classes(root, _entries(root, place))
        for folder, images in (_nested if nested else _flat)(root, place, ignored):
            label = composed(os.path.relpath(folder, place or "."))
            if not images:
                empty.append(folder)
            elif label in classes:
                notes.append(_one_class(label, os.path.dirname(classes[label][0]), folder))
            classes[label] = sorted([*classes.get(label, ()), *images])
        parts[part] = {label: names for label, names in sorted(classes.items()) if names}
    if not any(parts.values()):
        raise DepthwiseError(f"{root} has no image in a class's folder: {_remedy(root, top)}")
    return Listing(root, parts, tuple(ignored), tuple(empty), nested, tuple(notes))


def ignored_kinds(ignored: Iterable[Ignored]) -> tuple[str, ...]:
    """A phrase for each kind of what is ignored, the most frequent first: "2 .txt files (cat/a.txt, ...)"."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    images: Counter[str] = Counter()
    for path, kind, kinds, remedy, num_images in ignored:
        groups.setdefault((kind, kinds, remedy), []).append(path)
        images[kind] += num_images
    phrases = []
    for (kind, kinds, remedy), paths in sorted(groups.items(), key=lambda group: -len(group[1])):
        example = shortened(paths[0]) + (", ..." if len(paths) > 1 else "")
        within = f"{number_of(images[kind], 'image')} in " if images[kind] else ""
        phrases.append(f"{within}{number_of(len(paths), kind, kinds)} ({example}{remedy and f': {remedy}'})")
    return tuple(phrases)


def images_below(folder: str | os.PathLike[str]) -> list[str]:
    """The image files in `folder` and its subfolders, in order, with the folder's path before each.

    What `passed_over` says is passed over. What cannot be read, and a folder that cannot be listed, is among them:
    whoever reads it will hear the reason.
    """
    found: list[str] = []
    unlisted: list[str] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: unlisted.append(error.filename)):
        folders[:] = [name for name in folders if not passed_over(name)]
        paths = (os.path.join(place, name) for name in names if not passed_over(name))
        found += filter(is_image, paths)
    return sorted(found + unlisted)


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether `path` has an image's extension, or none and an image's content."""
    name = os.fspath(path)
    return is_image_name(name) if _suffix(name) else is_signed(_head(path))


def has_part_folders(root: Path) -> bool:
    """Whether `root` has folders of classes in train/, val/ or test/."""
    return bool(_places(root, _entries(root, "").folders))


class _Entries(NamedTuple):
    """What lies in a folder: folders, regular files, and what is neither with its kind, as one and as many."""

    folders: list[str]
    files: list[str]
    odd: dict[str, tuple[str, str]]


def _flat(root: Path, place: str, ignored: list[Ignored]) -> Iterator[tuple[str, list[str]]]:
    """Each folder in root/place and its images; what else lies in it goes to `ignored`."""
    remedy = "--nested makes a class of each folder with images"
    above = {_identity(root), _identity(root / place)}
    for folder in _entries(root, place).folders:
        if _identity(root / folder) in above:
            ignored.append(Ignored(f"{folder}/", "link to a folder above it", "links to a folder above them"))
            continue
        inside = _entries(root, folder)
        images, strays = _images(root, inside)
        ignored += (
            Ignored(
                f"{name}/",
                "folder inside a class",
                "folders inside classes",
                remedy,
                len(images_below(root / name)),
            )
            for name in inside.folders
        )
        ignored += strays
        yield folder, images


def _nested(root: Path, place: str, ignored: list[Ignored]) -> Iterator[tuple[str, list[str]]]:
    """The same of every folder below root/place. Links come last, and only to what is not listed already: so nothing
    is walked twice, and a circle ends."""
    seen = {_identity(root), _identity(root / place)}
    waiting = [(os.path.islink(root / name), name) for name in _entries(root, place).folders]
    heapq.heapify(waiting)
    while waiting:
        _, folder = heapq.heappop(waiting)
        if (identity := _identity(root / folder)) in seen:
            again = "to a folder that is listed already"
            ignored.append(Ignored(f"{folder}/", f"link {again}", f"links {again}"))
            continue
        seen.add(identity)
        inside = _entries(root, folder)
        images, strays = _images(root, inside)
        ignored += strays
        for name in inside.folders:
            heapq.heappush(waiting, (os.path.islink(root / name), name))
        if images or not inside.folders:
            yield folder, images


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _places(root: Path, folders: list[str]) -> dict[str, str]:
    """The folder of each part, in the parts' order. A folder called train that holds images is a class of trains."""
    found: dict[str, str] = {}
    for name in folders:
        part = part_of(name)
        if part is None:
            continue
        inside = _entries(root, name)
        if not inside.folders or _images(root, inside)[0]:
            continue
        if part in found:
            raise DepthwiseError(
                f"{root} has {found[part]}/ and {name}/, both its {part} part: keep one of them"
            )
        found[part] = name
    return {part: found[part] for part in ("train", "val", "test") if part in found}


def _entries(root: Path, place: str) -> _Entries:
    """What lies in root/place, relative to `root` and in order; links are followed."""
    found = _Entries([], [], {})
    try:
        with os.scandir(root / place) as entries:
            for entry in entries:
                if passed_over(entry.name):
                    continue
                path, mode = os.path.join(place, entry.name), _mode(entry)
                if mode == stat.S_IFDIR:
                    found.folders.append(path)
                elif mode == stat.S_IFREG:
                    found.files.append(path)
                else:
                    found.odd[path] = _ODD.get(mode, ("special file", "special files"))
    except OSError as error:
        raise DepthwiseError(
            f"{root / place} cannot be listed ({error.strerror}): make it readable"
        ) from error
    return _Entries(sorted(found.folders), sorted(found.files), dict(sorted(found.odd.items())))


def _mode(entry: "os.DirEntry[str]") -> int:
    """The kind of file that `entry` is or is a link to, or minus the error's number."""
    try:
        if entry.is_file(follow_symlinks=False):  # known without asking for more
            return stat.S_IFREG
        return stat.S_IFMT(entry.stat().st_mode)
    except OSError as error:
        return -(error.errno or 0)


_ODD = {
    stat.S_IFIFO: ("pipe", "pipes"),
    stat.S_IFSOCK: ("socket", "sockets"),
    stat.S_IFCHR: ("device", "devices"),
    stat.S_IFBLK: ("device", "devices"),
    -errno.ENOENT: ("link that leads nowhere", "links that lead nowhere"),
    -errno.ELOOP: ("link that leads back to itself", "links that lead back to themselves"),
}


def _images(root: Path, inside: _Entries) -> tuple[list[str], list[Ignored]]:
    """The images among the files, and what all else is. A pipe called a.jpg is an image that cannot be read."""
    images = [path for path in inside.odd if is_image_name(path)]
    strays = [Ignored(path, *kinds) for path, kinds in inside.odd.items() if path not in images]
    looked_at: Counter[str] = Counter()
    for path in inside.files:
        if is_image(root / path):
            images.append(path)
            continue
        suffix = _suffix(path)
        looked_at[suffix] += 1
        if not suffix:
            strays.append(Ignored(path, "file without an extension", "files without an extension"))
        elif looked_at[suffix] <= MOST_LOOKED_AT and _is_misnamed(root / path):
            kinds = (f"{suffix} file that holds an image", f"{suffix} files that hold images")
            strays.append(Ignored(path, *kinds, "give it an image's extension"))
        else:
            strays.append(Ignored(path, f"{suffix} file", f"{suffix} files"))
    return sorted(images), strays


def _beside_classes(root: Path, inside: _Entries) -> list[Ignored]:
    """What lies where the classes' folders lie, and is none."""
    images, strays = _images(root, inside)
    kinds = ("image beside the classes' folders", "images beside the classes' folders")
    return [Ignored(path, *kinds, "move it into one") for path in images] + strays


def _suffix(path: str) -> str:
    """The extension in lower case: up to five letters and digits, not digits alone; or ""."""
    found = _EXTENSION.search(os.path.basename(path))
    return found[0].lower() if found else ""


def _is_misnamed(path: Path) -> bool:
    """Whether a file of another extension is an image. A camera's raw file is a TIFF by its head, and is left alone."""
    head = _head(path)
    return is_signed(head) and head[:4] not in (b"II*\0", b"MM\0*")


def _head(path: str | os.PathLike[str]) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(_HEAD_BYTES) or b""
    except OSError:
        return b""


def _one_class(label: str, *folders: str) -> str:
    spelled = " and ".join(ascii(os.path.basename(folder)) for folder in folders)
    return f"{spelled} are two spellings of one class, {label}: they are taken together"


def _is_sidecar(name: str) -> bool:
    return name.endswith((".txt", ".xmp"))


def _remedy(root: Path, top: _Entries) -> str:
    if images := _images(root, top)[0]:
        stems = {os.path.splitext(name)[0] for name in images}
        beside = next(
            (name for name in top.files if os.path.splitext(name)[0] in stems and _is_sidecar(name)), ""
        )
        keywords = f", or take the keywords in {beside} and others by --labels-from sidecar" if beside else ""
        return f"its images stand side by side, sort them into one folder a class{keywords}"
    deeper: dict[str, str] = {}
    for folder in top.folders:
        for inner in _entries(root, folder).folders:
            if folder not in deeper and _images(root, _entries(root, inner))[0]:
                deeper[folder] = inner
    if not deeper:
        return "give a folder of CLASS/IMAGE, or of train/CLASS/IMAGE and val/CLASS/IMAGE"
    return (
        f"did you mean {some((str(root / folder) for folder in deeper), joint=' or ')}? With --nested every folder "
        f"with images is a class by its path, {next(iter(deeper.values()))} for one"
    )
