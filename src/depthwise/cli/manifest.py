"""The options that say how a manifest is read, and which of its labels are classes: the same for several commands."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from depthwise.cli.options import flag

if TYPE_CHECKING:
    from depthwise.data import Columns


PathColumn = Annotated[
    str | None, Parameter(help="The manifest's column of images' paths, if its name does not tell.")
]

ImageRoot = Annotated[Path | None, Parameter(help="Where its paths begin [default: the manifest's folder].")]


@dataclass(frozen=True)
class ManifestOptions:
    """As a person wrote them."""

    path_column: PathColumn = None
    label_column: Annotated[str | None, Parameter(help="Its column of labels.")] = None
    label_separator: Annotated[
        str | None, Parameter(help="What parts the labels of an image, if it is not ; or |.")
    ] = None
    split_column: Annotated[str | None, Parameter(help="Its column of train, val and test.")] = None
    negative_column: Annotated[
        str | None, Parameter(help="Its column of labels that an image was looked at for and does not have.")
    ] = None
    image_root: ImageRoot = None
    labels_from: Annotated[
        Literal["sidecar", "embedded"] | None,
        Parameter(
            help="Take a folder's labels from keywords: sidecar, photo.txt (or .xmp) beside photo.jpg; embedded, XMP "
            "and IPTC inside JPEGs."
        ),
    ] = None
    min_count: Annotated[int | None, Parameter(help="Labels of fewer training images are no classes.")] = None
    classes: Annotated[
        Path | None, Parameter(help="A file of the only classes, a line each, in their order.")
    ] = None
    aliases: Annotated[
        Path | None,
        Parameter(help="A CSV of two columns without a header: another name, and the class meant."),
    ] = None
    ignore: Annotated[
        list[str] | None,
        Parameter(
            negative="", consume_multiple=True, help="Labels to pass over, or a file of them, a line each."
        ),
    ] = None
    absent: Annotated[
        Literal["negative", "unknown"] | None,
        Parameter(
            help="Whether an image lacks the labels that are not named for it, or nobody looked [default: negative]."
        ),
    ] = None

    one_label: Annotated[bool, flag("Of an image's labels only the first counts: it is of one class.")] = (
        False
    )

    def columns(self) -> "Columns":
        """What they say, the files read."""
        from depthwise.data.columns import Columns, read_aliases, read_names

        ignored = [
            name
            for word in self.ignore or ()
            for name in (read_names(Path(word)) if os.path.isfile(word) else (word,))
        ]
        given = {
            "path_column": self.path_column,
            "label_column": self.label_column,
            "label_separator": self.label_separator,
            "split_column": self.split_column,
            "negative_column": self.negative_column,
            "image_root": self.image_root and str(self.image_root),
            "labels_from": self.labels_from,
            "min_count": self.min_count,
            "classes": self.classes and read_names(self.classes),
            "aliases": self.aliases and read_aliases(self.aliases),
            "ignore": ignored or None,
            "absent": self.absent,
            "one_label": self.one_label,
        }
        asked = {name: value for name, value in given.items() if value is not None and value is not False}
        return Columns(**asked)  # type: ignore[arg-type]


Manifest = Annotated[ManifestOptions | None, Parameter(name="*")]


def asked(options: ManifestOptions | None) -> "Columns | None":
    """None if nothing was given."""
    return options.columns() if options else None
