"""Doing the same to many things: here, one after the other, or in worker processes that may die and are replaced.

An engine is given a *prepare* that is called once per worker, with the worker's number, and returns the function for
one item; both must be picklable for more than one worker. Plugins register others under the kind ``engine``.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any

from sam2core.jobs.interrupt import PATIENCE, at_once, heard

_MEMORY = ", which is most often a lack of memory: take fewer workers"

Work = Callable[[Any], Any]
Prepare = Callable[[int], Work]


class LocalEngine:
    """Worker processes on this machine; with one worker, this process itself.

    Args:
        workers: how many processes.
        attempts: how often an item is tried whose worker dies.

    Raises:
        ValueError: numbers below 1.
    """

    def __init__(self, workers: int = 1, *, attempts: int = 3) -> None:
        if workers < 1 or attempts < 1:
            raise ValueError(f"workers and attempts are 1 or more, not {workers} and {attempts}")
        self.workers = workers
        self.attempts = attempts

    def map(self, prepare: Prepare, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """The index of each item with what the function returned, as they are finished; see `Engine`.

        An exception of the function ends the run and is raised here, and a ChildProcessError when nothing can be done,
        since all that was tried killed its workers.
        """
        if self.workers == 1 or len(items) < 2:
            work = prepare(0) if items else None
            for index, item in enumerate(items):
                assert work is not None
                yield index, work(item)
            return
        yield from self._spread(prepare, items)

    def _spread(self, prepare: Prepare, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        waiting = deque(range(len(items)))
        deaths = Deaths(self.attempts)
        workers = [_Worker(prepare, number) for number in range(min(self.workers, len(items)))]
        try:
            while waiting or any(worker.item is not None for worker in workers):
                for worker in workers:
                    if waiting and worker.item is None:
                        worker.give(waiting.popleft(), items)
                for ready in wait([worker.pipe for worker in workers if worker.item is not None]):
                    worker = next(worker for worker in workers if worker.pipe is ready)
                    index = worker.item
                    assert index is not None
                    try:
                        done, answer = worker.take()
                    except (EOFError, OSError):  # it is gone, and what it did of this item with it
                        code = worker.stop()
                        lost = deaths.count(index, f"the last with exit code {code}{_MEMORY if code == -9 else ''}")
                        workers[workers.index(worker)] = _Worker(prepare, worker.number)
                        if lost is None:
                            waiting.appendleft(index)
                        else:
                            yield index, lost
                        continue
                    if not done:
                        error, text = answer
                        raise error from RemoteError(text)
                    deaths.done = True
                    yield index, answer
        finally:
            for worker in workers:
                worker.stop()


class Deaths:
    """How many workers died over each item; what becomes of an item that kills all of them, and when a run is given up.

    attempts    workers an item may kill
    """

    def __init__(self, attempts: int) -> None:
        self.attempts = attempts
        self.done = False
        """Whether any item was finished: then the workers are able, and those that are lost are to blame."""
        self._count: dict[int, int] = {}
        self._lost = 0

    def count(self, index: int, reason: str) -> ChildProcessError | None:
        """One more worker died over an item, for a `reason`: None while it is tried again, then what it failed with.

        Raises ChildProcessError when `attempts` items are lost and none was finished.
        """
        self._count[index] = self._count.get(index, 0) + 1
        if self._count[index] < self.attempts:
            return None
        lost = ChildProcessError(f"{self.attempts} workers died over it, {reason}")
        self._lost += 1
        if self._lost >= self.attempts and not self.done:
            raise ChildProcessError(f"the workers die whatever they are given: {lost}")
        return lost


class RemoteError(Exception):
    """The traceback of a worker, as the cause of the error it is raised with."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Worker:
    """A process, the pipe to it, and the index of the item it works on."""

    def __init__(self, prepare: Prepare, number: int) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process with threads and a GPU ends badly
        self.number = number
        self.item: int | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, prepare, number), daemon=True)
        with _deaf():
            self.process.start()
        theirs.close()

    def give(self, index: int, items: Sequence[Any]) -> None:
        self.item = index
        try:
            self.pipe.send(items[index])
        except ConnectionError:
            return  # it died in the meantime: reading from it says so

    def take(self) -> tuple[bool, Any]:
        answer = self.pipe.recv()
        self.item = None
        return answer

    def stop(self) -> int | None:
        """End the process: what it is in the middle of is tidied up, within bounds."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started meanwhile do not hear Ctrl-C, not even while they import: who started them ends them."""
    if threading.current_thread() is not threading.main_thread():  # where signals cannot be set
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, prepare: Prepare, number: int) -> None:
    """A worker's life: items in, (True, answer) or (False, (error, traceback)) out, until the pipe is closed.

    Ctrl-C is for the process that started it; SIGTERM, which may come to all of them, ends what it is doing.
    """
    threading.Thread(target=_follow_parent, name="parent", daemon=True).start()
    try:
        with heard(at_once):
            _work(pipe, prepare, number)
    except KeyboardInterrupt:
        return


def _follow_parent() -> None:
    """End this process when the one that started it is gone: somebody may go on with its work already."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(1)


def _work(pipe: Connection, prepare: Prepare, number: int) -> None:
    work: Work | None = None
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionError):  # the other end is gone, with or without having read everything
            return
        try:
            work = work or prepare(number)
            answer = (True, work(item))
        except (ValueError, OSError, RuntimeError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            answer = (False, (error, traceback.format_exc()))
        try:
            pipe.send(answer)
        except ConnectionError:
            return
