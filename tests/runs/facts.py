"""What a checkpoint says of itself, to test with."""

from __future__ import annotations

from typing import Any


def facts_of(step: int) -> dict[str, Any]:
    """All that `facts.json` must have."""
    return {
        "step": step,
        "normalized": False,
        "observation_space": {"type": "Discrete", "n": 2, "start": 0},
        "action_space": {"type": "Discrete", "n": 2, "start": 0},
        "environment": None,
        "dataset": None,
        "fingerprint": None,
        "reference_scores": {},
    }
