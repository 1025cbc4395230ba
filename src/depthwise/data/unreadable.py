"""Why an image cannot be read."""

from depthwise.errors import DepthwiseError


class UnreadableImageError(DepthwiseError):
    """An image that cannot be decoded; `reason` is the sentence without the image's name, and `fault` without the
    `option`, too, of who reads it that would let it through."""

    def __init__(self, name: str, fault: str, option: str = "") -> None:
        self.fault, self.reason = fault, fault + option
        super().__init__(f"{name}: {self.reason}")


class TooManyPixelsError(UnreadableImageError):
    """An image that is refused for its size, before it is decoded."""
