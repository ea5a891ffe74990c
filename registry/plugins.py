"""Discovery: what the installed distributions offer. Each failure is recorded, none is fatal.

SAM2CORE_PLUGINS         unset: every plugin; empty: none; "a,b": these (names of entry points)
SAM2CORE_STRICT_PLUGINS  "1": a plugin's failure is raised where it happens (for plugin authors and CI)
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pluggy

import sam2core.hooks
from registry.components import Components
from registry.errors import DuplicateName, hint, nearest
from registry.installed import Point, points
from registry.spec import Specs
from sam2core.hooks import PROJECT

logger = logging.getLogger(__name__)

PUBLISHED = ("edgetam", "efficienttam", "tracking", "ray")  # this project's plugins whose names specs may hold
HOOKS = ("register_components", "register_specs", "register_recipes", "register_kernels", "register_commands")
BUILT_IN = {PROJECT: "registry.builtin", "nano": "sam2core.nano"}  # plugins that come with this distribution


@dataclass(frozen=True)
class PluginRecord:
    """What became of one plugin.

    status    "ok"; "failed": see `error`; "off": left out by SAM2CORE_PLUGINS
    provides  what it registered, as "kind:name", "spec:name" and "recipe:name"
    """

    name: str
    distribution: str
    version: str
    status: str
    error: str = ""
    provides: tuple[str, ...] = ()

    @property
    def owner(self) -> str:
        """The distribution and its version, or the plugin's name when the distribution is unknown."""
        return f"{self.distribution} {self.version}".strip() or self.name


