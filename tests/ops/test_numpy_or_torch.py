"""Arrays and tensors, and formulas that serve both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.nn.distributions import gaussian_log_prob, gaussian_nll, split_gaussian
from offrl.ops.losses import chosen_huber, squared_error
from offrl.ops.numpy_or_torch import at_hand, handed_back, is_plain, namespace, one_hot
from offrl.ops.ppo_losses import clipped_error_slope, clipped_gain_slope


def test_memory_is_shared_both_ways() -> None:
    tensor = torch.zeros(2, 3)
    array = at_hand(tensor)
    array[1, 2] = 5.0
    assert tensor[1, 2] == 5.0
    handed_back(array)[0, 0] = 4.0
    assert tensor[0, 0] == 4.0


def test_what_is_not_a_tensor_is_left_alone() -> None:
    array, mapping = np.ones(2), {"a": torch.ones(2)}
    assert at_hand(array) is array
    assert at_hand(mapping) is mapping
    assert at_hand(None) is None
    assert handed_back(mapping) is mapping


def test_it_goes_back_in_the_kind_that_was_given() -> None:
    array, tensor = np.ones(2), torch.ones(2)
    assert isinstance(handed_back(array, to=tensor), Tensor)
    assert handed_back(array, to=array) is array
    assert isinstance(handed_back(tensor, to=array), np.ndarray)
    assert handed_back(tensor, to=tensor) is tensor


def test_tracers_see_tensors() -> None:
    assert is_plain(torch.ones(2))
    assert not is_plain(torch.nn.Parameter(torch.ones(2)))
    assert not is_plain(np.ones(2))


def test_namespaces() -> None:
    assert namespace(np.ones(2)) is np
    assert namespace(torch.ones(2)) is torch


def test_one_hot() -> None:
    expected = [[True, False, False], [False, False, True]]
    assert one_hot(np.array([0, 2]), 3).tolist() == expected
    assert one_hot(torch.tensor([0, 2]), 3).tolist() == expected


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


OUTPUT, VALUES = 3.0 * normal(2, 9, 6), normal(2, 9, 3, seed=1)
FIRST, SECOND, THIRD = (2.0 * normal(2, 9, seed=seed) for seed in (2, 3, 4))
CHOICE = torch.arange(18).view(2, 9) % 3


@pytest.mark.parametrize(
    ("formula", "arguments"),
    [
        (split_gaussian, (OUTPUT,)),
        (gaussian_log_prob, (VALUES, 0.1 * VALUES, VALUES.flip(0))),
        (gaussian_nll, (OUTPUT, VALUES)),
        (chosen_huber, (VALUES, CHOICE, FIRST, None)),
        (chosen_huber, (VALUES, CHOICE, FIRST, SECOND.abs())),
        (squared_error, (VALUES, VALUES.flip(0))),
        (lambda *given: clipped_gain_slope(*given, 0.2), (0.3 * FIRST, SECOND)),
        (lambda *given: clipped_error_slope(*given, 0.0), (FIRST, SECOND, THIRD)),
        (lambda *given: clipped_error_slope(*given, 0.5), (FIRST, SECOND, THIRD)),
    ],
)
def test_formulas_agree(formula: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    expected, given = formula(*arguments), formula(*(at_hand(each) for each in arguments))
    for one, other in zip(as_tuple(given), as_tuple(expected), strict=True):
        assert isinstance(one, np.ndarray)
        torch.testing.assert_close(torch.from_numpy(one), other)


def as_tuple(values: Any) -> tuple[Any, ...]:
    return values if isinstance(values, tuple) else (values,)
