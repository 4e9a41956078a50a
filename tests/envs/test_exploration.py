"""Random actions from normal draws, and their densities."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from scipy import stats

from offrl.envs.exploration import random_actions, random_log_prob
from offrl.replay.normalization import ActionMap
from offrl.types import Spec

PLACE = gym.spaces.Box(-1, 1, (1,))
DRAWS = 20_000


def drawn(space: gym.Space[object], width: int) -> torch.Tensor:
    draws = torch.randn(2, DRAWS, width, generator=torch.Generator().manual_seed(0))
    return random_actions(Spec(PLACE, space), draws)


def test_continuous_actions_span_the_unit_box() -> None:
    actions = drawn(gym.spaces.Box(-3, 5, (2,)), 2)
    assert actions.shape == (2, DRAWS, 2)
    quantiles = torch.quantile(actions.flatten(), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(quantiles, torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]), rtol=0.0, atol=0.02)


@pytest.mark.parametrize("start", [0, -2])
def test_each_discrete_action_is_as_likely(start: int) -> None:
    actions = drawn(gym.spaces.Discrete(3, start=start), 3)
    counts = torch.bincount(actions.flatten() - start, minlength=3) / actions.numel()
    torch.testing.assert_close(counts, torch.full((3,), 1 / 3), rtol=0.0, atol=0.01)


def test_each_choice_has_its_own_number_of_actions() -> None:
    actions = drawn(gym.spaces.MultiDiscrete([2, 4], start=[0, 7]), 6)
    assert np.unique(actions[..., 0]).tolist() == [0, 1]
    assert np.unique(actions[..., 1]).tolist() == [7, 8, 9, 10]


MIXED = gym.spaces.Box(
    np.float32([-np.inf, 5, -np.inf, -3, 0]), np.float32([np.inf, np.inf, -2, 5, np.inf]), dtype=np.float32
)
MARGINALS = [stats.norm(), stats.expon(5), None, stats.uniform(-3, 8), stats.expon(0)]


def test_components_are_distributed_as_gymnasium_samples_them() -> None:
    actions = ActionMap.from_space(MIXED).from_unit(drawn(MIXED, 5)[0].numpy())
    MIXED.seed(0)
    sampled = np.stack([MIXED.sample() for _ in range(DRAWS)])
    for column, marginal in enumerate(MARGINALS):
        assert stats.ks_2samp(actions[:, column], sampled[:, column]).pvalue > 1e-3
        if marginal is not None:
            assert stats.kstest(actions[:, column], marginal.cdf).pvalue > 1e-3
    for column, bound in ((1, 5.0), (2, -2.0), (4, 0.0)):
        assert (actions[:, column] == bound).mean() < 1e-3


def test_the_density_is_that_of_what_is_drawn() -> None:
    spec = Spec(PLACE, MIXED)
    unit = drawn(MIXED, 5)[0, :500]
    actions = ActionMap.from_space(MIXED).from_unit(unit.numpy())
    wanted = sum(m.logpdf(actions[:, i]) for i, m in enumerate(MARGINALS) if m is not None)
    wanted += stats.expon.logpdf(-2 - actions[:, 2])
    np.testing.assert_allclose(random_log_prob(spec, unit), wanted, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize(
    ("space", "log_prob"),
    [
        (gym.spaces.Box(np.float32([-1, 0]), np.float32([1, 5])), -np.log(2 * 5)),
        (gym.spaces.Box(np.float64([[-1], [0]]), np.float64([[1], [5]]), dtype=np.float64), -np.log(2 * 5)),
        (gym.spaces.Box(-1, 3, ()), -np.log(4)),
        (gym.spaces.Discrete(3, start=-1), -np.log(3)),
        (gym.spaces.MultiDiscrete([2, 5]), -np.log(2 * 5)),
        (gym.spaces.MultiDiscrete([[2, 5], [3, 3]]), -np.log(2 * 5 * 3 * 3)),
    ],
    ids=str,
)
def test_equally_probable_actions_have_one_density(space: gym.Space[object], log_prob: float) -> None:
    spec = Spec(PLACE, space)
    actions = random_actions(spec, torch.randn(7, spec.action_dim, generator=torch.Generator().manual_seed(0)))
    assert random_log_prob(spec, actions) == pytest.approx(np.full(7, log_prob))


def test_among_allowed_actions_each_is_as_probable() -> None:
    mask = np.array([[True, False, True], [False, False, True]])
    spec = Spec(PLACE, gym.spaces.Discrete(3))
    actions = random_actions(spec, torch.zeros(2, 3), mask)
    assert random_log_prob(spec, actions, mask) == pytest.approx([-np.log(2), 0.0])
