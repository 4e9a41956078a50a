"""What estimators read: the rewards and log-probabilities of whole episodes, as flat rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from offrl.errors import DataError, RequestError

Array = NDArray[np.float64]

PROBABILITY_SLACK = 1e-6
"""How far above 0 a float32 log-probability of 1 may come out."""
_ROWS = ("reward", "behavior_log_prob", "target_log_prob", "q", "v")
_EPISODES = ("offsets", "terminated", "truncated", "v_final")


@dataclass(frozen=True, eq=False)
class EpisodeLog:
    """N whole episodes of R steps in all, and what the target policy would have done at each; R rows, no padding.

    The value asked for is the expectation of Σ_{t < horizon} γ^t r_t when the target policy acts. Behind the end of a
    terminated episode, and behind the horizon, there is nothing to earn. Whoever takes a time limit for a part of the
    task gives it as `horizon`; an episode that was truncated before the horizon would have gone on: values (`v_final`)
    can stand for the rest of it, importance sampling can't.

    Attributes:
        reward: float64 [R], finite.
        behavior_log_prob: float64 [R], in nats, of the logged action under the policy that acted; > -inf.
        target_log_prob: float64 [R], likewise under the target policy; -inf where it never takes that action.
        offsets: int64 [N + 1]; episode i has the rows offsets[i] … offsets[i + 1] - 1, at least one.
        terminated, truncated: bool [N]; how each episode ended. One that is neither counts as truncated.
        discount: γ, in [0, 1].
        horizon: steps that count; longer episodes are cut to it here. None counts all.
        q: float64 [R]; the target policy's value Q̂(s_t, a_t) of the logged action. Needs `v`.
        v: float64 [R]; V̂(s_t), the expectation of Q̂(s_t, ·) under the target policy.
        v_final: float64 [N]; V̂ of the state behind the last row; set to 0 here behind a termination and the horizon.
            May be left out where every episode ends in one of the two.
        density: whether the log-probabilities are of densities (continuous actions), which may exceed 0.

    Raises:
        DataError: a value is NaN, infinite, or not a log-probability; an episode has no rows.
        RequestError: shapes, discount or horizon don't fit, or values are there in part only.
    """

    reward: Array
    behavior_log_prob: Array
    target_log_prob: Array
    offsets: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    discount: float
    horizon: int | None = None
    q: Array | None = None
    v: Array | None = None
    v_final: Array | None = None
    density: bool = False

    def __post_init__(self) -> None:
        self._convert()
        self._check_shapes()
        self._check_values()
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
            1.0,
            q=None if q is None else np.asarray(q, dtype=np.float64),
            v=None if v is None else np.asarray(v, dtype=np.float64),
            density=density,
        )

    @property
    def rows(self) -> int:
        """R, steps in all."""
        return len(self.reward)

    @property
    def episodes(self) -> int:
        """N."""
        return len(self.lengths)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Steps of each episode, int64 [N]."""
        return np.diff(self.offsets)

    @cached_property
    def episode(self) -> NDArray[np.int64]:
        """Each row's episode, int64 [R]."""
        return np.repeat(np.arange(self.episodes), self.lengths)

    @cached_property
    def step(self) -> NDArray[np.int64]:
        """Each row's time within its episode, int64 [R], from 0."""
        return np.arange(self.rows) - self.offsets[self.episode]

    @property
    def equal_lengths(self) -> bool:
        """Whether all episodes have as many steps, so that row values [R] are a matrix [N, T]."""
        return int(self.lengths.max()) * self.episodes == self.rows

    def discounted(self, values: Array) -> Array:
        """γ^t times the value of each row, [R]."""
        powers: Array = self.discount ** np.arange(int(self.lengths.max()), dtype=np.float64)
        if self.equal_lengths:
            return np.asarray((tensor(values).view(self.episodes, -1) * tensor(powers)).view(-1).numpy())
        return np.asarray(values * powers[self.step])

    @cached_property
    def discounted_reward(self) -> Array:
        """γ^t r_t of each row, [R]."""
        return self.discounted(self.reward)

    @cached_property
    def returns(self) -> Array:
        """Σ_t γ^t r_t of each episode as it was logged, [N]."""
        if self.equal_lengths:
            return np.asarray(tensor(self.discounted_reward).view(self.episodes, -1).sum(dim=1).numpy())
        return np.asarray(np.add.reduceat(self.discounted_reward, self.offsets[:-1]))

    @cached_property
    def longest_first(self) -> NDArray[np.int64]:
        """The episodes by falling length, int64 [N]."""
        return np.argsort(-self.lengths, kind="stable")

    @property
    def is_one_step(self) -> bool:
        """Whether every episode is a single decision."""
        return self.rows == self.episodes

    @cached_property
    def broken_off(self) -> NDArray[np.bool_]:
        """Which episodes were truncated before the horizon and would have gone on, bool [N]."""
        ended = self.terminated if self.horizon is None else self.terminated | (self.lengths >= self.horizon)
        return ~ended

    def _convert(self) -> None:
        kinds: dict[str, Any] = {"offsets": np.int64, "terminated": np.bool_, "truncated": np.bool_}
        for name in (*_ROWS, *_EPISODES):
            value = getattr(self, name)
            if value is not None:
                self._set(name, np.ascontiguousarray(value, dtype=kinds.get(name, np.float64)))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _check_shapes(self) -> None:
        if not 0.0 <= self.discount <= 1.0:
            raise RequestError(f"the discount is {self.discount}", hint="give one between 0 and 1")
        if self.horizon is not None and self.horizon < 1:
            raise RequestError(f"the horizon is {self.horizon} steps", hint="give at least 1, or none for no limit")
        if self.offsets.ndim != 1 or len(self.offsets) < 2:
            raise DataError("the log holds no episode", hint="give at least one")
        if self.offsets[0] != 0 or (np.diff(self.offsets) < 1).any():
            bad = 0 if self.offsets[0] else int(np.argmax(np.diff(self.offsets) < 1))
            raise DataError(
                f"episode {bad} has no rows", where="offsets", hint="leave empty episodes out; offsets begin with 0"
            )
        for names, count, what in ((_ROWS, int(self.offsets[-1]), "row"), (_EPISODES[1:], self.episodes, "episode")):
            for name in names:
                value = getattr(self, name)
                if value is not None and value.shape != (count,):
                    raise RequestError(
                        f"{name} has the shape {value.shape}, and there are {count} {what}s",
                        where=name,
                        hint=f"give one value for each {what}",
                    )
        if self.v is None and (self.q is not None or self.v_final is not None):
            raise RequestError(
                "action values or final values are there without the state values v",
                where="v",
                hint="give v, the expectation of Q̂ under the target policy, with them",
            )

    def _check_values(self) -> None:
        # The extremes say whether anything is wrong, NaN included, with fewer passes than it takes to say what.
        for name in ("reward", "q", "v", "v_final"):
            values = getattr(self, name)
            if values is not None and not np.isfinite(_extremes(values)).all():
                self._refuse(name, ~np.isfinite(values), "NaN or infinite", "check what it came from")
        behavior, target = self.behavior_log_prob, self.target_log_prob
        bound = np.finfo(np.float64).max if self.density else PROBABILITY_SLACK
        least, largest = _extremes(behavior)
        if least > -np.inf and largest <= bound and _extremes(target)[1] <= bound:
            return
        self._refuse("behavior_log_prob", np.isnan(behavior), "NaN", "a log needs every logged action's probability")
        self._refuse("target_log_prob", np.isnan(target), "NaN", "check the target policy at these rows")
        self._refuse(
            "behavior_log_prob",
            behavior == -np.inf,
            "of probability 0 although they were logged",
            "what was done had a chance: check the probabilities, or estimate the behavior policy",
        )
        for name, values in (("behavior_log_prob", behavior), ("target_log_prob", target)):
            self._refuse(
                name,
                values > bound,
                "infinite" if self.density else "of a probability above 1",
                "give natural logarithms of probabilities; of densities, say so with density=True",
            )

    def _refuse(self, name: str, wrong: NDArray[np.bool_], what: str, hint: str) -> None:
        if not wrong.any():
            return
        first = int(np.argmax(wrong))
        if name in _EPISODES:
            place = f"episode {first}"
        else:
            episode = int(np.searchsorted(self.offsets, first, side="right")) - 1
            place = f"episode {episode}, step {first - int(self.offsets[episode])}"
        count = int(wrong.sum())
        raise DataError(
            f"{count} of {len(wrong)} values of {name} {'is' if count == 1 else 'are'} {what}",
            where=f"{name}, first at {place}",
            hint=hint,
        )

    def _cut_to_horizon(self) -> None:
        if self.horizon is None or int(self.lengths.max()) <= self.horizon:
            return
        kept = self.step < self.horizon
        longer = self.lengths > self.horizon
        lengths = np.minimum(self.lengths, self.horizon)
        for name in _ROWS:
            if getattr(self, name) is not None:
                self._set(name, getattr(self, name)[kept])
        self._set("offsets", _offsets(lengths))
        self._set("terminated", self.terminated & ~longer)
        self._set("truncated", self.truncated & ~longer)
        for derived in ("lengths", "episode", "step"):
            self.__dict__.pop(derived, None)

    def _settle_final_values(self) -> None:
        if self.v is None:
            return
        if self.v_final is None and self.broken_off.any():
            raise RequestError(
                f"{int(self.broken_off.sum())} episodes were truncated before the horizon, and the value of the states "
                "that they stopped in is not known",
                where="v_final",
                hint="give v_final; or, where the time limit is a part of the task, give it as the horizon",
            )
        final = np.zeros(self.episodes) if self.v_final is None else self.v_final
        self._set("v_final", np.where(self.broken_off, final, 0.0))


def tensor(values: NDArray[Any]) -> Tensor:
    """The same memory for PyTorch, which works on several cores; a copy where it may not be written to."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())


def _extremes(values: Array) -> tuple[float, float]:
    """The least and the largest; NaN where there is one."""
    least, largest = torch.aminmax(tensor(values))
    return float(least), float(largest)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])
