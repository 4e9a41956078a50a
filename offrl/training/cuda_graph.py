"""An agent's update as one CUDA graph: one launch in place of hundreds of kernels that the host feeds one by one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from offrl.ops.trees import tree_map
from offrl.types import Batch, Metrics, Noise

WARMUP_UPDATES = 3
"""Updates taken eagerly before the capture: the first ones allocate workspaces, which a capture must not."""


class GraphedUpdate:
    """Calls to an agent's update, the first few eager, the others replays of one that was captured.

    Inputs of other shapes than those that were captured are taken eagerly.
    A replay writes its metrics where the replay before did: read them before the next one.

    Args:
        function: of state, batches and noise: the agent's `update`, a fixed sequence of operations on tensors.
        state: on the device; its tensors are changed in place.
        device: a CUDA device.
    """

    def __init__(self, function: Callable[[Any, Any, Noise], Metrics], state: Any, device: torch.device) -> None:
        self.function, self.state, self.device = function, state, device
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.inputs: list[Tensor] = []
        self.shapes: list[torch.Size] = []
        self.metrics: Metrics = {}
        self.stream = torch.cuda.Stream(device)

    def __call__(self, batches: list[Batch], noise: Noise) -> Metrics:
        """One update."""
        self.calls += 1
        if self.calls <= WARMUP_UPDATES:
            return self._eagerly(batches, noise)
        if self.graph is None:
            self._capture(batches, noise)
        else:
            tensors = tensors_of(batches, noise)
            if [tensor.shape for tensor in tensors] != self.shapes:
                return self._eagerly(batches, noise)
            torch._foreach_copy_(self.inputs, tensors)
        assert self.graph is not None
        self.graph.replay()
        return dict(self.metrics)

    def _eagerly(self, batches: list[Batch], noise: Noise) -> Metrics:
        """On another stream, as captures want their warm-up."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            metrics = self.function(self.state, batches, noise)
        current.wait_stream(self.stream)
        return metrics

    def _capture(self, batches: list[Batch], noise: Noise) -> None:
        """Record one update of copies of these inputs; recording changes nothing, the replay does."""
        held, held_noise = cloned(batches, noise)
        self.inputs = tensors_of(held, held_noise)
        self.shapes = [tensor.shape for tensor in self.inputs]
        self.graph = torch.cuda.CUDAGraph()
        # On a stream of the state's device, which need not be the current one.
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.metrics = self.function(self.state, held, held_noise)


def cloned(batches: Sequence[Batch], noise: Noise) -> tuple[list[Batch], Noise]:
    """Copies with memory of their own."""
    copies: tuple[list[Batch], Noise] = tree_map(torch.clone, (list(batches), noise))
    return copies


def tensors_of(batches: Sequence[Batch], noise: Noise) -> list[Tensor]:
    """Every tensor, in an order that depends only on which there are."""
    tensors: list[Tensor] = []
    for batch in batches:
        for value in vars(batch).values():
            if isinstance(value, dict):
                tensors += [value[key] for key in sorted(value)]
            elif value is not None:
                tensors.append(value)
    return tensors + [noise[name] for name in sorted(noise)]
