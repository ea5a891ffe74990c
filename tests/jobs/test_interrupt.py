"""Ctrl-C and SIGTERM are one request: heard once, the step at hand gets a while, what is known is saved first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from sam2core.jobs.interrupt import STOPS, Interrupted, InterruptGuard, at_once, ended_at_once, exit_code, heard


@pytest.fixture(autouse=True)
def _usual():
    """Python's own handlers, whatever started this process, and they are there again afterwards."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    after = {number: signal.signal(number, handler) for number, handler in before.items()}
    assert after == usual


@pytest.mark.parametrize("number", STOPS)
def test_the_step_at_hand_is_finished_and_what_is_known_saved_first(number):
    told = []
    steps = []
    with (
        pytest.raises(Interrupted) as ended,
        InterruptGuard(told.append, "stopping", save=lambda: told.append(list(steps))) as guard,
    ):
        for step in range(5):
            if step == 2:
                signal.raise_signal(number)
            steps.append(step)
            guard.check()
    assert steps == [0, 1, 2] and told == ["stopping", [0, 1]]
    assert ended.value.code == exit_code(ended.value) == 128 + number


def test_a_step_that_takes_too_long_is_ended():
    told = []
    begun = time.monotonic()
    with pytest.raises(Interrupted) as ended, InterruptGuard(told.append, patience=0.1):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(60)
    assert time.monotonic() - begun < 30 and ended.value.code == 143 and len(told) == 1


def test_the_second_request_does_not_wait():
    with pytest.raises(Interrupted) as ended, InterruptGuard(lambda text: None):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
    assert ended.value.code == 143  # what was asked first


def test_a_full_disk_does_not_end_the_step():
    def fail():
        raise OSError("no space")

    told = []
    with InterruptGuard(told.append, "stopping", save=fail) as guard:
        signal.raise_signal(signal.SIGINT)
    assert guard.asked.is_set() and told == ["stopping", "no space"]


def test_a_guard_within_what_ends_at_once():
    with pytest.raises(KeyboardInterrupt) as ended, heard(at_once):
        with InterruptGuard(lambda text: None) as guard:
            signal.raise_signal(signal.SIGTERM)
        assert guard.asked.is_set()
        signal.raise_signal(signal.SIGTERM)
    assert exit_code(ended.value) == 143 and exit_code(KeyboardInterrupt()) == 130


def test_an_error_that_is_made_of_an_interruption_counts_as_one():
    with pytest.raises(Interrupted) as ended, ended_at_once():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            raise ValueError("could not determine the shape") from None
    assert ended.value.code == 143
    with pytest.raises(ValueError, match="of its own"), ended_at_once():
        raise ValueError("of its own")


def test_a_request_while_an_object_is_done_away_with_is_not_lost(capsys):
    class Last:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    usual = sys.unraisablehook
    begun = time.monotonic()
    with pytest.raises(Interrupted) as ended, ended_at_once():
        Last()
        time.sleep(60)
    assert time.monotonic() - begun < 30 and ended.value.code == 143
    assert sys.unraisablehook is usual and capsys.readouterr().err == ""


def test_a_request_while_a_guard_closes_leaves_no_clock_behind(monkeypatch):
    heard_late = []
    stop = InterruptGuard._stop_clock

    def between(guard):
        stop(guard)
        if not heard_late:
            heard_late.append(guard)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(InterruptGuard, "_stop_clock", between)
    with InterruptGuard(lambda text: None) as guard:
        pass
    assert guard.asked.is_set() and not guard._clock.is_alive()


def test_what_is_to_be_ignored_stays_so_and_other_threads_hear_nothing():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with InterruptGuard(lambda text: None) as guard:
            signal.raise_signal(signal.SIGINT)
        assert not guard.asked.is_set()
    finally:
        signal.signal(signal.SIGINT, before)
    entered = []

    def elsewhere():
        with InterruptGuard(lambda text: None):
            entered.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert entered == [signal.SIG_DFL]


ORPHAN = """
import multiprocessing, os, sys, time
from sam2core.jobs.engines import LocalEngine

def prepare(number):
    return work

def work(mark):
    open(mark, "w").write(str(os.getpid()))
    try:
        time.sleep(300)
    finally:
        os.remove(mark)

if __name__ == "__main__":
    list(LocalEngine(workers=2).map(prepare, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(tmp_path, number):
    """Also when it is killed, as somebody may go on with its work; what they were in the middle of is tidied up."""
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    marks = [tmp_path / "a", tmp_path / "b"]
    child = subprocess.Popen([sys.executable, script, *marks], start_new_session=True, stderr=subprocess.DEVNULL)
    _wait(lambda: all(mark.exists() and mark.read_text() for mark in marks))
    os.kill(child.pid, number)
    child.wait(30)
    if number == signal.SIGTERM:  # Python's own answer to it: no word is said to the workers either
        assert child.returncode == -signal.SIGTERM
    _wait(lambda: not any(mark.exists() for mark in marks))


def _wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
