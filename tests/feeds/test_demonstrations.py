"""Runs that imitate: demonstrations beside own steps, resuming, lengths that leak, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from offrl.agents.gail import GAIL
from offrl.config.recipe import Recipe, recipe_from_dict
from offrl.data.store import EpisodeBlock, StoreWriter
from offrl.errors import DataError, OffrlError, RecipeError, RequestError, SpaceMismatchError
from offrl.feeds import open_problem
from offrl.feeds.demonstrations import DemonstrationsFeed
from offrl.feeds.materials import Cycle
from offrl.runs.listener import SilentListener
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.finetune import fine_tuning_recipe, imitation_values
from offrl.training.loop import Loop
from offrl.training.run_training import resume, train
from offrl.types import Spec
from tests.training.runs import assert_same_tensors, bc_recipe, make_demonstrations

CARTPOLE = Spec(gym.make("CartPole-v1").observation_space, gym.make("CartPole-v1").action_space)
GENERATORS: dict[str, dict[str, Any]] = {
    "ppo": {"hidden": [8], "rollout_steps": 20, "epochs": 2},
    "sac": {"hidden": [8]},
    "td3": {"hidden": [8]},
}


class Listening(SilentListener):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def noted(self, text: str) -> None:
        """Nothing."""

    def warned(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def pendulum(tmp_path: Path) -> Path:
    return make_demonstrations(tmp_path / "pendulum", episodes=4, length=30).path


@pytest.fixture
def cartpole(tmp_path: Path) -> Path:
    return write_cartpole(tmp_path / "cartpole", [30, 30, 30])


def write_cartpole(path: Path, lengths: list[int], terminated: bool = False) -> Path:
    """Episodes of a pole that hardly moves."""
    rng = np.random.default_rng(3)
    rows = sum(lengths) + len(lengths)
    final = np.cumsum(np.array(lengths, np.int64) + 1) - 1
    ended = np.zeros(rows, np.bool_)
    ended[final - 1] = True
    columns: dict[str, Any] = {
        "observation": rng.normal(0.0, 0.02, (rows, 4)).astype(np.float32),
        "action": rng.integers(0, 2, rows),
        "reward": np.ones(rows),
        "terminated": ended & terminated,
        "truncated": ended & (not terminated),
    }
    for name in ("action", "reward"):
        columns[name][final] = 0
    with StoreWriter(path, CARTPOLE, environment="CartPole-v1") as writer:
        if lengths:
            writer.append(EpisodeBlock(columns, np.array(lengths)))
    return path


def gail_recipe(dataset: Path, generator: str = "ppo", **changes: Any) -> Recipe:
    """160 steps of two environments and two seeds, a checkpoint every 80."""
    agent = {
        "generator": generator,
        "generator_options": GENERATORS[generator],
        "hidden": [8],
        **changes.pop("agent", {}),
    }
    values: dict[str, Any] = {
        "algo": "gail",
        "dataset": str(dataset),
        "steps": 160,
        "batch_size": 16,
        "seeds": [0, 1],
        "device": "cpu",
        "checkpoint_every": 80,
        "log_every": 40,
        "agent": agent,
        "online": {"warmup_steps": 20, "capacity": 200, "environments": 2},
        "evaluation": {"every": 80, "episodes": 1, "final_episodes": 1},
    }
    return recipe_from_dict({**values, **changes})


def loop_of(recipe: Recipe, path: Path, listener: SilentListener | None = None) -> Loop:
    problem = open_problem(recipe)
    return build_loop(Run.create(path, problem.recipe), problem, listener or SilentListener())


def test_training_airl_on_equals_training_through(pendulum: Path, tmp_path: Path) -> None:
    agent = {"generator_options": GENERATORS["ppo"], "hidden": [8]}
    values = gail_recipe(pendulum).to_dict() | {"algo": "airl", "agent": agent}
    recipe = recipe_from_dict(values)
    through = train(recipe, tmp_path / "through")
    train(dataclasses.replace(recipe, steps=80), tmp_path / "halves")
    assert_same_tensors(through, resume(tmp_path / "halves", steps=160))


@pytest.mark.parametrize("generator", ["sac", "dqn"])
def test_training_sqil_on_equals_training_through(generator: str, cartpole: Path, tmp_path: Path) -> None:
    agent = {"generator": generator, "generator_options": {"hidden": [8]}}
    recipe = recipe_from_dict(gail_recipe(cartpole).to_dict() | {"algo": "sqil", "agent": agent})
    through = train(recipe, tmp_path / "through")
    assert "learned_return" not in through.lines("metrics.jsonl")[-1]
    train(dataclasses.replace(recipe, steps=80), tmp_path / "halves")
    assert_same_tensors(through, resume(tmp_path / "halves", steps=160))


@pytest.mark.parametrize(("generator", "steps", "expected"), [("td3", 19, 1), ("td3", 20, 0), ("ppo", 19, 0)])
def test_a_run_that_ends_within_its_warm_up_is_warned_of(
    generator: str, steps: int, expected: int, pendulum: Path, tmp_path: Path
) -> None:
    listener = Listening()
    loop_of(gail_recipe(pendulum, generator, steps=steps), tmp_path / "run", listener)
    assert sum("the first 20 steps only fill the replay" in text for text in listener.warnings) == expected


def test_fine_tuning_is_not_the_way_to_imitate(pendulum: Path, tmp_path: Path) -> None:
    cloned = train(bc_recipe(pendulum, env="none"), tmp_path / "bc")
    with pytest.raises(RecipeError, match="offrl train gail --dataset NAME --from"):
        fine_tuning_recipe(cloned.path, steps=100, algo="gail", env="Pendulum-v1")


def test_fine_tuning_goes_on_with_an_imitation(pendulum: Path, tmp_path: Path) -> None:
    source = train(gail_recipe(pendulum, "td3"), tmp_path / "run")
    recipe = fine_tuning_recipe(source.path, steps=80)
    assert recipe.online.offline_fraction == 0.0
    once = dataclasses.replace(recipe.evaluation, every=0, episodes=1, final_episodes=1)
    run = train(dataclasses.replace(recipe, evaluation=once), tmp_path / "on")
    assert load_policy(run, "last")[0].state.optimizer.steps > load_policy(source, "last")[0].state.optimizer.steps


def test_a_generator_that_cannot_start_from_a_clone_is_refused(cartpole: Path, tmp_path: Path) -> None:
    cloned = train(bc_recipe(cartpole, agent={"hidden": [8]}, env="none", seeds=[0]), tmp_path / "bc")
    values = {"algo": "sqil", "agent": {"generator": "dqn"}, "dataset": str(cartpole), "env": "CartPole-v1"}
    with pytest.raises(RecipeError, match="can't start from a policy that bc trained"):
        train(recipe_from_dict(imitation_values(values, cloned.path)), tmp_path / "run")


@pytest.mark.parametrize("generator", ["ppo", "sac", "td3"])
def test_training_on_equals_training_through(generator: str, pendulum: Path, tmp_path: Path) -> None:
    """The discriminator, the generator, the ring and all draws, bit for bit."""
    recipe = gail_recipe(pendulum, generator, agent={"updates": 2, "spectral_norm": generator == "td3"})
    through = train(recipe, tmp_path / "through")
    train(dataclasses.replace(recipe, steps=80), tmp_path / "halves")
    halves = resume(tmp_path / "halves", steps=160)
    assert_same_tensors(through, halves)
    assert [without_rate(line) for line in through.lines("metrics.jsonl")] == [
        without_rate(line) for line in halves.lines("metrics.jsonl")
    ]


def without_rate(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != "steps_per_second"}


def test_a_run_tells_learned_returns_beside_true_ones(cartpole: Path, tmp_path: Path) -> None:
    run = train(gail_recipe(cartpole), tmp_path / "run")
    lines = run.lines("metrics.jsonl")
    names = ("expert_accuracy", "generator_accuracy", "discriminator_loss", "learned_reward", "learned_return")
    for line in lines:
        assert all(np.isfinite(line[name]).all() and len(line[name]) == 2 for name in names)
        assert (np.array(line["episode_return"]) == np.array(line["episode_length"])).all()
    (final,) = [line for line in run.lines("evaluations.jsonl") if line.get("final")]
    assert np.shape(final["returns"]) == (2, 1)
    policy, facts = load_policy(run, "last")
    assert isinstance(policy.agent, GAIL)
    assert facts["dataset"] == str(cartpole)


def test_learned_returns_are_sums_of_learned_rewards(cartpole: Path, tmp_path: Path) -> None:
    """A discriminator that says log 2 of everything makes an episode worth log 2 a step."""
    recipe = gail_recipe(cartpole, agent={"absorbing": False})
    loop = loop_of(recipe, tmp_path / "run")
    discriminator = loop.policy.state.discriminator
    with torch.no_grad():
        discriminator.flat.zero_()
        discriminator.network.layers[-1].bias.fill_(np.log(2.0))
    loop.feed.at_checkpoint(0)
    list(loop.feed.rounds(20))
    report = loop.feed.report()
    assert all(length is not None for length in report["episode_length"])
    np.testing.assert_allclose(report["learned_return"], np.log(2.0) * np.array(report["episode_length"]), rtol=1e-5)
    loop.feed.close()


@pytest.mark.parametrize(("generator", "own"), [("ppo", 1), ("sac", 1), ("td3", 2)])
def test_cycles_hold_demonstrations_behind_own_steps(generator: str, own: int, pendulum: Path, tmp_path: Path) -> None:
    loop = loop_of(gail_recipe(pendulum, generator, agent={"updates": 3}), tmp_path / "run")
    assert isinstance(loop.feed, DemonstrationsFeed)
    loop.feed.at_checkpoint(0)
    cycles: list[Cycle] = list(loop.feed.rounds(30))
    assert cycles
    for batches, _, critic_only in cycles:
        assert len(batches) == own + 3
        assert not critic_only
        shown = torch.stack([batch.observation for batch in batches[own:]])
        assert shown.shape == (3, 2, 16, 3)
    loop.feed.close()


def test_demonstrations_are_the_first_episodes(pendulum: Path) -> None:
    recipe = gail_recipe(pendulum, data={"episodes": 3, "validation_fraction": 0.5})
    data = open_problem(recipe).data
    assert data is not None
    assert data.episodes.return_.tolist() == [0.0, 30.0, 60.0]


def test_imitation_starts_from_a_cloned_policy(pendulum: Path, tmp_path: Path) -> None:
    agent = {"hidden": [12], "activation": "tanh", "policy": "deterministic"}
    cloned = train(bc_recipe(pendulum, agent=agent, seeds=[4, 7], env="none"), tmp_path / "bc")
    base = {"algo": "gail", "dataset": str(pendulum), "env": "Pendulum-v1", "steps": 80, "batch_size": 16}
    options = {"rollout_steps": 20, "normalize_observation": True}
    values = {**base, "agent": {"generator": "ppo", "generator_options": options}, "device": "cpu"}
    recipe = recipe_from_dict(imitation_values(values, cloned.path))
    assert recipe.seeds == (4, 7)
    assert recipe.agent.generator_options.hidden == (12,)
    assert not recipe.agent.generator_options.normalize_observation
    assert recipe.online.critic_warmup == 8
    recipe = dataclasses.replace(
        recipe, evaluation=dataclasses.replace(recipe.evaluation, episodes=1, final_episodes=1)
    )
    run = train(recipe, tmp_path / "run")
    first = run.lines("evaluations.jsonl")[0]
    assert first["step"] == 0
    source, _ = load_policy(cloned, "last")
    started, _ = load_policy(run, "last")
    observation = source.observe(np.random.default_rng(0).normal(size=(2 * 10, 3)))
    assert started.normalizer is not None
    torch.testing.assert_close(started.observe(np.ones((2, 3))), source.observe(np.ones((2, 3))))
    assert not torch.equal(started.act(observation, ())[0], source.act(observation, ())[0])
    resume(run.path, steps=120)


@pytest.mark.parametrize(
    ("lengths", "terminated", "agent", "online", "words"),
    [
        ([30, 20], False, {"absorbing": False, "reward": "positive"}, {}, ["20 to 30 steps", "longer episodes earn"]),
        ([30, 20], False, {"absorbing": False, "reward": "negative"}, {}, ["shorter episodes earn"]),
        ([30, 30], False, {"absorbing": False, "reward": "logit"}, {}, ["own episodes end early", "either sign"]),
        ([30, 20], True, {"absorbing": True}, {}, []),
        ([30, 30], False, {"absorbing": False}, {"fixed_horizon": 30}, []),
    ],
)
def test_lengths_that_leak_are_told_once(
    lengths: list[int],
    terminated: bool,
    agent: dict[str, Any],
    online: dict[str, Any],
    words: list[str],
    tmp_path: Path,
) -> None:
    dataset = write_cartpole(tmp_path / "demos", lengths, terminated)
    listener = Listening()
    online = {"environments": 2, **online}
    train(gail_recipe(dataset, agent=agent, online=online, steps=120), tmp_path / "run", listener)
    assert len(listener.warnings) == bool(words)
    for word in words:
        assert word in listener.warnings[0]


def test_a_fixed_horizon_is_every_own_episode_s_length(cartpole: Path, tmp_path: Path) -> None:
    recipe = gail_recipe(cartpole, online={"environments": 2, "fixed_horizon": 16}, steps=160)
    run = train(recipe, tmp_path / "run")
    assert {tuple(line["episode_length"]) for line in run.lines("metrics.jsonl")} == {(16.0, 16.0)}


def other_spaces(tmp_path: Path) -> Recipe:
    return gail_recipe(make_demonstrations(tmp_path / "p", episodes=2, length=5).path, env="CartPole-v1")


BAD: dict[str, tuple[Any, type[OffrlError], str]] = {
    "none are named": (lambda p: recipe_from_dict({"algo": "gail", "env": "CartPole-v1"}), RecipeError, "--dataset"),
    "none are left": (lambda p: gail_recipe(write_cartpole(p / "d", [])), DataError, "no episodes"),
    "fewer than asked for": (
        lambda p: gail_recipe(write_cartpole(p / "d", [5, 5]), data={"episodes": 3}),
        RecipeError,
        "2 episodes to choose from",
    ),
    "fewer after a filter": (
        lambda p: gail_recipe(write_cartpole(p / "d", [5, 5]), data={"episodes": 2, "top_fraction": 0.5}),
        RecipeError,
        "data.top_fraction",
    ),
    "other spaces": (other_spaces, SpaceMismatchError, "CartPole-v1"),
    "no environment": (
        lambda p: gail_recipe(write_cartpole(p / "d", [5]), env="none"),
        RecipeError,
        "no environment is named",
    ),
    "sums of rewards": (
        lambda p: gail_recipe(write_cartpole(p / "d", [5]), data={"n_step": 3}),
        RecipeError,
        "data.n_step=1",
    ),
    "a generator for other actions": (
        lambda p: gail_recipe(write_cartpole(p / "d", [5]), "td3"),
        SpaceMismatchError,
        "TD3 can't act in",
    ),
    "a mixed ring": (
        lambda p: gail_recipe(write_cartpole(p / "d", [5]), online={"offline_fraction": 0.5}),
        RecipeError,
        "offline_fraction",
    ),
    "another generator": (
        lambda p: gail_recipe(p / "d", agent={"generator": "bc"}),
        RecipeError,
        "'agent.generator'",
    ),
    "an unknown option of the generator": (
        lambda p: gail_recipe(p / "d", agent={"generator_options": {"tau": 0.1}}),
        RecipeError,
        "unknown key 'agent.generator_options.tau'",
    ),
    "options that are no table": (
        lambda p: gail_recipe(p / "d", agent={"generator_options": "fast"}),
        RecipeError,
        "'agent.generator_options'",
    ),
    "a start that is no clone": (
        lambda p: dataclasses.replace(gail_recipe(write_cartpole(p / "d", [5])), start=str(p / "nowhere")),
        RequestError,
        "no policy to fine-tune",
    ),
}


@pytest.mark.parametrize("case", BAD.values(), ids=BAD)
def test_what_cannot_be_imitated_is_refused(case: tuple[Any, type[OffrlError], str], tmp_path: Path) -> None:
    make, kind, words = case
    with pytest.raises(kind, match=words):
        train(make(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_episodes_without_steps_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(OffrlError, match="0 transitions"):
        write_cartpole(tmp_path / "demos", [5, 0])
