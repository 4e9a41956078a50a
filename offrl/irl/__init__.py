"""Finite Markov decision processes, solved exactly: what inverse reinforcement learning of tables stands on."""

from offrl.irl.demonstrations import Demonstrations, visits_of
from offrl.irl.environments import grid_of, mdp_of
from offrl.irl.mdp import TabularMDP
from offrl.irl.solving import (
    SoftSolution,
    evaluate_policy,
    optimal_policy,
    path_values,
    path_visits,
    soft_values,
    visits,
)

__all__ = [
    "Demonstrations",
    "SoftSolution",
    "TabularMDP",
    "evaluate_policy",
    "grid_of",
    "mdp_of",
    "optimal_policy",
    "path_values",
    "path_visits",
    "soft_values",
    "visits",
    "visits_of",
]
