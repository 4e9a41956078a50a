"""Episodes as a pandas table: one row per time step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from offrl.data.schema import has_final_row

if TYPE_CHECKING:
    import pandas as pd

    from offrl.data.trajectories import Trajectories

_NULLABLE = {"b": "boolean", "i": "Int64", "u": "UInt64"}
"""By kind of dtype: pandas' types that know missing values, where NumPy's know none."""


def to_pandas(trajectories: Trajectories, *, final: bool) -> pd.DataFrame:
    """The rows of a store or a selection; see `Trajectories.to_pandas`."""
    import pandas as pd

    table = trajectories.episodes
    rows = table.length + 1 if final else table.length
    episode = np.repeat(np.arange(len(table)), rows)
    step = np.arange(len(episode)) - np.repeat(np.cumsum(rows) - rows, rows)
    ends = np.cumsum(table.length + 1) - 1
    series: dict[str, Any] = {"episode": episode, "step": step}
    for name in trajectories.column_names:
        values = trajectories.read(name, 0, trajectories.num_rows)
        if not final:
            values = np.delete(values, ends, axis=0)
        for label, part in _parts(name, values):
            series[label] = _with_gaps(part, ends) if final and not has_final_row(name) else part
    return pd.DataFrame(series)


def _parts(name: str, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """A column by itself, a vector by its components, and whatever has more dimensions as one array in each cell."""
    if values.ndim == 1:
        yield name, values
    elif values.ndim == 2:
        for index in range(values.shape[1]):
            yield f"{name}.{index}", values[:, index]
    else:
        cells = np.empty(len(values), object)
        cells[:] = list(values)
        yield name, cells


def _with_gaps(values: NDArray[Any], ends: NDArray[np.int64]) -> Any:
    """The values, of which there are none in these rows."""
    import pandas as pd

    kind: Any = _NULLABLE.get(values.dtype.kind, values.dtype)
    found: Any = pd.Series(values).astype(kind)
    found[ends] = None
    return found
