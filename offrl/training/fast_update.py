"""An agent's update as fast as by hand: recorded once, then replayed without autograd and most of Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from offrl.tracing import Traced
from offrl.types import Agent, Batch, Metrics, Noise

Update = Callable[[list[Batch], Noise], Metrics]


def fast_update(
    agent: Agent[Any, Any], state: Any, device: torch.device, update: Callable[..., Metrics] | None = None
) -> Update:
    """An update of this state: captured in a graph on CUDA, replayed as straight-line code on the CPU.

    Args:
        agent: its update must be a fixed sequence of operations on tensors, as `Agent` promises.
        state: on the device; its tensors are changed in place.
        device: where it happens.
        update: the agent's `update`, or its `update_critic`; None for the former.
    """
    if device.type == "cuda":
        from offrl.training.cuda_graph import GraphedUpdate

        return GraphedUpdate(update or agent.update, state, device)
    return Traced(agent, state, update)
