"""One seed's policy as a module from raw observations to the environment's own actions, fit to be traced."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offrl.data.schema import OBSERVATION, flatten_space
from offrl.envs.policy import Policy, rows_of
from offrl.ops.trees import tree_leaves, tree_map
from offrl.replay.normalization import observation_key
from offrl.types import Observation

Columns = dict[str, NDArray[Any]]
"""Rows of an observation, [N, …], by column: `observation`, or `observation.<key>` where the space is nested."""


class InferencePolicy(nn.Module):
    """Normalizes, acts greedily, and maps actions to the environment's bounds and shape.

    Args:
        policy: of one seed; nothing must train it any more.
        log_prob: whether to give the log-probabilities of all actions too, which are Discrete.

    Attributes:
        initial_carry: what acting remembers where an episode begins, by name, [1, …] each; empty without a memory. What
            only exploring changes is none of it.
        goes_by_reward: whether acting must be told what the action before earned.
    """

    def __init__(self, policy: Policy, *, log_prob: bool = False) -> None:
        super().__init__()
        self.policy, self.log_prob = policy, log_prob
        self.goes_by_reward = policy.rewards is not None
        self.template = policy.initial_carry(1)
        self.changing = policy.changing(self._observe(as_observation(random_observations(policy, 1, seed=0))))
        self.initial_carry = {name: part.squeeze(0) for name, part in self._changing(self.template)}
        self.eval()

    def forward(self, observation: Observation, carry: tuple[Tensor, ...] = ()) -> Any:
        """Actions for observations [N, …], or a mapping of such by dotted key.

        Args:
            observation: as the environment shows it.
            carry: for each part of `initial_carry`, in its order, [N, …]; what the call before returned. In front of
                them, where policies go by it, what the action before earned: float32 [N], 0 where episodes begin.

        Returns:
            float32 [N, *shape] for a Box, int64 [N, *shape] for Discrete and MultiDiscrete; with `log_prob`, also
            float32 [N, A]; and behind these the parts of the carry for the next call. One tensor is returned as it is,
            several as a tuple.
        """
        policy, shape = self.policy, self.policy.agent.spec.action_space.shape or ()
        seen = self._observe(observation)
        remembered = self._remembered(carry[1:] if self.goes_by_reward else carry, rows_of(seen))
        if policy.rewards is not None:
            agent: Any = policy.agent
            remembered = agent.observe_reward(remembered, policy.rewards(carry[0]).unsqueeze(0))
        action, following = policy.agent.act(policy.state, seen, remembered)
        raw = (action if policy.action_map is None else policy.action_map.from_unit(action)).squeeze(0)
        if len(shape) != 1:
            raw = raw.reshape(-1, *shape)
        log_probs = (self._log_probs(seen, remembered),) if self.log_prob else ()
        outputs = (raw, *log_probs, *(part.squeeze(0) for _, part in self._changing(following)))
        return outputs if len(outputs) > 1 else raw

    def _changing(self, carry: Any) -> list[tuple[str, Tensor]]:
        """What acting changes of what the agent remembers, with its names."""
        return [leaf for leaf, changes in zip(tree_leaves(carry), self.changing, strict=True) if changes]

    def _remembered(self, carry: tuple[Tensor, ...], rows: int) -> Any:
        """The carry as the agent has it, [1, N, …]."""
        parts, changes = iter(carry), iter(self.changing)

        def part_of(initial: Tensor) -> Tensor:
            return next(parts).unsqueeze(0) if next(changes) else initial.expand(-1, rows, *initial.shape[2:])

        return tree_map(part_of, self.template)

    def _observe(self, observation: Observation) -> Observation:
        """As the agent sees them, [1, N, …]."""
        if isinstance(observation, Tensor):
            seen: Observation = observation.unsqueeze(0)
        else:
            seen = {key: part.unsqueeze(0) for key, part in observation.items()}
        return seen if self.policy.normalizer is None else self.policy.normalizer.normalize(seen)

    def _log_probs(self, seen: Observation, carry: Any) -> Tensor:
        """log π(a | s) of all actions, [N, A]: every observation is repeated for each of them."""
        space = self.policy.agent.spec.action_space
        assert isinstance(space, gym.spaces.Discrete)
        count, first = int(space.n), int(space.start)
        repeated = tree_map(lambda part: _repeat(part, count), seen)
        numbers = torch.arange(first, first + count).expand(1, rows_of(seen), count).flatten(1)
        repeated_carry = tree_map(lambda part: _repeat(part, count), carry)
        return self.policy.log_prob(repeated, numbers, repeated_carry).reshape(-1, count)


def _repeat(part: Tensor, count: int) -> Tensor:
    """[1, N, …] to [1, N · count, …], each row `count` times in turn."""
    return part.unsqueeze(2).expand(-1, -1, count, *part.shape[2:]).flatten(1, 2)


def random_observations(policy: Policy, count: int, seed: int) -> Columns:
    """Observations that the policy can be shown, the same for the same seed.

    Floats are normal with the mean and spread that the normalizer knows (0 and 1 without one), cut to their bounds;
    all else is uniform.
    """
    rng, columns = np.random.default_rng(seed), {}
    for name, space in flatten_space(policy.agent.spec.observation_space, OBSERVATION).items():
        if isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating):
            key, normal = observation_key(name), rng.standard_normal((count, *space.shape))
            if policy.normalizer is not None and key in policy.normalizer.mean:
                normal = policy.normalizer.mean[key] + policy.normalizer.std[key] * normal
            dtype = np.dtype(np.float32) if policy.normalizer is None else policy.normalizer.input_dtype(key)
            columns[name] = np.clip(normal, space.low, space.high).astype(dtype)
        else:
            space.seed(seed)
            columns[name] = np.stack([space.sample() for _ in range(count)])
    return columns


def as_observation(columns: Columns) -> Observation:
    """Columns as `InferencePolicy` takes them."""
    tensors = {observation_key(name): torch.from_numpy(values) for name, values in columns.items()}
    return tensors.get("", tensors)
