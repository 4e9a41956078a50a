"""Inverse reinforcement learning of tables as a training run: its demonstrations, its progress, and when it is over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offrl.agents.irl import IRL, IRLConfig, IRLState
from offrl.config.recipe import Recipe
from offrl.data import schema
from offrl.data.trajectories import Trajectories
from offrl.envs.vector import make_single
from offrl.errors import RecipeError, RequestError
from offrl.feeds.dataset import DatasetFeed
from offrl.feeds.materials import Cycle, Materials
from offrl.feeds.problem import Problem
from offrl.files import write_whole
from offrl.mdp import Demonstrations, TabularMDP, evaluate_policy, mdp_of, optimal_policy, visits_of
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.types import Batch, Metrics, Spec

REWARD_FILE = "reward.json"


def table_of(environment: str | None, *, discount: float, horizon: int | None = None) -> TabularMDP:
    """The process of a registered environment.

    Raises:
        RecipeError: no environment is named.
        RequestError: it can't be made, or isn't a table.
    """
    if environment in (None, "none"):
        raise RecipeError(
            "irl reads the dynamics from the environment, and none is named", hint="add --env ID, such as FrozenLake-v1"
        )
    assert environment is not None
    try:
        made = make_single(environment, frame_stack=1)
    except (gym.error.Error, ImportError) as error:
        raise RequestError(f"the environment {environment!r} can't be made: {error}") from error
    try:
        return mdp_of(made, discount=discount, horizon=horizon)
    finally:
        made.close()


def process_of(recipe: Recipe) -> TabularMDP:
    """The process that an irl recipe's demonstrations are explained in.

    Raises:
        RecipeError: no environment is named, or the method asks for a time limit and there is none.
        RequestError: the environment isn't a table, or a discount of 1 is asked for without a time limit.
    """
    config: IRLConfig = recipe.agent
    paths = config.method == "maxent"
    if paths:
        # Read with a discount, since there may be no time limit, then taken out of it.
        horizon = config.horizon or table_of(recipe.env, discount=0.5).horizon
        if horizon is None:
            raise RecipeError(
                f"maxent looks at whole paths, and {recipe.env} has no time limit to end them",
                hint="set agent.horizon to the steps of the longest demonstration, or agent.method=maxcausalent",
            )
        return table_of(recipe.env, discount=1.0, horizon=horizon)
    return table_of(recipe.env, discount=config.discount, horizon=config.horizon or None)


def demonstrations_of(mdp: TabularMDP, data: Trajectories, spec: Spec) -> Demonstrations:
    """What a dataset's episodes show.

    Raises:
        DataError: there are none, or they do what the process can't do.
    """
    spaces = (spec.observation_space, spec.action_space)
    firsts = [int(space.start) if isinstance(space, gym.spaces.Discrete) else 0 for space in spaces]
    states, actions = [], []
    for block in data.iterate_blocks(100_000):
        ends = block.final_rows + 1
        states += np.split(block.columns[schema.OBSERVATION].reshape(-1) - firsts[0], ends[:-1])
        actions += [part[:-1] for part in np.split(block.columns[schema.ACTION].reshape(-1) - firsts[1], ends[:-1])]
    return visits_of(mdp, states, actions, data.metadata.name or "")


class Worth(NamedTuple):
    """What learned rewards are worth by the true one, in expected discounted return from the demonstrations' starts.

    Attributes:
        best: of the best policy there is.
        optimal: [S], of a policy that is optimal for each seed's learned reward.
        policy: [S], of each seed's learned policy.
    """

    best: float
    optimal: list[float]
    policy: list[float]

    @property
    def differences(self) -> list[float]:
        """How much less than the best an optimal policy for the learned reward earns."""
        return [self.best - value for value in self.optimal]


def worth_of(agent: IRL, state: IRLState, mdp: TabularMDP) -> Worth | None:
    """Exact values, by the environment's own reward; None where that isn't known."""
    if mdp.reward is None:
        return None
    reward = mdp.expected_reward(mdp.reward)
    best = evaluate_policy(mdp, optimal_policy(mdp, reward), reward)
    learned = optimal_policy(mdp, agent.expected(mdp, state.table))
    return Worth(
        best=float(best),
        optimal=evaluate_policy(mdp, learned, reward).tolist(),
        policy=(state.visits * reward).sum((-2, -1)).tolist(),
    )


class TableFeed:
    """All demonstrations, every time; a step is one update.

    Args:
        agent: says how close is close enough.
        state: what it learns.
        demonstrations: what to explain.
    """

    online: ClassVar[bool] = False
    holds_out: ClassVar[bool] = False
    mixes_data: ClassVar[bool] = False
    steps_per_round = 1

    def __init__(self, agent: IRL, state: IRLState, demonstrations: Demonstrations) -> None:
        self.agent, self.state, self.demonstrations = agent, state, demonstrations
        self.done = torch.zeros((), dtype=torch.int64)

    @classmethod
    def objection(cls, recipe: Recipe) -> RecipeError | None:
        """Demonstrations are a dataset."""
        return DatasetFeed.objection(recipe)

    @classmethod
    def open(cls, recipe: Recipe, checkpoint: Path | None) -> Problem:
        """The demonstrations, and the process that they are explained in, which is found on the CPU."""
        problem = DatasetFeed.open(dataclasses.replace(recipe, device="cpu"), checkpoint)
        assert problem.data is not None
        # Built first: whether it can learn in these spaces at all is asked before what was done in them.
        assert problem.agent is not None
        demonstrations_of(process_of(problem.recipe), problem.data, problem.spec)
        return problem

    @classmethod
    def unread(cls, recipe: Recipe) -> tuple[tuple[str, ...], str]:
        """All that is about own steps."""
        return DatasetFeed.unread(recipe)

    @classmethod
    def gradient_rows(cls, recipe: Recipe) -> int:
        """As a dataset's."""
        return DatasetFeed.gradient_rows(recipe)

    @classmethod
    def build(cls, materials: Materials) -> Self:
        """All of the data, as visits of states."""
        agent: Any = materials.policy.agent
        assert materials.data is not None
        demonstrations = demonstrations_of(process_of(materials.recipe), materials.data, agent.spec)
        return cls(agent, materials.policy.state, demonstrations)

    def rounds(self, count: int) -> Iterator[Cycle]:
        """As many updates, or fewer where the gradient gets small enough before."""
        for _ in range(count):
            if self.finished():
                return
            yield Cycle([self.demonstrations], {})  # type: ignore[list-item]

    def finished(self) -> bool:
        """Whether every seed's gradient was small enough in the last update."""
        return bool(self.done)

    def learned(self, batches: list[Batch], metrics: Metrics) -> None:
        """Look whether this was the last one."""
        self.done.fill_(int((metrics["gradient"] <= self.agent.config.tolerance).all()))

    def at_checkpoint(self, step: int) -> None:
        """Demonstrations don't change."""

    def report(self) -> dict[str, list[Any]]:
        """What the rewards are worth by now."""
        worth = worth_of(self.agent, self.state, self.demonstrations.mdp)
        return {} if worth is None else {"value_difference": worth.differences, "policy_value": worth.policy}

    def conclude(self, run: Run) -> None:
        """Write the learned reward."""
        write_reward(run, self.demonstrations.mdp)

    def close(self) -> None:
        """There are no environments."""

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Whether it is over."""
        return {"demonstrations": {"done": self.done}}

    def restore(self, parts: dict[str, dict[str, Tensor]]) -> None:
        """Go on, if it isn't over."""
        self.done.copy_(parts["demonstrations"]["done"])


