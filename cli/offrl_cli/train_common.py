"""What the commands that train share: choosing the recipe, showing progress, saying how it went."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offrl_cli.errors import INTERRUPTED, fail
from offrl_cli.output import note, print_json, print_pairs, print_table
from offrl_cli.scores import print_scores

if TYPE_CHECKING:
    from offrl.config.recipe import Recipe
    from offrl.runs.listener import Listener
    from offrl.runs.run import Run


def choose_recipe(
    algo: str, name: str | None, flags: Mapping[str, Any], settings: Sequence[str], start: Path | None = None
) -> Recipe:
    """The recipe that a command line describes: a file's or a match's values, changed by flags, then by settings.

    Args:
        algo: the algorithm.
        name: of a recipe to start from; None takes the bundled one that matches, or else the algorithm's defaults.
        flags: dotted key to value; None leaves the key as it is.
        settings: `key=value` texts.
        start: a run whose cloned policies are where imitation starts; options that they hang on are theirs.

    Raises:
        RequestError: the named recipe is for another algorithm, or there is no policy to start from.
        RecipeError: there is no such recipe, or something in it is wrong.
    """
    from offrl.config.library import values_for
    from offrl.config.recipe import parsed_settings, recipe_from_dict

    given = {key: value for key, value in flags.items() if value is not None}
    values, found = values_for(algo, name, given | parsed_settings(settings))
    if found is not None:
        note(f"Recipe: {found.name}")
    if start is not None:
        from offrl.training.finetune import imitation_values

        values = imitation_values(values, start.resolve())
    return recipe_from_dict(values, f"the command line, over {found.path}" if found else "the command line")


def start_run(recipe: Recipe, out: Path | None, as_json: bool) -> None:
    """Train a recipe in a new run directory."""
    from offrl.training.run_training import train

    _train(lambda listener: train(recipe, out, listener), as_json)


def continue_run(path: Path, steps: int | None, as_json: bool) -> None:
    """Train on from a run's last checkpoint."""
    from offrl.training.run_training import resume

    _train(lambda listener: resume(path, listener, steps), as_json)


def _train(work: Callable[[Listener], Run], as_json: bool) -> None:
    from offrl.training.loop import Interrupted
    from offrl_cli.progress import TrainingProgress

    started = time.monotonic()
    progress = TrainingProgress()
    try:
        with redirect_stdout(sys.stderr), progress:
            run = work(progress)
    except Interrupted as interrupted:
        fail(f"Saved at step {interrupted.step:,}{_again(progress.run)}", INTERRUPTED)
    except KeyboardInterrupt:
        fail(f"Interrupted{_again(progress.run)}", INTERRUPTED)
    _report(run, time.monotonic() - started, as_json)


def _again(run: Path | None) -> str:
    return f"; continue with: offrl train --resume {run}" if run else ""


def _report(run: Run, seconds: float, as_json: bool) -> None:
    finals = [line for line in run.lines("evaluations.jsonl") if line.get("final")]
    scores = finals[-1] if finals else {}
    choice = _cross_validation(run)
    if as_json:
        recipe = run.recipe
        about = {"run": run.path, "algo": recipe.algo, "dataset": recipe.dataset, "seeds": recipe.seeds}
        about |= {"start": recipe.start} if recipe.start else {}
        print_json(about | scores | {"cross_validation": choice or None, "seconds": round(seconds, 1)})
        return
    if choice:
        rows = [[line["coefficient"], line["held_out_loss"], line["standard_error"]] for line in choice["table"]]
        print_table([choice["kind"], f"held-out loss ({choice['folds']} folds)", "standard error"], rows)
    if scores:
        print_scores(scores)
    else:
        note("No environment is known, so nothing was evaluated; name one with --env.")
    print_pairs({"run": run.path})


def _cross_validation(run: Run) -> dict[str, Any]:
    """The run's choice of a coefficient; empty where none was made."""
    path = run.path / "cross_validation.json"
    choice: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return choice
