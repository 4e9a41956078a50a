"""Batches for training, drawn from any mixture of stores and online rings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.data import schema
from offrl.data.trajectories import StoreView, Trajectories
from offrl.errors import RequestError, SpaceMismatchError
from offrl.replay.normalization import ActionMap, ObservationNormalizer, RewardScaler
from offrl.replay.row_layout import RETURNS, RowLayout, Transforms, known_masks
from offrl.replay.sources import StoreSource, common_columns
from offrl.types import COLUMNS, NEXT_ACTION, RETURN_TO_GO, Batch

if TYPE_CHECKING:
    from offrl.replay.priorities import Priorities, Prioritization
    from offrl.replay.ring import OnlineRing
    from offrl.replay.source_protocols import EpisodeSource, TransitionSource

__all__ = ["ReplaySampler", "RowLayout", "split_by_episode", "top_by_return"]

FEW_FLOATS = 2**16
"""In a batch that NumPy is still the faster one to gather."""


class ReplaySampler:
    """Draws transitions, windows and episodes with replacement, for S seeds at once; uniformly unless prioritized.

    Each seed draws from each source with a generator of its own, so a seed's batches are the same whatever the other
    seeds are, and `sample(2)` twice is `sample(4)` once.

    Args:
        sources: stores, selections from stores, or rings. All must have the same spaces.
        batch_size: B, transitions per batch and seed.
        seeds: one non-negative seed for each of the S positions of the seed axis.
        fractions: the share of each source in every batch; by default all sources' shares are equal. Shares that
            don't divide the batch are rounded by largest remainder (earlier sources first), the same in each batch.
        n_step: rewards to sum. Sums stop where the episode terminates, is truncated, or goes no further.
        discount: γ, per step.
        observation_normalizer: applied to the observations of stores (rings hold normalized ones already).
        reward_scaler: applied to the rewards of stores.
        action_map: applied to the actions of stores, and to the density behind `behavior_log_prob`.
        device: where batches are made.
        seed_episodes: for a single store: the episodes that each seed may draw.
        columns: what batches hold beside what they always do, some of `offrl.types.COLUMNS`.
        priority: draws transitions by their TD errors, which `learned` is told of; each source has priorities of its
            own.
        memory_budget: bytes that a store's packed rows may take; larger stores are read from disk as they are needed.
        window: steps of the windows that `sample` and `batches` draw in place of transitions; 0 for transitions.

    Raises:
        RequestError: sizes, fractions or seeds don't fit together; or there is no such column, or a ring keeps none.
        SpaceMismatchError: the sources' rows differ.
    """

    priorities: list[Priorities]

    def __init__(
        self,
        sources: Sequence[Trajectories | TransitionSource],
        *,
        batch_size: int,
        seeds: Sequence[int],
        fractions: Sequence[float] | None = None,
        n_step: int = 1,
        discount: float = 0.99,
        observation_normalizer: ObservationNormalizer | None = None,
        reward_scaler: RewardScaler | None = None,
        action_map: ActionMap | None = None,
        device: torch.device | str = "cpu",
        seed_episodes: Sequence[NDArray[Any]] | None = None,
        columns: Sequence[str] = (),
        priority: Prioritization | None = None,
        memory_budget: int = 512 * 2**20,
        window: int = 0,
    ) -> None:
        if not sources or not seeds or batch_size < 1 or n_step < 1:
            raise RequestError("a sampler needs a source, a seed, and a batch size and n_step of at least 1")
        if seed_episodes is not None and (len(sources) != 1 or len(seed_episodes) != len(seeds)):
            raise RequestError("seed_episodes needs a single store, and one set of episodes for each seed")
        self.batch_size, self.seeds, self.n_step, self.discount = batch_size, list(seeds), n_step, discount
        self.device, self.window = torch.device(device), window
        self._full_discount = torch.tensor(discount, device=self.device)
        transforms = Transforms(observation_normalizer, reward_scaler, action_map)
        stores = [source for source in sources if isinstance(source, Trajectories)]
        rings = [source for source in sources if not isinstance(source, Trajectories)]
        shared = common_columns(stores)
        optional = [column for column in shared if all(column.name in ring.layout.slices for ring in rings)]
        if rings and not any(column.name == schema.ACTION_MASK for column in optional):
            optional += _masks_of(rings)
        if RETURN_TO_GO in columns:
            optional.append(RETURNS)
        self.sources: list[TransitionSource] = [
            StoreSource(
                source,
                RowLayout.of(source.spec, optional),
                transforms,
                len(seeds),
                seed_episodes,
                memory_budget,
                self.device,
                discount,
            )
            if isinstance(source, Trajectories)
            else source
            for source in sources
        ]
        self.layout = self.sources[0].layout
        self.columns = _known(columns, self.layout)
        if len(sources) > 1:
            _check_same_layout(self.sources)
        self.set_fractions([1.0] * len(sources) if fractions is None else fractions)
        self._generators = [
            [np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, i]))) for seed in seeds]
            for i in range(len(sources))
        ]
        self.priority, self.batches_drawn, self.priorities = priority, 0, []
        if priority is not None and priority.kind != "none":
            from offrl.replay.priorities import Priorities

            self.priorities = [Priorities(source, priority.kind, priority.exponent) for source in self.sources]

    def set_fractions(self, fractions: Sequence[float]) -> None:
        """Change the share of each source from the next batch on.

        Raises:
            RequestError: not one non-negative fraction per source, or all are zero.
        """
        shares = np.asarray(fractions, np.float64)
        if shares.shape != (len(self.sources),) or not (shares >= 0).all() or not 0 < shares.sum() < np.inf:
            raise RequestError(f"fractions {list(fractions)} don't fit {len(self.sources)} sources")
        self.fractions = shares / shares.sum()
        self.shares = largest_remainder(self.fractions, self.batch_size)
        self._active = [i for i, share in enumerate(self.shares) if share]

    def sample(self, num_batches: int) -> Batch:
        """A batch with the leading axes [num_batches, S, B]: transitions, with `weight` where they are prioritized.

        Windows, [num_batches, S, B, window], where the sampler was made for such.
        """
        if self.window:
            return self.sample_windows(num_batches, self.window)
        if self.priorities:
            return self._prioritized(num_batches)
        parts = []
        for i in self._active:
            source = self.sources[i]
            index = self._drawn(i, source.counts(), num_batches)
            parts.append(self._transitions(source, index, source.locate(index)))
        return parts[0] if len(parts) == 1 else _joined(parts)

    def batches(self, count: int) -> list[Batch]:
        """What `sample` gives, taken apart: batches with the leading axes [S, B].

        Small ones of a ring, as each step of an online run asks for, are made so in the first place.
        """
        source = self.sources[self._active[0]]
        if len(self._active) == 1 and not isinstance(source, StoreSource) and self._gathers_few:
            from offrl.replay.ring import OnlineRing

            if isinstance(source, OnlineRing):
                drawn = self._drawn(self._active[0], source.counts(), count)
                return [self._few_transitions(source, index) for index in drawn.numpy()]
        return self.sample(count).unbind()

    @cached_property
    def _gathers_few(self) -> bool:
        """Whether batches hold few numbers, here, of single steps, and no more columns than any ring has."""
        columns = {schema.OBSERVATION, schema.ACTION, schema.REWARD, schema.TERMINATED, schema.TRUNCATED}
        plain = set(self.layout.slices) == columns and not self.layout.images
        few = len(self.seeds) * self.batch_size * self.layout.pair_width <= FEW_FLOATS
        plain = plain and not self.columns
        return plain and few and self.n_step == 1 and self.device.type == "cpu" and not self.priorities

    def _few_transitions(self, ring: OnlineRing, index: NDArray[np.int64]) -> Batch:
        """A batch of a ring's single steps, by NumPy: PyTorch takes longer to dispatch each operation than to do it."""
        layout, tensor = self.layout, torch.from_numpy
        pairs = ring.take_few(index)
        action, terminated = layout.value(schema.ACTION, pairs), layout.value(schema.TERMINATED, pairs)
        return Batch(
            observation=tensor(layout.value(schema.OBSERVATION, pairs)),
            action=tensor(action.astype(np.int64) if layout.integer_actions else action),
            reward=tensor(layout.value(schema.REWARD, pairs)),
            # γ, or 0 after a terminal step.
            discount=tensor(np.float32(self.discount) * (1.0 - terminated)),
            next_observation=tensor(layout.value(schema.OBSERVATION, pairs[..., layout.width :])),
            terminated=tensor(terminated),
            index=tensor(index),
        )

    def learned(self, batches: Sequence[Batch], td_error: Tensor) -> None:
        """Make |TD error| the priority of the transitions that were drawn last.

        Args:
            batches: C batches of the last call of `sample`.
            td_error: [C, S, B]; the absolute error of each transition in them.
        """
        place = torch.stack([_index_of(batch) for batch in batches]).cpu().numpy()
        error = td_error.detach().cpu().double().numpy()
        ends = np.cumsum([self.shares[i] for i in self._active])
        for i, end in zip(self._active, ends, strict=True):
            part = slice(end - self.shares[i], end)
            self.priorities[i].learn(place[..., part], error[..., part])

    def sample_windows(self, num_batches: int, length: int) -> Batch:
        """Windows of `length` transitions of one episode: leading axes [num_batches, S, B, length].

        Windows start at a uniformly drawn transition. Where the episode ends earlier the last transition is repeated,
        and `mask` is False. Rewards are single steps, whatever `n_step` is.

        Raises:
            RequestError: a source is a ring.
        """
        parts = []
        for i in self._active:
            source = _with_episodes(self.sources[i])
            index = self._drawn(i, source.counts(), num_batches)
            parts.append(self._windows(source, source.locate(index), index, length))
        return _joined(parts)

    def sample_episodes(self, num_batches: int) -> Batch:
        """Whole, uniformly drawn episodes: leading axes [num_batches, S, B, T], T the longest one's length.

        Shorter ones are padded as `sample_windows` does. `index` is the episode's.

        Raises:
            RequestError: a source is a ring.
        """
        drawn = [
            (
                _with_episodes(self.sources[i]),
                self._drawn(i, _with_episodes(self.sources[i]).episode_counts(), num_batches),
            )
            for i in self._active
        ]
        starts = [source.locate_episodes(index).long() for source, index in drawn]
        length = max(
            int((source.last_rows(rows) - rows).max()) + 1 for (source, _), rows in zip(drawn, starts, strict=True)
        )
        parts = [self._windows(s, rows, index, length) for (s, index), rows in zip(drawn, starts, strict=True)]
        return _joined(parts)

    def named_tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: the generators' states, the fractions, and the priorities."""
        states = [[_state_of(generator) for generator in row] for row in self._generators]
        tensors = {
            "generators": torch.from_numpy(np.array(states).view(np.int64)),
            "fractions": torch.from_numpy(self.fractions.copy()),
        }
        if self.priorities:
            tensors["batches_drawn"] = torch.tensor(self.batches_drawn)
        for i, priorities in enumerate(self.priorities):
            tensors |= {f"priorities.{i}.{name}": tensor for name, tensor in priorities.named_tensors().items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue exactly where `named_tensors` was taken."""
        states = tensors["generators"].cpu().numpy().view(np.uint64)
        for row, row_states in zip(self._generators, states, strict=True):
            for generator, state in zip(row, row_states, strict=True):
                _set_state(generator, state)
        self.set_fractions(tensors["fractions"].tolist())
        if self.priorities:
            self.batches_drawn = int(tensors["batches_drawn"])
        for i, priorities in enumerate(self.priorities):
            prefix = f"priorities.{i}."
            priorities.restore({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})

    def _drawn(self, source: int, counts: NDArray[np.int64], num_batches: int) -> Tensor:
        """int64 [num_batches, S, share of the source], below each seed's count."""
        if not counts.all():
            raise _nothing_to_draw(counts)
        share = self.shares[source]
        drawn = [
            generator.integers(0, count, (num_batches, 1, share))
            for generator, count in zip(self._generators[source], counts.tolist(), strict=True)
        ]
        index = torch.from_numpy(drawn[0] if len(drawn) == 1 else np.concatenate(drawn, axis=1))
        return index if self.device.type == "cpu" else index.to(self.device, non_blocking=True)

    def _prioritized(self, num_batches: int) -> Batch:
        """Each batch's quantiles are drawn one from each of B equal parts of the distribution, as the paper has it."""
        parts, weights = [], []
        exponent = self._importance_exponents(num_batches)[:, None, None]
        for i in self._active:
            source, share = self.sources[i], self.shares[i]
            if not source.counts().all():
                raise _nothing_to_draw(source.counts())
            uniform = np.stack([g.random((num_batches, share)) for g in self._generators[i]], axis=1)
            places, relative = self.priorities[i].draw((np.arange(share) + uniform) / share)
            place = torch.from_numpy(places).to(self.device, non_blocking=True)
            parts.append(self._transitions(source, place, source.locate_places(place)))
            weights.append(relative**-exponent)
        weight = np.concatenate(weights, axis=-1)
        # The greatest weight is 1: weights only make steps shorter.
        weight = (weight / weight.max(axis=-1, keepdims=True)).astype(np.float32)
        return replace(_joined(parts), weight=torch.from_numpy(weight).to(self.device, non_blocking=True))

    def _importance_exponents(self, num_batches: int) -> NDArray[np.float64]:
        """β of the next batches: from `importance_exponent` to 1 in `importance_steps` batches."""
        assert self.priority is not None
        done = np.minimum((self.batches_drawn + np.arange(num_batches)) / self.priority.importance_steps, 1.0)
        self.batches_drawn += num_batches
        return np.asarray(self.priority.importance_exponent * (1.0 - done) + done)

    def _transitions(self, source: TransitionSource, index: Tensor, rows: Tensor, n_step: int | None = None) -> Batch:
        """A batch of transitions, int64 [K, S, B], at rows [K, S, B] of their source; `n_step` in place of its own."""
        shape, rows = rows.shape, rows.reshape(-1)
        if (self.n_step if n_step is None else n_step) > 1:
            return self._n_step(source, index, rows)
        pairs = source.take(rows, 0, self.layout.pair_width).view(*shape, -1)
        # γ, or 0 after a terminal step.
        terminated = self.layout.value(schema.TERMINATED, pairs)
        discount = torch.sub(self._full_discount, terminated, alpha=self.discount)
        reward, following = self.layout.value(schema.REWARD, pairs), pairs[..., self.layout.width :]
        return self._batch(source, index, rows, rows, pairs, following, reward, discount, terminated)

    def _n_step(self, source: TransitionSource, index: Tensor, rows: Tensor) -> Batch:
        """Σ_k γ^k r_{t+k} over the steps there are, bootstrapped from the state behind the last of them."""
        width, place = self.layout.width, self.layout.slices[schema.REWARD]
        first = source.take(rows, 0, width)
        reward = first[:, place.start].clone()
        discount = torch.full_like(reward, self.discount)
        last = rows
        for _ in range(1, self.n_step):
            following = source.follow(last)
            goes_on = (following != last).float()
            reward += goes_on * discount * source.take(following, place.start, place.stop)[:, 0]
            discount *= 1.0 + goes_on * (self.discount - 1.0)
            last = following
        start = self.layout.slices[schema.TERMINATED].start
        tail = source.take(last, start, self.layout.pair_width)
        first[:, start:width] = tail[:, : width - start]
        discount *= 1.0 - tail[:, 0]
        parts = first, tail[:, width - start :], reward, discount, tail[:, 0]
        return self._batch(source, index, rows, last, *(part.unflatten(0, index.shape) for part in parts))

    def _windows(self, source: EpisodeSource, starts: Tensor, index: Tensor, length: int) -> Batch:
        starts = starts.long()
        wanted = starts[..., None] + torch.arange(length, device=starts.device)
        last = source.last_rows(starts)[..., None]
        rows = torch.minimum(wanted, last)
        timestep = rows - source.first_rows(starts)[..., None]
        windows = self._transitions(source, rows, rows, n_step=1)
        return replace(windows, mask=wanted <= last, timestep=timestep, index=index)

    def _batch(
        self,
        source: TransitionSource,
        index: Tensor,
        rows: Tensor,
        last: Tensor,
        first: Tensor,
        following: Tensor,
        reward: Tensor,
        discount: Tensor,
        terminated: Tensor,
    ) -> Batch:
        """A batch shaped like `index`.

        Args:
            rows, last: [N], the rows of the transitions, and of the last ones that each reward sums.
            first: [..., >= width], packed rows, with the flags of the last step that a reward sums.
            following: [..., >= observation width], packed rows behind those of the last steps, as far as pairs hold
                them.
            reward, discount, terminated: [...].
        """
        layout, images, next_images = self.layout, dict[str, Tensor](), dict[str, Tensor]()
        if layout.images:
            images, next_images = (
                {name: image.unflatten(0, index.shape) for name, image in source.take_images(places).items()}
                for places in (rows, last + 1)
            )
        next_action, known = (None, None)
        if NEXT_ACTION in self.columns:
            next_action, known = self._next_action(source, last, tuple(index.shape))
        log_prob, mask = schema.BEHAVIOR_LOG_PROB, schema.ACTION_MASK
        return Batch(
            observation=layout.observation(first, images),
            action=layout.action(first),
            reward=reward,
            discount=discount,
            next_observation=layout.observation(following, next_images),
            terminated=terminated,
            behavior_log_prob=layout.value(log_prob, first) if log_prob in layout.slices else None,
            action_mask=known_masks(layout.value(mask, first).bool()) if mask in layout.slices else None,
            next_action_mask=known_masks(layout.value(mask, following).bool()) if mask in layout.slices else None,
            index=index,
            next_action=next_action,
            next_action_known=known,
            return_to_go=layout.value(RETURN_TO_GO, first) if RETURN_TO_GO in self.columns else None,
        )

    def _next_action(self, source: TransitionSource, last: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """What was done behind the steps at rows [N], and whether that is known, with the leading axes `shape`."""
        place, following = self.layout.slices[schema.ACTION], source.follow(last)
        action = self.layout.action_alone(source.take(following, place.start, place.stop), shape)
        return action, (following != last).float().view(shape)


def largest_remainder(fractions: NDArray[np.float64], total: int) -> list[int]:
    """Whole numbers in these proportions that add up to `total`; ties go to the earlier ones."""
    exact = fractions * total
    whole = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - whole), kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return [int(n) for n in whole]


def split_by_episode(store: Trajectories, validation_fraction: float, seed: int) -> tuple[StoreView, StoreView]:
    """Random disjoint selections of whole episodes: for training, and for validation; neither is empty.

    Raises:
        RequestError: the fraction isn't between 0 and 1, or there are fewer than two episodes.
    """
    if not 0.0 < validation_fraction < 1.0 or store.num_episodes < 2:
        raise RequestError(
            f"{store.num_episodes} episodes can't be split with a validation fraction of {validation_fraction}",
            hint="give at least two episodes, and a fraction between 0 and 1",
        )
    count = min(max(1, round(validation_fraction * store.num_episodes)), store.num_episodes - 1)
    order = np.random.Generator(np.random.Philox(seed)).permutation(store.num_episodes)
    return store.select(np.sort(order[count:])), store.select(np.sort(order[:count]))


def top_by_return(store: Trajectories, fraction: float) -> StoreView:
    """The best episodes by return: this fraction of them, rounded up; equal returns go to the earlier episode.

    Raises:
        RequestError: the fraction isn't in (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise RequestError(f"a fraction of {fraction} of the episodes can't be selected", hint="give one in (0, 1]")
    count = int(np.ceil(fraction * store.num_episodes - 1e-9))
    order = np.argsort(-store.episodes.return_, kind="stable")
    return store.select(np.sort(order[:count]))


def _known(columns: Sequence[str], layout: RowLayout) -> frozenset[str]:
    """The columns asked for, where there are such, and rows hold what they need."""
    for column in columns:
        if column not in COLUMNS:
            raise RequestError(f"there is no column {column!r} for batches", hint=f"choose among: {', '.join(COLUMNS)}")
    if RETURN_TO_GO in columns and RETURN_TO_GO not in layout.slices:
        raise RequestError(
            "returns to go are asked of a ring that keeps none",
            hint="make its layout with RowLayout.of(spec, [RETURNS])",
        )
    return frozenset(columns)


def _check_same_layout(sources: Sequence[TransitionSource]) -> None:
    for position, source in enumerate(sources):
        if source.layout != sources[0].layout:
            raise SpaceMismatchError(
                f"the rows of source {position} are {source.layout.columns}, those of source 0 "
                f"{sources[0].layout.columns}",
                hint="mix only datasets and environments that share their spaces",
            )


def _with_episodes(source: TransitionSource) -> EpisodeSource:
    from offrl.replay.source_protocols import EpisodeSource

    if not isinstance(source, EpisodeSource):
        raise RequestError("windows and whole episodes can only be drawn from stores")
    return source


def _nothing_to_draw(counts: NDArray[np.int64]) -> RequestError:
    return RequestError(f"there are no transitions to draw for the seed at position {np.argmin(counts)}")


def _state_of(generator: np.random.Generator) -> NDArray[np.uint64]:
    state: Any = generator.bit_generator.state
    inner = state["state"]
    tail = np.array([state["buffer_pos"], state["has_uint32"], state["uinteger"]], np.uint64)
    return np.concatenate([inner["counter"], inner["key"], state["buffer"], tail])


def _set_state(generator: np.random.Generator, words: NDArray[np.uint64]) -> None:
    generator.bit_generator.state = {
        "bit_generator": "Philox",
        "state": {"counter": words[0:4].copy(), "key": words[4:6].copy()},
        "buffer": words[6:10].copy(),
        "buffer_pos": int(words[10]),
        "has_uint32": int(words[11]),
        "uinteger": int(words[12]),
    }


def _masks_of(rings: Sequence[TransitionSource]) -> list[schema.ColumnSpec]:
    """The rings' mask column, where all have one: stores without one, beside them, allow everything."""
    shapes = [shape for ring in rings for name, shape in ring.layout.columns if name == schema.ACTION_MASK]
    return [schema.ColumnSpec(schema.ACTION_MASK, np.dtype(np.bool_), shapes[0])] if len(shapes) == len(rings) else []


def _index_of(batch: Batch) -> Tensor:
    assert batch.index is not None
    return batch.index


def _joined(parts: Sequence[Batch]) -> Batch:
    """Batches of several sources as one, joined along the batch axis (the third)."""
    if len(parts) == 1:
        return parts[0]
    return Batch(**{field.name: _cat([getattr(part, field.name) for part in parts]) for field in fields(Batch)})


def _cat(values: list[Any]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], dict):
        return {key: _cat([value[key] for value in values]) for key in values[0]}
    return torch.cat(values, dim=2)
