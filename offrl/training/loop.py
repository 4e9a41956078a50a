"""The one training loop: updates from a feed, with metrics, evaluations and checkpoints on the way."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from offrl import __version__
from offrl.envs.policy import Policy
from offrl.envs.waiting import WAITING
from offrl.errors import DivergenceError
from offrl.nn.state import restore_state, state_tensors
from offrl.runs.checkpoint import putting_back, read_facts, read_part
from offrl.runs.load import saved_state
from offrl.runs.loggers import Logger
from offrl.runs.run import Run
from offrl.training.fast_update import Update, fast_update
from offrl.training.threads import threads_for
from offrl.types import Metrics

if TYPE_CHECKING:
    from offrl.feeds.feed import Feed
    from offrl.runs.listener import Listener
    from offrl.runs.recorder import EpisodeRecorder

PATIENCE = 4.0
"""Seconds that a step of the environments may take behind Ctrl-C; looked at as often, so twice that is the longest."""
MAX_ROUNDS = 64
"""Rounds prepared at once: enough to make their cost per batch small, few enough to answer Ctrl-C at once."""


class Interrupted(Exception):
    """Ctrl-C was pressed; a checkpoint of `step` has been written."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


@dataclass
class BestState:
    """Each seed's best parameters so far, by a score that is better when higher."""

    scores: Tensor
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, scores: Tensor, current: dict[str, Tensor]) -> Tensor:
        """Take over the seeds that improved; returns which did, bool [S]."""
        improved = scores > self.scores
        self.scores = torch.where(improved, scores, self.scores)
        if not self.tensors:
            self.tensors = {name: tensor.clone() for name, tensor in current.items()}
        for name, tensor in current.items():
            # Optimizers of PyTorch make what they remember at their first step, as zeros.
            kept = self.tensors.setdefault(name, torch.zeros_like(tensor))
            if tensor.dim():
                kept[improved] = tensor[improved]
            else:
                # Such as Adam's step counter, which all seeds share.
                kept.copy_(tensor)
        return improved


