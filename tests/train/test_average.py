"""Polyak averaging against a NumPy loop."""

import numpy as np
import torch
from torch import nn

from depthwise.train.average import PolyakAverage


def test_average_follows_weights_and_running_statistics() -> None:
    module = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2))
    average = PolyakAverage(module, decay=0.9)
    expected = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    generator = np.random.default_rng(0)
    for n in range(1, 200):
        for value in [*module.parameters(), *module.buffers()]:
            value.data = torch.tensor(generator.normal(size=value.shape) * 10, dtype=value.dtype)
        average.update(n)
        decay = min(0.9, (1 + n) / (10 + n))
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.numpy()
            else:
                expected[name] = value.numpy().copy()
    for name, value in average.module.state_dict().items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_average_is_fixed_while_weights_are() -> None:
    module = nn.Linear(3, 2)
    average = PolyakAverage(module, decay=0.999)
    for n in range(1, 50):
        average.update(n)
    torch.testing.assert_close(average.module.weight, module.weight, rtol=0, atol=0)


def test_average_learns_nothing_itself() -> None:
    average = PolyakAverage(nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5)), decay=0.9)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert not any(part.training for part in average.module.modules())
