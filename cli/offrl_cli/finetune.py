"""`offrl finetune`."""

from __future__ import annotations

from typing import Annotated

import typer

import offrl
from offrl_cli.errors import command
from offrl_cli.output import AsJson
from offrl_cli.runs import Checkpoint, RunPath, Trust
from offrl_cli.train_common import report_training
from offrl_cli.train_options import EvalEpisodes, EvalEvery, Out, Settings, evaluation_flags


@command
def finetune(
    run: RunPath,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Environment steps per seed.")],
    env: Annotated[
        str | None, typer.Option(metavar="ID", help="Gymnasium id to learn in. Default: the run's own environment.")
    ] = None,
    offline_fraction: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="F",
            help="The share of each batch that comes from the run's dataset, the rest being fresh steps. "
            "Default: 0.5; 0 where there is no dataset, or with ppo.",
        ),
    ] = None,
    algo: Annotated[
        str | None,
        typer.Option(
            metavar="ALGO",
            help="Go on with another one, such as sac or td3, from a policy cloned by bc. Default: as before.",
        ),
    ] = None,
    checkpoint: Checkpoint = None,
    eval_every: EvalEvery = None,
    eval_episodes: EvalEpisodes = None,
    settings: Settings = None,
    out: Out = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Take a trained run online, without losing what it learned.

    A new run goes on with all of the old one's state: networks, optimizers and
    the statistics that observations are normalized by. Batches mix the old
    run's dataset with fresh steps, which the new run keeps as a dataset in its
    folder replay. The policy acts from the first step on, and is evaluated
    before the first update. A pretrained policy goes on in small steps
    (agent.actor_learning_rate), and what held it near its data (agent.bc_alpha)
    loses weight by and by. From a cloned policy, SAC and TD3 begin in small
    steps, and near their batches' actions. Ctrl-C saves first; offrl train
    --resume goes on.

    Worth setting: online.warmup_steps (steps before the first update; 1,000,
    or a tenth of all), online.critic_warmup (steps behind these in which the
    critics alone learn; with --algo 5,000, of a pretrained policy 2,000, or a
    tenth of all), online.updates_per_step, online.offline_fraction_end with
    online.offline_fraction_steps (anneal the dataset's share), agent.bc_alpha
    and agent.bc_decay (SAC and TD3: the value's weight beside the distance from
    batches' actions, and a factor by which to let go of that with each step of
    the policy; by default half of a pretrained one's is left at the end).

    Without data, as WSRL does it: --offline-fraction 0, and --set
    online.warmup_steps=5000, online.critic_warmup=0, online.updates_per_step=4
    and, of a run of calql or cql, agent.conservative_weight=0.

    Example: offrl finetune runs/td3-hopper-medium-replay-20250101-120000 --steps 100000
    """
    report_training(
        lambda: offrl.finetune(
            run,
            steps=steps,
            env=env,
            algo=algo,
            offline_fraction=offline_fraction,
            checkpoint=checkpoint,
            settings=settings or (),
            out=out,
            trust=trust,
            **evaluation_flags(eval_every, eval_episodes),
        ),
        as_json,
    )
