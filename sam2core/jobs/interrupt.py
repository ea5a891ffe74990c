"""Being asked to stop. Ctrl-C and SIGTERM are one request: what is known is saved, the step at hand gets a while."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType

STOPS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)
PATIENCE = 10.0
"""Seconds that the step at hand is given: as long as `docker stop` waits before it kills."""
SOON = 0.05
"""Seconds after which a request is made again that came where nothing can be ended."""
Answer = Callable[[int, "FrameType | None"], None]


class Interrupted(KeyboardInterrupt):
    """Somebody asked this process to stop, by the signal `number`."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = int(number)

    @property
    def code(self) -> int:
        """The exit code that says so: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


def exit_code(error: BaseException) -> int:
    """The exit code after an interruption, of ours or Python's own."""
    return error.code if isinstance(error, Interrupted) else 128 + signal.SIGINT


@contextmanager
def heard(answer: Answer) -> Iterator[None]:
    """While this lasts, `answer(number, frame)` is called in the main thread for every request to stop.

    A signal that the process was told to ignore, as by nohup, stays ignored. In other threads nothing changes.
    """
    before: dict[int, Answer | int | None] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in STOPS:
                usual = signal.getsignal(number)
                if usual is not signal.SIG_IGN:
                    before[number] = usual  # first: the answer may be asked for at once
                    signal.signal(number, answer)
        yield
    finally:
        for number, usual in before.items():
            signal.signal(number, usual)


def at_once(number: int, frame: FrameType | None) -> None:
    """An answer for `heard`: end what is going on, wherever it is; what has to be tidied up is tidied up."""
    raise Interrupted(number)


@contextmanager
def ended_at_once() -> Iterator[None]:
    """While this lasts, a request ends what is going on, wherever it is, with `Interrupted`.

    Libraries in C now and then make another error of it, or of what it left them with: that counts as the interruption.
    """
    asked: list[int] = []

    def answer(number: int, frame: FrameType | None) -> None:
        asked.append(number)
        raise Interrupted(number)

    try:
        with heard(answer), _made_again():
            yield
    except BaseException as error:
        if asked and not isinstance(error, KeyboardInterrupt):
            raise Interrupted(asked[0]) from error
        raise


@contextmanager
def _made_again() -> Iterator[None]:
    """While this lasts, a request that came where Python passes no error on is made again a moment later.

    Where an object is done away with, or C calls Python back, Python would print the interruption and go on.
    """
    usual, clocks = sys.unraisablehook, []

    def lost(what: sys.UnraisableHookArgs) -> None:
        if not isinstance(what.exc_value, Interrupted):
            usual(what)
            return
        clocks.append(threading.Timer(SOON, _wake, (what.exc_value.number,)))
        clocks[-1].daemon = True
        clocks[-1].start()

    sys.unraisablehook = lost
    try:
        yield
    finally:
        sys.unraisablehook = usual
        for clock in clocks:
            clock.cancel()


def ignore_requests() -> None:
    """Leave it to the process that started this one to end it: a terminal asks all processes at once."""
    for number in STOPS:
        signal.signal(number, signal.SIG_IGN)


class InterruptGuard:
    """Lets the step at hand be finished when somebody asks to stop: the first time for a while, the second time not.

    Args:
        say: is told the promise when somebody asks, and what went wrong while saving.
        promise: what is going to happen, in words.
        save: writes down what is known so far; called as soon as somebody asks, in the middle of a step.
        patience: seconds that the step is given from then on; `Interrupted` is raised in it afterwards.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        promise: str = "stopping after this step; Ctrl-C again to stop at once",
        *,
        save: Callable[[], None] | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self.say, self.promise, self.save, self.patience = say, promise, save, patience
        self.number: int = signal.SIGINT
        self.asked = threading.Event()
        self._clock: threading.Timer | None = None
        self._shielded, self._late = False, False
        self._open = ExitStack()

    def __enter__(self) -> InterruptGuard:
        self._open.enter_context(heard(self._hear))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._stop_clock()
        finally:
            self._open.close()
            self._stop_clock()  # of a request that was made in between

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock.join()  # what it has sent by now is heard by this guard

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked.is_set():
            self._late = True
            if not self._shielded:
                raise Interrupted(self.number)
            return
        self.number = number
        self.asked.set()
        self.say(self.promise)
        if self.save is not None:
            try:
                self.save()
            except OSError as error:
                self.say(str(error))
        self._clock = threading.Timer(self.patience, _wake, (number,))
        self._clock.daemon = True
        self._clock.start()

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """What is short and must not be left half done, such as writing a frame: it is ended, and then interrupted."""
        self._shielded = True
        try:
            yield
        finally:
            self._shielded = False
        if self._late:
            raise Interrupted(self.number)

    def check(self) -> None:
        """Raise Interrupted when somebody has asked to stop."""
        if self.asked.is_set():
            raise Interrupted(self.number)


def _wake(number: int) -> None:
    """Send the main thread a signal, which also ends its waiting for a file, a socket or another process."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
