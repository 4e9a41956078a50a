"""What tests of several agents ask of them: the actions alone, and that no tensor's value is read on the way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from offrl.types import Agent, Observation


@torch.no_grad()
def actions_of(
    agent: Agent[Any, Any],
    state: Any,
    observation: Observation,
    noise: Tensor | None = None,
    action_mask: Tensor | None = None,
) -> Tensor:
    """What an agent does at the start of episodes, as the library asks it."""
    first = observation if isinstance(observation, Tensor) else next(iter(observation.values()))
    return agent.act(state, observation, agent.initial_carry(state, first.shape[1]), noise, action_mask)[0]


class Calls(TorchDispatchMode):
    """Counts the ATen operations that are called while it is entered, by name.

    Raises:
        AssertionError: one of them reads a tensor's value into Python, so that a trace could not repeat it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert torch.Tag.data_dependent_output not in func.tags, f"{func} reads a tensor's value"
        assert torch.Tag.dynamic_output_shape not in func.tags, f"the shape of what {func} gives depends on values"
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))
