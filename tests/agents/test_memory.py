"""An agent that remembers, all the way: collected, evaluated, filmed, exported, valued, asked as an expert, resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from offrl.collection.collect import collect, collect_random
from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.data.schema import flatten_value
from offrl.data.store import TrajectoryStore
from offrl.deploy.export import export_policy
from offrl.deploy.file_formats import FORMATS
from offrl.envs import video
from offrl.envs.collector import Collector
from offrl.envs.episodes import CountedStep, rollouts, single_episode
from offrl.envs.evaluator import Greedy, evaluate
from offrl.envs.make import environment_spec, make_environments
from offrl.envs.policy import Policy
from offrl.envs.starts import Purpose, Starts
from offrl.errors import RequestError
from offrl.feeds.dagger import Teacher
from offrl.off_policy.agent_policies import AgentPolicies
from offrl.off_policy.evaluate_runs import Acting, Trial, evaluate_policies
from offrl.off_policy.fqe import FQEConfig
from offrl.off_policy.plan import Plan
from offrl.off_policy.target_policies import OnnxPolicy
from offrl.plugins import algorithms
from offrl.replay.ring import OnlineRing
from offrl.replay.row_layout import RowLayout
from offrl.runs.evaluate_run import evaluate_run
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.run_training import resume, train
from tests.agents.memory_agent import ALGORITHM
from tests.envs.counting import NESTED, SEEDED, Counting
from tests.envs.menus import MENU
from tests.training.runs import assert_same_tensors

TASKS = [SEEDED, NESTED, MENU]
"""Boxes in episodes of one to seven steps, the same with nested observations, and choices of which few are allowed."""


@pytest.fixture(autouse=True)
def recall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The algorithm is known by name, as one of another package is."""
    monkeypatch.setitem(algorithms.own, "recall", "tests.agents.memory_agent:ALGORITHM")
    monkeypatch.setitem(algorithms._resolved, "recall", ALGORITHM)


def recall_recipe(environment: str = SEEDED, **changes: Any) -> Recipe:
    """90 steps of two environments and two seeds, a checkpoint every 30."""
    values: dict[str, Any] = {
        "algo": "recall",
        "env": environment,
        "steps": 90,
        "batch_size": 8,
        "seeds": [3, 5],
        "device": "cpu",
        "checkpoint_every": 30,
        "log_every": 30,
        "online": {"warmup_steps": 10, "capacity": 60, "environments": 2},
        "evaluation": {"every": 30, "episodes": 2, "final_episodes": 2},
    }
    return recipe_from_dict({**values, **changes})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    """A trained run for each task."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(algorithms.own, "recall", "tests.agents.memory_agent:ALGORITHM")
        patch.setitem(algorithms._resolved, "recall", ALGORITHM)
        folder = tmp_path_factory.mktemp("memory")
        yield {name: train(recall_recipe(name), folder / name.rpartition("/")[2]) for name in TASKS}


@pytest.fixture(params=TASKS)
def run(request: pytest.FixtureRequest, runs: dict[str, Run]) -> Run:
    return runs[request.param]


class Episode:
    """One seed's policy in one episode, by hand: agent's `act` alone, one observation after the other."""

    def __init__(self, policy: Policy, position: int) -> None:
        self.policy, self.position = policy, position
        self.carry = policy.agent.initial_carry(policy.state, 1)

    def act(
        self, observation: Any, mask: NDArray[np.bool_] | None = None, noise: torch.Tensor | None = None
    ) -> NDArray[Any]:
        """The environment's action for one observation [1, …], and draws [1, A] to explore with."""
        policy = self.policy
        self.seen = policy.observe(repeated(observation, policy.seeds))
        told = None if mask is None else torch.from_numpy(np.stack([mask] * policy.seeds))
        draws = None if noise is None else noise.expand(policy.seeds, *noise.shape)
        self.before = self.carry
        with torch.no_grad():
            self.action, self.carry = policy.agent.act(policy.state, self.seen, self.carry, draws, told)
        return policy.to_environment(self.action)[self.position]


