"""Finite Markov decision processes, solved exactly: what inverse reinforcement learning of tables stands on."""

from offrl.mdp.expert_visits import Demonstrations, visits_of
from offrl.mdp.from_gymnasium import grid_of, mdp_of
from offrl.mdp.mdp import TabularMDP
from offrl.mdp.planning import (
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
