"""Learned rewards: loaded from a run, asked of transitions, and written into a copy of a dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray

from offrl import __version__, plugins
from offrl.converters.catalog import open_dataset
from offrl.data import schema
from offrl.data.store import EpisodeBlock, StoreWriter, TrajectoryStore
from offrl.data.trajectories import Trajectories
from offrl.envs.policy import Policy
from offrl.envs.spaces import check_spaces
from offrl.errors import OffrlError, RequestError, SpaceMismatchError
from offrl.files import require_free, whole_folder
from offrl.replay.frame_stack import StackedFrames
from offrl.replay.row_layout import RowLayout, Transforms
from offrl.runs.load import load_policy
from offrl.runs.run import Run
from offrl.types import Batch, GivesReward, Spec

ROWS_AT_ONCE = 16_384


class LearnedReward:
    """The reward that a run has learned, for transitions as datasets and environments have them.

    Attributes:
        spec: the spaces of what it rewards; of single observations, where the run stacks them.
        frames: how many of the newest observations it looks at.
        origin: where it comes from: the run, its algorithm, checkpoint, step and seeds.
    """

    def __init__(self, policy: Policy, origin: dict[str, Any], seed_position: int | None = None) -> None:
        self.policy, self.origin, self.seed_position = policy, origin, seed_position
        self.spec: Spec = policy.agent.spec
        self.frames = policy.frame_stack
        self.layout = RowLayout.of(self.spec)
        self.transforms = Transforms(observation_normalizer=policy.normalizer, action_map=policy.action_map)

    @classmethod
    def of(cls, run: Run, checkpoint: str | None = None, seed: int | None = None) -> LearnedReward:
        """Load it.

        Args:
            run: of an algorithm that learns a reward.
            checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that training reported.
            seed: the training seed whose reward to take; None averages over all of them.

        Raises:
            RunError: there is no such checkpoint, or it is damaged.
            RequestError: the run has learned no reward, or has no such seed.
        """
        checkpoint = run.choose_checkpoint(checkpoint)
        policy, facts = load_policy(run, checkpoint)
        seeds = run.recipe.seeds
        if not plugins.algorithms[run.recipe.algo].can(GivesReward):
            raise RequestError(
                f"a run of {run.recipe.algo} has learned no reward",
                where=str(run.path),
                hint=f"name a run of one that does: {_able()}",
            )
        if seed is not None and seed not in seeds:
            raise RequestError(
                f"the run has no seed {seed}", where=str(run.path), hint=f"choose from {', '.join(map(str, seeds))}"
            )
        origin = {
            "run": str(run.path.resolve()),
            "algo": run.recipe.algo,
            "dataset": facts["dataset"],
            "checkpoint": checkpoint,
            "step": facts["step"],
            "seeds": list(seeds) if seed is None else [seed],
        }
        return cls(policy, origin, None if seed is None else seeds.index(seed))

    @torch.no_grad()
    def __call__(
        self,
        columns: Mapping[str, NDArray[Any]],
        following: Mapping[str, NDArray[Any]],
    ) -> NDArray[np.float32]:
        """Rewards of B transitions, float32 [B].

        Args:
            columns: the columns `observation…`, `action…` and `terminated` of the transitions, [B, …] each.
            following: the columns `observation…` of what followed, [B, …] each.
        """
        batch = self._batch(columns, following).repeat_seeds(self.policy.seeds).to(self.policy.device)
        agent: Any = self.policy.agent
        reward = agent.reward(self.policy.state, batch)
        chosen = reward.mean(0) if self.seed_position is None else reward[self.seed_position]
        found: NDArray[np.float32] = chosen.float().cpu().numpy()
        return found

    def _batch(self, columns: Mapping[str, NDArray[Any]], following: Mapping[str, NDArray[Any]]) -> Batch:
        """What the agent sees of them, [1, B, …], by way of packed rows as in training."""
        count = len(columns[schema.TERMINATED])
        rows = np.zeros((2, count, self.layout.width), np.float32)
        for part, values in zip(rows, (columns, following), strict=True):
            for name, place in self.layout.slices.items():
                if name in values:
                    part[:, place] = self.transforms.apply(name, values[name])
        floats = torch.from_numpy(rows)
        images = [
            {name: torch.from_numpy(np.ascontiguousarray(values[name])).unsqueeze(0) for name, _ in self.layout.images}
            for values in (columns, following)
        ]
        here, there = floats[0].unsqueeze(0), floats[1].unsqueeze(0)
        nothing = torch.zeros(1, count)
        return Batch(
            observation=self.layout.observation(here, images[0]),
            action=self.layout.action(here),
            reward=nothing,
            discount=nothing,
            next_observation=self.layout.observation(there, images[1]),
            terminated=self.layout.value(schema.TERMINATED, here),
        )


def relabel(
    dataset: str | os.PathLike[str], learned: LearnedReward, destination: Path, *, overwrite: bool = False
) -> dict[str, Any]:
    """Write a dataset whose rewards are learned ones and whose other columns are those of another dataset.

    The store takes its name once it is whole; a kill before leaves nothing of that name.

    Args:
        dataset: what `open_dataset` takes.
        learned: the reward.
        destination: a new directory for the store.
        overwrite: replace what is at `destination`, once the new store is whole.

    Returns:
        path, source, episodes, steps, the mean reward before and after, the correlation of both over the transitions
        (None where either is constant), and warnings.

    Raises:
        RequestError: there is something at the destination.
        SpaceMismatchError: the reward is for other spaces than the dataset's.
    """
    store = open_dataset(dataset)
    store.verify()
    seen: Trajectories = store if learned.frames == 1 else StackedFrames(store, learned.frames)
    _check_spaces(learned.spec, seen.spec, store.metadata.name)
    if not overwrite:
        require_free(destination)
    warnings = _unseen_actions(store, learned)
    comparison = _Comparison()
    with (
        whole_folder(destination, overwrite=overwrite) as folder,
        StoreWriter(
            folder,
            store.spec,
            environment=store.metadata.environment,
            provenance=_provenance(store, learned),
            reference_scores=store.metadata.reference_scores,
            name=destination.name,
        ) as writer,
    ):
        for block, shown in zip(store.iterate_blocks(ROWS_AT_ONCE), seen.iterate_blocks(ROWS_AT_ONCE), strict=True):
            reward = _rewards(learned, shown)
            comparison.add(block.columns[schema.REWARD], reward, block.final_rows)
            block.columns[schema.REWARD] = reward
            writer.append(block)
    return {
        "path": str(destination),
        "source": store.metadata.name,
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        **comparison.report(),
        "warnings": warnings,
    }


def _able() -> str:
    """Algorithms that learn a reward."""
    return ", ".join(plugins.algorithms.able(lambda record: record.can(GivesReward)))


def _check_spaces(wanted: Spec, found: Spec, dataset: str | None) -> None:
    try:
        check_spaces(wanted, found, f"the dataset '{dataset}'")
    except SpaceMismatchError:
        raise SpaceMismatchError(
            f"the dataset '{dataset}' has {_spaces(found)}, and the reward was learned from {_spaces(wanted)}",
            hint="name a dataset of the environment that the reward was learned in",
        ) from None


def _spaces(spec: Spec) -> str:
    """What is observed and done; without the gaps that NumPy leaves among bounds."""
    return " ".join(f"observations in {spec.observation_space} and actions in {spec.action_space}".split())


def _rewards(learned: LearnedReward, block: EpisodeBlock) -> NDArray[Any]:
    """Learned rewards of all rows of a block, zero in each episode's last one, of the dtype that they had."""
    columns = block.columns
    inside = np.ones(block.num_rows, np.bool_)
    inside[block.final_rows] = False
    (rows,) = np.nonzero(inside)
    reward = np.zeros(block.num_rows, columns[schema.REWARD].dtype)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = rows[start : start + ROWS_AT_ONCE]
        here = {name: values[part] for name, values in columns.items() if name in learned.layout.slices}
        here |= {name: columns[name][part] for name, _ in learned.layout.images}
        there = {name: values[part + 1] for name, values in columns.items() if name.split(".")[0] == schema.OBSERVATION}
        reward[part] = learned(here, there)
    return reward


