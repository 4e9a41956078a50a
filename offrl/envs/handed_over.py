"""One check of all that environments hand over, before it reaches a ring, a replay or a dataset. Imports no PyTorch."""

from __future__ import annotations

import reprlib
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from offrl.envs.waiting import WAITING
from offrl.errors import EnvironmentFailedError, OffrlError

LARGEST = float(np.finfo(np.float32).max)
"""Policies and batches are in single precision, so a larger number would be infinite there."""
LEAST, LARGEST_SQUARE = -LARGEST, LARGEST**2
REALS, BOOLEANS = frozenset({float, int, np.float64, np.float32}), frozenset({bool, np.bool_})
WHOLE = frozenset({int, np.int64})
"""Types that are known without looking closer: every step's are asked for."""
REPAIR = "repair the environment"
STEP_GIVES = "a step returns (observation, reward, terminated, truncated, info)"
RESET_GIVES = "a reset returns (observation, info)"


class Told(NamedTuple):
    """What N copies gave in one step, checked but for the observations.

    Attributes:
        observation: of each copy, as it gave it.
        reward: float64 [N], finite in single precision too.
        terminated, truncated: bool [N].
        info: of each copy.
        ended: the copies whose episode ended.
    """

    observation: list[Any]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    info: list[dict[str, Any]]
    ended: list[int]


class HandedOver:
    """Asks copies of an environment to start and to step, and takes nothing else than its spaces promise.

    Observations must have their space's shape, with nothing broadcast, its keys, and finite numbers; whole numbers must
    be among those that there are. Another type is taken where no number changes by it but in precision. What is wrong
    is told with the environment's name, what it gave, and the step.

    Args:
        name: of the environment.
        space: of its observations.
        count: N.
    """

    def __init__(self, name: str, space: gym.Space[Any], count: int) -> None:
        self.name = name
        self._observations = _part(space, "observation")
        self._steps, self._began = 0, [0] * count

    def reset(self, copies: Sequence[gym.Env[Any, Any]], which: Sequence[int], **options: Any) -> list[tuple[Any, Any]]:
        """Start an episode in some copies; `options` are Gymnasium's, one value for each of these."""
        started = []
        for position, copy in enumerate(which):
            self._began[copy] = self._steps
            WAITING.begin()
            try:
                given = copies[copy].reset(**{name: values[position] for name, values in options.items()})
            except OffrlError:
                raise
            except Exception as error:
                raise self._raised(error, copy) from error
            finally:
                WAITING.end()
            if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping)):
                raise self._unfit(copy, f"{_brief(given)} from reset()", RESET_GIVES)
            started.append(given)
        return started

    def step(self, copies: Sequence[gym.Env[Any, Any]], action: Any) -> Told:
        """Step every copy once.

        Args:
            copies: all N.
            action: one for each.
        """
        self._steps += 1
        count, copy = len(copies), 0
        observation: list[Any] = []
        info: list[Any] = []
        ended: list[int] = []
        reward, terminated, truncated = np.empty(count), np.zeros(count, np.bool_), np.zeros(count, np.bool_)
        earned: Any
        WAITING.begin()
        try:
            for copy, environment in enumerate(copies):
                given = environment.step(action[copy])
                if type(given) is not tuple or len(given) != 5:
                    raise self._unfit(copy, f"{_parts(given)} from step()", STEP_GIVES)
                shown, earned, over, cut, told = given
                if type(earned) not in REALS or not LEAST <= earned <= LARGEST:
                    earned = self._reward(copy, earned)
                if type(over) not in BOOLEANS or type(cut) not in BOOLEANS:
                    over, cut = self._flag(copy, over, "terminated"), self._flag(copy, cut, "truncated")
                if type(told) is not dict:
                    raise self._unfit(copy, f"info={_brief(told)}", "info is a dict")
                reward[copy] = earned
                if over or cut:
                    terminated[copy], truncated[copy] = over, cut
                    ended.append(copy)
                observation.append(shown)
                info.append(told)
        except OffrlError:
            raise
        except Exception as error:
            raise self._raised(error, copy) from error
        finally:
            WAITING.end()
        return Told(observation, reward, terminated, truncated, info, ended)

    def stacked(self, observations: Sequence[Any]) -> Any:
        """Observations of all copies as one, [N, …], nested as the space is."""
        try:
            return self._observations.stack(observations)
        except _Unfit as unfit:
            raise self._unfit(unfit.copy, f"the {unfit.what}", unfit.wanted) from None

    def _reward(self, copy: int, given: Any) -> float:
        """A reward of a kind that is seldom seen; raises if it is none."""
        value = _as_array(given)
        if value.shape != () or value.dtype.kind not in "fiub":
            raise self._unfit(copy, f"the reward {_brief(given)}", "a reward is one real number")
        if not LEAST <= float(value) <= LARGEST:
            raise self._unfit(
                copy,
                f"the reward {given}",
                f"a reward is finite, of at most {LARGEST:.3g}, the largest number of single precision",
            )
        return float(value)

    def _flag(self, copy: int, given: Any, name: str) -> bool:
        value = _as_array(given)
        if value.shape != () or value.dtype.kind != "b":
            raise self._unfit(copy, f"{name}={_brief(given)}", f"{name} is True or False")
        return bool(value)

    def _when(self, copy: int) -> str:
        taken = self._steps - self._began[copy]
        return f"in step {taken} of an episode" if taken else "where an episode begins"

    def _unfit(self, copy: int, gave: str, wanted: str) -> EnvironmentFailedError:
        return EnvironmentFailedError(
            f"the environment {self.name} gave {gave} {self._when(copy)}: {wanted}",
            hint=f"{REPAIR}, or the space that it declares",
        )

    def _raised(self, error: Exception, copy: int) -> EnvironmentFailedError:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())
        return EnvironmentFailedError(
            f"the environment {self.name} failed {self._when(copy)}: {type(error).__name__}: {text or 'no message'}",
            where=f"{frame.filename}, line {frame.lineno}, in {frame.name}",
            hint=f"{REPAIR}; {STEP_GIVES}, {RESET_GIVES}",
        )


