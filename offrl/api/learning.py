"""Training, going on, fine-tuning, and the recipes that say how."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offrl.errors import RequestError, TrainingInterrupted
from offrl.printable import printable
from offrl.runs.run import Run, path_of
from offrl.trust import allowing, remembered

if TYPE_CHECKING:
    from offrl.config.library import RecipeFile
    from offrl.config.recipe import Recipe
    from offrl.data.store import TrajectoryStore
    from offrl.runs.progress import TrainingProgress
    from offrl.sweeps.run_table import TableScores

Settings = Mapping[str, Any] | Sequence[str]
"""Changes of a recipe: dotted keys to values, or texts `key=value` as the command line has them."""


def train(
    algo: str | None = None,
    *,
    dataset: str | os.PathLike[str] | TrajectoryStore | None = None,
    env: str | None = None,
    steps: int | None = None,
    seeds: int | Sequence[int] | None = None,
    seed: int | None = None,
    agent: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    online: Mapping[str, Any] | None = None,
    evaluation: Mapping[str, Any] | None = None,
    recipe: str | os.PathLike[str] | Recipe | None = None,
    start: str | os.PathLike[str] | Run | None = None,
    expert: str | os.PathLike[str] | Run | None = None,
    cross_validate: str | Sequence[str] | Mapping[str, Sequence[Any]] = (),
    settings: Settings = (),
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    trust: bool = False,
    **keys: Any,
) -> Run:
    """Train a policy, evaluate it, and leave a run directory.

    What is given changes the bundled recipe of the algorithm whose dataset, or without one whose environment, is that
    one. Where none matches, it changes the algorithm's defaults. With a dataset, what learns from a replay learns
    online too if `online={"offline_fraction": 0.5}` gives the dataset a share of each batch.

    Args:
        algo: the algorithm; None takes that of `recipe`.
        dataset: what to learn from: a name that `list_datasets` knows, a path, a prefixed id, or an open dataset.
        env: a Gymnasium id to evaluate in, or without a dataset to learn in.
        steps: environment steps where it learns by acting, else gradient steps.
        seeds: how many to train side by side, counted from `seed`; or which.
        seed: the first, or only, one.
        agent, data, online, evaluation: options of these sections of the recipe.
        recipe: to start from in place of the one that matches: a name, a file, or what `offrl.recipe` returned.
        start: imitate with the policy that bc cloned in that run.
        expert: the run whose policy dagger asks what to do.
        cross_validate: dotted keys of the recipe to the values to try, of which those of least loss on held-out
            episodes are chosen before training; or texts `key=value,value` as the command line has them, or "l2" or
            "l1" for that penalty of bc.
        settings: more changes, which go before the others.
        out: the run directory; None makes one under `runs/`.
        progress: whether to show it.
        trust: import the module of an environment that a dataset or a run names: only of authors whom you'd let run
            code here.
        keys: any other key of the recipe, such as `batch_size=64` or `early_stopping={"patience": 10}`.

    Raises:
        RequestError: there is no such algorithm or dataset, or something doesn't go together.
        RecipeError: an option is unknown or wrong; the message names it.
        TrainingInterrupted: Ctrl-C; `resume` goes on from the checkpoint that was saved.
        OffrlError: see the message; what had been checkpointed is kept.

    Example:
        >>> run = offrl.train("bc", dataset="hopper-expert", seeds=5, agent={"hidden": (256, 256)})
        >>> run.evaluate(episodes=100)
        >>> run = offrl.train("bc", dataset="hopper-expert", cross_validate={"agent.hidden": [(64, 64), (256, 256)]})
        >>> run.cross_validation()["chosen"]
    """
    from offrl.converters.catalog import name_of
    from offrl.training.run_training import train as train_recipe

    named = {
        "dataset": None if dataset is None else name_of(dataset),
        "env": env,
        "steps": steps,
        "seeds": _seed_numbers(seeds, seed),
        "expert": None if expert is None else str(path_of(expert).resolve()),
        "agent": agent,
        "data": data,
        "online": online,
        "evaluation": evaluation,
    }
    given = {key: value for key, value in {**named, **keys}.items() if value is not None}
    changes = {**given, **_tried(cross_validate), **_values(settings)}
    with shown_progress(progress) as shown:
        chosen = _chosen_recipe(algo, recipe, changes, start, shown.say)
        with allowing(chosen.env, everything=trust):
            asked = {key.partition(".")[0] for key in changes}
            return _pictured(train_recipe(chosen, None if out is None else Path(out), shown, asked))


def resume(
    run: str | os.PathLike[str] | Run, *, steps: int | None = None, progress: bool = True, trust: bool = False
) -> Run:
    """Continue a run by its own recipe, from its last checkpoint (from the start, where it has none yet).

    Args:
        run: the run or its directory.
        steps: train up to this step in place of the recipe's.
        progress: whether to show it.
        trust: import the module of the environment that the run names, though you didn't train it here: only of
            authors whom you'd let run code.

    Raises:
        RunInUseError: another process is writing to the run.
        RunError: there is no run, or its checkpoint is damaged.
        RequestError: it has taken more steps already.
        TrainingInterrupted: Ctrl-C; `resume` goes on from the checkpoint that was saved.

    Example:
        >>> offrl.resume("runs/clone", steps=40_000)
    """
    from offrl.config.fields import Count
    from offrl.config.validation import require_kind
    from offrl.training.run_training import resume as go_on

    require_kind(Count | None, steps=steps)
    with shown_progress(progress) as shown, allowing(remembered(path_of(run)), everything=trust):
        return _pictured(go_on(path_of(run), shown, steps))


def finetune(
    run: str | os.PathLike[str] | Run,
    *,
    steps: int,
    env: str | None = None,
    algo: str | None = None,
    offline_fraction: float | None = None,
    checkpoint: str | None = None,
    settings: Settings = (),
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    trust: bool = False,
    **keys: Any,
) -> Run:
    """Take a trained run online, without losing what it learned: a new run goes on with all of its state.

    Args:
        run: the run to start from, or its directory.
        steps: environment steps per seed.
        env: a Gymnasium id to learn in; None takes the run's own.
        algo: go on with another algorithm from a policy that bc cloned; None takes the run's own.
        offline_fraction: the share of each batch that comes from the run's dataset, the rest being fresh steps. None
            takes 0.5; 0 where there is no dataset, or with ppo.
        checkpoint: "last", "best" or a kept one ("step-5000"); None for the one that training reported.
        settings: more changes of the recipe, which go before the others.
        out: the new run's directory; None makes one under `runs/`.
        progress: whether to show it.
        trust: import the module of an environment that a dataset or a run names: only of authors whom you'd let run
            code here.
        keys: sections and keys of the recipe, such as `online={"critic_warmup": 0}`.

    Raises:
        RequestError: there is no policy to start from.
        RecipeError: the algorithm can't go on from it, or an option is unknown or wrong.
        TrainingInterrupted: Ctrl-C; `resume` goes on from the checkpoint that was saved.

    Example:
        >>> online = offrl.finetune("runs/pretrained", env="Hopper-v5", steps=50_000)
    """
    from offrl.config.fields import CheckpointKind, Count
    from offrl.config.library import matching_recipe
    from offrl.config.validation import require_kind
    from offrl.feeds.warm_start import check_fine_tuning, starting_point
    from offrl.training.finetune import fine_tuning_recipe
    from offrl.training.run_training import train as train_recipe

    require_kind(Count, steps=steps)
    require_kind(CheckpointKind | None, checkpoint=checkpoint)
    opened, kind = starting_point(path_of(run), checkpoint)
    source = opened.recipe
    changes = {**{key: value for key, value in keys.items() if value is not None}, **_values(settings)}
    named = (env, changes.get("env"), remembered(opened.path))
    with shown_progress(progress) as shown, allowing(*named, everything=trust):
        base = matching_recipe(algo, None, env or source.env) if algo not in (None, source.algo) else None
        if base is not None:
            shown.say(f"Recipe: {base.name}")
        recipe = fine_tuning_recipe(
            opened.path,
            steps=steps,
            algo=algo,
            env=env,
            offline_fraction=offline_fraction,
            checkpoint=kind,
            base=base.values if base else None,
            settings=changes,
        )
        check_fine_tuning(recipe, source)
        return train_recipe(recipe, None if out is None else Path(out), shown)


def run_table(
    table: str | os.PathLike[str],
    *,
    settings: Settings = (),
    out: str | os.PathLike[str] | None = None,
    progress: bool = True,
    trust: bool = False,
) -> TableScores:
    """Train every algorithm of a table on every dataset of it, and set the scores beside the published ones.

    Datasets that can't be had are told and left out. What is in `out` already isn't trained again: the same call goes
    on where the last one was. The scores, so far, are in `out` as `table.md`.

    Args:
        table: a name, such as `tables/d4rl-gym9`, or a file.
        settings: changes of all its recipes.
        out: the folder of all runs; None makes it the table's name under `runs/`.
        progress: whether to show it.
        trust: import the module of an environment that a dataset names: only of authors whom you'd let run code here.

    Raises:
        RecipeError: there is no such table, or something in it is wrong.
        RequestError: a run in `out` was made by another recipe.
        TrainingInterrupted: Ctrl-C; the same call goes on.
        OffrlError: see the message; what was done is kept.

    Example:
        >>> print(offrl.run_table("tables/d4rl-gym9", settings={"seeds": [0]}).markdown())
    """
    from offrl.config.library import find_recipe
    from offrl.config.score_table import table_from_dict
    from offrl.sweeps.run_table import run_table as run_all

    found = find_recipe(os.fspath(table))
    path = Path("runs") / found.path.stem if out is None else Path(out)
    return run_all(
        table_from_dict(found.values, str(found.path)),
        path,
        _values(settings),
        train=lambda recipe, folder: train(recipe=recipe, out=folder, progress=progress, trust=trust),
        resume=lambda folder: resume(folder, progress=progress, trust=trust),
        tell=_say_on_stderr if progress else lambda text: None,
    )


def list_recipes() -> list[RecipeFile]:
    """The training recipes that come with offrl, by name.

    Example:
        >>> [each.name for each in offrl.list_recipes() if each.values["algo"] == "bc"]
    """
    from offrl.config.library import bundled_recipes

    return bundled_recipes()


def recipe(name: str | os.PathLike[str]) -> Recipe:
    """A training recipe with every key and its value, defaults filled in; printed, it is TOML.

    Args:
        name: a bundled recipe, a TOML file, or an algorithm for its defaults.

    Raises:
        RecipeError: there is no such recipe, or something in it is wrong.

    Example:
        >>> print(offrl.recipe("bc/hopper"))
    """
    from offrl import plugins
    from offrl.config.library import find_recipe
    from offrl.config.recipe import recipe_from_dict

    text = os.fspath(name)
    if text in plugins.algorithms:
        return recipe_from_dict({"algo": text})
    found = find_recipe(text)
    return recipe_from_dict(found.values, str(found.path))


@contextmanager
def shown_progress(progress: bool) -> Iterator[TrainingProgress]:
    """What shows a training, or doesn't; Ctrl-C within becomes an error that says how to go on."""
    from offrl.runs.progress import training_progress
    from offrl.training.loop import Interrupted

    with training_progress(progress) as shown:
        try:
            yield shown
        except Interrupted as stopped:
            raise TrainingInterrupted(shown.run, stopped.step) from None
        except KeyboardInterrupt:
            raise TrainingInterrupted(shown.run, None) from None


