"""How step sizes change over training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor

from offrl.errors import RecipeError

Steps = Annotated[int, Ge(0)]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A step size over time: it rises, stays, and falls to 0. By default it stays from beginning to end.

    Configs of agents derive from it, so these are options of every algorithm. They count the agent's own gradient
    steps, from the first one of the run, unless the config says what else.

    Attributes:
        warmup_steps: the first steps, over which step sizes rise linearly: the n-th of them has n / warmup_steps of the
            whole.
        constant_steps: those behind the warm-up before step sizes begin to fall.
        decay_steps: those behind these, over which step sizes fall to 0; 0 keeps them.
        decay_shape: "linear", or "cosine": half a wave, slow at its beginning and end (Loshchilov & Hutter, 2017,
            https://arxiv.org/abs/1608.03983, without restarts).

    Raises:
        RecipeError: there is a shape for a fall, and no steps to fall over.

    Example:
        >>> TD3Config(warmup_steps=1_000, decay_steps=99_000, decay_shape="cosine")
    """

    warmup_steps: Steps = 0
    constant_steps: Steps = 0
    decay_steps: Steps = 0
    decay_shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if self.decay_shape != "linear" and not self.decay_steps:
            raise RecipeError(
                f"decay_shape is {self.decay_shape!r}, but step sizes never fall: decay_steps is 0",
                hint="set decay_steps, or leave decay_shape out",
            )

    @property
    def last_step(self) -> int:
        """The steps behind which all step sizes are 0; 0 where they never are."""
        return self.warmup_steps + self.constant_steps + self.decay_steps if self.decay_steps else 0

    def factor(self, taken: Tensor, stride: int = 1) -> float | Tensor:
        """The share of the whole step size that the next step has.

        Args:
            taken: the steps before it.
            stride: the steps that it counts for.
        """
        rise = ((taken + stride) / self.warmup_steps).clamp(max=1.0) if self.warmup_steps else 1.0
        if not self.decay_steps:
            return rise
        left = (1.0 - (taken - (self.warmup_steps + self.constant_steps)) / self.decay_steps).clamp(0.0, 1.0)
        if self.decay_shape == "cosine":
            left = 0.5 - 0.5 * (math.pi * left).cos()
        return rise * left if self.warmup_steps else left


CONSTANT = Schedule()
