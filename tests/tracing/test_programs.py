"""Random programs of views, arithmetic, gradients and changes in place: traced, they do what they do as they are."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tracing.running import Store, check

Choice = random.Random
VIEWS: list[Callable[[Tensor, Choice], Tensor]] = [
    lambda x, r: x.transpose(0, 1),
    lambda x, r: x.reshape(-1),
    lambda x, r: x.mT.reshape(-1) if x.dim() > 1 else x,
    lambda x, r: x.unsqueeze(r.randrange(x.dim() + 1)),
    lambda x, r: x[..., : max(1, x.shape[-1] - 1)],
    lambda x, r: x[..., r.randrange(x.shape[-1])],
    lambda x, r: x.unsqueeze(0).expand(2, *x.shape),
    lambda x, r: x.flatten(0, 1) if x.dim() > 1 else x.view(1, -1),
    lambda x, r: x.detach(),
    lambda x, r: x.split(max(1, x.shape[-1] // 2), -1)[-1],
]
MATHS: list[Callable[[Tensor, Choice], Tensor]] = [
    lambda x, r: x.tanh(),
    lambda x, r: x.relu(),
    lambda x, r: (x * r.choice([2.0, -0.5, 1.0])).sin(),
    lambda x, r: x.clone(),
    lambda x, r: x.square().tanh(),
    lambda x, r: x.sum(r.randrange(x.dim()), keepdim=True).tanh(),
    lambda x, r: x.mean(r.randrange(x.dim()), keepdim=True) + x,
    lambda x, r: x.softmax(-1),
    lambda x, r: x.clamp(-0.3, 0.4),
    lambda x, r: torch.where(x > 0, x, x * 0.1),
    lambda x, r: torch.cat([x, x * 0.5], -1)[..., : x.shape[-1]],
    lambda x, r: torch.cat([(x + 1.0).flatten(), x.sigmoid().reshape(-1)])[: x.numel()].view(x.shape),
    lambda x, r: (x.flatten(0, -2) @ x.flatten(0, -2).mT).tanh() if x.dim() > 1 else x,
    lambda x, r: x.gather(-1, x.argmax(-1, keepdim=True)),
]
IN_PLACE: list[Callable[[Tensor], Any]] = [
    lambda x: x.mul_(0.5),
    lambda x: x.add_(0.25),
    lambda x: x.relu_(),
    lambda x: x.clamp_(-0.5, 0.5),
    lambda x: x[..., :1].fill_(0.125),
    lambda x: x.view(-1)[::2].mul_(-1.0) if x.is_contiguous() else x.neg_(),
]


def program(seed: int, length: int = 24, largest: int = 4000) -> Callable[[Any, Tensor, Tensor], Any]:
    """A function of a state and two tensors, the same one for each seed."""

    def run(state: Store, x: Tensor, y: Tensor) -> Any:
        r = random.Random(seed)
        leaf = (x * 1.0).detach().requires_grad_()
        pool: list[Tensor] = [leaf, y, state.x.clone(), leaf * 0.5, y * 2.0]
        for _ in range(length):
            kind, one = r.random(), r.choice(pool)
            if not one.numel() or one.numel() > largest or one.dim() > 4:
                continue
            if one.dim() < 2:
                one = one.reshape(1, -1)
            if kind < 0.1:
                # Before and behind changes it is another value, although it is written the same.
                pool.append(r.choice([state.x.clone(), state.x * 2.0, state.x[..., 1:].tanh()]))
            elif kind < 0.35:
                pool.append(r.choice(VIEWS)(one, r))
            elif kind < 0.75:
                pool.append(r.choice(MATHS)(one, r))
            elif kind < 0.85:
                other = r.choice(pool)
                pool.append((one.sum() * other + one.reshape(-1)[0]).tanh())
            elif kind < 0.95:
                fresh = (one.detach() + 0.1).clone() if r.random() < 0.5 else one.detach().tanh()
                pool.append(fresh)
                r.choice(IN_PLACE)(fresh)
                pool.append(fresh * 1.0)
                r.choice(IN_PLACE)(fresh)
            else:
                state.x.mul_(0.5).add_(one.detach().mean())
        smooth = [part.tanh().mean() for part in pool if part.requires_grad and part.numel()]
        (gradient,) = torch.autograd.grad(sum(smooth), leaf)
        state.x.add_(gradient, alpha=0.1)
        state.count.add_(1)
        return {"pool": [part.detach() for part in pool[3:]], "gradient": gradient}

    return run


@pytest.mark.parametrize("seed", range(60))
def test_random_programs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draws = [[torch.randn(3, 4, generator=generator) for _ in range(2)] for _ in range(3)]
    check(program(seed), draws)


@pytest.mark.parametrize("seed", range(30))
def test_random_programs_on_larger_tensors(seed: int) -> None:
    """Where some operations are PyTorch's."""
    generator = torch.Generator().manual_seed(seed)
    draws = [[torch.randn(50, 70, generator=generator) for _ in range(2)] for _ in range(2)]
    check(program(seed + 100, largest=20_000), draws, Store(torch.zeros(50, 70)), tolerance=1e-4)


@pytest.mark.parametrize("seed", range(60, 70))
def test_long_random_programs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    draws = [[torch.randn(3, 4, generator=generator) for _ in range(2)] for _ in range(2)]
    check(program(seed, 120), draws)


def test_views_of_what_is_computed_again_keep_what_stands_for_it() -> None:
    """The second e^x is the first one; a product with a view of it may not take its memory: its gradient needs it."""

    def run(state: Store, x: Tensor, y: Tensor) -> Tensor:
        leaf = state.x.detach().requires_grad_()
        with torch.no_grad():
            before = (leaf.exp() * y).sum()
        loss = (leaf.exp().view(-1) * x.view(-1)).square().sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        state.x.sub_(0.1 * gradient)
        return before

    inputs = [[torch.randn(3, 4), torch.randn(3, 4)] for _ in range(4)]
    check(run, inputs)
