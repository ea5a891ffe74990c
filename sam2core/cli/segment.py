"""`sam2core segment`: a photograph and a prompt in, masks, a picture of them and COCO RLE out."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.options import DEFAULT_MODEL, Box, Point, build_arguments, model_options, pairs

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

    from registry.spec import ModelSpec

HINT = 10.0  # the logit a mask given as a picture stands for: sure, and not beyond what the encoder saw in training


@click.command()
@click.argument("image", type=click.Path(allow_dash=True))
@click.option(
    "-p",
    "--point",
    "points",
    type=Point(),
    multiple=True,
    help="A click on the object, or with ,0 beside it. Repeat it to say more about the same object.",
)
@click.option(
    "-b",
    "--box",
    "boxes",
    type=Box(),
    multiple=True,
    help="A box around the object. Several boxes are several objects.",
)
@click.option(
    "--mask",
    "hint",
    type=click.Path(exists=True, dir_okay=False),
    help="A mask to start from: a picture as large as IMAGE, white inside.",
)
@click.option("--several", is_flag=True, help="Three masks per object instead of one, best first: part, whole, more.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to.  [default: out; with --json nothing is written unless given]",
)
@click.option("--json", "as_json", is_flag=True, help="Print the JSON document on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@model_options
def command(
    image: str,
    points: tuple,
    boxes: tuple,
    hint: str | None,
    several: bool,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Cut out what you point at in a photograph.

    \b
    sam2core segment photo.jpg --point 300,130
    sam2core segment photo.jpg --point 300,130 --point 80,90,0        more of the one, none of the other
    sam2core segment photo.jpg --box 10,20,200,180 --box 300,40,420,200        two objects
    cat photo.jpg | sam2core segment - --box 10,20,200,180 --json

    Coordinates are pixels of the picture as viewers show it: the camera's rotation tag (EXIF) is
    applied first, and the masks have that orientation. Points, one box and a mask describe one object
    together; with several boxes there is nothing but boxes.

    Written to the folder: NAME.mask0.png and so on (255 inside, 0 outside, the photograph's size),
    NAME.overlay.png (with --several the candidates side by side), and NAME.json: per mask the
    object's number, the model's own estimate of the IoU, area and bbox (x, y, width, height) in
    pixels, and the mask as COCO RLE. A NAME.json that is not of this command is never replaced.

    A trailing KEY=VALUE changes the model's spec, such as predictors.image.mask_threshold=0.5.
    """
    if not (points or boxes or hint):
        raise click.UsageError("say what to segment: --point X,Y, --box X0,Y0,X1,Y1 or --mask PNG")
    if len(boxes) > 1 and (points or hint):
        raise click.UsageError("several boxes are several objects; points and --mask describe one")

    changes = pairs(options["overrides"])

    import numpy as np

    import registry

    def say(text: str) -> None:
        if not quiet:
            click.echo(text, err=True)

    folder = output or (None if as_json else Path("out"))
    stem = "stdin" if image == "-" else Path(image).stem
    if folder is not None:
        check_own(folder / f"{stem}.json")
    photograph = read(image)
    inside = read_mask(hint, photograph.size) if hint else None

    name = options["model"] or DEFAULT_MODEL
    if options["model"] is None:
        say(f"{name} is a small model for trying things out; an official one: --model sam2.1_hiera_l (sam2core models)")
    if options["weights"] is None:
        fetch(registry.spec(name, *changes), quiet)
    started = time.perf_counter()
    predictor = registry.predictor(name, "image", *changes, **build_arguments(options))
    built = time.perf_counter()
    handle = predictor.encode(photograph)
    encoded = time.perf_counter()
    prompt: dict[str, Any] = {}
    if points:
        prompt["points"] = np.array([point[:2] for point in points], dtype=np.float32)
        prompt["labels"] = np.array([point[2] for point in points], dtype=np.int64)
    if boxes:
        prompt["box"] = np.array(boxes if len(boxes) > 1 else boxes[0], dtype=np.float32)
    if inside is not None:
        prompt["mask"] = as_hint(inside, predictor.model.image_size)
    result = handle.predict(**prompt, several=True if several else None)  # None: the model's own rule
    masks, scores = _best_first(result.masks.cpu().numpy(), result.iou.float().cpu().numpy())
    say(f"model {built - started:.2f} s, image {encoded - built:.2f} s, masks {time.perf_counter() - encoded:.2f} s")

    spec = predictor.model.spec
    document: dict[str, Any] = {
        "sam2core": _version(),
        "model": {"name": spec.name, "image_size": list(predictor.model.image_size), "weights": options["weights"]},
        "image": {"path": image, "width": photograph.width, "height": photograph.height},
        "prompt": {
            "points": [list(point[:2]) for point in points],
            "labels": [int(point[2]) for point in points],
            "boxes": [list(box) for box in boxes],
            "mask": hint,
        },
        "masks": describe(masks, scores),
    }
    lines = []
    if folder is not None:
        lines = write(document, masks, photograph, folder, stem)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo("\n".join(lines))


