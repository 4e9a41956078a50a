"""Columns that by their name tell where episodes begin or end."""

from __future__ import annotations

import pytest

from offrl.converters.boundary_columns import point_at


@pytest.mark.parametrize("name", ["done", "Dones", "terminal", "is_last", "next.done", "flags/terminals"])
def test_what_may_end_episodes_is_pointed_at(name: str) -> None:
    assert f"--map terminated={name}" in point_at(["x", name, "a"], ["x"])
    assert point_at(["x", name, "a"], ["x", name]) == ""


def test_cuts_starts_and_numbers_are_told_apart() -> None:
    assert "--map truncated=timeouts" in point_at(["timeouts"], [])
    assert "'episode_starts' is not mapped" in point_at(["episode_starts"], [])
    assert "--map" not in point_at(["episode_starts"], [])
    assert "--map episode=traj_id" in point_at(["traj_id"], [], episodes=True)
    assert point_at(["traj_id", "speed", "endurance", "velocity"], []) == ""
