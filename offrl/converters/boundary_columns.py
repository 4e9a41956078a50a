"""Columns that by their name tell where episodes begin or end, and that nothing was said of."""

from __future__ import annotations

from collections.abc import Collection, Iterable

_ENDS = {
    *("done", "dones", "terminal", "terminals", "terminated", "termination", "terminations", "terminate"),
    *("end", "ends", "is_last", "is_terminal", "last", "end_of_episode", "episode_end", "episode_ends"),
    *("episode_done", "finished"),
}
_CUTS = {"timeout", "timeouts", "truncated", "truncation", "truncations", "time_limit", "time_up"}
_STARTS = {"episode_start", "episode_starts", "is_first", "first", "start", "starts", "reset"}
_NUMBERS = {
    *("episode", "episodes", "episode_id", "episode_index", "episode_number", "ep", "trajectory", "trajectories"),
    *("trajectory_id", "traj", "traj_id", "trial", "trial_id", "rollout", "rollout_id"),
}


def point_at(names: Iterable[str], used: Collection[str], *, episodes: bool = False) -> str:
    """A sentence for each column that may tell where episodes begin or end and isn't mapped; empty without any.

    Args:
        names: the source's columns.
        used: those that are mapped.
        episodes: whether a column can be mapped that tells episodes apart.
    """
    said = []
    for name in names:
        word = name.replace("/", ".").rpartition(".")[2].strip().lower()
        if name in used:
            continue
        if word in _ENDS:
            said.append(f"'{name}' is not mapped, and may be what ends episodes (--map terminated={name})")
        elif word in _CUTS:
            said.append(f"'{name}' is not mapped, and may be what marks where they were cut (--map truncated={name})")
        elif word in _STARTS:
            said.append(
                f"'{name}' is not mapped, and seems to mark where episodes begin: write a column that marks the row "
                "before each of these, their end, instead"
            )
        elif word in _NUMBERS and episodes:
            said.append(f"'{name}' is not mapped, and may tell episodes apart (--map episode={name})")
    return "; ".join(said)
