"""An engine whose workers are Ray actors: one a GPU, anywhere in the cluster, each replaced when it dies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from sam2core.jobs.engines import Deaths

Work = Callable[[Any], Any]
Prepare = Callable[[int], Work]


class RayEngine:
    """Spreads items over actors of the Ray cluster this process is connected to, or of one it starts here.

    A cluster is found as Ray finds it: ``RAY_ADDRESS``, or the one that ``ray start`` made on this machine. Each actor
    holds one GPU where the cluster has any, one CPU otherwise; Ray shows it that GPU alone, as ``cuda:0``.

    Args:
        workers: how many actors, at most as many as there are items; those for which there is no room yet wait.
        attempts: how often an item is tried whose actor dies.
        gpus: GPUs an actor holds, such as 0.5 for two on each; None: 1 where the cluster has GPUs, else 0.
        cpus: CPUs an actor holds.

    Raises:
        ValueError: fewer than one worker or attempt.
    """

    def __init__(self, workers: int = 1, *, attempts: int = 3, gpus: float | None = None, cpus: float = 1) -> None:
        if workers < 1 or attempts < 1:
            raise ValueError(f"workers and attempts are 1 or more, not {workers} and {attempts}")
        self.workers = workers
        self.attempts = attempts
        self.gpus = gpus
        self.cpus = cpus

    def map(self, prepare: Prepare, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Each item's index with its result, as they are finished; see ``sam2core.protocols.Engine``.

        Raises what the function raises, and ChildProcessError when all that is tried kills its actors.
        """
        if not items:
            return
        if not ray.is_initialized():
            ray.init(log_to_driver=False)
        waiting = deque(range(len(items)))
        deaths = Deaths(self.attempts)
        actors = [self._actor(prepare, number) for number in range(min(self.workers, len(items)))]
        busy: dict[Any, tuple[int, int]] = {}  # what is awaited -> its actor and its item
        try:
            for number in range(len(actors)):
                self._give(actors, number, waiting, items, busy)
            while busy:
                (ready,), _ = ray.wait(list(busy))
                number, index = busy.pop(ready)
                try:
                    answer = ray.get(ready)
                except RayTaskError as error:
                    raise error.as_instanceof_cause() from None
                except RayActorError as error:  # dead, or lost with its node; what it did of this item is lost too
                    actors[number] = self._actor(prepare, number)
                    lost = deaths.count(index, f"the last one so: {error}")
                    if lost is None:
                        waiting.appendleft(index)
                    else:
                        yield index, lost
                else:
                    deaths.done = True
                    yield index, answer
                self._give(actors, number, waiting, items, busy)
        finally:
            for actor in actors:
                ray.kill(actor)

    def _actor(self, prepare: Prepare, number: int) -> Any:
        gpus = self.gpus
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        return ray.remote(_Worker).options(num_gpus=gpus, num_cpus=self.cpus).remote(prepare, 0 if gpus else number)

    @staticmethod
    def _give(
        actors: list[Any], number: int, waiting: deque[int], items: Sequence[Any], busy: dict[Any, tuple[int, int]]
    ) -> None:
        if waiting:
            index = waiting.popleft()
            busy[actors[number].call.remote(items[index])] = (number, index)


class _Worker:
    """An actor: makes its function at the first item, so that an error in that is told as an item's."""

    def __init__(self, prepare: Prepare, number: int) -> None:
        self._prepare, self._number = prepare, number
        self._work: Work | None = None

    def call(self, item: Any) -> Any:
        if self._work is None:
            self._work = self._prepare(self._number)
        return self._work(item)
