"""Small sets of images in CPU minutes: digits 99.44% (one seed), Fashion-MNIST 94.34% in 8 (three seeds).

On two cores of an AMD EPYC with AVX-512 bfloat16; `make demo` and `benchmarks/fashion_mnist.py` measure it again.
"""

from depthwise.data.transform import Augment, Preprocess
from depthwise.recipes.traits import Traits
from depthwise.train.optimizer import SGD, Linear
from depthwise.train.recipe import Recipe

TINY = 64
"""Images up to this many pixels a side go through the small-image stem, unreduced."""


def small(data: Traits) -> Recipe:
    """One cycle of Nesterov SGD down to zero, averaged weights, label smoothing where each image is of one class; the
    network sized to the images."""
    return tiny_images(data) if max(data.height, data.width) <= TINY else photographs(data)


def tiny_images(data: Traits) -> Recipe:
    """Digits, Fashion-MNIST, CIFAR: 0.66 million parameters, most of the work at a quarter of the image's side.

    Images under 24 pixels are enlarged to 24, so that three poolings leave something to look at.
    """
    side = max(data.height, data.width, 24)
    return Recipe(
        name="small",
        model="xception",
        model_args={"stem": "small", "width": 0.25, "entry": (128, 256), "middle": (728, 728)},
        preprocess=Preprocess((side, side), crop_fraction=1.0),
        augment=Augment(crop="shift", shift=max(1, side // 14), flip=True),
        epochs=20 if data.num_train > 20_000 else 30,
        batch_size=128,
        optimizer=SGD(lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Linear(warmup=1, unit="epochs"),
        averaging=0.998,
        norm_momentum=0.1,
        label_smoothing=0.0 if data.several else 0.1,
        eval_every=2,
    )


def photographs(data: Traits) -> Recipe:
    """Photographs at 160 pixels through Xception at half its width, 5.4 million parameters."""
    return Recipe(
        name="small",
        model="xception",
        model_args={"width": 0.5, "dropout": 0.2},
        preprocess=Preprocess((160, 160)),
        augment=Augment(crop="resized", scale=(0.25, 1.0), flip=True, color=0.2),
        epochs=30,
        batch_size=32,
        optimizer=SGD(lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=Linear(warmup=2, unit="epochs"),
        averaging=0.998,
        norm_momentum=0.1,
        label_smoothing=0.0 if data.several else 0.1,
        clip_norm=1.0,
        log_every=10,
    )
