"""Adam over flat parameters takes the steps of PyTorch's own optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from offrl.nn import MLP, Adam, Schedule, seed_generators
from offrl.nn.adam import ended_schedule

STEPS = 20


def make_network(*seeds: int) -> MLP:
    return MLP(3, 2, (6,), seed_generators(seeds))


def loss_of(network: nn.Module, step: int, seeds: int) -> Tensor:
    """Something with gradients of very different sizes."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(1, 8, 3, generator=generator).expand(seeds, -1, -1)
    output: Tensor = network(x)
    return ((output - x[..., :2]).square() * torch.tensor([1.0, 1e-3])).mean(dim=(1, 2)).sum()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_it_takes_the_steps_of_torch(weight_decay: float) -> None:
    ours, theirs = make_network(0), make_network(0)
    optimizer = Adam(ours, 3e-3, weight_decay=weight_decay)
    reference = torch.optim.AdamW(theirs.parameters(), lr=3e-3, weight_decay=weight_decay)
    for step in range(STEPS):
        optimizer.minimize(loss_of(ours, step, 1))
        reference.zero_grad()
        loss_of(theirs, step, 1).backward()
        reference.step()
    torch.testing.assert_close(ours.flat, theirs.flat, rtol=0.0, atol=1e-6)
    assert not torch.allclose(ours.flat, make_network(0).flat, atol=1e-3)


