"""What is compared with what: the rows of the table, the subjects of each row, and the targets."""

from __future__ import annotations

from dataclasses import dataclass

from tests.benchmarks.workers.measuring import (
    BATCH_SIZE,
    BLOCKS,
    CONTEXT,
    CRITICS,
    DEEP_HIDDEN,
    DISCRIMINATOR_BATCH_SIZE,
    DISCRIMINATOR_UPDATES,
    DQN_BATCH_SIZE,
    ENVIRONMENTS,
    EPOCHS,
    EPSILON,
    HIDDEN,
    LARGE_BATCH_SIZE,
    LOGGED_EPISODES,
    LOGGED_STEPS,
    MINIBATCH_SIZE,
    RESAMPLES,
    ROLLOUT_STEPS,
    SAMPLED_ACTIONS,
    SEEDS,
    SHORT_EPISODES,
    SMALL_HIDDEN,
    STEPS_PER_UPDATE,
    TOKEN_WIDTH,
    WINDOWS,
)


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
        label: its name in the table.
        worker: the script in workers/ that measures it.
        row: the row's name as the worker knows it.
        peer: the environment that the worker runs in; None for the interpreter that runs the benchmark.
    """

    label: str
    worker: str
    row: str
    peer: str | None = None


@dataclass(frozen=True)
class Comparison:
    """One of ours against one of the others.

    Attributes:
        target: how many times as fast ours must be, or None where no target is set.
    """

    ours: Subject
    other: Subject
    target: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        unit: "…/s", where more is better, or "s", where less is.
        limit: what ours must reach as an absolute figure in that unit, or None.
    """

    name: str
    title: str
    unit: str
    comparisons: tuple[Comparison, ...]
    limit: float | None = None

    @property
    def less_is_better(self) -> bool:
        return self.unit == "s"

    @property
    def subjects(self) -> tuple[Subject, ...]:
        """Everything to measure for this row, once each, in order."""
        return tuple(dict.fromkeys(s for c in self.comparisons for s in (c.ours, c.other)))


def _ours(label: str, row: str) -> Subject:
    return Subject(label, "offrl_rows.py", row)


def _plain(label: str, row: str) -> Subject:
    return Subject(label, "plain_rows.py", row)


def _plain_offline(row: str) -> Subject:
    return Subject("single-file PyTorch, fused Adam, one gather", "plain_offline_rows.py", row)


def _peer(peer: str, row: str, detail: str = "") -> Subject:
    return Subject(f"{peer}{detail}", f"{peer.replace('-', '_')}_rows.py", row, peer)


def _widths(hidden: tuple[int, ...]) -> str:
    return "×".join(map(str, hidden))


_BLOCKS = _ours("offrl, 64 batches a call", "sampling-blocks")
_SINGLE = _ours("offrl, one batch a call", "sampling")
_REGRESSION = _ours("offrl, regression", "bc")
_LIKELIHOOD = _ours("offrl, likelihood", "bc-likelihood")
_TD3_BC = _ours("offrl", "td3-bc")
_IQL, _CQL = _ours("offrl", "iql"), _ours("offrl", "cql")
_EDAC, _SAC_N = _ours("offrl", "edac"), _ours("offrl, SAC-N", "sac-n")
_REBRAC, _DT = _ours("offrl", "rebrac"), _ours("offrl", "dt")
_PARALLEL = _ours("offrl, 2 processes", "ppo-parallel")
_HELP = _ours("offrl --help", "help")

_NETWORKS = f"{_widths(HIDDEN)}, batch {BATCH_SIZE}"
_DEEP_NETWORKS = f"{_widths(DEEP_HIDDEN)}, batch {BATCH_SIZE}"
_ROLLOUTS = (
    f"PPO on Hopper-v5, {_widths(SMALL_HIDDEN)}, {ROLLOUT_STEPS:,} steps an environment and update, {EPOCHS} epochs, "
    f"minibatches of {MINIBATCH_SIZE}"
)

