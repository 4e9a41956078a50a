"""Datasets: opening, describing, checking, converting, recording and making them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from offrl.errors import RequestError
from offrl.trust import allowing, remembered

if TYPE_CHECKING:
    import gymnasium as gym

    from offrl.collection.record import RecordedEnvironment
    from offrl.converters.listing import DatasetEntry
    from offrl.converters.options import OutOfBounds, Timeouts
    from offrl.converters.report import ConversionReport
    from offrl.data.store import TrajectoryStore
    from offrl.data.validate import Finding
    from offrl.runs.run import Run


def open_dataset(dataset: str | os.PathLike[str] | TrajectoryStore) -> TrajectoryStore:
    """A dataset, unpacked or converted first where need be.

    Args:
        dataset: a name that `list_datasets` knows, a path, `minari:<id>` or `d4rl:<id>`; an open one is returned as it
            is.

    Raises:
        DatasetNotFoundError: nothing goes by that name, and nothing could be fetched.
        OffrlError: it can't be opened, unpacked or converted; see the message.

    Example:
        >>> data = offrl.open_dataset("hopper-expert")
        >>> data.num_episodes
        100
    """
    from offrl.converters.catalog import open_dataset as opened
    from offrl.data.store import TrajectoryStore

    return dataset if isinstance(dataset, TrajectoryStore) else opened(dataset)


def list_datasets() -> list[DatasetEntry]:
    """The datasets that have a name: bundled ones, local ones, and those that `make_dataset` makes.

    Example:
        >>> [entry.name for entry in offrl.list_datasets() if entry.kind == "bundled"]
    """
    from offrl.converters.listing import list_datasets as entries
    from offrl.converters.listing import recipe_entries

    here = entries()
    return [*here, *recipe_entries({entry.name for entry in here})]


def describe(dataset: str | os.PathLike[str] | TrajectoryStore) -> dict[str, Any]:
    """All that is known of a dataset without reading its steps.

    Args:
        dataset: as `open_dataset` takes it.

    Returns:
        plain values: name, path, environment, episodes, transitions, bytes, shards, fingerprint, spaces, columns,
        statistics, the histogram of returns, reference scores and provenance.

    Example:
        >>> offrl.describe("hopper-expert")["reference_scores"]
    """
    from offrl.data.description import description_of

    return description_of(open_dataset(dataset))


def validate(dataset: str | os.PathLike[str] | TrajectoryStore) -> list[Finding]:
    """Check a dataset: checksums, alignment, flags, NaN and infinity, bounds. An empty list says that all is well.

    Args:
        dataset: as `open_dataset` takes it.

    Example:
        >>> offrl.validate("hopper-expert")
        []
    """
    from offrl.data.validate import validate as findings

    return findings(open_dataset(dataset))


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    format: str | None = None,
    mapping: Mapping[str, str] | Sequence[str] = (),
    dry_run: bool = False,
    timeouts: Timeouts = "keep",
    time_limit: int | None = None,
    env: str | None = None,
    action_bounds: tuple[float, float] | None = None,
    out_of_bounds: OutOfBounds = "error",
    allow_pickle: bool = False,
    max_expansion: int = 200,
    overwrite: bool = False,
    bandit: bool = False,
    episode_per_file: bool = False,
) -> ConversionReport:
    """Convert logged data to a dataset, checked on the way.

    Args:
        source: a file or folder, or `d4rl:<id>` or `minari:<id>`, which may be fetched.
        out: the new dataset: a bare name goes to the local datasets.
        format: where the source's isn't recognized.
        mapping: field to column, as in `{"observation": "x,y", "reward": "r"}`, or texts `field=column`; see
            `offrl.converters.options.ConvertOptions`.
        dry_run: say what was understood, and write nothing.
        timeouts: what becomes of a transition that is marked as cut by a time limit: "keep", "drop" or "terminal".
        time_limit: episodes were cut after so many steps, where the source doesn't say so.
        env: a Gymnasium id: its spaces are taken, and it is recorded.
        action_bounds: of every action, where none are known.
        out_of_bounds: what becomes of actions outside their bounds: "error", "clip" or "keep".
        allow_pickle: read pickles: only of authors whom you'd let run code here.
        max_expansion: how many times larger than its files a source may be once unpacked, beyond 256 MiB.
        overwrite: replace a dataset at `out`, once the new one is whole.
        bandit: each row of a table is an episode of one step, as in the log of a contextual bandit.
        episode_per_file: each file of a folder of tables is an episode.

    Raises:
        DatasetNotFoundError: there is no such source, and none could be fetched.
        SourceError: it can't be read as its format.
        DataError: its values are wrong; with `dry_run`, the report lists them in `problems`.
        RequestError: it leaves something open that must be said, or something is at `out`.

    Example:
        >>> mapping = {"observation": "x,y", "reward": "r", "terminated": "done"}
        >>> offrl.convert("logs.csv", "my-logs", mapping=mapping, time_limit=500, dry_run=True).steps
    """
    from offrl.config.fields import Count, Finite
    from offrl.config.validation import require_kind
    from offrl.converters.catalog import store_path
    from offrl.converters.conversion import convert as converted
    from offrl.converters.conversion import plan_conversion
    from offrl.converters.options import ConvertOptions, parse_mapping

    require_kind(str | None, format=format)
    require_kind(Count | None, time_limit=time_limit)
    require_kind(tuple[Finite, Finite] | None, action_bounds=action_bounds)
    options = ConvertOptions(
        mapping=mapping if isinstance(mapping, Mapping) else parse_mapping(mapping),
        timeouts=timeouts,
        time_limit=time_limit,
        environment=env,
        action_bounds=action_bounds,
        out_of_bounds=out_of_bounds,
        allow_pickle=allow_pickle,
        max_expansion=max_expansion,
        bandit=bandit,
        episode_per_file=episode_per_file,
    )
    if dry_run:
        return plan_conversion(source, format=format, options=options)
    if out is None:
        raise RequestError("no destination is named", hint="write offrl convert SOURCE DEST, or add --dry-run")
    return converted(source, store_path(out), format=format, options=options, overwrite=overwrite)


def export_dataset(
    dataset: str | os.PathLike[str] | TrajectoryStore,
    out: str | os.PathLike[str],
    format: Literal["parquet", "minari"] = "parquet",
    *,
    overwrite: bool = False,
) -> Path:
    """Write a dataset for others to read.

    Args:
        dataset: as `open_dataset` takes it.
        out: a new folder for Parquet; an id such as "hopper/expert-v0" for Minari.
        format: "parquet", or "minari" for a local Minari dataset.
        overwrite: replace such a dataset at `out`, once the new one is whole.

    Returns:
        the folder that was written.

    Raises:
        RequestError: there is no such format, or something is at `out`.

    Example:
        >>> offrl.export_dataset("hopper-expert", "hopper/expert-v0", "minari")
    """
    store = open_dataset(dataset)
    store.verify()
    if format == "parquet":
        from offrl.data.parquet import write_parquet

        folder = Path(out).expanduser()
        write_parquet(store, folder, overwrite=overwrite)
        return folder
    if format != "minari":
        raise RequestError(f"datasets aren't exported as {format!r}", hint="choose parquet or minari")
    from offrl.converters.export_minari import export_minari
    from offrl.converters.minari_root import minari_folder

    with warnings.catch_warnings():
        # Minari asks for permalinks, e-mail addresses and the like, one warning each.
        warnings.simplefilter("ignore")
        export_minari(store, os.fspath(out), overwrite=overwrite)
    return minari_folder() / out


def make_dataset(
    name: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    trust: bool = False,
) -> dict[str, Any]:
    """Make a dataset by its recipe, training what it needs first.

    Trainings are kept, shared by the datasets that need them, and go on after an interruption when it is made again.

    Args:
        name: a dataset that has a recipe, or a TOML file.
        out: a new folder for Parquet files and card.toml; None makes a local dataset.
        overwrite: replace the dataset that is there, once the new one is whole.
        progress: whether to show it.
        trust: import the module of an environment that a dataset or a run names: only of authors whom you'd let run
            code here.

    Returns:
        name, path, environment, episodes, steps, mean, least and greatest return, and the reference scores.

    Raises:
        RecipeError: there is no such recipe, or something in it is wrong.
        RequestError: there is a dataset at the destination.
        TrainingInterrupted: Ctrl-C during a training; made again, the dataset goes on from there.

    Example:
        >>> offrl.make_dataset("pendulum-replay")["mean_return"]
    """
    from offrl.api.learning import shown_progress
    from offrl.collection.make_dataset import Maker

    with shown_progress(progress) as shown, allowing(everything=trust):
        maker = Maker(shown, shown.say)
        return maker.make(os.fspath(name), None if out is None else Path(out), overwrite=overwrite)


def collect(
    run: str | os.PathLike[str] | Run | None = None,
    *,
    episodes: int,
    out: str | os.PathLike[str],
    random: bool = False,
    optimal: bool = False,
    temperature: float | None = None,
    checkpoint: str | None = None,
    stochastic: bool = False,
    reference_scores: bool = False,
    seed: int = 0,
    env: str | None = None,
    max_episode_steps: int | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Record a trained policy's episodes, random or optimal ones, as a dataset.

    The dataset takes its name once it is whole: an interruption leaves nothing of that name.

    Args:
        run: the run or its directory; None with `random` or `optimal`.
        episodes: in all, shared among the run's seeds.
        out: the dataset: a bare name goes to the local datasets.
        random: random actions in `env`, and their density: uniform between bounds, exponential beyond a single one,
            normal without any.
        optimal: the best policy of a toy-text `env`, found exactly.
        temperature: with `optimal`: draw actions, of higher entropy the larger it is.
        checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that training reported.
        stochastic: sample actions in place of the greedy ones, and log their density.
        reference_scores: measure a random policy too, and store both returns as references.
        seed: picks the episodes' initial states.
        env: a Gymnasium id in place of the run's own environment.
        max_episode_steps: cut episodes there, whatever limit the environment has. Without any limit, an episode of
            50,000 steps is refused.
        overwrite: replace a dataset at `out`, once the new one is whole.
        trust: import the module of the environment that the run names, though you didn't train it here: only of
            authors whom you'd let run code.

    Returns:
        path, environment, episodes, steps, mean, standard deviation, least and greatest return, and the reference
        scores.

    Raises:
        RequestError: something is at `out`, nothing acts, no environment is known, or options don't go together.

    Example:
        >>> offrl.collect("runs/clone", episodes=100, out="my-hopper")["mean_return"]
    """
    from offrl.config.fields import CheckpointKind, Count, CountOrZero, NonNegative
    from offrl.config.validation import require_kind
    from offrl.converters.catalog import new_store_path

    require_kind(Count, episodes=episodes)
    require_kind(Count | None, max_episode_steps=max_episode_steps)
    require_kind(CountOrZero, seed=seed)
    require_kind(NonNegative | None, temperature=temperature)
    require_kind(CheckpointKind | None, checkpoint=checkpoint)
    others = {
        "RUN": run,
        "--checkpoint": checkpoint,
        "--stochastic": stochastic,
        "--reference-scores": reference_scores,
    }
    given = [name for name, value in others.items() if value]
    if temperature is not None and not optimal:
        raise RequestError("a temperature is given to no optimal policy", hint="add --optimal, or leave it out")
    shared: dict[str, Any] = {
        "episodes": episodes,
        "destination": new_store_path(out, overwrite=overwrite),
        "seed": seed,
        "overwrite": overwrite,
    }
    if optimal:
        environment = _environment_alone("--optimal", env, [*given, *(["--random"] if random else [])])
        return _collect_optimal(environment, temperature or 0.0, max_episode_steps or 0, shared)
    if random:
        return _collect_random(_environment_alone("--random", env, given), max_episode_steps or 0, shared)
    how = {
        "checkpoint": checkpoint,
        "env": env,
        "stochastic": stochastic,
        "reference_scores": reference_scores,
        "max_episode_steps": max_episode_steps,
    }
    return _collect_from_run(run, env, trust, shared | how)


