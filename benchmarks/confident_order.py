"""Do doubted labels come in cleanlab's order? On four made-up sets, the images that both name, and in which order.

    pip install cleanlab
    python benchmarks/confident_order.py

cleanlab: find_label_issues by confident learning, ranked by normalised margin. Ours: `suspects/confident.py`.
"""

import json
from pathlib import Path

import cleanlab
import torch
from cleanlab.filter import find_label_issues

from depthwise.suspects.confident import MOST_KEPT, Answers, doubted

RESULTS = Path(__file__).parent / "results" / "confident-order.json"
SETS = (
    (1_000, 3, 0.05),
    (2_000, 10, 0.05),
    (5_000, 10, 0.2),
    (5_000, 100, 0.1),
)  # images, classes, share flipped


def made_up(images: int, classes: int, flipped: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels int64 [n], of which a share is wrong, and probabilities float32 [n, K] of a network that mostly knows."""
    drawn = torch.Generator().manual_seed(seed)
    true = torch.randint(classes, (images,), generator=drawn)
    logits = torch.randn(images, classes, generator=drawn)
    logits[torch.arange(images), true] += 4
    wrong = torch.rand(images, generator=drawn) < flipped
    other = (true + torch.randint(1, classes, (images,), generator=drawn)) % classes
    return torch.where(wrong, other, true), logits.softmax(1)


def ours(labels: torch.Tensor, probabilities: torch.Tensor) -> list[int]:
    n, k = probabilities.shape
    odds, likely = probabilities.topk(min(MOST_KEPT, k), dim=1)
    own = probabilities[torch.arange(n), labels]
    answers = Answers(torch.arange(n), labels, own, likely, odds, torch.zeros(n))
    return [int(row) for row in doubted(answers, k).rows]


def main() -> None:
    found = []
    for seed, (images, classes, flipped) in enumerate(SETS):
        labels, probabilities = made_up(images, classes, flipped, seed)
        theirs = find_label_issues(
            labels.numpy(),
            probabilities.double().numpy(),
            filter_by="confident_learning",
            return_indices_ranked_by="normalized_margin",
        ).tolist()
        own = ours(labels, probabilities)
        both = {*own} & {*theirs}
        in_order = [i for i in own if i in both] == [i for i in theirs if i in both]
        found.append(
            {
                **{"images": images, "classes": classes, "flipped": flipped},
                **{"ours": len(own), "cleanlab": len(theirs), "both": len(both), "same_order": in_order},
            }
        )
    result = {
        "command": "python benchmarks/confident_order.py",
        "cleanlab": cleanlab.__version__,
        "sets": found,
    }
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
