"""Offline and imitation learning: from logs or demonstrations to a trained, evaluated, running policy.

    import offrl

    data = offrl.open_dataset("hopper-expert")
    run = offrl.train("bc", dataset=data, seeds=5)
    scores = run.evaluate(episodes=100)
    policy = run.policy()
    action = policy(observation)

The functions are those of the command line, and their arguments its options. They are imported when they are first
asked for, so `import offrl` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offrl.api.choosing import select
    from offrl.api.datasets import (
        collect,
        convert,
        describe,
        export_dataset,
        list_datasets,
        make_dataset,
        open_dataset,
        record,
        relabel,
        validate,
    )
    from offrl.api.judging import compare, evaluate, export, ope, open_run, plot
    from offrl.api.learning import finetune, list_recipes, recipe, resume, run_table, train

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "collect",
    "compare",
    "convert",
    "describe",
    "evaluate",
    "export",
    "export_dataset",
    "finetune",
    "list_datasets",
    "list_recipes",
    "make_dataset",
    "ope",
    "open_dataset",
    "open_run",
    "plot",
    "recipe",
    "record",
    "relabel",
    "resume",
    "run_table",
    "select",
    "train",
    "validate",
]

_HOMES = {
    "compare": "judging",
    "evaluate": "judging",
    "export": "judging",
    "finetune": "learning",
    "list_recipes": "learning",
    "ope": "judging",
    "open_run": "judging",
    "plot": "judging",
    "recipe": "learning",
    "resume": "learning",
    "run_table": "learning",
    "select": "choosing",
    "train": "learning",
}
"""Files of `offrl/api` by function; the others are in `datasets`."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'offrl' has no attribute {name!r}")
    return vars(import_module(f"offrl.api.{_HOMES.get(name, 'datasets')}"))[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
