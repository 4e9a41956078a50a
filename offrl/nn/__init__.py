"""Networks with a leading seed axis, and the optimiser over their flat parameters."""

from offrl.nn.adam import Adam
from offrl.nn.flat import FlatModule, seed_generators
from offrl.nn.mlp import MLP
from offrl.nn.observation import FlatObservation

__all__ = ["MLP", "Adam", "FlatModule", "FlatObservation", "seed_generators"]
