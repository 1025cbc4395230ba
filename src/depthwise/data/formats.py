"""Which image formats are opened: a fixed list, and nothing that is read as an image is opened by any other.

What is not on it stays closed, above all formats whose reading starts a program (EPS runs Ghostscript), asks whatever
was plugged in (WMF, BUFR, GRIB, HDF5) or looks into other files.
"""

import ctypes
import io
import logging
import os
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import Any

from PIL import Image, ImageFile

FORMATS = {
    "JPEG": "jpg jpeg jpe jfif",
    "MPO": "mpo",
    "PNG": "png apng",
    "GIF": "gif",
    "WEBP": "webp",
    "BMP": "bmp",
    "DIB": "dib",
    "TIFF": "tif tiff",
    "PPM": "ppm pgm pbm pnm",
    "JPEG2000": "jp2 j2k jpx",
    "AVIF": "avif",
    "HEIF": "heic heif hif",
    "TGA": "tga",  # the last: it has no signature
}
"""By Pillow's name, the suffixes under which files of a format are looked for."""

IMAGE_SUFFIXES = frozenset(f".{suffix}" for suffixes in FORMATS.values() for suffix in suffixes.split())

_SIGNED = ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "JPEG2000")
_HEADED = ("BMP", "PPM")  # of a signature so short that words may begin with it: the header decides

_HEIF_BRANDS = ("heic", "heix", "heim", "heis", "hevc", "hevx", "hevm", "hevs", "mif1", "msf1", "mif2")

_DECODER_BYTES = {"WEBP": 13.0, "AVIF": 12.0, "HEIF": 8.0}
"""What decoders keep beside Pillow's image, in bytes a pixel, measured and rounded up."""

_ROW_BYTES = 12
"""Of Pillow's for each row, which count where rows are of a pixel or two."""

_SIZE, _BITS, _PHOTOMETRIC, _PLANAR = (256, 257), 258, 262, 284  # tags of TIFF 6.0

_DECODER_SAYS = ("decoder error", "when reading image file")

_quiet = threading.RLock()

# Python prints what no handler takes. Pillow logs errors without the file's name, and what is wrong is judged here.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class UnknownFormatError(Exception):
    """These bytes are of no format that is opened; the text says why, and what to do."""


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_signed(head: bytes) -> bool:
    """Whether a file that begins with `head`, its first kilobytes, is an image by its signature, whatever its name."""
    brand = head[8:12].decode("latin-1") if head[4:8] == b"ftyp" else ""
    if brand in (*_HEIF_BRANDS, "avif", "avis"):
        return True
    Image.init()
    for name in (*_SIGNED, *_HEADED):
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory and accept and accept(head[:16]) is True:
            if name in _SIGNED:
                return True
            try:
                factory(io.BytesIO(head), "")
                return True
            except Exception:  # a damaged header makes Pillow raise nearly anything
                continue
    return False


def open_image(data: bytes, max_pixels: int = 0) -> Image.Image:
    """The image in `data`, of which only the header has been read.

    max_pixels: what Pillow's own limit gives way to, if it is lower. Raises UnknownFormatError, and whatever a
    damaged header makes Pillow raise.
    """
    with without_warnings(), _pillows_limit(max_pixels):
        for name in FORMATS:
            if name not in Image.OPEN:
                Image.init()
            factory, accept = Image.OPEN.get(name, (None, None))
            if (
                name == "HEIF"
                or factory is None
                or (accept and accept(data[:16].ljust(16, b"\0")) is not True)
            ):
                continue
            try:
                image = factory(io.BytesIO(data), "")
            except (SyntaxError, IndexError, TypeError, struct.error):
                continue  # as Pillow does: another format may know it
            _leave_planes_to_libtiff(image)
            return image
        return _open_heif(data)


