"""Keywords of an image: inside a JPEG (XMP's dc:subject, IPTC-IIM 2:25), or in a file beside the image."""

import re
from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

from depthwise.errors import DepthwiseError

SEPARATORS = re.compile(r"[,;\n]")

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC_RESOURCE = 0x0404
_UTF8 = b"\x1b%G"  # ISO 2022's escape, as IIM 1:90 says that texts are UTF-8
_SUBJECT = "http://purl.org/dc/elements/1.1/ subject"
_ITEM = "http://www.w3.org/1999/02/22-rdf-syntax-ns# li"
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD8)}
_START_OF_SCAN, _END = 0xDA, 0xD9
_MOST_SEGMENTS = 10_000


class KeywordsError(DepthwiseError):
    """Keywords that cannot be read; its text is the reason."""


def of_jpeg(file: BinaryIO) -> list[str]:
    """The keywords inside a JPEG, each once; none if it has none, or is no JPEG. Raises KeywordsError."""
    found: list[str] = []
    for marker, content in _segments(file):
        if marker == 0xE1 and content.startswith(_XMP):
            found += of_xmp(content.removeprefix(_XMP))
        elif marker == 0xED and content.startswith(_PHOTOSHOP):
            found += _of_iptc(b"".join(_iptc(content.removeprefix(_PHOTOSHOP))))
    return list(dict.fromkeys(found))


def of_xmp(packet: bytes) -> list[str]:
    """The items of dc:subject in an XMP packet. Raises KeywordsError.

    Expat is asked directly, and a document type, without which there is no entity to expand, is refused.
    """
    found: list[str] = []
    path: list[str] = []
    text: list[str] = []

    def start(name: str, _: dict[str, str]) -> None:
        path.append(name)
        text.clear()

    def end(name: str) -> None:
        if path.pop() == _ITEM and _SUBJECT in path:
            found.append("".join(text).strip())

    def refuse(*_: object) -> None:
        raise KeywordsError("its XMP has a document type, which no XMP needs")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = text.append
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(packet.strip(b"\0 \t\r\n"), True)
    except (
        expat.ExpatError,
        ValueError,
        LookupError,
    ) as error:  # the latter two of an encoding that is not known
        raise KeywordsError(f"its XMP is damaged ({error})") from None
    return [keyword for keyword in found if keyword]


def of_text(data: bytes, separator: str | None) -> list[str]:
    """The keywords in a text file: a line each, or parted by `separator`, by default commas and semicolons.

    Raises KeywordsError.
    """
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise KeywordsError("it is not UTF-8: save it as UTF-8") from None
    parts = SEPARATORS.split(text) if separator is None else re.split(f"{re.escape(separator)}|\n", text)
    return [keyword for part in parts if (keyword := part.strip())]


def _segments(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each APP1 and APP13 before the image's own data."""
    if file.read(2) != b"\xff\xd8":
        return
    for _ in range(_MOST_SEGMENTS):
        head = file.read(2)
        while len(head) == 2 and head[0] == 0xFF and head[1] == 0xFF:  # padding
            head = head[1:] + file.read(1)
        if len(head) < 2 or head[0] != 0xFF or head[1] in (_START_OF_SCAN, _END):
            return
        if head[1] in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(file.read(2)) - 2
        if length < 0:
            return
        if head[1] in (0xE1, 0xED):
            yield head[1], file.read(length)
        else:
            file.seek(length, 1)


def _iptc(content: bytes) -> Iterator[bytes]:
    """What Photoshop's resources have of IPTC-IIM."""
    at = 0
    while content[at : at + 4] == b"8BIM":
        number = int.from_bytes(content[at + 4 : at + 6])
        name = content[at + 6] if len(content) > at + 6 else 0
        start = at + 6 + (name + 2) // 2 * 2  # a name's length and name take an even number of bytes
        size = int.from_bytes(content[start : start + 4])
        if number == _IPTC_RESOURCE:
            yield content[start + 4 : start + 4 + size]
        at = start + 4 + (size + 1) // 2 * 2


def _of_iptc(data: bytes) -> Iterator[str]:
    """IIM: 0x1C, record, data set, two bytes of length, and the value."""
    at, coded = 0, ("utf-8", "latin-1")
    while at + 5 <= len(data) and data[at] == 0x1C:
        record, number = data[at + 1], data[at + 2]
        size = int.from_bytes(data[at + 3 : at + 5])
        if size & 0x8000:  # an extended length, of what no keyword has
            return
        value = data[at + 5 : at + 5 + size]
        if (record, number) == (1, 90) and value != _UTF8:
            coded = ("latin-1", "latin-1")
        if (record, number) == (2, 25) and (keyword := _decoded(value, coded).strip("\0 ")):
            yield keyword
        at += 5 + size


def _decoded(value: bytes, coded: tuple[str, str]) -> str:
    """Most programs write UTF-8 without saying so, older ones Latin-1."""
    try:
        return value.decode(coded[0])
    except UnicodeDecodeError:
        return value.decode(coded[1])
