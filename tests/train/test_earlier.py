"""What an earlier version left goes on: a stopped run is resumed, a bundle answers, though the code has changed since.

`tests/golden/earlier` was written by the code of 28 November 2026, commit 931b45c:

    depthwise train --data digits --model xception --out run --workers 0 --set width=0.05 entry=[128] middle=[128] \\
        exit=[128,256] size=16 epochs=4 batch_size=100 averaging=0.9        # stopped at step 29 of 56

and `expected.json` has what that code made of the rest of the run, whose end is the bundle.
"""

import json
import shutil
from pathlib import Path

import pytest

import depthwise
from depthwise.train.run import Silent

EARLIER = Path(__file__).parents[1] / "golden" / "earlier"
EXPECTED = json.loads((EARLIER / "expected.json").read_text())


def test_a_run_of_an_earlier_version_goes_on_as_it_would_have(tmp_path: Path) -> None:
    shutil.copytree(EARLIER / "run", tmp_path / "run")
    # By force: versions and threads are another machine's, so the last bits may be others too.
    done = depthwise.train(out=tmp_path / "run", resume=True, force=True, watcher=Silent(), workers=0)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["kind"] == "train" and line["step"] > 29]
    assert losses == pytest.approx(EXPECTED["losses"], rel=0.02)
    evaluation = EXPECTED["evaluation"]
    assert (done.result.split, done.result.weights, done.evaluation.num_images) == (
        "test",
        "averaged",
        evaluation["images"],
    )
    assert done.evaluation.top1 == pytest.approx(evaluation["top1"], abs=0.02)
    assert done.evaluation.loss == pytest.approx(evaluation["loss"], rel=0.02)
    assert (tmp_path / "run" / "report.html").exists()
    # Its preprocessing stood flat in the recipe; that is another form and no change.
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert [resumed["changed"] for resumed in facts["resumes"]] == [[]]
    assert facts["recipe"]["preprocess"]["size"] == [16, 16]


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_a_bundle_of_an_earlier_version_answers_as_it_did(engine: str) -> None:
    predictor = depthwise.load(EARLIER / "bundle", engine=engine)
    images = depthwise.open_dataset("digits").splits["test"]
    for index, probabilities in enumerate(EXPECTED["probabilities"]):
        answer = predictor(images.image(index), topk=10)
        found = dict(zip(answer.classes, answer.probabilities, strict=True))
        assert [found[str(k)] for k in range(10)] == pytest.approx(probabilities, abs=1e-4)
