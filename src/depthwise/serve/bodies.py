"""What a request's body holds: read within bounds, and taken apart into images."""

import asyncio
import base64
import binascii
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from depthwise.errors import shown
from depthwise.reading import parse_json
from depthwise.serve.limits import Limits, RefusedError
from depthwise.words import number_of

LARGE = 2**20
"""Bytes from where a body is taken apart in a thread, for others not to wait."""

CLOSE = {"Connection": "close"}
GONE = 499


@dataclass(frozen=True)
class Named:
    """An image of a request: what it is called, and its file, or where that lies, or why there is none."""

    name: str
    data: bytes = b""
    url: str | None = None


@dataclass
class Room:
    """The bytes of all bodies that are in memory, which have a limit together."""

    most: int
    taken: int = 0

    def take(self, count: int) -> None:
        if self.taken + count > self.most:
            raise RefusedError(
                503,
                f"bodies of {self.taken:,} bytes are being worked on and at most {self.most:,} may: ask again later",
                {"Retry-After": "1", **CLOSE},
            )
        self.taken += count


@dataclass
class Body:
    """A request's body while it is in memory, and when the request must be answered."""

    data: bytes
    deadline: float
    headers: Headers = field(default_factory=Headers)

    @property
    def kind(self) -> str:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_body(request: Request, limits: Limits, room: Room, begun: float) -> Body:
    """The whole body, for whose bytes there was `room`; whoever asked gives it back. Raises RefusedError."""
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told[:20]) > limits.max_bytes:
        await _drain(request)
        raise _too_long(limits)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + limits.seconds):
            async for part in request.stream():
                room.take(len(part))
                size += len(part)
                if size > limits.max_bytes:
                    await _drain(request)
                    raise _too_long(limits)
                parts.append(part)
    except BaseException as error:
        room.taken -= size
        if isinstance(error, TimeoutError):
            raise RefusedError(
                408, f"the body did not come within {limits.seconds:g} s: send it faster, or less", CLOSE
            ) from None
        if isinstance(error, ClientDisconnect):
            raise RefusedError(GONE, "the client has gone") from None
        raise
    return Body(b"".join(parts), begun + limits.seconds, request.headers)


def _too_long(limits: Limits) -> RefusedError:
    return RefusedError(
        413, f"the body is over {limits.max_bytes:,} bytes: send fewer or smaller images", CLOSE
    )


async def _drain(request: Request) -> None:
    """Take in and forget what is being sent, for a second: a client reads no answer before it has sent all."""
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(1):
            async for _ in request.stream():
                pass


async def images_of(body: Body, limits: Limits) -> list[Named]:
    """The images of a body as JSON, as a form, or as one image file. Raises RefusedError."""
    if not body.data:
        raise RefusedError(400, "the body is empty: send an image file, a form with files, or JSON")
    if body.kind == "application/json":
        found = await _aside(body, _of_json)
    elif body.kind == "multipart/form-data":
        found = await _of_form(body, limits)
    else:
        found = [Named("image 0", body.data)]
    check_count(len(found), limits)
    return found


def check_count(images: int, limits: Limits) -> None:
    """Raise RefusedError if there are more `images` than a request may have."""
    if images > limits.max_images:
        raise RefusedError(
            413,
            f"{number_of(images, 'image')} in a request, and at most {limits.max_images} may be: send several requests",
        )


async def json_of(body: Body) -> Any:
    """What the body says as JSON; raises RefusedError."""
    return await _aside(body, parsed)


async def _aside(body: Body, work: Callable[[bytes], Any]) -> Any:
    if len(body.data) < LARGE:
        return work(body.data)
    return await asyncio.to_thread(work, body.data)


def parsed(data: bytes) -> Any:
    """`data` as JSON; raises RefusedError."""
    try:
        return parse_json(data)
    except ValueError as error:
        raise RefusedError(400, f"the body is no JSON that can be read ({error}): send it as UTF-8") from None


def _of_json(data: bytes) -> list[Named]:
    values = parsed(data)
    images = values.get("images") if isinstance(values, dict) else None
    if not isinstance(images, list) or not images:
        raise RefusedError(400, 'the body has no images: send {"images": ["an image file in base64"]}')
    return [_named(number, image) for number, image in enumerate(images)]


def _named(number: int, image: Any) -> Named:
    name, data = f"image {number}", image
    if isinstance(image, dict):
        name = image.get("name", name)
        url, data = image.get("url"), image.get("data")
        if not isinstance(name, str) or len(name) > 1000:
            raise RefusedError(
                400, f"name={shown(name)} must be a text of at most 1,000 characters: shorten it"
            )
        if isinstance(url, str) and data is None:
            return Named(name, url=url)
    if not isinstance(data, str):
        raise RefusedError(
            400, f"{name} is {shown(image)[:100]}: send an image file in base64, or an object with it as data"
        )
    return Named(name, from_base64(data, name))


def from_base64(text: str, name: str) -> bytes:
    """The bytes of base64, or of a data: URL. Raises RefusedError."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RefusedError(
            400, f"{name} is no base64: send the image file in RFC 4648's, without line breaks"
        ) from None


async def _of_form(body: Body, limits: Limits) -> list[Named]:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body.data

    parser = MultiPartParser(
        body.headers, whole(), max_files=limits.max_images + 1, max_fields=limits.max_images + 1
    )
    parser.spool_max_size = limits.max_bytes + 1  # never to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise RefusedError(
            400, f"the form cannot be read ({error.message}): send multipart/form-data"
        ) from None
    except (KeyError, ValueError):
        raise RefusedError(
            400, "the form cannot be read: send multipart/form-data with its boundary"
        ) from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise RefusedError(400, "the form has no file: send each image as a part with a filename")
    found = [
        Named((file.filename or f"image {number}")[:1000], await file.read())
        for number, file in enumerate(files)
    ]
    await form.close()
    return found


def now() -> float:
    """What deadlines are told by."""
    return time.monotonic()
