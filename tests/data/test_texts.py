import pytest

from depthwise.data.texts import Texts


def test_texts_come_back_as_they_were() -> None:
    texts = ["a", "", "naïve 猫.png", "bytes that are none: \udcff", "z" * 1000]
    kept = Texts.of(iter(texts))
    assert list(kept) == texts
    assert kept[-1] == texts[-1]
    assert kept[1:4] == texts[1:4]
    assert list(kept.take(kept.offsets[[1, 0]])) == [texts[1], texts[0]]
    assert len(Texts.of([])) == 0
    with pytest.raises(IndexError, match="text 5 of 5"):
        kept[5]
