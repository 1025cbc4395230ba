"""Small sets of images in CPU minutes."""

from depthwise.data.transform import Augment
from depthwise.recipes.traits import Traits
from depthwise.train.optimizer import SGD, Linear
from depthwise.train.recipe import Recipe

SMALL_IMAGES = 64


def small(data: Traits) -> Recipe:
    """One cycle of Nesterov SGD down to zero, averaged weights, label smoothing."""
    tiny = max(data.height, data.width) <= SMALL_IMAGES
    side = max(data.height, data.width, 24) if tiny else 160
    return Recipe(
        name="small",
        model="xception",
        model_args={"stem": "small", "width": 0.25, "middle": (728, 728)} if tiny else {"width": 0.5},
        size=(side, side),
        crop_fraction=1.0 if tiny else 0.875,
        augment=Augment(crop="shift", shift=max(1, side // 14), flip=True)
        if tiny
        else Augment(scale=(0.25, 1.0)),
        epochs=20,
        batch_size=128 if tiny else 32,
        optimizer=SGD(lr=0.2 if tiny else 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Linear(warmup=1.0),
        averaging=0.998,
        norm_momentum=0.1,
        label_smoothing=0.1,
    )
