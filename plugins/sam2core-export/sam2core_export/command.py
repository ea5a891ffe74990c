"""`sam2core export`: a model as four graphs, for runtimes without Python or without torch."""

from __future__ import annotations

from pathlib import Path

import click

from registry.cli import Failure
from registry.cli.options import Size, pairs


@click.command("export")
@click.argument("name")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--format", "form", type=click.Choice(["onnx", "torch_export"]), default="onnx", show_default=True)
@click.option("-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--weights", metavar="FILE|none", help="Other weights; none: random ones.")
@click.option("--image-size", type=Size(), help="Pixels the model sees: fixed in the graphs.")
@click.option("--slots", type=click.IntRange(min=1), help="Memories in an object's bank.  [default: the model's]")
@click.option("--pointers", type=click.IntRange(min=1), help="Object pointers in a bank.  [default: the policy's]")
@click.option(
    "--points",
    type=click.IntRange(min=1),
    default=12,
    show_default=True,
    help="Points of a prompt, for models that draw prompts; others take any number.",
)
@click.option("--int8", is_flag=True, help="Lossy: weights of the matrix products in 8 bits (onnx only).")
def command(
    name: str,
    overrides: tuple[str, ...],
    form: str,
    folder: Path,
    weights: str | None,
    image_size: int | tuple[int, int] | None,
    slots: int | None,
    pointers: int | None,
    points: int,
    int8: bool,
) -> None:
    """Write a model's image encoder, mask decoder, memory attention and memory encoder as graphs.

    Beside them comes graphs.json: inputs, outputs, sizes and the few constants a runner needs.
    """
    if int8 and form != "onnx":
        raise click.BadParameter("only --format onnx can be quantised", param_hint="--int8")
    import registry

    chosen: bool | str = True if weights is None else False if weights == "none" else weights
    model = registry.build(name, *pairs(overrides), weights=chosen, image_size=image_size)

    def say(line: str) -> None:
        click.echo(line, err=True)

    from sam2core_export.write import export

    try:
        export(model, folder, format=form, slots=slots, pointers=pointers, points=points, int8=int8, progress=say)
    except ModuleNotFoundError as error:
        raise Failure(f"ONNX files need {error.name!r}: pip install 'sam2core-export[onnx]'") from error
    click.echo(folder / "graphs.json")
