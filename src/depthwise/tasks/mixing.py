"""Mixup and cutmix, for whatever targets a task can write as one number a class."""

from depthwise.data.loader import Prepare
from depthwise.data.transform import Augment


def mixer(augment: Augment | None, num_classes: int) -> Prepare | None:
    """Mixup (Zhang 2018), cutmix (Yun 2019), or of both one a batch; None if `augment` asks for neither.

    It takes targets int64 [N], or [N, K] with a number for each class; those of mixed images are float32 [N, K].
    """
    if augment is None or not (augment.mixup or augment.cutmix):
        return None
    from torchvision.transforms import v2

    kinds = ((v2.MixUp, augment.mixup), (v2.CutMix, augment.cutmix))
    mixers = [kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0]
    mix: Prepare = v2.RandomChoice(mixers)
    return mix