class TableReward(NamedTuple):
    """The reward that a run of irl has learned.

    Attributes:
        agent, state: the run's.
        mdp: the process that it was learned in; its first states are the environment's.
    """

    agent: IRL
    state: IRLState
    mdp: TabularMDP

    @classmethod
    def of(cls, run: Run) -> TableReward:
        """Load what training reported.

        Raises:
            RunError: there is no such checkpoint, or it is damaged.
            RequestError: the run's algorithm is another one.
        """
        if run.recipe.algo != "irl":
            raise RequestError(
                f"a run of {run.recipe.algo} has no table of rewards", where=str(run.path), hint="choose a run of irl"
            )
        policy, _ = load_policy(run, run.choose_checkpoint())
        return cls(policy.agent, policy.state, process_of(run.recipe))  # type: ignore[arg-type]

    @property
    def table(self) -> NDArray[np.float64]:
        """[S, n], of the states entered, or [S, n, m] of states and actions."""
        agent = self.agent
        shape = (-1, agent.states, agent.actions) if agent.by_action else (-1, agent.states)
        table: NDArray[np.float64] = self.state.table.view(shape).numpy()
        return table


def write_reward(run: Run, mdp: TabularMDP) -> Path:
    """Write a finished run's learned reward, and what it is worth in the process it was found in, to `reward.json`."""
    learned = TableReward.of(run)
    agent = learned.agent
    worth = worth_of(agent, learned.state, mdp)
    found = {
        "environment": run.recipe.env,
        "method": agent.config.method,
        "features": agent.config.features,
        "seeds": list(run.recipe.seeds),
        "reward": learned.table.tolist(),
        "discount": mdp.discount,
        "horizon": mdp.horizon,
    }
    if worth is not None:
        found |= {
            "best_value": worth.best,
            "optimal_value": worth.optimal,
            "policy_value": worth.policy,
            "value_difference": worth.differences,
        }
    path = run.path / REWARD_FILE
    write_whole(path, json.dumps(found))
    return path
