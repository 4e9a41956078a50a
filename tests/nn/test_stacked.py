"""Stacked modules against each seed's module by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from offrl.nn import Adam, seed_generators, stacked
from offrl.nn.flat import joined
from offrl.nn.stacked import Stacked

SEEDS = (3, 7)


class Residual(nn.Module):
    """A layer in two places, a weight that two layers share, a buffer, and an output that is no tensor."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = self.third = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("scale", torch.randn(4))

    def forward(self, x: Tensor, *, times: int = 1, shift: Tensor | None = None) -> tuple[Tensor, None]:
        for _ in range(times):
            x = x + self.third(self.second(self.first(x).tanh()).tanh()) * self.scale
        return x if shift is None else x + shift, None


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(3, 2), (5, 3)),
    "sequential": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)), (5, 3)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (5, 6, 8)),
    "GRU": (lambda: nn.GRU(3, 4, batch_first=True), (5, 6, 3)),
    "LSTM": (lambda: nn.LSTM(3, 4, num_layers=2, batch_first=True), (5, 6, 3)),
    "convolution": (lambda: nn.Conv1d(3, 4, 3), (5, 3, 9)),
    "residual": (Residual, (5, 4)),
}


def draws(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def alone(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()


def first(output: Any) -> Tensor:
    """The output, or the first one."""
    part: Tensor = output[0] if isinstance(output, tuple) else output
    return part


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("error")
def test_each_seed_is_the_module_by_itself(name: str) -> None:
    make, shape = MODULES[name]
    module, x = stacked(make, SEEDS), draws(2, *shape)
    outputs = module(x), module(x)
    assert module.together == (name not in ("GRU", "LSTM", "residual"))
    for output in outputs:
        for position, seed in enumerate(SEEDS):
            expected = alone(make, seed)(x[position])
            torch.testing.assert_close(first(output)[position], first(expected))


@pytest.mark.parametrize(
    ("name", "adam"), [*((name, False) for name in MODULES), ("sequential", True), ("GRU", True), ("residual", True)]
)
def test_training_together_equals_training_each_alone(name: str, adam: bool) -> None:
    """By gradient descent, and by Adam where no gradient is but rounding errors, as that of attention's keys is."""
    make, shape = MODULES[name]
    x, target = draws(2, *shape), 0.3
    together = stacked(make, SEEDS)
    ours, descent = Adam(together, 1e-2), torch.optim.SGD(together.parameters(), lr=0.1)
    modules = [alone(make, seed) for seed in SEEDS]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Adam(module.parameters(), lr=1e-2) if adam else torch.optim.SGD(module.parameters(), lr=0.1)
        for module in modules
    ]
    for _ in range(5):
        loss = (first(together(x)) - target).square().flatten(1).mean(dim=1).sum()
        if adam:
            ours.minimize(loss)
        else:
            descent.zero_grad()
            loss.backward()
            descent.step()
        for position, (module, one) in enumerate(zip(modules, optimizers, strict=True)):
            one.zero_grad()
            (first(module(x[position])) - target).square().mean().backward()
            one.step()
    for position, module in enumerate(modules):
        for (mine, whole), (theirs, parameter) in zip(
            together.module.named_parameters(), module.named_parameters(), strict=True
        ):
            assert mine == theirs
            torch.testing.assert_close(whole[position], parameter, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODULES)
def test_a_seed_depends_on_no_other(name: str) -> None:
    make, _ = MODULES[name]
    together = stacked(make, SEEDS)
    for position, seed in enumerate(SEEDS):
        for ours, theirs in zip(
            together.state_dict().values(), stacked(make, [seed]).state_dict().values(), strict=True
        ):
            assert torch.equal(ours[position], theirs[0])
    weights = together.own_parameters[0]
    assert not torch.equal(weights[0], weights[1])


@pytest.mark.parametrize("name", ["linear", "sequential", "transformer", "GRU", "LSTM", "convolution"])
def test_copies_of_a_module_get_weights_of_their_own(name: str) -> None:
    make, shape = MODULES[name]
    given = make()
    before = [parameter.detach().clone() for parameter in given.parameters()]
    module = stacked(given, SEEDS)
    for parameter, was in zip(given.parameters(), before, strict=True):
        assert torch.equal(parameter, was)
    again = stacked(make(), SEEDS)
    assert torch.equal(module.flat, again.flat), "whatever the module's own weights were"
    assert torch.equal(module(draws(2, *shape))[0], again(draws(2, *shape))[0])
    matrices = [part for part in module.own_parameters if part.dim() > 2]
    for part in matrices:
        assert not torch.equal(part[0], part[1])
    # What starts as a constant does so here: the gains of normalizations, the biases of attention.
    for part, fresh in zip(module.own_parameters, given.parameters(), strict=True):
        assert (part == fresh).all().item() == (fresh == fresh.flatten()[0]).all().item()


def test_seeds_together_go_through_batched_operations() -> None:
    module = stacked(MODULES["sequential"][0], range(8))
    shapes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            shapes.append((str(func), [tuple(arg.shape) for arg in args if isinstance(arg, Tensor)]))
            return func(*args, **(kwargs or {}))

    with Watch():
        module(draws(8, 5, 3))
    products = [found for name, found in shapes if "mm" in name]
    assert len(products) == 2
    assert all(found[-1][0] == 8 for found in products)


def test_arguments_and_outputs_may_be_nested_and_others_are_for_all_seeds() -> None:
    module = stacked(MODULES["LSTM"][0], SEEDS)
    x, memory = draws(2, 5, 6, 3), (draws(2, 2, 5, 4), draws(2, 2, 5, 4))
    output, (hidden, cell) = module(x, memory)
    for position, seed in enumerate(SEEDS):
        expected, (last, kept) = alone(MODULES["LSTM"][0], seed)(x[position], tuple(part[position] for part in memory))
        torch.testing.assert_close(output[position], expected)
        torch.testing.assert_close(hidden[position], last)
        torch.testing.assert_close(cell[position], kept)
    residual = stacked(Residual, SEEDS)
    output, nothing = residual(draws(2, 5, 4), times=3, shift=draws(2, 4))
    assert nothing is None
    expected, _ = alone(Residual, SEEDS[1])(draws(2, 5, 4)[1], times=3, shift=draws(2, 4)[1])
    torch.testing.assert_close(output[1], expected)


@pytest.mark.parametrize("name", ["sequential", "transformer"])
def test_hessian_vector_products_are_those_of_each_seed(name: str) -> None:
    make, shape = MODULES[name]
    module, x = stacked(make, SEEDS), draws(2, *shape)
    vector = [torch.randn(part.shape, generator=torch.Generator().manual_seed(8)) for part in module.own_parameters]
    products = hessian_vector_product(module(x).pow(3).flatten(1).mean(dim=1).sum(), module.own_parameters, vector)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        for position, seed in enumerate(SEEDS):
            plain = alone(make, seed)
            loss = plain(x[position]).pow(3).mean()
            expected = hessian_vector_product(loss, list(plain.parameters()), [part[position] for part in vector])
            for ours, theirs in zip(products, expected, strict=True):
                torch.testing.assert_close(ours[position], theirs, rtol=1e-4, atol=1e-5)
            assert joined(expected).abs().max() > 1e-3


def hessian_vector_product(loss: Tensor, parameters: Sequence[Tensor], vector: Sequence[Tensor]) -> list[Tensor]:
    """∇(gᵀ v), the gradient g of the loss being differentiated once more."""
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    product = sum((g * v).sum() for g, v in zip(gradients, vector, strict=True))
    assert isinstance(product, Tensor)
    return list(torch.autograd.grad(product, parameters))


def test_it_is_a_flat_module_and_a_torch_one() -> None:
    module = stacked(MODULES["sequential"][0], SEEDS)
    assert list(module.state_dict()) == [f"module.{name}" for name in MODULES["sequential"][0]().state_dict()]
    x = draws(2, 5, 3)
    before, target = module(x), module.clone()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(x).square().sum().backward()
    optimizer.step()
    assert torch.equal(joined(module.own_parameters), module.flat)
    assert not torch.equal(module(x), before)
    assert torch.equal(target(x), before)
    target.move_towards(module, 1.0)
    assert torch.equal(target(x), module(x))
    loaded = stacked(MODULES["sequential"][0], (1, 2))
    loaded.load_state_dict(module.state_dict())
    assert torch.equal(loaded(x), module(x))
    assert module.double()(x.double()).dtype == torch.float64


def test_modules_with_the_same_generators_start_apart() -> None:
    generators = seed_generators(SEEDS)
    one, other = (stacked(nn.Linear(3, 2), generators) for _ in range(2))
    assert not torch.equal(one.flat, other.flat)
    assert torch.equal(one.flat, stacked(nn.Linear(3, 2), SEEDS).flat)


def test_making_one_leaves_torchs_own_generator_alone() -> None:
    module = nn.Linear(3, 2)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    stacked(module, SEEDS)
    assert torch.equal(torch.rand(3), expected)


class Offset(nn.Module):
    """Weights that nothing can draw anew."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


def test_weights_that_can_t_be_drawn_anew_are_refused_and_made() -> None:
    with pytest.raises(TypeError, match="Offset '1' holds weights and has no reset_parameters"):
        stacked(nn.Sequential(nn.Linear(3, 3), Offset()), SEEDS)
    offset = stacked(Offset, SEEDS).own_parameters[0]
    assert not torch.equal(offset[0], offset[1])


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)),
        nn.LSTM(3, 4, num_layers=2, dropout=0.1),
        nn.MultiheadAttention(4, 2, dropout=0.1),
        nn.TransformerEncoderLayer(8, 2, 16),
    ],
    ids=lambda module: type(module).__name__,
)
def test_random_draws_within_are_refused(module: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"drops units at random \(p=0.1\)"):
        stacked(module, SEEDS)


def test_dropout_that_is_off_is_none() -> None:
    module = stacked(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.1)).eval(), SEEDS)
    x = draws(2, 5, 3)
    assert torch.equal(module(x), module(x))


def test_an_error_of_the_module_is_told_and_changes_nothing() -> None:
    module = stacked(nn.Linear(3, 2), SEEDS)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        module(draws(2, 5, 4))
    module(draws(2, 5, 3))
    assert isinstance(module, Stacked)
    assert module.together
