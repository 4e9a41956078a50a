"""What lies between raw data and what agents see: observations, actions and rewards on a common scale.

Everything is computed in float32, and in the same order for NumPy arrays and tensors, so that training and acting
agree to the last bit. Only where float32 would lose what sets observations apart, beside an offset such as that of Unix
time, the mean is subtracted in float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from offrl.data.schema import OBSERVATION, flatten_space
from offrl.data.trajectories import Trajectories
from offrl.errors import RequestError

ArrayOrTensor = TypeVar("ArrayOrTensor", NDArray[Any], Tensor)
FloatArray = NDArray[np.float32]
_LARGE_OFFSET = 1e4
"""In standard deviations: from here on, float32 rounds by more than a two-thousandth of one."""
_NARROWEST = 1e-5
"""Of the size of actions: float32 has some 80 values within bounds as narrow as that."""
_CONSTANT = 1e-15
"""A standard deviation below this part of the mean is that of rounding."""


class ObservationNormalizer:
    """(x - mean) / (std + ε), per component; parts without a mean (uint8 images, Discrete) pass through unchanged.

    Args:
        mean: [...] of the observation's shape, or dotted key to such an array where the space is nested; float64 where
            observations are, so that large offsets are seen.
        std: like `mean`.
        eps: ε, in the observation's units; keeps constant components finite.
    """

    def __init__(
        self,
        mean: NDArray[Any] | Mapping[str, NDArray[Any]],
        std: NDArray[Any] | Mapping[str, NDArray[Any]],
        eps: float = 1e-3,
    ) -> None:
        self.eps = eps
        means, stds = (part if isinstance(part, Mapping) else {"": part} for part in (mean, std))
        self.std = {key: np.asarray(value, np.float32) for key, value in stds.items()}
        exact = {key: np.asarray(value) for key, value in means.items()}
        self.mean = {
            key: value if _has_large_offset(value, self.std[key], eps) else value.astype(np.float32)
            for key, value in exact.items()
        }
        # A sum of arrays without axes is none any more.
        self._scale: dict[str, FloatArray] = {
            key: np.asarray(value + np.float32(eps)) for key, value in self.std.items()
        }
        self._tensors: dict[tuple[str, torch.device], tuple[Tensor, Tensor]] = {}

    @classmethod
    def from_store(cls, store: Trajectories, eps: float = 1e-3) -> ObservationNormalizer:
        """Mean and standard deviation over the transitions of a store or a selection from it."""
        leaves = flatten_space(store.spec.observation_space, OBSERVATION)
        chosen = [n for n, leaf in leaves.items() if isinstance(leaf, spaces.Box) and leaf.dtype != np.uint8]
        single = {column.name for column in store.metadata.columns if np.can_cast(column.dtype, np.float32)}
        figures = store.column_statistics(chosen)
        return cls(
            {observation_key(n): each.mean.astype(np.float32 if n in single else float) for n, each in figures.items()},
            {observation_key(name): each.std for name, each in figures.items()},
            eps,
        )

    def input_dtype(self, key: str) -> np.dtype[Any]:
        """What a part's floating-point observations must come in: float64 where they have a large offset."""
        mean = self.mean.get(key)
        return np.dtype(np.float32) if mean is None else mean.dtype

    def normalize(self, observation: Any) -> Any:
        """An observation (or a mapping of dotted keys) of NumPy arrays or tensors, with any leading axes."""
        if isinstance(observation, Mapping):
            return {key: self.normalize_part(key, value) for key, value in observation.items()}
        return self.normalize_part("", observation)

    def normalize_part(self, key: str, value: ArrayOrTensor) -> ArrayOrTensor:
        """One part of an observation; "" is the key of one that isn't nested."""
        if key not in self.mean:
            return value
        if isinstance(value, Tensor):
            mean, scale = self._on(key, value.device)
            return (value.to(mean.dtype) - mean).float() / scale
        mean_here = self.mean[key]
        centered = value.astype(mean_here.dtype, copy=False) - mean_here
        return cast(ArrayOrTensor, centered.astype(np.float32, copy=False) / self._scale[key])

    def named_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        parts = {
            f"{what}.{key}": torch.from_numpy(v) for what in ("mean", "std") for key, v in vars(self)[what].items()
        }
        return {"eps": torch.tensor(self.eps, dtype=torch.float64), **parts}

    @classmethod
    def from_named_tensors(cls, tensors: Mapping[str, Tensor]) -> ObservationNormalizer:
        """The inverse of `named_tensors`.

        Raises:
            ValueError: these are none that `named_tensors` returned.
        """
        found: dict[str, dict[str, NDArray[Any]]] = {"mean": {}, "std": {}}
        for name, tensor in tensors.items():
            what, _, key = name.partition(".")
            if what in found:
                found[what][key] = tensor.cpu().numpy()
        mean, std = found["mean"], found["std"]
        if mean.keys() != std.keys() or any(mean[key].shape != std[key].shape for key in mean):
            raise ValueError("its means aren't of the same components as its standard deviations")
        if "eps" not in tensors or tensors["eps"].numel() != 1:
            raise ValueError("it has no ε")
        return cls(mean, std, float(tensors["eps"]))

    def require_fit(self, space: gym.Space[Any]) -> None:
        """Raise `ValueError` unless these are the parts of the space, of the same shapes but for axes in front."""
        leaves = {observation_key(name): leaf for name, leaf in flatten_space(space, OBSERVATION).items()}
        for key, mean in self.mean.items():
            shape = leaves[key].shape if key in leaves else None
            if shape is None or tuple(shape[len(shape) - mean.ndim :]) != mean.shape:
                raise ValueError(f"it has {mean.shape} means, and the observation's part '{key}' has the shape {shape}")

    def _on(self, key: str, device: torch.device) -> tuple[Tensor, Tensor]:
        if (key, device) not in self._tensors:
            mean, scale = torch.from_numpy(self.mean[key]), torch.from_numpy(self._scale[key])
            self._tensors[key, device] = mean.to(device), scale.to(device)
        return self._tensors[key, device]


