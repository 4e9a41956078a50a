"""An agent's update, recorded once and replayed outside of autograd."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from threading import RLock
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from offrl.tracing.contents import OPAQUE, Contents, Snapshot, facts_of
from offrl.tracing.graph import Origin, Program, replaced, values_in
from offrl.tracing.recording import Recorder, place_of
from offrl.tracing.structure import Match, UnknownInputError, matching, stand_in, tensors_of
from offrl.types import Agent, Batch, Metrics, Noise

MOST_TRACES = 8
"""Kinds of inputs whose traces are kept, those used last."""
MOST_TRIES = 3
"""Runs that may make new parts of the state, as lazy optimizers do, before their kind of inputs is given up."""
MOST_PARTS = 64
"""Repeated parts whose traces are kept: agents, methods and states, of which an update has few that live on."""
log = logging.getLogger(__name__)
Part = TypeVar("Part", bound=Callable[..., Any])


@dataclass
class Trace:
    """What is known of one kind of inputs.

    Attributes:
        match: takes the tensors out of such inputs.
        replay: None where the function runs as it is.
        reason: why it does.
        tries: how often that was found.
        source: of the replay.
    """

    match: Match
    replay: Callable[..., Any] | None
    reason: str = ""
    tries: int = 1
    source: str = ""


class Traces:
    """One function of inputs that changes a state, and its traces.

    Args:
        name: for messages.
        function: of the inputs.
        state: what the function changes; its numbers are taken to stay as they are.
        roots: everything whose tensors outlive a call, by name.
    """

    def __init__(self, name: str, function: Callable[..., Any], state: Any, roots: dict[str, Any]) -> None:
        self.name, self.function, self.state, self.roots = name, function, state, roots
        self.traces: list[Trace] = []
        self.unknown = ""
        self._alone = RLock()

    def __call__(self, *inputs: Any) -> Any:
        """What the function returns; one thread at a time, for a replay has one place for its results."""
        with self._alone:
            traces = self.traces
            for position, trace in enumerate(traces):
                tensors = trace.match(inputs)
                if tensors is None:
                    continue
                if position:
                    traces.insert(0, traces.pop(position))
                if trace.replay is not None:
                    return self._replayed(trace.replay, tensors)
                return self.function(*inputs) if trace.tries >= MOST_TRIES else self._recorded(inputs, trace)
            return self.function(*inputs) if self.unknown else self._recorded(inputs, None)

    def _replayed(self, replay: Callable[..., Any], tensors: Sequence[Tensor]) -> Any:
        with torch._C._AutoDispatchBelowAutograd(), np.errstate(all="ignore"):
            return replay(*tensors)

    def _recorded(self, inputs: tuple[Any, ...], known: Trace | None) -> Any:
        """Run the function, and replay that run where it can be."""
        try:
            tensors = tensors_of(inputs)
        except UnknownInputError as error:
            self.unknown = error.what
            log.debug("%s runs as it is: %s", self.name, self.unknown)
            return self.function(*inputs)
        before = Contents.of(**self.roots)
        facts = facts_of("state", self.state)
        kept = before.kept()
        snapshot = Snapshot(kept)
        ours = {place_of(tensor) for tensor in kept.values()}
        given = [tensor if place_of(tensor) in ours else stand_in(tensor) for tensor in tensors]
        ahead = iter(given)
        recorder = Recorder(given, kept)
        session = _session.set(None)
        try:
            with recorder:
                result = self.function(*replaced(inputs, Tensor, lambda _: next(ahead)))
        except BaseException:
            snapshot.restore()
            raise
        finally:
            _session.reset(session)
        program = recorder.program(result)
        settled = before.change_to(Contents.of(**self.roots)) or _written_behind(snapshot, recorder)
        reason = recorder.reason or settled
        if program is None or reason:
            # Parts of the state that were new this time may stay; what isn't traceable won't become so.
            tries = MOST_TRIES if recorder.reason else known.tries + 1 if known else 1
            self._keep(Trace(matching(inputs, (), {}), None, reason, tries), known)
            log.debug("%s runs as it is: %s", self.name, reason)
            _hand_back(given, tensors)
            return result
        trace = compiled(program, matching(inputs, facts, {"state": self.state}))
        self._keep(trace, known)
        snapshot.restore()
        assert trace.replay is not None
        return self._replayed(trace.replay, tensors)

    def _keep(self, trace: Trace, known: Trace | None) -> None:
        if known is not None:
            self.traces.remove(known)
        self.traces.insert(0, trace)
        del self.traces[MOST_TRACES:]

    def explain(self) -> str:
        """What is replayed, what runs as it is, and why."""
        lines = [f"{self.name}: runs as it is: {self.unknown}"] if self.unknown else []
        for trace in self.traces:
            steps = trace.source.count("\n")
            how = f"{steps} steps replayed" if trace.replay else f"runs as it is: {trace.reason}"
            lines.append(f"{self.name}: {how}")
        return "\n".join(lines) or f"{self.name}: hasn't run yet"


def compiled(program: Program, match: Match) -> Trace:
    """The trace of a recorded program."""
    from offrl.tracing.lowering import lowered
    from offrl.tracing.passes import tidied
    from offrl.tracing.replay_source import written

    # Before it is tidied: what is returned for the copy of an input must stay a copy.
    made = [value.storage.origin is Origin.MADE for value in values_in(program.outputs)]
    with torch.inference_mode(False), torch.no_grad():
        short = tidied(program)
        builder = lowered(short)
        replay, source = written(builder, short, made)
    return Trace(match, replay, source=source)


def _hand_back(given: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Change the inputs as a function changed those that stood in for them."""
    for one, other in zip(given, tensors, strict=True):
        if one.data_ptr() != other.data_ptr() and not torch.equal(one, other):
            other.copy_(one)


