"""Copies of an environment, stepped in turn. Imports no PyTorch, so that processes that only step start quickly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector.utils import concatenate, create_empty_array
from numpy.typing import NDArray

from offrl.errors import EnvironmentFailedError
from offrl.trust import make

ACTION_MASK = "action_mask"
"""Among an environment's infos, as Gymnasium's own have it: which of its Discrete actions are allowed."""


class VectorStep(NamedTuple):
    """One step of N copies, each reset within the step that ended its episode.

    Attributes:
        next_observation: what the copies showed at the end of the step, before any reset; [N, …], nested as the space.
        reward: float64 [N].
        terminated, truncated: bool [N].
        observation: what to act on next; the very object `next_observation` where no episode ended.
        next_action_mask, action_mask: bool [N, A]; what is allowed in each; None where the environment tells of none.
    """

    next_observation: Any
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    observation: Any
    next_action_mask: NDArray[np.bool_] | None = None
    action_mask: NDArray[np.bool_] | None = None


class SerialEnvironments:
    """N copies of one environment in this process.

    Gymnasium's own vector environments also gather infos and copy observations, which takes longer than a step of
    CartPole does.

    Args:
        environment: a Gymnasium id, or what Gymnasium remembers of one.
        count: N.
        frame_stack: newest observations that are shown together; 1 shows each by itself.
        horizon: steps that every episode takes, see `FixedHorizon`; 0 leaves episodes as they are.
    """

    def __init__(self, environment: str | EnvSpec, count: int, frame_stack: int = 1, horizon: int = 0) -> None:
        self.copies = [make_single(environment, frame_stack) for _ in range(count)]
        if horizon:
            self.copies = [FixedHorizon(copy, horizon) for copy in self.copies]
        self.single_observation_space = self.copies[0].observation_space
        self.single_action_space = self.copies[0].action_space
        self._tells_masks = False

    @property
    def count(self) -> int:
        return len(self.copies)

    def reset(self, seeds: Sequence[int]) -> tuple[Any, NDArray[np.bool_] | None]:
        """Start an episode in each copy, from a seed of its own.

        Returns:
            the first observations, [N, …], and the actions allowed there, bool [N, A]; None if it tells of none.

        Raises:
            EnvironmentFailedError: none is allowed, or the mask is of other actions than there are.
        """
        starts = [copy.reset(seed=int(seed)) for copy, seed in zip(self.copies, seeds, strict=True)]
        infos = [info for _, info in starts]
        self._tells_masks = tells_masks(self.single_action_space, infos)
        mask = self._masks(infos)
        _require_actions(mask)
        return stack(self.single_observation_space, [shown for shown, _ in starts]), mask

    def step(self, action: NDArray[Any]) -> VectorStep:
        """One step of every copy, with actions [N, …].

        Raises:
            EnvironmentFailedError: a reward isn't finite, no action is allowed where an episode goes on, or a mask is
                of other actions.
        """
        reward = np.empty(len(self.copies))
        terminated, truncated = np.zeros(len(self.copies), np.bool_), np.zeros(len(self.copies), np.bool_)
        following, infos, ended = [], [], []
        for i, copy in enumerate(self.copies):
            shown, earned, over, cut, info = copy.step(action[i])
            reward[i] = earned
            if not math.isfinite(reward[i]):
                raise EnvironmentFailedError(
                    f"the environment returned the reward {earned}", hint="repair the environment"
                )
            following.append(shown)
            infos.append(info)
            if over or cut:
                terminated[i], truncated[i] = over, cut
                ended.append(i)
        next_observation = stack(self.single_observation_space, following)
        observation = next_observation
        mask = next_mask = self._masks(infos)
        if ended:
            for i in ended:
                following[i], infos[i] = self.copies[i].reset()
            observation, mask = stack(self.single_observation_space, following), self._masks(infos)
        _require_actions(mask)
        return VectorStep(next_observation, reward, terminated, truncated, observation, next_mask, mask)

    def close(self) -> None:
        for copy in self.copies:
            copy.close()

    def _masks(self, infos: Sequence[dict[str, Any]]) -> NDArray[np.bool_] | None:
        return masks_told(self.single_action_space, infos) if self._tells_masks else None


def _require_actions(mask: NDArray[np.bool_] | None) -> None:
    if mask is not None and not mask.any(axis=-1).all():
        raise EnvironmentFailedError(
            "the environment's action mask forbids every action, and its episode goes on",
            hint="end the episode there, or allow an action",
        )


class FixedHorizon(gym.Wrapper[Any, Any, Any, Any]):
    """Episodes of one length: where the environment's own ends, it starts anew without telling.

    Args:
        env: the environment; its own time limit, if it has one, restarts it as well.
        horizon: steps after which an episode is truncated.
    """

    def __init__(self, env: gym.Env[Any, Any], horizon: int) -> None:
        super().__init__(env)
        self.horizon, self.taken = horizon, 0

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        self.taken = 0
        return self.env.reset(**options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step; only the horizon ends the episode."""
        shown, reward, terminated, truncated, info = self.env.step(action)
        self.taken += 1
        over = self.taken == self.horizon
        if (terminated or truncated) and not over:
            shown, info = self.env.reset()
        return shown, reward, False, over, info


def tells_masks(space: gym.Space[Any], infos: Sequence[dict[str, Any]]) -> bool:
    """Whether copies with these infos say which of their actions are allowed, and do so of Discrete ones."""
    return isinstance(space, gym.spaces.Discrete) and any(ACTION_MASK in info for info in infos)


def masks_told(space: Any, infos: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
    """Which Discrete actions each copy allows, [N, A]; all of them where its info doesn't say.

    Raises:
        EnvironmentFailedError: a mask is of other actions than there are.
    """
    masks = [np.asarray(info.get(ACTION_MASK, np.ones(space.n)), np.bool_) for info in infos]
    if any(mask.shape != (space.n,) for mask in masks):
        raise EnvironmentFailedError(
            f"the environment's action mask is not of its {space.n} actions",
            hint="give one value for each action, or leave the mask out of the infos",
        )
    return np.stack(masks)


def make_single(environment: str | EnvSpec, frame_stack: int, **options: Any) -> gym.Env[Any, Any]:
    """One copy; `options` are Gymnasium's."""
    copy = make(environment, **options)
    return copy if frame_stack == 1 else gym.wrappers.FrameStackObservation(copy, frame_stack)


def stack(space: gym.Space[Any], observations: Sequence[Any]) -> Any:
    """Observations of single copies as one of all, [N, …], nested as the space is."""
    if isinstance(space, gym.spaces.Box):
        stacked = np.empty((len(observations), *space.shape), space.dtype)
        for i, observation in enumerate(observations):
            stacked[i] = observation
        return stacked
    return concatenate(space, observations, create_empty_array(space, len(observations)))  # type: ignore[arg-type]
