"""Inverse reinforcement learning against finite differences, known rewards, plain loops, and each seed alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import Tensor

from offrl.agents.irl import IRL, IRLConfig, IRLState, explain
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.mdp import (
    Demonstrations,
    TabularMDP,
    evaluate_policy,
    optimal_policy,
    path_values,
    soft_values,
    visits,
)
from offrl.nn.state import state_tensors
from offrl.types import Batch, Spec
from tests.agents.batches import CPU, act, continuous, discrete
from tests.envs.grids import GRID, SLIPPERY, TIMELESS, grid
from tests.mdp.processes import random_mdp
from tests.mdp.test_planning import GOLDEN, two_states

GRIDS = (GRID, SLIPPERY, TIMELESS)


def table_spec(mdp: TabularMDP) -> Spec:
    return Spec(gym.spaces.Discrete(mdp.states), gym.spaces.Discrete(mdp.actions))


def true_reward(mdp: TabularMDP) -> Tensor:
    assert mdp.reward is not None
    return mdp.expected_reward(mdp.reward)


def shown_by(mdp: TabularMDP, policy: Tensor) -> Demonstrations:
    """Endless demonstrations of a policy."""
    visited = visits(mdp, policy)
    return Demonstrations(mdp, visited, mdp.entered(visited))


def soft_expert(mdp: TabularMDP, temperature: float = 0.5) -> Demonstrations:
    """Of the policy of maximum entropy for the true reward."""
    return shown_by(mdp, soft_values(mdp, true_reward(mdp) / temperature).log_policy.exp())


def best_expert(mdp: TabularMDP) -> Demonstrations:
    return shown_by(mdp, optimal_policy(mdp, true_reward(mdp)))


def value_difference(agent: IRL, state: IRLState, mdp: TabularMDP) -> float:
    """How much less than the best a policy earns that is optimal for the learned reward, as a share of the best."""
    reward = true_reward(mdp)
    best = evaluate_policy(mdp, optimal_policy(mdp, reward), reward)
    found = evaluate_policy(mdp, optimal_policy(mdp, agent.expected(mdp, state.table[0])), reward)
    return float((best - found) / best.abs())


@pytest.mark.parametrize("environment", GRIDS)
@pytest.mark.parametrize("features", ["state", "state_action"])
def test_the_reward_of_a_known_grid_is_worth_as_much_as_the_true_one(environment: str, features: Any) -> None:
    """Issue: expected value difference under 2% of the optimal value, state visitation as the expert's to 1e-3."""
    mdp, _ = grid(environment)
    config = IRLConfig(features=features, discount=0.95, learning_rate=0.3, tolerance=2e-4)
    agent, state, metrics = explain(soft_expert(mdp), config, updates=600)
    assert float(metrics["feature_error"]) <= 2e-4
    assert float(metrics["visitation_error"]) < 1e-3
    assert value_difference(agent, state, mdp) < 0.02


@pytest.mark.parametrize("environment", GRIDS)
def test_a_faultless_expert_is_explained_too(environment: str) -> None:
    mdp, _ = grid(environment)
    agent, state, metrics = explain(best_expert(mdp), IRLConfig(discount=0.95, tolerance=1e-2), updates=150)
    assert float(metrics["visitation_error"]) < 2e-2
    assert value_difference(agent, state, mdp) < 0.02


def test_two_states_by_hand() -> None:
    """At zero reward the model stays with 1/φ, for 1 / (1 − ½/φ) discounted steps; the gradient is what is missing."""
    mdp = two_states(0.5)
    expert = Demonstrations(
        mdp, torch.tensor([[1.0, 0.5], [0.0, 0.0]]).double(), torch.tensor([1.0, 0.5], dtype=torch.float64)
    )
    agent = IRL(IRLConfig(features="state_action", discount=0.5, learning_rate=0.1), table_spec(mdp))
    state = agent.init([0], CPU)
    metrics = agent.update(state, [expert], {})
    steps = 1.0 / (1.0 - 0.5 / GOLDEN)
    assert float(metrics["feature_error"]) == pytest.approx(
        max(abs(steps / GOLDEN - 1.0), abs(steps / GOLDEN**2 - 0.5))
    )
    assert float(metrics["visitation_error"]) == pytest.approx(abs(steps - 1.5))
    assert float(metrics["log_likelihood"]) == pytest.approx(-math.log(GOLDEN) - 0.5 * 2.0 * math.log(GOLDEN))
    assert state.table.tolist() == [[0.0] * 4]
    # Adam's first step is its learning rate, whichever way the gradient goes.
    expected = [0.1 * np.sign(1.0 - steps / GOLDEN), 0.1 * np.sign(0.5 - steps / GOLDEN**2), 0.0, 0.0]
    assert state.reward.flat.tolist() == pytest.approx(expected, abs=1e-6)


