"""All that is known of a store without reading its steps, as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from offrl.data.statistics import ColumnStatistics
from offrl.data.store import TrajectoryStore

BINS = 12
ROUNDING = 1e-9
"""Returns whose range is so small a share of the largest are equal but for rounding."""


def description_of(store: TrajectoryStore) -> dict[str, Any]:
    """Name, size, spaces, columns, statistics, returns and origin.

    Returns:
        plain values, as JSON has them but for NaN and infinity. Among them are `statistics`, by column, and the
        `return_histogram`: `counts` of episodes in `BINS` equal ranges of the return, and their BINS + 1 `edges`.
    """
    metadata = store.metadata.to_json()
    counts, edges = return_histogram(store)
    return {
        "name": metadata["name"],
        "path": str(store.path),
        "environment": metadata["environment"],
        "episodes": store.num_episodes,
        "transitions": store.num_steps,
        "bytes": sum(shard.rows_bytes + shard.episodes_bytes for shard in store.metadata.shards),
        "shards": len(store.metadata.shards),
        "fingerprint": store.fingerprint,
        "observation_space": metadata["observation_space"],
        "action_space": metadata["action_space"],
        "columns": metadata["columns"],
        "statistics": {name: _figures(item) for name, item in store.statistics.items()},
        "return_histogram": {"counts": counts, "edges": edges},
        "reference_scores": metadata["reference_scores"],
        "provenance": metadata["provenance"],
    }


def return_histogram(store: TrajectoryStore) -> tuple[list[int], list[float]]:
    """Episodes in each of `BINS` equal ranges of the return, and the ranges' BINS + 1 ends.

    Returns that are equal but for rounding lie in one range of a span that is wider than they need.
    """
    returns = store.episodes.return_
    finite = returns[np.isfinite(returns)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    # Halves, whose difference can't overflow.
    largest = max(abs(low), abs(high))
    if high / 2 - low / 2 <= ROUNDING * largest:
        # Around the middle of a range: an end would part them.
        middle, width = low / 2 + high / 2, max(1.0, 4 * BINS * ROUNDING * largest)
        low = middle - (BINS // 2 + 0.5) / BINS * width
        high = low + width
    edges = 2 * np.linspace(low / 2, high / 2, BINS + 1)
    counts, _ = np.histogram(finite, bins=edges)
    return counts.tolist(), edges.tolist()


def _figures(item: ColumnStatistics) -> dict[str, Any]:
    return {"mean": item.mean.tolist(), "std": item.std.tolist(), "min": item.min.tolist(), "max": item.max.tolist()}
