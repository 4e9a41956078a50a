"""A log as estimators read it: whole episodes, what was done in them, and how probable two policies made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from offrl.errors import RequestError
from offrl.off_policy.choices import Choices
from offrl.off_policy.features import Observations, fitted_action, flat_features, one_hot_each
from offrl.off_policy.log_checks import BY_EPISODE, BY_STEP, check_final_values, check_shapes, check_values
from offrl.replay.normalization import ActionMap
from offrl.types import Spec

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class EpisodeLog:
    """N whole episodes of R steps in all, no padding: what was logged, and what is known of a policy to be valued.

    The value asked for is the expectation of Σ_{t < horizon} γ^t r_t when the target policy acts. Behind the end of a
    terminated episode, and behind the horizon, there is nothing to earn. Whoever takes a time limit for a part of the
    task gives it as `horizon`; an episode that was truncated before the horizon would have gone on: values (`v_final`)
    can stand for the rest of it, importance sampling can't.

    Arrays suffice for importance sampling and for given values. A dataset's log (`offrl.off_policy.read_log.read_log`)
    holds what was seen and done too: R + N rows of observations, the last of each episode behind its last step, as
    `spaces`, `observations` and `taken`, which are read as `spec`, `observation` and `action`.

    Attributes:
        reward: float64 [R], finite.
        behavior_log_prob: float64 [R], in nats and the environment's action units, of the logged action under the
            policy that acted; > -inf. None where it isn't known.
        target_log_prob: float64 [R], likewise under the target policy; -inf where it never takes that action. None
            without a target policy, or where it has no density.
        offsets: int64 [N + 1]; episode i has the steps offsets[i] … offsets[i + 1] - 1, at least one.
        terminated, truncated: bool [N]; how each episode ended. One that is neither counts as truncated.
        discount: γ, in [0, 1].
        horizon: steps that count; longer episodes are cut to it here. None counts all.
        q: float64 [R]; the target policy's value Q̂(s_t, a_t) of the logged action. Needs `v`.
        v: float64 [R]; V̂(s_t), the expectation of Q̂(s_t, ·) under the target policy.
        v_final: float64 [N]; V̂ of the state behind the last step; set to 0 here behind a termination and the horizon.
            May be left out where every episode ends in one of the two.
        density: whether the log-probabilities are of densities (continuous actions), which may exceed 0; where `spaces`
            are given, they say.
        choices: what the target policy does at all rows.
        spaces: of observations and actions.
        observations: [R + N, …].
        taken: [R, …]; the actions, in the environment's units and numbers.
        action_mask: bool [R + N, A]; the discrete actions that were allowed: all, where none was logged.
        columns: further columns by name, [R, …] or, of those that have one, with the row of the last observation,
            [R + N, …].
        name: what people call the log.

    Raises:
        DataError: a value is NaN, infinite, or not a log-probability; an episode has no steps; observations and actions
            don't belong to the steps.
        RequestError: shapes, discount or horizon don't fit, or values are there in part only.
    """

    reward: Array
    behavior_log_prob: Array | None
    target_log_prob: Array | None
    offsets: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    discount: float = 1.0
    horizon: int | None = None
    q: Array | None = None
    v: Array | None = None
    v_final: Array | None = None
    density: bool = False
    choices: Choices | None = None
    spaces: Spec | None = None
    observations: Observations | None = None
    taken: NDArray[Any] | None = None
    action_mask: NDArray[np.bool_] | None = None
    columns: Mapping[str, NDArray[Any]] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        kinds: dict[str, Any] = {"offsets": np.int64, "terminated": np.bool_, "truncated": np.bool_}
        for name in ("offsets", *BY_STEP, *BY_EPISODE):
            value = vars(self)[name]
            if value is not None:
                self._set(name, np.ascontiguousarray(value, dtype=kinds.get(name, np.float64)))
        if self.spaces is not None:
            self._set("density", self.spaces.is_continuous)
        check_shapes(self)
        check_values(self)
        self._cut_to_horizon()
        self._settle_final_values()

    @classmethod
    def one_step(
        cls,
        reward: ArrayLike,
        behavior_log_prob: ArrayLike,
        target_log_prob: ArrayLike,
        *,
        q: ArrayLike | None = None,
        v: ArrayLike | None = None,
        density: bool = False,
    ) -> EpisodeLog:
        """A log of R decisions that don't follow from each other: a contextual bandit's.

        Args:
            reward, behavior_log_prob, target_log_prob, q, v, density: as of the class.
        """
        ended = np.ones(np.shape(reward), dtype=bool)
        return cls(
            np.asarray(reward, dtype=np.float64),
            np.asarray(behavior_log_prob, dtype=np.float64),
            np.asarray(target_log_prob, dtype=np.float64),
            np.arange(ended.size + 1),
            ended,
            np.zeros_like(ended),
            q=None if q is None else np.asarray(q, dtype=np.float64),
            v=None if v is None else np.asarray(v, dtype=np.float64),
            density=density,
        )

    def towards(self, choices: Choices, **changes: Any) -> EpisodeLog:
        """The same log as a policy is valued from it.

        Args:
            choices: what the policy does at its rows.
            changes: other attributes, by name: the discount, the horizon, fitted values.
        """
        return replace(self, choices=choices, **{"target_log_prob": choices.log_prob, **changes})

    @property
    def steps(self) -> int:
        """R, of all episodes."""
        return len(self.reward)

    @property
    def episodes(self) -> int:
        """N."""
        return len(self.lengths)

    @property
    def rows(self) -> int:
        """R + N: a row for each observation."""
        return self.steps + self.episodes

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode, int64 [N]."""
        return np.diff(self.offsets)

    @cached_property
    def episode(self) -> NDArray[np.int64]:
        """Each step's episode, int64 [R]."""
        return np.repeat(np.arange(self.episodes), self.lengths)

    @cached_property
    def step(self) -> NDArray[np.int64]:
        """Each step's time within its episode, int64 [R], from 0."""
        return np.arange(self.steps) - self.offsets[self.episode]

    @cached_property
    def row(self) -> NDArray[np.int64]:
        """The row of each step's observation, int64 [R]; what it led to is in the next one."""
        return np.arange(self.steps) + self.episode

    @property
    def first_row(self) -> NDArray[np.int64]:
        """The row of each episode's first observation, int64 [N]."""
        return self.offsets[:-1] + np.arange(self.episodes)

    @property
    def final_row(self) -> NDArray[np.int64]:
        """The row of each episode's last observation, int64 [N]."""
        return self.first_row + self.lengths

    @property
    def time(self) -> NDArray[np.int64]:
        """Each row's time within its episode, int64 [R + N], from 0."""
        return np.arange(self.rows) - np.repeat(self.first_row, self.lengths + 1)

    @property
    def continues(self) -> NDArray[np.bool_]:
        """Whether anything follows a step, bool [R]: a termination ends an episode, a truncation only its log."""
        following = np.ones(self.steps, dtype=bool)
        following[self.offsets[1:] - 1] = ~self.terminated
        return following

    @property
    def equal_lengths(self) -> bool:
        """Whether all episodes have as many steps, so that step values [R] are a matrix [N, T]."""
        return int(self.lengths.max()) * self.episodes == self.steps

    @property
    def is_one_step(self) -> bool:
        """Whether every episode is a single decision."""
        return self.steps == self.episodes

    @cached_property
    def longest_first(self) -> NDArray[np.int64]:
        """The episodes by falling length, int64 [N]."""
        return np.argsort(-self.lengths, kind="stable")

    @cached_property
    def broken_off(self) -> NDArray[np.bool_]:
        """Which episodes were truncated before the horizon and would have gone on, bool [N]."""
        ended = self.terminated if self.horizon is None else self.terminated | (self.lengths >= self.horizon)
        return ~ended

    @property
    def log_ratio(self) -> Array:
        """log π(a | s) / μ(a | s) of each step, [R], -inf where the target never does what was done; a new array.

        Raises:
            RequestError: one of the two isn't known.
        """
        if self.behavior_log_prob is None or self.target_log_prob is None:
            lacks = "behavior" if self.behavior_log_prob is None else "target"
            raise RequestError(
                f"the log doesn't say how probable its actions are under the {lacks} policy",
                where=f"{lacks}_log_prob",
                hint="give their log-probabilities, or ask for estimators that need none",
            )
        return np.asarray((tensor(self.target_log_prob) - tensor(self.behavior_log_prob)).numpy())

    def discounted(self, values: Array) -> Array:
        """γ^t times the value of each step, [R]."""
        powers: Array = self.discount ** np.arange(int(self.lengths.max()), dtype=np.float64)
        if self.equal_lengths:
            return np.asarray((tensor(values).view(self.episodes, -1) * tensor(powers)).view(-1).numpy())
        return np.asarray(values * powers[self.step])

    @cached_property
    def discounted_reward(self) -> Array:
        """γ^t r_t of each step, [R]."""
        return self.discounted(self.reward)

    @cached_property
    def returns(self) -> Array:
        """Σ_t γ^t r_t of each episode as it was logged, [N]."""
        if self.equal_lengths:
            return np.asarray(tensor(self.discounted_reward).view(self.episodes, -1).sum(dim=1).numpy())
        return np.asarray(np.add.reduceat(self.discounted_reward, self.offsets[:-1]))

    @property
    def spec(self) -> Spec:
        """The spaces; raises RequestError where the log is of bare arrays, as `observation` and `action` do."""
        if self.spaces is None:
            raise _bare("spaces")
        return self.spaces

    @property
    def observation(self) -> Observations:
        """What was seen, [R + N, …]."""
        if self.observations is None:
            raise _bare("observations")
        return self.observations

    @property
    def action(self) -> NDArray[Any]:
        """What was done, [R, …]."""
        if self.taken is None:
            raise _bare("actions")
        return self.taken

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """Observations as vectors on a common scale, float32 [R + N, F]; see `flat_features`."""
        return flat_features(self.spec.observation_space, self.observation, self.row)

    @cached_property
    def agent_action(self) -> NDArray[Any]:
        """Actions as densities are fitted to: int64 [R] from 0, or float32 [R, A] in [-1, 1]; see `fitted_action`."""
        return fitted_action(self.spec.action_space, self.action, self.name)

    @cached_property
    def valued_action(self) -> NDArray[Any]:
        """Actions as values are fitted to: as densities are, or float32 [R, A] of 0 and 1 for a MultiDiscrete."""
        space = self.spec.action_space
        if isinstance(space, gym.spaces.MultiDiscrete):
            return one_hot_each(space, self.action.reshape(len(self.action), -1))
        return self.agent_action

    @property
    def valued_actions(self) -> int | None:
        """How many actions values are fitted to, one by one; None where these are vectors."""
        space = self.spec.action_space
        return int(space.n) if isinstance(space, gym.spaces.Discrete) else None

    @property
    def actions(self) -> int | None:
        """How many discrete actions there are; None for a Box."""
        return None if self.spec.is_continuous else self.spec.action_dim

    @cached_property
    def action_map(self) -> ActionMap:
        """From the environment's bounds to [-1, 1], for a Box."""
        space = self.spec.action_space
        assert isinstance(space, gym.spaces.Box)
        return ActionMap.from_space(space)

    @property
    def log_volume(self) -> float:
        """What a log-density in the environment's units has less than that of the action mapped to [-1, 1]."""
        return self.action_map.log_volume if self.spec.is_continuous else 0.0

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _cut_to_horizon(self) -> None:
        if self.horizon is None or int(self.lengths.max()) <= self.horizon:
            return
        kept, seen = self.step < self.horizon, self.time <= self.horizon
        longer, rows = self.lengths > self.horizon, self.rows

        def cut(values: NDArray[Any]) -> NDArray[Any]:
            return values[seen if len(values) == rows else kept]

        for name in (*BY_STEP, "taken", "action_mask"):
            if vars(self)[name] is not None:
                self._set(name, cut(vars(self)[name]))
        for name in ("observations", "columns"):
            parts = vars(self)[name]
            if parts is not None:
                whole = isinstance(parts, Mapping)
                self._set(name, {key: cut(part) for key, part in parts.items()} if whole else cut(parts))
        if self.choices is not None:
            self._set("choices", self.choices.at(seen, kept))
        self._set("offsets", np.append(0, np.cumsum(np.minimum(self.lengths, self.horizon))))
        self._set("terminated", self.terminated & ~longer)
        self._set("truncated", self.truncated & ~longer)
        for derived in ("lengths", "episode", "step"):
            self.__dict__.pop(derived, None)

    def _settle_final_values(self) -> None:
        if self.v is None:
            return
        check_final_values(self)
        final = np.zeros(self.episodes) if self.v_final is None else self.v_final
        self._set("v_final", np.where(self.broken_off, final, 0.0))


def tensor(values: NDArray[Any]) -> Tensor:
    """The same memory for PyTorch, which works on several cores; a copy where it may not be written to."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _bare(what: str) -> RequestError:
    return RequestError(f"the log holds no {what}, only arrays to weigh", hint="read one from a dataset")
