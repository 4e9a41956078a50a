"""What the library may know of an algorithm without asking its agent's attributes."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from offrl import plugins
from offrl.agents.space_checks import Actions, require_no_images
from offrl.config.validation import validated
from offrl.errors import PluginError, RecipeError
from offrl.types import COLUMNS, Agent, Spec, StartsFromPolicy


@dataclass(frozen=True)
class Algorithm:
    """The registry's record of an algorithm: its options, the feeds that it learns from, what it can do.

    What is declared here is checked when the record is made, so that a misspelt method is an error.

    Attributes:
        config: its options, a frozen dataclass.
        agent: built from options and spaces; one that wraps another, from options, spaces and that agent.
        feeds: the ways that it can learn, files of `offrl.feeds`; the first one that suits a recipe is taken.
        actions: the action spaces that it acts in; empty for those of the agent that it holds.
        summary: what it learns from and among which options, for lists; one line.
        provides: optional Protocols of `offrl.types` that its agents follow.
        wraps: the agents that it can hold, one of them by its options `generator` and `generator_options`.
        expert: whether a run that says what to do belongs to it.
        masks: whether its agents act among the allowed actions only; `act` and `log_prob` are then told of masks.
        reads_rewards: whether what it learns hangs on the rewards of its batches; imitation's doesn't.
        loss_options: those that change what `validation_loss` measures, so that losses under them don't compare.
        td_errors: whether `update` tells each transition's TD error, so that replay can be prioritized.
        images: whether its agents, or the one that they hold, encode images by convolutions; others refuse them.
        columns: what its batches hold beside what all do, some of `offrl.types.COLUMNS`; `Batch` tells of them.
        from_data: how options that were left open follow from the data: a function of options, and of its episodes'
            returns, as agents have rewards, and lengths.
        doubts: what is to be said of options beside the same.
        acts_by: options that acting goes by and weights don't: a trained policy can act by others.
        goes_on: how options change where a run goes on online; see `going_on`. None leaves them as they are.
        spares_clone: how they change where critics are fresh behind a cloned policy, so that they don't spoil it.
        fits_clone: how they must be for the actor to start from a cloned policy; see `from_clone`.

    Raises:
        PluginError: the agent lacks a method, or a method's arguments are not those of the Protocol; or no
            batches have such a column.

    Example:
        >>> ALGORITHM = Algorithm(BCConfig, BC, feeds=("dataset",), actions=("continuous",), provides=(Density,))
    """

    config: type[Any]
    agent: Callable[..., Agent[Any, Any]]
    feeds: tuple[str, ...]
    actions: tuple[Actions, ...] = ()
    summary: str = ""
    provides: tuple[type[Any], ...] = ()
    wraps: tuple[str, ...] = ()
    expert: bool = False
    masks: bool = False
    reads_rewards: bool = True
    loss_options: tuple[str, ...] = ()
    td_errors: bool = False
    images: bool = False
    columns: tuple[str, ...] = ()
    from_data: Callable[[Any, NDArray[Any], NDArray[Any]], Any] | None = None
    doubts: Callable[[Any, NDArray[Any], NDArray[Any]], list[str]] | None = None
    acts_by: tuple[str, ...] = ()
    goes_on: Callable[[Any, float, bool], Any] | None = None
    spares_clone: Callable[[Any], Any] | None = None
    fits_clone: Callable[[Any, str, Spec], Any] | None = None

    def __post_init__(self) -> None:
        protocols: tuple[type[Any], ...] = (Agent, *self.provides)
        for protocol in protocols:
            _require_follows(self.agent, protocol)
        for column in self.columns:
            if column not in COLUMNS:
                raise PluginError(
                    f"{self.agent.__qualname__} asks for batches with the column {column!r}, which none have",
                    where=self.agent.__module__,
                    hint=f"choose among: {', '.join(COLUMNS)}",
                )

    def options(self, values: Any, where: str = "") -> Any:
        """This algorithm's options from plain values, those of the agent that it holds among them.

        Args:
            values: a mapping, as TOML and Python know it.
            where: what to name in errors.

        Raises:
            RecipeError: a key is unknown, or a value of the wrong kind; the message names it.
        """
        options = validated(self.config, values, where, ("agent",))
        if not self.wraps:
            return options
        self._require_held(options.generator, where)
        held = plugins.algorithms[options.generator]
        section = ("agent", "generator_options")
        inner = validated(held.config, options.generator_options or {}, where, section)
        return dataclasses.replace(options, generator_options=inner)

    def build(self, options: Any, spec: Spec) -> Agent[Any, Any]:
        """The agent of these options for these spaces.

        Raises:
            SpaceMismatchError: it can't act in them, or has no encoder for an image that is observed.
            RecipeError: options don't go together.
        """
        if not self.images:
            require_no_images(spec, self.agent.__name__)
        if not self.wraps:
            return self.agent(options, spec)
        return self.agent(options, spec, self.learner(options).build(options.generator_options, spec))

    def learner(self, options: Any) -> Algorithm:
        """What acts: this algorithm, or the one that it holds by these options."""
        if not self.wraps:
            return self
        held: Algorithm = plugins.algorithms[options.generator]
        return held.learner(options.generator_options)

    def learner_options(self, options: Any) -> Any:
        """Those of what acts."""
        return options if not self.wraps else self.learner(options).learner_options(options.generator_options)

    def completed(self, options: Any, returns: NDArray[Any], lengths: NDArray[Any]) -> Any:
        """Options with what follows from the data in place of what was left open.

        Args:
            options: as they were asked for.
            returns, lengths: of the data's episodes, [N]; returns in rewards as agents have them.
        """
        return options if self.from_data is None else self.from_data(options, returns, lengths)

    def acting_by(self, options: Any, changes: Mapping[str, Any]) -> Any:
        """Options with others to act by.

        Args:
            options: those that a policy was trained with.
            changes: some of what `acts_by` names, to plain values.

        Raises:
            RecipeError: weights depend on one of them, or a value is of the wrong kind.
        """
        for name in changes:
            if name not in self.acts_by:
                raise RecipeError(
                    f"a trained policy can't act by another agent.{name}",
                    hint=f"change {', '.join(self.acts_by)}" if self.acts_by else "train another one with it",
                )
        return self.options({**vars(options), **changes})

    def going_on(self, options: Any, updates: float, pretrained: bool) -> Any:
        """Options for going on online from all that a run has learned.

        Args:
            options: that run's.
            updates: gradient steps to come in which the policy moves.
            pretrained: whether critics have learned from a dataset alone, so that they overrate what it never shows.
        """
        if self.wraps:
            inner = self.learner(options).going_on(options.generator_options, updates, pretrained)
            options = dataclasses.replace(options, generator_options=inner)
        return options if self.goes_on is None else self.goes_on(options, updates, pretrained)

    def sparing(self, options: Any) -> Any:
        """Options under which fresh critics don't spoil a cloned policy."""
        return options if self.spares_clone is None else self.spares_clone(options)

    def from_clone(self, options: Any, source: Any, kind: str, spec: Spec) -> Any:
        """Options for starting from a policy that another algorithm cloned.

        Args:
            options: without regard to it.
            source: the other algorithm's.
            kind: of its policy, see `offrl.types.GivesPolicy`.
            spec: the spaces.
        """
        if self.fits_clone is not None:
            options = self.fits_clone(options, kind, spec)
        if not self.can(StartsFromPolicy):
            return options
        agent: Any = self.agent
        theirs = vars(source)
        adopted = {name: theirs[name] for name in agent.adopted_options if name in theirs}
        return dataclasses.replace(options, **adopted)

    def can(self, protocol: type[Any]) -> bool:
        """Whether its agents follow an optional Protocol."""
        return protocol in self.provides

    def _require_held(self, name: str, where: str) -> None:
        if name not in self.wraps:
            raise RecipeError(
                f"'agent.generator': {name!r} is none that it can hold",
                where=where,
                hint=f"choose one of: {', '.join(self.wraps)}",
            )


