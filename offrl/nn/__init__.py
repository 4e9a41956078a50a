"""Networks with a leading seed axis, and the optimizer over their flat parameters."""

from offrl.nn.adam import Adam
from offrl.nn.flat import FlatModule, seed_generators
from offrl.nn.flatten import FlatAction, FlatObservation
from offrl.nn.mlp import MLP
from offrl.nn.schedule import Schedule
from offrl.nn.stacked import stacked

__all__ = ["MLP", "Adam", "FlatAction", "FlatModule", "FlatObservation", "Schedule", "seed_generators", "stacked"]
