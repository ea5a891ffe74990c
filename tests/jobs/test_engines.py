"""Workers that do the same to many things, and what happens when they fail."""

from __future__ import annotations

import multiprocessing
import os

import pytest

from sam2core.jobs.engines import LocalEngine
from sam2core.testing import check


@pytest.mark.parametrize("workers", [1, 2])
def test_the_contract(workers):
    check("engine", LocalEngine(workers=workers))


def always_dying(number):
    def work(item):
        os._exit(7)

    return work


def numbered(number):
    return lambda item: (number, os.getpid())


def test_workers_that_die_whatever_they_are_given_end_the_run():
    with pytest.raises(ChildProcessError, match="whatever they are given: 2 workers died over it.*exit code 7"):
        list(LocalEngine(workers=2, attempts=2).map(always_dying, ["a", "b"]))
    assert not multiprocessing.active_children()


def test_workers_have_numbers_and_are_stopped_when_nobody_waits():
    run = LocalEngine(workers=2).map(numbered, range(6))
    number, process = next(run)[1]
    assert number in (0, 1) and process != os.getpid()
    run.close()
    assert not multiprocessing.active_children()


def test_one_worker_is_this_process():
    assert list(LocalEngine().map(numbered, ["a"])) == [(0, (0, os.getpid()))]
    with pytest.raises(ValueError, match="1 or more, not 0 and 3"):
        LocalEngine(workers=0)