ROWS = {
    row.name: row
    for row in (
        Row(
            "sampling",
            f"random minibatches of {BATCH_SIZE} from 1 M transitions",
            "transitions/s",
            (
                Comparison(_BLOCKS, _peer("torchrl", "sampling-blocks", ", 64 batches a call")),
                Comparison(_BLOCKS, _plain("PyTorch indexing, 64 batches a call", "sampling-blocks")),
                Comparison(_SINGLE, _peer("torchrl", "sampling")),
                Comparison(_SINGLE, _peer("torchrl", "sampling-memmap", ", memory-mapped")),
                Comparison(_SINGLE, _peer("d3rlpy", "sampling")),
                Comparison(_SINGLE, _peer("stable-baselines3", "sampling")),
                Comparison(_SINGLE, _plain("PyTorch indexing", "sampling")),
            ),
            limit=20e6,
        ),
        Row(
            "bc",
            f"behavior cloning, {_NETWORKS}",
            "updates/s",
            (
                Comparison(_REGRESSION, _peer("d3rlpy", "bc"), target=4.0),
                Comparison(_LIKELIHOOD, _peer("imitation", "bc"), target=8.0),
                Comparison(_REGRESSION, _plain("single-file PyTorch", "bc")),
                Comparison(_REGRESSION, _plain("single-file PyTorch, fused Adam, one gather", "bc-fused")),
                Comparison(_REGRESSION, _plain("PyTorch's kernels alone", "bc-kernels")),
            ),
        ),
        Row(
            "td3-bc",
            f"TD3+BC, {_NETWORKS}, states normalized",
            "updates/s",
            (
                Comparison(_TD3_BC, _peer("d3rlpy", "td3-bc"), target=2.0),
                Comparison(_TD3_BC, _plain("single-file PyTorch", "td3-bc"), target=1.5),
                Comparison(_TD3_BC, _plain("single-file PyTorch, fused Adam, one gather", "td3-bc-fused")),
                Comparison(_TD3_BC, _peer("jax", "td3-bc", ", single file")),
            ),
        ),
        Row(
            "td3-bc-seeds",
            f"the same, {SEEDS} seeds side by side",
            "updates/s of each",
            (Comparison(_ours("offrl", "td3-bc-seeds"), _peer("jax", "td3-bc-seeds", ", single file")),),
        ),
        Row(
            "iql",
            f"IQL, {_NETWORKS}",
            "updates/s",
            (
                Comparison(_IQL, _peer("d3rlpy", "iql"), target=2.0),
                Comparison(_IQL, _plain_offline("iql"), target=1.2),
            ),
        ),
        Row(
            "cql",
            f"CQL, {_DEEP_NETWORKS}, {SAMPLED_ACTIONS} actions of each kind",
            "updates/s",
            (
                Comparison(_CQL, _peer("d3rlpy", "cql"), target=2.0),
                Comparison(_CQL, _plain_offline("cql"), target=1.2),
            ),
        ),
        Row(
            "edac",
            f"EDAC and SAC-N, {CRITICS} critics, {_DEEP_NETWORKS}",
            "updates/s",
            (
                Comparison(_SAC_N, _peer("d3rlpy", "sac-n", ", SAC-N"), target=2.0),
                Comparison(_SAC_N, _plain_offline("sac-n"), target=1.2),
                Comparison(_EDAC, _plain_offline("edac"), target=1.2),
            ),
        ),
        Row(
            "rebrac",
            f"ReBRAC, {_widths(DEEP_HIDDEN)}, batch {LARGE_BATCH_SIZE:,}",
            "updates/s",
            (
                Comparison(_REBRAC, _peer("d3rlpy", "rebrac"), target=2.0),
                Comparison(_REBRAC, _plain_offline("rebrac"), target=1.0),
            ),
        ),
        Row(
            "dt",
            f"Decision Transformer, {BLOCKS} blocks of {TOKEN_WIDTH}, {WINDOWS} windows of {CONTEXT} steps",
            "updates/s",
            (
                Comparison(_DT, _peer("d3rlpy", "dt"), target=2.0),
                Comparison(_DT, _plain_offline("dt"), target=1.0),
            ),
        ),
        Row(
            "td3-online",
            f"TD3 on Hopper-v5, {_NETWORKS}, one update a step",
            "env steps/s",
            (Comparison(_ours("offrl", "td3-online"), _peer("stable-baselines3", "td3-online"), target=2.0),),
        ),
        Row(
            "sac-online",
            f"SAC on Hopper-v5, {_NETWORKS}, one update a step",
            "env steps/s",
            (Comparison(_ours("offrl", "sac-online"), _peer("stable-baselines3", "sac-online"), target=2.0),),
        ),
        Row(
            "ppo",
            f"{_ROLLOUTS}, 1 environment",
            "env steps/s",
            (Comparison(_ours("offrl", "ppo"), _peer("stable-baselines3", "ppo"), target=3.0),),
        ),
        Row(
            "ppo-parallel",
            f"{_ROLLOUTS}, {ENVIRONMENTS} environments",
            "env steps/s",
            (
                Comparison(_PARALLEL, _peer("stable-baselines3", "ppo-dummy", ", DummyVecEnv"), target=3.0),
                Comparison(_PARALLEL, _peer("stable-baselines3", "ppo-subproc", ", SubprocVecEnv"), target=3.0),
            ),
        ),
        Row(
            "gail",
            f"GAIL on Hopper-v5 with that PPO, 1 environment; {DISCRIMINATOR_UPDATES} discriminator updates of "
            f"{DISCRIMINATOR_BATCH_SIZE} and {DISCRIMINATOR_BATCH_SIZE} transitions a rollout",
            "env steps/s",
            (Comparison(_ours("offrl", "gail"), _peer("imitation", "gail", ", Hopper-v4"), target=2.5),),
        ),
        Row(
            "dqn",
            f"DQN on CartPole-v1, {_widths(SMALL_HIDDEN)}, batch {DQN_BATCH_SIZE}, an update every {STEPS_PER_UPDATE} "
            f"steps, ε {EPSILON}",
            "env steps/s",
            (Comparison(_ours("offrl", "dqn"), _peer("stable-baselines3", "dqn"), target=3.0),),
        ),
        *(
            Row(
                name,
                f"IS, PDIS, WIS, WPDIS of {LOGGED_STEPS:,} steps in {episodes:,} episodes, {RESAMPLES:,} resamples",
                "s",
                (Comparison(_ours("offrl", name), _peer("scope-rl", name), target=10.0),),
                limit=5.0,
            )
            for name, episodes in (("ope-long", LOGGED_EPISODES), ("ope-short", SHORT_EPISODES))
        ),
        Row(
            "help",
            "the whole process",
            "s",
            (Comparison(_HELP, _plain("import torch", "help")),),
            limit=0.3,
        ),
    )
}
