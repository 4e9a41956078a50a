"""Tables of what offrl can do by name: algorithms, feeds, formats, estimators, loggers, its own and other packages'.

An entry is `"module:object"`, imported when it is asked for. An installed package adds entries through the entry-point
groups `offrl.algorithms`, `offrl.feeds`, `offrl.formats`, `offrl.estimators` and `offrl.loggers`; offrl's own names
can't be replaced.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

from offrl.errors import PluginError, RequestError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


class Table(Mapping[str, Any]):
    """Names to objects, resolved lazily: iterating and `in` import nothing.

    Args:
        noun: what an entry is, for messages.
        group: the entry-point group that other packages extend it by.
        own: offrl's entries, name to `"module:object"`.
        kind: the class whose instances entries must be, as `"module:class"`; empty where who uses them looks.
        elsewhere: names that the field has for what stands here under another, to what to write in their place.

    Raises:
        RequestError: (by indexing) there is no entry of that name; the message names the nearest ones.
        PluginError: (by indexing) another package's entry can't be imported.

    Example:
        >>> "bc" in algorithms
        True
        >>> algorithms["bc"].feeds
        ('dataset',)
    """

    def __init__(
        self,
        noun: str,
        group: str,
        own: Mapping[str, str],
        kind: str = "",
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        self.noun, self.group, self.own, self.kind = noun, group, dict(own), kind
        self.elsewhere = {_plain(name): place for name, place in (elsewhere or {}).items()}
        self._resolved: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._resolved:
            self._resolved[name] = self._load(name)
        return self._resolved[name]

    def __contains__(self, name: object) -> bool:
        return name in self.own or name in self._foreign

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self.own, *self._foreign}))

    def __len__(self) -> int:
        return len({*self.own, *self._foreign})

    def able(self, fits: Callable[[Any], bool]) -> list[str]:
        """The names of those that can be loaded and of which something holds: for hints, which must not fail."""
        names = []
        for name in self:
            with suppress(PluginError):
                if fits(self[name]):
                    names.append(name)
        return names

    def origin(self, name: str) -> str:
        """The package that an entry comes from, for people: `offrl`, or the other one's name and version."""
        if name in self.own:
            return "offrl"
        distribution = self._foreign[name].dist
        return "another package" if distribution is None else f"{distribution.name} {distribution.version}"

    @cached_property
    def _foreign(self) -> dict[str, EntryPoint]:
        return {entry.name: entry for entry in entries_of(self.group) if entry.name not in self.own}

    def _load(self, name: str) -> Any:
        if name in self.own:
            return _resolved(self.own[name])
        if name not in self._foreign:
            raise RequestError(f"there is no {self.noun} {name!r}", hint=self.suggestion(name))
        entry = self._foreign[name]
        try:
            found = entry.load()
        except Exception as error:  # whatever another package's import raises
            raise PluginError(
                f"the {self.noun} {name!r} can't be loaded: {type(error).__name__}: {error}",
                where=f"{entry.value}, of {self.origin(name)}",
                hint="update or uninstall that package",
            ) from error
        if self.kind and not isinstance(found, _resolved(self.kind)):
            raise PluginError(
                f"the {self.noun} {name!r} is a {type(found).__name__}, not {self.kind.replace(':', '.')}",
                where=f"{entry.value}, of {self.origin(name)}",
                hint="let the entry point name such an object",
            )
        return found

    def suggestion(self, name: str) -> str:
        """A hint at the entries there are: where it stands under another name, or those with similar names first."""
        if _plain(str(name)) in self.elsewhere:
            return f"it is {self.elsewhere[_plain(str(name))]}"
        near = difflib.get_close_matches(str(name), list(self), n=2)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        return f"{guess}choose one of: {', '.join(self)}"


