"""How much the service takes on, and how it refuses what is over that."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated

from depthwise.bounds import Bounds, check
from depthwise.data.image import TooManyPixelsError, UnreadableImageError
from depthwise.errors import DepthwiseError


class RefusedError(DepthwiseError):
    """A request or an image that is not answered: the sentence, and its HTTP `status`."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        super().__init__(sentence)
        self.status, self.headers = status, headers


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and what all of them together may have waiting.

    max_bytes: of a request's body. max_pixels: of an image, as `Decoding.max_pixels` counts them. max_images: in a
    request. seconds: from a request's first byte to its answer. max_queue: images that were taken and are not answered.
    max_batch: images that go through the network at once.
    """

    max_bytes: Annotated[int, Bounds(1, 2**30)] = 32 * 2**20
    max_pixels: Annotated[int, Bounds(1, 10**12)] = 2**26
    max_images: Annotated[int, Bounds(1, 4096)] = 64
    seconds: Annotated[float, Bounds(0, 3600, above=True)] = 10.0
    max_queue: Annotated[int, Bounds(1, 2**16)] = 128
    max_batch: Annotated[int, Bounds(1, 1024)] = 16

    def __post_init__(self) -> None:
        check(self)

    @property
    def body_bytes(self) -> int:
        """Of all bodies in memory together."""
        return 8 * self.max_bytes

    def too_late(self) -> RefusedError:
        return RefusedError(
            504, f"there was no answer within {self.seconds:g} s: ask again when less is going on"
        )


def refusal_of(error: BaseException) -> RefusedError:
    """Why there is no answer for an image, with the status that this has."""
    match error:
        case RefusedError():
            return error
        case TooManyPixelsError():
            return RefusedError(413, error.fault)
        case UnreadableImageError():
            return RefusedError(422, error.fault)
        case DepthwiseError():
            return RefusedError(500, str(error))
        case _:
            return RefusedError(500, f"unexpected {type(error).__name__}: look into the service's log")