def _has_large_offset(mean: NDArray[Any], std: FloatArray, eps: float) -> bool:
    """Whether float32 can't tell some component's observations apart well, and float64 is there to."""
    if mean.dtype != np.float64:
        return False
    offset = np.abs(mean)
    return bool(((offset > _LARGE_OFFSET * (std + eps)) & (std > _CONSTANT * offset)).any())


def observation_key(column: str) -> str:
    """The key of an observation column in a batch: "" where observations aren't nested."""
    return column.removeprefix(OBSERVATION).removeprefix(".")


@dataclass(frozen=True)
class RewardScaler:
    """r ↦ scale · r + shift."""

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, reward: ArrayOrTensor) -> ArrayOrTensor:
        if self.scale == 1.0 and self.shift == 0.0:
            return reward
        return reward * self.scale + self.shift

    def inverse(self, reward: ArrayOrTensor) -> ArrayOrTensor:
        """The reward that was scaled."""
        return (reward - self.shift) / self.scale


@dataclass
class ActionMap:
    """The environment's action bounds to [-1, 1] and back, per component; the identity where a bound is infinite.

    Attributes:
        low: float32 [A], the flat action's lower bounds.
        high: float32 [A].
        center: float32 [A]: what is mapped to 0.
        half: float32 [A]: half the width of the bounds.
    """

    low: FloatArray
    high: FloatArray
    center: FloatArray = field(init=False)
    half: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        bounded = np.isfinite(self.low) & np.isfinite(self.high)
        with np.errstate(invalid="ignore"):
            self.center = np.where(bounded, self.low / 2 + self.high / 2, 0.0).astype(np.float32)
            half = np.where(bounded, self.high / 2 - self.low / 2, 1.0)
        self.half = np.where(half > 0, half, 1.0).astype(np.float32)
        # But for clipping, as where bounds are ±1 already.
        self._is_identity = bool((self.half == 1.0).all() and (self.center == 0.0).all())

    @classmethod
    def from_space(cls, space: spaces.Box) -> ActionMap:
        """The map of a Box of any shape; actions are flat vectors.

        Raises:
            RequestError: the space isn't a Box, or float32 can't tell the actions within its bounds apart.
        """
        if not isinstance(space, spaces.Box):
            raise RequestError(f"only Box actions are mapped to [-1, 1], not those of {space}")
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        _check_widths(low.astype(np.float64), high.astype(np.float64))
        return cls(low.astype(np.float32), high.astype(np.float32))

    def to_unit(self, action: ArrayOrTensor) -> ArrayOrTensor:
        """[..., A] within the bounds to float32 [..., A] within [-1, 1]."""
        if isinstance(action, Tensor):
            return (action.float() - self._tensor("center", action)) / self._tensor("half", action)
        return cast(ArrayOrTensor, (action.astype(np.float32, copy=False) - self.center) / self.half)

    def from_unit(self, action: ArrayOrTensor) -> ArrayOrTensor:
        """The inverse of `to_unit`; the result is clipped to the bounds."""
        if isinstance(action, Tensor):
            raw = action.float() * self._tensor("half", action) + self._tensor("center", action)
            return raw.clamp(self._tensor("low", action), self._tensor("high", action))
        raw_array = action.astype(np.float32, copy=False)
        if not self._is_identity:
            raw_array = raw_array * self.half + self.center
        return np.minimum(np.maximum(raw_array, self.low), self.high)

    @property
    def log_volume(self) -> float:
        """log |∂a/∂u|: added to the log-density of an action, it gives that of the mapped action."""
        return float(np.log(self.half.astype(np.float64)).sum())

    def _tensor(self, name: str, like: Tensor) -> Tensor:
        return torch.from_numpy(getattr(self, name)).to(like.device)


def _check_widths(low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    """Raises RequestError where actions differ by less of their size than float32 can hold well."""
    with np.errstate(invalid="ignore"):
        narrow = (high > low) & (high - low < _NARROWEST * np.maximum(np.abs(low), np.abs(high)))
    if narrow.any():
        index = int(narrow.argmax())
        raise RequestError(
            f"actions of component {index} lie from {low[index]} to {high[index]}: single precision, in which policies "
            "act, can't tell them apart",
            hint="store them less their offset, and add it in the environment",
        )
