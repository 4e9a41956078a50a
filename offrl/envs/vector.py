"""Copies of an environment, stepped in turn. Imports no PyTorch, so that processes that only step start quickly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from offrl.envs.handed_over import CheckedEnvironment, HandedOver
from offrl.envs.spaces import require_acted_in
from offrl.errors import EnvironmentFailedError
from offrl.trust import make
from offrl.types import Spec

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
        max_episode_steps: the time limit; 0 for the environment's own, if it has one.

    Attributes:
        name: of the environment.
        limited: whether something ends every episode.

    Raises:
        SpaceMismatchError: nothing is known of such observations, or such actions.
    """

    def __init__(
        self,
        environment: str | EnvSpec,
        count: int,
        frame_stack: int = 1,
        horizon: int = 0,
        max_episode_steps: int = 0,
    ) -> None:
        self.name = name_of(environment)
        self.copies = [make_single(environment, frame_stack, max_episode_steps) for _ in range(count)]
        spec = self.copies[0].spec
        self.limited = bool(horizon or max_episode_steps or (spec is not None and spec.max_episode_steps))
        if horizon:
            self.copies = [FixedHorizon(copy, horizon) for copy in self.copies]
        self.single_observation_space = self.copies[0].observation_space
        self.single_action_space = self.copies[0].action_space
        require_acted_in(Spec(self.single_observation_space, self.single_action_space), self.name)
        self.handed = HandedOver(self.name, self.single_observation_space, count)
        self._tells_masks = False

    @property
    def count(self) -> int:
        return len(self.copies)

    def reset(self, seeds: Sequence[int]) -> tuple[Any, NDArray[np.bool_] | None]:
        """Start an episode in each copy, from a seed of its own.

        Returns:
            the first observations, [N, …], and the actions allowed there, bool [N, A]; None if it tells of none.

        Raises:
            EnvironmentFailedError: a copy failed, or gave something else than its spaces promise; no action is allowed,
                or the mask is of other actions than there are.
        """
        starts = self.handed.reset(self.copies, range(self.count), seed=[int(seed) for seed in seeds])
        infos = [info for _, info in starts]
        self._tells_masks = tells_masks(self.single_action_space, infos)
        mask = self._masks(infos)
        _require_actions(mask)
        return self.handed.stacked([shown for shown, _ in starts]), mask

    def step(self, action: NDArray[Any]) -> VectorStep:
        """One step of every copy, with actions [N, …].

        Raises:
            EnvironmentFailedError: a copy failed, or gave something else than its spaces promise; no action is allowed
                where an episode goes on, or a mask is of other actions.
        """
        handed = self.handed
        following, reward, terminated, truncated, infos, ended = handed.step(self.copies, action)
        next_observation = handed.stacked(following)
        observation = next_observation
        mask = next_mask = self._masks(infos)
        if ended:
            for i, (shown, info) in zip(ended, handed.reset(self.copies, ended), strict=True):
                following[i], infos[i] = shown, info
            observation, mask = handed.stacked(following), self._masks(infos)
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


def make_single(
    environment: str | EnvSpec, frame_stack: int, max_episode_steps: int = 0, **options: Any
) -> gym.Env[Any, Any]:
    """One copy.

    Args:
        environment: a Gymnasium id, or what Gymnasium remembers of one.
        frame_stack: newest observations that are shown together; 1 shows each by itself.
        max_episode_steps: the time limit; 0 for the environment's own, if it has one.
        options: Gymnasium's.
    """
    if max_episode_steps:
        options["max_episode_steps"] = max_episode_steps
    copy = make(environment, **options)
    if frame_stack == 1:
        return copy
    # Gymnasium's stack broadcasts: what goes into it is looked at before.
    return gym.wrappers.FrameStackObservation(CheckedEnvironment(copy, name_of(environment)), frame_stack)


def name_of(environment: str | EnvSpec) -> str:
    """What messages call it."""
    return environment if isinstance(environment, str) else environment.id
