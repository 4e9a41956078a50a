"""An agent as an environment meets it: raw observations in, actions within the environment's own bounds out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data.schema import OBSERVATION, flatten_value
from offrl.ops.trees import reset_rows, tree_leaves
from offrl.replay.normalization import ActionMap, ObservationNormalizer, RewardScaler, observation_key
from offrl.tracing.traced import Traces
from offrl.types import Agent, Observation

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Policy:
    """What lies between an environment and an agent's `act`, for S seeds at once.

    Attributes:
        agent: the algorithm.
        state: its state for S seeds.
        seeds: S.
        device: where the state lives.
        normalizer: applied to observations before the agent sees them; None leaves them as they are.
        action_map: from the agent's [-1, 1] to the environment's bounds; None where actions are not a Box.
        frame_stack: how many of the newest observations the agent sees at once.
        masks: whether the agent acts among allowed actions only; one that doesn't is not told of masks.
        rewards: how the agent's batches have rewards, where it goes by those that it earns (see
            `offrl.types.ObservesReward`); None where it doesn't, and is not told of them.
    """

    agent: Agent[Any, Any]
    state: Any
    seeds: int
    device: torch.device
    normalizer: ObservationNormalizer | None
    action_map: ActionMap | None
    frame_stack: int = 1
    masks: bool = False
    rewards: RewardScaler | None = None

    def observe(self, observation: Any) -> Observation:
        """A vector environment's observation, [S·N, …] and nested as its space is, as the agent's [S, N, …]."""
        return self.to_agent(self.columns(observation))

    def columns(self, observation: Any) -> Columns:
        """The same as columns, [S·N, …]: normalized, and floats in single precision."""
        if isinstance(observation, np.ndarray):
            return {OBSERVATION: self._seen("", observation)}
        parts = flatten_value(self.agent.spec.observation_space, observation, OBSERVATION)
        return {name: self._seen(observation_key(name), value) for name, value in parts.items()}

    def to_agent(self, columns: Columns) -> Observation:
        """What `columns` returned, to be acted on, [S, N, …]."""
        if OBSERVATION in columns:
            return self._tensor(columns[OBSERVATION])
        return {observation_key(name): self._tensor(value) for name, value in columns.items()}

    @torch.no_grad()
    def changing(self, observation: Observation) -> list[bool]:
        """Of each part of the carry, whether greedy acting, or what it earns, changes it.

        What only exploring does is handed on as it is.

        Args:
            observation: any, [S, N, …].
        """
        carry = self.initial_carry(rows_of(observation))
        _, following = self.agent.act(self.state, observation, carry)
        following = self.observe_reward(following, np.zeros(self.seeds * rows_of(observation)))
        pairs = zip(tree_leaves(carry), tree_leaves(following), strict=True)
        return [before is not after for (_, before), (_, after) in pairs]

    @torch.no_grad()
    def initial_carry(self, count: int) -> Any:
        """What acting remembers where an episode begins, [S, count, …]."""
        return self.agent.initial_carry(self.state, count)

    def act(
        self,
        observation: Observation,
        carry: Any,
        noise: Tensor | None = None,
        action_mask: NDArray[np.bool_] | None = None,
    ) -> tuple[Tensor, Any]:
        """The agent's actions [S, N, …] for what `observe` returned, and what it remembers from then on.

        Args:
            observation: [S, N, …].
            carry: from `initial_carry`, or the call before.
            noise: the agent's draws, to explore; greedy without.
            action_mask: bool [S·N, A], those that the vector environment allows; None allows all.
        """
        acted: tuple[Tensor, Any] = self._acts(observation, carry, noise, self._mask(action_mask))
        return acted

    def observe_reward(self, carry: Any, reward: NDArray[Any]) -> Any:
        """What the agent remembers once a vector environment's step earned `reward`, [S·N], in its own units."""
        if self.rewards is None:
            return carry
        agent: Any = self.agent
        # Not around the whole: to switch gradients off at every step takes a tenth of the time of DQN's loop.
        with torch.no_grad():
            return agent.observe_reward(carry, self._tensor(self.rewards(reward).astype(np.float32)))

    @cached_property
    def _acts(self) -> Callable[..., Any]:
        """The agent's `act` of this state; on the CPU, where few observations take less time than PyTorch, replayed."""
        agent, state = self.agent, self.state

        @torch.no_grad()
        def act(observation: Observation, carry: Any, noise: Tensor | None, action_mask: Tensor | None) -> Any:
            return agent.act(state, observation, carry, noise, action_mask)

        if self.device.type != "cpu":
            return act
        return Traces(f"{type(agent).__name__}.act", act, state, {"state": state, "agent": agent})

    def log_prob(
        self, observation: Observation, action: Tensor, carry: Any, action_mask: NDArray[np.bool_] | None = None
    ) -> Tensor:
        """log π(a | s), [S, N], in nats, of the agent's actions [S, N, …]: of agents that have a density.

        Args:
            observation: what `observe` returned.
            action: as `act` gives them, on the policy's device.
            carry: what `act` was given.
            action_mask: as `act` takes it.
        """
        agent: Any = self.agent
        log_prob: Tensor = agent.log_prob(self.state, observation, action, carry, self._mask(action_mask))
        return log_prob

    def to_environment(self, action: Tensor) -> NDArray[Any]:
        """The agent's actions [S, N, …] as the vector environment's [S·N, …]."""
        return self.in_units(as_rows(action))

    def in_units(self, rows: NDArray[Any]) -> NDArray[Any]:
        """The agent's actions [S·N, …] in the environment's units, within its bounds."""
        raw = rows if self.action_map is None else self.action_map.from_unit(rows)
        return raw if raw.shape[1:] == self._action_shape else raw.reshape(len(raw), *self._action_shape)

    @cached_property
    def _action_shape(self) -> tuple[int, ...]:
        return tuple(self.agent.spec.action_space.shape or ())

    def _mask(self, action_mask: NDArray[np.bool_] | None) -> Tensor | None:
        """A vector environment's mask, bool [S·N, A], as the agent is told of it."""
        return None if action_mask is None or not self.masks else self._tensor(action_mask)

    def _seen(self, key: str, value: NDArray[Any]) -> NDArray[Any]:
        seen = value if self.normalizer is None else self.normalizer.normalize_part(key, value)
        return seen.astype(np.float32, copy=False) if seen.dtype.kind == "f" else seen

    def _tensor(self, value: NDArray[Any]) -> Tensor:
        rows = np.ascontiguousarray(value)
        by_seed = rows[None] if self.seeds == 1 else rows.reshape(self.seeds, -1, *rows.shape[1:])
        tensor: Tensor = torch.from_numpy(by_seed)
        return tensor if self.device.type == "cpu" else tensor.to(self.device)


