"""A dataset's batches, each of which is learned from twice."""

from collections.abc import Iterator
from typing import Any

from offrl.feeds.dataset import DatasetFeed
from offrl.feeds.materials import Cycle


class TwiceFeed(DatasetFeed):
    """Two updates a round."""

    batches_drawn = 0

    def rounds(self, count: int) -> Iterator[Cycle]:
        """Each cycle, and once more."""
        for cycle in super().rounds(count):
            self.batches_drawn += len(cycle.batches)
            yield cycle
            yield cycle

    def report(self) -> dict[str, list[Any]]:
        """How many batches were drawn so far."""
        return {"batches_drawn": [self.batches_drawn] * len(self.sampler.seeds)}
