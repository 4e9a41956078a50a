"""Inverse reinforcement learning in finite Markov decision processes: the reward that explains demonstrations.

Maximum causal entropy (Ziebart, 2010), maximum entropy over paths (Ziebart et al., 2008), and apprenticeship learning
by projection (Abbeel & Ng, 2004). All three seek a policy that visits what the expert visits; the first two find the
reward under which being like the expert is the most random policy that earns as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import torch
from torch import Tensor, nn

from offrl.agents.algorithm import Algorithm
from offrl.config.fields import STRICT, Activation, CountOrZero, NonNegative, Positive, PositiveFraction, Widths
from offrl.errors import RecipeError, SpaceMismatchError
from offrl.mdp import Demonstrations, TabularMDP, optimal_policy, path_values, path_visits, soft_values, visits
from offrl.nn import MLP, Adam, FlatModule, Schedule, seed_generators
from offrl.nn.adam import ended_schedule
from offrl.nn.distributions import categorical_sample
from offrl.nn.flat import joined
from offrl.types import Batch, Density, GivesReward, Metrics, Noise, Observation, Scheduled, Spec

LEAST = 1e-30
"""The probability that a mixture's log-policy gives to what it never does."""


@dataclass(frozen=True)
class IRLConfig(Schedule):
    """Options of inverse reinforcement learning.

    Attributes:
        method: "maxcausalent", "maxent" (over paths, undiscounted; for dynamics that are hardly random) or
            "apprenticeship".
        features: what a reward is given for: the "state" that a step enters, or its "state_action".
        hidden: widths of a reward network's hidden layers, over those features; none is a linear reward.
        activation: of the reward network.
        discount: γ; of visits and values.
        horizon: steps that an episode has at most; 0 takes the environment's time limit, if it has one. "maxent" needs
            one of the two.
        learning_rate: Adam's step size.
        warmup_steps, constant_steps, decay_steps, decay_shape: of the step size, see `offrl.nn.Schedule`.
        l2: coefficient of Σw² over the reward's parameters in the loss. It keeps the reward of a faultless expert,
            which would otherwise grow without end, within bounds.
        tolerance: training ends once no component of the loss's gradient is larger. Without l2, that of a linear reward
            is the difference between a feature's expected discounted counts under the policy and the expert.
    """

    __pydantic_config__ = STRICT

    method: Literal["maxcausalent", "maxent", "apprenticeship"] = "maxcausalent"
    features: Literal["state", "state_action"] = "state"
    hidden: Widths = ()
    activation: Activation = "tanh"
    discount: PositiveFraction = 0.99
    horizon: CountOrZero = 0
    learning_rate: Positive = 0.5
    l2: NonNegative = 0.0
    tolerance: Positive = 1e-3


class LinearReward(FlatModule):
    """R = φ w; w is [S, features] and starts at zero."""

    def __init__(self, features: int, seeds: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(seeds, features, dtype=torch.float64))
        self.flatten()

    def forward(self, features: Tensor) -> Tensor:
        """Features [rows, F] to rewards [S, rows, 1]."""
        return (self.weight @ features.mT).unsqueeze(-1)


@dataclass
class IRLState:
    """All that training changes.

    Attributes:
        reward: from features to rewards.
        optimizer: of the reward's parameters.
        table: float64 [S, rows]; the learned reward, as it was when the policy was found.
        value: float64 [S, n]; soft values to start from.
        log_policy: float64 [S, n, m]; with a horizon, that of the first step.
        visits: float64 [S, n, m]; of the policy, or, in apprenticeship learning, of the mixture of policies.
    """

    reward: MLP | LinearReward
    optimizer: Adam
    table: Tensor
    value: Tensor
    log_policy: Tensor
    visits: Tensor


