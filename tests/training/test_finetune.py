"""Fine-tuning: what is taken over, what batches are made of, and that stopping and resuming changes nothing."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from offrl.agents.fine_tuning import INITIAL_LOG_STD, LEFT_OF_ANCHOR, SMALL_ACTOR_STEP
from offrl.collection.collect import collect_random
from offrl.config.recipe import Recipe, parsed_settings, recipe_from_dict, to_toml
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.envs.evaluator import evaluate
from offrl.envs.make import environment_spec
from offrl.envs.starts import Purpose, Starts
from offrl.errors import RecipeError, RequestError, SpaceMismatchError
from offrl.feeds import open_problem
from offrl.feeds.replay import ReplayFeed
from offrl.feeds.warm_start import take_over
from offrl.nn.state import state_tensors
from offrl.runs.checkpoint import read_part
from offrl.runs.listener import SilentListener
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.training.build import build_loop
from offrl.training.finetune import (
    CRITIC_WARMUP,
    OFFLINE_FRACTION,
    PRETRAINED_CRITIC_WARMUP,
    WARMUP_STEPS,
    fine_tuning_recipe,
)
from offrl.training.loop import Loop
from offrl.training.run_training import resume, train
from tests.training.runs import assert_same_tensors, bc_recipe, last_tensors, make_demonstrations, td3_recipe

SHORT = (
    "checkpoint_every=20",
    "log_every=10",
    "batch_size=16",
    "online.warmup_steps=10",
    "online.critic_warmup=0",
    "online.capacity=100",
    "evaluation.every=0",
    "evaluation.episodes=1",
    "evaluation.final_episodes=1",
)

ANNEALED = ("online.critic_warmup=20", "online.offline_fraction_steps=50", "online.offline_fraction_end=0.1")


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demonstrations(tmp_path_factory.mktemp("data") / "demonstrations").path


@pytest.fixture(scope="module")
def cloned(demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Behavior cloning of deterministic policies, whose averages act."""
    recipe = bc_recipe(demonstrations, steps=60, env="none")
    return train(recipe, tmp_path_factory.mktemp("cloned") / "run")