def causal_objective(mdp: TabularMDP, reward: Tensor) -> Tensor:
    """E[V(s_0)], whose derivative by the reward are the model's counts."""
    solution = soft_values(mdp, reward)
    first = solution.value if mdp.horizon is None else solution.value[..., 0, :]
    return (mdp.initial * first).sum(-1)


def path_objective(mdp: TabularMDP, reward: Tensor) -> Tensor:
    return (mdp.initial * path_values(mdp, reward).value[..., 0, :]).sum(-1)


@pytest.mark.parametrize("features", ["state", "state_action"])
@pytest.mark.parametrize("horizon", [None, 3])
@pytest.mark.parametrize("method", ["maxcausalent", "maxent"])
def test_gradients_agree_with_finite_differences(features: Any, horizon: int | None, method: Any) -> None:
    if method == "maxent" and horizon is None:
        return
    mdp = random_mdp(4, horizon=horizon, discount=0.9 if method == "maxcausalent" else 1.0)
    agent = IRL(IRLConfig(method=method, features=features, discount=mdp.discount), table_spec(mdp))
    state = agent.init([0], CPU)
    table = torch.from_numpy(np.random.default_rng(0).standard_normal((1, agent.rows)))
    counts = agent._solve(state, mdp, table)

    def objective(moved: Tensor) -> float:
        if method == "maxcausalent":
            return float(causal_objective(mdp, agent.expected(mdp, moved)))
        return float(path_objective(mdp, moved.index_select(-1, mdp.origin if agent.by_action else mdp.target)))

    for row in range(agent.rows):
        nudge = torch.zeros_like(table)
        nudge[0, row] = 1e-5
        slope = (objective(table + nudge) - objective(table - nudge)) / 2e-5
        assert float(counts[0, row]) == pytest.approx(slope, abs=1e-7)


def test_the_gradient_of_a_reward_network_agrees_with_finite_differences() -> None:
    mdp = random_mdp(4, horizon=None)
    expert = soft_expert(mdp)
    agent = IRL(IRLConfig(hidden=(5,), l2=0.01, discount=0.9), table_spec(mdp))
    state = agent.init([3], CPU)

    def loss() -> float:
        with torch.no_grad():
            table = agent._rewards(state)
        penalty = 0.01 * float(state.reward.flat.double().square().sum())
        return float(causal_objective(mdp, agent.expected(mdp, table)) - (table * expert.entered).sum()) + penalty

    start = state.reward.flat.clone()
    taken: list[Tensor] = []
    state.optimizer.descend = lambda gradient, *_: taken.append(gradient.clone())  # type: ignore[method-assign]
    agent.update(state, [expert], {})
    slopes = []
    for index in range(len(start)):
        sides = []
        for sign in (1.0, -1.0):
            state.reward.flat.copy_(start)
            state.reward.flat[index] += sign * 1e-2
            sides.append(loss())
        slopes.append((sides[0] - sides[1]) / 2e-2)
    assert taken[0].tolist() == pytest.approx(slopes, abs=2e-3)


def transitions(mdp: TabularMDP) -> list[tuple[int, int, float, bool]]:
    return list(zip(mdp.origin.tolist(), mdp.target.tolist(), mdp.probability.tolist(), mdp.ends.tolist(), strict=True))


