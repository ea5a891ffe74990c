"""What the verbs that go through many images share: the kinds of output, the run, and what is told of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from registry.errors import hint
from sam2core.cli.engine import is_here, open_engine
from sam2core.cli.progress import Say
from sam2core.jobs.folder import try_folder
from sam2core.jobs.interrupt import InterruptGuard
from sam2core.jobs.pictures import Done, Made, Picture, Work, run_pictures
from sam2core.jobs.writers import Labels

if TYPE_CHECKING:
    from sam2core.protocols import Writer

PROMISE = "stopping after this image; Ctrl-C again to stop at once"


class Written(NamedTuple):
    """What is written: what is drawn, and labels for other tools."""

    drawn: tuple[str, ...]
    labels: tuple[str, ...]


class Kinds(click.ParamType):
    """Some of what a verb draws, and kinds of the part ``writer``, between commas."""

    name = "KIND,..."

    def __init__(self, drawn: Sequence[str]) -> None:
        self.drawn = tuple(drawn)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Written:
        if isinstance(value, Written):
            return value
        words = [word.strip() for word in value.split(",")]
        others = [word for word in words if word not in self.drawn]
        labels: list[str] = []
        if others:
            import registry

            labels = list(registry.components("writer"))
            known = [*self.drawn, *labels]
            if unknown := [word for word in others if word not in labels]:
                self.fail(f"{unknown[0]!r} is none of {', '.join(known)}{hint(unknown[0], known)}", param, ctx)
        return Written(
            tuple(kind for kind in self.drawn if kind in words), tuple(kind for kind in labels if kind in words)
        )


def label_writers(written: Written) -> dict[str, Writer]:
    """What writes the labels that were asked for."""
    from registry.plugins import current

    return {kind: current().components.make("writer", {"type": kind}) for kind in written.labels}


def go_through(
    pictures: Sequence[Picture],
    work: Callable[[int], Work],
    output: Path,
    options: Mapping[str, Any],
    say: Say,
    *,
    bars: PictureBars | None = None,
) -> None:
    """Do images and tell of each; exit code 1 when some could not be read.

    bars    of the work itself, where it says how far each image is; otherwise one bar is drawn over all
    """
    from sam2core.jobs.found import FoundPictures

    engine = open_engine(options)
    written = options["write"]
    labels = Labels(
        output,
        label_writers(written),
        [one.name for one in pictures],
        "images",
        force=options["force"],
    )
    try_folder(output)
    with bars or PictureBars(options["quiet"], len(pictures)) as shown, InterruptGuard(say, PROMISE) as guard:

        def told(made: Made, done: int) -> None:
            shown.count(done)
            for note in made.notes:
                say(note)

        done = run_pictures(engine, work, pictures, guard, told)
    if written.labels:
        names = {str(one.path): one.name for one in pictures}
        found = FoundPictures(done.documents, [names[one.path] for one in done.pictures])
        for sentence in labels.write(found):
            say(sentence)
    places = [str(output / kind) + os.sep for kind in written.labels]
    summarise(done, "images", "masks", options, say, places)


def summarise(done: Done, what: str, of: str, options: Mapping[str, Any], say: Say, labels: Sequence[str] = ()) -> None:
    """Print what became of images or videos; exit code 1 when some could not be done."""
    for one in done.failed:
        click.echo(f"{one.path}: {one.error}", err=True)
    count = len(done.pictures) + len(done.failed)
    if done.failed:
        click.echo(f"{len(done.failed)} of {count} {what} could not be done", err=True)
    if count > 1:
        say(f"{count} {what} in {done.seconds:.1f} s, {count / max(done.seconds, 1e-6):.2f} {what}/s")
    if options["as_json"]:
        click.echo(json.dumps(done.summary(what), indent=1))
    elif done.pictures:
        click.echo("\n".join(f"{one.document}  {one.masks} {of}" for one in done.pictures))
    for place in labels if not options["as_json"] else ():
        click.echo(place)
    if done.failed:
        raise click.exceptions.Exit(1)


class PictureBars:
    """A bar on stderr over all images, or one for each in its turn; nothing where nothing is to be said."""

    def __init__(self, quiet: bool, total: int) -> None:
        self.quiet, self.total = quiet, total
        self.number = 0
        self._bar: Any = None

    def count(self, done: int) -> None:
        """So many images are done."""
        if self.number:  # each has its own
            self._end()
        else:
            self._update("images", done, self.total)

    def begin(self, picture: Picture) -> Callable[[int, int | None], None]:
        """A bar for the image that comes next."""
        self._end()
        self.number += 1
        label = f"{self.number}/{self.total} {picture.path.name}" if self.total > 1 else picture.path.name
        return lambda done, total: self._update(label, done, total)

    def _update(self, label: str, done: int, total: int | None) -> None:
        if self.quiet:
            return
        if self._bar is None:
            self._bar = click.progressbar(length=total, label=label, file=sys.stderr)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)
            self._bar = None

    def __enter__(self) -> PictureBars:
        return self

    def __exit__(self, *error: Any) -> None:
        self._end()


def bars_of(options: Mapping[str, Any], count: int) -> PictureBars | None:
    """Bars for each image, where all is done in this process."""
    return PictureBars(options["quiet"], count) if is_here(options) else None
