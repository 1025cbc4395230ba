"""The catalogue's numbers, recomputed from the networks."""

import re

import pytest
from torch import nn

from depthwise.cost import cost
from depthwise.errors import DepthwiseError, UsageError
from depthwise.models import CATALOGUE, create_model, list_models


@pytest.mark.parametrize("name", CATALOGUE)
def test_published_numbers_are_recomputed(name: str) -> None:
    entry = CATALOGUE[name]
    network = create_model(name)
    bill = cost(network, (3, entry.input_size, entry.input_size))
    assert entry.name == name
    assert bill.trainable == entry.parameters
    assert bill.macs == pytest.approx(entry.macs, rel=0.005)
    assert (entry.top1 is None) == (entry.top5 is None)
    assert entry.top1 is None or 0 < entry.top1 < entry.top5 < 1


@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_network_says_what_it_takes(name: str, stem: str) -> None:
    network = create_model(name, num_classes=7, in_channels=4, width=0.125, stem=stem)
    assert (network.num_classes, network.in_channels) == (7, 4)
    assert isinstance(network.classifier, nn.Linear)
    assert network.classifier.out_features == 7
    assert list(network.modules())[-1] is network.classifier
    assert 0 < network.min_size <= network.input_size
    assert network.input_size == (CATALOGUE[name].input_size if stem == "imagenet" else 32)


def test_names_are_listed_by_pattern() -> None:
    assert list_models() == sorted(CATALOGUE)
    assert list_models("incep*") == ["inception_v3"]
    assert list_models("alexnet") == []


def test_an_unknown_name_or_argument_gets_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=re.escape("unknown model 'xeption': use one of xception")):
        create_model("xeption")
    with pytest.raises(
        UsageError, match=re.escape("unknown argument of xception 'drop_out': use one of dropout")
    ):
        create_model("xception", drop_out=0.5)
    with pytest.raises(DepthwiseError, match=re.escape("dropout=2 must be at least 0 and below 1")):
        create_model("inception_v3", dropout=2)