def _require_follows(agent: Callable[..., Any], protocol: type[Any]) -> None:
    """Raise `PluginError` unless an agent's class has a Protocol's methods, taking the same arguments."""
    # Methods and properties, and the attributes that a class must have: those marked `ClassVar`.
    members: dict[str, Any] = {name: kind for name, kind in protocol.__annotations__.items() if "ClassVar" in str(kind)}
    members |= {name: part for name, part in vars(protocol).items() if not name.startswith("_")}
    for name, wanted in members.items():
        if not (name in protocol.__annotations__ or callable(wanted) or isinstance(wanted, property)):
            continue
        found = inspect.getattr_static(agent, name, None)
        if found is None:
            raise _lacking(agent, protocol, f"has no `{name}`")
        if not inspect.isfunction(wanted) or not callable(found):
            continue
        want, have = (list(inspect.signature(part).parameters.values()) for part in (wanted, found))
        if not _takes(have, want):
            texts = [f"{name}({', '.join(_written(each) for each in parameters)})" for parameters in (have, want)]
            raise _lacking(agent, protocol, f"has `{texts[0]}` in place of `{texts[1]}`")


def _takes(have: Sequence[inspect.Parameter], want: Sequence[inspect.Parameter]) -> bool:
    """Whether a method can be called as another one is: with the same names, leaving out what may be left out there."""
    names = [each.name for each in have[: len(want)]] == [each.name for each in want]
    whatever_comes = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = {each.name for each in have if each.default is each.empty and each.kind not in whatever_comes}
    return names and needed <= {each.name for each in want if each.default is each.empty}


def _written(parameter: inspect.Parameter) -> str:
    return parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"


def _lacking(agent: Callable[..., Any], protocol: type[Any], what: str) -> PluginError:
    return PluginError(
        f"{agent.__qualname__} {what}, which `{protocol.__name__}` asks for",
        where=agent.__module__,
        hint=f"see offrl.types.{protocol.__name__} for what it takes and gives",
    )
