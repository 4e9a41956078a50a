"""Stacked layers against `torch.nn`'s, one for each seed and member."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from offrl.nn import seed_generators
from offrl.nn.linear import StackedLayerNorm, StackedLinear, merged


@pytest.mark.parametrize("members", [1, 2, 3])
def test_the_first_members_of_each_seed_are_applied(members: int) -> None:
    linear, norm = StackedLinear(4, 5, 3, seed_generators([0, 1])), StackedLayerNorm(5, 3, 2)
    with torch.no_grad():
        norm.gain.normal_(generator=torch.Generator().manual_seed(0))
        norm.offset.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(2 * members, 6, 4, generator=torch.Generator().manual_seed(2))
    affine = linear(x, members)
    output = norm(affine, members)
    for seed in range(2):
        for member in range(members):
            place = seed * members + member
            expected = nn.functional.linear(x[place], linear.weight[seed, member], linear.bias[seed, member, 0])
            torch.testing.assert_close(affine[place], expected)
            gain, offset = norm.gain[seed, member, 0], norm.offset[seed, member, 0]
            torch.testing.assert_close(output[place], nn.functional.layer_norm(expected, (5,), gain, offset))


def test_all_members_are_merged_without_a_slice() -> None:
    parameter = torch.zeros(2, 3, 4)
    assert merged(parameter, 3).data_ptr() == parameter.data_ptr()
    assert merged(parameter, 2).shape == (4, 4)
