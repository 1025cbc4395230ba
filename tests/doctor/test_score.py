"""Some of the faults that `benchmarks/doctor_score.py` plants, and a sound run, trained and judged as there.

The whole, 20 faults in three seeds and 20 sound runs, takes minutes and leaves benchmarks/results/doctor-score.json.
"""

import json
from pathlib import Path

import pytest
from benchmarks import doctor_score

from depthwise.doctor.causes import CAUSES

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "doctor-score.json"


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("learning rate too high: SGD, 100", 1),
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


def test_the_published_score_is_of_these_faults_and_runs() -> None:
    result = json.loads(RESULT.read_text())
    planted = {(run["run"], run["seed"], run["cause"]) for run in result["runs"] if run["cause"]}
    assert planted == {
        (name, seed, cause) for name, (cause, _) in doctor_score.FAULTS.items() for seed in (0, 1, 2)
    }
    assert {run["run"] for run in result["runs"] if not run["cause"]} == {*doctor_score.SOUND}
    assert {cause for _, _, cause in planted} == {cause.name for cause in CAUSES} - {"chance"}
    assert result["detected"] >= 0.9 * result["planted"]
    assert result["silent"] == result["sound"] == 20