class _Comparison:
    """Moments of two rewards of the same transitions, added up."""

    def __init__(self) -> None:
        self.sums = np.zeros(6)

    def add(self, before: NDArray[Any], after: NDArray[Any], final_rows: NDArray[np.int64]) -> None:
        """Count the transitions of one block."""
        a, b = (np.delete(values.astype(np.float64), final_rows) for values in (before, after))
        self.sums += [len(a), a.sum(), b.sum(), a @ a, b @ b, a @ b]

    def report(self) -> dict[str, Any]:
        """Means and correlation; None where there is nothing to tell."""
        count, *sums = self.sums
        if not count:
            return {"mean_reward_before": None, "mean_reward": None, "correlation": None}
        a, b, aa, bb, ab = (float(total / count) for total in sums)
        spread = (aa - a * a) * (bb - b * b)
        known = spread > 1e-12 * max(aa * bb, 1e-300)
        return {
            "mean_reward_before": a,
            "mean_reward": b,
            "correlation": float((ab - a * b) / np.sqrt(spread)) if known else None,
        }


def _unseen_actions(store: TrajectoryStore, learned: LearnedReward) -> list[str]:
    """A warning where a dataset takes discrete actions that no demonstration shows: their reward is a guess."""
    if not isinstance(learned.spec.action_space, gym.spaces.Discrete) or learned.origin["dataset"] is None:
        return []
    try:
        shown = _actions(open_dataset(learned.origin["dataset"]))
    except OffrlError:
        return ["the demonstrations that the reward was learned from aren't there, so actions weren't compared"]
    counts = _actions(store)
    unseen = {action: count for action, count in counts.items() if action not in shown}
    if not unseen:
        return []
    share = sum(unseen.values()) / sum(counts.values())
    names = ", ".join(str(action) for action in sorted(unseen))
    return [
        f"no demonstration takes the action{'s' if len(unseen) > 1 else ''} {names}, which {share:.1%} of the "
        "transitions take: the reward of these is a guess"
    ]


def _actions(store: Trajectories) -> dict[int, int]:
    """How often each discrete action is taken."""
    counts: dict[int, int] = {}
    for block in store.iterate_blocks(10 * ROWS_AT_ONCE):
        taken = np.delete(block.columns[schema.ACTION], block.final_rows)
        for action, count in zip(*np.unique(taken, return_counts=True), strict=True):
            counts[int(action)] = counts.get(int(action), 0) + int(count)
    return counts


def _provenance(store: TrajectoryStore, learned: LearnedReward) -> dict[str, Any]:
    return {
        "made_by": f"offrl {__version__} relabel",
        "reward": learned.origin,
        "dataset": {"name": store.metadata.name, "fingerprint": store.fingerprint},
        "dataset_provenance": store.metadata.provenance,
    }
