"""Whether networks fit into memory, asked before they are there: what doesn't fit is killed without a word."""

from __future__ import annotations

from pathlib import Path

import torch

from offrl.errors import RecipeError

SMALLEST_ASKED = 2**26
"""Bytes below which nobody asks."""
IN_TRAINING = 4
"""Times its weights that a network takes in training at least: weights, gradients, and two moments of each."""
MEMINFO, LIMIT = Path("/proc/meminfo"), Path("/sys/fs/cgroup/memory.max")


def require_room(weights: int, device: torch.device, already: int = 0) -> None:
    """Raise unless a network can be trained on a device.

    Args:
        weights: bytes of its parameters.
        device: where they are to be.
        already: bytes of all that it takes that are there.

    Raises:
        RecipeError: it takes more memory than is free.
    """
    if weights < SMALLEST_ASKED:
        return
    free, needed = free_bytes(device), IN_TRAINING * weights
    if free is not None and needed - already > free:
        raise RecipeError(
            f"the networks don't fit into memory: training needs {_gigabytes(needed)} or more for weights, gradients "
            f"and the optimizer's moments, and {_gigabytes(free + already)} are free",
            where=f"agent, on {device}",
            hint="take fewer seeds or smaller ensembles (agent.critics), or narrower layers (agent.hidden)",
        )


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be had there; None where the system doesn't tell.

    What files are cached in counts as free, since the system gives it up. In a container its limit counts, whatever it
    has used of that.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    if device.type != "cpu" or not MEMINFO.is_file():
        return None
    told = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    available = int(told["MemAvailable"].split()[0]) * 1024
    limit = LIMIT.read_text().strip() if LIMIT.is_file() else "max"
    return min(available, int(limit)) if limit.isdigit() else available


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