class IRL:
    """Learns the reward of a table's states, or of its states and actions, from an expert's visits.

    Args:
        config: see there.
        spec: Discrete observations and actions.
        features: float64 [rows, F], what is known of each row of the reward's table; None tells rows apart and nothing
            else. Rows are the states that steps enter or, with `state_action`, state · m + action.

    Raises:
        SpaceMismatchError: observations or actions aren't Discrete.
        RecipeError: options don't go with each other.
    """

    batches_per_update = 1

    def __init__(self, config: IRLConfig, spec: Spec, features: Tensor | None = None) -> None:
        self.config, self.spec, self.discount = config, spec, config.discount
        observed, acted = spec.observation_space, spec.action_space
        if not isinstance(observed, gym.spaces.Discrete) or not isinstance(acted, gym.spaces.Discrete):
            raise SpaceMismatchError(
                f"irl learns rewards of tables, but here observations are {observed} and actions {acted}",
                hint="choose gail or airl, or an environment such as FrozenLake-v1, CliffWalking-v1 or Taxi-v4",
            )
        self.states, self.actions = int(observed.n), int(acted.n)
        self.first_state, self.first_action = int(observed.start), int(acted.start)
        self.by_action = config.features == "state_action"
        self.rows = self.states * self.actions if self.by_action else self.states
        self.features = torch.eye(self.rows, dtype=torch.float64) if features is None else features
        self.acting_noise_shape: tuple[int, ...] = (self.actions,)
        if self.features.shape[0] != self.rows:
            raise RecipeError(f"there are features of {self.features.shape[0]} rows, the reward has {self.rows}")
        if config.method == "apprenticeship" and config.hidden:
            raise RecipeError(
                f"apprenticeship learning is linear in its features, but agent.hidden is {list(config.hidden)}",
                hint="set agent.hidden=[], or agent.method=maxcausalent",
            )

    def init(self, seeds: Sequence[int], device: torch.device) -> IRLState:
        """Rewards of zero, or a fresh network for each seed."""
        c, count = self.config, len(seeds)
        width = self.features.shape[1]
        reward: MLP | LinearReward = LinearReward(width, count)
        if c.hidden:
            reward = MLP(width, 1, c.hidden, seed_generators(seeds), activation=c.activation)
        table = torch.zeros(count, self.states, self.actions, dtype=torch.float64)
        return IRLState(
            reward=reward,
            optimizer=Adam(reward, c.learning_rate, schedule=c),
            table=torch.zeros(count, self.rows, dtype=torch.float64),
            value=torch.zeros(count, self.states, dtype=torch.float64),
            log_policy=table.log_softmax(-1),
            visits=table,
        )

    def noise_shapes(self, batch_size: int) -> Mapping[str, tuple[int, ...]]:
        return {}

    def update(self, state: IRLState, batches: Sequence[Any], noise: Noise) -> Metrics:
        """One step towards the expert's visits; the one batch is all `Demonstrations`."""
        (demonstrations,) = batches
        expert = demonstrations.visits.flatten() if self.by_action else demonstrations.entered
        if self.config.method == "apprenticeship":
            error = gradient = self._project(state, demonstrations, expert)
        else:
            error, gradient = self._ascend(state, demonstrations, expert)
        return {
            "gradient": gradient.abs().amax(-1).double(),
            "feature_error": error.abs().amax(-1),
            "visitation_error": (state.visits - demonstrations.visits).sum(-1).abs().amax(-1),
            "log_likelihood": (demonstrations.visits * state.log_policy).sum((-2, -1)),
        }

    def _ascend(self, state: IRLState, demonstrations: Demonstrations, expert: Tensor) -> tuple[Tensor, Tensor]:
        """One step up the likelihood, whose gradient by the reward is the expert's counts minus the model's.

        Returns:
            the model's feature counts minus the expert's, and the loss's gradient by the parameters, [S, …] each.
        """
        rewards = self._rewards(state)
        table = rewards.detach()
        counts = self._solve(state, demonstrations.mdp, table)
        error = counts - expert
        loss = (rewards * error).sum()
        if self.config.l2:
            loss = loss + self.config.l2 * sum(parameter.square().sum() for parameter in state.reward.parameters())
        state.table.copy_(table)
        gradient = joined(torch.autograd.grad(loss, state.optimizer.parameters))
        state.optimizer.descend(gradient)
        return error @ self.features, state.optimizer.by_seed(gradient)

    def _rewards(self, state: IRLState) -> Tensor:
        """The table that the parameters stand for, float64 [S, rows]."""
        if isinstance(state.reward, LinearReward):
            rewards: Tensor = state.reward(self.features)
        else:
            rewards = state.reward(self.features.float().expand(state.reward.seeds, -1, -1)).double()
        return rewards.squeeze(-1)

    def _solve(self, state: IRLState, mdp: TabularMDP, table: Tensor) -> Tensor:
        """Find the policy for a reward, and how often it earns each of the table's entries, [S, rows]."""
        if self.config.method == "maxent":
            taken = table.index_select(-1, mdp.origin if self.by_action else mdp.target)
            paths = path_values(mdp, taken)
            passed = path_visits(mdp, taken, paths)
            by_origin = passed.new_zeros(len(passed), self.states * self.actions).index_add_(-1, mdp.origin, passed)
            state.value.copy_(paths.value[:, 0])
            state.log_policy.copy_(paths.log_policy[:, 0])
            state.visits.copy_(by_origin.unflatten(-1, (self.states, self.actions)))
            return by_origin if self.by_action else mdp.by_target(passed)
        soft = soft_values(mdp, self.expected(mdp, table), state.value)
        first = 0 if mdp.horizon is not None else slice(None)
        state.value.copy_(soft.value[:, first])
        state.log_policy.copy_(soft.log_policy[:, first])
        state.visits.copy_(visits(mdp, soft.log_policy.exp()))
        return self._counts(mdp, state.visits)

    def _project(self, state: IRLState, demonstrations: Demonstrations, expert: Tensor) -> Tensor:
        """One projection of the expert's feature counts onto the line to those of the best policy.

        The reward points from the mixture's counts to the expert's, w ∝ φᵀ(μ_E − μ̄); μ̄ moves towards the policy that
        is optimal for it, as far as that brings it closer.
        """
        mdp = demonstrations.mdp
        if not state.visits.any():
            state.visits.copy_(visits(mdp, _staged(mdp, state.log_policy.exp())))
        missing = (expert - self._counts(mdp, state.visits)) @ self.features
        weight = missing / torch.linalg.vector_norm(missing, dim=-1, keepdim=True).clamp(min=LEAST)
        state.reward.flat.copy_(weight.flatten())
        state.table.copy_(weight @ self.features.mT)
        best = visits(mdp, optimal_policy(mdp, self.expected(mdp, state.table)))
        step = self._counts(mdp, best - state.visits) @ self.features
        share = ((step * missing).sum(-1) / step.square().sum(-1).clamp(min=LEAST)).clamp(0.0, 1.0)
        state.visits.lerp_(best, share[:, None, None])
        # A state that the mixture never sees has no share of it to go by.
        policy = state.visits / state.visits.sum(-1, keepdim=True).clamp(min=LEAST)
        seen = (state.visits.sum(-1, keepdim=True) > LEAST).expand_as(policy)
        state.log_policy.copy_(torch.where(seen, policy, 1.0 / self.actions).clamp(min=LEAST).log())
        return (expert - self._counts(mdp, state.visits)) @ self.features

    def expected(self, mdp: TabularMDP, table: Tensor) -> Tensor:
        """A table of rewards [S, rows] as E[r | s, a], [S, n, m]."""
        if self.by_action:
            return table.view(-1, self.states, self.actions)
        return mdp.expected_reward(table.index_select(-1, mdp.target))

    def _counts(self, mdp: TabularMDP, visited: Tensor) -> Tensor:
        """How often each row of the table is earned, [S, rows]."""
        return visited.flatten(-2) if self.by_action else mdp.entered(visited)

    def ended_schedule(self, state: IRLState) -> int:
        """The steps taken, where the step size has fallen to 0."""
        return ended_schedule((state.optimizer,))

    def initial_carry(self, state: IRLState, count: int) -> tuple[()]:
        """Nothing: acting needs no memory."""
        return ()

    def act(
        self,
        state: IRLState,
        observation: Observation,
        carry: tuple[()],
        noise: Tensor | None = None,
        action_mask: Tensor | None = None,
    ) -> tuple[Tensor, tuple[()]]:
        """The likeliest action; with draws [S, N, actions], a sample of the policy. All actions count as allowed."""
        log_probs = self._log_probs(state, observation)
        choice = log_probs.argmax(-1) if noise is None else categorical_sample([log_probs], noise).squeeze(-1)
        return choice + self.first_action, carry

    @property
    def has_density(self) -> bool:
        """Whether sampled actions have the probability `log_prob`: they do."""
        return True

    @torch.no_grad()
    def log_prob(
        self, state: IRLState, observation: Observation, action: Tensor, carry: Any, action_mask: Tensor | None = None
    ) -> Tensor:
        """log π(a | s), [S, N], in nats."""
        chosen = (action.long() - self.first_action).unsqueeze(-1)
        return self._log_probs(state, observation).gather(-1, chosen).squeeze(-1).float()

    @property
    def length_bias(self) -> str:
        """None: the reward is found by how long the expert stays where, not by a form of its own."""
        return ""

    @torch.no_grad()
    def reward(self, state: IRLState, batch: Batch) -> Tensor:
        """The learned reward of transitions, float32 [S, B]."""
        row = self._state_of(batch.next_observation)
        if self.by_action:
            row = self._state_of(batch.observation) * self.actions + batch.action.long() - self.first_action
        return state.table.gather(-1, row.expand(len(state.table), -1)).float()

    def _log_probs(self, state: IRLState, observation: Observation) -> Tensor:
        row = self._state_of(observation)
        return state.log_policy.gather(1, row.unsqueeze(-1).expand(-1, -1, self.actions))

    def _state_of(self, observation: Observation) -> Tensor:
        assert isinstance(observation, Tensor)
        return observation.long() - self.first_state


