"""Captured updates: what goes in, and on a CUDA device, that replays equal eager updates."""

from __future__ import annotations

import time
from contextlib import nullcontext
from unittest.mock import MagicMock

import pytest
import torch

from offrl.agents.bc import BC, BCConfig
from offrl.agents.td3 import TD3, TD3Config
from offrl.nn.state import state_tensors
from offrl.training.cuda_graph import WARMUP_UPDATES, GraphedUpdate, cloned, tensors_of
from offrl.types import Batch, Metrics, Noise
from tests.agents.batches import continuous, random_batches, random_noise

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
UPDATES = 20


def test_clones_share_no_memory_and_keep_their_order() -> None:
    agent = TD3(TD3Config(hidden=(8,)), continuous())
    batches, (noise,) = random_batches(agent.spec, 2, 1), random_noise(agent, 1, 1)
    held, held_noise = cloned(batches, noise)
    originals, copies = tensors_of(batches, noise), tensors_of(held, held_noise)
    assert len(originals) == 2 * 6 + len(noise)
    for original, copy in zip(originals, copies, strict=True):
        assert torch.equal(original, copy)
        assert original.data_ptr() != copy.data_ptr()


class Graph:
    """In the place of a CUDA graph: what was captured is known by the number of replays."""

    replays = 0

    def replay(self) -> None:
        self.replays += 1


def test_inputs_of_other_shapes_are_not_copied_over_those_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", MagicMock())
    monkeypatch.setattr(torch.cuda, "current_stream", MagicMock())
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    seen: list[int] = []

    def function(state: None, batches: list[Batch], noise: Noise) -> Metrics:
        seen.append(batches[0].reward.shape[1])
        return {}

    update = GraphedUpdate(function, None, torch.device("cpu"))
    many, one = (random_batches(continuous(), 1, 1, rows) for rows in (8, 1))
    for batches in [many] * (WARMUP_UPDATES + 1) + [one, many, many]:
        update(batches, {})
    # The warm-up, the capture, and the one that differs.
    assert seen == [8] * (WARMUP_UPDATES + 1) + [1]
    assert isinstance(update.graph, Graph)
    assert update.graph.replays == 3


@needs_cuda
@pytest.mark.parametrize(
    "agent",
    [TD3(TD3Config(hidden=(64, 64)), continuous()), BC(BCConfig(hidden=(64, 64)), continuous())],
    ids=["td3", "bc"],
)
def test_replays_equal_eager_updates(agent: TD3 | BC) -> None:
    device, seeds = torch.device("cuda"), (0, 1)
    size = agent.batches_per_update
    batches = [batch.to(device) for batch in random_batches(agent.spec, UPDATES * size, len(seeds))]
    noise = [{k: v.to(device) for k, v in draws.items()} for draws in random_noise(agent, UPDATES, len(seeds))]
    eager, replayed = agent.init(seeds, device), agent.init(seeds, device)
    update = GraphedUpdate(agent.update, replayed, device)
    for i, draws in enumerate(noise):
        cycle = batches[i * size : (i + 1) * size]
        agent.update(eager, cycle, draws)  # type: ignore[arg-type]
        update(cycle, draws)
    assert update.graph is not None
    for name, tensor in state_tensors(eager).items():
        torch.testing.assert_close(state_tensors(replayed)[name], tensor, rtol=0.0, atol=1e-4, msg=name)


@needs_cuda
@pytest.mark.benchmark
def test_sixteen_seeds_cost_less_than_twice_one() -> None:
    one, sixteen = seconds_per_update(1), seconds_per_update(16)
    assert sixteen < 2 * one


def seconds_per_update(seeds: int) -> float:
    device, agent = torch.device("cuda"), TD3(TD3Config(bc_alpha=2.5), continuous(11, 3))
    update = GraphedUpdate(agent.update, agent.init(range(seeds), device), device)
    batches = [batch.to(device) for batch in random_batches(agent.spec, 2, seeds, 256)]
    noise = {name: draws.to(device) for name, draws in random_noise(agent, 1, seeds, 256)[0].items()}
    for _ in range(20):
        update(batches, noise)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(500):
        update(batches, noise)
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 500
