"""The replay ring against plain lists of transitions, which remember the last rows of each environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from offrl.errors import RequestError
from offrl.replay.ring import OnlineRing
from offrl.replay.row_layout import RowLayout
from offrl.replay.sampler import ReplaySampler
from offrl.types import Batch, Spec

SPEC = Spec(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32), gym.spaces.Box(-1.0, 1.0, (1,), np.float32))
Place = tuple[int, int]
"""An environment, and how many rows it had written before."""


@dataclass(frozen=True)
class Transition:
    action: float
    reward: float
    terminated: bool
    following: Place


@dataclass
class Oracle:
    """One environment's rows, numbered from 0; the newest `length` of them are remembered."""

    stream: int
    length: int
    row: int = 0
    transitions: dict[int, Transition] = field(default_factory=dict)
    ends: set[int] = field(default_factory=set)

    def held(self) -> dict[Place, Transition]:
        """The transitions that start at a remembered row."""
        return {(self.stream, row): t for row, t in self.transitions.items() if row > self.row - self.length}

    def follower(self, row: int) -> int:
        """The row of the next transition in the episode, or the same one where there is none."""
        goes_on = row not in self.ends and row + 1 in self.transitions
        return row + 1 if goes_on else row


class World:
    """A ring and its oracles, fed with the same made-up steps: an observation says who wrote it, and when."""

    def __init__(self, seeds: int, environments: int, capacity: int, rng: np.random.Generator) -> None:
        self.ring = OnlineRing(RowLayout.of(SPEC), seeds, environments, capacity)
        self.environments, self.rng = environments, rng
        self.oracles = [Oracle(stream, capacity // environments) for stream in range(seeds * environments)]
        self.ring.begin(self.observations())

    def observations(self, ahead: int = 0) -> dict[str, NDArray[Any]]:
        places = [[oracle.stream, oracle.row + ahead] for oracle in self.oracles]
        return {"observation": np.array(places, np.float32)}

    def step(self, chance_of_end: float) -> None:
        streams = len(self.oracles)
        action, reward = self.rng.standard_normal((2, streams)).astype(np.float32)
        terminated, truncated = self.rng.random((2, streams)) < chance_of_end / 2
        next_observation = self.observations(ahead=1)
        for oracle, a, r, end, cut in zip(self.oracles, action, reward, terminated, truncated, strict=True):
            following = (oracle.stream, oracle.row + 1)
            oracle.transitions[oracle.row] = Transition(float(a), float(r), bool(end), following)
            if end or cut:
                oracle.ends.add(oracle.row)
            oracle.row += 2 if end or cut else 1
        # Where the episode goes on, the reset observation must not matter.
        reset_observation = self.observations()
        reset_observation["observation"][~(terminated | truncated)] = np.nan
        self.ring.append(action[:, None], reward, terminated, truncated, next_observation, reset_observation)

    def cut(self) -> None:
        self.ring.cut()
        for oracle in self.oracles:
            oracle.ends.add(oracle.row - 1)
            oracle.row += 1
        self.ring.begin(self.observations())

    def check(self) -> None:
        """Every transition that the ring numbers is one that the oracles hold, once, with the right successor."""
        seeds = len(self.oracles) // self.environments
        for seed in range(seeds):
            oracles = self.oracles[seed * self.environments : (seed + 1) * self.environments]
            expected = {place: t for oracle in oracles for place, t in oracle.held().items()}
            assert self.ring.counts()[seed] == len(expected)
            rows = self.rows_of(seed, seeds)
            pairs = self.ring.take(rows, 0, self.ring.layout.pair_width).numpy()
            found = {}
            for s0, s1, action, reward, terminated, _, n0, n1 in pairs:
                transition = Transition(float(action), float(reward), bool(terminated), (int(n0), int(n1)))
                found[int(s0), int(s1)] = transition
            assert found == expected
            followers = self.ring.take(self.ring.follow(rows), 0, 2).numpy()
            for (stream, row), follower in zip(pairs[:, :2].astype(int), followers.astype(int), strict=True):
                assert follower.tolist() == [stream, self.oracles[stream].follower(row)]

    def rows_of(self, seed: int, seeds: int) -> torch.Tensor:
        """The rows of all of a seed's transitions, in the order of their numbers."""
        counts = torch.from_numpy(self.ring.counts())
        index = torch.arange(int(counts[seed]))[None, None, :].expand(1, seeds, -1)
        return self.ring.locate(torch.minimum(index, counts[:, None] - 1))[0, seed]


@settings(max_examples=25, deadline=None)
@given(
    seeds=st.integers(1, 3),
    environments=st.integers(1, 3),
    rows=st.integers(3, 12),
    spare=st.integers(0, 2),
    chance_of_end=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    chance_of_cut=st.sampled_from([0.0, 0.1]),
    random=st.integers(0, 2**32 - 1),
)
def test_it_holds_what_plain_lists_hold(
    seeds: int, environments: int, rows: int, spare: int, chance_of_end: float, chance_of_cut: float, random: int
) -> None:
    rng = np.random.default_rng(random)
    world = World(seeds, environments, rows * environments + min(spare, environments - 1), rng)
    for _ in range(6 * rows):
        world.step(chance_of_end)
        world.check()
        if rng.random() < chance_of_cut:
            world.cut()


def test_a_large_ring_wraps_many_times() -> None:
    world = World(2, 2, 100, np.random.default_rng(0))
    for step in range(600):
        world.step(0.05)
        if step % 97 == 96:
            world.cut()
        if step % 13 == 0:
            world.check()
    assert all(oracle.row > 10 * oracle.length for oracle in world.oracles)


def test_everything_is_held_until_the_rows_run_out() -> None:
    world = World(1, 1, 10, np.random.default_rng(0))
    counts = []
    for _ in range(12):
        world.step(0.0)
        counts.append(int(world.ring.counts()[0]))
    # One of the ten rows holds the newest observation, whose transition is yet to come.
    assert counts == [1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 9]


def test_cutting_before_the_first_step_changes_nothing() -> None:
    world = World(1, 2, 20, np.random.default_rng(0))
    world.ring.cut()
    world.ring.begin(world.observations())
    world.step(0.0)
    world.check()


def test_a_cut_transition_is_truncated_and_still_bootstraps() -> None:
    world = World(1, 1, 10, np.random.default_rng(0))
    world.step(0.0)
    world.step(0.0)
    world.cut()
    world.step(0.0)
    flags = world.ring.take(world.rows_of(0, 1), 4, 6)
    assert flags.tolist() == [[0.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
    sampler = ReplaySampler([world.ring], batch_size=64, seeds=[0], discount=0.9)
    assert sampler.sample(1).discount.eq(0.9).all()


def test_draws_are_uniform_and_each_seed_sees_only_its_own_steps() -> None:
    seeds, environments, draws = 2, 2, 40_000
    world = World(seeds, environments, 30, np.random.default_rng(1))
    for _ in range(100):
        world.step(0.1)
    batch = ReplaySampler([world.ring], batch_size=draws, seeds=[0, 1]).sample(1)
    assert isinstance(batch.observation, torch.Tensor)
    for seed in range(seeds):
        oracles = world.oracles[seed * environments : (seed + 1) * environments]
        held = {place for oracle in oracles for place in oracle.held()}
        places, counts = np.unique(batch.observation[0, seed].numpy().astype(int), axis=0, return_counts=True)
        assert {(int(stream), int(row)) for stream, row in places} == held
        expected = draws / len(held)
        assert np.abs(counts - expected).max() < 5 * (expected * (1 - 1 / len(held))) ** 0.5


@pytest.mark.parametrize("steps", [0, 1, 5, 50])
def test_a_restored_ring_goes_on_as_the_saved_one(steps: int) -> None:
    """A checkpoint holds the rows that were written, of which there are 12 and one behind them."""
    world, rng = World(2, 2, 24, np.random.default_rng(0)), np.random.default_rng(5)
    for _ in range(steps):
        world.step(0.2)
    saved = {name: tensor.clone() for name, tensor in world.ring.named_tensors().items()}
    assert (saved["rows"].shape[1] == 13) == (steps == 50)
    other = World(2, 2, 24, rng)
    other.ring.restore(saved)
    other.oracles = [Oracle(o.stream, o.length, o.row, dict(o.transitions), set(o.ends)) for o in world.oracles]
    other.check()
    world.rng, other.rng = np.random.default_rng(9), np.random.default_rng(9)
    samplers = [ReplaySampler([w.ring], batch_size=8, seeds=[3, 4], n_step=2) for w in (world, other)]
    for step in range(40):
        for w in (world, other):
            w.step(0.2)
            if step == 20:
                w.cut()
        one, two = (sampler.sample(2) for sampler in samplers)
        assert torch.equal(one.index, two.index)  # type: ignore[arg-type]
        assert torch.equal(one.observation, two.observation)  # type: ignore[arg-type]
        assert torch.equal(one.reward, two.reward)
    for name, tensor in other.ring.named_tensors().items():
        assert torch.equal(tensor, world.ring.named_tensors()[name]), name


def test_nested_observations_images_and_discrete_actions_come_back() -> None:
    space = gym.spaces.Dict(
        {
            "camera": gym.spaces.Box(0, 255, (2, 2, 1), np.uint8),
            "grid": gym.spaces.Box(-9.0, 9.0, (2, 2), np.float32),
            "phase": gym.spaces.Discrete(5),
        }
    )
    ring = OnlineRing(RowLayout.of(Spec(space, gym.spaces.Discrete(7))), seeds=1, environments=2, capacity=8)

    def observation(step: int) -> dict[str, NDArray[Any]]:
        offset = np.array([0, 100], np.uint8)
        return {
            "observation.camera": np.full((2, 2, 2, 1), step, np.uint8) + offset[:, None, None, None],
            "observation.grid": np.full((2, 2, 2), step, np.float32) + np.arange(4).reshape(2, 2) / 10,
            "observation.phase": np.array([step % 5, (step + 1) % 5]),
        }

    ring.begin(observation(0))
    for step in range(11):
        terminated, truncated = np.array([False, step == 8]), np.zeros(2, np.bool_)
        action, reward = np.array([step % 7, 6]), np.full(2, float(step))
        ring.append(action, reward, terminated, truncated, observation(step + 1), observation(50))
    batch = ReplaySampler([ring], batch_size=200, seeds=[0]).sample(1)
    assert isinstance(batch.observation, dict)
    assert isinstance(batch.next_observation, dict)
    assert batch.action.dtype == torch.int64
    assert batch.observation["camera"].dtype == torch.uint8
    steps, offset = batch.reward[0, 0].long(), 100 * (batch.observation["camera"][0, 0, :, 0, 0, 0] >= 100).long()
    # Of the second environment's four rows, the first holds the final observation of the episode that ended.
    assert set(steps[offset == 0].tolist()) == {8, 9, 10}
    assert set(steps[offset == 100].tolist()) == {9, 10}
    seen = torch.where((offset == 100) & (steps == 9), 50, steps)
    assert torch.equal(batch.observation["camera"][0, 0, :, 1, 1, 0].long(), seen + offset)
    assert torch.equal(batch.next_observation["camera"][0, 0, :, 1, 0, 0].long(), steps + 1 + offset)
    assert torch.equal(batch.observation["phase"][0, 0].long(), (seen + (offset == 100)) % 5)
    torch.testing.assert_close(batch.next_observation["grid"][0, 0, :, 1, 0], steps + 1.2)
    assert torch.equal(batch.action[0, 0], torch.where(offset == 100, 6, steps % 7))


@pytest.mark.parametrize(("environments", "capacity"), [(1, 2), (4, 11), (2, 0)])
def test_too_few_rows_are_refused(environments: int, capacity: int) -> None:
    with pytest.raises(RequestError, match="rows"):
        OnlineRing(RowLayout.of(SPEC), 1, environments, capacity)


def test_more_rows_than_fit_in_memory_are_refused() -> None:
    with pytest.raises(
        RequestError, match=r"100,000,000,000,000 rows for 2 seeds takes .* GiB, more.*\n.*online.capacity"
    ):
        OnlineRing(RowLayout.of(SPEC), 2, 1, 10**14)


def test_a_box_of_one_number_is_a_vector_of_one_action() -> None:
    spec = Spec(SPEC.observation_space, gym.spaces.Box(-1.0, 1.0, (), np.float32))
    ring = OnlineRing(RowLayout.of(spec), seeds=1, environments=1, capacity=5)
    observation, no = {"observation": np.zeros((1, 2), np.float32)}, np.zeros(1, np.bool_)
    ring.begin(observation)
    ring.append(np.array([[0.5]]), np.zeros(1), no, no, observation, observation)
    assert ReplaySampler([ring], batch_size=3, seeds=[0]).sample(2).action.shape == (2, 1, 3, 1)


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        Spec(gym.spaces.Box(-9.0, 9.0, (2, 3)), gym.spaces.Discrete(4)),
        Spec(gym.spaces.Box(-9.0, 9.0, (1,)), gym.spaces.MultiDiscrete([3, 4])),
    ],
    ids=["box", "discrete", "multi-discrete"],
)
def test_small_batches_are_those_of_a_sample(spec: Spec, seeds: int) -> None:
    """One is made in NumPy, the other in PyTorch."""
    rng, streams = np.random.default_rng(0), 2 * seeds
    ring = OnlineRing(RowLayout.of(spec), seeds, environments=2, capacity=40)

    def observation() -> dict[str, NDArray[np.float32]]:
        shape = (streams, *(spec.observation_space.shape or ()))
        return {"observation": rng.uniform(-9.0, 9.0, shape).astype(np.float32)}

    ring.begin(observation())
    for _ in range(50):
        following, terminated = observation(), rng.random(streams) < 0.2
        action = np.stack([spec.action_space.sample() for _ in range(streams)])
        ring.append(action, rng.random(streams), terminated, np.zeros(streams, bool), following, following)
    small, sample = (
        ReplaySampler([ring], batch_size=16, seeds=list(range(seeds)), discount=0.97, device="cpu") for _ in range(2)
    )
    drawn = [(small.batches(count), sample.sample(count).unbind()) for count in (1, 3, 1)]
    for found, wanted in (pair for ours, theirs in drawn for pair in zip(ours, theirs, strict=True)):
        for name in Batch.__dataclass_fields__:
            mine, other = getattr(found, name), getattr(wanted, name)
            assert (mine is None) == (other is None), name
            if mine is not None:
                torch.testing.assert_close(mine, other, rtol=0.0, atol=0.0)
    assert {0.0, float(np.float32(0.97))} == set(found.discount.unique().tolist())
