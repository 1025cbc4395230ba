"""A stop is asked of who can answer it."""

import os
import signal

import pytest

from depthwise.train.signals import StopRequest


def test_what_nobody_answers_inside_is_asked_of_the_outer_one() -> None:
    with StopRequest() as outer:
        with StopRequest() as inner:
            os.kill(os.getpid(), signal.SIGINT)
            assert inner.requested
            assert not outer.requested
        assert outer.requested


def test_what_was_answered_inside_is_not_asked_again() -> None:
    def answer() -> None:
        with StopRequest():
            os.kill(os.getpid(), signal.SIGINT)
            raise KeyboardInterrupt("stopped")

    with StopRequest() as outer:
        with pytest.raises(KeyboardInterrupt, match="stopped"):
            answer()
        assert not outer.requested