def has_deep_planes(image: Image.Image) -> bool:
    """Whether an opened image is a TIFF with 16 bits a sample, whose bands lie one after the other."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return len(image.getbands()) > 1 and tags.get(_PLANAR) == 2 and tags.get(_BITS, (8,))[0] == 16


def has_deep_white_at_0(image: Image.Image) -> bool:
    """Whether it is a TIFF with 16 bits a sample in which 0 is white; Pillow inverts only those with fewer bits."""
    tags = getattr(image, "tag_v2", {}) if image.format == "TIFF" else {}
    return image.mode.startswith("I;16") and tags.get(_PHOTOMETRIC) == 0


def _leave_planes_to_libtiff(image: Image.Image) -> None:
    """Where nothing is compressed Pillow reads itself, and planes of 16 bits as if they had 8."""
    tiles = getattr(image, "tile", ())
    if tiles and tiles[0].codec_name == "raw" and has_deep_planes(image):
        args = (f"{image.mode};16N", False, image.tag_v2.offset)  # type: ignore[attr-defined]
        whole = (0, 0, image.width, image.height)
        image.tile = [ImageFile._Tile("libtiff", whole, 0, args)]  # type: ignore[attr-defined]
        image.use_load_libtiff = True  # type: ignore[attr-defined]


def check_format(image: Image.Image) -> None:
    """Raise UnknownFormatError if a Pillow image that somebody opened may start a program when its pixels are read."""
    if isinstance(image, ImageFile.ImageFile) and image.format not in FORMATS:
        raise UnknownFormatError(
            f"{image.format} is no format that is read here, because loading it may start another program: pass a "
            "copy that is loaded, image.copy()"
        )


def load_image(image: Image.Image, max_pixels: int = 0) -> str:
    """Have the pixels of an opened image read; why some of them are missing, or "". Raises if none can be read."""
    alone = ExitStack()
    large = image.width * image.height > 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if large or image.format == "TIFF":  # which looks into its EXIF once more when it is loaded
        alone.enter_context(without_warnings())
        alone.enter_context(_libtiff_silent())
        alone.enter_context(_pillows_limit(max_pixels))
    with alone:
        try:
            image.load()
            return ""
        except Exception as error:
            reason = str(error) or type(error).__name__
            if image.__dict__.get("_im", image.__dict__.get("im")) is None:
                raise
    tiles = getattr(image, "tile", [])
    if not tiles and not any(said in reason for said in _DECODER_SAYS):
        return ""  # all pixels were there, and what follows them is damaged
    image.tile = []  # type: ignore[attr-defined]
    return reason


def without_strips(image: Image.Image) -> str:
    """Why pixels of an opened TIFF are missing though all its strips may be there, or "". Pillow says nothing of it."""
    tiles = getattr(image, "tile", [])
    if image.format != "TIFF" or not tiles:
        return ""
    width, height = (image.tag_v2[tag] for tag in _SIZE)  # type: ignore[attr-defined]
    right, bottom = (max(tile.extents[side] for tile in tiles) for side in (2, 3))
    if right >= width and bottom >= height:
        return ""
    return f"its strips or tiles cover {right} x {bottom} of {width} x {height} pixels"


def bytes_a_pixel(image: Image.Image, channels: int) -> float:
    """What decoding an opened image takes at most, in bytes of memory for each pixel of uint8 [channels, H, W]."""
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    buffered = _DECODER_BYTES.get(image.format or "", 0.0)
    if image.format == "JPEG2000":
        buffered = 5.5 * len(image.getbands())
    if image.format == "TIFF":  # its orientation makes a copy
        buffered = max(stored, 8 * _strip_pixels(image) / max(1, image.width * image.height))
        buffered += 24 * has_deep_planes(image)  # a copy of the file and two bytes for each plane
    return stored + max(buffered, channels) + _ROW_BYTES // max(1, image.width)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Warnings are dropped inside: Pillow's name no file, and what is wrong with one is judged here anyway.

    One thread at a time, because Python's filters are the whole process's.
    """
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _strip_pixels(image: Image.Image) -> int:
    """The pixels of a strip or a tile of a TIFF, which is decoded as one, however small the image."""
    try:
        tags = image.tag_v2  # type: ignore[attr-defined]
        if 322 in tags:
            return int(tags[322]) * int(tags[323])
        return image.width * min(image.height, int(tags.get(278, image.height)))
    except Exception:  # a damaged tag is nearly anything
        return image.width * image.height


@cache
def _libtiff() -> tuple[Any, ...]:
    """The functions of Pillow's libtiff that say who prints its errors and warnings; none where it is not a library."""
    found = []
    with suppress(OSError, AttributeError):
        library = ctypes.CDLL(Image.core.__file__)  # which has been loaded long ago, with its libtiff
        for function in (library.TIFFSetErrorHandler, library.TIFFSetWarningHandler):
            function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
            found.append(function)
    return tuple(found)


@contextmanager
def _libtiff_silent() -> Iterator[None]:
    """libtiff prints nothing inside: it would write to standard error, without the file's name."""
    before = [(function, function(None)) for function in _libtiff()]
    try:
        yield
    finally:
        for function, handler in before:
            function(handler)


@contextmanager
def _pillows_limit(max_pixels: int) -> Iterator[None]:
    """Pillow, whose own limit is a setting of the whole process, takes images of `max_pixels` inside."""
    with _quiet:
        before = Image.MAX_IMAGE_PIXELS
        if before is not None and max_pixels > 2 * before:
            Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open_heif(data: bytes) -> Image.Image:
    """By the class alone: pillow-heif's own registration would change what every part of the program opens."""
    brand = data[8:12].decode("latin-1") if data[4:8] == b"ftyp" else ""
    if brand in ("avif", "avis") and "AVIF" not in Image.OPEN:
        raise UnknownFormatError("AVIF is read by Pillow 11.3 and newer: pip install 'pillow>=11.3'")
    if brand not in _HEIF_BRANDS:
        raise UnknownFormatError("not an image of a format that can be read")
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise UnknownFormatError(
            "HEIC is read by an optional package: pip install 'depthwise[heif]', or save it as JPEG"
        ) from None
    try:
        return HeifImageFile(io.BytesIO(data), "")
    except SyntaxError as error:
        raise UnknownFormatError(f"no HEIC image that can be read ({error})") from None
