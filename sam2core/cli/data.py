"""`sam2core data`: look at labelled data of any format, and write it in another."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.options import format_option

if TYPE_CHECKING:
    from sam2core.data.footage import Footage
    from sam2core.data.formats import DataSet

ROWS, COLUMNS, SIDE = 4, 6, 192
"""Of the contact sheet; the last in pixels."""

option_option = click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the format's reader, see docs/data.md; may be repeated.",
)


@click.group()
def command() -> None:
    """Labelled data: check what a folder holds, convert it to another format, make a sample."""


def opened(root: Path, format_name: str, options: tuple[str, ...]) -> DataSet:
    """A folder's data, which is told in a line. Raises ValueError for what is amiss."""
    import yaml

    from sam2core.data.formats import open_data

    told: dict[str, Any] = {}
    for text in options:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"--option is KEY=VALUE, not {text!r}")
        try:
            told[key] = None if value == "none" else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.UsageError(f"--option {text!r}: {' '.join(str(error).split())}") from error
    data = open_data(root, format_name, **told)
    click.echo(data.sentence, err=True)
    return data


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@format_option
@option_option
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw a contact sheet with the objects in colours.",
)
def check(folder: Path, format_name: str, options: tuple[str, ...], output: Path | None) -> None:
    """Read all of FOLDER: what there is, how large, in which order, and what cannot be used and why.

    \b
    sam2core data check nuclei -o nuclei.png
    sam2core data check coco --format coco --option annotations=annotations/instances_val2017.json

    Exit code 1 when something cannot be read.
    """
    from sam2core.cli.options import check_folder
    from sam2core.data.checking import check as check_footage

    if output is not None:
        check_folder(output)
    data = opened(folder, format_name, options)
    with click.progressbar(length=len(data.footage), label="reading", file=sys.stderr) as bar:
        found = check_footage(data.footage, lambda done: bar.update(1))
    for line in found.lines():
        click.echo(line)
    for problem in found.problems:
        click.echo(f"cannot be used: {problem}")
    if output is not None:
        click.echo(draw(data.footage, output))
    if found.problems:
        raise click.exceptions.Exit(1)


@command.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--to", required=True, metavar="FORMAT", help="The format to write, see docs/data.md.")
@format_option
@option_option
def convert(source: Path, out: Path, to: str, format_name: str, options: tuple[str, ...]) -> None:
    """Write the labelled data of SOURCE in another format to the new folder OUT, and say what was lost.

    \b
    sam2core data convert cvat-export videos --to davis
    sam2core data convert voc yolo --to yolo
    """
    from sam2core.data.converting import convert as converted

    data = opened(source, format_name, options)
    with click.progressbar(length=len(data.footage), label="writing", file=sys.stderr) as bar:
        written = converted(data, out, to, lambda done: bar.update(1))
    for sentence in written.sentences:
        click.echo(sentence, err=True)
    click.echo(out)


@command.command()
@click.argument("out", type=click.Path(path_type=Path))
def sample(out: Path) -> None:
    """Make the folder OUT with twenty labelled images of nuclei (CC0), to try training with.

    \b
    sam2core data sample nuclei
    sam2core train check --recipe finetune_image --data nuclei
    """
    import zipfile

    import registry
    from sam2core.data.converting import new_folder

    samples = Path(registry.__file__).parent / "samples"
    with new_folder(out) as folder, zipfile.ZipFile(samples / "nuclei.zip") as archive:
        archive.extractall(folder)
    click.echo(out)


def draw(footage: list[Footage], target: Path) -> Path:
    """A contact sheet of frames spread evenly over all of them; what cannot be read is left out."""
    import numpy as np
    from PIL import Image

    from sam2core.data.pictures import DataError
    from sam2core.media.render import overlay

    frames = [(item, frame) for item in footage for frame in range(item.length)]
    step = max(1, len(frames) // (ROWS * COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * SIDE, ROWS * SIDE))
    for place, (item, frame) in enumerate(frames[::step][: ROWS * COLUMNS]):
        try:
            (picture,), masks = item.pictures([frame]), list(item.read(frame).values())
        except DataError:
            continue
        drawn = Image.fromarray(overlay(picture, np.stack(masks)) if masks else picture)
        drawn.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        sheet.paste(drawn, (place % COLUMNS * SIDE, place // COLUMNS * SIDE))
    sheet.save(target)
    return target
