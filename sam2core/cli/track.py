"""`sam2core track`: a video and prompts in; an overlay, mask files and COCO RLE out; it stops and goes on anywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from sam2core.cli.job import Job, check_frame, compare, earlier_run
from sam2core.cli.options import DEFAULT_MODEL, Box, Point, build_arguments, model_options, pairs
from sam2core.cli.output import KINDS, report
from sam2core.cli.progress import Say
from sam2core.cli.prompts import PROMPTS, InOrder, OnFrame, Prompts, Said, spoken, written

PALETTES = ("bright", "davis", "colorblind", "pastel")


class Kinds(click.ParamType):
    """Some of `KINDS`, between commas."""

    name = "KIND,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        words = value if isinstance(value, tuple) else tuple(word.strip() for word in value.split(","))
        if unknown := [word for word in words if word not in KINDS]:
            self.fail(f"{unknown[0]!r} is none of {', '.join(KINDS)}", param, ctx)
        return tuple(kind for kind in KINDS if kind in words)


@click.command(cls=InOrder)
@click.argument("video", required=False)
@click.option("--object", "objects", multiple=True, metavar="ID",
              help="Prompts after it are for this object, until the next.  [default: 1]")  # fmt: skip
@click.option("-p", "--point", "points", multiple=True,
              type=OnFrame(Point(), "F:X,Y[,0|1]", "0:210,350 (inside) or 12:80,90,0 (outside)"),
              help="On frame F, a click on the object, or with ,0 beside it.")  # fmt: skip
@click.option("-b", "--box", "boxes", multiple=True, type=OnFrame(Box(), "F:X0,Y0,X1,Y1", "0:120,40,390,310"),
              help="On frame F, a box around the object.")  # fmt: skip
@click.option("--mask", "masks", multiple=True, type=OnFrame(None, "F:PNG", "0:dog.png"),
              help="On frame F, the object's mask: a picture as large as the video, white inside.")  # fmt: skip
@click.option("--prompts", "prompts_file", type=click.Path(exists=True, dir_okay=False), help="Prompts as JSON.")
@click.option("--camera", metavar="N|URL", help="Instead of VIDEO: a camera by number or name, or a stream's address.")
@click.option("--start", type=click.IntRange(min=0), default=0, help="The first frame to see.  [default: 0]")
@click.option("--stop", type=click.IntRange(min=1), help="The first frame not to see.  [default: the end]")
@click.option("--stride", type=click.IntRange(min=1), default=1, help="See every N-th frame.  [default: 1]")
@click.option(
    "--crop", type=Box(), help="The part of the frames to look at: a small object is seen larger.  [default: all]"
)
@click.option("--direction", type=click.Choice(["forward", "backward", "both"]), default="forward", show_default=True,
              help="From the first prompted frame on; from the last one back; or both from the first.")  # fmt: skip
@click.option("--keep", type=click.Choice(["horizon", "all"]), default="horizon", show_default=True,
              help="Remember what can still be recalled, or everything.")  # fmt: skip
@click.option("--exclusive", is_flag=True, help="No pixel belongs to two objects.")
@click.option("--write", type=Kinds(), default="overlay,palette,rle", show_default=True,
              help=f"What to write: {', '.join(KINDS)}.")  # fmt: skip
@click.option("--palette", type=click.Choice(PALETTES), default="bright", show_default=True,
              help="The overlay's colours.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("out"),
              show_default=True, help="Folder to write to.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped: the same command, and this.")
@click.option("--force", is_flag=True, help="Replace what an earlier run wrote to the folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the JSON summary on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr unless something is wrong.")
@model_options
def command(
    video: str | None,
    prompts_file: str | None,
    camera: str | None,
    start: int,
    stop: int | None,
    stride: int,
    crop: tuple[float, ...] | None,
    direction: str,
    keep: str,
    exclusive: bool,
    write: tuple[str, ...],
    palette: str,
    output: Path,
    resume: bool,
    force: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Follow what you point at through a video.

    \b
    sam2core track clip.mp4 --point 0:300,130
    sam2core track clip.mp4 --object dog --point 0:300,130 --point 0:80,90,0 --object ball --box 12:10,20,60,70
    sam2core track frames/ --mask 0:dog.png --direction both --write palette,masks -o dog/
    sam2core track --camera 0 --box 0:200,100,440,380 --stop 500

    VIDEO is a file, a folder of pictures, a quoted pattern such as 'frames/*.png', or an address.
    The order of prompts matters: each belongs to the --object before it, or to object 1. F is a
    frame's number in the video, from 0, whatever --start and --stride are; X and Y are its pixels.
    Points and a box on one frame describe the object together; a mask stands alone. A later frame's
    prompt corrects the object from there on.

    --prompts FILE says the same as JSON, frames and pixels as above; masks are paths from FILE's
    folder, or COCO RLE; what is missing may be left out, and options add to it:

    \b
    {"prompts": [{"object": "dog", "frame": 0, "points": [[300, 130], [80, 90]], "labels": [1, 0]},
                 {"object": "ball", "frame": 12, "box": [10, 20, 60, 70]},
                 {"object": "cat", "frame": 30, "mask": "cat.png"}]}

    Written to the folder, as --write says:

    \b
    overlay   overlay.mp4: masks, contours, ids and prompts over the video (needs sam2core[video])
    palette   palette/FRAME.png: DAVIS's format; a pixel is its object's number, 1 for the first named
    masks     masks/ID/FRAME.png: 255 inside, 0 outside
    rle       masks.json: per frame and object the mask as COCO RLE, IoU estimate, presence (> 0: seen)
    cutouts   cutouts/ID/FRAME.png: the object alone, transparent around it

    and run.json, which says how it went and can be given to --prompts. FRAME is the picture's name,
    or the number of the frame.

    Ctrl-C and SIGTERM stop after the frame at hand, or in it after ten seconds (twice: at once), with
    exit code 130 and 143. What was written is valid and, with unfinished/, enough for --resume, which
    ends as if there had been no stop. Frames that cannot be read end the run with exit code 1; what
    came before them is kept in the same way.

    Live (--camera, or an address without an end) F counts the frames received, from the first on; q and
    Enter, Ctrl-C, --stop or the stream's end finish the run, which cannot be resumed.

    A trailing KEY=VALUE changes the model's spec, such as predictors.video.fill_holes=0.
    """
    context = click.get_current_context()
    if camera is not None and video is not None:  # then there is no VIDEO: the word is the first of the pairs
        options["overrides"], video = (video, *options["overrides"]), None
    changes = pairs(options["overrides"])
    if camera is None and video is None:
        raise click.UsageError("say what to follow in: VIDEO, or --camera N")
    if camera is not None and resume:
        raise click.UsageError("what a camera saw is over: --resume is for files")
    if resume and force:
        raise click.UsageError("--resume goes on with what --force would delete: choose one")
    if stop is not None and stop <= start:
        raise click.UsageError(f"--stop {stop} comes before the first frame: --start is {start}")
    prompts = Prompts()
    if prompts_file is not None:
        written(prompts_file, prompts)
    spoken(context.meta["sam2core.order"], {name: options.pop(name) for name in PROMPTS}, prompts)

    say = Say(quiet)
    address = camera if camera is None or "://" in camera else f"camera:{camera}"
    settings = {
        "video": address or (video if "://" in str(video) else os.path.abspath(str(video))),
        "start": start,
        "stop": stop,
        "stride": stride,
        "crop": crop and list(crop),
        "direction": direction,
        "keep": keep,
        "exclusive": exclusive,
        "write": list(write),
        "palette": palette,
        "model": options["model"] or DEFAULT_MODEL,
        "overrides": list(changes),
        **{name: options[name] for name in ("weights", "dtype")},
        "image_size": options["image_size"] and str(options["image_size"]),
    }
    earlier = earlier_run(output, write, resume=resume, force=force)
    if earlier is not None:
        if not prompts:
            for one in earlier["prompts"]:
                prompts[one["object"], one["frame"]] = Said(**one)
        compare({**settings, "prompts": prompts.document()}, {**earlier["settings"], "prompts": earlier["prompts"]})
        if earlier["status"] == "complete":
            say(f"{output} is finished already")
            report(earlier, output, as_json)
            return
    if not prompts:
        raise click.UsageError("say what to follow: --point F:X,Y, --box F:X0,Y0,X1,Y1, --mask F:PNG or --prompts FILE")

    import registry
    from sam2core.cli.segment import fetch
    from sam2core.media.frames import open_source
    from sam2core.media.render import folder_name

    for name in prompts.objects:
        folder_name(name)
    if "palette" in write and len(prompts.objects) > 255:
        raise ValueError(f"palette files hold 255 objects, not {len(prompts.objects)}: --write masks or rle instead")
    if "overlay" in write:
        import av  # noqa: F401  what is missing is said before anything slow
    with open_source(address or video, start=start, stop=stop, stride=stride) as source:
        for one in prompts.values():
            check_frame(one, source, start, stop, stride)
        if source.live and (resume or direction != "forward"):
            raise ValueError("a live source goes forward only, once: no --direction, no --resume")
        name = settings["model"]
        if options["model"] is None:
            say(f"{name} is a small model for trying things out; an official one: --model sam2.1_hiera_l")
        if options["weights"] is None:
            fetch(registry.spec(name, *changes), quiet)
        also: dict[str, Any] = {"exclusive": True} if exclusive else {}
        if options["weights"] == "none":  # the same random ones in every run, so that --resume goes on with them
            import torch

            torch.manual_seed(0)
        predictor = registry.predictor(name, "video", *changes, **build_arguments(options), **also)
        job = Job(output, settings, prompts, source, predictor, say)
        if source.live:
            job.live(force=force)
        else:
            job.track(force=force, resume=resume)
    job.report(as_json)
    if job.status == "failed":
        raise ValueError(f"{job.error}; {job.kept}")
    if job.status == "interrupted":
        say(f"interrupted; {job.kept}", always=True)
        context.exit(job.code)