class Actor:
    """A policy that acts in the copies of a vector environment, and remembers for each what it must.

    Args:
        policy: S seeds' policies.
        count: N, copies per seed.

    Attributes:
        carry: what it remembers of the running episodes, [S, N, …].
        remembers: whether there is anything to remember.
    """

    def __init__(self, policy: Policy, count: int) -> None:
        self.policy, self.count = policy, count
        self.carry = policy.initial_carry(count)
        # Decided by the agent's options, whatever the episode.
        self.remembers = any(True for _ in tree_leaves(self.carry))

    def act(
        self, observation: Observation, noise: Tensor | None = None, action_mask: NDArray[np.bool_] | None = None
    ) -> Tensor:
        """The agent's actions [S, N, …] for what `Policy.observe` returned; greedy without draws."""
        action, self.carry = self.policy.act(observation, self.carry, noise, action_mask)
        return action

    def greedy(self, observation: Any, action_mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """A vector environment's observation, and what it allows, to the greedy actions that it should be given."""
        return self.policy.to_environment(self.act(self.policy.observe(observation), action_mask=action_mask))

    def stepped(self, reward: NDArray[Any], done: NDArray[np.bool_]) -> None:
        """Take in what the step earned, [S·N], and forget the episodes that ended with it, bool [S·N]."""
        self.carry = self.policy.observe_reward(self.carry, reward)
        self.ended(done)

    def ended(self, done: NDArray[np.bool_]) -> None:
        """Forget the episodes that ended, bool [S·N]."""
        if self.remembers and done.any():
            rows = torch.from_numpy(done.reshape(self.policy.seeds, -1)).to(self.policy.device)
            # Asked anew: what an episode begins with may be learned, and training may go on beside.
            self.carry = reset_rows(self.carry, self.policy.initial_carry(self.count), rows)

    def restart(self) -> None:
        """Forget all episodes."""
        self.carry = self.policy.initial_carry(self.count)


def rows_of(observation: Observation) -> int:
    """N of an observation [S, N, …]."""
    part = observation if isinstance(observation, Tensor) else next(iter(observation.values()))
    return part.shape[1]


def as_rows(action: Tensor) -> NDArray[Any]:
    """Actions [S, N, …], wherever they are, as an array [S·N, …]."""
    values: NDArray[Any] = action.cpu().numpy()
    return values[0] if len(values) == 1 else values.reshape(-1, *values.shape[2:])
