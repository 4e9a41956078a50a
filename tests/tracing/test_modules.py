"""Networks of PyTorch's own modules, trained by its optimizers and traced."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tracing.running import assert_close, traced


@dataclass
class Trained:
    network: nn.Module
    optimizer: torch.optim.Optimizer


class Attention(nn.Module):
    """One layer of a transformer, which sees the past only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(5))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x, src_mask=self.mask, is_causal=True)
        return result


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(8, 6, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.cells(x)[0]
        return result


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(7, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.out(self.table(x))
        return result


def frames() -> Tensor:
    return torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8)


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, 2), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x.float() / 255.0)
        return result


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "perceptron": (
        lambda: nn.Sequential(nn.Linear(8, 9), nn.LayerNorm(9), nn.SiLU(), nn.Linear(9, 3), nn.Softplus()),
        lambda: torch.randn(6, 8),
    ),
    "wide": (
        lambda: nn.Sequential(nn.Linear(8, 200), nn.ELU(), nn.Linear(200, 200), nn.Mish(), nn.Linear(200, 1)),
        lambda: torch.randn(150, 8),
    ),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(8, 9), nn.BatchNorm1d(9), nn.LeakyReLU(), nn.Linear(9, 3)),
        lambda: torch.randn(6, 8),
    ),
    "pixels": (Pixels, frames),
    "attention": (Attention, lambda: torch.randn(4, 5, 8)),
    "gru": (lambda: Recurrent(nn.GRU), lambda: torch.randn(4, 5, 8)),
    "lstm": (lambda: Recurrent(nn.LSTM), lambda: torch.randn(4, 5, 8)),
    "embedding": (Embedded, lambda: torch.randint(0, 7, (4, 5))),
}


@pytest.mark.parametrize("name", CASES)
def test_modules_of_torch(name: str) -> None:
    make, draw = CASES[name]

    def function(state: Trained, x: Tensor) -> Any:
        output = state.network(x)
        loss = output.sin().square().mean()
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        return {"loss": loss.detach(), "output": output.detach()}

    def trained(network: nn.Module) -> Trained:
        return Trained(network, torch.optim.SGD(network.parameters(), 0.1, momentum=0.9))

    torch.manual_seed(0)
    ours = make()
    theirs = copy.deepcopy(ours)
    one, other = trained(ours), trained(theirs)
    run = traced(function, one)
    for _ in range(5):
        x = draw()
        assert_close(run(x), function(other, x), 1e-5)
        assert_close(list(ours.state_dict().values()), list(theirs.state_dict().values()), 1e-5)
    # Batch normalization changes its statistics behind its schema's back.
    assert (run.traces[0].replay is not None) is (name != "batch norm"), run.explain()
