"""Collection into a ring, step for step against environments stepped by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from offrl.envs.collector import COLLECTION_STREAM, Collector
from offrl.envs.policy import Policy
from offrl.errors import SpaceMismatchError
from offrl.replay.normalization import ObservationNormalizer, RewardScaler
from offrl.replay.ring import OnlineRing
from offrl.replay.row_layout import RowLayout
from offrl.replay.sampler import ReplaySampler
from tests.envs.counting import ACTIONS, COUNTING, NESTED, PARTS, PLACES, Counting, constant_policy

SEEDS, COPIES = [3, 8], 2
CONSTANTS = [[0.0, 0.0], [1.0, -1.0]]
Step = tuple[tuple[float, ...], float, bool, tuple[float, ...]]
"""Action as the agent gave it, reward, terminated, next observation."""


class ByHand:
    """The same environments one by one; remembers every transition by the observation it started in."""

    def __init__(self, seeds: list[int], actions: list[list[float]]) -> None:
        self.seeds = seeds
        self.actions = np.repeat(np.array(actions, np.float32), COPIES, axis=0)
        self.singles = [Counting() for _ in self.actions]
        self.steps: list[dict[tuple[float, ...], Step]] = [{} for _ in seeds]
        self.episodes: list[list[tuple[float, int]]] = [[] for _ in seeds]

    def restart(self, step: int) -> None:
        states = [np.random.SeedSequence([COLLECTION_STREAM, seed, step]).generate_state(COPIES) for seed in self.seeds]
        resets = zip(self.singles, np.concatenate(states), strict=True)
        self.shown = [single.reset(seed=int(seed))[0] for single, seed in resets]
        self.scores = [(0.0, 0) for _ in self.singles]

    def step(self) -> None:
        low, high = ACTIONS.low, ACTIONS.high
        for stream, single in enumerate(self.singles):
            action = self.actions[stream]
            following, reward, terminated, truncated, _ = single.step(low + (action + 1) / 2 * (high - low))
            taken = (tuple(action.tolist()), reward, terminated, tuple(following.tolist()))
            self.steps[stream // COPIES][tuple(self.shown[stream].tolist())] = taken
            total, length = self.scores[stream]
            self.scores[stream] = (total + reward, length + 1)
            self.shown[stream] = following
            if terminated or truncated:
                self.episodes[stream // COPIES].append(self.scores[stream])
                self.shown[stream], self.scores[stream] = single.reset()[0], (0.0, 0)


def make_collector(policy: Policy, name: str = COUNTING, seeds: list[int] = SEEDS, capacity: int = 400) -> Collector:
    ring = OnlineRing(RowLayout.of(policy.agent.spec), len(seeds), COPIES, capacity)
    return Collector(name, policy, ring, seeds, COPIES)


def advance(collector: Collector, steps: int) -> None:
    for _ in range(steps):
        collector.step(collector.actor.act(collector.observed))


def ring_of(collector: Collector) -> OnlineRing:
    assert isinstance(collector.sink, OnlineRing)
    return collector.sink


def held(ring: OnlineRing, seed: int) -> dict[tuple[float, ...], Step]:
    """All of a seed's transitions in the ring."""
    count = int(ring.counts()[seed])
    index = torch.arange(count).expand(1, len(ring.counts()), -1)
    pairs = ring.take(ring.locate(torch.minimum(index, torch.from_numpy(ring.counts())[:, None] - 1))[0, seed], 0, 11)
    found = {}
    for row in pairs.tolist():
        state, action, reward, terminated, following = row[:3], row[3:5], row[5], row[6], row[8:]
        found[tuple(state)] = (tuple(action), reward, bool(terminated), tuple(following))
    assert len(found) == count
    return found


def test_every_step_lands_in_the_ring_of_its_seed() -> None:
    collector, by_hand = make_collector(constant_policy(CONSTANTS)), ByHand(SEEDS, CONSTANTS)
    for world in (collector, by_hand):
        world.restart(0)
    for _ in range(60):
        advance(collector, 1)
        by_hand.step()
    for seed in range(len(SEEDS)):
        assert held(ring_of(collector), seed) == by_hand.steps[seed]
        assert {step[2] for step in by_hand.steps[seed].values()} == {True, False}
    collector.close()


def test_terminated_and_truncated_stay_apart() -> None:
    collector = make_collector(constant_policy(CONSTANTS))
    collector.restart(0)
    advance(collector, 60)
    ring = ring_of(collector)
    layout = ring.layout
    rows = ring.locate(torch.arange(int(ring.counts().min())).expand(1, 2, -1)).flatten()
    pairs = ring.take(rows, 0, layout.pair_width)
    (terminated, truncated), episode = (layout.value(name, pairs) for name in ("terminated", "truncated")), pairs[:, 1]
    assert (episode[terminated == 1] % 2 == 0).all()
    assert (episode[truncated == 1] % 2 == 1).all()
    assert 0 < terminated.sum() < len(rows)
    assert 0 < truncated.sum() < len(rows)
    # Truncated transitions bootstrap; the sampler's discount says so.
    batch = ReplaySampler([ring], batch_size=500, seeds=SEEDS, discount=0.9).sample(1)
    assert torch.equal(batch.discount, 0.9 * (1 - batch.terminated))
    collector.close()


