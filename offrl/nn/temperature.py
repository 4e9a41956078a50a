"""The temperature of an entropy-regularized policy, as something that optimizers can learn."""

from __future__ import annotations

import math

import torch
from torch import nn

from offrl.nn.flat import FlatModule


class Temperature(FlatModule):
    """log α of each seed, [S, 1].

    Args:
        seeds: S.
        initial: α at the start.
    """

    def __init__(self, seeds: int, initial: float) -> None:
        super().__init__()
        self.log_alpha = nn.Parameter(torch.full((seeds, 1), math.log(initial)))
        self.flatten()