def check_own(path: Path) -> None:
    """Raise ValueError when a file that is there is no document of this command, which alone may be replaced."""
    if not path.exists():
        return
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        document = None
    if not isinstance(document, dict) or not {"sam2core", "model", "prompt", "masks"} <= document.keys():
        raise ValueError(f"{path} is there, and segment did not write it: -o OTHER keeps it")


def fetch(spec: ModelSpec, quiet: bool) -> None:
    """Download the model's weights with a bar on stderr, unless they are here."""
    from contextlib import nullcontext

    from registry.weights import locate
    from sam2core.cli.download import progress
    from sam2core.cli.models import whereabouts

    if whereabouts(spec)[0] == "remote":
        with nullcontext() if quiet else progress(f"downloading {spec.name}") as report:
            locate(spec, progress=report)


def read(image: str) -> Image:
    """Open a photograph from a path or, with ``-``, from stdin, and turn it the way viewers show it.

    Raises:
        OSError: no such file, or no picture in it.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    source: Any = image
    if image == "-":
        source = io.BytesIO(sys.stdin.buffer.read())
    elif not Path(image).is_file():
        raise OSError(f"{image}: {'is a folder, not a picture' if Path(image).is_dir() else 'no such file'}")
    try:
        return ImageOps.exif_transpose(Image.open(source))
    except Image.DecompressionBombError as error:
        raise ValueError(f"{image}: {error}") from error
    except UnidentifiedImageError:
        raise OSError(f"{'stdin' if image == '-' else image}: not a picture that Pillow can read") from None


def read_mask(path: str, size: tuple[int, int]) -> np.ndarray:
    """Read a mask picture of `size` (width, height) as (H, W) bool. Raises ValueError when it has another size."""
    import numpy as np

    picture = read(path).convert("L")
    if picture.size != size:
        raise ValueError(f"--mask {path} is {picture.width} x {picture.height}, the photograph {size[0]} x {size[1]}")
    return np.asarray(picture) > 127


def as_hint(inside: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Turn a mask of the photograph into the low-resolution logits a predictor takes as a hint: (h, w) float32."""
    import numpy as np
    from PIL import Image

    height, width = (side // 4 for side in image_size)
    share = Image.fromarray(inside.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    return (np.asarray(share, dtype=np.float32) / 127.5 - 1.0) * HINT


def _best_first(masks: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order every object's candidates by their estimated IoU: masks (B, M, H, W), scores (B, M)."""
    import numpy as np

    order = np.argsort(-scores, axis=1, kind="stable")
    rows = np.arange(len(order))[:, None]
    return masks[rows, order], scores[rows, order]


def describe(masks: np.ndarray, scores: np.ndarray) -> list[dict[str, Any]]:
    """Say per mask what a program wants to know; masks (B, M, H, W) bool, scores (B, M)."""
    import numpy as np

    from sam2core.ops import rle

    found = []
    for number, (candidates, estimates) in enumerate(zip(masks, scores)):
        for rank, (mask, estimate) in enumerate(zip(candidates, estimates)):
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            bbox = [0, 0, 0, 0]
            if rows.size:
                x, y = int(columns[0]), int(rows[0])
                bbox = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
            found.append(
                {
                    "object": number,
                    "rank": rank,
                    "iou": round(float(estimate), 4),
                    "area": int(mask.sum()),
                    "bbox": bbox,
                    "segmentation": rle.encode(mask),
                }
            )
    return found


def write(document: dict[str, Any], masks: np.ndarray, photograph: Image, folder: Path, stem: str) -> list[str]:
    """Write mask files, the overlay and the document; note the files in it; return a line per file for people."""
    import numpy as np
    from PIL import Image

    from sam2core import storage
    from sam2core.media.render import overlay

    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (mask, facts) in enumerate(zip(masks.reshape(-1, *masks.shape[2:]), document["masks"])):
        path = folder / f"{stem}.mask{number}.png"
        Image.fromarray(mask.astype(np.uint8) * 255).save(path)
        facts["file"] = path.name
        x, y, width, height = facts["bbox"]
        lines.append(
            f"{path}  object {facts['object']}  iou {facts['iou']:.2f}  area {facts['area']} px  "
            f"bbox {x},{y},{width},{height}"
        )
    prompt = document["prompt"]
    backdrop = eight_bit(photograph)
    panels = [
        overlay(backdrop, masks[:, rank], points=prompt["points"], labels=prompt["labels"], boxes=prompt["boxes"])
        for rank in range(masks.shape[1])
    ]
    path = folder / f"{stem}.overlay.png"
    Image.fromarray(np.concatenate(panels, axis=1)).save(path)
    document["overlay"] = path.name
    lines.append(str(path))
    path = folder / f"{stem}.json"
    storage.write_text(path, json.dumps(document, indent=1) + "\n", force=True)
    return [*lines, str(path)]


def eight_bit(photograph: Image) -> np.ndarray:
    """A picture of any mode as (H, W, 3) uint8, to draw on; 16-bit ones are scaled, not clipped."""
    import numpy as np

    if photograph.mode.startswith("I") or photograph.mode == "F":
        values = np.asarray(photograph, dtype=np.float32)
        top = 65535 if photograph.mode.startswith("I") else 1.0
        return np.repeat(np.clip(values * (255 / top), 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(photograph.convert("RGB"))


def _version() -> str:
    from sam2core import __version__

    return __version__
