"""Discounted sums and advantages against numbers worked out by hand, and against loops over time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offrl.ops.returns import discounted_sums, generalized_advantages, running_returns


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 8, 31, 32, 33, 200])
def test_sums_are_those_of_a_loop_backwards(steps: int) -> None:
    generator = torch.Generator().manual_seed(steps)
    values = torch.randn(2, 3, steps, dtype=torch.float64, generator=generator)
    factors = torch.rand(2, 3, steps, dtype=torch.float64, generator=generator)
    factors[torch.rand(2, 3, steps, generator=generator) < 0.2] = 0.0
    expected, following = torch.zeros_like(values), torch.zeros(2, 3, dtype=torch.float64)
    for t in reversed(range(steps)):
        following = expected[..., t] = values[..., t] + factors[..., t] * following
    torch.testing.assert_close(discounted_sums(values, factors), expected, rtol=1e-12, atol=1e-12)


def test_a_factor_of_zero_cuts_exactly() -> None:
    sums = discounted_sums(tensor(1.0, 2.0, 1e300), tensor(0.5, 0.0, 0.5))
    assert sums.tolist() == [2.0, 2.0, 1e300]


def test_inputs_stay_as_they_are() -> None:
    values, factors = torch.ones(4), torch.ones(4)
    assert discounted_sums(values, factors).tolist() == [4.0, 3.0, 2.0, 1.0]
    assert values.eq(1.0).all()
    assert factors.eq(1.0).all()


# Five steps; the episode is cut off behind the second, and terminates behind the fourth. γ = 0.5, λ = 0.8: γλ = 0.4.
REWARD = tensor(1.0, 2.0, 3.0, 4.0, 5.0)
VALUE = tensor(10.0, 20.0, 30.0, 40.0, 50.0)
NEXT_VALUE = tensor(20.0, 200.0, 40.0, 400.0, 60.0)
TERMINATED, TRUNCATED = tensor(0, 0, 0, 1, 0), tensor(0, 1, 0, 0, 0)


def test_advantages_by_hand_with_a_truncation_and_a_termination() -> None:
    errors = [
        1.0 + 0.5 * 20.0 - 10.0,
        2.0 + 0.5 * 200.0 - 20.0,  # truncated: the value of the true next state counts
        3.0 + 0.5 * 40.0 - 30.0,
        4.0 - 40.0,  # terminated: nothing follows
        5.0 + 0.5 * 60.0 - 50.0,
    ]
    assert errors == [1.0, 82.0, -7.0, -36.0, -15.0]
    expected = [1.0 + 0.4 * 82.0, 82.0, -7.0 + 0.4 * -36.0, -36.0, -15.0]
    advantage = generalized_advantages(REWARD, VALUE, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5, 0.8)
    torch.testing.assert_close(advantage, tensor(*expected))


def test_a_trace_decay_of_zero_gives_one_step_errors_and_of_one_whole_returns() -> None:
    one_step = generalized_advantages(REWARD, VALUE, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5, 0.0)
    torch.testing.assert_close(one_step, tensor(1.0, 82.0, -7.0, -36.0, -15.0))
    whole = generalized_advantages(REWARD, VALUE, NEXT_VALUE, TERMINATED, TRUNCATED, 0.5, 1.0) + VALUE
    # r + γ r' + γ² V at the truncation; r + γ r' up to the termination; r + γ V at the rollout's end.
    torch.testing.assert_close(whole, tensor(1.0 + 0.5 * 102.0, 102.0, 3.0 + 0.5 * 4.0, 4.0, 35.0))


def test_an_end_that_is_both_is_a_termination() -> None:
    both = generalized_advantages(tensor(1.0), tensor(2.0), tensor(99.0), tensor(1.0), tensor(1.0), 0.5, 0.8)
    assert both.item() == -1.0


def test_running_returns_by_hand() -> None:
    done = tensor(0, 0, 1, 0, 0)
    returns = running_returns(tensor(1.0, 2.0, 3.0, 4.0, 5.0), done, torch.tensor(10.0, dtype=torch.float64), 0.5)
    # The episode that 10 was carried from goes on, ends behind the third step, and leaves nothing to the next one.
    torch.testing.assert_close(returns, tensor(6.0, 5.0, 5.5, 4.0, 7.0))


def test_running_returns_go_on_from_one_rollout_to_the_next() -> None:
    generator = torch.Generator().manual_seed(0)
    reward = torch.randn(2, 3, 20, generator=generator)
    done = (torch.rand(2, 3, 20, generator=generator) < 0.2).float()
    whole = running_returns(reward, done, torch.zeros(2, 3), 0.9)
    first = running_returns(reward[..., :7], done[..., :7], torch.zeros(2, 3), 0.9)
    carry = first[..., -1] * (1.0 - done[..., 6])
    second = running_returns(reward[..., 7:], done[..., 7:], carry, 0.9)
    torch.testing.assert_close(torch.cat([first, second], dim=-1), whole)