class CheckedEnvironment(gym.Wrapper[Any, Any, Any, Any]):
    """A single environment that hands over nothing else than its spaces promise.

    Args:
        env: the environment.
        name: what messages call it.
    """

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self.handed = HandedOver(name, env.observation_space, 1)

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        ((shown, info),) = self.handed.reset([self.env], [0], **{name: [value] for name, value in options.items()})
        self.handed.stacked([shown])
        return shown, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        told = self.handed.step([self.env], [action])
        self.handed.stacked(told.observation)
        return (
            told.observation[0],
            float(told.reward[0]),
            bool(told.terminated[0]),
            bool(told.truncated[0]),
            told.info[0],
        )


class _Unfit(Exception):
    """An observation, or a part of one, that its space doesn't describe."""

    def __init__(self, copy: int, what: str, wanted: str) -> None:
        super().__init__(what)
        self.copy, self.what, self.wanted = copy, what, wanted


class _Array:
    """A part of observations that is an array."""

    def __init__(self, space: gym.Space[Any], name: str) -> None:
        assert space.shape is not None
        self.space, self.name = space, name
        self.shape, self.dtype = space.shape, np.dtype(space.dtype)
        self.floating = self.dtype.kind == "f"
        self.range = _numbers(space)

    def stack(self, values: Sequence[Any]) -> NDArray[Any]:
        """The copies' values as one array, [N, …]."""
        shape, dtype = self.shape, self.dtype
        stacked = np.empty((len(values), *shape), dtype)
        for copy, value in enumerate(values):
            plain = type(value) is np.ndarray and value.dtype is dtype and value.shape == shape
            stacked[copy] = value if plain else self._converted(copy, value)
        if self.floating:
            # Of numbers that are all small enough the squares add up to a number, mostly; that is soon found out.
            if not float(np.vdot(stacked, stacked)) <= LARGEST_SQUARE:
                self._require(np.abs(stacked) <= LARGEST, values, "numbers are finite, in single precision too")
        elif self.range is not None:
            low, high = self.range
            self._require((low <= stacked) & (stacked <= high), values, f"its space is {self.space}")
        return stacked

    def _converted(self, copy: int, value: Any) -> NDArray[Any]:
        """A value of another type than the space's; safely."""
        given = _as_array(value)
        if given.shape != self.shape or given.dtype.kind not in "biuf":
            raise self._unfit(copy, value, f"it is to be {self.dtype}, of shape {self.shape}")
        with np.errstate(all="ignore"):
            cast = given.astype(self.dtype)
        if not (self.floating and given.dtype.kind == "f") and not np.array_equal(cast, given):
            raise self._unfit(copy, value, f"{given.dtype} doesn't become {self.dtype} without a loss")
        return cast

    def _require(self, right: NDArray[np.bool_], values: Sequence[Any], wanted: str) -> None:
        if not right.all():
            copy = int(right.reshape(len(right), -1).all(axis=1).argmin())
            raise self._unfit(copy, values[copy], wanted)

    def _unfit(self, copy: int, value: Any, wanted: str) -> _Unfit:
        kind = f" ({value.dtype}, shape {value.shape})" if isinstance(value, np.ndarray) else ""
        return _Unfit(copy, f"{self.name} {_brief(value)}{kind}", wanted)


