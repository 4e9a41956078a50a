"""Functions refuse what the command line's options would, before they do anything."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import offrl
from offrl.errors import RequestError
from offrl.runs.run import Run

COUNT = (True, 0, -1, 1.5, "3", [], math.nan)
SEED = (True, -1, 0.5, "0", [0])
KIND = (True, 0, "worst", [], ["last"])
SHARE = (True, -0.1, 1.5, "0.5", math.nan, [])
POSITIVE = (True, 0.0, -1.0, "1", math.inf, {})
TEXT = (True, 0, ["wis"], {})
WRONG: dict[str, dict[str, tuple[Any, ...]]] = {
    "train": {"seeds": (*COUNT[:5], [-1], ["0"], [True]), "seed": SEED, "steps": COUNT},
    "finetune": {"steps": COUNT, "checkpoint": KIND, "offline_fraction": SHARE},
    "resume": {"steps": COUNT},
    "evaluate": {"episodes": COUNT, "max_episode_steps": COUNT, "seed": SEED, "checkpoint": KIND},
    "collect": {
        "episodes": COUNT,
        "max_episode_steps": COUNT,
        "seed": SEED,
        "checkpoint": KIND,
        "temperature": (True, -1.0, "0.1", math.nan),
    },
    "relabel": {"seed": SEED, "checkpoint": KIND},
    "export": {"format": TEXT, "seed": SEED, "checkpoint": KIND},
    "plot": {"metric": TEXT, "x": (True, 0, "hours", [])},
    "convert": {"format": TEXT, "time_limit": COUNT, "action_bounds": (True, 1, (0,), (0.0, math.nan), "0,1")},
    "ope": {
        **dict.fromkeys(("horizon", "fqe_steps", "resamples"), COUNT),
        **dict.fromkeys(("discount", "epsilon"), SHARE),
        **dict.fromkeys(("clip", "weight_bound"), POSITIVE),
        **dict.fromkeys(("rank_by", "target_column", "truth"), TEXT),
        "confidence": (*SHARE, 0.0, 1.0),
        "truth_episodes": (*COUNT, 1),
        "max_episode_steps": SEED,
        "estimators": (True, 0, "wis", [1]),
        "reward_bounds": (True, 1, (0,), "0,1", (0, math.inf)),
        "checkpoint": KIND,
        "seed": SEED,
        "seed_index": SEED,
    },
    "select": {
        **dict.fromkeys(("horizon", "fqe_steps", "resamples"), COUNT),
        **dict.fromkeys(("seed", "seed_index", "trials", "max_episode_steps"), SEED),
        **dict.fromkeys(("rank_by", "env"), TEXT),
        "confidence": (*SHARE, 0.0, 1.0),
        "discount": SHARE,
        "kernel_bandwidth": (True, -1.0, "0.1", math.nan),
        "checkpoint": KIND,
    },
}


@pytest.mark.parametrize(("function", "name"), [(each, name) for each, names in WRONG.items() for name in names])
def test_arguments_that_can_not_work_are_refused_by_name(function: str, name: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given: dict[str, Callable[..., Any]] = {
        "train": lambda **more: offrl.train("bc", dataset=run.recipe.dataset, out=out, progress=False, **more),
        "finetune": lambda **more: offrl.finetune(run, **{"steps": 5, "out": out, "progress": False, **more}),
        "resume": lambda **more: offrl.resume(run, progress=False, **more),
        "evaluate": lambda **more: offrl.evaluate(run, **more),
        "collect": lambda **more: offrl.collect(run, **{"episodes": 2, "out": out, **more}),
        "relabel": lambda **more: offrl.relabel(str(run.recipe.dataset), reward=run, out=out, **more),
        "export": lambda **more: offrl.export(run, out=out, **more),
        "plot": lambda **more: offrl.plot(run, out.with_suffix(".png"), **more),
        "convert": lambda **more: offrl.convert(tmp_path / "none.csv", out, **more),
        "ope": lambda **more: offrl.ope(run, dataset=str(run.recipe.dataset), **more),
        "select": lambda **more: offrl.select(run, dataset=str(run.recipe.dataset), **more),
    }
    before = sorted(tmp_path.iterdir())
    for value in WRONG[function][name]:
        with pytest.raises(RequestError) as refused:
            given[function](**{name: value})
        assert name in str(refused.value), value
        assert refused.value.exit_code == 2
    assert sorted(tmp_path.iterdir()) == before
