"""Many short texts in little memory: names of a set's images, never a Python object for each."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Texts(Sequence[str]):
    """n texts, one after the other in `data`: text i is data[offsets[i] : offsets[i + 1]], as the system encodes names.

    offsets: int64 [n + 1].
    """

    data: bytes
    offsets: NDArray[np.int64]

    @staticmethod
    def of(texts: Iterable[str]) -> "Texts":
        """`texts`, which are gone through once."""
        data, lengths = bytearray(), [0]
        for text in texts:
            data += os.fsencode(text)
            lengths.append(len(data))
        return Texts(bytes(data), np.array(lengths, np.int64))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"text {index} of {len(self)}")
        return os.fsdecode(self.data[self.offsets[place] : self.offsets[place + 1]])

    def take(self, places: NDArray[np.int64]) -> "Texts":
        """The texts at `places`, in that order."""
        return Texts.of(self[int(place)] for place in places)
