"""Talking on stderr and listening to the keyboard while something long runs."""

from __future__ import annotations

import sys
import threading
import time

import click


class Say:
    """Lines on stderr, and one that is written over again."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._over = 0

    def __call__(self, text: str, *, always: bool = False) -> None:
        if always or not self.quiet:
            self.over("")
            click.echo(text, err=True)

    def over(self, text: str) -> None:
        """Replace the line that `over` wrote; on terminals only."""
        if text or self._over:
            sys.stderr.write("\r" + text.ljust(self._over) + ("" if text else "\r"))
            sys.stderr.flush()
        self._over = len(text)


class Bar:
    """How far it is and how fast: a bar on a terminal, a line now and then elsewhere."""

    EVERY, LINES = 0.1, 15.0

    def __init__(self, say: Say, label: str, total: int | None, done: int) -> None:
        self.say, self.label, self.total, self.first, self.done = say, label, total, done, done
        self.begun = self.shown = time.monotonic()
        self.live = sys.stderr.isatty()

    def update(self, done: int) -> None:
        self.done = done
        now = time.monotonic()
        if not self.say.quiet and now - self.shown >= (self.EVERY if self.live else self.LINES):
            self.shown = now
            (self.say.over if self.live else self.say)(self._text(now))

    def _text(self, now: float) -> str:
        rate = (self.done - self.first) / max(now - self.begun, 1e-6)
        text = f"{self.label} {self.done}" + ("" if self.total is None else f"/{self.total}") + f"  {rate:.2f} frames/s"
        if not self.total:
            return text
        left = round((self.total - self.done) / max(rate, 1e-6))
        filled = round(24 * self.done / self.total)
        bar = f"  [{'#' * filled}{'-' * (24 - filled)}]" if self.live else ""
        return f"{text}{bar}  {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"

    def finish(self) -> None:
        seconds = time.monotonic() - self.begun
        count = self.done - self.first
        self.say(f"{self.label}: {count} frames in {seconds:.1f} s, {count / max(seconds, 1e-6):.2f} frames/s")


class Bars:
    """A bar for each thing that is done, one after the other: called with what, how much of it is done, and of what."""

    def __init__(self, say: Say) -> None:
        self.say = say
        self._bar: Bar | None = None

    def __call__(self, label: str, done: int, total: int | None) -> None:
        if self._bar is None or self._bar.label != label:
            self.finish()
            self._bar = Bar(self.say, label, total, done - 1)
        self._bar.update(done)

    def finish(self) -> None:
        """Say how long the last one took."""
        if self._bar is not None:
            self._bar.finish()
            self._bar = None


def listen(asked: threading.Event) -> None:
    """Take q and Enter for a request to stop."""
    if not sys.stdin.isatty():
        return

    def wait() -> None:
        for line in sys.stdin:
            if line.strip().lower() in ("q", "quit"):
                asked.set()
                return

    threading.Thread(target=wait, name="keys", daemon=True).start()