def _chosen_recipe(
    algo: str | None,
    base: str | os.PathLike[str] | Recipe | None,
    changes: Mapping[str, Any],
    start: str | os.PathLike[str] | Run | None,
    tell: Callable[[str], None],
) -> Recipe:
    """What to train: a recipe's values, or those of the match, changed."""
    from offrl.config.library import find_recipe, values_for
    from offrl.config.recipe import Recipe, merged, recipe_from_dict, require_one_training

    where = "the arguments"
    if isinstance(base, Recipe):
        if algo not in (None, base.algo):
            raise RequestError(f"the recipe is for {base.algo}, not for {algo}", hint="leave the algorithm out")
        values = merged(base.to_dict(), changes)
    else:
        name = None if base is None else os.fspath(base)
        if algo is None and name is None:
            raise RequestError("no algorithm is named", hint="name one, such as bc, or a recipe")
        if name is not None:
            named = find_recipe(name)
            require_one_training(named.values, str(named.path))
            algo = algo or str(named.values.get("algo"))
        values, found = values_for(str(algo), name, changes)
        if found is not None:
            tell(f"Recipe: {found.name}")
            where = f"the arguments, over {found.path}"
    if start is not None:
        from offrl.training.finetune import imitation_values

        values = imitation_values(values, path_of(start).resolve())
    return recipe_from_dict(values, where)


