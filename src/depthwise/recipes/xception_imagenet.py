"""Xception on ImageNet as Chollet 2017 trained it (section 4.3): top-1 0.790, top-5 0.945 (Table 1).

60 K80 GPUs took about 3 days; that run was not repeated here. What the paper leaves open is filled in as follows:
batch size 32 a step, epochs 100, augmentation by random resized crops and flips as in Szegedy 2015, Polyak decay
0.9999 as in TF-slim's Inception code.
"""

from depthwise.data.transform import Augment, Preprocess
from depthwise.recipes.traits import Traits
from depthwise.train.optimizer import SGD, StepDecay
from depthwise.train.recipe import Recipe


def xception_imagenet(data: Traits) -> Recipe:
    """SGD with momentum 0.9, learning rate 0.045 times 0.94 every 2 epochs, L2 1e-5, dropout 0.5, averaged weights."""
    return Recipe(
        name="xception-imagenet",
        model="xception",
        model_args={"dropout": 0.5},
        preprocess=Preprocess((299, 299)),
        augment=Augment(crop="resized", flip=True),
        epochs=100,
        batch_size=32,
        optimizer=SGD(lr=0.045, momentum=0.9, weight_decay=1e-5),
        schedule=StepDecay(rate=0.94, every=2, unit="epochs"),
        averaging=0.9999,
    )