def explain(
    demonstrations: Demonstrations,
    config: IRLConfig,
    features: Tensor | None = None,
    *,
    seeds: Sequence[int] = (0,),
    updates: int = 500,
) -> tuple[IRL, IRLState, Metrics]:
    """Learn the reward of demonstrations in a process of your own, outside of any run.

    Args:
        demonstrations: discounted as `config.discount` says, or undiscounted with a horizon for "maxent".
        config: see there; discount and horizon are those of the process.
        features: as for `IRL`.
        seeds: a reward is learned for each.
        updates: at most so many; fewer where the gradient gets smaller than `config.tolerance` before.

    Returns:
        the agent, its state, whose `table` is the reward, and the last update's metrics.
    """
    mdp = demonstrations.mdp
    agent = IRL(config, Spec(gym.spaces.Discrete(mdp.states), gym.spaces.Discrete(mdp.actions)), features)
    state, metrics = agent.init(seeds, torch.device("cpu")), {}
    for _ in range(updates):
        metrics = agent.update(state, [demonstrations], {})
        if bool((metrics["gradient"] <= config.tolerance).all()):
            break
    return agent, state, metrics


def _staged(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """A policy [S, n, m] that is the same in every step, as solvers take it."""
    if mdp.horizon is None:
        return policy
    return policy.unsqueeze(-3).expand(-1, mdp.horizon, -1, -1)


ALGORITHM = Algorithm(
    IRLConfig,
    IRL,
    feeds=("table",),
    actions=("discrete",),
    summary="maximum causal entropy, maximum entropy, apprenticeship; linear or neural rewards",
    provides=(Density, GivesReward, Scheduled),
    reads_rewards=False,
)
