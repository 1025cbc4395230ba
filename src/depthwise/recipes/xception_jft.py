"""Xception on JFT as Chollet 2017 trained it (section 4.3): MAP@100 6.70 on FastEval14k without dense layers (Table 2),
6.78 with two of 4,096: `--set "fully_connected=(4096, 4096)"`.

JFT, 350 million images with several of 17,000 labels each, is not public, so the run cannot be repeated, and the paper
gives neither FastEval14k's class weights nor its formula, so no figure of ours is on that scale. The optimiser,
schedule and regularisation are the paper's. Its length is what section 4.5 says of it: 30 million iterations, which had
not converged. What the paper leaves open: RMSprop's decay 0.9 and epsilon 1.0 are those of Inception V3's own paper
(Szegedy 2016, section 8), for which the settings were tuned; batch size 32, augmentation and Polyak decay are chosen as
in `xception_imagenet`. A sigmoid for each label follows from the data.
"""

from dataclasses import replace

from depthwise.recipes.traits import Traits
from depthwise.recipes.xception_imagenet import xception_imagenet
from depthwise.train.optimizer import RMSprop, StepDecay
from depthwise.train.recipe import Recipe

ITERATIONS = 30_000_000


def xception_jft(data: Traits) -> Recipe:
    """RMSprop with momentum 0.9, learning rate 0.001 times 0.9 every 3,000,000 samples, L2 1e-5, no dropout.

    An evaluation every 3,000,000 samples, where the learning rate falls.
    """
    recipe = xception_imagenet(data)
    return replace(
        recipe,
        name="xception-jft",
        model_args={"dropout": 0.0},
        samples=ITERATIONS * recipe.batch_size,
        eval_every=3_000_000,
        eval_unit="samples",
        optimizer=RMSprop(lr=0.001, momentum=0.9, decay=0.9, eps=1.0, weight_decay=1e-5),
        schedule=StepDecay(rate=0.9, every=3_000_000, unit="samples"),
    )