class _Number(_Array):
    """A part of observations that is one of several whole numbers."""

    def stack(self, values: Sequence[Any]) -> NDArray[Any]:
        """The copies' values as one array, [N]."""
        assert self.range is not None
        low, high = self.range
        if not all(type(value) in WHOLE and low <= value <= high for value in values):
            return super().stack(values)
        return np.array(values, self.dtype)


class _Keys:
    """A part of observations that has parts by name."""

    def __init__(self, space: gym.spaces.Dict, name: str) -> None:
        self.name = name
        self.parts = {key: _part(child, f"{name}.{key}") for key, child in space.spaces.items()}

    def stack(self, values: Sequence[Any]) -> dict[str, Any]:
        """The copies' values part by part."""
        for copy, value in enumerate(values):
            if not isinstance(value, Mapping) or not self.parts.keys() <= value.keys():
                given = f"with the keys {_brief(sorted(map(str, value)))}" if isinstance(value, Mapping) else None
                raise _Unfit(
                    copy, f"{self.name} {given or _brief(value)}", f"it has the keys {_brief(sorted(self.parts))}"
                )
        return {key: part.stack([value[key] for value in values]) for key, part in self.parts.items()}


class _Places:
    """A part of observations that has parts by position."""

    def __init__(self, space: gym.spaces.Tuple[Any], name: str) -> None:
        self.name = name
        self.parts = [_part(child, f"{name}.{position}") for position, child in enumerate(space.spaces)]

    def stack(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """The copies' values part by part."""
        for copy, value in enumerate(values):
            if not isinstance(value, tuple | list) or len(value) != len(self.parts):
                raise _Unfit(copy, f"{self.name} {_brief(value)}", f"it is a tuple of {len(self.parts)} parts")
        return tuple(part.stack([value[place] for value in values]) for place, part in enumerate(self.parts))


def _part(space: gym.Space[Any], name: str) -> _Array | _Keys | _Places:
    if isinstance(space, gym.spaces.Dict):
        return _Keys(space, name)
    if isinstance(space, gym.spaces.Tuple):
        return _Places(space, name)
    return _Number(space, name) if isinstance(space, gym.spaces.Discrete) else _Array(space, name)


def _numbers(space: gym.Space[Any]) -> tuple[Any, Any] | None:
    """The least and greatest whole numbers that a space has; None where any of its type will do."""
    match space:
        case gym.spaces.Discrete():
            return space.start, space.start + space.n - 1
        case gym.spaces.MultiDiscrete():
            return space.start, space.start + space.nvec - 1
        case gym.spaces.MultiBinary():
            return 0, 1
    return None


def _as_array(value: Any) -> NDArray[Any]:
    """What NumPy makes of a value; objects, where it makes nothing of it."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.asarray(None)


def _parts(value: Any) -> str:
    return f"{len(value)} values" if isinstance(value, tuple) else _brief(value)


def _brief(value: Any) -> str:
    """A value in one short line."""
    text = np.array2string(value, threshold=8, edgeitems=3) if isinstance(value, np.ndarray) else reprlib.repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."