def _plain(name: str) -> str:
    """A name without what its spellings differ by: TD3+BC, td3-bc and td3bc are one."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def entries_of(group: str) -> Iterable[EntryPoint]:
    """The entry points of all installed packages in a group."""
    # Imported here since that takes a tenth of the time in which `offrl --help` answers.
    from importlib.metadata import entry_points

    return entry_points(group=group)


def _resolved(name: str) -> Any:
    """What `"module:object"` names."""
    module, _, attribute = name.partition(":")
    return vars(import_module(module))[attribute]


algorithms = Table(
    "algorithm",
    "offrl.algorithms",
    {
        "airl": "offrl.agents.airl:ALGORITHM",
        "awac": "offrl.agents.awac:ALGORITHM",
        "bc": "offrl.agents.bc:ALGORITHM",
        "bc-rnn": "offrl.agents.bc_rnn:ALGORITHM",
        "bcq": "offrl.agents.bcq:ALGORITHM",
        "bc-transformer": "offrl.agents.bc_transformer:ALGORITHM",
        "calql": "offrl.agents.cql:CALQL",
        "cql": "offrl.agents.cql:ALGORITHM",
        "dagger": "offrl.agents.bc:DAGGER",
        "dqn": "offrl.agents.dqn:ALGORITHM",
        "dt": "offrl.agents.decision_transformer:ALGORITHM",
        "edac": "offrl.agents.edac:ALGORITHM",
        "gail": "offrl.agents.gail:ALGORITHM",
        "iql": "offrl.agents.iql:ALGORITHM",
        "irl": "offrl.agents.irl:ALGORITHM",
        "ppo": "offrl.agents.ppo:ALGORITHM",
        "qrdqn": "offrl.agents.qrdqn:ALGORITHM",
        "rebrac": "offrl.agents.rebrac:ALGORITHM",
        "rlpd": "offrl.agents.rlpd:ALGORITHM",
        "sac": "offrl.agents.sac:ALGORITHM",
        "sqil": "offrl.agents.sqil:ALGORITHM",
        "td3": "offrl.agents.td3:ALGORITHM",
        "td3bc": "offrl.agents.td3:TD3BC",
    },
    kind="offrl.agents.algorithm:Algorithm",
    elsewhere={
        "bc-rnn-gmm": "bc-rnn with agent.policy=mixture",
        "behavior cloning": "bc",
        "cal-ql": "calql",
        "ddpg": "td3 with agent.critics=1, agent.policy_delay=1 and agent.target_noise=0",
        "decision transformer": "dt",
        "ddqn": "dqn with agent.double=true",
        "discrete bcq": "bcq",
        "discrete cql": "dqn with agent.conservative=1, or qrdqn with it",
        "double dqn": "dqn with agent.double=true",
        "dueling dqn": "dqn with agent.dueling=true",
        "qr-dqn": "qrdqn",
        "redq": "rlpd with agent.layer_norm=false and online.offline_fraction=0, without a dataset",
        "sac-n": "edac with agent.diversity=0, and more agent.critics",
        "sd2": "td3 with agent.softmax_samples=50, agent.policy_delay=1 and agent.critics=1",
        "sd3": "td3 with agent.softmax_samples=50 and agent.policy_delay=1",
        "td3+bc": "td3bc",
        "wsrl": "calql with agent.layer_norm=true on the dataset, then offrl finetune RUN --offline-fraction 0 with "
        "agent.conservative_weight=0, online.warmup_steps=5000, online.critic_warmup=0 and online.updates_per_step=4",
        "xql": "iql with agent.value_loss=gumbel",
    },
)
"""Algorithms: `offrl.agents.algorithm.Algorithm` records."""

feeds = Table(
    "feed",
    "offrl.feeds",
    {
        "dagger": "offrl.feeds.dagger:DaggerFeed",
        "dataset": "offrl.feeds.dataset:DatasetFeed",
        "demonstrations": "offrl.feeds.demonstrations:DemonstrationsFeed",
        "replay": "offrl.feeds.replay:ReplayFeed",
        "rollouts": "offrl.feeds.rollouts:RolloutsFeed",
        "table": "offrl.feeds.table:TableFeed",
        "windows": "offrl.feeds.windows:WindowsFeed",
    },
)
"""Ways of learning: classes that follow `offrl.feeds.feed.Feed`."""

formats = Table(
    "format",
    "offrl.formats",
    {
        "csv": "offrl.converters.readers.csv_table:FORMAT",
        "d4rl": "offrl.converters.readers.d4rl:FORMAT",
        "imitation": "offrl.converters.readers.imitation:FORMAT",
        "jsonl": "offrl.converters.readers.jsonl_table:FORMAT",
        "minari": "offrl.converters.readers.minari:FORMAT",
        "npz": "offrl.converters.readers.npz:FORMAT",
        "ogbench": "offrl.converters.readers.ogbench:FORMAT",
        "parquet": "offrl.converters.readers.parquet_table:FORMAT",
        "paths": "offrl.converters.readers.path_dicts:FORMAT",
    },
)
"""Source formats: `offrl.converters.formats.Format` records."""

loggers = Table(
    "logger",
    "offrl.loggers",
    {
        "csv": "offrl.runs.csv_logger:CsvLogger",
        "jsonl": "offrl.runs.loggers:JsonLinesLogger",
        "tensorboard": "offrl.runs.tensorboard_logger:TensorBoardLogger",
    },
)
"""Where metrics go: subclasses of `offrl.runs.loggers.Logger`."""

estimators = Table(
    "estimator",
    "offrl.estimators",
    {
        "is": "offrl.off_policy.importance:IS",
        "wis": "offrl.off_policy.importance:WIS",
        "pdis": "offrl.off_policy.importance:PDIS",
        "wpdis": "offrl.off_policy.importance:WPDIS",
        "dm": "offrl.off_policy.doubly_robust:DM",
        "dr": "offrl.off_policy.doubly_robust:DR",
        "wdr": "offrl.off_policy.doubly_robust:WDR",
        "magic": "offrl.off_policy.doubly_robust:MAGIC",
        "fqe": "offrl.off_policy.fqe:ESTIMATOR",
        "lstd": "offrl.off_policy.marginalized:LSTD",
        "mql": "offrl.off_policy.marginalized:MQL",
        "mwl": "offrl.off_policy.marginalized:MWL",
        "dice": "offrl.off_policy.marginalized:DICE",
        "ips": "offrl.off_policy.bandits:IPS",
        "snips": "offrl.off_policy.bandits:SNIPS",
        "clipped": "offrl.off_policy.bandits:CLIPPED",
        "switch-dr": "offrl.off_policy.bandits:SWITCH_DR",
    },
)
"""Estimators of off-policy evaluation: `offrl.off_policy.estimator.Estimator` records."""