class Zoo:
    """Everything on offer after discovery: components, specs, the plugin manager, and a record for each plugin.

    Built by `discover`; the process's own is `current()`. Nothing here changes after discovery, except that a hook
    asked later (`ask`) may mark its plugin as failed.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(sam2core.hooks)
        self.components = Components(self.failures)
        self.specs = Specs()
        self.recipes: dict[str, Path] = {}
        self._records: dict[str, PluginRecord] = {}
        self._strict = environ.get("SAM2CORE_STRICT_PLUGINS") == "1"
        self._lock = threading.RLock()
        self._asked: set[str] = set()

    @property
    def records(self) -> list[PluginRecord]:
        """One record per plugin, in the order they were met; the built-in one is first."""
        return list(self._records.values())

    def failures(self, name: str = "") -> str:
        """What plugins have to do with an unknown name, as lines that end an error message; empty when nothing.

        Those that failed, and why; and the one whose name this is, by what stands before its dot, when it is left out
        or not installed.
        """
        lines = [
            f"\n  plugin {record.name!r} ({record.owner}) failed: {record.error}"
            for record in self.records
            if record.status == "failed"
        ]
        package, dot, _ = name.partition(".")
        there = [record for record in self.records if package in (record.name, record.distribution)]
        lines += [
            f"\n  {package!r} is plugin {record.name!r} ({record.owner}), which SAM2CORE_PLUGINS leaves out"
            for record in there
            if record.status == "off"
        ]
        if package in PUBLISHED and not there:
            lines.append(f"\n  it comes with the plugin {PROJECT}-{package}, which is not installed: pip install it")
        elif dot and not there and name.isprintable() and re.fullmatch(r"[A-Za-z]\w*\.[\w.+-]+", name):
            lines.append(
                f"\n  names that begin with {package + '.'!r} come from a plugin, and none of them is installed"
            )
        return "".join(lines)

    def ask(self, hook: str, **arguments: Any) -> None:
        """Call `hook` plugin by plugin; one that fails is recorded, the others go on."""
        with self._lock:
            for name, plugin in self.manager.list_name_plugin():
                try:
                    self._call(plugin, hook, **arguments)
                except (Exception, SystemExit) as error:  # noqa: BLE001 -- a stranger's code: recorded, never fatal
                    self._failed(self._records[name], error)

    def ask_once(self, hook: str) -> None:
        """`ask` a hook that takes nothing, the first time only."""
        with self._lock:
            if hook not in self._asked:
                self._asked.add(hook)
                self.ask(hook)

    def _call(self, plugin: object, hook: str, **arguments: Any) -> None:
        others = [other for other in self.manager.get_plugins() if other is not plugin]
        self.manager.subset_hook_caller(hook, others)(**arguments)

    def _failed(self, record: PluginRecord, error: BaseException) -> None:
        said = str(error).replace("\n  did you mean", "; did you mean")  # a hint stands on a line of its own elsewhere
        text = " ".join(f"{type(error).__name__}: {said}{_where(error)}{_advice(error)}".split())
        self._records[record.name] = replace(record, status="failed", error=text)
        logger.warning("plugin %r (%s) failed: %s", record.name, record.owner, text)
        logger.debug("plugin %r failed here", record.name, exc_info=error)
        if self._strict:
            raise error

    def _admit(self, record: PluginRecord, plugin: object) -> None:
        """Register a plugin and take in what it offers: all of it, or nothing and an exception."""
        components, specs, recipes = self.components.copy(), self.specs.copy(), dict(self.recipes)
        provides: list[str] = []

        def add_component(kind: str, name: str, target: Any) -> None:
            components.add(kind, name, target, record.owner)
            provides.append(f"{kind}:{name}")

        def add_specs(folder: str | Path) -> None:
            provides.extend(f"spec:{name}" for name in specs.add_folder(folder, record.owner))

        def add_recipes(folder: str | Path) -> None:
            for file in sorted(Path(folder).glob("*.yaml")):
                if file.stem in recipes:
                    raise DuplicateName(f"recipe {file.stem!r} is offered already, by {recipes[file.stem]}")
                recipes[file.stem] = file
                provides.append(f"recipe:{file.stem}")

        self.manager.register(plugin, record.name)
        callers = self.manager.get_hookcallers(plugin) or []
        if not callers:
            raise TypeError(f"no function in {_called(plugin)} is marked @hookimpl; the hooks are {', '.join(HOOKS)}")
        for caller in callers:
            optional = all(impl.optionalhook for impl in caller.get_hookimpls() if impl.plugin is plugin)
            if not caller.has_spec() and not optional:
                known = f"the hooks are {', '.join(HOOKS)}"
                where = f"no hook is called {caller.name!r}, as a function in {_called(plugin)} is"
                raise TypeError(f"{where}; {known}{hint(caller.name, HOOKS)}")
        self._call(plugin, "register_components", register=add_component)
        self._call(plugin, "register_specs", register=add_specs)
        self._call(plugin, "register_recipes", register=add_recipes)
        self.components, self.specs, self.recipes = components, specs, recipes
        self._records[record.name] = replace(record, provides=tuple(provides))

    def _offer(self, record: PluginRecord, load: Callable[[], object], requires: Iterable[str]) -> None:
        """Admit a stranger's plugin, or record why not."""
        holder = self._records.get(record.name)
        try:
            if holder is not None:
                record = replace(record, name=f"{record.name} of {record.owner}")
                raise ValueError(f"a plugin called {holder.name!r} is already offered by {holder.owner}")
            _check_version(record, requires)
            self._admit(record, load())
        except (Exception, SystemExit) as error:  # noqa: BLE001 -- a stranger's code: recorded, never fatal
            if self.manager.has_plugin(record.name):
                self.manager.unregister(name=record.name)
            self._failed(record, error)


def _called(plugin: object) -> str:
    return getattr(plugin, "__name__", None) or type(plugin).__name__


