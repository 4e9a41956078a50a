"""A run's agents as policies to be valued from a log."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data.trajectories import Trajectories
from offrl.envs.policy import Actor, Policy, rows_of
from offrl.envs.spaces import check_spaces
from offrl.errors import SpaceMismatchError
from offrl.off_policy.choices import Choices
from offrl.off_policy.episode_log import EpisodeLog
from offrl.off_policy.features import one_hot_each
from offrl.off_policy.read_log import read_log
from offrl.off_policy.target_policies import ROWS_AT_ONCE, chunks, deterministic_choices, discrete_choices, mixed, take
from offrl.ops.noise import NoiseSource
from offrl.ops.trees import tree_map
from offrl.replay.frame_stack import StackedFrames
from offrl.types import Observation

SAMPLING_STREAM = 6


@dataclass(frozen=True)
class AgentPolicies:
    """The policies of a run's seeds.

    Attributes:
        policy: as environments meet them.
        names: one for each seed.
        stochastic: whether actions are sampled, where the greedy ones are meant otherwise.
        epsilon: share of uniformly random actions, among discrete ones.
        has_density: whether their algorithm tells densities, be it for some options only.
    """

    policy: Policy
    names: list[str]
    stochastic: bool = False
    epsilon: float = 0.0
    has_density: bool = False

    @property
    def can_sample(self) -> bool:
        """Whether what the policies sample has a density."""
        agent: Any = self.policy.agent
        return bool(self.has_density and agent.has_density)

    def choices(self, store: Trajectories, *, draws: int, seed: int) -> list[Choices]:
        """What each seed's policy does at the rows of a log.

        Raises:
            SpaceMismatchError: the policies are for other spaces, or sampled ones are asked for and have no density.
        """
        policy = self.policy
        agent: Any = policy.agent
        stacked = StackedFrames(store, policy.frame_stack) if policy.frame_stack > 1 else store
        check_spaces(agent.spec, stacked.spec, f"the log '{store.metadata.name}'")
        if self.stochastic and not self.can_sample:
            raise SpaceMismatchError(
                f"sampled actions of {self.names[0]} have no density: it samples none, or bounds clip what it samples",
                hint="leave out --stochastic; --epsilon mixes random actions in where actions are discrete",
            )
        logged = read_log(stacked)
        if isinstance(logged.spec.action_space, gym.spaces.MultiDiscrete):
            return self._joint(logged, draws, seed)
        if not self.stochastic:
            return [
                deterministic_choices(logged, action, name, self.epsilon)
                for action, name in zip(self._greedy(logged), self.names, strict=True)
            ]
        if logged.actions is not None:
            return [discrete_choices(logged, mixed(logged, part, self.epsilon)) for part in self._probabilities(logged)]
        return self._continuous(logged, draws, seed)

    def _joint(self, logged: EpisodeLog, draws: int, seed: int) -> list[Choices]:
        """Of several choices at once, drawn ones as vectors, as if continuous: all there could be are too many."""
        if self.epsilon:
            raise SpaceMismatchError(
                "only single discrete actions are mixed with random ones", hint="leave out --epsilon"
            )
        space: Any = logged.spec.action_space
        taken = logged.action.reshape(len(logged.action), -1)
        if self.stochastic:
            drawn = one_hot_each(space, self._drawn(logged, draws, seed).numpy())
            log_prob = self._of_logged(logged, torch.from_numpy(taken).long())
            return [Choices(actions=part, log_prob=each) for part, each in zip(drawn, log_prob, strict=True)]
        greedy = [action.reshape(len(action), -1) for action in self._greedy(logged)]
        return [
            Choices(
                actions=one_hot_each(space, action[np.newaxis]),
                log_prob=np.where((action[logged.row] == taken).all(axis=-1), 0.0, -np.inf),
            )
            for action in greedy
        ]

    def _greedy(self, logged: EpisodeLog) -> list[NDArray[Any]]:
        policy, seeds = self.policy, self.policy.seeds
        parts = [
            policy.to_environment(policy.act(self._observe(part), carry, action_mask=mask)[0])
            for part, mask, carry in self._chunks(logged)
        ]
        return list(np.concatenate([part.reshape(seeds, -1, *part.shape[1:]) for part in parts], axis=1))

    def _chunks(self, logged: EpisodeLog) -> Iterator[tuple[Any, NDArray[np.bool_] | None, Any]]:
        """Rows [n, …] of the log in parts; what was allowed there, for every seed, [S·n, A]; what is remembered."""
        masks = itertools.repeat(None) if logged.action_mask is None else chunks(logged.action_mask)
        whole = self._remembered(logged)
        starts = itertools.count(0, ROWS_AT_ONCE)
        for start, part, mask in zip(starts, chunks(logged.observation), masks, strict=False):
            yield part, None if mask is None else self._for_all(mask), self._carry(whole, start, _length(part))

    def _for_all(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What is allowed, for every seed."""
        return np.tile(mask, (self.policy.seeds, 1))

    def _carry(self, whole: Any | None, start: int, count: int) -> Any:
        """Of what the policies remember, `count` rows, [S, count, …]; without a memory, what episodes begin with."""
        if whole is not None:
            return _part(whole, start, start + count)
        return tree_map(lambda part: part.expand(-1, count, *part.shape[2:]), self.policy.initial_carry(1))

    def _remembered(self, logged: EpisodeLog) -> Any | None:
        """What they remember before each row, [S, R + N, …]: they go through every episode greedily, step by step.

        None where greedy actions need no memory.
        """
        if not any(self.policy.changing(self._observe(take(logged.observation, np.zeros(1, np.int64))))):
            return None
        lengths = logged.lengths
        starts = np.cumsum(lengths + 1) - (lengths + 1)
        actor, rows, parts = Actor(self.policy, len(lengths)), [], []
        for time in range(int(lengths.max()) + 1):
            (running,) = np.nonzero(lengths >= time)
            rows.append(starts[running] + time)
            parts.append(_rows_of(actor.carry, torch.from_numpy(running)))
            # Episodes that are over are shown their last observation, so that all steps are alike.
            here = starts + np.minimum(lengths, time)
            mask = None if logged.action_mask is None else self._for_all(logged.action_mask[here])
            actor.act(self._observe(take(logged.observation, here)), action_mask=mask)
            earned = np.tile(self._earned(logged, time), self.policy.seeds)
            actor.stepped(earned, np.zeros(len(earned), np.bool_))
        place = torch.from_numpy(np.argsort(np.concatenate(rows)))
        return tree_map(lambda *each: torch.cat(each, dim=1)[:, place], parts[0], *parts[1:])

    def _earned(self, logged: EpisodeLog, time: int) -> NDArray[np.float64]:
        """What each episode's step earned, [N]; 0 behind its end."""
        firsts = np.cumsum(logged.lengths) - logged.lengths
        running = logged.lengths > time
        return np.where(running, logged.reward[firsts + np.where(running, time, 0)], 0.0)

    def _probabilities(self, logged: EpisodeLog) -> NDArray[np.float32]:
        """Of all discrete actions, [S, R + N, A]."""
        assert logged.actions is not None
        first = int(logged.spec.action_space.start)  # type: ignore[attr-defined]
        parts = []
        for part, mask, carry in self._chunks(logged):
            observed = self._observe(part)
            rows = rows_of(observed)
            taken = [torch.full((self.policy.seeds, rows), first + action) for action in range(logged.actions)]
            parts.append(torch.stack([self._log_prob(observed, action, carry, mask).exp() for action in taken], dim=-1))
        whole: NDArray[np.float32] = torch.cat(parts, dim=1).numpy()
        return whole

    def _continuous(self, logged: EpisodeLog, draws: int, seed: int) -> list[Choices]:
        log_prob = self._of_logged(logged, torch.from_numpy(np.ascontiguousarray(logged.agent_action)))
        return [
            Choices(actions=actions.numpy(), log_prob=each)
            for actions, each in zip(self._drawn(logged, draws, seed), log_prob, strict=True)
        ]

    def _drawn(self, logged: EpisodeLog, draws: int, seed: int) -> Tensor:
        """Actions sampled for every row, as the agents give them, [S, draws, R + N, …]."""
        noise, drawn = NoiseSource([seed] * self.policy.seeds, self.policy.device, SAMPLING_STREAM), []
        for part, _, carry in self._chunks(logged):
            observed = self._observe(part)
            shape = (rows_of(observed), *self.policy.agent.acting_noise_shape)
            actions = [self.policy.act(observed, carry, noise.draw(shape))[0] for _ in range(draws)]
            drawn.append(torch.stack(actions, dim=1).cpu())
        return torch.cat(drawn, dim=2)

    def _of_logged(self, logged: EpisodeLog, action: Tensor) -> NDArray[np.float64]:
        """log π(a | s) of the logged actions [R, A], in the environment's units, [S, R]."""
        steps, parts = take(logged.observation, logged.row), []
        remembered, rows = self._remembered(logged), torch.from_numpy(logged.row)
        before = None if remembered is None else tree_map(lambda part: part[:, rows], remembered)
        for i, (part, taken) in enumerate(zip(chunks(steps), action.split(ROWS_AT_ONCE), strict=True)):
            carry = self._carry(before, i * ROWS_AT_ONCE, len(taken))
            parts.append(self._log_prob(self._observe(part), taken.expand(self.policy.seeds, -1, -1), carry))
        whole: NDArray[np.float64] = torch.cat(parts, dim=1).double().numpy() - logged.log_volume
        return whole

    def _log_prob(
        self, observed: Observation, action: Tensor, carry: Any, mask: NDArray[np.bool_] | None = None
    ) -> Tensor:
        return self.policy.log_prob(observed, action.to(self.policy.device), carry, mask).cpu()

    def _observe(self, observation: Any) -> Observation:
        """Rows of the log, [n, …], as all seeds' agents see them, [S, n, …]."""
        policy = self.policy
        alone = not isinstance(observation, dict)
        parts = {key: self._shared(values) for key, values in ({"": observation} if alone else observation).items()}
        seen = parts if policy.normalizer is None else policy.normalizer.normalize(parts)
        seen = {key: part.float() if part.is_floating_point() else part for key, part in seen.items()}
        wide = {key: part.expand(policy.seeds, *part.shape[1:]) for key, part in seen.items()}
        return wide[""] if alone else wide

    def _shared(self, values: NDArray[Any]) -> Tensor:
        tensor: Tensor = torch.tensor(values)
        return tensor.to(self.policy.device).unsqueeze(0)


def _length(rows: Any) -> int:
    """How many rows of observations there are, [n, …] each."""
    return len(next(iter(rows.values())) if isinstance(rows, dict) else rows)


def _part(carry: Any, start: int, stop: int) -> Any:
    """Rows of what is remembered, [S, n, …]."""
    return tree_map(lambda part: part[:, start:stop], carry)


def _rows_of(carry: Any, rows: Tensor) -> Any:
    """Some rows of what is remembered, [S, n, …]."""
    return tree_map(lambda part: part[:, rows], carry)