def test_a_restart_cuts_episodes_and_resets_by_seed_and_step_alone() -> None:
    collector, by_hand = make_collector(constant_policy(CONSTANTS)), ByHand(SEEDS, CONSTANTS)
    for restart in (0, 20, 40):
        for world in (collector, by_hand):
            world.restart(restart)
        for _ in range(10):
            advance(collector, 1)
            by_hand.step()
    for seed in range(len(SEEDS)):
        assert held(ring_of(collector), seed) == by_hand.steps[seed]
    # A restart forgets the running score.
    collector.finished()
    collector.restart(50)
    by_hand.restart(50)
    by_hand.episodes = [[], []]
    for _ in range(8):
        advance(collector, 1)
        by_hand.step()
    assert scores(collector) == by_hand.episodes
    collector.close()


def scores(collector: Collector) -> list[list[tuple[float, int]]]:
    finished = collector.finished()
    return [list(zip(*pair, strict=True)) for pair in zip(finished.returns, finished.lengths, strict=True)]


def test_finished_episodes_are_told_once() -> None:
    collector, by_hand = make_collector(constant_policy(CONSTANTS)), ByHand(SEEDS, CONSTANTS)
    for world in (collector, by_hand):
        world.restart(0)
    for _ in range(30):
        advance(collector, 1)
        by_hand.step()
    assert scores(collector) == by_hand.episodes
    assert all(by_hand.episodes)
    assert scores(collector) == [[], []]
    collector.close()


def test_a_seed_sees_the_same_alone_as_beside_others() -> None:
    together, alone = (
        make_collector(constant_policy(CONSTANTS)),
        make_collector(constant_policy(CONSTANTS[1:]), seeds=[8]),
    )
    for collector in (together, alone):
        collector.restart(7)
        advance(collector, 25)
        collector.close()
    assert held(ring_of(together), 1) == held(ring_of(alone), 0)


def test_observations_are_stored_normalized() -> None:
    normalizer = ObservationNormalizer(np.array([0.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0]), eps=0.0)
    plain = make_collector(constant_policy(CONSTANTS))
    scaled = make_collector(constant_policy(CONSTANTS, normalizer=normalizer))
    for collector in (plain, scaled):
        collector.restart(0)
        advance(collector, 20)
        collector.close()

    def scale(place: tuple[float, ...]) -> tuple[float, ...]:
        return (place[0], (place[1] - 1) / 2, (place[2] - 2) / 4)

    expected = {scale(k): (*step[:3], scale(step[3])) for k, step in held(ring_of(plain), 0).items()}
    assert held(ring_of(scaled), 0) == expected


def test_rewards_are_stored_scaled_but_reported_as_they_are() -> None:
    plain, scaled = make_collector(constant_policy(CONSTANTS)), make_collector(constant_policy(CONSTANTS))
    scaled.reward_scaler = RewardScaler(0.5)
    for collector in (plain, scaled):
        collector.restart(0)
        advance(collector, 20)
        collector.close()
    expected = {state: (a, 0.5 * reward, *rest) for state, (a, reward, *rest) in held(ring_of(plain), 0).items()}
    assert held(ring_of(scaled), 0) == expected
    assert scores(plain) == scores(scaled)


def test_nested_observations_keep_their_parts_and_their_alignment() -> None:
    collector = make_collector(constant_policy(CONSTANTS, space=PARTS), NESTED)
    collector.restart(0)
    advance(collector, 50)
    batch = ReplaySampler([ring_of(collector)], batch_size=400, seeds=SEEDS).sample(1)
    now, following = batch.observation, batch.next_observation
    assert isinstance(now, dict)
    assert isinstance(following, dict)
    assert now["pixels"].dtype == torch.uint8
    for observation in (now, following):
        assert torch.equal(observation["pixels"][..., 0, 1].float(), observation["step"])
    assert torch.equal(following["step"], now["step"] + 1)
    assert torch.equal(following["observation"], now["observation"])
    second = batch.reward - 100 * now["observation"][..., 1] - now["step"]
    torch.testing.assert_close(second[0], torch.tensor([[5.0], [0.0]]).expand(2, 400), rtol=0.0, atol=1e-3)
    collector.close()


@pytest.mark.parametrize(("name", "space"), [(NESTED, PLACES), (COUNTING, PARTS)])
def test_another_environment_is_refused(name: str, space: Any) -> None:
    with pytest.raises(SpaceMismatchError):
        make_collector(constant_policy(CONSTANTS, space=space), name)


def test_finished_episodes_come_back_from_a_checkpoint_and_damaged_ones_do_not() -> None:
    collector, again = (make_collector(constant_policy(CONSTANTS)) for _ in range(2))
    collector.restart(0)
    advance(collector, 20)
    saved = collector.named_tensors()
    again.restore(saved)
    assert {name: tensor.tolist() for name, tensor in again.named_tensors().items()} == {
        name: tensor.tolist() for name, tensor in saved.items()
    }
    with pytest.raises(ValueError, match=r"should be a list of numbers"):
        again.restore({name: tensor[None] for name, tensor in saved.items()})
    collector.close()
    again.close()
