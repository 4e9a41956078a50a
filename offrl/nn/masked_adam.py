"""Adam for seeds that stop at different times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from offrl.nn.adam import BETAS, EPSILON, Adam
from offrl.nn.flat import FlatModule, joined


class PausingAdam(Adam):
    """Adam that can leave seeds as they are: a paused one's parameters, moments and count of steps all stay.

    The fused kernel knows one count for all seeds, so the formulas are spelled out here.

    Attributes:
        owner: the seed, by position, that each element of the flat parameters belongs to.
    """

    def __init__(
        self, module: FlatModule, learning_rate: float, *, weight_decay: float = 0.0, max_gradient_norm: float = 0.0
    ) -> None:
        super().__init__(module, learning_rate, weight_decay=weight_decay, max_gradient_norm=max_gradient_norm)
        self.steps = torch.zeros(self.seeds, device=module.flat.device)
        seeds = torch.arange(self.seeds, device=module.flat.device).unsqueeze(1)
        self.owner = self.by_parameter(seeds.expand(-1, sum(self.sizes) // self.seeds))

    def step(
        self,
        gradients: Sequence[Tensor],
        learning_rate: float | Tensor | None = None,
        moving: Tensor | None = None,
    ) -> None:
        """`descend` for gradients in the order of the module's parameters."""
        self.descend(joined(gradients), learning_rate, moving)

    def descend(
        self, gradient: Tensor, learning_rate: float | Tensor | None = None, moving: Tensor | None = None
    ) -> None:
        """One step of the seeds where `moving`, bool [S], holds; of all of them without it."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        going = torch.ones_like(self.steps) if moving is None else moving.to(self.steps.dtype)
        self.steps += going
        # A seed that has never moved would divide by zero.
        first, second = (1.0 - beta ** self.steps.double().clamp(min=1.0) for beta in BETAS)
        if self.weight_decay:
            self.flat.mul_(self._spread(1.0 - going * (rate * self.weight_decay)))
        going, size, scale = (self._spread(part) for part in (going, going * rate / first, second.rsqrt()))
        gradient = self.clipped(gradient)
        self.first_moment.lerp_(gradient, going * (1.0 - BETAS[0]))
        self.second_moment.lerp_(gradient.square(), going * (1.0 - BETAS[1]))
        self.flat.addcmul_(self.first_moment / (self.second_moment.sqrt() * scale + EPSILON), size, value=-1.0)

    def _spread(self, values: Tensor) -> Tensor:
        """[S] as factors of the flat parameters: each seed's for its own."""
        each = values.to(self.flat.dtype)
        return each if self.seeds == 1 else each.index_select(0, self.owner)


def minimize(optimizer: Adam, loss: Tensor, rate: float | Tensor, moving: Tensor | None) -> None:
    """One step down a loss.

    Args:
        optimizer: one that can pause, where some seeds may not move.
        loss: [S].
        rate: the share of the optimizer's learning rate to go by.
        moving: the seeds that move, bool [S]; all of them without it.
    """
    gradients = torch.autograd.grad(loss.sum(), optimizer.parameters)
    if isinstance(optimizer, PausingAdam):
        optimizer.step(gradients, optimizer.learning_rate * rate, moving)
    else:
        optimizer.step(gradients, optimizer.learning_rate * rate)
