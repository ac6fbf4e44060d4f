"""Labels that blocks may see, and what they tell."""

from __future__ import annotations

import threading

import pytest
import torch

from torchproof.core.asides import heard, labels, labels_of, listening, tell
from torchproof.core.errors import InputError


def test_labels_are_there_inside_only() -> None:
    x, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
    assert labels_of(x) is None
    with labels(y):
        assert labels_of(x) is y
        with labels(None):
            assert labels_of(x) is None
        assert labels_of(x) is y
    assert labels_of(x) is None


def test_labels_are_gone_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), labels(torch.zeros(1)), listening():
        raise ZeroDivisionError
    assert labels_of(torch.zeros(1)) is None and not heard()


def test_labels_of_other_rows_are_refused() -> None:
    with labels(torch.zeros(4)), pytest.raises(InputError, match="4 labels for 3 rows"):
        labels_of(torch.zeros(3, 2))


def test_what_is_told_reaches_every_listener() -> None:
    one, two = torch.ones(1), torch.ones(2)
    tell("probe", one)
    with listening() as outer:
        tell("probe", one)
        with listening() as inner:
            tell("probe", two)
            tell("steady", one)
        tell("probe", two)
    tell("probe", one)
    assert inner == {"probe": [two], "steady": [one]}
    assert outer == {"probe": [one, two, two], "steady": [one]}


def test_another_thread_hears_nothing() -> None:
    seen: list[bool] = []
    with listening(), labels(torch.zeros(1)):
        thread = threading.Thread(
            target=lambda: seen.extend([heard(), labels_of(torch.zeros(1)) is not None])
        )
        thread.start()
        thread.join()
    assert seen == [False, False]
