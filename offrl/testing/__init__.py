"""Checks that hold for every algorithm, offrl's own and other packages': what its record declares, it does.

A package with an algorithm runs them in its own tests:

    from offrl.testing import check_agent
    from my_package.quantile_dqn import ALGORITHM

    @pytest.mark.parametrize("options", [{"hidden": (8,)}, {"hidden": (8,), "quantiles": 5, "dropout": 0.1}])
    def test_the_algorithm_keeps_offrls_contract(options):
        spec = offrl.types.Spec(gym.spaces.Box(-1.0, 1.0, (3,)), gym.spaces.Discrete(4))
        check_agent(ALGORITHM, spec, options)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offrl.agents.algorithm import Algorithm
from offrl.testing.acting_checks import check_carry, check_choices, check_export, check_greedy_acting
from offrl.testing.learning_checks import check_determinism, check_resume, check_rewards, check_seed_axis, check_tracing
from offrl.testing.protocol_checks import check_protocols
from offrl.testing.trial import Trial
from offrl.types import Batch, Spec

__all__ = ["Trial", "check_agent"]


def check_agent(
    algorithm: Algorithm,
    spec: Spec,
    options: Mapping[str, Any] | None = None,
    *,
    seeds: Sequence[int] = (5, 11, 2),
    updates: int = 4,
    batches: Sequence[Sequence[Batch]] | None = None,
) -> None:
    """Train and use an algorithm on random data, and compare what must be the same.

    * The same inputs come to the same bits, whatever the agent did before, and are left as they were.
    * Acting is a function of state, observation, carry and draws, row by row; it is greedy without draws, and keeps
      within the action space and to masks.
    * Training seeds together equals training each alone, to float tolerance.
    * A state that was saved and restored half-way comes to the same bits as one that wasn't.
    * What the record says reads no rewards learns the same from others.
    * Updates that are traced and replayed come to what plain ones do.
    * Greedy acting can be exported to TorchScript.
    * The optional Protocols that the record names work.

    It takes some seconds with small networks, so give options that make them small.

    Args:
        algorithm: its record.
        spec: a task that it can learn: observations of any kind, actions of the kinds that the record names.
        options: the algorithm's options as a recipe has them; its defaults for all that is left out.
        seeds: at least two of them.
        updates: how many are made; at least two.
        batches: for each of `updates` updates its batches, [S, B, …] each, where the algorithm learns from a feed that
            random ones can't be made for from the spec alone.

    Raises:
        AssertionError: something isn't so; the message says what differs, and by how much.

    Example:
        >>> check_agent(plugins.algorithms["dqn"], Spec(Box(-1.0, 1.0, (3,)), Discrete(4)), {"hidden": (8,)})
    """
    trial = Trial.of(algorithm, spec, options or {}, seeds, updates, batches)
    for check in (
        check_determinism,
        check_greedy_acting,
        check_choices,
        check_carry,
        check_seed_axis,
        check_resume,
        check_rewards,
        check_tracing,
        check_export,
        check_protocols,
    ):
        check(trial)
