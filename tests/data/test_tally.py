"""What a data set's images have in common, against the plainest way to count it."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from depthwise.data.repeated import Placed, repeated
from depthwise.data.sources.source import Seen
from depthwise.data.tally import Range, tally

IMAGES = st.lists(
    st.tuples(
        st.sampled_from(["train", "val"]),
        st.sets(st.sampled_from("abcde")),
        st.integers(0, 6),
        st.integers(1, 9),
    ),
    min_size=1,
    max_size=20,
)


@given(IMAGES)
def test_a_tally_is_what_counting_gives(images: list[tuple[str, set[str], int, int]]) -> None:
    seen = [
        Seen(
            Placed(part, tuple(sorted(classes)), f"{k}", hashlib.sha256(bytes([content])).hexdigest()),
            width,
            2 * width,
            f"mode {width % 2}",
        )
        for k, (part, classes, content, width) in enumerate(images)
    ]
    found = tally(lambda: seen)
    assert found.repeated == repeated(image.placed for image in seen)
    assert found.num_images == len(images) == sum(found.by_part.values())
    for part, counts in found.counts.items():
        mine = [classes for of, classes, _, _ in images if of == part]
        assert counts == {
            name: count for name in "abcde" if (count := sum(name in classes for classes in mine))
        }
    sizes = sorted(len(classes) for _, classes, _, _ in images)
    assert found.labels_per_image == Range(
        sizes[0], (sizes[(len(sizes) - 1) // 2] + sizes[len(sizes) // 2]) / 2, sizes[-1]
    )
    assert found.unlabelled == sizes.count(0)
    members = {
        name: [k for k, (_, classes, _, _) in enumerate(images) if name in classes] for name in "abcde"
    }
    groups = {
        tuple(n for n in "abcde" if members[n] == members[name]) for name in "abcde" if len(members[name]) > 1
    }
    assert set(found.together) == {group for group in groups if len(group) > 1}
