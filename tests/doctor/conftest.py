"""The trainer of tests of training, for those of what is seen in it."""

from tests.train.conftest import digits, make_trainer

__all__ = ["digits", "make_trainer"]
