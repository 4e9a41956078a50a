"""Steps S seeds' environments and writes what happens into a ring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from offrl.data.ring import OnlineRing
from offrl.data.schema import OBSERVATION
from offrl.envs.make import final_observation, make_environments
from offrl.envs.policy import Policy
from offrl.envs.spaces import check_spaces, spaces_of

COLLECTION_STREAM = 104_729
"""Keeps collection's reset seeds apart from those of evaluation."""


@dataclass
class FinishedEpisodes:
    """Returns and lengths (steps) of the episodes that ended since the last reading, per seed."""

    returns: list[list[float]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)


class Collector:
    """Online experience for S seeds, E environments each.

    Args:
        environment: a Gymnasium id.
        policy: what acts.
        ring: where steps go.
        seeds: one per seed axis entry; resets and random actions of a seed depend on its number only.
        environments: E.
    """

    def __init__(self, environment: str, policy: Policy, ring: OnlineRing, seeds: list[int], environments: int) -> None:
        self.policy, self.ring, self.seeds, self.per_seed = policy, ring, seeds, environments
        self.environments = make_environments(environment, len(seeds) * environments)
        check_spaces(policy.agent.spec, spaces_of(self.environments), environment)
        self._forget_finished()
        self.observation: Any = None

    def restart(self, step: int) -> None:
        """Reset every environment with a seed that depends on the seed's number and `step` alone.

        Gymnasium can't save an environment's state. Cutting the running episodes at every checkpoint, and going on from
        a reset that only depends on the step, is what makes a resumed run equal one that was never stopped.
        """
        self.ring.cut()
        sequences = [np.random.SeedSequence([COLLECTION_STREAM, seed, step]) for seed in self.seeds]
        reset_seeds = np.concatenate([sequence.generate_state(self.per_seed) for sequence in sequences])
        self.observation, _ = self.environments.reset(seed=reset_seeds.tolist())
        self.running_return = np.zeros(len(reset_seeds))
        self.running_length = np.zeros(len(reset_seeds), np.int64)
        self.ring.begin(self._columns(self.observation))

    def step(self, action: Tensor) -> None:
        """One step of every environment with the agent's actions [S, E, A] in [-1, 1]."""
        observation, reward, terminated, truncated, infos = self.environments.step(self.policy.to_environment(action))
        self.ring.append(
            action=action.flatten(0, 1).cpu().numpy(),
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            next_observation=self._columns(final_observation(observation, infos)),
            reset_observation=self._columns(observation),
        )
        self.observation = observation
        self._keep_score(reward, terminated | truncated)

    def finished(self) -> FinishedEpisodes:
        """The episodes that ended since the last call."""
        finished = self._finished
        self._forget_finished()
        return finished

    def close(self) -> None:
        self.environments.close()

    def _keep_score(self, reward: Any, done: Any) -> None:
        self.running_return += reward
        self.running_length += 1
        for stream in np.nonzero(done)[0]:
            seed = stream // self.per_seed
            self._finished.returns[seed].append(float(self.running_return[stream]))
            self._finished.lengths[seed].append(int(self.running_length[stream]))
        self.running_return[done] = 0.0
        self.running_length[done] = 0

    def _forget_finished(self) -> None:
        self._finished = FinishedEpisodes([[] for _ in self.seeds], [[] for _ in self.seeds])

    def _columns(self, observation: Any) -> dict[str, NDArray[Any]]:
        """A vector environment's observation as the ring's columns, normalised."""
        observed = self.policy.observe(observation)
        parts = {OBSERVATION: observed} if isinstance(observed, Tensor) else _prefixed(observed)
        return {name: part.flatten(0, 1).cpu().numpy() for name, part in parts.items()}


def _prefixed(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{OBSERVATION}.{key}": part for key, part in parts.items()}
