"""Some of the faults that `benchmarks/doctor_score.py` plants, and a sound run, trained and judged as there."""

from pathlib import Path

import pytest
from benchmarks import doctor_score


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("learning rate too high: SGD, 100", 1),
        ("dead ReLUs", 1),
        ("shuffled labels", 1),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_a_planted_fault_is_named(name: str, seed: int, tmp_path: Path) -> None:
    cause, begin = doctor_score.FAULTS[name]
    found = doctor_score.judged(begin(seed), tmp_path / "run")
    assert found["causes"] == [cause]
    assert [*found["said_after"]] == [cause]


@pytest.mark.usefixtures("one_thread")
def test_nothing_is_said_of_a_sound_run(tmp_path: Path) -> None:
    found = doctor_score.judged(doctor_score.SOUND["VGG-like separable, step decay"](0), tmp_path / "run")
    assert not found["said_after"]
    assert found["evaluated"] > 0.9
