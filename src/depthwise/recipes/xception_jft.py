"""Xception on JFT as Chollet 2017 trained it (section 4.3): MAP@100 6.70 on FastEval14k without dense layers (Table 2).

JFT is not public, so the run cannot be repeated; the optimiser, schedule and regularisation are the paper's. JFT has
several labels an image, this recipe trains a single one. What the paper leaves open: RMSprop's decay 0.9 and epsilon
1.0 are those of Inception V3's own paper (Szegedy 2016, section 8), for which the settings were tuned; batch size,
augmentation and Polyak decay are chosen as in `xception_imagenet`.
"""

from dataclasses import replace

from depthwise.recipes.traits import Traits
from depthwise.recipes.xception_imagenet import xception_imagenet
from depthwise.train.optimizer import RMSprop, StepDecay
from depthwise.train.recipe import Recipe


def xception_jft(data: Traits) -> Recipe:
    """RMSprop with momentum 0.9, learning rate 0.001 times 0.9 every 3,000,000 samples, L2 1e-5, no dropout."""
    return replace(
        xception_imagenet(data),
        name="xception-jft",
        model_args={"dropout": 0.0},
        optimizer=RMSprop(lr=0.001, momentum=0.9, decay=0.9, eps=1.0, weight_decay=1e-5),
        schedule=StepDecay(rate=0.9, every=3_000_000, unit="samples"),
    )