@dataclass
class Loop:
    """One run in progress: what it trains, what it reads, what it writes.

    Attributes:
        run: where metrics and checkpoints go.
        policy: the agent, its state and what lies between it and an environment.
        feed: where batches come from.
        facts: what a checkpoint says besides tensors (spaces, dataset, version, …).
        fixed_parts: tensors that a checkpoint holds but training doesn't change (the normalizer).
        evaluate: greedy returns per seed at a step, or None to leave evaluation out.
        validate: validation loss per seed, or None.
        writers: where metrics go.
        listener: told of progress.
        recorder: keeps the online steps; None where they aren't to be kept.
    """

    run: Run
    policy: Policy
    feed: Feed
    facts: dict[str, Any]
    fixed_parts: dict[str, dict[str, Tensor]]
    evaluate: Callable[[int], dict[str, Any]] | None
    validate: Callable[[], Tensor] | None
    writers: list[Logger]
    listener: Listener
    recorder: EpisodeRecorder | None = None
    step: int = 0
    stale_validations: Tensor = field(init=False)
    best: BestState = field(init=False)
    update: Update = field(init=False)

    def __post_init__(self) -> None:
        policy = self.policy
        self.update = fast_update(policy.agent, policy.state, policy.device)
        self.best = BestState(torch.full((self.policy.seeds,), -math.inf))
        self.stale_validations = torch.zeros(self.policy.seeds, dtype=torch.int64)

    @cached_property
    def update_critic(self) -> Update:
        """The update that leaves the policy as it is, of an agent that has one."""
        policy = self.policy
        agent: Any = policy.agent
        return fast_update(agent, policy.state, policy.device, agent.update_critic)

    def resume(self) -> None:
        """Go back to the last checkpoint, and forget what was logged after it."""
        directory = self.run.checkpoint("last")
        facts = read_facts(directory)
        restore_state(self.policy.state, saved_state(directory, self.policy.state), str(directory))
        with putting_back(directory):
            self.feed.restore({part: read_part(directory, part) for part in self.feed.parts()})
            if self.recorder is not None:
                self.recorder.restore(read_part(directory, "recording"))
            progress = read_part(directory, "progress")
            self.best.scores = _alike(progress["best_scores"], self.best.scores)
            self.stale_validations = _alike(progress["stale_validations"], self.stale_validations)
        if self.run.has_checkpoint("best"):
            directory = self.run.checkpoint("best")
            best, current = saved_state(directory, self.policy.state), state_tensors(self.policy.state)
            with putting_back(directory):
                # Optimizers of PyTorch make what they remember at their first step.
                kept = {name: _alike(tensor, current.get(name, tensor)) for name, tensor in best.items()}
            self.best.tensors = {name: tensor.to(self.policy.device) for name, tensor in kept.items()}
        self.step = facts["step"]
        self.run.forget_after(self.step)

    def start(self) -> None:
        """Evaluate the policies as they are, and write the first checkpoint: what fine-tuning starts from."""
        if self.evaluate:
            self._evaluate()
        self.save()

    def train(self) -> None:
        """Train from the current step to the recipe's last one, or until it has reached what it was for.

        Raises:
            Interrupted: Ctrl-C; the checkpoint has been written.
            DivergenceError: a loss is no longer finite; the last good checkpoint is kept.
        """
        recipe = self.run.recipe
        self._clock = self.step, time.perf_counter()
        # What is no longer finite is told at the next checkpoint, once and by name.
        with (
            threads_for(self.feed.gradient_rows(recipe), self.policy),
            _interruptions() as interrupted,
            np.errstate(all="ignore"),
        ):
            self.feed.at_checkpoint(self.step)
            while self.step < recipe.steps and not self._all_stopped():
                before, metrics = self.step, self._advance()
                if self._due(before, recipe.log_every):
                    self._log(metrics)
                if self.validate and self._due(before, recipe.early_stopping.every):
                    self._validate()
                if self.evaluate and self._crossed(before, recipe.evaluation.every):
                    self._evaluate()
                if self._crossed(before, recipe.checkpoint_every):
                    self.save()
                    self.feed.at_checkpoint(self.step)
                if interrupted.is_set():
                    self.save()
                    raise Interrupted(self.step)
        self.save()

    def save(self) -> None:
        """Write the `last` checkpoint: all that training goes on from.

        Raises:
            DivergenceError: a tensor of the agent's state is no longer finite; the checkpoint before is kept.
        """
        self._require_finite_state()
        progress = {"best_scores": self.best.scores, "stale_validations": self.stale_validations}
        parts = {"state": state_tensors(self.policy.state), "progress": progress}
        parts |= self.fixed_parts | self.feed.parts()
        if self.recorder is not None:
            # First, so that what the checkpoint counts on is on the disk.
            self.recorder.commit()
            parts["recording"] = self.recorder.named_tensors()
        self.run.save_checkpoint("last", self.step, parts, self._facts())

    def _advance(self) -> Metrics:
        """Rounds up to the next event, or `MAX_ROUNDS`; the last update's metrics."""
        metrics: Metrics = {}
        recipe, size = self.run.recipe, self.feed.steps_per_round
        periods = (recipe.log_every, recipe.early_stopping.every, recipe.evaluation.every, recipe.checkpoint_every)
        upcoming = ((self.step // period + 1) * period for period in periods if period)
        rounds = min(MAX_ROUNDS, -(-(min(recipe.steps, *upcoming) - self.step) // size))
        for batches, noise, critic_only in self.feed.rounds(rounds):
            metrics = (self.update_critic if critic_only else self.update)(batches, noise)
            self.feed.learned(batches, metrics)
        self.step += rounds * size
        return metrics

    def _due(self, before: int, period: int) -> bool:
        """Whether a period ended, or the run does."""
        return self._crossed(before, period) or self.step >= self.run.recipe.steps

    def _crossed(self, before: int, period: int) -> bool:
        return bool(period) and self.step // period > before // period

    def _log(self, metrics: Metrics) -> None:
        values: dict[str, Any] = {name: mean_per_seed(value).tolist() for name, value in metrics.items()}
        for name, per_seed in values.items():
            for seed, value in zip(self.run.recipe.seeds, per_seed, strict=True):
                if not math.isfinite(value):
                    self._require_finite_state()
                    raise self._divergence(f"'{name}' became {value} for seed {seed}")
        values |= self.feed.report()
        (step, then), self._clock = self._clock, (self.step, time.perf_counter())
        rate = (self.step - step) / max(self._clock[1] - then, 1e-9)
        line = {"step": self.step, "steps_per_second": round(rate, 2), **values}
        for writer in self.writers:
            writer.write(line)
        self.listener.progress(self.step, self.run.recipe.steps, values)

    def _require_finite_state(self) -> None:
        for name, tensor in state_tensors(self.policy.state).items():
            if not tensor.isfinite().all():
                raise self._divergence(f"the tensor '{name}' of the agent's state is no longer finite")

    def _divergence(self, what: str) -> DivergenceError:
        return DivergenceError(
            f"{what} by step {self.step}",
            where=str(self.run.path),
            hint=f"lower the learning rate or normalize the observations; {self._left()}",
        )

    def _left(self) -> str:
        """What a run that ends here leaves."""
        kept = [kind for kind in ("last", "best") if self.run.has_checkpoint(kind)]
        return f"what is left is the checkpoint before ({', '.join(kept)})" if kept else "there is no checkpoint yet"

    def _validate(self) -> None:
        assert self.validate is not None
        self._require_finite_state()
        loss = self.validate()
        # A seed whose patience has run out is done, even where another seed keeps the run going.
        score = torch.where(self._stopped(), torch.tensor(-math.inf), -loss)
        improved = self._keep_best(score)
        self.stale_validations = torch.where(improved, 0, self.stale_validations + 1)
        for writer in self.writers:
            writer.write({"step": self.step, "validation_loss": loss.tolist()})

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        self._require_finite_state()
        scores = self.evaluate(self.step)
        self.run.log("evaluations.jsonl", {"step": self.step, **scores})
        if self.validate is None:
            self._keep_best(torch.tensor(scores["mean_return_per_seed"]))
        self.listener.evaluated(self.step, scores)

    def _keep_best(self, scores: Tensor) -> Tensor:
        """Update the `best` checkpoint where a seed improved; returns which did."""
        improved = self.best.keep(scores, state_tensors(self.policy.state))
        if improved.any():
            self.run.save_checkpoint("best", self.step, {"state": self.best.tensors, **self.fixed_parts}, self._facts())
        return improved

    def _stopped(self) -> Tensor:
        patience = self.run.recipe.early_stopping.patience
        return self.stale_validations >= patience if patience else torch.zeros_like(self.stale_validations).bool()

    def _all_stopped(self) -> bool:
        goal = self.run.recipe.online.stop_at
        if goal is not None and self.feed.online:
            return bool((self.best.scores >= goal).all())
        return self.feed.finished() or bool(self._stopped().all())

    def _facts(self) -> dict[str, Any]:
        return {**self.facts, "step": self.step, "version": __version__}


def _alike(saved: Tensor, current: Tensor) -> Tensor:
    """The saved tensor; raises `ValueError` where it can't take the place of the current one."""
    if (saved.shape, saved.dtype) != (current.shape, current.dtype):
        raise ValueError(
            f"a tensor is {saved.dtype} of shape {tuple(saved.shape)}, and should be {current.dtype} of "
            f"{tuple(current.shape)}"
        )
    return saved


def mean_per_seed(values: Tensor) -> Tensor:
    """[S, …] to [S]."""
    return values if values.dim() == 1 else values.flatten(1).mean(dim=1)


@contextmanager
def _interruptions() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that the loop can finish its round first; a second Ctrl-C stops at once.

    So does an environment that doesn't answer for `PATIENCE` seconds from then on: nothing would ever be finished.
    """
    pressed, over = threading.Event(), threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return

    def handle(number: int, frame: Any) -> None:
        pressed.set()
        signal.signal(signal.SIGINT, before)
        threading.Thread(target=_stop_what_hangs, args=(over,), daemon=True).start()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield pressed
    finally:
        over.set()
        signal.signal(signal.SIGINT, before)


def _stop_what_hangs(over: threading.Event) -> None:
    """Press Ctrl-C again once one step of the environments has taken too long."""
    while not over.wait(PATIENCE):
        if WAITING.seconds() >= PATIENCE:
            os.kill(os.getpid(), signal.SIGINT)
            return
