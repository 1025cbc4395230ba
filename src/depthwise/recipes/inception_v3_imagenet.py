"""Inception V3 on ImageNet as Chollet 2017 trained it for comparison: top-1 0.782, top-5 0.941 (Table 1).

The settings of `xception_imagenet`, which were tuned for this network, with its own weight decay (section 4.4); no
auxiliary tower in any run. That run was not repeated here.
"""

from dataclasses import replace

from depthwise.recipes.traits import Traits
from depthwise.recipes.xception_imagenet import xception_imagenet
from depthwise.train.optimizer import SGD
from depthwise.train.recipe import Recipe


def inception_v3_imagenet(data: Traits) -> Recipe:
    """SGD with momentum 0.9, learning rate 0.045 times 0.94 every 2 epochs, L2 4e-5, dropout 0.5, averaged weights."""
    return replace(
        xception_imagenet(data),
        name="inception-v3-imagenet",
        model="inception_v3",
        optimizer=SGD(lr=0.045, momentum=0.9, weight_decay=4e-5),
    )