def _say_on_stderr(text: str) -> None:
    print(printable(text), file=sys.stderr, flush=True)


def _seed_numbers(seeds: int | Sequence[int] | None, first: int | None) -> list[int] | None:
    from offrl.config.fields import Count, CountOrZero
    from offrl.config.validation import require_kind

    require_kind(CountOrZero | None, seed=first)
    require_kind(Count | tuple[CountOrZero, ...] | None, seeds=seeds)
    if not isinstance(seeds, Iterable):
        count = 1 if seeds is None else int(seeds)
        return None if seeds is None and first is None else list(range(first or 0, (first or 0) + count))
    if first is not None:
        raise RequestError("seeds says which seeds there are, so seed says nothing more", hint="leave seed out")
    return list(seeds)


def _values(settings: Settings) -> Mapping[str, Any]:
    """Dotted keys to values."""
    if isinstance(settings, Mapping):
        return settings
    from offrl.config.recipe import parsed_settings

    return parsed_settings(settings)


def _tried(cross_validate: str | Sequence[str] | Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """What is to be cross-validated as changes of a recipe."""
    if isinstance(cross_validate, Mapping):
        return {"cross_validation.options": dict(cross_validate)} if cross_validate else {}
    from offrl.config.recipe import parsed_candidates

    return parsed_candidates([cross_validate] if isinstance(cross_validate, str) else cross_validate)


def _pictured(run: Run) -> Run:
    """The run, with a picture of what it learned where that is a reward on a grid."""
    from offrl import plugins

    if "table" in plugins.algorithms[run.recipe.algo].feeds:
        from offrl.reports.reward_map import draw_reward

        draw_reward(run, run.picture_path("reward"))
    return run
