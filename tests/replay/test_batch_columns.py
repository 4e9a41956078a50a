"""What batches hold only where it is asked for, next actions and returns to go, against plain loops over episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from offrl.config.recipe import PriorityConfig
from offrl.data.store import Trajectories, TrajectoryStore
from offrl.errors import RequestError
from offrl.replay.normalization import ActionMap, RewardScaler
from offrl.replay.returns_to_go import returns_to_go
from offrl.replay.ring import OnlineRing
from offrl.replay.row_layout import RETURNS, RowLayout
from offrl.replay.sampler import ReplaySampler
from offrl.types import COLUMNS, Batch, Spec
from tests.data.stores import SPEC, make_store
from tests.replay.test_sampler import LENGTHS, assert_same, mixed_store

DISCOUNT = 0.9


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return make_store(tmp_path_factory.mktemp("columns") / "s", LENGTHS, shard_bytes=200)


def is_tensor(value: Any) -> Tensor:
    assert isinstance(value, Tensor)
    return value


def what_came(
    store: Trajectories, n_step: int, scale: float = 1.0
) -> list[tuple[NDArray[Any] | None, float, NDArray[Any]]]:
    """Of all transitions in order: the action behind n steps if there is one, the return to go, the action itself."""
    found = []
    for episode in store:
        length = len(episode.reward)
        for t in range(length):
            to_go = sum(DISCOUNT**k * scale * float(episode.reward[t + k]) for k in range(length - t))
            next_action = episode.action[t + n_step] if t + n_step < length else None
            found.append((next_action, to_go, episode.action[min(t + n_step, length - 1)]))
    return found


def sampler_of(*sources: Any, **options: Any) -> ReplaySampler:
    defaults: dict[str, Any] = {"batch_size": 40, "seeds": [0, 7], "discount": DISCOUNT, "columns": COLUMNS}
    return ReplaySampler(sources, **(defaults | options))


def test_returns_to_go_by_hand() -> None:
    np.testing.assert_array_equal(returns_to_go(np.array([1.0, 0.0, 4.0]), 0.5), np.float32([2.0, 2.0, 4.0]))
    np.testing.assert_array_equal(returns_to_go(np.array([1.0, 2.0, 3.0]), 1.0), np.float32([6.0, 5.0, 3.0]))
    assert returns_to_go(np.zeros(0), 0.5).shape == (0,)


@pytest.mark.parametrize("prioritized", [False, True])
@pytest.mark.parametrize("budget", [0, 2**20])
@pytest.mark.parametrize("n_step", [1, 2, 3, 10])
def test_columns_are_those_of_a_plain_loop(store: TrajectoryStore, n_step: int, budget: int, prioritized: bool) -> None:
    priority = PriorityConfig(kind="proportional") if prioritized else None
    view = store.select(np.array([3, 0, 1, 5, 2]))
    expected = what_came(view, n_step)
    batch = sampler_of(view, n_step=n_step, memory_budget=budget, priority=priority).sample(3)
    index, next_action = is_tensor(batch.index), is_tensor(batch.next_action)
    known, to_go = is_tensor(batch.next_action_known), is_tensor(batch.return_to_go)
    assert next_action.shape == (3, 2, 40, 1)
    assert {t.dtype for t in (next_action, known, to_go)} == {torch.float32}
    assert set(index.flatten().tolist()) == set(range(len(expected)))
    for place in np.ndindex(3, 2, 40):
        action, earned, instead = expected[int(index[place])]
        assert bool(known[place]) == (action is not None)
        np.testing.assert_array_equal(next_action[place], instead if action is None else action)
        assert float(to_go[place]) == pytest.approx(earned, rel=1e-5, abs=1e-6)


def test_they_are_handed_out_only_where_asked_for(store: TrajectoryStore) -> None:
    plain = sampler_of(store, columns=())
    batch = plain.sample(1)
    assert (batch.next_action, batch.next_action_known, batch.return_to_go) == (None, None, None)
    assert plain.layout == RowLayout.of(SPEC)
    one = sampler_of(store, columns=("next_action",))
    assert one.layout == RowLayout.of(SPEC)
    assert one.sample(1).return_to_go is None
    assert sampler_of(store, columns=("return_to_go",)).sample(1).next_action is None
    # The rest of a batch is the same, bit for bit.
    asked = sampler_of(store).sample(1)
    assert torch.equal(asked.reward, batch.reward)
    assert torch.equal(is_tensor(asked.next_observation), is_tensor(batch.next_observation))


@pytest.mark.parametrize("budget", [0, 2**20])
@pytest.mark.parametrize("length", [1, 4, 12])
def test_windows_have_them_at_each_step(store: TrajectoryStore, length: int, budget: int) -> None:
    expected = what_came(store, 1)
    remaining = [n - t for n in LENGTHS for t in range(n)]
    batch = sampler_of(store, n_step=3, memory_budget=budget).sample_windows(2, length)
    index, to_go, known = (is_tensor(part) for part in (batch.index, batch.return_to_go, batch.next_action_known))
    assert to_go.shape == known.shape == (2, 2, 40, length)
    assert is_tensor(batch.next_action).shape == (2, 2, 40, length, 1)
    for place in np.ndindex(2, 2, 40):
        start = int(index[place])
        for t in range(length):
            action, earned, instead = expected[start + min(t, remaining[start] - 1)]
            assert float(to_go[place][t]) == pytest.approx(earned, rel=1e-5, abs=1e-6)
            assert bool(known[place][t]) == (action is not None)
            np.testing.assert_array_equal(is_tensor(batch.next_action)[place][t], instead)


@pytest.mark.parametrize("budget", [0, 2**20])
def test_they_are_as_agents_see_them(store: TrajectoryStore, budget: int) -> None:
    action_map = ActionMap(np.array([-3.0], np.float32), np.array([5.0], np.float32))
    batch = sampler_of(store, reward_scaler=RewardScaler(0.1), action_map=action_map, memory_budget=budget).sample(2)
    expected = what_came(store, 1, scale=0.1)
    for place in np.ndindex(2, 2, 40):
        _, earned, action = expected[int(is_tensor(batch.index)[place])]
        assert float(is_tensor(batch.return_to_go)[place]) == pytest.approx(earned, rel=1e-5, abs=1e-6)
        np.testing.assert_allclose(is_tensor(batch.next_action)[place], action_map.to_unit(action), rtol=1e-6)


@pytest.mark.parametrize("budget", [0, 2**20])
def test_choices_come_back_as_integers_beside_images(tmp_path: Path, budget: int) -> None:
    store = mixed_store(tmp_path / "s")
    batch = sampler_of(store, discount=1.0, memory_budget=budget, seeds=[0]).sample(2)
    next_action = is_tensor(batch.next_action)
    assert next_action.dtype == torch.int64
    assert next_action.shape == (2, 1, 40)
    index = is_tensor(batch.index)
    behind = torch.tensor([1, 2, 2, 2, 1, 1, 1])
    assert torch.equal(next_action, behind[index])
    assert torch.equal(is_tensor(batch.next_action_known), torch.tensor([1.0, 1, 0, 1, 1, 1, 0])[index])
    assert torch.equal(is_tensor(batch.return_to_go), torch.tensor([6.0, 5, 3, 22, 18, 13, 7])[index])


def test_packed_and_mapped_rows_give_identical_batches(store: TrajectoryStore) -> None:
    packed, mapped = (sampler_of(store, n_step=2, memory_budget=budget) for budget in (2**20, 0))
    assert_same(packed.sample(3), mapped.sample(3))
    assert_same(packed.sample_episodes(2), mapped.sample_episodes(2))


# Own steps


class History:
    """A ring, and all that ever happened in each of its environments, told apart by observations (stream, step)."""

    def __init__(self, seeds: int, environments: int, rows: int, rng: np.random.Generator) -> None:
        streams = seeds * environments
        layout = RowLayout.of(SPEC, [RETURNS])
        self.ring = OnlineRing(layout, seeds, environments, rows * environments, DISCOUNT)
        self.rng, self.seeds, self.environments = rng, seeds, environments
        self.now = np.zeros(streams, np.int64)
        self.steps: list[dict[int, tuple[float, float]]] = [{} for _ in range(streams)]
        self.last: list[set[int]] = [set() for _ in range(streams)]
        self.ring.begin(self.shown(self.now))

    def shown(self, step: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        return {"observation": np.stack([np.arange(len(step)), step], axis=1).astype(np.float32)}

    def step(self, chance_of_end: float) -> None:
        streams = len(self.now)
        action, reward = self.rng.standard_normal((2, streams)).astype(np.float32)
        terminated, truncated = self.rng.random((2, streams)) < chance_of_end / 2
        ended = terminated | truncated
        for stream in range(streams):
            self.steps[stream][int(self.now[stream])] = float(action[stream]), float(reward[stream])
            if ended[stream]:
                self.last[stream].add(int(self.now[stream]))
        behind, begun = self.shown(self.now + 1), self.shown(self.now + 1 + ended)
        self.ring.append(action[:, None], reward, terminated, truncated, behind, begun if ended.any() else behind)
        self.now += 1 + ended

    def cut(self) -> None:
        self.ring.cut()
        for last, now in zip(self.last, self.now, strict=True):
            last.add(int(now) - 1)
        self.now += 1
        self.ring.begin(self.shown(self.now))

    def expected(self, stream: int, step: int, n_step: int) -> tuple[float | None, float, float]:
        """The action behind n steps of an episode if there is one, the return to go, and what else stands there."""
        steps, last = self.steps[stream], self.last[stream]
        t, behind = step, step
        for _ in range(n_step):
            behind = t
            if t in last or t + 1 not in steps:
                break
            t += 1
        known = t != behind
        end = step
        while end not in last and end + 1 in steps:
            end += 1
        rewards = [steps[k][1] for k in range(step, end + 1)]
        to_go = sum(DISCOUNT**k * r for k, r in enumerate(rewards)) if end in last else -np.inf
        return steps[t][0] if known else None, to_go, steps[t][0]

    def check(self, sampler: ReplaySampler) -> None:
        if not self.ring.counts().all():
            return
        batch = sampler.sample(1)
        drawn = is_tensor(batch.observation)[0].numpy().astype(np.int64)
        for place in np.ndindex(drawn.shape[:2]):
            stream, step = drawn[place]
            assert stream // self.environments == place[0]
            action, to_go, instead = self.expected(int(stream), int(step), sampler.n_step)
            assert bool(is_tensor(batch.next_action_known)[0][place]) == (action is not None)
            assert float(is_tensor(batch.next_action)[0][place]) == instead
            assert float(is_tensor(batch.return_to_go)[0][place]) == pytest.approx(to_go, rel=1e-5, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    seeds=st.integers(1, 2),
    environments=st.integers(1, 3),
    rows=st.integers(3, 12),
    n_step=st.sampled_from([1, 3]),
    kind=st.sampled_from(["none", "rank"]),
    chance_of_end=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    chance_of_cut=st.sampled_from([0.0, 0.1]),
    random=st.integers(0, 2**32 - 1),
)
def test_a_ring_hands_out_what_happened(
    seeds: int,
    environments: int,
    rows: int,
    n_step: int,
    kind: Literal["none", "rank"],
    chance_of_end: float,
    chance_of_cut: float,
    random: int,
) -> None:
    rng = np.random.default_rng(random)
    history = History(seeds, environments, rows, rng)
    priority = PriorityConfig(kind=kind)
    sampler = sampler_of(history.ring, n_step=n_step, seeds=list(range(seeds)), batch_size=30, priority=priority)
    for _ in range(4 * rows):
        history.step(chance_of_end)
        history.check(sampler)
        if rng.random() < chance_of_cut:
            history.cut()
            history.check(sampler)


def test_a_restored_ring_knows_the_running_episodes() -> None:
    history, other = (History(2, 1, 12, np.random.default_rng(4)) for _ in range(2))
    for _ in range(20):
        history.step(0.15)
    assert (history.ring.running > 0).any()
    other.ring.restore({name: tensor.clone() for name, tensor in history.ring.named_tensors().items()})
    other.steps, other.last = [dict(each) for each in history.steps], [set(each) for each in history.last]
    other.now, other.rng = history.now.copy(), np.random.default_rng(1)
    sampler = sampler_of(other.ring)
    other.check(sampler)
    other.cut()
    other.check(sampler)
    for _ in range(30):
        other.step(0.15)
        other.check(sampler)


def test_a_store_and_a_ring_mix_at_exact_shares(store: TrajectoryStore) -> None:
    ring = OnlineRing(RowLayout.of(SPEC, [RETURNS]), seeds=2, environments=1, capacity=50, discount=DISCOUNT)
    no, observation = np.zeros(2, np.bool_), {"observation": np.zeros((2, 2), np.float32)}
    ring.begin(observation)
    ring.append(np.full((2, 1), 0.5), np.ones(2), no, no, observation, observation)
    batch = sampler_of(store, ring, fractions=[0.25, 0.75]).sample(3)
    to_go, known = is_tensor(batch.return_to_go), is_tensor(batch.next_action_known)
    assert to_go[..., :10].isfinite().all()
    assert (to_go[..., 10:] == -torch.inf).all()
    assert (known[..., 10:] == 0.0).all()
    assert (is_tensor(batch.next_action)[..., 10:, 0] == 0.5).all()


def test_what_cannot_be_handed_out_is_refused(store: TrajectoryStore) -> None:
    ring = OnlineRing(RowLayout.of(SPEC), seeds=2, environments=1, capacity=50)
    with pytest.raises(RequestError, match="a ring that keeps none"):
        sampler_of(ring)
    with pytest.raises(RequestError, match=r"no column 'next_actions'(.|\n)*next_action, return_to_go"):
        sampler_of(store, columns=("next_actions",))


def test_small_batches_of_a_ring_have_next_actions_too() -> None:
    spec = Spec(gym.spaces.Box(-1.0, 1.0, (2,), np.float32), gym.spaces.Discrete(3))
    ring = OnlineRing(RowLayout.of(spec), seeds=1, environments=1, capacity=20)
    no, observation = np.zeros(1, np.bool_), {"observation": np.zeros((1, 2), np.float32)}
    ring.begin(observation)
    for action in (2, 1):
        ring.append(np.array([action]), np.ones(1), no, no, observation, observation)
    batches = sampler_of(ring, seeds=[0], columns=("next_action",), batch_size=8).batches(2)
    for batch in batches:
        assert isinstance(batch, Batch)
        assert torch.equal(is_tensor(batch.next_action_known), (batch.action == 2).float())
        assert (is_tensor(batch.next_action) == 1).all()
