"""What the commands that train share: stopping them, and saying how it went."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from offrl.errors import TrainingInterrupted
from offrl_cli.errors import INTERRUPTED, fail
from offrl_cli.output import note, print_json, print_pairs, print_table
from offrl_cli.scores import print_scores

if TYPE_CHECKING:
    from offrl.runs.run import Run


def report_training(work: Callable[[], Run], as_json: bool) -> None:
    """Train, and print what came of it; what libraries print meanwhile goes to stderr."""
    started = time.monotonic()
    try:
        with redirect_stdout(sys.stderr):
            run = work()
    except TrainingInterrupted as stopped:
        what = "Interrupted" if stopped.step is None else f"Saved at step {stopped.step:,}"
        fail(what + (f"; continue with: offrl train --resume {stopped.run}" if stopped.run else ""), INTERRUPTED)
    _report(run, time.monotonic() - started, as_json)


def _print_choice(choice: Mapping[str, Any]) -> None:
    """What was tried on held-out episodes, and what was chosen."""
    keys = list(choice["chosen"])
    rows = [
        [*(_cell(line["settings"][key]) for key in keys), line["held_out_loss"], line["standard_error"]]
        for line in choice["table"]
    ]
    print_table([*keys, f"held-out loss ({choice['folds']} folds)", "standard error"], rows)
    print_pairs({f"chosen {key}": _cell(value) for key, value in choice["chosen"].items()})


def _cell(value: Any) -> Any:
    """A number as it is, other values as recipes have them."""
    plain = isinstance(value, int | float | str) and not isinstance(value, bool)
    return value if plain else json.dumps(value)


def _report(run: Run, seconds: float, as_json: bool) -> None:
    scores, choice = run.final_scores(), run.cross_validation()
    if as_json:
        recipe = run.recipe
        about = {"run": run.path, "algo": recipe.algo, "dataset": recipe.dataset, "seeds": recipe.seeds}
        about |= {"start": recipe.start} if recipe.start else {}
        print_json(about | (scores or {}) | {"cross_validation": choice or None, "seconds": round(seconds, 1)})
        return
    if choice:
        _print_choice(choice)
    if scores:
        print_scores(scores)
    else:
        note("No environment is known, so nothing was evaluated; name one with --env.")
    print_pairs({"run": run.path})
