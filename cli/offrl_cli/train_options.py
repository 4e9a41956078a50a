"""The options of `offrl train`, some of which other commands that train share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from offrl_cli.names import ALGORITHMS, LOGGERS

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the recipe, such as agent.discount=0.98."),
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="The run directory. Default: runs/ALGO-TASK-TIME.")]
EvalEvery = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Steps between evaluations; 0: at the end only.")
]
EvalEpisodes = Annotated[int | None, typer.Option(min=1, metavar="N", help="Episodes per seed in each evaluation.")]
Algo = Annotated[
    str | None,
    typer.Argument(metavar="ALGO", help=f"The algorithm: {ALGORITHMS}."),
]
Dataset = Annotated[
    str | None, typer.Option(metavar="NAME|PATH", help="What to learn from; offrl datasets list names some.")
]
Env = Annotated[
    str | None, typer.Option(metavar="ID", help="Gymnasium id to evaluate in, or without a dataset to learn in.")
]
Steps = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Environment steps where it learns by acting, else gradient steps."),
]
Seeds = Annotated[int | None, typer.Option(min=1, metavar="S", help="Train S seeds side by side.")]
Seed = Annotated[int | None, typer.Option(min=0, metavar="K", help="The first, or only, seed. Default: 0.")]
BatchSize = Annotated[int | None, typer.Option(min=1, metavar="B", help="Transitions per seed and gradient step.")]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="auto, cpu, cuda or cuda:N.")]
TopFraction = Annotated[
    float | None, typer.Option(metavar="X", help="Learn from this share of the episodes, those of highest return.")
]
Method = Annotated[str | None, typer.Option(metavar="NAME", help="irl: maxcausalent, maxent or apprenticeship.")]
Features = Annotated[
    str | None, typer.Option(metavar="NAME", help="irl: a reward for the state entered, or for a state_action.")
]
Demos = Annotated[int | None, typer.Option(min=1, metavar="N", help="Learn from this many episodes, the first ones.")]
From = Annotated[
    Path | None, typer.Option("--from", metavar="RUN", help="Imitate with the policy that bc cloned in that run.")
]
Expert = Annotated[Path | None, typer.Option(metavar="RUN", help="The run whose policy dagger asks what to do.")]
CrossValidate = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=V1,V2",
        help="Choose by loss on held-out episodes; several make a grid. l1, l2 or nothing: that penalty of bc.",
    ),
]
Writers = Annotated[
    str | None,
    typer.Option(metavar="LIST", help=f"Loggers beside metrics.jsonl: {LOGGERS}; several with commas."),
]
RecipeName = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="Start from this recipe in place of the one that matches.")
]
Resume = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="Continue a run by its own recipe; only --steps may change it."),
]


def evaluation_flags(every: int | None, episodes: int | None) -> dict[str, Any]:
    """The recipe's keys that the two options set."""
    return {
        "evaluation.every": every,
        "evaluation.episodes": episodes,
        "evaluation.final_episodes": episodes,
    }
