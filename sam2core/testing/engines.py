"""The contract of an engine: every item once, faults told, workers that die replaced."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2core.protocols import Engine
from sam2core.testing.rules import Examination, Found


def examine_engine(examination: Examination, engine: Any) -> None:
    """Raise ContractError at the first rule that the engine breaks."""
    with examination.rule("protocol", "a method map(prepare, items)"):
        if not isinstance(engine, Engine):
            raise Found(f"a {type(engine).__name__}" + (", which is a class" if isinstance(engine, type) else ""))
    with examination.rule("items", "each item's index with its result, once for each, in any order; none for none"):
        found = sorted(engine.map(_doubling, [3, 1, 2, 1]))
        if found != [(0, 6), (1, 2), (2, 4), (3, 2)]:
            raise Found(f"doubling 3, 1, 2, 1 gave {found}")
        if rest := list(engine.map(_doubling, [])):
            raise Found(f"no item gave {rest}")
    with examination.rule("errors", "an exception of the function is raised by map, type and text"):
        try:
            list(engine.map(_doubling, [1, None, 2]))
        except ValueError as error:
            if "cannot double None" not in str(error):
                raise Found(f"ValueError('cannot double None') became {error}") from error
        else:
            raise Found("nothing was raised")
    if getattr(engine, "workers", 1) == 1:
        return
    with examination.rule("deaths", "a worker that is killed is replaced, and its item done again"):
        with tempfile.TemporaryDirectory() as folder:
            found = sorted(engine.map(_dying, [(folder, number) for number in range(4)]))
        if found != [(number, number) for number in range(4)]:
            raise Found(f"after a death, items 0 to 3 gave {found}")
    with examination.rule("losses", "an item that kills every worker has a ChildProcessError; the others are done"):
        results = dict(engine.map(_deadly, range(4)))
        if not isinstance(results.get(1), ChildProcessError):
            raise Found(f"an item that kills every worker gave {results.get(1)!r}")
        if {index: results[index] for index in results if index != 1} != {0: 0, 2: 2, 3: 3}:
            raise Found(f"beside an item that kills every worker, the others gave {results}")


def _doubling(number: int) -> Callable[[Any], Any]:
    def work(item: Any) -> Any:
        if item is None:
            raise ValueError("cannot double None")
        return 2 * item

    return work


def _deadly(number: int) -> Callable[[Any], Any]:
    """Kills its own process over item 1, every time."""

    def work(item: int) -> int:
        if item == 1:
            os._exit(7)
        return item

    return work


def _dying(number: int) -> Callable[[Any], Any]:
    """Kills its own process over item 1, the first time."""

    def work(item: tuple[str, int]) -> int:
        folder, which = item
        mark = Path(folder) / "died"
        if which == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return which

    return work
