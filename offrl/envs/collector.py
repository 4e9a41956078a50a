"""Steps S seeds' environments, and hands what happens to whatever keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data.schema import ACTION_MASK
from offrl.envs.make import make_environments
from offrl.envs.policy import Actor, Columns, Policy, as_rows
from offrl.envs.spaces import check_spaces, spaces_of
from offrl.envs.vector import VectorStep
from offrl.replay.normalization import RewardScaler
from offrl.types import Observation

COLLECTION_STREAM = 104_729
"""Keeps collection's reset seeds apart from those of evaluation."""


@dataclass
class FinishedEpisodes:
    """Returns and lengths (steps) of the episodes that ended since the last reading, per seed."""

    returns: list[list[float]] = field(default_factory=list)
    lengths: list[list[int]] = field(default_factory=list)


class StepSink(Protocol):
    """What keeps collected steps, as agents see them. Columns map names to arrays [S·E, …].

    Among those of an observation is `action_mask`, bool [S·E, A], where the environment tells what it allows there.
    """

    def begin(self, observation: Columns) -> None:
        """Start an episode in every environment."""

    def append(
        self,
        action: NDArray[Any],
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_observation: Columns,
        reset_observation: Columns,
    ) -> None:
        """Add one step of every environment; where an episode ended, `reset_observation` starts the next one."""

    def cut(self) -> None:
        """End every running episode where it stands; `begin` follows."""


class StepRecorder(Protocol):
    """What keeps a record of collected steps, as the environments see them."""

    def begin(self, observation: Any, action_mask: NDArray[np.bool_] | None) -> None:
        """Start an episode in every environment, which shows `observation`, [S·E, …] and nested as its space is.

        And allows there what `action_mask`, bool [S·E, A], says, if it says anything.
        """

    def append(self, action: NDArray[Any], step: VectorStep) -> None:
        """Add one step of every environment."""

    def cut(self) -> None:
        """End every running episode where it stands; `begin` follows."""


def with_mask(columns: Columns, action_mask: NDArray[np.bool_] | None) -> Columns:
    """An observation's columns, and what is allowed there, where that is told."""
    return columns if action_mask is None else {**columns, ACTION_MASK: action_mask}


