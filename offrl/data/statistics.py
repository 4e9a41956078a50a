"""Mean, spread and range of a column, computed in blocks that merge as if all rows had been seen at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK_BYTES = 256 * 1024
"""Bytes of one column that are reduced at a time: small enough to stay in the cache over all passes."""


@dataclass(frozen=True)
class ColumnStatistics:
    """Count, mean, sum of squared deviations, minimum and maximum of one column, in float64.

    Attributes:
        count: rows seen.
        mean: [...] per component; a scalar array for uint8 columns (images), where all components count as one.
        squares: like `mean`: Σ (x − mean)².
        min: like `mean`.
        max: like `mean`.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """The population standard deviation, √(Σ (x − mean)² / count)."""
        return np.asarray(np.sqrt(self.squares / max(self.count, 1)), dtype=np.float64)

    @classmethod
    def of(cls, values: NDArray[Any], skip: NDArray[np.int64] | None = None) -> ColumnStatistics:
        """Statistics of the rows of one array.

        Args:
            values: [rows, ...] of any numeric dtype.
            skip: int64 [k], sorted and different: rows that don't count (the padding at the end of each episode).
        """
        pooled = values.dtype == np.uint8 and values.ndim > 1
        flat = values.reshape(len(values), -1)
        shape = () if pooled else values.shape[1:]
        skip = np.empty(0, np.int64) if skip is None else skip
        step = max(1, _CHUNK_BYTES // max(1, flat.shape[1] * 8))
        total: ColumnStatistics | None = None
        for start in range(0, max(1, len(flat)), step):
            stop = min(start + step, len(flat))
            low, high = np.searchsorted(skip, (start, stop))
            part = _reduce(flat[start:stop], skip[low:high] - start)
            total = part if total is None else total.merge(part)
        assert total is not None
        total = total.pooled() if pooled else total
        return total if total.mean.shape == shape else total.reshape(shape)

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> ColumnStatistics:
        """Statistics of no rows: the neutral element of `merge`."""
        return cls(0, np.zeros(shape), np.zeros(shape), np.full(shape, np.inf), np.full(shape, -np.inf))

    def merge(self, other: ColumnStatistics) -> ColumnStatistics:
        """Both together (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        return ColumnStatistics(
            count,
            self.mean + delta * (other.count / count),
            self.squares + other.squares + delta * delta * (self.count * other.count / count),
            np.minimum(self.min, other.min),
            np.maximum(self.max, other.max),
        )

    def pooled(self) -> ColumnStatistics:
        """All components as if they were rows of one scalar column."""
        mean = self.mean.mean()
        squares = self.squares.sum() + self.count * np.square(self.mean - mean).sum()
        return ColumnStatistics(
            self.count * self.mean.size, np.asarray(mean), np.asarray(squares), self.min.min(), self.max.max()
        )

    def reshape(self, shape: tuple[int, ...]) -> ColumnStatistics:
        """The same figures with the components laid out as `shape`."""
        arrays = (np.asarray(a).reshape(shape) for a in (self.mean, self.squares, self.min, self.max))
        return ColumnStatistics(self.count, *arrays)

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists; infinities and NaN as text, since JSON has none."""
        fields = {name: _encode(getattr(self, name)) for name in ("mean", "squares", "min", "max")}
        return {"count": self.count, "shape": list(self.mean.shape), **fields}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ColumnStatistics:
        """The inverse of `to_json`."""
        shape = tuple(value["shape"])
        arrays = (np.array([float(v) for v in value[k]]).reshape(shape) for k in ("mean", "squares", "min", "max"))
        return cls(int(value["count"]), *arrays)


def _encode(array: NDArray[np.float64]) -> list[float | str]:
    return [v if np.isfinite(v) else str(v) for v in array.reshape(-1).tolist()]


def _reduce(chunk: NDArray[Any], skip: NDArray[np.int64]) -> ColumnStatistics:
    """Statistics of one chunk [rows, components] in two passes, so that a large mean costs no digits of the spread."""
    count = len(chunk) - len(skip)
    if count == 0:
        return ColumnStatistics.empty(chunk.shape[1:])
    values = chunk.T.astype(np.float64, order="C")  # components first: each reduction then runs over contiguous numbers
    # Rows to skip take the value of one that counts: minimum and maximum don't see them, and the sums take them out.
    first = int(np.flatnonzero(np.append(skip, -1) != np.arange(len(skip) + 1))[0])
    values[:, skip] = values[:, first, None]
    low, high = values.min(axis=1), values.max(axis=1)
    values[:, skip] = 0.0
    mean = values.sum(axis=1) / count
    with np.errstate(invalid="ignore"):
        values -= mean[:, None]
    values[:, skip] = 0.0
    return ColumnStatistics(count, mean, np.einsum("ij,ij->i", values, values), low, high)