@pytest.fixture(scope="module")
def pretrained(demonstrations: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """TD3+BC."""
    values = bc_recipe(demonstrations, steps=40, env="none").to_dict()
    changes = {"algo": "td3", "agent": {"hidden": [16, 16], "bc_alpha": 2.5, "bc_decay": 0.9}}
    changes["data"] = {"top_fraction": 0.5, "reward_scale": 0.25, "validation_fraction": 0.25}
    return train(recipe_from_dict(values | changes), tmp_path_factory.mktemp("pretrained") / "run")


@pytest.fixture(scope="module")
def through(pretrained: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A fine-tuning with a critic warm-up and less and less of the data, never stopped."""
    return train(continued(pretrained, *ANNEALED), tmp_path_factory.mktemp("through") / "run")


def continued(run: Run, *settings: str, **options: Any) -> Recipe:
    chosen: dict[str, Any] = {"steps": 60, "env": "Pendulum-v1"} | options
    return fine_tuning_recipe(run.path, settings=parsed_settings([*SHORT, *settings]), **chosen)


def at_step_0(recipe: Recipe, path: Path) -> Loop:
    problem = open_problem(recipe)
    loop = build_loop(Run.create(path, problem.recipe), problem, SilentListener())
    take_over(loop.policy, problem)
    return loop


def test_the_recipe_is_the_run_s_own_but_for_where_it_learns(pretrained: Run) -> None:
    recipe = fine_tuning_recipe(pretrained.path, steps=60, env="Pendulum-v1", settings={"online.critic_warmup": 5})
    source = pretrained.recipe
    expected = dataclasses.replace(
        source,
        agent=dataclasses.replace(source.agent, actor_learning_rate=SMALL_ACTOR_STEP),
        start=str(pretrained.path),
        start_checkpoint="last",
        env="Pendulum-v1",
        steps=60,
        online=dataclasses.replace(
            source.online,
            warmup_steps=6,
            critic_warmup=5,
            offline_fraction=OFFLINE_FRACTION,
            record=True,
        ),
        early_stopping=recipe.early_stopping,
    )
    assert recipe == expected
    assert recipe.early_stopping.patience == 0


def test_what_was_pretrained_lets_go_of_the_data(demonstrations: Path, tmp_path: Path) -> None:
    """Half of the distance's weight is left at the end, by as many steps of the policy as there are."""
    values = bc_recipe(demonstrations, steps=10, env="none").to_dict()
    changes: dict[str, Any] = {"algo": "td3", "agent": {"hidden": [8], "bc_alpha": 2.5}, "data": {}}
    held = train(recipe_from_dict(values | changes), tmp_path / "held")
    options = ("online.warmup_steps=10", "online.updates_per_step=2", "online.critic_warmup=6")
    run = train(continued(held, *options), tmp_path / "run")
    weight = last_tensors(run)["state/bc_weight"]
    torch.testing.assert_close(weight, torch.full_like(weight, LEFT_OF_ANCHOR), rtol=0.02, atol=0.0)
    long = fine_tuning_recipe(held.path, steps=50_000, env="Pendulum-v1")
    assert long.online.critic_warmup == PRETRAINED_CRITIC_WARMUP
    # Whoever says what it shall be has it, and so has a run whose weight fell before.
    for value in (1.0, 0.25):
        chosen = fine_tuning_recipe(held.path, steps=50_000, settings={"agent.bc_decay": value})
        assert chosen.agent.bc_decay == value
    again = fine_tuning_recipe(run.path, steps=50_000)
    assert again.agent.bc_decay == run.recipe.agent.bc_decay
    assert again.online.critic_warmup == 0


def test_another_algorithm_has_its_own_options_and_the_shape_of_the_cloned_policy(cloned: Run) -> None:
    base = {"algo": "ppo", "batch_size": 99, "agent": {"hidden": [5], "epochs": 3, "decay_steps": 7, "clip": 0.1}}
    recipe = fine_tuning_recipe(cloned.path, steps=60, algo="ppo", env="Pendulum-v1", base=base)
    assert (recipe.batch_size, recipe.agent.epochs, recipe.agent.clip) == (99, 3, 0.1)
    assert (recipe.agent.hidden, recipe.agent.decay_steps) == ((16, 16), 0)
    assert (recipe.agent.policy, recipe.agent.initial_log_std) == ("squashed_gaussian", INITIAL_LOG_STD)
    assert (recipe.seeds, recipe.online.offline_fraction) == (cloned.recipe.seeds, 0.0)
    base = {"algo": "td3", "agent": {"actor_learning_rate": 1e-3, "exploration_noise": 0.3}}
    careful = fine_tuning_recipe(cloned.path, steps=60, algo="td3", base=base, settings={"agent.bc_alpha": 2.5}).agent
    assert (careful.actor_learning_rate, careful.exploration_noise, careful.bc_alpha) == (3e-5, 0.3, 2.5)
    base = {"algo": "sac", "agent": {"temperature_learning_rate": 1e-3, "discount": 0.98}}
    careful = fine_tuning_recipe(cloned.path, steps=60, algo="sac", base=base).agent
    assert (careful.temperature_learning_rate, careful.discount, careful.bc_alpha) == (0.0, 0.98, 1.0)
    longer = fine_tuning_recipe(cloned.path, steps=100_000, algo="sac", env="Pendulum-v1").online
    assert (longer.warmup_steps, longer.critic_warmup) == (WARMUP_STEPS, CRITIC_WARMUP)
    assert longer.offline_fraction == OFFLINE_FRACTION


def test_a_run_goes_on_with_all_of_its_state(pretrained: Run, tmp_path: Path) -> None:
    loop = at_step_0(continued(pretrained), tmp_path / "run")
    saved = read_part(pretrained.checkpoint("last"), "state")
    state = state_tensors(loop.policy.state)
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved)
    assert state["actor_optimizer.steps"] == 20
    assert (state["bc_weight"] < 0.5).all()
    normalizer = read_part(pretrained.checkpoint("last"), "normalizer")
    assert all(torch.equal(loop.fixed_parts["normalizer"][name], normalizer[name]) for name in normalizer)


def returns_at_first(source: Run, environment: str) -> NDArray[np.float64]:
    """What a cloned policy gets in one episode, started as fine-tuning tries what it takes over; [S, 1]."""
    policy, _ = load_policy(source, source.reported_checkpoint)
    return evaluate(policy, environment, 1, Starts(Purpose.BEGINNING, source.recipe.seeds)).returns


@pytest.mark.parametrize(
    ("algo", "settings"),
    [("td3", ()), ("sac", ()), ("ppo", ("agent.rollout_steps=10",))],
)
def test_a_cloned_policy_acts_as_before_and_goes_on_learning(
    algo: str, settings: tuple[str, ...], cloned: Run, tmp_path: Path
) -> None:
    """The evaluation at step 0 is that of the cloned policy: the weights that acted, behind their normalizer."""
    run = train(continued(cloned, *settings, algo=algo), tmp_path / "run")

    first, last = run.lines("evaluations.jsonl")
    assert (first["step"], first["starts"], last["starts"]) == (0, "beginning", "final")
    np.testing.assert_allclose(first["returns"], returns_at_first(cloned, "Pendulum-v1"), rtol=1e-4)
    assert last["returns"] != first["returns"]
    assert Run.open(run.path).recipe.algo == algo
    assert TrajectoryStore.open(run.path / "replay").num_steps == 2 * 60


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_discrete_policies_go_on(algo: str, tmp_path: Path) -> None:
    collect_random("CartPole-v1", episodes=20, destination=tmp_path / "random")
    cloned = train(bc_recipe(tmp_path / "random", steps=20, env="none", seeds=[0]), tmp_path / "cloned")
    settings = ("agent.rollout_steps=10",) if algo == "ppo" else ()
    run = train(continued(cloned, *settings, algo=algo, env="CartPole-v1"), tmp_path / "run")

    assert run.lines("evaluations.jsonl")[0]["returns"] == returns_at_first(cloned, "CartPole-v1").tolist()
    replay = TrajectoryStore.open(run.path / "replay")
    assert replay.num_steps == 60
    assert set(replay.read("action", 0, replay.num_rows).tolist()) == {0, 1}
    assert replay.episodes.return_.sum() == 60


@pytest.mark.parametrize("priority", ["none", "proportional"])
def test_values_learned_offline_go_on(priority: str, tmp_path: Path) -> None:
    """Also with priorities of their own for the data and for the agent's steps."""
    data = collect_random("CartPole-v1", episodes=20, destination=tmp_path / "random")["path"]
    values = bc_recipe(Path(data), steps=40, env="none").to_dict() | {"algo": "dqn"}
    changes = {"agent": {"hidden": [16], "conservative": 1.0}, "priority": {"kind": priority}}
    pretrained = train(recipe_from_dict(values | changes), tmp_path / "pretrained")
    recipe = continued(pretrained, env="CartPole-v1")
    # No random actions but those that a trained agent takes.
    assert recipe.agent.epsilon_start == recipe.agent.epsilon_end < 0.1
    through = train(recipe, tmp_path / "through")
    train(dataclasses.replace(recipe, steps=40), tmp_path / "halves")
    assert_same_tensors(through, resume(tmp_path / "halves", steps=60))
    with pytest.raises(RecipeError, match="dqn has no critics apart from its policy"):
        train(continued(pretrained, "online.critic_warmup=5", env="CartPole-v1"), tmp_path / "refused")


def test_masks_of_the_data_hold_in_mixed_batches_and_own_steps_have_all_actions(tmp_path: Path) -> None:
    spec, episodes, length = environment_spec("CartPole-v1"), 4, 10
    rows = episodes * (length + 1)
    final = np.arange(1, episodes + 1) * (length + 1) - 1
    columns = {
        "observation": np.zeros((rows, 4), np.float32),
        "action": np.zeros(rows, np.int64),
        "reward": np.where(np.isin(np.arange(rows), final), 0.0, -1.0),
        "terminated": np.isin(np.arange(rows), final - 1),
        "truncated": np.zeros(rows, np.bool_),
        "action_mask": np.tile([True, False], (rows, 1)),
    }
    with StoreWriter(tmp_path / "masked", spec) as writer:
        writer.append(EpisodeBlock(columns, np.full(episodes, length)))
    values = bc_recipe(tmp_path / "masked", steps=20, env="none").to_dict() | {"algo": "dqn"}
    values["agent"] = {"hidden": [16], "conservative": 1.0}
    pretrained = train(recipe_from_dict(values), tmp_path / "pretrained")
    loop = at_step_0(continued(pretrained, env="CartPole-v1"), tmp_path / "run")
    loop.feed.at_checkpoint(0)
    (batch, *_) = (batch for cycle in loop.feed.rounds(20) for batch in cycle.batches)
    of_data = batch.reward < 0
    assert of_data.sum(dim=1).tolist() == [8, 8]
    for mask in (batch.action_mask, batch.next_action_mask):
        assert mask is not None
        assert mask.tolist() == torch.stack([torch.ones_like(of_data), ~of_data], dim=-1).tolist()
    loop.feed.close()


def test_batches_mix_data_and_own_steps_exactly(pretrained: Run, tmp_path: Path) -> None:
    """Demonstrations are worth the number of their episode, the steps of a pendulum less than nothing."""
    loop = at_step_0(continued(pretrained, offline_fraction=0.25), tmp_path / "run")
    feed = loop.feed
    assert isinstance(feed, ReplayFeed)
    feed.at_checkpoint(0)
    drawn = [batch for cycle in feed.rounds(12) for batch in cycle.batches]
    assert drawn
    offline = torch.cat([batch.reward[batch.reward >= 0] for batch in drawn])
    assert all((batch.reward >= 0).sum(dim=1).tolist() == [4, 4] for batch in drawn)
    # The better half of eight episodes, on the run's scale of rewards; none is held out: TD3 validates no loss.
    held_in = set((offline / 0.25).tolist())
    assert held_in == {4.0, 5.0, 6.0, 7.0}
    assert drawn[0].behavior_log_prob is None
    raw = -torch.cat([batch.reward[batch.reward < 0] for batch in drawn]) / 0.25
    assert raw.max() > 0.25 * 17  # Rewards of a pendulum go down to -16.3: unscaled, this one couldn't be.


@pytest.mark.parametrize("algo", ["rebrac", "td3bc", "calql"])
def test_offline_algorithms_go_on_with_data_in_half_of_each_batch(
    algo: str, demonstrations: Path, tmp_path: Path
) -> None:
    values = bc_recipe(demonstrations, steps=20, env="none").to_dict()
    held = train(recipe_from_dict(values | {"algo": algo, "agent": {"hidden": [8]}, "data": {}}), tmp_path / "held")
    loop = at_step_0(continued(held, offline_fraction=0.5), tmp_path / "loop")
    loop.feed.at_checkpoint(0)
    *_, last = loop.feed.rounds(12)
    loop.feed.close()
    for batch in last.batches:
        of_data = batch.reward >= 0
        assert of_data.sum(dim=1).tolist() == [8, 8]
        # No own episode has ended.
        assert batch.return_to_go is None or torch.equal(batch.return_to_go.isfinite(), of_data)
        assert (batch.next_action is None) == (algo != "rebrac")
    run = train(continued(held, offline_fraction=0.5), tmp_path / "run")
    assert run.recipe.online.offline_fraction == 0.5
    state = last_tensors(run)
    assert all(tensor.isfinite().all() for name, tensor in state.items() if name.startswith("state/"))
    for name in {"state/penalty_weight", "state/bc_weight"} & state.keys():
        torch.testing.assert_close(state[name], torch.full((2,), LEFT_OF_ANCHOR), rtol=0.1, atol=0.0)


def test_the_policy_acts_from_the_first_step_and_learns_after_the_warm_up(pretrained: Run, tmp_path: Path) -> None:
    loop = at_step_0(continued(pretrained, "agent.exploration_noise=0.0"), tmp_path / "run")
    feed = loop.feed
    assert isinstance(feed, ReplayFeed)
    feed.at_checkpoint(0)
    shown, _ = loop.policy.act(feed.collector.observed, ())
    assert [len(list(feed.rounds(1))) for _ in range(6)] == [0, 0, 0, 0, 1, 1]
    np.testing.assert_array_equal(feed.ring.rows[:, 0, 3:4], np.asarray(shown)[:, 0])


def test_the_share_of_the_data_is_annealed(pretrained: Run, tmp_path: Path) -> None:
    settings = ("online.offline_fraction_end=0.0", "online.offline_fraction_steps=40", "online.warmup_steps=0")
    loop = at_step_0(continued(pretrained, *settings, offline_fraction=1.0), tmp_path / "run")
    loop.feed.at_checkpoint(0)
    counts = [int((cycle.batches[0].reward[0] >= 0).sum()) for cycle in loop.feed.rounds(25)]
    assert counts == [max(round(16 * (1 - 2 * n / 40)), 0) for n in range(1, 26)]


def test_critics_are_warmed_up_while_the_policy_acts_as_it_did(pretrained: Run, tmp_path: Path) -> None:
    run = train(continued(pretrained, "online.critic_warmup=60"), tmp_path / "run")
    before, after = last_tensors(pretrained), last_tensors(run)
    changed = {name for name in before if name.startswith("state/") and not before[name].equal(after[name])}
    assert "state/critic.layers.0.weight" in changed
    assert not {name for name in changed if name.startswith(("state/actor", "state/bc_weight"))}

    longer = train(continued(pretrained, "online.critic_warmup=30"), tmp_path / "longer")
    first_layer = "state/actor.layers.0.weight"
    assert not before[first_layer].equal(last_tensors(longer)[first_layer])


def test_critics_of_rollouts_are_warmed_up(cloned: Run, tmp_path: Path) -> None:
    settings = ("agent.rollout_steps=10", "online.critic_warmup=40")
    short = train(continued(cloned, *settings, algo="ppo", steps=40), tmp_path / "short")
    policies = [load_policy(short, "last")[0].state.actor.network, load_policy(cloned, "last")[0].state.average]
    assert torch.equal(policies[0].layers[0].weight, policies[1].layers[0].weight)
    longer = train(continued(cloned, *settings, algo="ppo", steps=50), tmp_path / "longer")
    moved = load_policy(longer, "last")[0].state.actor.network
    assert not torch.equal(moved.layers[0].weight, policies[1].layers[0].weight)


def test_the_recipe_replays_the_run(through: Run, tmp_path: Path) -> None:
    other = train(Run.open(through.path).recipe, tmp_path / "other")
    assert_same_tensors(through, other)
    assert to_toml(through.recipe) == to_toml(other.recipe)


@pytest.mark.parametrize("algo", ["td3", "ppo"])
def test_training_on_equals_training_through(algo: str, pretrained: Run, cloned: Run, tmp_path: Path) -> None:
    """Also where the run that it started from is there no more: a checkpoint holds all that is needed."""
    source = Run.open(shutil.copytree((pretrained if algo == "td3" else cloned).path, tmp_path / "source"))
    # PPO's critic learns alone until step 50, ten steps behind the cut.
    settings = ANNEALED if algo == "td3" else ("agent.rollout_steps=10", "online.critic_warmup=50")
    recipe = continued(source, *settings, algo=algo)
    through = train(recipe, tmp_path / "through")
    train(dataclasses.replace(recipe, steps=40), tmp_path / "halves")
    shutil.rmtree(source.path)
    halves = resume(tmp_path / "halves", steps=60)

    assert_same_tensors(through, halves)
    assert _without_rates(through) == _without_rates(halves)
    assert fingerprint(through) == fingerprint(halves)


@pytest.mark.parametrize("step", [0, 20])
def test_a_run_that_is_stopped_dead_goes_on_as_if_it_had_not_been(
    step: int, pretrained: Run, through: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Just before the checkpoint of a step is written; that of step 0 is the first one."""
    recipe = continued(pretrained, *ANNEALED)
    saved = Run.save_checkpoint

    def stop(self: Run, kind: str, at: int, *arguments: Any) -> Path:
        if kind == "last" and at == step:
            raise KeyboardInterrupt
        return saved(self, kind, at, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save_checkpoint", stop)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "killed")
    killed = resume(tmp_path / "killed")

    assert_same_tensors(through, killed)
    assert _without_rates(through) == _without_rates(killed)
    assert fingerprint(through) == fingerprint(killed)


def test_online_runs_and_fine_tuned_ones_are_fine_tuned(pretrained: Run, tmp_path: Path) -> None:
    goal = {"warmup_steps": 20, "capacity": 100, "stop_at": -1e6}
    online = train(
        td3_recipe(steps=40, evaluation={"every": 100, "final_episodes": 1}, online=goal), tmp_path / "online"
    )
    again = train(continued(online), tmp_path / "again")
    assert (again.recipe.dataset, again.recipe.online.offline_fraction) == (None, 0.0)
    assert again.recipe.online.stop_at is None
    first = train(continued(pretrained), tmp_path / "first")
    second = train(continued(first, env=None, steps=20, checkpoint="best"), tmp_path / "second")
    assert second.recipe.start == str(first.path)
    assert second.recipe.env == "Pendulum-v1"
    assert second.recipe.dataset == pretrained.recipe.dataset


def test_fine_tuning_without_data_needs_no_dataset(pretrained: Run, demonstrations: Path, tmp_path: Path) -> None:
    recipe = continued(pretrained, offline_fraction=0.0, steps=20)
    gone = dataclasses.replace(recipe, dataset=str(tmp_path / "gone"))
    run = train(gone, tmp_path / "run")
    assert run.has_checkpoint("last")


def test_ppo_takes_over_normalized_layers(demonstrations: Path, tmp_path: Path) -> None:
    agent = {"hidden": [16, 16], "layer_norm": True}
    source = train(bc_recipe(demonstrations, steps=20, env="none", agent=agent), tmp_path / "cloned")
    run = train(continued(source, "agent.rollout_steps=10", algo="ppo"), tmp_path / "run")
    assert run.lines("evaluations.jsonl")[0]["returns"] == returns_at_first(source, "Pendulum-v1").tolist()
    with pytest.raises(RecipeError, match="layer_norm=true, this one layer_norm=false"):
        train(continued(source, algo="td3"), tmp_path / "td3")


@pytest.mark.parametrize("algo", ["td3", "ppo"])
def test_a_schedule_that_has_ended_is_refused(algo: str, pretrained: Run, tmp_path: Path) -> None:
    """TD3 took 40 critic steps and 20 of the actor, PPO saw 80 transitions."""
    if algo == "td3":
        run, limit = pretrained, 40
    else:
        values = td3_recipe(steps=80, evaluation={"every": 0, "final_episodes": 1}).to_dict() | {"algo": "ppo"}
        values["agent"] = {"rollout_steps": 20, "hidden": [8]}
        run, limit = train(recipe_from_dict(values), tmp_path / "ppo"), 80
    with pytest.raises(RecipeError, match=rf"fallen to 0: agent.decay_steps .* took {limit}\n"):
        train(continued(run, f"agent.decay_steps={limit}"), tmp_path / "refused")
    goes_on = train(continued(run, f"agent.decay_steps={limit + 2}"), tmp_path / "goes_on")
    actors = [{k: t for k, t in last_tensors(r).items() if k.startswith("state/actor.")} for r in (run, goes_on)]
    assert actors[0]
    assert any(not torch.equal(tensor, actors[1][name]) for name, tensor in actors[0].items())


def test_what_can_not_be_fine_tuned(pretrained: Run, cloned: Run, tmp_path: Path) -> None:
    def refused(recipe: Recipe, error: type[Exception], match: str) -> None:
        with pytest.raises(error, match=match):
            train(recipe, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()

    refused(continued(cloned), RecipeError, r"bc learns from a dataset only.*\n.*--algo: .*\bppo,.* sac, td3\b")
    refused(
        continued(cloned, algo="dqn"), RecipeError, "dqn can't start from a policy that bc.*\n.*--algo: .*ppo,.* sac"
    )
    for algo, message in (("sac", "can't start from a policy that td3 trained"), ("bc", "from a dataset only")):
        refused(
            continued(pretrained, algo=algo), RecipeError, f"{algo} .*{message}.*\n.*leave --algo out to go on with td3"
        )
    refused(
        continued(cloned, "data.normalize_observation=false", algo="td3"), RecipeError, "normalize_observation=true"
    )
    refused(continued(pretrained, "data.frame_stack=3"), RecipeError, "see 1 observations.*\n.*leave data.frame_stack")
    refused(continued(pretrained, env="CartPole-v1"), SpaceMismatchError, "CartPole-v1")
    refused(continued(pretrained, "agent.hidden=[8]"), RecipeError, "options don't fit the networks")
    refused(continued(cloned, "agent.hidden=[8,8]", algo="td3"), RecipeError, "hidden=\\[16, 16\\]")
    refused(continued(pretrained, "seeds=[0,2]"), RecipeError, "seeds \\[0, 1\\], the recipe \\[0, 2\\]")
    refused(continued(cloned, algo="ppo", offline_fraction=0.5), RecipeError, "newest steps only")
    refused(continued(cloned, "agent.policy=gaussian", algo="ppo"), RecipeError, "gaussian policy can't start from")
    refused(td3_recipe(online={"offline_fraction": 0.5}), RecipeError, "no data to mix in: no dataset is named")
    online = train(td3_recipe(steps=40, evaluation={"every": 0, "final_episodes": 1}), tmp_path / "online")
    refused(continued(online, offline_fraction=0.5), RecipeError, "no data to mix in")
    refused(dataclasses.replace(continued(online), env=None), RecipeError, "needs an environment")
    bare = Run.create(tmp_path / "bare", cloned.recipe)
    for path in (bare.path, tmp_path / "nowhere"):
        with pytest.raises(RequestError, match="no policy to fine-tune"):
            fine_tuning_recipe(path, steps=5)


def _without_rates(run: Run) -> list[dict[str, Any]]:
    lines = run.lines("metrics.jsonl") + run.lines("evaluations.jsonl")
    return [{key: value for key, value in line.items() if key != "steps_per_second"} for line in lines]


def fingerprint(run: Run) -> str:
    return TrajectoryStore.open(run.path / "replay").fingerprint
