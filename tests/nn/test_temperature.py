"""The temperature as a module of its own."""

from __future__ import annotations

import pytest
import torch

from offrl.nn import Adam
from offrl.nn.temperature import Temperature


def test_each_seed_has_one_that_optimizers_move() -> None:
    temperature = Temperature(3, 0.2)
    assert temperature.log_alpha.shape == (3, 1)
    assert temperature.log_alpha.exp().flatten().tolist() == pytest.approx([0.2] * 3)
    before = temperature.flat.clone()
    Adam(temperature, 0.1).minimize((temperature.log_alpha.squeeze(1) * torch.tensor([1.0, -1.0, 2.0])).sum())
    torch.testing.assert_close(temperature.flat - before, torch.tensor([-0.1, 0.1, -0.1]))
