"""`sam2core segment`: a photograph and a prompt in, masks, a picture of them and COCO RLE out."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import sam2core
from sam2core.cli.options import Box, Point, build_arguments, model_options, open_model, pairs
from sam2core.cli.progress import Say
from sam2core.jobs.pictures import describe_masks

if TYPE_CHECKING:
    import numpy as np

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
    metavar="PNG[@ID]",
    help="A mask to start from: a picture as large as IMAGE; @ID picks one object of several.",
)
@click.option("--frame", type=click.IntRange(min=0), help="Which picture of a TIFF stack or animation.  [default: 0]")
@click.option(
    "--multimask",
    "multimask_output",
    is_flag=True,
    help="Three masks per object instead of one, best first: part, whole, more.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to.  [default: out; with --json nothing is written unless given]",
)
@click.option("--force", is_flag=True, help="Replace what is there of another picture.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON document on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@model_options
def command(image: str, points: tuple, boxes: tuple, hint: str | None, **options: Any) -> None:
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
    NAME.overlay.png (with --multimask the candidates side by side), and NAME.json: per mask the
    object's number, the model's own estimate of the IoU, area and bbox (x, y, width, height) in
    pixels, and the mask as COCO RLE. They replace what is there of the same picture; what is there of another
    one with --force alone, and what this command did not write never.

    A trailing KEY=VALUE changes the model's spec, such as predictors.image.mask_threshold=0.5.
    """
    if not (points or boxes or hint):
        raise click.UsageError("say what to segment: --point X,Y, --box X0,Y0,X1,Y1 or --mask PNG")
    if len(boxes) > 1 and (points or hint):
        raise click.UsageError("several boxes are several objects; points and --mask describe one")
    changes = pairs(options["overrides"])

    from sam2core.jobs.folder import Origin, try_folder
    from sam2core.jobs.pictures import SegmentOutput, read_picture
    from sam2core.storage import regular_file

    folder = options["output"] or (None if options["as_json"] else Path("out"))
    content = sys.stdin.buffer.read() if image == "-" else None
    source = regular_file(image) if content is None else io.BytesIO(content)
    photograph = read_picture(source, options["frame"], Say(options["quiet"]), name="stdin" if content else None)
    origin = Origin.of(image if content is None else content)
    output = None
    if folder is not None:
        stem = "stdin" if image == "-" else Path(image).stem
        output = SegmentOutput(folder, stem, origin, force=options["force"])
        try_folder(folder)
    height, width = photograph.shape[:2]
    inside = read_mask(hint, (height, width)) if hint else None
    said = {
        "points": [list(point[:2]) for point in points],
        "labels": [int(point[2]) for point in points],
        "boxes": [list(box) for box in boxes],
        "mask": hint,
    }
    model, masks, scores = _predict(photograph, said, inside, options, changes)
    document: dict[str, Any] = {
        "sam2core": sam2core.__version__,
        "model": {**model, "weights": options["weights"]},
        "image": {"path": image, "sha256": origin.sha256, "width": width, "height": height},
        "prompt": said,
        "masks": describe_masks(masks, scores),
    }
    written = [] if output is None else output.write(document, masks, photograph)
    if options["as_json"]:
        click.echo(json.dumps(document, indent=1))
    else:
        click.echo("\n".join(_lines(written, document)))


def _predict(
    photograph: np.ndarray,
    said: Mapping[str, Any],
    inside: np.ndarray | None,
    options: Mapping[str, Any],
    changes: tuple,
) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """What was used, the masks (B, M, H, W) bool, best first, and their estimated IoU (B, M)."""
    import numpy as np

    import registry

    say = Say(options["quiet"])
    name = open_model(options, changes, say)
    started = time.perf_counter()
    predictor = registry.predictor(name, "image", *changes, **build_arguments(options))
    built = time.perf_counter()
    handle = predictor.encode(photograph)
    encoded = time.perf_counter()
    prompt: dict[str, Any] = {}
    if said["points"]:
        prompt["points"] = np.array(said["points"], dtype=np.float32)
        prompt["labels"] = np.array(said["labels"], dtype=np.int64)
    if boxes := said["boxes"]:
        prompt["box"] = np.array(boxes if len(boxes) > 1 else boxes[0], dtype=np.float32)
    if inside is not None:
        prompt["mask_input"] = as_mask_input(inside, predictor.model.image_size)
    result = handle.predict(
        **prompt, multimask_output=True if options["multimask_output"] else None
    )  # None: the model's own rule
    masks, scores = _best_first(result.masks.cpu().numpy(), result.iou.float().cpu().numpy())
    say(f"model {built - started:.2f} s, image {encoded - built:.2f} s, masks {time.perf_counter() - encoded:.2f} s")
    model = {"name": predictor.model.spec.name, "image_size": list(predictor.model.image_size)}
    return model, masks, scores


def _lines(written: Sequence[Path], document: Mapping[str, Any]) -> Iterator[str]:
    """A line per file, for people."""
    for path, facts in zip_longest(written, document["masks"]):
        if facts is None:
            yield str(path)
            continue
        box = ",".join(str(side) for side in facts["bbox"])
        estimate = f"iou {facts['iou']:.2f}  area {facts['area']} px  bbox {box}"
        yield f"{path}  object {facts['object']}  {estimate}"


def read_mask(mask: str, size: tuple[int, int]) -> np.ndarray:
    """A mask picture, PNG or PNG@ID, of `size` (height, width) as (H, W) bool. Raises ValueError for another size."""
    from sam2core.media import labels

    path, chosen = labels.split_choice(mask)
    inside = labels.read_mask(path, chosen)
    if inside.shape != size:
        height, width = inside.shape
        raise ValueError(f"--mask {mask} is {width} x {height}, the photograph {size[1]} x {size[0]}")
    return inside


def as_mask_input(inside: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
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
