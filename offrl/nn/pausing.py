"""Adam for seeds that stop at different times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from offrl.nn.adam import BETAS, EPSILON, Adam
from offrl.nn.flat import FlatModule


class PausingAdam(Adam):
    """Adam that can leave seeds as they are: a paused one's parameters, moments and count of steps all stay.

    The fused kernel knows one count for all seeds, so the formulas are spelled out here.
    """

    def __init__(
        self, module: FlatModule, learning_rate: float, *, weight_decay: float = 0.0, max_gradient_norm: float = 0.0
    ) -> None:
        super().__init__(module, learning_rate, weight_decay=weight_decay, max_gradient_norm=max_gradient_norm)
        seeds, device = len(self.parameters[0]), module.flat.device
        self.steps = torch.zeros(seeds, device=device)
        # Whose parameter each element of the flat tensor is.
        owners = torch.arange(seeds, device=device)
        self.owner = torch.cat([owners.repeat_interleave(part.numel() // seeds) for part in self.parameters])

    def step(
        self,
        gradients: Sequence[Tensor],
        learning_rate: float | Tensor | None = None,
        moving: Tensor | None = None,
    ) -> None:
        """One step of the seeds where `moving`, bool [S], holds; of all of them without it."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        going = torch.ones_like(self.steps) if moving is None else moving.to(self.steps.dtype)
        self.steps += going
        first_correction, second_correction = (1.0 - beta ** self.steps.double() for beta in BETAS)
        per_seed = torch.stack(
            [
                going,
                1.0 - going * (rate * self.weight_decay),
                going * rate / first_correction,
                second_correction.rsqrt(),
            ]
        )
        # A seed that never moved has no correction: 0 / 0.
        going, decay, size, correction = per_seed.to(self.flat.dtype).nan_to_num()[:, self.owner]
        gradient = self._joined(gradients)
        self.first_moment.lerp_(gradient, going * (1.0 - BETAS[0]))
        self.second_moment.lerp_(gradient.square(), going * (1.0 - BETAS[1]))
        self.flat.mul_(decay)
        self.flat.addcmul_(self.first_moment / (self.second_moment.sqrt() * correction + EPSILON), size, value=-1.0)
