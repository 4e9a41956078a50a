"""Modules whose parameters are views of one flat tensor, so that optimizers and target updates take one call each."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from offrl.nn.free_memory import require_room


class HooklessModule(nn.Module):
    """A module whose call is `forward`: the look for hooks takes as long as a small layer does."""

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.forward(*inputs, **options)


class FlatModule(HooklessModule):
    """A network for S seeds: every parameter is [S, …] and a view of `flat`, a tensor of one axis.

    Build the layers first, then call `flatten`. Loading a state dict copies in place, so the views stay true.

    Attributes:
        own_parameters: what `parameters()` gives, without its search through the modules.
    """

    flat: Tensor
    own_parameters: list[nn.Parameter]

    def flatten(self) -> None:
        """Move all parameters into one contiguous tensor and make them views of it.

        Raises:
            RecipeError: there is no memory to train them in.
        """
        parameters = self.own_parameters = list(self.parameters())
        size = sum(parameter.nbytes for parameter in parameters)
        require_room(size, parameters[0].device, already=size)
        self.flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
        offset = 0
        for parameter in parameters:
            parameter.data = self.flat[offset : offset + parameter.numel()].view(parameter.shape)
            offset += parameter.numel()
        for module in self.modules():
            if isinstance(module, FlatModule):
                # The parameters of a part lie next to each other here as well: both flat tensors are the same memory.
                start = module.own_parameters[0].storage_offset()
                module.flat = self.flat[start : start + module.flat.numel()]

    def clone(self) -> Self:
        """An independent copy, as target networks need."""
        twin = copy.deepcopy(self)
        twin.flatten()
        return twin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moving to a device or dtype gives every parameter storage of its own, so the views are made anew."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.flatten()
        return self

    def move_towards(self, source: FlatModule, rate: float | Tensor) -> None:
        """Polyak averaging: θ ← (1 − rate) θ + rate θ_source; a rate in a 0-d tensor is decided on the device."""
        self.flat.lerp_(source.flat, rate)

    def move_at_times(self, source: FlatModule, rate: float, every: int, updates: Tensor) -> None:
        """`move_towards` after every `every`-th update, and by a rate of 0 after the others; so many were made."""
        self.move_towards(source, rate if every == 1 else (updates % every == 0) * rate)


def joined(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of any shapes as one of one axis, in the order of `FlatModule.flat`."""
    return torch.cat([part.reshape(-1) for part in parts])


def uniform_per_seed(shape: tuple[int, ...], bound: float, generators: list[torch.Generator]) -> Tensor:
    """Draws from U(−bound, bound), [S, *shape]; each seed draws from its own generator, whatever S is.

    Raises:
        RecipeError: there is no memory to train so many parameters in.
    """
    require_room(4 * len(generators) * math.prod(shape), torch.device("cpu"))
    draws = [torch.empty(shape).uniform_(-bound, bound, generator=generator) for generator in generators]
    return torch.stack(draws)


def seed_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A CPU generator for each seed: initial weights are the same on every device."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
