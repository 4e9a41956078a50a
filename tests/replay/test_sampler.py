"""The sampler against plain loops over episodes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offrl.data.store import EpisodeBlock, StoreWriter, Trajectories, TrajectoryStore
from offrl.errors import RequestError, SpaceMismatchError
from offrl.replay.normalization import ActionMap, ObservationNormalizer, RewardScaler
from offrl.replay.ring import OnlineRing
from offrl.replay.sampler import ReplaySampler, RowLayout, largest_remainder, split_by_episode, top_by_return
from offrl.types import Batch, Spec
from tests.data.stores import SPEC, make_store

LENGTHS = [3, 1, 5, 8, 2, 4]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return make_store(tmp_path_factory.mktemp("sampler") / "s", LENGTHS, shard_bytes=200)


@dataclass
class Expected:
    """One transition, as a plain loop over its episode finds it."""

    observation: NDArray[Any]
    action: NDArray[Any]
    reward: float
    discount: float
    next_observation: NDArray[Any]
    terminated: bool


def transitions(store: Trajectories, n_step: int = 1, gamma: float = 0.99) -> list[Expected]:
    """All transitions in order, with n-step returns summed one by one."""
    found = []
    for e in range(store.num_episodes):
        episode = store.episode(e)
        for t in range(len(episode.reward)):
            total, factor, last = 0.0, 1.0, t
            for k in range(t, min(t + n_step, len(episode.reward))):
                total += factor * float(episode.reward[k])
                factor *= gamma
                last = k
                if episode.terminated[k] or episode.truncated[k]:
                    break
            found.append(
                Expected(
                    episode.observation[t],
                    episode.action[t],
                    total,
                    0.0 if episode.terminated[last] else factor,
                    episode.observation[last + 1],
                    bool(episode.terminated[last]),
                )
            )
    return found


def assert_same(one: Batch, two: Batch) -> None:
    """All fields are equal, bit for bit."""
    for field in fields(Batch):
        a, b = getattr(one, field.name), getattr(two, field.name)
        pairs = [(a[k], b[k]) for k in a] if isinstance(a, dict) else [(a, b)]
        for x, y in pairs:
            if x is None:
                assert y is None
            else:
                assert x.dtype == y.dtype
                assert torch.equal(x, y), field.name


@pytest.mark.parametrize("budget", [0, 2**20])
@pytest.mark.parametrize("n_step", [1, 2, 3, 10])
def test_transitions_are_those_of_a_plain_loop(store: TrajectoryStore, n_step: int, budget: int) -> None:
    expected = transitions(store, n_step, 0.9)
    sampler = ReplaySampler([store], batch_size=40, seeds=[0, 7], n_step=n_step, discount=0.9, memory_budget=budget)
    batch = sampler.sample(3)
    assert batch.index is not None
    assert isinstance(batch.observation, torch.Tensor)
    assert isinstance(batch.next_observation, torch.Tensor)
    assert batch.observation.shape == (3, 2, 40, 2)
    assert batch.action.shape == (3, 2, 40, 1)
    assert {t.dtype for t in (batch.observation, batch.action, batch.reward, batch.discount, batch.terminated)} == {
        torch.float32
    }
    assert set(batch.index.flatten().tolist()) == set(range(store.num_steps))
    for place in np.ndindex(3, 2, 40):
        e = expected[int(batch.index[place])]
        np.testing.assert_array_equal(batch.observation[place], e.observation)
        np.testing.assert_array_equal(batch.action[place], e.action)
        np.testing.assert_array_equal(batch.next_observation[place], e.next_observation)
        assert float(batch.reward[place]) == pytest.approx(e.reward, rel=1e-5, abs=1e-6)
        assert float(batch.discount[place]) == pytest.approx(e.discount, rel=1e-6)
        assert bool(batch.terminated[place]) == e.terminated


def test_draws_are_uniform(store: TrajectoryStore) -> None:
    index = ReplaySampler([store], batch_size=1000, seeds=[1]).sample(46).index
    assert index is not None
    counts = torch.bincount(index.flatten(), minlength=store.num_steps).double()
    expected = index.numel() / store.num_steps
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 51.2  # the 0.1 % point at 22 degrees of freedom is 48.3; the seed is fixed


@settings(max_examples=30, deadline=None)
@given(blocks=st.lists(st.integers(1, 4), min_size=1, max_size=4), n_step=st.sampled_from([1, 3]), odd=st.booleans())
def test_calls_may_be_blocked_as_one_likes(store: TrajectoryStore, blocks: list[int], n_step: int, odd: bool) -> None:
    def make() -> ReplaySampler:
        sources = [store, store.select(np.array([2, 0]))]
        return ReplaySampler(sources, batch_size=7 if odd else 6, seeds=[3, 5], fractions=[0.7, 0.3], n_step=n_step)

    whole, sampler = make().sample(sum(blocks)), make()
    parts = [batch for count in blocks for batch in sampler.sample(count).unbind()]
    for one, two in zip(whole.unbind(), parts, strict=True):
        assert_same(one, two)


def test_a_seed_draws_the_same_in_any_company(store: TrajectoryStore) -> None:
    together = ReplaySampler([store], batch_size=8, seeds=[4, 9, 2]).sample(3)
    alone = ReplaySampler([store], batch_size=8, seeds=[9]).sample(3)
    assert torch.equal(together.reward[:, 1:2], alone.reward)
    assert not torch.equal(together.reward[:, 0], together.reward[:, 1])


@pytest.mark.parametrize("kind", ["sample", "windows", "episodes"])
def test_restoring_continues_exactly(store: TrajectoryStore, kind: str) -> None:
    def draw(sampler: ReplaySampler) -> Batch:
        if kind == "windows":
            return sampler.sample_windows(2, 3)
        return sampler.sample_episodes(2) if kind == "episodes" else sampler.sample(2)

    sampler = ReplaySampler([store, store], batch_size=5, seeds=[4, 9])
    sampler.set_fractions([0.2, 0.8])
    draw(sampler)
    saved = {name: tensor.clone() for name, tensor in sampler.named_tensors().items()}
    expected = draw(sampler)
    other = ReplaySampler([store, store], batch_size=5, seeds=[4, 9])
    other.restore(saved)
    assert_same(draw(other), expected)
    assert other.shares == [1, 4]


def make_sampler(store: Trajectories, budget: int, **options: Any) -> ReplaySampler:
    box = store.spec.action_space
    assert isinstance(box, spaces.Box)
    return ReplaySampler(
        [store],
        batch_size=16,
        seeds=[0, 1],
        observation_normalizer=ObservationNormalizer.from_store(store),
        reward_scaler=RewardScaler(0.3, 1.7),
        action_map=ActionMap.from_space(box),
        memory_budget=budget,
        **options,
    )


@pytest.mark.parametrize("n_step", [1, 4])
def test_packed_and_mapped_rows_give_identical_batches(store: TrajectoryStore, n_step: int) -> None:
    view = store.select(np.array([3, 0, 1, 5]))
    packed, mapped = (make_sampler(view, budget, n_step=n_step) for budget in (2**20, 0))
    assert_same(packed.sample(5), mapped.sample(5))
    assert_same(packed.sample_windows(2, 4), mapped.sample_windows(2, 4))
    assert_same(packed.sample_episodes(2), mapped.sample_episodes(2))


def test_agents_see_normalized_values(store: TrajectoryStore) -> None:
    batch = make_sampler(store, 2**20).sample(4)
    assert batch.index is not None
    raw = [transitions(store)[i] for i in batch.index.flatten().tolist()]
    statistics = store.statistics["observation"]
    observations = (np.array([e.observation for e in raw]) - statistics.mean) / (statistics.std + 1e-3)
    following = (np.array([e.next_observation for e in raw]) - statistics.mean) / (statistics.std + 1e-3)
    np.testing.assert_allclose(batch.observation.flatten(0, 2), observations, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]
    np.testing.assert_allclose(batch.next_observation.flatten(0, 2), following, rtol=1e-5, atol=1e-5)  # type: ignore[union-attr]
    np.testing.assert_allclose(batch.reward.flatten(), [0.3 * e.reward + 1.7 for e in raw], rtol=1e-5)
    np.testing.assert_allclose(batch.action.flatten(0, 2), np.array([e.action - 1.0 for e in raw]) / 2, atol=1e-6)


# Mixtures


def test_every_batch_has_exactly_its_shares(store: TrajectoryStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", [40], seed=5)
    sampler = ReplaySampler([store, other], batch_size=256, seeds=[0, 1], fractions=[0.5, 0.5])
    known = {float(e.reward) for e in transitions(store)}
    rounded = {float(np.float32(reward)) for reward in known}
    batch = sampler.sample(6)
    assert batch.reward.shape == (6, 2, 256)
    for k, s in np.ndindex(6, 2):
        assert sum(reward in rounded for reward in batch.reward[k, s].tolist()) == 128
    sampler.set_fractions([0.25, 0.75])
    assert sum(reward in rounded for reward in sampler.sample(1).reward[0, 0].tolist()) == 64
    sampler.set_fractions([0.0, 1.0])
    assert not any(reward in rounded for reward in sampler.sample(1).reward[0, 0].tolist())


@pytest.mark.parametrize(
    ("fractions", "total", "shares"),
    [
        ([0.5, 0.5], 7, [4, 3]),
        ([1 / 3, 1 / 3, 1 / 3], 256, [86, 85, 85]),
        ([0.1, 0.2, 0.7], 10, [1, 2, 7]),
        ([0.001, 0.999], 10, [0, 10]),
        ([0.25, 0.75], 2, [1, 1]),
    ],
)
def test_shares_are_rounded_by_largest_remainder(fractions: list[float], total: int, shares: list[int]) -> None:
    assert largest_remainder(np.array(fractions), total) == shares


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5).filter(lambda f: sum(f) > 0), st.integers(1, 600))
def test_shares_add_up_and_are_within_one(fractions: list[float], total: int) -> None:
    exact = np.array(fractions) / sum(fractions) * total
    shares = largest_remainder(np.array(fractions) / sum(fractions), total)
    assert sum(shares) == total
    assert (np.abs(exact - shares) < 1 + 1e-6).all()


def fill(ring: OnlineRing, steps: int, first: float) -> None:
    """Steps of one environment per seed whose reward counts up; no episode ends."""
    streams = len(ring.position)
    ring.begin({"observation": np.full((streams, 2), first, np.float32)})
    for t in range(steps):
        after = {"observation": np.full((streams, 2), first + t + 1, np.float32)}
        no = np.zeros(streams, np.bool_)
        ring.append(np.zeros((streams, 1)), np.full(streams, first + t), no, no, after, after)


def test_a_store_and_a_ring_mix(store: TrajectoryStore) -> None:
    ring = OnlineRing(RowLayout.of(SPEC), seeds=2, environments=1, capacity=50)
    fill(ring, 10, 1000.0)
    batch = ReplaySampler([store, ring], batch_size=8, seeds=[0, 1], fractions=[0.25, 0.75], n_step=3).sample(4)
    assert (batch.reward[..., :2] < 900).all()
    assert (batch.reward[..., 2:] >= 1000).all()
    start = batch.observation[..., 2:, 0]  # type: ignore[index]
    steps = batch.next_observation[..., 2:, 0] - start  # type: ignore[index]
    # The newest transition has no successor yet, so sums end there, and still bootstrap.
    assert torch.equal(steps, (1010.0 - start).clamp(max=3.0))
    torch.testing.assert_close(batch.discount[..., 2:], 0.99**steps)
    with pytest.raises(RequestError, match="only be drawn from stores"):
        ReplaySampler([ring], batch_size=8, seeds=[0, 1]).sample_windows(1, 3)


def test_sources_of_other_spaces_do_not_mix(store: TrajectoryStore) -> None:
    other = RowLayout.of(Spec(spaces.Box(-1, 1, (3,)), SPEC.action_space))
    ring = OnlineRing(other, seeds=1, environments=1, capacity=50)
    with pytest.raises(SpaceMismatchError, match="source 1"):
        ReplaySampler([store, ring], batch_size=8, seeds=[0])


def test_an_empty_source_is_named(store: TrajectoryStore) -> None:
    empty = store.select(np.array([], np.int64))
    with pytest.raises(RequestError, match="no transitions"):
        ReplaySampler([empty], batch_size=8, seeds=[0]).sample(1)
    with pytest.raises(RequestError, match="position 1"):
        ReplaySampler(
            [store], batch_size=8, seeds=[0, 1], seed_episodes=[np.array([1]), np.array([], np.int64)]
        ).sample(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "at least 1"),
        ({"n_step": 0}, "at least 1"),
        ({"seeds": []}, "a seed"),
        ({"fractions": [0.5, 0.5]}, "1 sources"),
        ({"fractions": [0.0]}, "1 sources"),
        ({"fractions": [float("nan")]}, "1 sources"),
        ({"seed_episodes": [np.array([0])] * 2}, "seed_episodes"),
    ],
)
def test_wrong_options_are_refused(store: TrajectoryStore, options: dict[str, Any], message: str) -> None:
    defaults: dict[str, Any] = {"batch_size": 4, "seeds": [0]}
    with pytest.raises(RequestError, match=message):
        ReplaySampler([store], **(defaults | options))


# Seeds with episodes of their own


@pytest.mark.parametrize("budget", [0, 2**20])
def test_each_seed_keeps_to_its_episodes(store: TrajectoryStore, budget: int) -> None:
    chosen = [np.array([1]), np.array([0, 3]), np.array([5, 2])]
    sampler = ReplaySampler([store], batch_size=64, seeds=[0, 1, 2], seed_episodes=chosen, memory_budget=budget)
    batch = sampler.sample(4)
    episodes = sampler.sample_episodes(4)
    for s, mine in enumerate(chosen):
        rewards = {float(np.float32(r)) for e in mine for r in store.episode(int(e)).reward}
        assert set(batch.reward[:, s].flatten().tolist()) == rewards
        assert set(episodes.reward[:, s].flatten().tolist()) == rewards
    alone = ReplaySampler([store.select(chosen[1])], batch_size=64, seeds=[1]).sample(4)
    assert torch.equal(alone.reward[:, 0], batch.reward[:, 1])


# Windows and episodes


def test_a_sampler_of_windows_gives_nothing_else(store: TrajectoryStore) -> None:
    asked, made = (ReplaySampler([store], batch_size=5, seeds=[0, 1], **options) for options in ({}, {"window": 3}))
    expected = asked.sample_windows(2, 3)
    assert_same(made.sample(2), expected)
    again = ReplaySampler([store], batch_size=5, seeds=[0, 1], window=3).batches(2)
    for batch, part in zip(again, expected.unbind(), strict=True):
        assert_same(batch, part)


@pytest.mark.parametrize("length", [1, 4, 12])
def test_windows_run_to_the_end_of_their_episode(store: TrajectoryStore, length: int) -> None:
    expected = transitions(store)
    remaining = [n - t for n in LENGTHS for t in range(n)]
    timesteps = [t for n in LENGTHS for t in range(n)]
    batch = ReplaySampler([store], batch_size=30, seeds=[0, 1], n_step=5).sample_windows(2, length)
    assert batch.reward.shape == (2, 2, 30, length)
    assert batch.observation.shape == (2, 2, 30, length, 2)  # type: ignore[union-attr]
    assert batch.index is not None
    assert batch.mask is not None
    assert batch.mask.dtype == torch.bool
    for place in np.ndindex(2, 2, 30):
        start = int(batch.index[place])
        inside = min(length, remaining[start])
        assert batch.mask[place].tolist() == [True] * inside + [False] * (length - inside)
        assert batch.timestep is not None
        begin = timesteps[start]
        assert batch.timestep[place].tolist() == [begin + min(t, inside - 1) for t in range(length)]
        for t in range(length):
            e = expected[start + min(t, inside - 1)]
            np.testing.assert_array_equal(batch.observation[place][t], e.observation)  # type: ignore[index]
            np.testing.assert_array_equal(batch.next_observation[place][t], e.next_observation)  # type: ignore[index]
            assert float(batch.reward[place][t]) == pytest.approx(e.reward, rel=1e-6)
            assert float(batch.discount[place][t]) == pytest.approx(e.discount)


def test_whole_episodes(store: TrajectoryStore) -> None:
    batch = ReplaySampler([store], batch_size=30, seeds=[0, 1]).sample_episodes(2)
    assert batch.index is not None
    assert batch.mask is not None
    assert batch.reward.shape[:3] == (2, 2, 30)
    assert set(batch.index.flatten().tolist()) == set(range(len(LENGTHS)))
    for place in np.ndindex(2, 2, 30):
        episode = store.episode(int(batch.index[place]))
        mask = batch.mask[place]
        assert int(mask.sum()) == len(episode.reward)
        np.testing.assert_array_equal(batch.observation[place][mask], episode.observation[:-1])  # type: ignore[index]
        np.testing.assert_allclose(batch.reward[place][mask], episode.reward, rtol=1e-6)
    longest = max(LENGTHS[i] for i in batch.index.flatten().tolist())
    assert batch.reward.shape[3] == longest


def test_episodes_of_two_stores_share_a_length(store: TrajectoryStore, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", [20])
    batch = ReplaySampler([store, other], batch_size=6, seeds=[0]).sample_episodes(1)
    assert batch.reward.shape == (1, 1, 6, 20)
    assert batch.mask is not None
    assert batch.mask[..., 3:, :].all()


# Other spaces


def mixed_store(path: Path) -> TrajectoryStore:
    """Dict observations with an image, a choice and a matrix; three discrete actions; all optional columns."""
    rows = 9
    rng = np.random.default_rng(3)
    observation = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (3, 2, 1), np.uint8),
            "phase": spaces.Discrete(5),
            "grid": spaces.Box(-9.0, 9.0, (2, 2), np.float64),
        }
    )
    columns: dict[str, NDArray[Any]] = {
        "observation.camera": rng.integers(0, 256, (rows, 3, 2, 1), dtype=np.uint8),
        "observation.phase": rng.integers(0, 5, rows),
        "observation.grid": rng.standard_normal((rows, 2, 2)),
        "action": np.array([0, 1, 2, 0, 0, 2, 1, 1, 0]),
        "reward": np.array([1, 2, 3, 0, 4, 5, 6, 7, 0.0]),
        "terminated": np.array([0, 0, 1, 0, 0, 0, 0, 0, 0], np.bool_),
        "truncated": np.array([0, 0, 0, 0, 0, 0, 0, 1, 0], np.bool_),
        "behavior_log_prob": np.array([-1, -2, -3, 0, -4, -5, -6, -7, 0.0]),
        "action_mask": rng.integers(0, 2, (rows, 3)).astype(np.bool_),
    }
    columns["action_mask"][np.arange(rows), columns["action"]] = True
    columns["action_mask"][3] = False  # not logged behind the first episode's end
    with StoreWriter(path, Spec(observation, spaces.Discrete(3)), shard_bytes=1) as writer:
        writer.append(EpisodeBlock(columns, np.array([3, 4])))
    return TrajectoryStore.open(path)


@pytest.mark.parametrize("budget", [0, 2**20])
@pytest.mark.parametrize("n_step", [1, 2])
def test_images_choices_masks_and_log_probabilities(tmp_path: Path, n_step: int, budget: int) -> None:
    store = mixed_store(tmp_path / "s")
    assert len(store.metadata.shards) == 2
    batch = ReplaySampler([store], batch_size=20, seeds=[0], n_step=n_step, memory_budget=budget).sample(2)
    assert isinstance(batch.observation, dict)
    assert isinstance(batch.next_observation, dict)
    assert batch.index is not None
    assert batch.action_mask is not None
    assert batch.behavior_log_prob is not None
    assert batch.observation["camera"].dtype == torch.uint8
    assert batch.observation["camera"].shape == (2, 1, 20, 3, 2, 1)
    assert batch.observation["phase"].shape == (2, 1, 20)
    assert batch.observation["grid"].shape == (2, 1, 20, 2, 2)
    assert batch.action.dtype == torch.int64
    assert batch.action_mask.dtype == torch.bool
    rows = [0, 1, 2, 4, 5, 6, 7]
    for place in np.ndindex(2, 1, 20):
        row = rows[int(batch.index[place])]
        following = min(row + n_step, 3 if row < 4 else 8)
        for key in ("camera", "phase", "grid"):
            column = store.read(f"observation.{key}", 0, 9)
            np.testing.assert_array_equal(batch.observation[key][place], column[row].astype(np.float32))
            np.testing.assert_array_equal(batch.next_observation[key][place], column[following].astype(np.float32))
        assert int(batch.action[place]) == store.read("action", 0, 9)[row]
        assert batch.action_mask[place].tolist() == store.read("action_mask", 0, 9)[row].tolist()
        allowed = store.read("action_mask", 0, 9)[following]
        assert batch.next_action_mask is not None
        assert batch.next_action_mask[place].tolist() == (allowed | ~allowed.any()).tolist()
        assert float(batch.behavior_log_prob[place]) == store.read("behavior_log_prob", 0, 9)[row]
    window = ReplaySampler([store], batch_size=4, seeds=[0], memory_budget=budget).sample_windows(1, 3)
    assert isinstance(window.observation, dict)
    assert window.observation["camera"].shape == (1, 1, 4, 3, 3, 2, 1)
    assert window.action.shape == (1, 1, 4, 3)


def test_log_densities_follow_the_action_map(tmp_path: Path) -> None:
    columns: dict[str, NDArray[Any]] = {
        "observation": np.zeros((2, 2), np.float32),
        "action": np.array([[2.0], [0.0]], np.float32),
        "reward": np.zeros(2),
        "terminated": np.array([True, False]),
        "truncated": np.zeros(2, np.bool_),
        "behavior_log_prob": np.array([-0.5, 0.0]),
    }
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(EpisodeBlock(columns, np.array([1])))
    box = SPEC.action_space
    assert isinstance(box, spaces.Box)
    sampler = ReplaySampler([writer.close()], batch_size=1, seeds=[0], action_map=ActionMap.from_space(box))
    batch = sampler.sample(1)
    assert batch.behavior_log_prob is not None
    # Actions in [-1, 3] are mapped by u = (a - 1) / 2, so densities double.
    assert float(batch.action) == 0.5
    assert float(batch.behavior_log_prob) == pytest.approx(-0.5 + np.log(2.0))


def test_optional_columns_that_not_all_have_are_left_out(store: TrajectoryStore, tmp_path: Path) -> None:
    columns = dict(next(store.select(np.array([0])).iterate_blocks(100)).columns)
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.append(EpisodeBlock(columns | {"behavior_log_prob": np.zeros(4)}, np.array([3])))
    logged = writer.close()
    assert ReplaySampler([logged], batch_size=4, seeds=[0]).sample(1).behavior_log_prob is not None
    assert ReplaySampler([logged, store], batch_size=4, seeds=[0]).sample(1).behavior_log_prob is None


def test_actions_in_a_nested_space_are_refused() -> None:
    with pytest.raises(RequestError, match="Dict"):
        RowLayout.of(Spec(SPEC.observation_space, spaces.Dict({"a": spaces.Discrete(2)})))


# Selections


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.5, 0.99])
def test_a_split_is_disjoint_complete_and_reproducible(store: TrajectoryStore, fraction: float) -> None:
    train, validation = split_by_episode(store, fraction, seed=3)
    assert sorted([*train.selected, *validation.selected]) == list(range(6))
    assert validation.num_episodes == min(5, max(1, round(fraction * 6)))
    assert split_by_episode(store, fraction, seed=3)[0].selected.tolist() == train.selected.tolist()
    others = {tuple(split_by_episode(store, 0.5, seed=s)[0].selected) for s in range(8)}
    assert len(others) > 1


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_a_split_needs_a_fraction(store: TrajectoryStore, fraction: float) -> None:
    with pytest.raises(RequestError, match="validation fraction"):
        split_by_episode(store, fraction, seed=0)
    with pytest.raises(RequestError, match="1 episodes"):
        split_by_episode(store.select(np.array([0])), 0.5, seed=0)


def test_the_best_episodes(store: TrajectoryStore) -> None:
    best = np.argsort(store.episodes.return_)[::-1].tolist()
    for fraction, count in ((0.1, 1), (1 / 3, 2), (0.5, 3), (1.0, 6)):
        assert top_by_return(store, fraction).selected.tolist() == sorted(best[:count])
    with pytest.raises(RequestError, match=r"\(0, 1\]"):
        top_by_return(store, 0.0)
