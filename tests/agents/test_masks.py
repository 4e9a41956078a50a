"""Acting under masks: the best allowed action, samples that are allowed, and their probabilities."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from offrl import plugins
from tests.agents.batches import CPU, act, discrete

SEEDS, ROWS, ACTIONS, FIRST = 2, 400, 4, 3
SPEC = discrete(3, ACTIONS, start=FIRST)
OPTIONS: dict[str, dict[str, Any]] = {
    "bc": {},
    "dqn": {},
    "gail": {"generator": "sac"},
    "ppo": {},
    "sac": {},
    "sqil": {"generator": "dqn"},
}
with_density = pytest.mark.parametrize("algo", ["bc", "gail", "ppo", "sac"])
every = pytest.mark.parametrize("algo", list(OPTIONS))


def made(algo: str) -> tuple[Any, Any]:
    record = plugins.algorithms[algo]
    options = record.options(OPTIONS[algo])
    assert record.learner(options).masks
    agent: Any = record.build(options, SPEC)
    return agent, agent.init((0, 5), CPU)


def shown() -> tuple[Tensor, Tensor]:
    """Observations [S, N, 3] and masks [S, N, 4]."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(SEEDS, ROWS, ACTIONS, generator=generator) < 0.5
    mask[..., 1] |= ~mask.any(dim=-1)
    return 3.0 * torch.randn(SEEDS, ROWS, 3, generator=generator), mask


def allowed(mask: Tensor, action: Tensor) -> Tensor:
    return mask.gather(-1, action.unsqueeze(-1) - FIRST).squeeze(-1)


@every
def test_the_greedy_action_is_the_best_allowed_one(algo: str) -> None:
    """Found out by other masks: beside the one that is taken where it is forbidden, it is taken."""
    (agent, state), (observation, mask) = made(algo), shown()
    action = act(agent, state, observation, None, mask)
    assert allowed(mask, action).all()
    best = act(agent, state, observation)
    free = allowed(mask, best)
    assert 0.2 < free.float().mean() < 0.9
    torch.testing.assert_close(action[free], best[free])
    everything = torch.ones_like(mask)
    torch.testing.assert_close(act(agent, state, observation, None, everything), best)
    # Without the action that was taken, another is; and that one loses against it.
    rest = mask & ~torch.nn.functional.one_hot(action - FIRST, ACTIONS).bool()
    several = rest.any(dim=-1)
    rest[~several] = mask[~several]
    second = act(agent, state, observation, None, rest)
    both = torch.nn.functional.one_hot(action - FIRST, ACTIONS) | torch.nn.functional.one_hot(second - FIRST, ACTIONS)
    torch.testing.assert_close(act(agent, state, observation, None, both.bool()), action)
    assert (second != action)[several].all()


@every
def test_samples_are_allowed(algo: str) -> None:
    (agent, state), (observation, mask) = made(algo), shown()
    noise = torch.randn(SEEDS, ROWS, *agent.acting_noise_shape, generator=torch.Generator().manual_seed(4))
    sampled = act(agent, state, observation, noise, mask)
    assert allowed(mask, sampled).all()
    assert (sampled != act(agent, state, observation, None, mask)).any()


@with_density
def test_probabilities_are_of_allowed_actions(algo: str) -> None:
    (agent, state), (observation, mask) = made(algo), shown()
    carry = agent.initial_carry(state, ROWS)
    every_action = [torch.full((SEEDS, ROWS), FIRST + action) for action in range(ACTIONS)]
    masked = torch.stack([agent.log_prob(state, observation, a, carry, mask) for a in every_action], dim=-1).exp()
    free = torch.stack([agent.log_prob(state, observation, a, carry) for a in every_action], dim=-1).exp() * mask
    assert (masked[~mask] == 0.0).all()
    torch.testing.assert_close(masked, free / free.sum(dim=-1, keepdim=True))


@with_density
def test_samples_have_these_probabilities(algo: str) -> None:
    agent, state = made(algo)
    observation = torch.tensor([0.5, -1.0, 2.0]).expand(SEEDS, 20_000, 3)
    mask = torch.tensor([True, False, True, True]).expand(SEEDS, 20_000, ACTIONS)
    noise = torch.randn(SEEDS, 20_000, *agent.acting_noise_shape, generator=torch.Generator().manual_seed(4))
    sampled = act(agent, state, observation, noise, mask)
    carry = agent.initial_carry(state, ACTIONS)
    for seed in range(SEEDS):
        shares = (sampled[seed] - FIRST).bincount(minlength=ACTIONS) / 20_000
        actions = torch.arange(FIRST, FIRST + ACTIONS).expand(SEEDS, -1)
        expected = agent.log_prob(state, observation[:, :ACTIONS], actions, carry, mask[:, :ACTIONS])[seed].exp()
        torch.testing.assert_close(shares, expected, atol=0.02, rtol=0.0)


def test_random_actions_of_epsilon_greedy_are_allowed_ones_and_equally_likely() -> None:
    record = plugins.algorithms["dqn"]
    agent: Any = record.build(record.options({"epsilon_start": 1.0, "epsilon_end": 1.0}), SPEC)
    observation = torch.zeros(1, 20_000, 3)
    mask = torch.tensor([False, True, True, True]).expand(1, 20_000, ACTIONS)
    noise = torch.randn(1, 20_000, ACTIONS, generator=torch.Generator().manual_seed(6))
    action = act(agent, agent.init((0,), CPU), observation, noise, mask)
    shares = (action[0] - FIRST).bincount(minlength=ACTIONS) / 20_000
    torch.testing.assert_close(shares, torch.tensor([0.0, 1 / 3, 1 / 3, 1 / 3]), atol=0.02, rtol=0.0)
