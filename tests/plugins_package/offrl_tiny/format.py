"""Text with an action and a reward in each line, where an observation is the line's number; a line `end` ends it."""

from pathlib import Path

import numpy as np

from offrl.converters.formats import Format
from offrl.converters.infer_spaces import spec_of
from offrl.converters.options import ConvertOptions
from offrl.converters.report import Log
from offrl.converters.rows_to_episodes import episodes_from, settle, stream
from offrl.converters.source import MemoryRows, Source


def open_tiny(path: Path, options: ConvertOptions, log: Log) -> Source:
    """Understand a file, which is one episode."""
    steps = [line.split() for line in path.read_text(encoding="utf-8").split("end")[0].splitlines()]
    position = np.arange(len(steps) + 1, dtype=np.float32)[:, None]
    rows = MemoryRows(
        {
            "observation": position[:-1],
            "next_observation": position[1:],
            "action": np.array([int(action) for action, _ in steps]),
            "reward": np.array([float(reward) for _, reward in steps]),
        }
    )
    episodes = episodes_from(np.array([rows.count - 1]), np.array([True]), np.array([False]))
    episodes = settle(episodes, has_next=True, timeouts=options.timeouts, log=log)
    spec = spec_of(rows, options, where=str(path), log=log)
    return Source(spec, rows.count, lambda: stream(rows, episodes, spec, label=path.name, log=log))


FORMAT = Format("actions and rewards", open_tiny, suffixes=(".tiny",))
