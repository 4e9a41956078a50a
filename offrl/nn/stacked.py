"""Any torch module with a leading seed axis: `stacked(module, seeds)`."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from offrl.nn.flat import FlatModule, seed_generators


def stacked(module: nn.Module | Callable[[], nn.Module], seeds: Sequence[int] | Sequence[torch.Generator]) -> Stacked:
    """A module for S seeds, from one for a single seed.

    Seed s's initial weights are drawn from its own generator, so they don't depend on S. Two modules that are made for
    the same seeds should share generators (`offrl.nn.seed_generators`): made of numbers alone they start alike.

    Args:
        module: what makes a module, called once for each seed; or a module, whose copies get new weights by the
            `reset_parameters` of its parts.
        seeds: numbers or CPU generators, one for each seed.

    Raises:
        TypeError: part of a module holds weights, but has no `reset_parameters`: hand over what makes it.
        ValueError: a part draws at random (dropout). An update's randomness is data: hand masks to the module, or
            switch dropout off.

    Example:
        >>> memory = stacked(lambda: nn.GRU(3, 8, batch_first=True), seeds=[0, 1])
        >>> output, last = memory(torch.zeros(2, 5, 7, 3))
        >>> output.shape, last.shape
        (torch.Size([2, 5, 7, 8]), torch.Size([2, 1, 5, 8]))
    """
    make = _reset_copies(module) if isinstance(module, nn.Module) else module
    modules = []
    for seed in seeds:
        (generator,) = [seed] if isinstance(seed, torch.Generator) else seed_generators([seed])
        modules.append(_drawn_from(generator, make))
    _refuse_randomness(modules[0])
    return Stacked(modules)


class Stacked(FlatModule):
    """S modules of one form, as one: inputs and outputs [S, …], each seed by its own parameters and buffers.

    Seeds go through torch's batched operations together (`torch.vmap`), and one after the other where those refuse:
    recurrent layers, and whatever fails in the first call. Buffers are [S, …] too, and no target follows them.

    Args:
        modules: one for each seed; left as they are.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.seeds = len(modules)
        self.module = copy.deepcopy(modules[0])
        _replace(self.module, [_tensors(module) for module in modules])
        self.together = not any(isinstance(part, nn.RNNBase) for part in self.module.modules())
        self.flatten()

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The module's outputs, stacked; tensors among the arguments are [S, …], everything else is for all seeds."""
        leaves, form = tree_flatten((inputs, options))
        own = _tensors(self.module)
        places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

        def single(tensors: dict[str, Tensor], given: Sequence[Tensor]) -> Any:
            filled = list(leaves)
            for place, tensor in zip(places, given, strict=True):
                filled[place] = tensor
            arguments, keywords = tree_unflatten(filled, form)
            return functional_call(self.module, tensors, arguments, keywords, tie_weights=False)

        given = [leaves[place] for place in places]
        # Of the ways to compute attention, the one that is made of operations that can be batched, and differentiated
        # twice.
        with sdpa_kernel(SDPBackend.MATH):
            if self.together:
                try:
                    return torch.vmap(single)(own, given)
                except (RuntimeError, ValueError):
                    # No rule for one of the operations, or an output that is no tensor. Where the arguments are at
                    # fault, a single seed's error tells it better.
                    pass
            parts, rows = [tensor.unbind() for tensor in own.values()], [tensor.unbind() for tensor in given]
            outputs = [
                single({name: part[seed] for name, part in zip(own, parts, strict=True)}, [row[seed] for row in rows])
                for seed in range(self.seeds)
            ]
        self.together = False
        return tree_map(lambda *parts: torch.stack(parts) if isinstance(parts[0], Tensor) else parts[0], *outputs)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name: one for each part that holds it, whether or not parts stand in several places."""
    return {
        f"{prefix}.{name}" if prefix else name: tensor
        for prefix, part in module.named_modules()
        for name, tensor in [*part._parameters.items(), *part._buffers.items()]
        if tensor is not None
    }


def _replace(module: nn.Module, tensors: Sequence[Mapping[str, Tensor]]) -> None:
    """Put each seed's tensors, stacked, in the place of a module's own; what parts share, they go on sharing."""
    stacks: dict[int, Tensor] = {}
    for name, own in _tensors(module).items():
        if id(own) not in stacks:
            values = torch.stack([one[name].detach() for one in tensors])
            stacks[id(own)] = nn.Parameter(values, own.requires_grad) if isinstance(own, nn.Parameter) else values
        prefix, _, attribute = name.rpartition(".")
        setattr(module.get_submodule(prefix), attribute, stacks[id(own)])


def _drawn_from(generator: torch.Generator, make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` makes with this generator in the place of torch's own."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        module = make()
        generator.set_state(torch.get_rng_state())
    return module


def _reset_copies(module: nn.Module) -> Callable[[], nn.Module]:
    """What makes copies of a module with new weights."""
    for name, part in module.named_modules():
        if any(parameter is not None for parameter in part._parameters.values()) and _reset_of(part) is None:
            raise TypeError(
                f"{type(part).__name__} {name!r} holds weights and has no reset_parameters(): hand a function that "
                "makes the module to stacked()"
            )

    def make() -> nn.Module:
        twin = copy.deepcopy(module)
        # What holds others has the last word on their weights.
        for part in reversed(list(twin.modules())):
            if (reset := _reset_of(part)) is not None:
                reset()
        return twin

    return make


def _reset_of(part: nn.Module) -> Callable[[], None] | None:
    for name in ("reset_parameters", "_reset_parameters"):
        method: Callable[[], None] | None = getattr(part, name, None)
        if method is not None:
            return method
    return None


def _refuse_randomness(module: nn.Module) -> None:
    for name, part in module.named_modules():
        chance = 0.0
        if isinstance(part, nn.modules.dropout._DropoutNd):
            chance = part.p
        elif isinstance(part, nn.RNNBase | nn.MultiheadAttention):
            chance = float(part.dropout)
        if chance and part.training:
            raise ValueError(
                f"{type(part).__name__} {name!r} drops units at random (p={chance}): an update's draws are handed to "
                "it, so set its dropout to 0"
            )
