"""States: all that they hold is saved and comes back bit for bit, or they are refused by name."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offrl.errors import RunError
from offrl.nn import MLP, Adam, seed_generators
from offrl.nn.state import copy_state, modules_of, restore_state, state_tensors
from offrl.types import NOT_SAVED

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AMSGrad": lambda parameters: torch.optim.Adam(parameters, lr=0.01, amsgrad=True),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "RMSprop": lambda parameters: torch.optim.RMSprop(parameters, lr=0.01, momentum=0.5, centered=True),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.1),
    "Adadelta": lambda parameters: torch.optim.Adadelta(parameters),
    "NAdam": lambda parameters: torch.optim.NAdam(parameters, lr=0.01),
    "RAdam": lambda parameters: torch.optim.RAdam(parameters, lr=0.01),
    "Adamax": lambda parameters: torch.optim.Adamax(parameters, lr=0.01),
    "ASGD": lambda parameters: torch.optim.ASGD(parameters, lr=0.01),
    "Rprop": lambda parameters: torch.optim.Rprop(parameters, lr=0.01),
    "LBFGS": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=2),
    "a rate in a tensor": lambda parameters: torch.optim.Adam(parameters, lr=torch.tensor(0.01)),
    "two groups": lambda parameters: torch.optim.Adam(
        [{"params": each, "lr": 0.01 * (1 + i)} for i, each in enumerate(parameters)]
    ),
}


@dataclass
class Inner:
    """A state within a state."""

    tensor: Tensor
    steps: int = 0


class Pair(NamedTuple):
    """Two tensors."""

    first: Tensor
    second: Tensor


@dataclass
class State:
    """One of everything that a checkpoint can hold."""

    tensor: Tensor
    module: nn.Module
    optimizer: Adam
    torch_optimizer: torch.optim.Optimizer
    inner: Inner
    mapping: dict[Any, Any]
    items: list[Any]
    pair: Pair
    nothing: Tensor | None = None
    count: int = 0
    rate: float = 0.5
    ready: bool = False
    scratch: Any = field(default=None, metadata=NOT_SAVED)


def make_state(seed: int) -> State:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    network = MLP(3, 2, (4,), seed_generators([seed, seed + 1]))
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    return State(
        tensor=draw(2, 3),
        module=module,
        optimizer=Adam(network, 0.01),
        torch_optimizer=torch.optim.Adam(module.parameters(), lr=0.01),
        inner=Inner(draw(2), seed),
        mapping={"network": network, 7: [draw(1), {"deep": Inner(draw(3), 2 * seed)}], "number": 1.5 * seed},
        items=[draw(2, 2), seed, (draw(1), draw(2))],
        pair=Pair(draw(2), draw(3)),
        count=seed,
        rate=seed / 3.0,
        ready=bool(seed % 2),
        scratch=object(),
    )


def learn(state: State) -> None:
    """A step of both optimizers."""
    network: MLP = state.mapping["network"]
    state.optimizer.minimize(network(torch.ones(2, 5, 3)).square().sum())
    state.torch_optimizer.zero_grad()
    state.module(torch.linspace(-1.0, 1.0, 15).view(5, 3)).square().sum().backward()
    state.torch_optimizer.step()


def saved(state: Any) -> dict[str, Tensor]:
    """As a checkpoint has it: in memory of its own."""
    return {name: tensor.clone() for name, tensor in state_tensors(state).items()}


def assert_same(one: Any, other: Any) -> None:
    ours, theirs = state_tensors(one), state_tensors(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


def test_everything_has_a_dotted_name() -> None:
    state = make_state(1)
    learn(state)
    names = state_tensors(state).keys()
    assert names >= {
        "tensor",
        "module.0.weight",
        "module.1.running_mean",
        "module.1.num_batches_tracked",
        "optimizer.steps",
        "optimizer.first_moment.layers.1.bias",
        "torch_optimizer.state.0.exp_avg",
        "torch_optimizer.state.3.step",
        "torch_optimizer.groups.0.lr",
        "inner.tensor",
        "inner.steps",
        "mapping.network.layers.0.weight",
        "mapping.7.0",
        "mapping.7.1.deep.tensor",
        "mapping.7.1.deep.steps",
        "mapping.number",
        "items.0",
        "items.1",
        "items.2.1",
        "pair.0",
        "count",
        "rate",
        "ready",
    }
    assert not any(name.startswith(("nothing", "scratch")) for name in names)


def test_tensors_are_the_state_s_own() -> None:
    state = make_state(1)
    tensors = state_tensors(state)
    tensors["tensor"].fill_(5.0)
    tensors["module.0.bias"].fill_(3.0)
    tensors["items.0"].fill_(4.0)
    assert state.tensor.eq(5.0).all()
    assert state.module[0].bias.eq(3.0).all()  # type: ignore[index]
    assert state.items[0].eq(4.0).all()


@pytest.mark.parametrize("trained", [False, True])
def test_a_state_comes_back_bit_for_bit_and_learns_on_the_same(trained: bool) -> None:
    """Also into one that has learned already, or whose optimizers remember nothing yet."""
    state, other = make_state(1), make_state(6)
    for _ in range(3):
        learn(state)
    if trained:
        learn(other)
    tensors, scratch = {name: id(tensor) for name, tensor in state_tensors(other).items()}, other.scratch
    restore_state(other, saved(state), "here")
    assert_same(other, state)
    assert (other.count, other.rate, other.ready) == (1, 1.0 / 3.0, True)
    assert (other.inner.steps, other.mapping[7][1]["deep"].steps) == (1, 2)
    assert (other.mapping["number"], other.items[1]) == (1.5, 1)
    assert [type(part) for part in (other.count, other.rate, other.ready, other.items[1])] == [int, float, bool, int]
    assert other.scratch is scratch
    # Storage stays where it was, so that views and captured updates stay true.
    kept = ("tensor", "inner.tensor", "items.0", "mapping.7.0", "pair.1", "items.2.0")
    assert all(id(state_tensors(other)[name]) == tensors[name] for name in kept)
    network = other.mapping["network"]
    assert torch.equal(network.flat, state.mapping["network"].flat)
    for _ in range(2):
        learn(state)
        learn(other)
    assert_same(other, state)


def test_copies_share_nothing() -> None:
    state, other = make_state(1), make_state(6)
    learn(state)
    copy_state(other, state, "here")
    assert_same(other, state)
    before = saved(other)
    learn(state)
    state.tensor.add_(1.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state_tensors(other).items())


@dataclass
class Optimized:
    """A module and whatever optimizes it."""

    module: nn.Module
    optimizer: torch.optim.Optimizer


def make_optimized(name: str, seed: int) -> Optimized:
    torch.manual_seed(seed)
    module = nn.Linear(3, 2)
    return Optimized(module, OPTIMIZERS[name](list(module.parameters())))


def optimize(state: Optimized) -> None:
    def loss() -> Tensor:
        state.optimizer.zero_grad()
        value: Tensor = state.module(torch.linspace(-1.0, 1.0, 15).view(5, 3)).square().sum()
        value.backward()
        return value

    state.optimizer.step(loss)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"LBFGS"}))
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_any_optimizer_goes_on_as_if_it_had_never_stopped(name: str, steps: int) -> None:
    """What it remembers is made at its first step, and schedules change its rate."""
    state, other = make_optimized(name, 0), make_optimized(name, 1)
    for _ in range(steps):
        optimize(state)
        for group in state.optimizer.param_groups:
            group["lr"] = group["lr"] * 0.5
    optimize(other)
    restore_state(other, saved(state), "here")
    assert_same(other, state)
    rates = [[group["lr"] for group in each.optimizer.param_groups] for each in (state, other)]
    assert rates[0] == rates[1]
    assert [type(rate) for rate in rates[0]] == [type(rate) for rate in rates[1]]
    for _ in range(3):
        optimize(state)
        optimize(other)
    assert_same(other, state)


def test_an_optimizer_that_remembers_lists_is_refused_by_name() -> None:
    state = make_optimized("LBFGS", 0)
    state_tensors(state)
    optimize(state)
    with pytest.raises(RunError, match=r"'optimizer\.state\.0\.old_dirs' is a list, which a checkpoint can't hold"):
        state_tensors(state)


def test_an_optimizer_of_another_kind_or_of_other_groups_is_refused() -> None:
    state = make_optimized("Adam", 0)
    optimize(state)
    for name in ("SGD", "two groups", "Rprop"):
        other = make_optimized(name, 0)
        before = saved(other)
        with pytest.raises(RunError, match="another agent or version"):
            restore_state(other, saved(state), "here")
        assert all(torch.equal(tensor, before[key]) for key, tensor in state_tensors(other).items())


def test_what_an_optimizer_remembers_has_its_parameter_s_shape() -> None:
    state = make_optimized("Adam", 0)
    optimize(state)
    tensors = saved(state)
    tensors["optimizer.state.0.exp_avg"] = torch.zeros(5)
    other = make_optimized("Adam", 1)
    optimize(other)
    before = saved(other)
    with pytest.raises(RunError, match=r"'optimizer\.state\.0\.exp_avg' has shape \(5,\) in the checkpoint"):
        restore_state(other, tensors, "here")
    assert all(torch.equal(tensor, before[key]) for key, tensor in state_tensors(other).items())


@dataclass
class Holder:
    """Anything."""

    part: Any
    tensor: Tensor = field(default_factory=lambda: torch.zeros(2))


class Noted(nn.Module):
    """A module that keeps what is no tensor beside its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def get_extra_state(self) -> Any:
        return {"note": "text"}