def repeated(observation: Any, times: int) -> Any:
    """An observation's parts [1, …] as [times, …]."""
    if isinstance(observation, dict):
        return {key: repeated(part, times) for key, part in observation.items()}
    return np.concatenate([np.asarray(observation)] * times)


def row(observation: Any, index: int) -> Any:
    """One row, [1, …]."""
    if isinstance(observation, dict):
        return {key: row(part, index) for key, part in observation.items()}
    return np.asarray(observation)[index : index + 1]


def assert_each_episode_begins_anew(policy: Policy, steps: list[CountedStep], copies: int) -> None:
    """Every copy's actions are those of an episode by hand after another."""
    lengths = set()
    for copy in range(policy.seeds * copies):
        episode, length = Episode(policy, copy // copies), 0
        for step in steps:
            mask = None if step.action_mask is None else step.action_mask[copy : copy + 1]
            wanted = episode.act(row(step.observation, copy), mask)
            np.testing.assert_allclose(step.action[copy], wanted, rtol=1e-4, atol=1e-4)
            length += 1
            if step.terminated[copy] or step.truncated[copy]:
                lengths.add(length)
                episode, length = Episode(policy, copy // copies), 0
    assert len(lengths) > 1 or lengths == {6}


def test_each_row_begins_anew_when_its_episode_has_ended(run: Run) -> None:
    """Of several copies whose episodes differ in length; would fail if the carry were kept, or dropped for all."""
    policy, _ = load_policy(run, "last")
    copies = 3
    environments = make_environments(run.recipe.env or "", policy.seeds * copies)
    greedy = Greedy(policy, copies)
    steps = list(rollouts(greedy, environments, 4, list(range(policy.seeds * copies))))
    environments.close()
    assert_each_episode_begins_anew(policy, steps, copies)


def test_memory_matters(runs: dict[str, Run]) -> None:
    """Or else none of these tests could fail."""
    policy, _ = load_policy(runs[SEEDED], "last")
    environments = make_environments(SEEDED, 2)
    greedy = Greedy(policy, 1)
    greedy.stepped = lambda reward, done: None  # type: ignore[method-assign]
    steps = list(rollouts(greedy, environments, 4, [0, 1]))
    environments.close()
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_each_episode_begins_anew(policy, steps, 1)


def test_collecting_begins_anew_with_each_episode_and_restart(runs: dict[str, Run]) -> None:
    policy, _ = load_policy(runs[SEEDED], "last")
    ring = OnlineRing(RowLayout.of(policy.agent.spec), 2, 2, 400)
    collector = Collector(SEEDED, policy, ring, [3, 5], 2)
    generator = torch.Generator().manual_seed(0)
    for restart in (0, 12):
        collector.restart(restart)
        episodes = [Episode(policy, stream // 2) for stream in range(4)]
        for _ in range(12):
            noise = torch.randn(2, 2, 2, generator=generator)
            shown = collector.observed
            assert isinstance(shown, torch.Tensor)
            action = collector.act(noise)
            for stream, episode in enumerate(episodes):
                seed, copy = divmod(stream, 2)
                wanted = episode.act(shown[seed, copy].numpy()[None], noise=noise[seed, copy][None])
                raw = policy.to_environment(action)[stream]
                np.testing.assert_allclose(raw, wanted, rtol=1e-4, atol=1e-4)
            before = collector.running_length.copy()
            collector.step(action)
            for stream in np.flatnonzero(collector.running_length <= before):
                episodes[stream] = Episode(policy, stream // 2)
    collector.close()


def test_episodes_begin_as_the_weights_of_the_moment_have_it(runs: dict[str, Run]) -> None:
    """What they begin with is learned here; training goes on beside acting."""
    policy, _ = load_policy(runs[SEEDED], "last")
    collector = Collector(SEEDED, policy, OnlineRing(RowLayout.of(policy.agent.spec), 2, 1, 40), [3, 5], 1)
    collector.restart(0)
    with torch.no_grad():
        policy.state.network.begin.data = policy.state.network.begin + 1.0
    while not sum(map(len, collector._finished.returns)):
        assert not torch.equal(collector.actor.carry["hidden"], policy.initial_carry(1)["hidden"])
        collector.step(collector.actor.act(collector.observed))
    ended = torch.from_numpy(collector.running_length == 0)
    assert torch.equal(collector.actor.carry["hidden"][ended], policy.initial_carry(1)["hidden"][ended])
    collector.restart(1)
    assert torch.equal(collector.actor.carry["hidden"], policy.initial_carry(1)["hidden"])
    collector.close()


def test_training_on_equals_training_through(tmp_path: Path, runs: dict[str, Run]) -> None:
    recipe = recall_recipe()
    train(dataclasses.replace(recipe, steps=30), tmp_path / "halves")
    assert_same_tensors(runs[SEEDED], resume(tmp_path / "halves", steps=90))


def test_training_changes_all_of_the_network(run: Run) -> None:
    policy, _ = load_policy(run, "last")
    fresh = policy.agent.init(run.recipe.seeds, torch.device("cpu"))
    trained = dict(policy.state.network.named_parameters())
    assert all(
        (parameter != trained[name]).flatten(1).any(1).all() for name, parameter in fresh.network.named_parameters()
    )


def test_a_single_episode_is_that_of_an_evaluation(run: Run) -> None:
    policy, _ = load_policy(run, "last")
    name = run.recipe.env or ""
    starts = Starts(Purpose.FINAL, run.recipe.seeds, 4)
    evaluation = evaluate(policy, name, 1, starts)
    for position, reset_seed in enumerate(starts.reset_seeds(1)):
        rewards = list(single_episode(policy, position, gym.make(name), reset_seed))
        assert sum(rewards) == pytest.approx(evaluation.returns[position, 0], rel=1e-5)
        assert sum(rewards) == pytest.approx(sum(by_hand(policy, position, gym.make(name), reset_seed)), rel=1e-5)


def by_hand(policy: Policy, position: int, environment: gym.Env[Any, Any], reset_seed: int) -> Iterator[float]:
    """Rewards of one greedy episode."""
    episode, ended = Episode(policy, position), False
    observation, info = environment.reset(seed=reset_seed)
    while not ended:
        mask = np.array([info["action_mask"]], bool) if "action_mask" in info else None
        observation, reward, terminated, truncated, info = environment.step(episode.act(one(observation), mask))
        ended = terminated or truncated
        yield float(reward)


def one(observation: Any) -> Any:
    """A single environment's observation as a vector environment's of one copy."""
    if isinstance(observation, dict):
        return {key: one(part) for key, part in observation.items()}
    return np.asarray(observation)[None]


def test_an_evaluation_of_the_run_is_that_of_its_policy(run: Run) -> None:
    policy, _ = load_policy(run, "last")
    scores = evaluate_run(run, episodes=6, checkpoint="last", seed=2)
    starts = Starts(Purpose.FINAL, run.recipe.seeds, 2)
    np.testing.assert_allclose(scores["returns"], evaluate(policy, run.recipe.env or "", 6, starts).returns)


def test_programs_that_step_an_environment_have_it_remembered(run: Run) -> None:
    """Until they say that another episode begins."""
    loaded, _ = load_policy(run, "last")
    policy = run.policy(5, checkpoint="last")
    environment = gym.make(run.recipe.env or "")
    for reset_seed in (1, 2):
        episode, ended = Episode(loaded, 1), False
        observation, info = environment.reset(seed=reset_seed)
        policy.reset()
        while not ended:
            mask = info.get("action_mask")
            action = policy(observation, action_mask=mask)
            wanted = episode.act(one(observation), None if mask is None else np.array([mask], bool))
            np.testing.assert_allclose(action, wanted, rtol=1e-4, atol=1e-4)
            observation, _, terminated, truncated, info = environment.step(wanted)
            ended = terminated or truncated


class Shown(Counting):
    """Renders pictures as bright as the last reward is large."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(seeded=True)
        self.render_mode, self.reward = render_mode, 0.0

    def step(self, action: Any) -> Any:
        step = super().step(action)
        self.reward = step[1]
        return step

    def render(self) -> Any:
        return np.full((16, 16, 3), int(10 * self.reward) % 256, np.uint8)


gym.register("offrl-test/ShownCounting-v0", entry_point=Shown, disable_env_checker=True)


def test_a_film_shows_the_episode(runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, _ = load_policy(runs[SEEDED], "last")
    films: list[list[Any]] = []

    class Writer:
        """In place of the extra `video`."""

        @classmethod
        @contextmanager
        def get_writer(cls, path: Path, **options: Any) -> Iterator[Any]:
            films.append([])
            path.touch()
            yield cls

        @staticmethod
        def append_data(frame: Any) -> None:
            films[-1].append(frame)

    monkeypatch.setattr(video, "_imageio", lambda: Writer)
    starts = Starts(Purpose.FINAL, (3, 5), 1)
    files = video.film(policy, "offrl-test/ShownCounting-v0", tmp_path / "films", starts)
    assert [file.name for file in files] == ["seed-3.mp4", "seed-5.mp4"]
    for position, (frames, reset_seed) in enumerate(zip(films, starts.reset_seeds(1), strict=True)):
        rewards = list(by_hand(policy, position, gym.make(SEEDED), reset_seed))
        shown = [int(frame[0, 0, 0]) for frame in frames]
        assert np.allclose(shown, [int(10 * reward) % 256 for reward in rewards], atol=1)


@pytest.mark.parametrize("format", ["torchscript", "onnx"])
def test_an_exported_file_acts_through_an_episode_as_the_policy_does(run: Run, format: str, tmp_path: Path) -> None:
    """What it remembers goes in and comes out; nothing but the file and what it says of itself is used."""
    discrete = run.recipe.env == MENU
    exported = export_policy(run, tmp_path / "policy", format, seed=5, checkpoint="last", log_prob=discrete)
    assert exported.difference is not None
    names = ["carry.hidden", "carry.last", "carry.steps"]
    inputs = [each for each in exported.metadata["inputs"] if each["name"].startswith("carry")]
    assert [each["name"] for each in inputs] == names
    outputs = [each["name"] for each in exported.metadata["outputs"]]
    assert outputs == ["action", *(["log_prob"] if discrete else []), *(f"next_{name}" for name in names)]
    runner = FORMATS[format].open(exported.path)
    assert runner is not None
    policy, _ = load_policy(run, "last")
    environments = make_environments(run.recipe.env or "", 2)
    initial = tuple(np.array([each["initial"]], each["dtype"]) for each in inputs)
    # Two episodes, one after the other, side by side with another environment's.
    observation, _ = environments.reset([11, 12])
    carry = tuple(np.repeat(part, 2, axis=0) for part in initial)
    episodes, taken = [Episode(policy, 1) for _ in range(2)], 0
    for _ in range(16):
        columns = {
            name: part.astype(np.float32) if part.dtype == np.float64 else part
            for name, part in flatten_value(policy.agent.spec.observation_space, observation, "observation").items()
        }
        found = dict(zip(outputs, runner(columns, carry), strict=True))
        for copy, episode in enumerate(episodes):
            wanted = episode.act(row(observation, copy))
            np.testing.assert_allclose(found["action"][copy], wanted, rtol=1e-4, atol=1e-4)
            if discrete:
                log_prob = policy.log_prob(episode.seen, episode.action, episode.before)[1, 0]
                assert found["log_prob"][copy].max() == pytest.approx(float(log_prob), abs=1e-4)
                assert np.exp(found["log_prob"][copy]).sum() == pytest.approx(1.0, abs=1e-4)
        action = found["action"] if not discrete else np.array([2 + np.argmax(mask) for mask in masks(observation)])
        step = environments.step(action)
        done = step.terminated | step.truncated
        following = tuple(found[f"next_{name}"] for name in names)
        carry = tuple(
            np.where(done.reshape(-1, *[1] * (part.ndim - 1)), begin, part)
            for part, begin in zip(following, initial, strict=True)
        )
        episodes = [Episode(policy, 1) if done[copy] else episodes[copy] for copy in range(2)]
        observation, taken = step.observation, taken + int(done.sum())
    environments.close()
    assert taken >= 4
    if format == "onnx":
        with pytest.raises(RequestError, match="remembers what it saw"):
            OnnxPolicy(exported.path)


def masks(observation: Any) -> NDArray[np.bool_]:
    """What a menu offers."""
    offered: NDArray[np.bool_] = np.asarray(observation)[:, :4] == 1.0
    return offered


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random actions' episodes in each task."""
    folder = tmp_path_factory.mktemp("logs")
    for name in TASKS:
        collect_random(name, episodes=9, destination=folder / name.rpartition("/")[2], seed=1)
    return {name: folder / name.rpartition("/")[2] for name in TASKS}


def through_each(policy: Policy, position: int, store: TrajectoryStore) -> Iterator[tuple[int, Episode]]:
    """Every row, with a greedy episode by hand that has just acted there."""
    masked = "action_mask" in store.column_names
    for index in range(store.num_episodes):
        first, length = int(store.episodes.first_row[index]), int(store.episodes.length[index])
        episode = Episode(policy, position)
        for at in range(first, first + length + 1):
            shown = {
                name.partition(".")[2]: store.read(name, at, at + 1)
                for name in store.column_names
                if name.split(".")[0] == "observation"
            }
            episode.act(shown.get("", shown), mask_at(store, at, 1) if masked else None)
            yield at, episode


@pytest.mark.parametrize("rows_at_once", [7, 16_384])
def test_valued_policies_act_at_a_log_s_rows_as_they_do_in_its_episodes(
    run: Run, logs: dict[str, Path], rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("offrl.off_policy.target_policies.ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr("offrl.off_policy.agent_policies.ROWS_AT_ONCE", rows_at_once)
    environment = run.recipe.env or ""
    store, (policy, _) = TrajectoryStore.open(logs[environment]), load_policy(run, "last")
    greedy = AgentPolicies(policy, ["3", "5"]).choices(store, draws=1, seed=0)
    sampled = AgentPolicies(policy, ["3", "5"], stochastic=True, has_density=True).choices(store, draws=2, seed=0)
    final = set((store.episodes.first_row + store.episodes.length).tolist())
    for position in range(2):
        step = 0
        for at, episode in through_each(policy, position, store):
            action, chosen = episode.action[position, 0].numpy(), greedy[position]
            if chosen.actions is not None:
                np.testing.assert_allclose(chosen.actions[0, at], action, atol=1e-5)
            else:
                assert chosen.probabilities is not None
                np.testing.assert_array_equal(chosen.probabilities[at], np.eye(4)[action - 2])
                log_prob = policy.log_prob(episode.seen, episode.action, episode.before, mask_at(store, at, 2))
                probabilities = sampled[position].probabilities
                assert probabilities is not None
                assert probabilities[at, action - 2] == pytest.approx(float(log_prob[position, 0].exp()), abs=1e-5)
            if at not in final and chosen.actions is not None:
                taken = store.read("action", at, at + 1)
                assert policy.action_map is not None
                unit = torch.from_numpy(np.stack([policy.action_map.to_unit(taken)] * 2)).float()
                wanted = policy.log_prob(episode.seen, unit, episode.before)[position, 0] - policy.action_map.log_volume
                found = sampled[position].log_prob
                assert found is not None
                assert found[step] == pytest.approx(float(wanted), rel=1e-3, abs=1e-3)
            step += at not in final


def mask_at(store: TrajectoryStore, at: int, times: int) -> NDArray[np.bool_]:
    """What is allowed in a row: all, where an episode has ended and nothing is."""
    mask = store.read("action_mask", at, at + 1)
    return np.concatenate([mask if mask.any() else ~mask] * times)


def test_it_is_valued_from_a_log_and_by_the_truth(runs: dict[str, Run], logs: dict[str, Path]) -> None:
    plan = Plan(resamples=50, fqe=FQEConfig(steps=20))
    acting = Acting(stochastic=True)
    found = evaluate_policies([runs[MENU].path], str(logs[MENU]), plan, acting, trial=Trial(MENU, 4))
    assert len(found.policies) == 2
    assert all(np.isfinite(each.value) for policy in found.policies for each in policy.estimates)


def test_sampled_actions_say_how_probable_they_were(runs: dict[str, Run], tmp_path: Path) -> None:
    """By what was remembered when they were taken."""
    run = runs[MENU]
    collect(run, episodes=8, destination=tmp_path / "log", stochastic=True, checkpoint="last")
    store, (policy, _) = TrajectoryStore.open(tmp_path / "log"), load_policy(run, "last")
    for index in range(store.num_episodes):
        first, length = int(store.episodes.first_row[index]), int(store.episodes.length[index])
        position = [3, 5].index(int(str(store.episodes.source(index)).split()[-1]))
        carry = policy.initial_carry(1)
        for at in range(first, first + length):
            seen = policy.observe(np.concatenate([store.read("observation", at, at + 1)] * 2))
            taken = torch.tensor(store.read("action", at, at + 1)).expand(2, 1)
            log_prob = policy.log_prob(seen, taken, carry, mask_at(store, at, 2))[position, 0]
            assert store.read("behavior_log_prob", at, at + 1)[0] == pytest.approx(float(log_prob), abs=1e-4)
            # What it remembers of a sampled action is that action.
            carry = policy.act(seen, carry)[1] | {"last": torch.nn.functional.one_hot(taken - 2, 4).float()}


@pytest.mark.parametrize("experts", [1, 2])
def test_an_expert_that_remembers_teaches(runs: dict[str, Run], experts: int, tmp_path: Path) -> None:
    """One of two learners, or one for each; with episodes that end at different times."""
    run = runs[SEEDED] if experts == 2 else train(recall_recipe(seeds=[3], steps=30), tmp_path / "expert")
    policy, _ = load_policy(run, "last")
    environments = make_environments(SEEDED, 4)
    teacher = Teacher(policy)
    shown, _ = environments.reset([1, 2, 3, 4])
    episodes = [Episode(policy, stream // 2 if experts == 2 else 0) for stream in range(4)]
    for step in range(20):
        observed = torch.from_numpy(np.asarray(shown)).view(2, 2, 3)
        action = teacher.act(observed)
        raw = policy.in_units(action.flatten(0, 1).numpy())
        for stream, episode in enumerate(episodes):
            np.testing.assert_allclose(raw[stream], episode.act(row(shown, stream)), rtol=1e-4, atol=1e-4)
        taken = environments.step(np.zeros((4, 2), np.float32))
        done, shown = taken.terminated | taken.truncated, taken.observation
        teacher.stepped(np.zeros(len(done)), done)
        if step == 12:
            teacher.restart()
            done[:] = True
        for stream in np.flatnonzero(done):
            episodes[stream] = Episode(policy, stream // 2 if experts == 2 else 0)
    environments.close()


def test_dagger_learns_from_it(runs: dict[str, Run], tmp_path: Path) -> None:
    values = {**recall_recipe().to_dict(), "algo": "dagger", "agent": {"hidden": [8]}}
    recipe = recipe_from_dict({**values, "expert": str(runs[SEEDED].path)})
    through = train(recipe, tmp_path / "through")
    train(dataclasses.replace(recipe, steps=30), tmp_path / "halves")
    assert_same_tensors(through, resume(tmp_path / "halves", steps=90))


def test_it_learns_from_a_dataset_as_well(logs: dict[str, Path], tmp_path: Path) -> None:
    recipe = recall_recipe(dataset=str(logs[SEEDED]))
    run = train(dataclasses.replace(recipe, online=type(recipe.online)()), tmp_path / "run")
    assert environment_spec(SEEDED) == load_policy(run, "last")[0].agent.spec
