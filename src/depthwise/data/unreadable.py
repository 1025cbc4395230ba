"""Why an image cannot be read."""

from depthwise.errors import DepthwiseError


class UnreadableImageError(DepthwiseError):
    """An image that cannot be decoded; `reason` is the sentence without the image's name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.reason = reason


class TooManyPixelsError(UnreadableImageError):
    """An image that is refused for its size, before it is decoded."""
