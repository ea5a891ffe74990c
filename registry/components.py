"""Components: the parts that specs may name. (kind, name) -> target and owner; strings are imported on first use."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from registry.errors import DuplicateName, SpecError, UnknownName, hint
from registry.kinds import KINDS
from sam2core.annotations import fits, spelled

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+\-]*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True)
class Component:
    """A part on offer: what a spec writes as `type`, what makes it, and the distribution that offers it."""

    kind: str
    name: str
    target: Any
    owner: str


class Components:
    """The parts on offer. `failures` gives what plugins have to do with an unknown name, to end a message with."""

    def __init__(self, failures: Callable[[str], str] = lambda name: "") -> None:
        self._entries: dict[tuple[str, str], Component] = {}
        self._failures = failures

    def copy(self) -> Components:
        twin = Components(self._failures)
        twin._entries = dict(self._entries)
        return twin

    def add(self, kind: str, name: str, target: Any, owner: str) -> None:
        """Offer `target` as `name` of `kind`. Raises UnknownName, SpecError, DuplicateName."""
        _kind(kind)
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SpecError(f"{owner} registers {name!r} as {kind}: a name is made of letters, digits and _ . + -")
        if isinstance(target, str):
            if not _TARGET.fullmatch(target):
                raise SpecError(f"{owner} registers {kind} {name!r} as {target!r}: write 'package.module:attribute'")
        elif KINDS[kind].called and not callable(target):
            raise SpecError(f"{owner} registers {kind} {name!r} as {target!r}, which cannot be called")
        holder = self._entries.get((kind, name))
        if holder is not None:
            raise DuplicateName(
                f"{kind} {name!r} is offered by {holder.owner} and by {owner}; the first keeps the name"
            )
        self._entries[kind, name] = Component(kind, name, target, owner)

    def names(self, kind: str) -> list[str]:
        """The names of a kind, sorted. Raises UnknownName."""
        _kind(kind)
        return sorted(name for other, name in self._entries if other == kind)

    def get(self, kind: str, name: str) -> Component:
        """The component called `name`. Raises UnknownName with the nearest name and the plugins that failed."""
        _kind(kind)
        entry = self._entries.get((kind, name))
        if entry is None:
            known = self.names(kind)
            more = f"{hint(str(name), known)}{self._failures(str(name))}"
            raise UnknownName(f"no {kind} is called {name!r}.\n  known: {', '.join(known)}{more}")
        return entry

    def resolve(self, kind: str, name: str) -> Any:
        """What `name` stands for, imported if need be. Raises UnknownName, SpecError."""
        entry = self.get(kind, name)
        if not isinstance(entry.target, str):
            return entry.target
        module, _, attribute = entry.target.partition(":")
        try:
            target = importlib.import_module(module)
            for step in attribute.split("."):
                target = getattr(target, step)
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything
            near = (
                hint(attribute, vars(sys.modules[module]))
                if isinstance(error, AttributeError) and module in sys.modules
                else ""
            )
            raise SpecError(
                f"{kind} {name!r} of {entry.owner} cannot be had from {entry.target!r}: "
                f"{type(error).__name__}: {error}{near}"
            ) from error
        return target

    def check(self, kind: str, options: Mapping[str, Any], given: Iterable[str], also: Iterable[str] = ()) -> None:
        """Raise what `make` would raise about options. `also`: names that belong elsewhere, for the nearest match."""
        own = {key: value for key, value in options.items() if key != "type"}
        name = options["type"]
        check(f"{kind} {name!r}", self.resolve(kind, name), own, given, also)

    def make(self, kind: str, options: Mapping[str, Any], **given: Any) -> Any:
        """The part that `options` (`type` and its own) describe, handed `given`. Raises UnknownName, SpecError."""
        own = {key: value for key, value in options.items() if key != "type"}
        name = options["type"]
        return call(f"{kind} {name!r}", self.resolve(kind, name), own, **given)


def call(label: str, target: Callable[..., Any], options: Mapping[str, Any], **given: Any) -> Any:
    """``target(**given, **options)``, after checking every option against the target's signature. Raises SpecError.

    The target gets its own copy of the options: no part can change the spec it was made from.
    """
    check(label, target, options, given)
    try:
        return target(**given, **copy.deepcopy(dict(options)))
    except (SpecError, UnknownName, NotImplementedError):
        raise
    except ValueError as error:
        raise SpecError(f"{label}: {error}") from error
    except (ArithmeticError, AssertionError, LookupError, MemoryError, RuntimeError, TypeError) as error:
        raise SpecError(f"{label} cannot be made with these options: {type(error).__name__}: {error}") from error


def check(
    label: str, target: Callable[..., Any], options: Mapping[str, Any], given: Iterable[str], also: Iterable[str] = ()
) -> None:
    """Raise SpecError unless `target` takes what the registry passes (`given`) and these options, and needs no more.

    Plain values are held against their parameters' annotations where these are plain, too: see `annotations.fits`.
    """
    parameters = dict(inspect.signature(target).parameters)
    anything = any(entry.kind is entry.VAR_KEYWORD for entry in parameters.values())
    parameters = {n: e for n, e in parameters.items() if e.kind not in (e.VAR_KEYWORD, e.VAR_POSITIONAL)}
    passed = tuple(given)
    own = {name: entry for name, entry in parameters.items() if name not in passed}
    lines = f"\n  options: {_written(own) or 'none'}"
    if both := [name for name in options if name in passed]:
        raise SpecError(f"{label}: {both[0]!r} is passed by the registry and is no option.{lines}")
    if not anything:
        if refused := [name for name in passed if name not in parameters]:
            raise SpecError(f"{label} takes no {refused[0]!r}, but its kind is passed {', '.join(passed)}")
        if unknown := [name for name in options if name not in own]:
            raise SpecError(f"{label} has no option {unknown[0]!r}.{lines}{hint(unknown[0], (*own, *also))}")
    if missing := [n for n, entry in own.items() if entry.default is entry.empty and n not in options]:
        raise SpecError(f"{label} needs the option {missing[0]!r}.{lines}")
    for name, value in options.items():
        entry = own.get(name)
        if entry is None or entry.annotation is entry.empty or (value is None and entry.default is None):
            continue
        if not fits(value, entry.annotation):
            raise SpecError(f"{label}: the option {name!r} is {spelled(entry.annotation)}; got {value!r}.{lines}")


def _written(parameters: Mapping[str, inspect.Parameter]) -> str:
    return ", ".join(
        name if entry.default is inspect.Parameter.empty else f"{name}={entry.default!r}"
        for name, entry in parameters.items()
    )


def _kind(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownName(f"no kind is called {kind!r}.\n  known: {', '.join(KINDS)}{hint(str(kind), KINDS)}")
