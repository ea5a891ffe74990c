"""What a training run shows of itself: lines on stderr, TensorBoard when it is there, a plot; and what it is fed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.train_data import open_sources

if TYPE_CHECKING:
    from sam2core.training.loop import Progress
    from sam2core.training.recipe import Recipe

SMOOTH = 0.9  # of the line that is drawn over the losses
PATIENCE = 10.0  # seconds between lines
WIDTH, HEIGHT, LEFT, BELOW = 900, 420, 70, 40  # pixels of a plot, and of its margins
COLOURS = ((30, 70, 150), (190, 80, 30), (40, 130, 70), (130, 60, 140), (110, 110, 110))


class Reporter:
    """Tells of a run: a line every ten seconds, events for TensorBoard when it is installed, a plot at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.board: Any = None
        self.told: Progress | None = None
        self.frames = 0

    def __call__(self, progress: Progress) -> None:
        self.frames += progress.frames
        if progress.validation:
            told = "  ".join(f"{name} {value:.3f}" for name, value in progress.validation.items())
            click.echo(f"step {progress.step}: {told}", err=True)
        since = self.told.seconds if self.told else 0.0
        if self.told is None or progress.seconds - since > PATIENCE or progress.step == progress.steps:
            self._line(progress, self.told.step if self.told else progress.step - 1, progress.seconds - since)
        if self.board is None:
            self.board = _board(self.folder, progress.step)
        values = {f"loss/{name}": value for name, value in progress.losses.items()}
        values |= {f"validation/{name}": value for name, value in (progress.validation or {}).items()}
        for name, value in {**values, "rate": progress.rate}.items():
            self.board.add_scalar(name, value, progress.step)

    def _line(self, progress: Progress, before: int, seconds: float) -> None:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        left = (progress.steps - progress.step) * seconds / (progress.step - before)
        click.echo(
            f"{progress.stage} {progress.step}/{progress.steps}  {_clock(progress.seconds)}, about {_clock(left)} left"
            f"  {self.frames / max(seconds, 1e-6):.1f} frames/s  {losses}",
            err=True,
        )
        self.told, self.frames = progress, 0

    def close(self) -> None:
        """Finish the events and draw what the tables hold."""
        if self.board is not None:
            self.board.close()
        plot(self.folder / "metrics.csv", self.folder / "validation.csv", self.folder / "losses.png")


class _NoBoard:
    """Stands in for TensorBoard, an extra that nobody has to have."""

    def add_scalar(self, name: str, value: float, step: int) -> None: ...

    def close(self) -> None: ...


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return _NoBoard()
    # events beyond the checkpoint that a killed run left behind are not shown
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)


def _clock(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.1f} h"


def plot(metrics: Path, validation: Path, target: Path) -> None:
    """Draw the total loss of metrics.csv, faint as it is and dark smoothed, and below it what validation.csv holds."""
    from PIL import Image

    rows = [row for row in _table(metrics) if row["total"] not in ("", "nan", "inf")]
    if len(rows) < 2:
        return
    steps = [int(row["step"]) for row in rows]
    values = [float(row["total"]) for row in rows]
    smooth = [values[0]]
    for value in values[1:]:
        smooth.append(SMOOTH * smooth[-1] + (1 - SMOOTH) * value)
    high = sorted(values)[int(0.98 * (len(values) - 1))] * 1.05
    panels = [Panel(steps[0], steps[-1], high)]
    panels[0].stages(steps, [row["stage"] for row in rows])
    panels[0].line(steps, values, (190, 205, 230), 1)
    panels[0].line(steps, smooth, COLOURS[0], 2)
    panels[0].caption(f"total loss by step, {steps[0]} to {steps[-1]}")
    checked = _table(validation)
    if checked:
        names = [name for name in checked[0] if name != "step"]
        highest = max(float(row[name] or 0) for row in checked for name in names)
        panels.append(Panel(steps[0], steps[-1], max(highest * 1.05, 1e-6)))
        for number, name in enumerate(names):
            found = [row for row in checked if row[name]]
            panels[1].line(
                [int(row["step"]) for row in found], [float(row[name]) for row in found], COLOURS[number % 5]
            )
            panels[1].caption(name, COLOURS[number % 5])
    picture = Image.new("RGB", (WIDTH, HEIGHT * len(panels)), "white")
    for number, panel in enumerate(panels):
        picture.paste(panel.picture, (0, HEIGHT * number))
    picture.save(target)


def _table(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


class Panel:
    """Axes from 0 to `high` over the steps of a run, and lines on them."""

    def __init__(self, first: int, last: int, high: float):
        from PIL import Image, ImageDraw

        self.first, self.last, self.high = first, last, high
        self.picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
        self.pen = ImageDraw.Draw(self.picture)
        self.words = LEFT
        for part in range(5):
            y = self.place(first, high * part / 4)[1]
            self.pen.line([(LEFT, y), (WIDTH - 20, y)], fill=(225, 225, 225))
            self.pen.text((8, y - 6), f"{high * part / 4:.3g}", fill=(60, 60, 60))

    def place(self, step: int, value: float) -> tuple[float, float]:
        """Where a value lies on the image, in pixels."""
        x = LEFT + (WIDTH - LEFT - 20) * (step - self.first) / max(self.last - self.first, 1)
        return x, HEIGHT - BELOW - (HEIGHT - BELOW - 30) * min(value / self.high, 1.02)

    def stages(self, steps: list[int], names: list[str]) -> None:
        """A tick and a name where each stage begins."""
        for number, (step, name) in enumerate(zip(steps, names)):
            if number == 0 or name != names[number - 1]:
                x = self.place(step, 0)[0]
                self.pen.line([(x, 20), (x, HEIGHT - BELOW)], fill=(190, 190, 190))
                self.pen.text((x + 4, 18), name, fill=(60, 60, 60))

    def line(self, steps: list[int], values: list[float], colour: tuple[int, int, int], thick: int = 2) -> None:
        """A line through points; dots where they are few."""
        places = [self.place(step, value) for step, value in zip(steps, values)]
        self.pen.line(places, fill=colour, width=thick)
        for x, y in places if len(places) < 30 else []:
            self.pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)

    def caption(self, text: str, colour: tuple[int, int, int] = (60, 60, 60)) -> None:
        """Words below the axes, one after the other."""
        self.pen.text((self.words, HEIGHT - 24), text, fill=colour)
        self.words += int(self.pen.textlength(text)) + 24


def contact_sheet(recipe: Recipe, data: Path, target: Path, *, rows: int = 4, side: int = 192) -> Path:
    """Draw samples as the last stage sees them, objects in colours: images in a grid, videos a row each."""
    import tempfile

    import numpy as np
    from PIL import Image

    from sam2core.media.render import overlay

    stage = recipe.stages[-1]
    with tempfile.TemporaryDirectory() as folder:
        mixture = open_sources(recipe, data, Path(folder), True)
        lines = []
        for row in range(rows):
            shown = []
            for column in range(1 if stage.frames > 1 else 6):
                number = row * 6 + column
                clip = mixture.sample(
                    0,
                    number,
                    size=stage.size,
                    objects=stage.objects,
                    min_area=stage.min_area,
                    frames=stage.frames,
                )
                for frame, masks in zip(clip.frames, clip.masks):
                    drawn = overlay(frame, masks)
                    shown.append(np.asarray(Image.fromarray(drawn).resize((side, side), Image.Resampling.LANCZOS)))
            lines.append(np.concatenate(shown, axis=1))
    Image.fromarray(np.concatenate(lines, axis=0)).save(target)
    return target
