"""Every operation of the table, and those that PyTorch computes in the middle, against ATen on random shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from offrl.tracing.lowering import KERNELS
from tests.tracing.running import check

SHAPES = [(), (5,), (1, 7), (3, 4), (2, 3, 5), (1, 6, 1), (2, 1, 3, 4), (64, 64), (2, 200, 3)]
UNARY: dict[str, Callable[[Tensor], Any]] = {
    "abs": torch.abs,
    "neg": torch.neg,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda x: (x.abs() + 0.1).log(),
    "log1p": lambda x: x.abs().log1p(),
    "sqrt": lambda x: x.abs().sqrt(),
    "rsqrt": lambda x: (x.abs() + 0.1).rsqrt(),
    "reciprocal": lambda x: (x.abs() + 0.1).reciprocal(),
    "tanh": torch.tanh,
    "sin": torch.sin,
    "cos": torch.cos,
    "sign": torch.sign,
    "sgn": torch.sgn,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "isnan": lambda x: (x / 0.0 * 0.0).isnan(),
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "softplus": F.softplus,
    "silu": F.silu,
    "gelu": F.gelu,
    "elu": F.elu,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp from below": lambda x: x.clamp(min=-0.5),
    "clamp_min": lambda x: x.clamp_min(0.1),
    "clamp_max": lambda x: x.clamp_max(0.1),
    "square": torch.square,
    "cube": lambda x: x**3,
    "power": lambda x: (x.abs() + 0.1) ** 1.7,
    "root": lambda x: x.abs() ** 0.5,
    "inverse": lambda x: (x.abs() + 1.0) ** -1,
    "itself": lambda x: x**1 + x**1.0,
    "number behind": lambda x: x * 2.5 + 1.0 - 0.5,
    "number in front": lambda x: 1.0 - 2.0 * x,
    "over a number": lambda x: x / 3.0,
    "number over it": lambda x: 3.0 / (x.abs() + 1.0),
    "add scaled": lambda x: x.add(x.tanh(), alpha=0.3),
    "compare": lambda x: (x > 0.1, x >= 0.1, x < 0.1, x <= 0.1, x == x, x != 0.0),
    "logic": lambda x: ((x > 0) & (x < 1), (x > 0) | (x < -1), ~(x > 0), torch.logical_not(x > 0)),
    "logical": lambda x: (torch.logical_and(x > 0, x < 1), torch.logical_or(x > 0, x < -1)),
    "mask": lambda x: x * (x > 0),
    "to integers": lambda x: ((x * 10).long() + 2, (x * 10).long() * 3 - 1, (x * 10).long() * 0.5),
    "integers and floats": lambda x: ((x * 10).long() + x, (x > 0).long() * x, (x * 9).long() > x),
    "where": lambda x: torch.where(x > 0, x, -2.0 * x),
    "masked_fill": lambda x: x.masked_fill(x > 0, -1.0),
    "all of it": lambda x: (x.sum(), x.mean(), x.amax(), x.amin(), (x > 0).any(), (x > 0).all(), (x > 0).sum()),
    "doubles": lambda x: (x.double() * 2.0 + x, x.double().sum(), x.double().tanh().float()),
    "nothing but a copy": lambda x: (x.clone(), x.contiguous(), x.detach(), x.view(x.shape)),
    "ones and zeros": lambda x: (torch.ones_like(x) * x, torch.zeros_like(x) + x, x.new_full((3,), 2.0)),
    "numbers": lambda x: (torch.tensor(2.0) * x, torch.arange(4) + x.sum()),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda x, y: x / (y.abs() + 1.0),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "addcmul": lambda x, y: torch.addcmul(x, y, x),
    "addcmul scaled": lambda x, y: torch.addcmul(x, y, x, value=0.5),
    "addcdiv": lambda x, y: torch.addcdiv(x, x, y.abs() + 1.0),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3),
    "lerp by a tensor": lambda x, y: torch.lerp(x, y, y.sigmoid()),
    "compare": lambda x, y: (x == y, x != y, x < y, x <= y, x > y, x >= y),
    "twice": lambda x, y: (x * y + x * y, x - x),
    "last axis": lambda x, y: torch.cat([x[..., None], (x * y)[..., None]], -1),
    "stack": lambda x, y: torch.stack([x, x + y]),
}
PRODUCTS: dict[str, tuple[tuple[int, ...], ...]] = {
    "one stack": ((1, 6, 4), (1, 4, 5)),
    "stacks": ((3, 6, 4), (3, 4, 5)),
    "narrow": ((2, 200, 4), (2, 4, 3)),
    "narrow alone": ((1, 200, 4), (1, 4, 3)),
    "to one": ((1, 7, 4), (1, 4, 1)),
    "from one": ((2, 7, 1), (2, 1, 5)),
    "one row": ((1, 1, 4), (1, 4, 5)),
    "large": ((1, 80, 80), (1, 80, 80)),
    "large stacks": ((2, 130, 70), (2, 70, 70)),
    "large and narrow": ((2, 1200, 70), (2, 70, 9)),
    "matrices": ((6, 4), (4, 5)),
    "large matrices": ((80, 80), (80, 80)),
}


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    return [torch.randn(shape) for shape in shapes]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_tensor(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    check(lambda _, x: UNARY[name](x), [drawn(shape) for _ in range(3)])
    check(lambda _, x: UNARY[name](x * 1.5), [drawn(shape) for _ in range(2)])


@pytest.mark.parametrize("name", [name for name, f in UNARY.items() if name not in ("isnan", "doubles")])
def test_their_gradients(name: str) -> None:
    torch.manual_seed(0)

    def function(_: Any, x: Tensor) -> Any:
        leaf = (x * 1.0).detach().requires_grad_()
        results = UNARY[name](leaf)
        results = results if isinstance(results, tuple) else (results,)
        parts = [result.double().square().sum() for result in results if result.requires_grad]
        return torch.autograd.grad(sum(parts), leaf) if parts else ()

    for shape in [(5,), (2, 3, 5), (64, 64)]:
        # The derivative of `sgn` is a tensor without memory.
        check(function, [drawn(shape) for _ in range(2)], replayed=name != "sgn")


@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_tensors(name: str) -> None:
    torch.manual_seed(0)
    for shape in SHAPES:
        check(lambda _, x, y: BINARY[name](x, y), [drawn(shape, shape) for _ in range(2)])


@pytest.mark.parametrize("name", [name for name in BINARY if name not in ("last axis", "stack")])
def test_they_broadcast(name: str) -> None:
    torch.manual_seed(0)
    for one, other in [((3, 4), (4,)), ((2, 3, 4), (3, 1)), ((2, 3, 4), ()), ((2, 1, 4), (1, 3, 1)), ((5,), (2, 5))]:
        check(lambda _, x, y: BINARY[name](x, y), [drawn(one, other) for _ in range(2)])
        check(lambda _, x, y: BINARY[name](x * 2.0, y.tanh()), [drawn(one, other) for _ in range(2)])


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_and_their_gradients(name: str) -> None:
    torch.manual_seed(0)
    one, other = PRODUCTS[name]
    bias = (*one[:-2], 1, other[-1])

    def function(_: Any, x: Tensor, y: Tensor, b: Tensor) -> Any:
        x, y, b = ((part * 1.0).detach().requires_grad_() for part in (x, y, b))
        plain = x @ y
        added = torch.baddbmm(b, x, y) if x.dim() == 3 else torch.addmm(b, x, y)
        loss = plain.tanh().mean() + added.relu().square().mean()
        return plain.detach(), added.detach(), torch.autograd.grad(loss, (x, y, b))

    check(function, [drawn(one, other, bias) for _ in range(3)])


@pytest.mark.parametrize("shape", [(6,), (1, 6), (2, 3), (2, 3, 5), (1, 8, 4), (2, 1, 3, 4), (1, 100, 90)], ids=str)
def test_reductions_over_all_sets_of_axes(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    count = len(shape)
    sets = [[axis for axis in range(count) if bits >> axis & 1] for bits in range(1, 2**count)]

    def function(_: Any, x: Tensor) -> Any:
        y = x * 1.0
        sums = [(y.sum(axes, keepdim=keep), y.mean(axes, keepdim=keep)) for axes in sets for keep in (False, True)]
        others = [(y.amax(axes), y.amin(axes), y.mT.sum() if count > 1 else y.sum()) for axes in sets]
        return sums, others, y.sum(-1).sum(), y[..., :2].sum(-1), y.expand(2, *shape).sum(0), y.expand(2, *shape).mean()

    check(function, [drawn(shape) for _ in range(2)])


REARRANGING: dict[str, Callable[[Tensor], Any]] = {
    "views": lambda x: (x.view(2, 12), x.flatten(), x.reshape(4, 6), x.unflatten(-1, (2, 2)), x.permute(2, 0, 1)),
    "of transposes": lambda x: (x.mT.reshape(-1), x.mT.flatten(1), x.transpose(0, 1).reshape(6, 4), x.mT.contiguous()),
    "slices": lambda x: (x[:, 1], x[..., 1:3], x[:, ::2], x[0, 1, 2], x[-1], x.narrow(1, 1, 2), x[None]),
    "parts": lambda x: (x.split(2, -1), x.unbind(1), x.chunk(2, -1), x.split([1, 3], -1)),
    "expanded": lambda x: (
        x[:, :1].expand(2, 3, 4),
        x.unsqueeze(1).expand(-1, 2, -1, -1).flatten(0, 1),
        x.repeat(2, 1, 1),
    ),
    "squeezed": lambda x: (x[:, :1].squeeze(1), x[:1].squeeze(), x.unsqueeze(-1).squeeze(-1)),
    "joined": lambda x: (torch.cat([x, x * 2.0], -1), torch.cat([x[:, :1], x], 1), torch.stack([x, -x], 1)),
    "flat": lambda x: torch.cat([(x * 2.0).flatten(), x.mT.reshape(-1), (x.mT * 3.0).reshape(-1), x.sum((0, 1))]),
    "sorted": lambda x: (
        x.argsort(dim=-1, stable=True),
        x.sort(dim=-1, stable=True).values,
        x.argmax(-1),
        x.max(-1),
        x.min(1),
    ),
    "cumulated": lambda x: (x.cumsum(-1), x.flip(-1), x.roll(1, -1)),
    "gathered": lambda x: (x.gather(-1, x.argmax(-1, keepdim=True)), x[:, x[0, :, 0].argsort()]),
    "indexed": lambda x: (x.index_select(1, torch.arange(2)), x[torch.arange(2), torch.arange(2)]),
    "spread": lambda x: x.norm(dim=-1) + x.std(-1) + x.var(-1),
    "softmax": lambda x: (x.softmax(-1), x.log_softmax(-1), x.logsumexp(-1), x.logsumexp((1, 2))),
    "losses": lambda x: (F.huber_loss(x, x * 2.0), F.mse_loss(x, -x), F.smooth_l1_loss(x, -x), F.l1_loss(x, -x)),
    "crossed": lambda x: F.cross_entropy(x.flatten(0, 1), x.flatten(0, 1).argmin(-1)),
    "binary": lambda x: F.binary_cross_entropy_with_logits(x, (x > 0).float()),
    "normal": lambda x: F.layer_norm(x, x.shape[-1:]),
    "one_hot": lambda x: (x.argmax(-1)[..., None] == torch.arange(4)) * x,
    "scattered": lambda x: torch.zeros_like(x).scatter(-1, x.argmax(-1, keepdim=True), 1.0),
    "einsum": lambda x: torch.einsum("abc,abd->acd", x, x),
    "linear": lambda x: F.linear(x, x[0, :2], x[0, 0, :2]),
}


@pytest.mark.parametrize("name", REARRANGING)
def test_rearranging_and_its_gradients(name: str) -> None:
    torch.manual_seed(0)

    def function(_: Any, x: Tensor) -> Any:
        leaf = (x * 1.5).detach().requires_grad_()
        results: list[Tensor] = []

        def collect(part: Any) -> None:
            if isinstance(part, Tensor):
                results.append(part)
            else:
                for each in part:
                    collect(each)

        collect(REARRANGING[name](leaf))
        smooth = [result.tanh().square().sum() for result in results if result.requires_grad]
        slopes = torch.autograd.grad(sum(smooth), leaf) if smooth else ()
        return [result.detach() for result in results], slopes, REARRANGING[name](x)

    check(function, [drawn((2, 3, 4)) for _ in range(3)])


def test_changes_in_place_and_given_outputs() -> None:
    torch.manual_seed(0)

    def function(state: Any, x: Tensor) -> Any:
        y, out = x * 2.0, torch.empty(3, 4)
        y.mul_(2.0).add_(x).clamp_(-1.0, 1.0)
        row = y[1]
        row.zero_()
        torch.add(x, y, out=out)
        out[:, 1:3].sub_(5.0)
        state.x.add_(y).mul_(0.5)
        state.x[0] += 1.0
        state.x[:, 2] = x[:, 1]
        state.count += 1
        y.fill_(3.0)
        return {"y": y, "out": out, "state": state.x * 2.0, "row": row + 1.0}

    check(function, [drawn((3, 4)) for _ in range(4)])


def test_the_table_holds_some_forty_operations() -> None:
    assert len(KERNELS) > 50