BAD: dict[str, tuple[Any, str]] = {
    "text": ("mean", "'part' is a str,"),
    "an array": (np.zeros(3), "'part' is a ndarray,"),
    "a NumPy number": (np.float64(1.0), "'part' is a float64,"),
    "a generator": (torch.Generator(), "'part' is a Generator,"),
    "a function": (len, "'part' is a builtin_function_or_method,"),
    "a set": ({1, 2}, "'part' is a set,"),
    "a deque": (deque([torch.zeros(1)]), "'part' is a deque,"),
    "a class": (Inner, "'part' is a type,"),
    "text in a list": ([torch.zeros(1), "mean"], "'part.1' is a str,"),
    "text deep down": ({"a": [Holder({"b": ("c",)})]}, r"'part\.a\.0\.part\.b\.0' is a str,"),
    "a key that is no name": ({(1, 2): torch.zeros(1)}, r"'part' is a tuple as a key,"),
    "a number in a tuple": ((torch.zeros(1), 3), r"'part\.1' is a int in a tuple, where it can't be put back,"),
    "a module with a note": (Noted(), r"'part\._extra_state' is a dict,"),
    "names that are the same": ({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}, r"'part\.a\.b' is there twice"),
    "a number as a name": ({"1": torch.zeros(1), 1: torch.ones(1)}, r"'part\.1' is there twice"),
    "a sparse tensor": (torch.eye(3).to_sparse(), "'part' is a sparse tensor,"),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_can_not_be_saved_is_refused_by_name(case: tuple[Any, str]) -> None:
    part, words = case
    with pytest.raises(RunError, match=words) as raised:
        state_tensors(Holder(part))
    assert "NOT_SAVED" in raised.value.hint or "twice" in words


@pytest.mark.parametrize("state", [torch.zeros(2), {"a": torch.zeros(2)}, Inner, None])
def test_a_state_is_a_dataclass(state: Any) -> None:
    with pytest.raises(RunError, match="'the state itself' is a"):
        state_tensors(state)


def test_ordered_mappings_and_empty_ones_are_fine() -> None:
    state, other = (Holder(OrderedDict(b=torch.full((1,), n), a=[], c={}, d=None, e=())) for n in (1.0, 2.0))
    assert state_tensors(state).keys() == {"part.b", "tensor"}
    copy_state(other, state, "here")
    assert other.part["b"].item() == 1.0


def test_frozen_dataclasses_come_back() -> None:
    """A number in one can't be set by name, but it can be put back."""

    @dataclass(frozen=True)
    class Frozen:
        tensor: Tensor
        number: int

    state, other = Holder(Frozen(torch.ones(2), 3)), Holder(Frozen(torch.zeros(2), 4))
    copy_state(other, state, "here")
    assert (other.part.number, other.part.tensor.tolist()) == (3, [1.0, 1.0])


@pytest.mark.parametrize("change", ["missing", "more", "shape"])
def test_what_does_not_fit_changes_nothing(change: str) -> None:
    state, other = make_state(1), make_state(6)
    learn(state)
    tensors, before = saved(state), saved(other)
    if change == "missing":
        del tensors["inner.steps"]
        words = "another agent or version\n.*runs/x: inner.steps"
    elif change == "more":
        tensors["inner.more"] = torch.zeros(1)
        words = "another agent or version\n.*runs/x: inner.more"
    else:
        tensors["pair.1"] = torch.zeros(4)
        words = r"'pair.1' has shape \(4,\) in the checkpoint, \(3,\) here"
    with pytest.raises(RunError, match=words):
        restore_state(other, tensors, "runs/x")
    after = state_tensors(other)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_modules_are_found_wherever_they_are() -> None:
    state = make_state(1)
    found = list(modules_of(dataclasses.replace(state, nothing=None, items=[[nn.Linear(1, 1)]])))
    assert len(found) == 3
    assert state.module in found
    assert state.mapping["network"] in found