def test_without_decay_it_is_plain_adam() -> None:
    ours, theirs = make_network(0), make_network(0)
    optimizer, reference = Adam(ours, 1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for step in range(STEPS):
        optimizer.minimize(loss_of(ours, step, 1))
        reference.zero_grad()
        loss_of(theirs, step, 1).backward()
        reference.step()
    torch.testing.assert_close(ours.flat, theirs.flat, rtol=0.0, atol=1e-6)


def test_the_step_size_falls_to_nothing_as_torch_schedules_it() -> None:
    ours, theirs = make_network(0), make_network(0)
    optimizer = Adam(ours, 1e-2, schedule=Schedule(decay_steps=8))
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(reference, 1.0, 0.0, total_iters=8)
    for step in range(8):
        optimizer.minimize(loss_of(ours, step, 1))
        reference.zero_grad()
        loss_of(theirs, step, 1).backward()
        reference.step()
        schedule.step()
    torch.testing.assert_close(ours.flat, theirs.flat, rtol=0.0, atol=1e-6)
    last = ours.flat.clone()
    optimizer.minimize(loss_of(ours, 8, 1))
    assert torch.equal(ours.flat, last)


def test_the_step_size_can_stay_before_it_falls() -> None:
    optimizer = Adam(make_network(0), 0.3, schedule=Schedule(decay_steps=4, constant_steps=3))
    rates = []
    for _ in range(9):
        before = optimizer.flat.clone()
        # Adam's first moment over the root of its second is 1 where all gradients are the same.
        optimizer.descend(torch.ones_like(before))
        rates.append(float((before - optimizer.flat).mean()))
    assert rates == pytest.approx([0.3, 0.3, 0.3, 0.3, 0.225, 0.15, 0.075, 0.0, 0.0], abs=1e-6)


def test_the_first_step_is_the_learning_rate_against_the_gradient() -> None:
    network = make_network(0)
    before = network.flat.clone()
    optimizer = Adam(network, 0.01)
    gradients = [torch.full_like(parameter, 2.0) for parameter in network.parameters()]
    gradients[0].fill_(-5.0)
    optimizer.step(gradients)
    first = gradients[0].numel()
    torch.testing.assert_close(network.flat[:first], before[:first] + 0.01)
    torch.testing.assert_close(network.flat[first:], before[first:] - 0.01)


def test_seeds_together_take_the_steps_of_each_alone() -> None:
    seeds = (4, 5, 6)
    together = make_network(*seeds)
    optimizer = Adam(together, 1e-2)
    for step in range(STEPS):
        optimizer.minimize(loss_of(together, step, len(seeds)))
    for position, seed in enumerate(seeds):
        alone = make_network(seed)
        single = Adam(alone, 1e-2)
        for step in range(STEPS):
            single.minimize(loss_of(alone, step, 1))
        for ours, theirs in zip(together.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(ours[position], theirs[0], rtol=0.0, atol=1e-6)


def test_its_state_is_named_after_the_parameters_and_shaped_like_them() -> None:
    network = make_network(0, 1)
    named = Adam(network, 1e-3).named_tensors()
    for name, parameter in network.named_parameters():
        for moment in ("first_moment", "second_moment"):
            assert named[f"{moment}.{name}"].shape == parameter.shape
    assert len(named) == 1 + 2 * len(list(network.parameters()))
    assert named["steps"].item() == 0.0


def test_a_restored_optimizer_goes_on_bit_for_bit() -> None:
    network = make_network(0, 1)
    optimizer = Adam(network, 1e-2)
    for step in range(5):
        optimizer.minimize(loss_of(network, step, 2))
    saved = {name: tensor.clone() for name, tensor in optimizer.named_tensors().items()}
    resumed = network.clone()
    restored = Adam(resumed, 1e-2)
    for name, tensor in restored.named_tensors().items():
        tensor.copy_(saved[name])
    assert restored.steps.item() == 5.0
    for step in range(5, 10):
        optimizer.minimize(loss_of(network, step, 2))
        restored.minimize(loss_of(resumed, step, 2))
    assert torch.equal(network.flat, resumed.flat)


def test_a_second_step_at_the_same_gradient_is_hand_computed() -> None:
    network = MLP(1, 1, (), seed_generators([0]))
    network.flat.zero_()
    optimizer = Adam(network, 0.1)
    weight, bias = 3.0, 1.0
    for _ in range(2):
        optimizer.step([torch.full((1, 1, 1, 1), weight), torch.full((1, 1, 1, 1), bias)])
    # m̂ = g and v̂ = g² after any number of equal gradients, so each step is lr · g / (|g| + ε).
    torch.testing.assert_close(network.flat, torch.tensor([-0.2, -0.2]), rtol=0.0, atol=1e-6)
    optimizer.step([torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)])
    mean = (0.9 * (1 - 0.9**2)) / (1 - 0.9**3)
    spread = (0.999 * (1 - 0.999**2)) / (1 - 0.999**3)
    expected = -0.2 - 0.1 * mean / spread**0.5
    torch.testing.assert_close(network.flat, torch.tensor([expected, expected]), rtol=0.0, atol=1e-6)


def test_long_gradients_are_clipped_as_torch_clips_them_each_seed_by_itself() -> None:
    together = make_network(0, 1)
    optimizer = Adam(together, 3e-3, max_gradient_norm=0.05)
    plains = [make_network(0), make_network(1)]
    references = [torch.optim.Adam(plain.parameters(), lr=3e-3) for plain in plains]
    clipped = 0
    for step in range(STEPS):
        optimizer.minimize(loss_of(together, step, 2))
        for plain, reference in zip(plains, references, strict=True):
            reference.zero_grad()
            loss_of(plain, step, 1).backward()
            clipped += int(nn.utils.clip_grad_norm_(plain.parameters(), 0.05) > 0.05)
            reference.step()
    assert clipped > 0
    for position, plain in enumerate(plains):
        for ours, theirs in zip(together.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours[position], theirs[0], rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("rate", [2e-2, torch.tensor(2e-2)], ids=["number", "tensor"])
def test_another_rate_holds_for_one_step(rate: float | Tensor) -> None:
    moves = []
    for given in (None, rate):
        network = make_network(0)
        optimizer, before = Adam(network, 1e-2), network.flat.clone()
        optimizer.descend(torch.ones_like(network.flat), given)
        moves.append(before - network.flat)
        assert optimizer.learning_rate == 1e-2
    torch.testing.assert_close(moves[1], 2.0 * moves[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("seeds", [1, 3])
def test_rows_by_seed_hold_each_seeds_elements(seeds: int) -> None:
    network = make_network(*range(seeds))
    optimizer = Adam(network, 1e-3)
    rows = optimizer.by_seed(network.flat)
    for seed in range(seeds):
        assert torch.equal(rows[seed], torch.cat([parameter[seed].flatten() for parameter in network.parameters()]))
    assert torch.equal(optimizer.by_parameter(rows), network.flat)


def test_a_schedule_has_ended_where_any_step_size_is_0() -> None:
    endless, short, long = (Adam(make_network(0), 0.1, schedule=Schedule(decay_steps=steps)) for steps in (0, 1, 3))
    told = []
    for _ in range(4):
        told.append(ended_schedule((endless, short, long)))
        for optimizer in (endless, short, long):
            optimizer.descend(torch.ones_like(optimizer.flat))
    assert told == [0, 1, 2, 3]