def _written_behind(snapshot: Snapshot, recorder: Recorder) -> str:
    """The state's memory that changed without an operation having done it, in words; empty where there is none."""
    known = recorder.places_written()
    for place, path in snapshot.changed().items():
        if place not in known:
            return f"something else than PyTorch changes {path}"
    return ""


class Traced:
    """Calls to `agent.update` of one state: the first of each kind is recorded, the others are replayed.

    The update is a fixed sequence of operations on tensors for inputs of the same structure, shapes and numbers, as
    `Agent` promises: whatever else Python does in it happens only while it is recorded. What can't be replayed runs as
    it is; `explain` says why.

    Metrics are memory of their own unless the update returned the state's tensors, or its inputs'.

    Args:
        agent: its tensors, as its state's, are taken to be the same ones at each call.
        state: on the CPU; its tensors are changed in place.
        function: another update of the agent's, as `update_critic` is.
    """

    def __init__(self, agent: Agent[Any, Any], state: Any, function: Callable[..., Metrics] | None = None) -> None:
        self.agent, self.state = agent, state
        self.function = agent.update if function is None else function
        self.roots = {"state": state, "agent": agent}
        self.parts: dict[tuple[Any, ...], Traces] = {}
        self.whole: Traces | None = None
        if not _has_repeated_parts(agent):
            name = self.function.__qualname__
            self.whole = Traces(name, lambda *inputs: self.function(state, *inputs), state, self.roots)

    def update(self, batches: Sequence[Batch], noise: Noise) -> Metrics:
        """`agent.update` with this state."""
        if self.whole is not None:
            metrics: Metrics = self.whole(batches, noise)
            return metrics
        session = _session.set(self)
        try:
            return self.function(self.state, batches, noise)
        finally:
            _session.reset(session)

    __call__ = update

    def part(self, function: Callable[..., Any], owner: Any, state: Any, inputs: tuple[Any, ...]) -> Any:
        """A repeated part of the update."""
        key = function, id(owner), id(state)
        traces = self.parts.get(key)
        if traces is None:
            name = f"{type(owner).__name__}.{function.__name__}"
            roots = self.roots | {"part": state, "owner": owner}
            traces = Traces(name, lambda *rest: function(owner, state, *rest), state, roots)
            self.parts[key] = traces
            if len(self.parts) > MOST_PARTS:
                del self.parts[next(iter(self.parts))]
        return traces(*inputs)

    def explain(self) -> str:
        """What is replayed, what runs as it is, and why."""
        whole = [self.whole] if self.whole is not None else []
        return "\n".join(traces.explain() for traces in [*whole, *self.parts.values()])


_session: ContextVar[Traced | None] = ContextVar("session", default=None)


def repeated(method: Part) -> Part:
    """Mark a method `part(self, state, *inputs)` that an update calls many times: it is traced by itself.

    What it returns is tensors, in any structure, or nothing. It may change the state's tensors in place, and reads
    nothing else that changes. Outside of a `Traced` update it is the method as it is.
    """

    @wraps(method)
    def call(self: Any, state: Any, *inputs: Any) -> Any:
        session = _session.get()
        if session is None:
            return method(self, state, *inputs)
        return session.part(method, self, state, inputs)

    call.is_repeated = True  # type: ignore[attr-defined]
    return cast(Part, call)


def _has_repeated_parts(agent: Any) -> bool:
    """Whether an agent, or one that it holds, marks parts of its update."""
    seen: set[int] = set()
    ahead = [agent]
    while ahead:
        holder = ahead.pop()
        if id(holder) in seen or not hasattr(holder, "__dict__") or isinstance(holder, (*OPAQUE, nn.Module, Tensor)):
            continue
        seen.add(id(holder))
        kind = type(holder)
        if any(getattr(getattr(kind, name, None), "is_repeated", False) for name in dir(kind)):
            return True
        ahead += vars(holder).values()
    return False
