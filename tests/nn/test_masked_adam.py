"""Adam with pauses takes the steps of PyTorch's Adam, for each seed as often as that one moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from offrl.nn import MLP, Adam, seed_generators
from offrl.nn.masked_adam import PausingAdam, minimize

STEPS, SEEDS = 12, 3
MOVING = torch.tensor([[step % 3 != 1, step > 4, step < 3] for step in range(STEPS)])


def network(*seeds: int) -> MLP:
    return MLP(3, 2, (5,), seed_generators(seeds))


def gradients(seeds: int) -> list[list[Tensor]]:
    """For each step, in the parameters' shapes; they differ from seed to seed."""
    generator = torch.Generator().manual_seed(0)
    return [
        [torch.randn(parameter.shape, generator=generator) for parameter in network(*range(seeds)).parameters()]
        for _ in range(STEPS)
    ]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "max_gradient_norm": 1.5}], ids=["plain", "all"])
def test_without_pauses_it_is_adam(options: dict[str, float]) -> None:
    ours, theirs = network(*range(SEEDS)), network(*range(SEEDS))
    pausing, reference = PausingAdam(ours, 3e-3, **options), Adam(theirs, 3e-3, **options)
    for parts in gradients(SEEDS):
        pausing.step(parts)
        reference.step(parts)
    torch.testing.assert_close(ours.flat, theirs.flat, rtol=0.0, atol=1e-6)


def test_each_seed_takes_torchs_steps_when_it_moves_and_none_when_it_pauses() -> None:
    together = network(*range(SEEDS))
    optimizer = PausingAdam(together, 3e-3, weight_decay=0.1, max_gradient_norm=1.5)
    alone = [[parameter[s].detach().clone() for parameter in together.parameters()] for s in range(SEEDS)]
    references = [torch.optim.AdamW(parts, lr=3e-3, weight_decay=0.1) for parts in alone]
    for moving, parts in zip(MOVING, gradients(SEEDS), strict=True):
        before = together.flat.clone()
        optimizer.descend(torch.cat([part.flatten() for part in parts]), moving=moving)
        paused = optimizer.by_seed(together.flat == before).all(dim=1)
        assert torch.equal(paused, ~moving)
        for s in moving.nonzero().flatten().tolist():
            for parameter, part in zip(alone[s], parts, strict=True):
                parameter.grad = part[s].clone()
            torch.nn.utils.clip_grad_norm_(alone[s], 1.5)
            references[s].step()
    assert optimizer.steps.tolist() == MOVING.sum(dim=0).tolist()
    for s in range(SEEDS):
        for ours, theirs in zip(together.parameters(), alone[s], strict=True):
            torch.testing.assert_close(ours[s], theirs, rtol=0.0, atol=1e-6)


def test_a_rate_of_its_own_scales_the_step() -> None:
    nets = [network(0), network(0)]
    for net, rate in zip(nets, (1e-2, 2e-2), strict=True):
        PausingAdam(net, 1e-2).descend(torch.ones_like(net.flat), rate)
    start = network(0).flat
    torch.testing.assert_close(nets[1].flat - start, 2.0 * (nets[0].flat - start), rtol=1e-3, atol=1e-7)


def test_its_state_is_named_like_adams_and_counts_per_seed() -> None:
    named = PausingAdam(network(0, 1), 1e-3).named_tensors()
    assert named.keys() == Adam(network(0, 1), 1e-3).named_tensors().keys()
    assert named["steps"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", [Adam, PausingAdam])
def test_a_loss_is_minimized_at_a_share_of_the_rate(kind: type[Adam]) -> None:
    ours, theirs, x = network(0, 1), network(0, 1), torch.ones(2, 4, 3)
    optimizer, reference = kind(ours, 1e-2), Adam(theirs, 2.5e-3)
    for rate in (0.25, torch.tensor(0.25)):
        minimize(optimizer, ours(x).square().mean(dim=(1, 2)), rate, None)
        reference.minimize(theirs(x).square().mean(dim=(1, 2)).sum())
    torch.testing.assert_close(ours.flat, theirs.flat)


def test_minimizing_leaves_paused_seeds_alone() -> None:
    net = network(0, 1)
    before = net.flat.clone()
    optimizer = PausingAdam(net, 1e-2)
    minimize(optimizer, net(torch.ones(2, 4, 3)).sum(dim=(1, 2)), 1.0, torch.tensor([False, True]))
    assert optimizer.by_seed(net.flat == before).all(dim=1).tolist() == [True, False]