def discover(entry_points: Iterable[Point] | None = None, environ: Mapping[str, str] = os.environ) -> Zoo:
    """A new Zoo: the built-in plugins, then those of the installed distributions (or of `entry_points`)."""
    zoo = Zoo(environ)
    for name, module in BUILT_IN.items():
        zoo._admit(PluginRecord(name, PROJECT, _own_version(), "ok"), importlib.import_module(module))
    chosen = environ.get("SAM2CORE_PLUGINS")
    names = None if chosen is None else {name.strip() for name in chosen.split(",") if name.strip()}
    if entry_points is None:
        entry_points = points()
    met: set[str] = set()
    for point in sorted(entry_points, key=lambda point: (point.distribution, point.version, point.name)):
        record = PluginRecord(point.name, point.distribution, point.version, "ok")
        if names is not None and point.name not in names:
            zoo._records.setdefault(record.name, replace(record, status="off"))
            continue
        met.add(point.name)
        zoo._offer(record, point.load, point.requires)
    known = sorted({*zoo._records, *met})
    for name in sorted((names or set()) - met - {PROJECT}):
        record = PluginRecord(name, "", "", "ok")
        words = f"named in SAM2CORE_PLUGINS, but no installed distribution offers it{hint(name, known)}"
        zoo._failed(record, LookupError(words))
    return zoo


def stray() -> list[str]:
    """Entry points that were probably meant for us and are in a group that nobody reads, one sentence each."""
    import importlib.metadata

    every = importlib.metadata.distributions()
    found = {(point.group, f"{one.name} {one.version}") for one in every for point in one.entry_points}
    return [
        f"{owner} has entry points in the group {group!r}, which nobody reads; ours is {PROJECT!r}: "
        f"[project.entry-points.{PROJECT}] in its pyproject.toml"
        for group, owner in sorted(found)
        if group != PROJECT and (group.startswith(PROJECT) or _letters(group) == PROJECT or nearest(group, [PROJECT]))
    ]


def _letters(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", word.lower())


class IncompatibleVersion(ValueError):
    """A plugin whose metadata asks for another version of this distribution than the one that is here."""


def _check_version(record: PluginRecord, requires: Iterable[str]) -> None:
    """Raise IncompatibleVersion unless this version is one the plugin's own dependencies allow."""
    for line in requires:
        if not re.match(rf"{PROJECT}\b", line, re.IGNORECASE):
            continue
        from packaging.requirements import Requirement

        need = Requirement(line)
        if need.name.lower() != PROJECT or (need.marker is not None and not need.marker.evaluate({"extra": ""})):
            continue
        if not need.specifier.contains(_own_version(), prereleases=True):
            raise IncompatibleVersion(
                f"it needs {PROJECT}{need.specifier}, and {_own_version()} is installed: "
                f"pip install '{PROJECT}{need.specifier}', or another version of {record.distribution}"
            )


_OURS = tuple(
    str(Path(file).resolve().parent) + os.sep for file in (__file__, sam2core.hooks.__file__, pluggy.__file__)
)


def _where(error: BaseException) -> str:
    """The place in a stranger's file where it went wrong, or nothing when that is not in one."""
    import traceback

    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith("<") or "importlib" in Path(frame.filename).parts:
            continue
        if str(Path(frame.filename).resolve()).startswith(_OURS):
            return ""
        return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _advice(error: BaseException) -> str:
    """What to do about the commonest failure, or nothing."""
    if isinstance(error, ModuleNotFoundError) and error.name and not _where(error):
        return "; the plugin's entry point names a module that is not installed: its name is misspelled, or it is gone"
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"; a package it needs is not installed: install what brings {error.name.partition('.')[0]!r}"
    if isinstance(error, DuplicateName):
        return "; so the second is left out whole: uninstall one, or name in SAM2CORE_PLUGINS those that you want"
    return ""


def _own_version() -> str:
    import sam2core

    return sam2core.__version__


_lock = threading.RLock()
_zoo: Zoo | None = None
_discovering = False


def current() -> Zoo:
    """The process's Zoo, discovered on first use; safe from any thread."""
    global _zoo, _discovering
    if _zoo is None:
        with _lock:
            if _discovering:
                raise RuntimeError("a plugin asked the registry for something while it was being discovered")
            if _zoo is None:
                _discovering = True
                try:
                    _zoo = discover()
                finally:
                    _discovering = False
    return _zoo


def manager() -> pluggy.PluginManager:
    """The plugin manager, after discovery."""
    return current().manager