def plain_soft_policy(mdp: TabularMDP, reward: Any) -> Any:
    """Value iteration in plain loops."""
    value = np.zeros(mdp.states)
    for _ in range(2_000):
        q = reward.copy()
        for o, t, p, e in transitions(mdp):
            q[o // mdp.actions, o % mdp.actions] += 0.0 if e else mdp.discount * p * value[t]
        following = np.log(np.exp(q).sum(-1))
        if np.abs(following - value).max() < 1e-13:
            break
        value = following
    return np.exp(q - value[:, None])


def plain_entered(mdp: TabularMDP, policy: Any) -> Any:
    """How often each state is entered, by going forward step by step."""
    here, entered = mdp.initial.numpy().copy(), np.zeros(mdp.states)
    factor = 1.0
    while factor > 1e-13:
        following = np.zeros(mdp.states)
        for o, t, p, e in transitions(mdp):
            mass = here[o // mdp.actions] * policy[o // mdp.actions, o % mdp.actions] * p
            entered[t] += factor * mass
            following[t] += 0.0 if e else mass
        here, factor = following, factor * mdp.discount
    return entered


def test_ten_updates_are_those_of_a_plain_implementation() -> None:
    mdp = random_mdp(6, states=3, horizon=None, discount=0.5)
    expert = soft_expert(mdp)
    features = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 2)))
    agent = IRL(IRLConfig(discount=0.5, learning_rate=0.1, l2=0.05), table_spec(mdp), features)
    state = agent.init([0], CPU)
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=0.1)
    for _ in range(10):
        agent.update(state, [expert], {})
        reward = np.zeros((3, 2))
        table = (features @ weight.detach()).numpy()
        assert state.table[0].tolist() == pytest.approx(table.tolist(), abs=1e-5)
        for o, t, p, _ in transitions(mdp):
            reward[o // 2, o % 2] += p * table[t]
        error = plain_entered(mdp, plain_soft_policy(mdp, reward)) - expert.entered.numpy()
        optimizer.zero_grad()
        (torch.from_numpy(features.numpy().T @ error) @ weight + 0.05 * weight.square().sum()).backward()
        optimizer.step()
    assert state.reward.flat.tolist() == pytest.approx(weight.tolist(), abs=1e-5)


@pytest.mark.parametrize("method", ["maxcausalent", "maxent", "apprenticeship"])
def test_seeds_together_are_what_each_is_alone(method: Any) -> None:
    mdp = random_mdp(7, horizon=5, discount=1.0)
    expert = soft_expert(mdp)
    config = IRLConfig(method=method, discount=1.0, hidden=() if method == "apprenticeship" else (6,), tolerance=1e-9)
    _, together, _ = explain(expert, config, seeds=(4, 9), updates=5)
    for position, seed in enumerate((4, 9)):
        _, alone, _ = explain(expert, config, seeds=(seed,), updates=5)
        for name, tensor in state_tensors(alone).items():
            own = state_tensors(together)[name]
            assert torch.allclose(
                own[position] if tensor.dim() else own, tensor[0] if tensor.dim() else tensor, atol=1e-6
            )


def test_apprenticeship_mixes_policies_until_they_count_as_the_expert_does() -> None:
    mdp, _ = grid(SLIPPERY)
    config = IRLConfig(method="apprenticeship", discount=0.95, tolerance=5e-3)
    agent, state, metrics = explain(best_expert(mdp), config, updates=200)
    assert float(metrics["feature_error"]) <= 5e-3
    reward = true_reward(mdp)
    best = float(evaluate_policy(mdp, optimal_policy(mdp, reward), reward))
    assert float((state.visits[0] * reward).sum()) > 0.98 * best
    assert float(torch.linalg.vector_norm(state.table[0] @ agent.features)) == pytest.approx(1.0)


def test_the_first_projection_by_hand() -> None:
    """From the uniform policy's counts μ̄ towards μ of the best one for μ_E − μ̄, as far as is closest to μ_E."""
    mdp = random_mdp(8, horizon=None)
    expert = soft_expert(mdp, 0.2)
    agent = IRL(IRLConfig(method="apprenticeship", discount=0.9), table_spec(mdp))
    state = agent.init([0], CPU)
    agent.update(state, [expert], {})
    uniform = mdp.entered(visits(mdp, torch.full((4, 2), 0.5, dtype=torch.float64)))
    wanted = expert.entered - uniform
    reward = mdp.expected_reward(wanted[mdp.target])
    step = mdp.entered(visits(mdp, optimal_policy(mdp, reward))) - uniform
    share = float((step @ wanted) / (step @ step))
    assert share > 0.0
    assert torch.allclose(mdp.entered(state.visits[0]), uniform + min(share, 1.0) * step, atol=1e-9)
    assert torch.allclose(state.table[0], wanted / wanted.norm(), atol=1e-9)


def test_path_weighting_explains_experts_where_dynamics_are_sure() -> None:
    mdp, _ = grid(GRID, discount=1.0)
    expert = soft_expert(mdp)
    _, state, metrics = explain(expert, IRLConfig(method="maxent", discount=1.0, tolerance=1e-2), updates=200)
    assert float(metrics["feature_error"]) <= 1e-2
    earned, shown = ((visited * true_reward(mdp)).sum() for visited in (state.visits[0], expert.visits))
    assert float(earned) == pytest.approx(float(shown), rel=0.01)


def test_a_reward_network_explains_the_expert_as_well() -> None:
    mdp, _ = grid(TIMELESS)
    config = IRLConfig(hidden=(32,), discount=0.95, learning_rate=0.02, tolerance=5e-3)
    agent, state, metrics = explain(soft_expert(mdp), config, updates=800)
    assert float(metrics["feature_error"]) <= 5e-3
    assert value_difference(agent, state, mdp) < 0.02


def test_a_penalty_keeps_the_reward_small() -> None:
    mdp, _ = grid(TIMELESS)
    sizes = [
        float(explain(best_expert(mdp), IRLConfig(discount=0.95, l2=l2), updates=60)[1].table.abs().max())
        for l2 in (0.0, 0.1)
    ]
    assert sizes[1] < 0.5 * sizes[0]


@pytest.mark.parametrize("start", [0, 3])
def test_rewards_and_actions_are_looked_up(start: int) -> None:
    spec = Spec(gym.spaces.Discrete(3, start=start), gym.spaces.Discrete(2, start=-1))
    rng = np.random.default_rng(2)
    observation = torch.tensor([[0, 1, 2]] * 2) + start
    batch = Batch(
        observation=observation.float(),
        action=torch.tensor([[-1, 0, 0]] * 2),
        reward=torch.zeros(2, 3),
        discount=torch.ones(2, 3),
        next_observation=observation.flip(1).float(),
        terminated=torch.zeros(2, 3),
    )
    for features, rows in (("state", [2, 1, 0]), ("state_action", [0, 3, 5])):
        agent = IRL(IRLConfig(features=features), spec)  # type: ignore[arg-type]
        state = agent.init([0, 1], CPU)
        state.table.copy_(torch.from_numpy(rng.standard_normal(state.table.shape)))
        state.log_policy.copy_(torch.from_numpy(rng.standard_normal((2, 3, 2))).log_softmax(-1))
        assert torch.equal(agent.reward(state, batch), state.table[:, rows].float())
        assert torch.equal(act(agent, state, observation), state.log_policy.argmax(-1) - 1)
        expected = state.log_policy.gather(-1, (batch.action + 1).unsqueeze(-1)).squeeze(-1)
        assert torch.equal(agent.log_prob(state, observation, batch.action, ()), expected.float())


def test_sampled_actions_are_as_frequent_as_they_are_probable() -> None:
    agent = IRL(IRLConfig(), Spec(gym.spaces.Discrete(1), gym.spaces.Discrete(3)))
    state = agent.init([0], CPU)
    state.log_policy.copy_(torch.tensor([0.2, 0.5, 0.3]).log())
    noise = torch.randn(1, 20_000, 3, generator=torch.Generator().manual_seed(0))
    actions = act(agent, state, torch.zeros(1, 20_000, dtype=torch.int64), noise)
    assert np.allclose(np.bincount(actions[0].numpy()) / 20_000, [0.2, 0.5, 0.3], atol=0.015)


@pytest.mark.parametrize("spec", [continuous(), discrete(), Spec(gym.spaces.Discrete(3), continuous().action_space)])
def test_a_continuous_task_is_refused(spec: Spec) -> None:
    with pytest.raises(SpaceMismatchError, match="choose gail or airl"):
        IRL(IRLConfig(), spec)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IRL(IRLConfig(method="apprenticeship", hidden=(4,)), table_spec(two_states())), "agent.hidden"),
        (lambda: IRL(IRLConfig(), table_spec(two_states()), torch.eye(3)), "features of 3 rows, the reward has 2"),
    ],
)
def test_options_that_do_not_go_together_are_refused(make: Callable[[], IRL], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        make()


def test_the_same_updates_come_to_the_same_state() -> None:
    mdp = replace(random_mdp(9), horizon=4)
    one, other = (explain(soft_expert(mdp), IRLConfig(hidden=(4,)), updates=6)[1] for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(state_tensors(one).values(), state_tensors(other).values(), strict=True)
    )