def _collect_optimal(
    environment: str, temperature: float, max_episode_steps: int, shared: Mapping[str, Any]
) -> dict[str, Any]:
    """Episodes of the best policy of an environment that is a table."""
    from offrl.collection.collect import collect_optimal

    with allowing(environment):
        return collect_optimal(environment, temperature=temperature, max_episode_steps=max_episode_steps, **shared)


def _collect_random(environment: str, max_episode_steps: int, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Episodes of random actions."""
    from offrl.collection.collect import collect_random

    with allowing(environment):
        return collect_random(environment, max_episode_steps=max_episode_steps, **shared)


def _collect_from_run(
    run: str | os.PathLike[str] | Run | None, env: str | None, trust: bool, how: Mapping[str, Any]
) -> dict[str, Any]:
    """Episodes of a trained policy."""
    from offrl.api.judging import open_run
    from offrl.collection.collect import collect as collected

    if run is None:
        raise RequestError("no run is named", hint="write offrl collect RUN, or add --random and --env ID")
    opened = open_run(run)
    with allowing(env, remembered(opened.path), everything=trust):
        return collected(opened, **how)


def relabel(
    dataset: str | os.PathLike[str] | TrajectoryStore,
    *,
    reward: str | os.PathLike[str] | Run,
    out: str | os.PathLike[str],
    checkpoint: str | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> dict[str, Any]:
    """Write a dataset again, with learned rewards in place of its own; all else is as it was.

    Args:
        dataset: as `open_dataset` takes it.
        reward: the run whose learned reward to write: of irl, gail or airl.
        out: the new dataset: a bare name goes to the local datasets.
        checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that training reported.
        seed: of which training seed; None for the mean over all.
        overwrite: replace a dataset at `out`, once the new one is whole.
        trust: import the module of the environment that a run of irl names, though you didn't train it here: only of
            authors whom you'd let run code.

    Returns:
        path, source, episodes, steps, the mean reward before and after, their correlation, and warnings.

    Raises:
        RequestError: something is at `out`, or the run has learned no reward.
        SpaceMismatchError: the reward is for other spaces than the dataset's.

    Example:
        >>> offrl.relabel("cartpole-random", reward="runs/airl", out="cartpole-learned")["correlation"]
    """
    from offrl.api.judging import open_run
    from offrl.collection.relabel import LearnedReward
    from offrl.collection.relabel import relabel as relabeled
    from offrl.config.fields import CheckpointKind, CountOrZero
    from offrl.config.validation import require_kind
    from offrl.converters.catalog import name_of, new_store_path

    require_kind(CheckpointKind | None, checkpoint=checkpoint)
    require_kind(CountOrZero | None, seed=seed)
    destination = new_store_path(out, overwrite=overwrite)
    opened = open_run(reward)
    with allowing(remembered(opened.path), everything=trust):
        learned = LearnedReward.of(opened, checkpoint, seed)
        return relabeled(name_of(dataset), learned, destination, overwrite=overwrite)


def record(
    env: str | gym.Env[Any, Any], out: str | os.PathLike[str], *, source: str = "", append: bool = False
) -> RecordedEnvironment:
    """An environment whose every episode goes to a dataset: a scripted policy's, a human's, a robot's.

    Each episode is on the disk once it has ended. Leaving the `with` block ends the running one where it stands, and
    keeps what was done of it as truncated. Floats are stored in single precision, which is what policies see, and
    `action_mask` in the infos is stored too.

    Args:
        env: a Gymnasium environment, or its id.
        out: the dataset: a bare name goes to the local datasets.
        source: who acts, such as "human".
        append: go on with the dataset that is there.

    Raises:
        RequestError: something is at `out`, or there is no such environment.

    Example:
        >>> with offrl.record("CartPole-v1", "my-demos") as env:
        ...     observation, info = env.reset()
        ...     done = False
        ...     while not done:
        ...         observation, reward, terminated, truncated, info = env.step(int(observation[2] > 0))
        ...         done = terminated or truncated
        >>> offrl.train("bc", dataset="my-demos")
    """
    from offrl.collection.record import RecordedEnvironment
    from offrl.converters.catalog import store_path
    from offrl.envs.make import make_environment

    if isinstance(env, str):
        with allowing(env):
            made = make_environment(env)
        return RecordedEnvironment(made, store_path(out), environment=env, source=source, append=append)
    environment = None if env.spec is None else env.spec.id
    return RecordedEnvironment(env, store_path(out), environment=environment, source=source, append=append)


def _environment_alone(option: str, env: str | None, others: list[str]) -> str:
    """Random and optimal actions need an environment and nothing else; raises RequestError."""
    if others:
        raise RequestError(f"{option} doesn't go with {', '.join(others)}", hint=f"leave these out, or {option}")
    if env is None:
        raise RequestError("no environment is named", hint="add --env ID, such as --env Hopper-v5")
    return env
