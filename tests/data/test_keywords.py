"""Keywords inside JPEGs and beside images: what programs write, by Pillow's own hand, and what may not hurt."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, IptcImagePlugin

from depthwise.data.keywords import KeywordsError, of_jpeg, of_text, of_xmp

XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/" xmlns:lr="http://ns.adobe.com/lightroom/1.0/">
<dc:title><rdf:Alt><rdf:li xml:lang="x-default">A title</rdf:li></rdf:Alt></dc:title>
<dc:subject><rdf:Bag><rdf:li>cat</rdf:li><rdf:li> tom &amp; jerry </rdf:li><rdf:li>naïve 猫</rdf:li><rdf:li/></rdf:Bag>
</dc:subject>
<lr:hierarchicalSubject><rdf:Bag><rdf:li>animal|cat</rdf:li></rdf:Bag></lr:hierarchicalSubject>
</rdf:Description></rdf:RDF></x:xmpmeta>
<?xpacket end="w"?>""".encode()
SUBJECTS = ["cat", "tom & jerry", "naïve 猫"]


def iim(record: int, number: int, value: bytes) -> bytes:
    return b"\x1c" + bytes([record, number]) + struct.pack(">H", len(value)) + value


def even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def resource(number: int, data: bytes, name: bytes = b"") -> bytes:
    named = even(bytes([len(name)]) + name)
    return b"8BIM" + struct.pack(">H", number) + named + struct.pack(">I", len(data)) + even(data)


def photoshop(*values: bytes, utf8: bool = True) -> bytes:
    records = iim(1, 90, b"\x1b%G") if utf8 else b""
    records += iim(2, 0, b"\0\2") + b"".join(iim(2, 25, value) for value in values) + iim(2, 120, b"caption")
    return b"Photoshop 3.0\0" + resource(0x0425, b"abc", b"a name") + resource(0x0404, records)


def jpeg(*segments: tuple[int, bytes], xmp: bytes | None = None) -> io.BytesIO:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG", **({"xmp": xmp} if xmp else {}))
    data = file.getvalue()
    added = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(c) + 2) + c for marker, c in segments)
    return io.BytesIO(data[:2] + added + data[2:])


def test_xmp_as_pillow_writes_it_is_read() -> None:
    assert of_jpeg(jpeg(xmp=XMP)) == SUBJECTS


def test_iptc_is_read_as_pillow_reads_it() -> None:
    file = jpeg((0xED, photoshop(b"cat", "naïve 猫".encode())))
    info = IptcImagePlugin.getiptcinfo(Image.open(file))
    assert info is not None
    assert info[(2, 25)] == [b"cat", "naïve 猫".encode()]
    file.seek(0)
    assert of_jpeg(file) == ["cat", "naïve 猫"]
    assert of_jpeg(jpeg((0xED, photoshop("café".encode("latin-1"), utf8=False)))) == ["café"]
    assert of_jpeg(jpeg((0xED, photoshop("café".encode(), utf8=False)))) == ["café"]


def test_both_are_one_list_and_none_is_none() -> None:
    assert of_jpeg(jpeg((0xED, photoshop(b"cat", b"dog")), xmp=XMP)) == ["cat", "dog", *SUBJECTS[1:]]
    assert of_jpeg(jpeg()) == of_jpeg(io.BytesIO(b"")) == of_jpeg(io.BytesIO(b"\x89PNG")) == []


BOMB = b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<x xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:subject>&b;</dc:subject></x>"""
OUTSIDE = b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>"""


@pytest.mark.parametrize("packet", [BOMB, OUTSIDE], ids=["bomb", "outside"])
def test_no_entity_is_expanded(packet: bytes) -> None:
    with pytest.raises(KeywordsError, match="its XMP has a document type, which no XMP needs"):
        of_xmp(packet)


def test_damaged_xmp_is_a_reason() -> None:
    with pytest.raises(KeywordsError, match=r"its XMP is damaged \(mismatched tag"):
        of_xmp(XMP.replace(b"</dc:subject>", b""))
    with pytest.raises(KeywordsError, match="its XMP is damaged"):
        of_jpeg(jpeg(xmp=b"<x"))


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 400))
def test_any_bytes_are_keywords_or_a_reason(noise: bytes, at: int, cut: int) -> None:
    whole = jpeg((0xED, photoshop(b"cat", b"dog")), xmp=XMP).getvalue()
    try:
        found = of_jpeg(io.BytesIO(whole[:at] + noise + whole[at + cut :]))
    except KeywordsError:
        return
    assert all(isinstance(keyword, str) for keyword in found)


@pytest.mark.parametrize(
    ("text", "separator", "expected"),
    [
        ("cat\ndog \r\n\r\nred", None, ["cat", "dog", "red"]),
        ("\ufeffcat, dog; red\nblue,,", None, ["cat", "dog", "red", "blue"]),
        ("tench, Tinca tinca|fish\nwet", "|", ["tench, Tinca tinca", "fish", "wet"]),
        ("", None, []),
    ],
)
def test_a_text_is_its_lines_and_what_parts_them(
    text: str, separator: str | None, expected: list[str]
) -> None:
    assert of_text(text.encode(), separator) == expected


def test_a_text_that_is_not_utf8_is_a_reason() -> None:
    with pytest.raises(KeywordsError, match="not UTF-8: save it as UTF-8"):
        of_text(b"caf\xe9", None)
