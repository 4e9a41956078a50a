"""An agent's update as fast as by hand: recorded once, then replayed without autograd and most of Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from offrl.tracing import Traced
from offrl.types import Agent, Batch, Metrics, Noise

Update = Callable[[list[Batch], Noise], Metrics]


def fast_update(agent: Agent[Any, Any], state: Any, device: torch.device) -> Update:
    """`agent.update` of this state: captured in a graph on CUDA, replayed as straight-line code on the CPU."""
    if device.type == "cuda":
        from offrl.training.cuda_graph import GraphedUpdate

        return GraphedUpdate(agent, state)
    return Traced(agent, state)
