"""`sam2core segment`: photos and prompts in, masks, images of them and COCO RLE out."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from sam2core.cli.engine import DetectorMaker, PredictorMaker, detector_options, engine_options, placed
from sam2core.cli.options import Box, Point, build_arguments, chosen_dtype, divided, model_flags, open_model
from sam2core.cli.pictures import Kinds, go_through
from sam2core.cli.progress import Say
from sam2core.cli.prompts import InOrder, spoken
from sam2core.jobs.prompts import Prompts, UserPrompt
from sam2core.jobs.segment import KINDS


@click.command(cls=InOrder)
@click.argument("words", nargs=-1, required=True, metavar="IMAGE... [KEY=VALUE]...")
@click.option(
    "--object", "objects", multiple=True, metavar="NAME[:CLASS]", help="Prompts after it are for this object."
)
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
    "mask",
    metavar="PNG[@ID]",
    help="A mask to start from: an image as large as IMAGE; @ID picks one object of several.",
)
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(exists=True),
    metavar="FILE",
    help="Prompts of many images: JSON, CSV, JSON lines, COCO, or a folder of YOLO's txt.",
)
@click.option(
    "--like",
    "like",
    nargs=2,
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="IMAGE MASK",
    help="A labelled image whose objects are looked for on all others; MASK is a PNG. Repeat it to show more.",
)
@click.option("--frame", type=click.IntRange(min=0), help="Which image of a TIFF stack or animation.  [default: 0]")
@click.option(
    "--multimask",
    "multimask_output",
    is_flag=True,
    help="Three masks per object instead of one, the highest estimate first.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write to.  [default: out; with --json one image alone writes nothing unless given]",
)
@click.option("--write", type=Kinds(KINDS), default="masks,overlay", show_default=True,
              help="What to write beside NAME.json.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace what is there of another image, and do again what is done.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout: the document of one, a summary of many.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@detector_options
@engine_options("Images")
@model_flags
def command(words: tuple[str, ...], points: tuple, boxes: tuple, mask: str | None, **options: Any) -> None:
    """Cut out what you point at in images.

    \b
    sam2core segment photo.jpg --point 300,130
    sam2core segment photo.jpg --point 300,130 --point 80,90,0        more of the one, none of the other
    sam2core segment photo.jpg --box 10,20,200,180 --box 300,40,420,200        two objects
    sam2core segment photo.jpg --object ann:person --point 300,130 --object car --box 10,20,200,180
    sam2core segment photos/ --prompts boxes.json --workers 2             a detector's boxes
    sam2core segment photos/ --like labelled.jpg labelled.png              what the mask shows, on all of them
    cat photo.jpg | sam2core segment - --box 10,20,200,180 --json

    IMAGE is a file, a folder, a quoted pattern, or a list: a CSV or JSON lines with a column `file`.
    Coordinates are pixels of the image as viewers show it: the camera's rotation tag (EXIF) is
    applied first, and the masks have that orientation. Points, one box and a mask describe one object
    together; with several boxes there is nothing but boxes, unless each --object says what is its own.

    --prompts FILE says of each image what is in it; docs/images.md has its forms. An image of
    which it says nothing gets a document without masks.

    --like IMAGE MASK shows what to look for: a number of the mask is an object, the same in all masks, and one
    that the model does not see on an image gets no mask there.

    Written to the folder: NAME.json, per mask the object's number, the model's own estimate of the IoU,
    area and bbox (x, y, width, height) in pixels, and the mask as COCO RLE; and as --write says:

    \b
    masks     NAME.mask0.png and so on: 255 inside, 0 outside, the image's size
    overlay   NAME.overlay.png (with --multimask the candidates side by side)
    palette   NAME.palette.png: a pixel is its object's number, 1 for the first
    cutouts   NAME.cutout0.png: the object alone, transparent around it

    and labels of all images together for other tools, in a folder each: coco, yolo, labelstudio (with copies of
    the images, under their own names), shards (COCO files of 1,000 images each, which stay where they are),
    geojson (in the coordinates of a GeoTIFF; needs sam2core[geo]).

    They replace what is there of the same image; what is there of another one with --force alone, and what this
    command did not write never. Of many images, those that are done are not done again, so that a run that was
    stopped, by whatever, resumes with the same command; one that cannot be read stops no other (exit code 1).

    A trailing KEY=VALUE changes the model's spec, such as predictors.image.mask_threshold=0.5.
    """
    images, options["overrides"] = divided(words)
    given = points or boxes or mask
    file = options["prompts_file"]
    if file is None and len(images) == 1 and _is_list(images[0]):
        file = images[0]
    detector, like = options["detector"], options["like"]
    if not (given or file or detector or like):
        said = "--point X,Y, --box X0,Y0,X1,Y1, --mask PNG, --prompts FILE, --detector NAME or --like IMAGE MASK"
        raise click.UsageError(f"say what to segment: {said}")
    if bool(given) + bool(file) + bool(detector) + bool(like) > 1:
        what = file or (f"the detector {detector}" if detector else "--like")
        raise click.UsageError(f"{what} says what to segment: nothing else does beside it")
    if options["detect"] and not detector:
        raise click.UsageError("--detect is for a --detector")
    prompts = _prompts(points, boxes, mask, options["objects"])
    one = len(images) == 1 and (images[0] == "-" or Path(images[0]).is_file())
    if like and options["multimask_output"]:
        raise click.UsageError("--like finds one mask an object: no --multimask beside it")
    if one and not (file or detector or like or options["write"].labels):
        _one(images[0], prompts, options)
    else:
        _many(images, prompts, file, options)


def _is_list(word: str) -> bool:
    from sam2core.jobs.prompt_files import is_list

    return is_list(word)


def _prompts(points: tuple, boxes: tuple, mask: str | None, objects: tuple) -> list[UserPrompt]:
    """What the command line says, an object each."""
    if objects:
        if mask:
            raise click.UsageError("--mask is for one object: no --object beside it")
        prompts = Prompts()
        order = click.get_current_context().meta["sam2core.order"]
        spoken(order, {"objects": objects, "points": points, "boxes": boxes, "masks": ()}, prompts, still=True)
        return list(prompts.values())
    if len(boxes) > 1:
        if points or mask:
            raise click.UsageError("several boxes are several objects; points and --mask describe one")
        return [UserPrompt("", 0, box=list(box)) for box in boxes]
    one = UserPrompt("", 0, box=list(boxes[0]) if boxes else None, mask=mask)
    one.points = [list(point[:2]) for point in points]
    one.labels = [int(point[2]) for point in points]
    return [one] if points or boxes or mask else []


# ---------------------------------------------------------------------------------------------------- one image


def _one(image: str, prompts: Sequence[UserPrompt], options: Mapping[str, Any]) -> None:
    """Cut out what was pointed at in one image, and print its document or a line per file."""
    import registry
    from sam2core.jobs.folder import Origin, try_folder
    from sam2core.jobs.pictures import read_picture
    from sam2core.jobs.prompts import read_mask
    from sam2core.jobs.segment import Segmenter, SegmentOutput
    from sam2core.storage import regular_file

    say = Say(options["quiet"])
    folder = options["output"] or (None if options["as_json"] else Path("out"))
    content = sys.stdin.buffer.read() if image == "-" else None
    source = regular_file(image) if content is None else io.BytesIO(content)
    photograph = read_picture(source, options["frame"], say, name="stdin" if content else None)
    origin = Origin.of(image if content is None else content)
    output = None
    if folder is not None:
        stem = "stdin" if image == "-" else Path(image).stem
        kinds = options["write"].drawn
        output = SegmentOutput(folder, stem, origin, force=options["force"], kinds=kinds)
        try_folder(folder)
    for one in prompts:
        if one.mask is not None:
            read_mask(one.mask, photograph.shape[:2], of="image")  # what does not fit is said before it is slow
    name = open_model(options, options["overrides"], say)
    began = time.perf_counter()
    predictor = registry.predictor(name, "image", *options["overrides"], **build_arguments(options))
    built = time.perf_counter() - began
    segmenter = Segmenter(predictor, weights=options["weights"], multimask=options["multimask_output"])
    facts, masks = segmenter.segment(photograph, prompts, origin)
    facts["image"] = {**facts["image"], "path": image}
    encoded, asked = segmenter.seconds
    say(f"model {built:.2f} s, image {encoded:.2f} s, masks {asked:.2f} s")
    written = [] if output is None else output.write(facts, masks, photograph)
    if options["as_json"]:
        click.echo(json.dumps(facts, indent=1))
    else:
        click.echo("\n".join(_lines(written, facts)))


def _lines(written: Sequence[Path], facts: Mapping[str, Any]) -> Iterator[str]:
    """A line per file, for people."""
    masks = facts["masks"] if len(written) > len(facts["masks"]) else []
    for path, told in zip_longest(written, masks):
        if told is None:
            yield str(path)
            continue
        box = ",".join(str(side) for side in told["bbox"])
        estimate = f"iou {told['iou']:.2f}  area {told['area']} px  bbox {box}"
        yield f"{path}  object {told['object']}  {estimate}"


# --------------------------------------------------------------------------------------------------- many images


def _many(images: list[str], prompts: Sequence[UserPrompt], file: str | None, options: Mapping[str, Any]) -> None:
    """Cut out what was pointed at in many images: the same in each, or what a file says of each."""
    from sam2core.jobs import inputs
    from sam2core.jobs.pictures import Picture
    from sam2core.jobs.prompt_files import PromptFile
    from sam2core.jobs.segment import SegmentWork

    say, output = Say(options["quiet"]), placed(options["output"] or Path("out"), options)
    if file is None:
        paths = [placed(path, options) for path in inputs.pictures(images)]
        pictures = [Picture(path, name, tuple(prompts)) for path, name in inputs.named(paths)]
    else:
        told = PromptFile(file)
        listed = [str(path) for path in told.places()] if images == [file] else images
        paths = [placed(path, options) for path in inputs.pictures(listed)]
        said = told.of_all(paths, still=True)
        pictures = [Picture(path, name, tuple(said[path].values())) for path, name in inputs.named(paths)]
        if silent := sum(not one.prompts for one in pictures):
            say(f"{file} says nothing of {silent} of {len(paths)} images: they get no masks")
        if strangers := told.strangers(paths):
            say(f"{file} also speaks of {strangers} images that are not among these")
    words = {"dtype": chosen_dtype(options)} | ({} if options["frame"] is None else {"frame": options["frame"]})
    detect = DetectorMaker(options) if options["detector"] else None
    if detect is not None:
        words |= detect.document()
        detect()  # what is wrong with it is said before anything slow
    work = SegmentWork(
        PredictorMaker(options, "image"),
        output,
        {**words, "multimask_output": options["multimask_output"]},
        weights=options["weights"],
        kinds=options["write"].drawn,
        frame=options["frame"],
        multimask=options["multimask_output"],
        force=options["force"],
        detect=detect,
        like=[(str(placed(Path(image), options)), str(placed(Path(mask), options))) for image, mask in options["like"]],
    )
    open_model(options, options["overrides"], say)
    go_through(pictures, work, output, options, say)
