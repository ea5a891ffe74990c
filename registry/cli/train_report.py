"""What a training run shows of itself: lines on stderr, TensorBoard when it is there, a plot; and what it is fed."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sam2core.training.loop import Progress
    from sam2core.training.recipe import Recipe

SMOOTH = 0.9  # of the line that is drawn over the losses


class Reporter:
    """Tells of every step: a line every 20 steps, events for TensorBoard when it is installed, a plot at the end."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.board: Any = None
        self.frames, self.seconds = 0, 0.0
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return  # an extra that nobody has to have
        self.board = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, progress: Progress) -> None:
        self.frames += progress.frames
        if progress.validation:
            told = "  ".join(f"{name} {value:.3f}" for name, value in progress.validation.items())
            click.echo(f"step {progress.step}: {told}", err=True)
        if progress.step % 20 == 0 or progress.step == progress.steps:
            losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
            speed = self.frames / max(progress.seconds - self.seconds, 1e-6)
            self.frames, self.seconds = 0, progress.seconds
            click.echo(
                f"{progress.stage} {progress.step}/{progress.steps}  {progress.seconds:.0f} s  "
                f"{speed:.1f} frames/s  {losses}",
                err=True,
            )
        if self.board is not None:
            values = {f"loss/{name}": value for name, value in progress.losses.items()}
            values |= {f"validation/{name}": value for name, value in (progress.validation or {}).items()}
            for name, value in {**values, "rate": progress.rate}.items():
                self.board.add_scalar(name, value, progress.step)

    def close(self) -> None:
        """Finish the events and draw the losses."""
        if self.board is not None:
            self.board.close()
        plot(self.folder / "metrics.csv", self.folder / "losses.png")


def plot(metrics: Path, target: Path) -> None:
    """Draw the total loss of metrics.csv, faint as it is and dark smoothed, one tick a stage."""
    from PIL import Image, ImageDraw

    with open(metrics, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["total"] not in ("", "nan", "inf")]
    if len(rows) < 2:
        return
    values = [float(row["total"]) for row in rows]
    smooth = [values[0]]
    for value in values[1:]:
        smooth.append(SMOOTH * smooth[-1] + (1 - SMOOTH) * value)
    width, height, left, below = 900, 420, 70, 40
    low, high = 0.0, sorted(values)[int(0.98 * (len(values) - 1))] * 1.05
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)

    def place(index: int, value: float) -> tuple[float, float]:
        x = left + (width - left - 20) * index / (len(rows) - 1)
        return x, height - below - (height - below - 30) * min((value - low) / (high - low), 1.02)

    for part in range(5):
        value = low + (high - low) * part / 4
        y = place(0, value)[1]
        pen.line([(left, y), (width - 20, y)], fill=(225, 225, 225))
        pen.text((8, y - 6), f"{value:.3g}", fill=(60, 60, 60))
    stage = None
    for index, row in enumerate(rows):
        if row["stage"] != stage:
            stage = row["stage"]
            x = place(index, 0)[0]
            pen.line([(x, 20), (x, height - below)], fill=(190, 190, 190))
            pen.text((x + 4, 18), str(stage), fill=(60, 60, 60))
    for values_, colour, thick in ((values, (190, 205, 230), 1), (smooth, (30, 70, 150), 2)):
        pen.line([place(index, value) for index, value in enumerate(values_)], fill=colour, width=thick)
    pen.text((left, height - 24), f"total loss by step, {rows[0]['step']} to {rows[-1]['step']}", fill=(60, 60, 60))
    picture.save(target)


def contact_sheet(recipe: Recipe, data: Path, target: Path, *, rows: int = 4, side: int = 192) -> Path:
    """Draw samples as the last stage sees them, objects in colours: pictures in a grid, clips a row each."""
    import tempfile

    import numpy as np
    from PIL import Image

    from registry.cli.train import open_source
    from sam2core.predictors.render import overlay
    from sam2core.training.augment import Mixture

    stage = recipe.stages[-1]
    with tempfile.TemporaryDirectory() as folder:
        collections = [open_source(recipe, number, data, Path(folder), True) for number in range(len(recipe.sources))]
        mixture = Mixture(collections, [s.weight for s in recipe.sources], augment=recipe.augment, seed=recipe.seed)
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