class Collector:
    """Online experience for S seeds, E environments each.

    Args:
        environment: a Gymnasium id.
        policy: what acts.
        sink: where steps go.
        seeds: one per seed axis entry; resets and random actions of a seed depend on its number only.
        environments: E.
        processes: how many processes step the environments.
        reward_scaler: applied to rewards on their way to the sink.
        recorder: is told of the same steps, untouched.
        horizon: steps that every episode takes, see `offrl.envs.vector.FixedHorizon`; 0 leaves episodes as they are.

    Attributes:
        observed: what to act on next, as the agent sees it: [S, E, …].
        action_mask: what is allowed there, bool [S·E, A]; None if it doesn't tell, or the agent knows no masks.
        actor: the policy, and what it remembers of the running episodes.
    """

    observed: Observation
    action_mask: NDArray[np.bool_] | None

    def __init__(
        self,
        environment: str,
        policy: Policy,
        sink: StepSink,
        seeds: list[int],
        environments: int,
        *,
        processes: int = 1,
        reward_scaler: RewardScaler | None = None,
        recorder: StepRecorder | None = None,
        horizon: int = 0,
    ) -> None:
        self.policy, self.sink, self.seeds, self.per_seed = policy, sink, seeds, environments
        self.recorder = recorder
        self.actor = Actor(policy, environments)
        self.reward_scaler = reward_scaler or RewardScaler()
        count = len(seeds) * environments
        self.environments = make_environments(environment, count, processes, policy.frame_stack, horizon)
        check_spaces(policy.agent.spec, spaces_of(self.environments), environment)
        self._forget_finished()

    def restart(self, step: int) -> None:
        """Reset every environment with a seed that depends on the seed's number and `step` alone.

        Gymnasium can't save an environment's state. Cutting the running episodes at every checkpoint, and going on from
        a reset that only depends on the step, is what makes a resumed run equal one that was never stopped.
        """
        self.sink.cut()
        sequences = [np.random.SeedSequence([COLLECTION_STREAM, seed, step]) for seed in self.seeds]
        reset_seeds = np.concatenate([sequence.generate_state(self.per_seed) for sequence in sequences])
        shown, mask = self.environments.reset(reset_seeds.tolist())
        self.action_mask = mask if self.policy.masks else None
        if self.recorder is not None:
            self.recorder.cut()
            self.recorder.begin(shown, self.action_mask)
        columns = self.policy.columns(shown)
        self.observed = self.policy.to_agent(columns)
        self.actor.restart()
        self.running_return = np.zeros(len(reset_seeds))
        self.running_length = np.zeros(len(reset_seeds), np.int64)
        self.sink.begin(with_mask(columns, self.action_mask))

    def act(self, noise: Tensor) -> Tensor:
        """What the policy does in every environment, exploring with its draws [S, E, …]; to be handed to `step`."""
        return self.actor.act(self.observed, noise, self.action_mask)

    def step(self, action: Tensor) -> None:
        """One step of every environment with the agent's actions [S, E, …]."""
        chosen = as_rows(action)
        taken = self.policy.in_units(chosen)
        step = self.environments.step(taken)
        if step.action_mask is not None and not self.policy.masks:
            step = step._replace(next_action_mask=None, action_mask=None)
        self.action_mask = step.action_mask
        if self.recorder is not None:
            self.recorder.append(taken, step)
        columns = self.policy.columns(step.observation)
        self.observed = self.policy.to_agent(columns)
        shown = with_mask(columns, step.action_mask)
        ended = step.observation is not step.next_observation
        self.sink.append(
            action=chosen,
            reward=self.reward_scaler(step.reward),
            terminated=step.terminated,
            truncated=step.truncated,
            next_observation=with_mask(self.policy.columns(step.next_observation), step.next_action_mask)
            if ended
            else shown,
            reset_observation=shown,
        )
        self.running_return += step.reward
        self.running_length += 1
        done = step.terminated | step.truncated
        self.actor.stepped(step.reward, done)
        if ended:
            self._keep_scores(done)

    def finished(self) -> FinishedEpisodes:
        """The episodes that ended since the last call."""
        finished = self._finished
        self._forget_finished()
        return finished

    def named_tensors(self) -> dict[str, Tensor]:
        """Of the episodes that ended since the last reading, for a checkpoint between two."""
        kinds: dict[str, Sequence[Sequence[float]]] = {
            "returns": self._finished.returns,
            "lengths": self._finished.lengths,
        }
        return {
            f"{kind}.{seed}": torch.tensor(values, dtype=torch.float64)
            for kind, per_seed in kinds.items()
            for seed, values in enumerate(per_seed)
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on with the episodes of `named_tensors`; checkpoints of earlier versions have none."""
        self._forget_finished()
        if "returns.0" in tensors:
            for seed in range(len(self.seeds)):
                self._finished.returns[seed] = numbers_in(tensors[f"returns.{seed}"])
                self._finished.lengths[seed] = numbers_in(tensors[f"lengths.{seed}"].long())

    def close(self) -> None:
        self.environments.close()

    def _keep_scores(self, done: NDArray[np.bool_]) -> None:
        for stream in np.flatnonzero(done):
            seed = stream // self.per_seed
            self._finished.returns[seed].append(float(self.running_return[stream]))
            self._finished.lengths[seed].append(int(self.running_length[stream]))
        self.running_return[done] = 0.0
        self.running_length[done] = 0

    def _forget_finished(self) -> None:
        self._finished = FinishedEpisodes([[] for _ in self.seeds], [[] for _ in self.seeds])


def numbers_in(saved: Tensor) -> list[Any]:
    """The numbers of a list that a checkpoint holds; raises `ValueError` where it is no list."""
    if saved.dim() != 1:
        raise ValueError(f"a tensor has the shape {tuple(saved.shape)}, and should be a list of numbers")
    numbers: list[Any] = saved.tolist()
    return numbers
