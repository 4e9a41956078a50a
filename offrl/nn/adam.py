"""Adam over one network's flat parameters, with all its state in tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from offrl.nn.flat import FlatModule, joined
from offrl.nn.schedule import CONSTANT, Schedule

BETAS = 0.9, 0.999
EPSILON = 1e-8


class Adam:
    """Adam (Kingma & Ba, 2015) in one fused kernel; decoupled weight decay (Loshchilov & Hutter, 2019) on request.

    It is elementwise, so S seeds in one tensor take the very steps that each would take alone.

    Args:
        module: the network whose `flat` parameters it changes.
        learning_rate: step size.
        weight_decay: decoupled decay rate.
        max_gradient_norm: longer gradients are scaled to this norm, each seed's by itself; 0 leaves them as they are.
        schedule: of the step size.
        stride: the schedule's steps that each of the optimizer's counts for.
    """

    def __init__(
        self,
        module: FlatModule,
        learning_rate: float,
        *,
        weight_decay: float = 0.0,
        max_gradient_norm: float = 0.0,
        schedule: Schedule = CONSTANT,
        stride: int = 1,
    ) -> None:
        self.names = [name for name, _ in module.named_parameters()]
        self.parameters = list(module.parameters())
        self.sizes, self.seeds = [part.numel() for part in self.parameters], len(self.parameters[0])
        self.flat, self.learning_rate, self.weight_decay = module.flat, learning_rate, weight_decay
        self.max_gradient_norm = max_gradient_norm
        self.schedule, self.stride = schedule, stride
        self.first_moment = torch.zeros_like(module.flat)
        self.second_moment = torch.zeros_like(module.flat)
        self.steps = torch.zeros((), device=module.flat.device)

    def minimize(self, loss: Tensor) -> None:
        """One step down the gradient of `loss`, a scalar: the sum over seeds of each seed's mean."""
        self.step(torch.autograd.grad(loss, self.parameters))

    def step(self, gradients: Sequence[Tensor], learning_rate: float | Tensor | None = None) -> None:
        """One step for gradients in the order of the module's parameters; at another rate, if one is given."""
        self.descend(joined(gradients), learning_rate)

    def descend(self, gradient: Tensor, learning_rate: float | Tensor | None = None) -> None:
        """`step` for the gradient by the flat parameters."""
        if learning_rate is None:
            learning_rate = self.learning_rate * self.schedule.factor(self.scheduled_steps, self.stride)
        self.steps += 1.0
        # What torch.optim.AdamW calls in the end; on its way there it takes as long as a small network's gradient does.
        torch._fused_adamw_(
            [self.flat],
            [self.clipped(gradient)],
            [self.first_moment],
            [self.second_moment],
            [],
            [self.steps],
            lr=learning_rate,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.weight_decay,
            eps=EPSILON,
            amsgrad=False,
            maximize=False,
        )

    @property
    def scheduled_steps(self) -> Tensor:
        """The schedule's steps that it has taken."""
        return self.steps * self.stride if self.stride > 1 else self.steps

    @property
    def stands_still(self) -> bool:
        """Whether its step size has fallen to 0."""
        return 0 < self.schedule.last_step <= self.scheduled_steps.item()

    def clipped(self, gradient: Tensor) -> Tensor:
        """A flat gradient with each seed's part scaled to the largest norm where it is longer."""
        if not self.max_gradient_norm:
            return gradient
        rows = self.by_seed(gradient)
        norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return self.by_parameter(rows / (norm / self.max_gradient_norm).clamp(min=1.0))

    def by_seed(self, flat: Tensor) -> Tensor:
        """Elements in the order of the flat parameters as [S, P]: a row for each seed."""
        if self.seeds == 1:
            return flat.unsqueeze(0)
        return torch.cat([part.view(self.seeds, -1) for part in flat.split(self.sizes)], dim=1)

    def by_parameter(self, rows: Tensor) -> Tensor:
        """The inverse of `by_seed`."""
        if self.seeds == 1:
            return rows.squeeze(0)
        return torch.cat([part.reshape(-1) for part in rows.split([size // self.seeds for size in self.sizes], dim=1)])

    def named_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: both moments of each parameter, [S, …] like it, and the count of steps."""
        return {
            "steps": self.steps,
            **self._views("first_moment", self.first_moment),
            **self._views("second_moment", self.second_moment),
        }

    def _views(self, prefix: str, flat: Tensor) -> dict[str, Tensor]:
        parts = flat.split(self.sizes)
        return {
            f"{prefix}.{name}": part.view(parameter.shape)
            for name, part, parameter in zip(self.names, parts, self.parameters, strict=True)
        }


def ended_schedule(optimizers: Iterable[Adam]) -> int:
    """The most steps of a schedule that one of these has taken whose step size has fallen to 0; 0 where none has."""
    return max((int(optimizer.scheduled_steps) for optimizer in optimizers if optimizer.stands_still), default=0)
