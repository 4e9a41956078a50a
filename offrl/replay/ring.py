"""The online counterpart of a store: the newest steps of S seeds' environments, T+1 rows per episode."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data import schema
from offrl.errors import RequestError
from offrl.replay.returns_to_go import returns_to_go
from offrl.replay.row_layout import RowLayout
from offrl.types import RETURN_TO_GO

MIN_ROWS = 3
"""Of an environment: a transition, the final observation behind it, and the first one of the next episode."""

Columns = Mapping[str, NDArray[np.generic]]


class OnlineRing:
    """A fixed number of rows per environment, the oldest overwritten; every transition that is left can be drawn.

    Row t holds s_t, a_t, r_t and the flags that followed; the next row holds s_{t+1}: no observation is stored twice.
    Each seed draws from its own environments' rows only. Values are stored as agents see them: observations normalized,
    actions in [-1, 1]. Action masks come with the observations: they stay zero where only the layout has them, and are
    left out where it hasn't. Returns to go, where the layout has them, are known once an episode has ended or was cut:
    until then they are -inf, a return that every policy reaches. Of other optional columns nothing is known here, and
    they stay zero.

    Args:
        layout: what a row holds.
        seeds: S.
        environments: E, environments per seed; a vector environment's n-th copy belongs to seed n // E.
        capacity: rows per seed, shared evenly among its environments.
        discount: γ of returns to go.

    Raises:
        RequestError: the capacity leaves an environment fewer rows than the step that ends an episode writes, or takes
            more memory than there is.
    """

    def __init__(self, layout: RowLayout, seeds: int, environments: int, capacity: int, discount: float = 1.0) -> None:
        self.layout, self.environments, self.length = layout, environments, capacity // environments
        if self.length < MIN_ROWS:
            raise RequestError(
                f"a replay ring of {capacity} rows is too small for {environments} environments per seed",
                hint=f"raise online.capacity to at least {MIN_ROWS} per environment; a million is usual",
            )
        streams = seeds * environments
        # One row more than the length: its observation is row 0's, so that each row's next one is behind it in memory.
        size = streams * (self.length + 1)
        try:
            self.rows = np.zeros((streams, self.length + 1, layout.width), np.float32)
            self.images = {
                name: np.zeros((streams, self.length + 1, *shape), np.uint8) for name, shape in layout.images
            }
        except MemoryError as error:
            raise RequestError(
                f"a replay ring of {capacity:,} rows for {seeds} seeds takes {size * layout.row_bytes / 2**30:,.1f} "
                "GiB, more memory than there is",
                hint="lower online.capacity",
            ) from error
        self.position = np.zeros(streams, np.int64)
        self.advances = np.zeros(streams, np.int64)
        self.previous = np.full(streams, -1, np.int64)
        # Transitions of a seed, densely packed in any order: slot -> row, and back (-1: no transition starts there).
        self.slots = np.zeros((seeds, environments * self.length), np.int64)
        self.slot_of = np.full(size, -1, np.int64)
        self.count = np.zeros(seeds, np.int64)
        matrix = torch.from_numpy(self.rows).view(-1, layout.width)
        self._pairs = matrix.as_strided((len(matrix) - 1, layout.pair_width), (layout.width, 1))
        self._slots = torch.from_numpy(self.slots)
        self._pairs_here = self._pairs.numpy()
        self._first_slots = torch.arange(seeds)[:, None] * self.slots.shape[1]
        self._all_streams = np.arange(streams)
        # A step, from its action to the next row's observation, lies in one piece, so that one call writes it.
        first = layout.observation_width
        self._steps = self.rows.reshape(-1)[first : first - layout.width].reshape(-1, layout.width)
        self._step = np.zeros((streams, layout.width), np.float32)
        self._parts = {name: self._part(name, shape) for name, shape in layout.columns}
        self._observed = [name for name in self._parts if layout.slices[name].stop <= first]
        self._keeps_masks = schema.ACTION_MASK in layout.slices
        self.discount, self._keeps_returns = discount, RETURN_TO_GO in layout.slices
        self.running = np.zeros(streams, np.int64)
        if self._keeps_returns:
            self._parts[RETURN_TO_GO][:] = -np.inf

    def begin(self, observation: Columns) -> None:
        """Start an episode in every environment; `observation` maps column names to [S·E, …]."""
        self._write_observation(self._all_streams, observation)
        self._allow(observation)
        self._complete_first_rows()

    def append(
        self,
        action: NDArray[np.generic],
        reward: NDArray[np.floating],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        next_observation: Columns,
        reset_observation: Columns,
    ) -> None:
        """Add one step of every environment.

        Args:
            action: [S·E, …], taken in the current observation.
            reward, terminated, truncated: [S·E].
            next_observation: column names to [S·E, …]; where the episode ended, its final observation.
            reset_observation: likewise; where the episode ended, the first observation of the next one.
        """
        parts = self._parts
        parts[schema.ACTION][:], parts[schema.REWARD][:] = action, reward
        parts[schema.TERMINATED][:], parts[schema.TRUNCATED][:] = terminated, truncated
        for name in self._observed:
            parts[name][:] = next_observation[name]
        for name, image in self.images.items():
            image[self._all_streams, self.position + 1] = next_observation[name]
        if self._keeps_masks and schema.ACTION_MASK in next_observation:
            mask = self.layout.slices[schema.ACTION_MASK]
            self.rows[self._all_streams, self.position + 1, mask] = next_observation[schema.ACTION_MASK]
        # One stream after the other, in plain numbers: for the few that there are, arrays of them take longer.
        for stream, position in enumerate(self.position.tolist()):
            row = stream * (self.length + 1) + position
            self._steps[row] = self._step[stream]
            self._add_transition(stream // self.environments, row)
            self.previous[stream] = position
            self._advance(stream)
        if self._keeps_returns:
            self.running += 1
        if reset_observation is not next_observation and len(done := np.flatnonzero(terminated | truncated)):
            for stream in done.tolist():
                self._end_episode(stream)
            self._write_observation(done, {name: values[done] for name, values in reset_observation.items()})
        self._allow(reset_observation)
        self._complete_first_rows()

    def cut(self) -> None:
        """End every running episode where it stands: truncated, so it still bootstraps; follow with `begin`."""
        if (self.previous < 0).all():
            return
        self.rows[self._all_streams, self.previous, self.layout.slices[schema.TRUNCATED].start] = 1.0
        for stream in range(len(self.position)):
            self._end_episode(stream)
        self.previous[:] = -1

    def counts(self) -> NDArray[np.int64]:
        """int64 [S]: how many transitions each seed may draw."""
        return self.count

    def locate(self, index: Tensor) -> Tensor:
        """Transitions, int64 [K, S, B] and below `counts` for each seed, to rows of the matrix of all streams."""
        if len(self.count) > 1:
            index = index + self._first_slots
        return self._slots.take(index)

    def take_few(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """The pairs of transitions, int64 [S, B] and below `counts` for each seed: float32 [S, B, pair_width]."""
        rows = self.slots[0][index] if len(index) == 1 else np.take_along_axis(self.slots, index, axis=1)
        pairs: NDArray[np.float32] = self._pairs_here[rows]
        return pairs

    def follow(self, rows: Tensor) -> Tensor:
        """Rows [N] of transitions to those of the next ones in their episodes; the same row where there is none."""
        stream, offset = rows // (self.length + 1), rows % (self.length + 1)
        following = stream * (self.length + 1) + (offset + 1) % self.length
        flags = slice(self.layout.slices[schema.TERMINATED].start, self.layout.slices[schema.TRUNCATED].stop)
        ended = self.take(rows, flags.start, flags.stop).any(dim=-1)
        is_transition = torch.from_numpy(self.slot_of)[following] >= 0
        return torch.where(is_transition & ~ended, following, rows)

    def take(self, rows: Tensor, start: int, stop: int) -> Tensor:
        """Floats `start` to `stop` of the pairs at rows [N]: float32 [N, stop - start]."""
        whole = stop - start == self.layout.pair_width
        return (self._pairs if whole else self._pairs[:, start:stop]).index_select(0, rows)

    def take_images(self, rows: Tensor) -> dict[str, Tensor]:
        """The images at rows [N]: column name to uint8 [N, …]."""
        return {
            name: torch.from_numpy(image).flatten(0, 1).index_select(0, rows) for name, image in self.images.items()
        }

    def num_places(self) -> int:
        """A transition's place is its row, counted from the first one of its seed."""
        return self.environments * (self.length + 1)

    def locate_places(self, place: Tensor) -> Tensor:
        """Transitions, by place, int64 [K, S, B], to their rows."""
        return place + torch.arange(len(self.count))[:, None] * self.num_places()

    def written(self) -> NDArray[np.int64]:
        """How often each environment moved on by a row since the ring was made, int64 [S·E]."""
        return self.advances

    def renewed(self, since: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        """The places written to since `written` was `since`: seeds, places, and whether a transition starts there."""
        moved = self.advances - since
        # The row that was current then holds a transition only now.
        sizes = np.where(moved > 0, np.minimum(moved + 1, self.length), 0)
        stream = np.repeat(self._all_streams, sizes)
        nth = np.arange(len(stream)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        row = stream * (self.length + 1) + ((self.position - moved)[stream] + nth) % self.length
        seed = stream // self.environments
        return seed, row - seed * self.num_places(), self.slot_of[row] >= 0

    def named_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: the rows that were written so far; the tensors share memory with the ring."""
        slot_of = self.slot_of.reshape(len(self.position), -1)
        starts = np.flatnonzero((slot_of >= 0).any(axis=0))
        # The observation behind the last transition is the last row; without one, it is the first observation.
        used = max(int(self.position.max()), int(starts[-1]) + 1 if len(starts) else 0) + 1
        arrays = {"rows": self.rows[:, :used], "slot_of": slot_of[:, :used], "slots": self.slots[:, : self.count.max()]}
        arrays |= {name: getattr(self, name) for name in ("position", "previous", "count")}
        arrays |= {f"images.{name}": image[:, :used] for name, image in self.images.items()}
        if self._keeps_returns:
            arrays["running"] = self.running
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue where `named_tensors` was taken, from a ring of the same shape."""
        saved = {name: tensor.numpy() for name, tensor in tensors.items()}
        for name in ("position", "previous", "count"):
            getattr(self, name)[:] = saved[name]
        if self._keeps_returns:
            self.running[:] = saved["running"]
        self.slots[:, : saved["slots"].shape[1]] = saved["slots"]
        used = saved["rows"].shape[1]
        self.slot_of[:] = -1
        self.slot_of.reshape(len(self.position), -1)[:, :used] = saved["slot_of"].reshape(-1, used)
        self.rows[:, :used] = saved["rows"]
        for name, image in self.images.items():
            image[:, :used] = saved[f"images.{name}"]

    def _part(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A column's place in the steps to write, [S·E, *shape]."""
        place, layout = self.layout.slices[name], self.layout
        start = (place.start - layout.observation_width) % layout.width
        return self._step[:, start : start + place.stop - place.start].reshape(-1, *shape)

    def _end_episode(self, stream: int) -> None:
        """On to the row of the next episode, with what this one earned from each of its steps on."""
        if self._keeps_returns:
            # All rows but the current one, where the episode is longer than the ring.
            steps = min(self.running.item(stream), self.length - 1)
            rows = (self.previous[stream] - np.arange(steps)[::-1]) % self.length
            earned = self.rows[stream, rows, self.layout.slices[schema.REWARD].start]
            place = self.layout.slices[RETURN_TO_GO].start
            self.rows[stream, rows, place] = returns_to_go(earned, self.discount)
        self.running[stream] = 0
        self._advance(stream)

    def _advance(self, stream: int) -> None:
        """On to the stream's next row, forgetting the transition that starts there: it is about to be overwritten."""
        position = (self.position.item(stream) + 1) % self.length
        self.position[stream] = position
        self.advances[stream] += 1
        row = stream * (self.length + 1) + position
        if self.slot_of.item(row) >= 0:
            self._remove_transition(stream // self.environments, row)

    def _write_observation(self, streams: NDArray[np.int64], observation: Columns) -> None:
        """Into the current rows of some streams; into that behind the last row in place of row 0."""
        place = (self.position[streams] - 1) % self.length + 1
        for name, values in observation.items():
            if name in self.images:
                self.images[name][streams, place] = values
            elif name in self._parts:
                self.rows[streams, place, self.layout.slices[name]] = values.reshape(len(streams), -1)

    def _allow(self, observation: Columns) -> None:
        """Keep the masks of what to act on: the next steps are written with them."""
        if self._keeps_masks and schema.ACTION_MASK in observation:
            self._parts[schema.ACTION_MASK][:] = observation[schema.ACTION_MASK]

    def _complete_first_rows(self) -> None:
        """Give row 0, where it is current, the observation, and its mask, that were written behind the last row."""
        if 0 in self.position.tolist():
            (streams,) = (self.position == 0).nonzero()
            floats = self.layout.pair_width - self.layout.width
            self.rows[streams, 0, :floats] = self.rows[streams, self.length, :floats]
            for image in self.images.values():
                image[streams, 0] = image[streams, self.length]

    def _add_transition(self, seed: int, row: int) -> None:
        """Behind the seed's others."""
        slot = self.count.item(seed)
        self.slots[seed, slot], self.slot_of[row] = row, slot
        self.count[seed] = slot + 1

    def _remove_transition(self, seed: int, row: int) -> None:
        """Forget one; the last slot fills the gap."""
        slot, last = self.slot_of.item(row), self.count.item(seed) - 1
        moved = self.slots.item(seed, last)
        self.slots[seed, slot], self.slot_of[moved] = moved, slot
        self.slot_of[row] = -1
        self.count[seed] = last
