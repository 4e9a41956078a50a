"""Where evaluations start: reset seeds that no two purposes share, and that no two seeds of a training share either."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

EVALUATION_STREAM = 7_919
"""Keeps evaluation's reset seeds apart from those of collection."""

SEED_BITS = 32
"""What every environment takes as a seed, NumPy's legacy generators included."""
PURPOSE_BITS = 3


class Purpose(IntEnum):
    """What an evaluation is for. Its number is the first bits of its reset seeds, so purposes never share one.

    Attributes:
        PROGRESS: on the way, to watch a training and to choose its `best` checkpoint.
        BEGINNING: of policies that fine-tuning takes over, before it changes them.
        FINAL: what a run, or a dataset's reference, is reported to be worth. Nothing is chosen by it.
        TRUTH: what off-policy estimates are compared with.
        TRIAL: careful deployments, by which one of several policies is chosen.
    """

    PROGRESS = 0
    BEGINNING = 1
    FINAL = 2
    TRUTH = 3
    TRIAL = 4


@dataclass(frozen=True)
class Starts:
    """The initial states of an evaluation.

    The same three values give the same states; each training seed has others, so that the spread of the seeds' mean
    returns holds that of their starts.

    Attributes:
        purpose: what the evaluation is for.
        seeds: the training seeds of the policies, one each.
        number: which of the purpose's evaluations: a step of the training, or what the user asked for with `--seed`.

    Example:
        >>> Starts(Purpose.FINAL, (0, 1)).reset_seeds(2)
        [1355547894, 1345609806, 1453446517, 1439952750]
    """

    purpose: Purpose
    seeds: tuple[int, ...]
    number: int = 0

    def reset_seeds(self, copies: int) -> list[int]:
        """One for each copy's first episode, seed by seed; the copy's later episodes go on from its generator."""
        first = self.purpose << (SEED_BITS - PURPOSE_BITS)
        return [first | word >> PURPOSE_BITS for seed in self.seeds for word in self._words(seed, copies)]

    def _words(self, seed: int, count: int) -> list[int]:
        # Of a spawn key, so that no large seed reads as a smaller one with another number.
        sequence = np.random.SeedSequence(seed, spawn_key=(EVALUATION_STREAM, self.number))
        words: list[int] = sequence.generate_state(count).tolist()
        return words
