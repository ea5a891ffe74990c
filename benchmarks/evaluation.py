"""How good the masks are: a model and simple methods, on the same photos and clicks, and on videos.

    python benchmarks/evaluation.py baselines DATA      GrabCut, random walker, flood fill, disc; copied masks, flow
    python benchmarks/evaluation.py model DATA          the model, and the others on the model's clicks
    python benchmarks/evaluation.py report DATA         tables, plot and the ten worst, from what was measured
    python benchmarks/evaluation.py tune DATA           the settings of the baselines, on training photos

DATA holds ``bsds500_val``, ``coco128_panoptic``, ``ccp_clothing`` and ``pumavos_samples``. Everything can be
interrupted and resumes: measurements are kept in ``benchmarks/results/evaluation_*.json``, of each
method apart, and made again only when the method's settings or the model's weights changed.

Protocol: regions of 0.5 to 60 % of the image, at most ``--objects`` an image, one annotator drawn; the first click
in the middle of the region, each further one in the middle of the largest error of the method's own answer.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.evaluation_report import report  # noqa: E402
from sam2core.data.davis import read as video_folders  # noqa: E402
from sam2core.data.footage import Footage  # noqa: E402
from sam2core.evaluation import baselines, clicks  # noqa: E402
from sam2core.evaluation.clicks import Click, Sample  # noqa: E402
from sam2core.evaluation.metrics import iou  # noqa: E402
from sam2core.evaluation.scoring import Scores, score  # noqa: E402
from sam2core.evaluation.vos import MaskFiles, Task, write_video  # noqa: E402
from sam2core.jobs.manifest import fingerprint  # noqa: E402
from sam2core.media.images import image_size, read_rgb  # noqa: E402
from sam2core.media.labels import read_labels  # noqa: E402
from sam2core.media.listing import listed  # noqa: E402
from sam2core.predictors.crops import Crop  # noqa: E402
from sam2core.predictors.session import VideoSession  # noqa: E402
from sam2core.predictors.transforms import read_crop  # noqa: E402
from sam2core.predictors.video import VideoPredictor  # noqa: E402
from sam2core.training.pseudo import pseudo_video  # noqa: E402
from sam2core.training.readers import READERS  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
CLICKS, MANY, COUNTS = 8, 20, (1, 3, 8)
METHODS: dict[str, Any] = {
    "constant disc": baselines.ConstantDisc(),
    "flood fill": baselines.FloodFill(),
    "GrabCut": baselines.GrabCut(),
    "random walker": baselines.RandomWalker(),
}


def sets(data: Path, objects: int) -> dict[str, Callable[[], Iterable[Sample]]]:
    """The photos: name -> what reads them."""
    return {
        "bsds500_val": lambda: clicks.folder_samples(data / "bsds500_val", most=objects),
        "coco128_val": lambda: clicks.coco_samples(data / "coco128_panoptic", split="val", most=objects),
        "ccp_last100": lambda: clicks.folder_samples(data / "ccp_clothing", last=100, background=False, most=objects),
    }


class Store:
    """Measurements in a JSON file, written whole now and then: method -> set -> image -> object -> what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.document: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"methods": {}}
        self._saved = time.monotonic()

    def method(self, name: str, settings: str) -> dict[str, Any]:
        """The measurements of a method; none when they are of other settings."""
        held = self.document["methods"].get(name)
        if held is None or held["settings"] != settings:
            held = self.document["methods"][name] = {"settings": settings, "sets": {}}
        return held["sets"]

    def save(self, *, force: bool = False) -> None:
        if force or time.monotonic() - self._saved > 15:
            self._saved = time.monotonic()
            spare = self.path.with_suffix(".part")
            spare.write_text(json.dumps(self.document, separators=(",", ":")) + "\n")
            os.replace(spare, self.path)


def object_key(truth: np.ndarray) -> str:
    return hashlib.sha256(np.packbits(truth).tobytes()).hexdigest()[:10]


def rounded(values: Iterable[float]) -> list[float]:
    return [round(float(value), 4) for value in values]


def session_of(answers: Any, truth: np.ndarray, count: int) -> dict[str, Any]:
    found = clicks.click_through(answers, truth, clicks=count)
    return {
        "iou": rounded(found.scores),
        "clicks": [[click.x, click.y, int(click.positive)] for click in found.clicks],
        "seconds": round(found.seconds / len(found.clicks), 4),
        "area": round(float(truth.mean()), 5),
    }


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def chosen(options: argparse.Namespace) -> Iterator[tuple[str, int, Sample]]:
    """Set, number of the image, and the image, as the options limit them."""
    for name, read in sets(options.data, options.objects).items():
        if options.sets and name not in options.sets:
            continue
        for number, sample in enumerate(islice(read(), options.images)):
            yield name, number, sample


def follow(
    store: Store, method: str, settings: str, segmenter: Any, each: tuple[str, int, Sample], options: Any
) -> None:
    """A method on one photo: its own clicks on every region, and its box and oracle where it has them."""
    name, number, sample = each
    held = store.method(method, settings).setdefault(name, {}).setdefault(sample.name, {})
    answers = None
    for index, truth in enumerate(sample.masks):
        key = object_key(truth)
        many = index == 0 and number < options.many and name == "bsds500_val"
        wanted = MANY if many else options.clicks
        if key in held and len(held[key]["iou"]) >= wanted:
            continue
        answers = answers or segmenter.encode(sample.image)
        found = session_of(answers, truth, wanted)
        box = clicks.box_of(truth)
        if isinstance(segmenter, baselines.GrabCut):
            found["box"] = round(iou(segmenter.box(sample.image, box), truth), 4)
        if isinstance(answers, clicks.EncodedImage):
            found["box"] = round(iou(answers.box(box), truth), 4)
            offered = answers.candidates(clicks.first_click(truth))
            found["oracle"] = round(max(iou(mask, truth) for mask in offered), 4)
        held[key] = found
    store.save()
    if number % 10 == 9:
        say(f"{name} {number + 1} {method}")


def measure_baselines(options: argparse.Namespace) -> None:
    """Every baseline on its own clicks, GrabCut from boxes too, and those for the video."""
    store = Store(RESULTS / "evaluation_baselines.json")
    clip_baselines(store, options)
    for each in chosen(options):
        for method, segmenter in METHODS.items():
            follow(store, method, repr(segmenter), segmenter, each, options)
    store.save(force=True)


def measure_model(options: argparse.Namespace) -> None:
    """The model on its own clicks, boxes and the videos; then the baselines on the clicks that the model asked for."""
    import registry

    tool = registry.predictor(options.model, "image", weights=options.weights)
    settings = fingerprint(tool.model)[:16]
    store = Store(model_file(options.model))
    clip_model(store, settings, options)
    segmenter = clicks.PredictorSegmenter(tool)
    for each in chosen(options):
        follow(store, options.model, settings, segmenter, each, options)
    store.save(force=True)
    if options.replay:
        for name, number, sample in chosen(options):
            said = store.method(options.model, settings)[name][sample.name]
            for method, baseline in METHODS.items():
                of_model = f"{method}, clicks of the model"
                held = (
                    store.method(of_model, f"{baseline!r} {settings}").setdefault(name, {}).setdefault(sample.name, {})
                )
                missing = [truth for truth in sample.masks if object_key(truth) not in held]
                answers = baseline.encode(sample.image) if missing else None
                for truth in missing:
                    words = [Click(x, y, bool(on)) for x, y, on in said[object_key(truth)]["clicks"]]
                    found = clicks.replay(answers, truth, words, COUNTS)
                    held[object_key(truth)] = {"at": dict(zip(map(str, COUNTS), rounded(found)))}
            store.save()
            if number % 10 == 9:
                say(f"{name} {number + 1}, clicks of the model")
    store.save(force=True)


def model_file(model: str) -> Path:
    return RESULTS / f"evaluation_{Path(model).stem}.json"


# videos ---------------------------------------------------------------------------------------------------------------


MADE, MADE_FRAMES, MADE_SIZE = 24, 24, 400
IN_VIEW: dict[str, tuple[int | None, ...]] = {"chair": (None, 3, 2), "made": (None,)}
"""How much of the frames is looked at, in times the size of the object; None: all. It must stay at its place."""


def clip_sets(options: argparse.Namespace) -> Iterator[tuple[str, list[Footage]]]:
    """The videos: a real one, and made ones, written to a folder that lasts as long as its set is used."""
    yield "chair", video_folders(options.data / "pumavos_samples" / "example_videos" / "chair")
    with tempfile.TemporaryDirectory() as folder:
        made_clips(options.data, Path(folder))
        yield "made", video_folders(Path(folder))


def made_clips(data: Path, folder: Path) -> None:
    """24 videos of one thing each, in DAVIS's folders: photos of COCO's val half, set in motion.

    The camera moves, most things move by themselves, and every other one is crossed, now and then hidden.
    """
    found = 0
    for number, picture in enumerate(READERS["coco_panoptic"](data / "coco128_panoptic", split="val")):
        masks = np.stack([np.isin(picture.regions, group) for group in picture.objects])
        large = [which for which, mask in enumerate(masks) if picture.things[which] and 0.03 < mask.mean() < 0.4]
        if not large:
            continue
        if found == MADE:
            break
        found += 1
        generator = np.random.default_rng([3, number])
        mask = masks[[int(generator.choice(large))]]
        clip = pseudo_video(picture.image, mask, MADE_FRAMES, generator, size=MADE_SIZE)
        name = f"{found:02}"
        frames, files = folder / "JPEGImages" / name, MaskFiles(folder / "Annotations" / name, None)
        frames.mkdir(parents=True)
        for at, (frame, seen) in enumerate(zip(clip.frames, clip.masks)):
            Image.fromarray(frame).save(frames / f"{at:05}.jpg", quality=95)
            files.write(f"{at:05}", {1: seen[0]}, frame.shape[:2])


def around(video: Footage, times: int | None) -> Crop:
    """The crop so many times as large as the box of the true first mask, cut to the frame; None: the whole frame."""
    height, width = image_size(video.media[0])
    if times is None:
        return 0, 0, width, height
    (mask,) = video.read(0).values()
    x0, y0, x1, y1 = clicks.box_of(mask)
    aside, along = (x1 - x0) * (times - 1) / 2, (y1 - y0) * (times - 1) / 2
    return read_crop((x0 - aside, y0 - along, x1 + aside, y1 + along), (height, width))


def in_view(method: str, times: int | None) -> str:
    return method if times is None else f"{method}, {times} times the object in view"


def clip_entry(
    store: Store,
    videos: tuple[str, list[Footage]],
    method: str,
    prompt: str,
    settings: str,
    make: Callable[[Footage, Path], int],
) -> None:
    """Make the masks of a set's videos in a folder, score them as DAVIS does, and keep it; nothing when that is
    done."""
    name, clips = videos
    held = store.document.setdefault("clips", {}).setdefault(name, {}).setdefault(method, {})
    if held.get(prompt, {}).get("settings") == settings:
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        frames = sum(make(clip, Path(folder)) for clip in clips)
        seconds = (time.perf_counter() - start) / frames
        found = [one for _, objects in score(clips, folder, protocol="davis") for one in objects]
    overall = Scores("davis", tuple(found)).overall()
    held[prompt] = {"settings": settings, "overall": overall, "seconds": round(seconds, 4), "frames": frames}
    store.save(force=True)
    say(f"{name}, {method}, {prompt}: J&F {100 * overall['J&F-Mean']:.1f}")


def clip_baselines(store: Store, options: argparse.Namespace) -> None:
    """Copied and flowing masks: from the true first mask, and from what the still methods make of a click and a box."""
    walker, cut = METHODS["random walker"], METHODS["GrabCut"]
    followers = (("first mask, copied", baselines.CopyFirstMask()), ("DIS flow", baselines.FlowWarp()))
    for videos in clip_sets(options):
        for prompt, (name, method), times in product(("mask", "click", "box"), followers, IN_VIEW[videos[0]]):
            settings = {"mask": "", "click": repr(walker), "box": repr(cut)}[prompt]

            def make(
                video: Footage,
                folder: Path,
                prompt: str = prompt,
                method: Any = method,
                times: int | None = times,
            ) -> int:
                whole = [read_rgb(path) for path in video.media]
                x0, y0, x1, y1 = around(video, times)
                frames = [frame[y0:y1, x0:x1] for frame in whole]
                first = {number: mask[y0:y1, x0:x1] for number, mask in video.read(0).items()}
                for number, mask in first.items():
                    if prompt == "click":
                        first[number], _ = walker.encode(frames[0])([clicks.first_click(mask)], None)
                    if prompt == "box":
                        first[number] = cut.box(frames[0], clicks.box_of(mask))
                files = MaskFiles(folder / video.name, None)
                for path, masks in zip(video.media, method.follow(frames, first)):
                    placed = {}
                    for number, mask in masks.items():
                        placed[number] = np.zeros(whole[0].shape[:2], dtype=bool)
                        placed[number][y0:y1, x0:x1] = mask
                    files.write(path.stem, placed, whole[0].shape[:2])
                return len(frames)

            clip_entry(store, videos, in_view(name, times), prompt, settings, make)


class Cropped:
    """A video predictor whose sessions look at a crop."""

    def __init__(self, tool: VideoPredictor, crop: Crop) -> None:
        self.tool, self.crop = tool, crop

    def open(self, source: Any) -> VideoSession:
        return self.tool.open(source, crop=self.crop)


def clip_model(store: Store, settings: str, options: argparse.Namespace) -> None:
    """The model on the videos; where the object stays at its place, also with a part of the frames to look at."""
    import registry

    tool = registry.predictor(options.model, "video", weights=options.weights)
    for videos in clip_sets(options):
        for times, prompt in product(IN_VIEW[videos[0]], ("mask", "click", "box")):

            def make(video: Footage, folder: Path, prompt: str = prompt, times: int | None = times) -> int:
                seen: Any = Cropped(tool, around(video, times))
                return write_video(seen, video, Task(prompt), folder).frames

            clip_entry(store, videos, in_view(options.model, times), prompt, settings, make)


# tuning --------------------------------------------------------------------------------------------------------------


def training_photographs(data: Path) -> list[Sample]:
    """50 of them with one region each: every fourth of COCO's train half, 25 of CCP without its last 100."""
    coco = clicks.coco_samples(data / "coco128_panoptic", split="train", most=1, seed=7)
    samples = list(islice(coco, 0, 100, 4))
    root = data / "ccp_clothing"
    paths = listed(root / "images")[:-100]
    for index in range(0, len(paths), len(paths) // 25):
        labels = read_labels(root / "labels" / f"{paths[index].stem}.png")
        masks = clicks.regions_of(labels, most=1, generator=np.random.default_rng([7, index]))
        if len(masks) and len(samples) < 50:
            samples.append(Sample(read_rgb(paths[index]), masks, paths[index].name))
    return samples


def tune(options: argparse.Namespace) -> None:
    """Every setting on the same training photos, three clicks; the one with the best mean is taken.

    50 for what answers at once; GrabCut and the random walker, a second a click, see every third of them.
    """
    samples = training_photographs(options.data)
    tried: list[Any] = [baselines.ConstantDisc(radius) for radius in (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4)]
    tried += [baselines.FloodFill(tolerance) for tolerance in (4, 8, 12, 16, 24, 32)]
    tried += [baselines.GrabCut(radius) for radius in (0.025, 0.05, 0.1, 0.2, 0.35, 0.5)]
    tried += [baselines.RandomWalker(beta) for beta in (90, 130, 300, 1000)]
    path = RESULTS / "evaluation_tuning.json"
    held: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
    for method in tried:
        slow = isinstance(method, (baselines.RandomWalker, baselines.GrabCut))
        chosen = samples[::3] if slow else samples
        name = f"{method!r} on {len(chosen)}" if slow else repr(method)
        if name not in held:
            scores = [one for sample in chosen for one in clicks.follow(method, sample, clicks=3)]
            held[name] = rounded(np.mean(scores, axis=0))
            path.write_text(json.dumps(held, indent=1) + "\n")
            say(f"{name}: {held[name]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tasks = {"baselines": measure_baselines, "model": measure_model, "report": report, "tune": tune}
    parser.add_argument("task", choices=tasks)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="sam2core_nano")
    parser.add_argument("--weights", default=True, help="other weights of the model, a file")
    parser.add_argument("--sets", nargs="*", help="only these sets of photos")
    parser.add_argument("--images", type=int, help="only the first so many photos of each set")
    parser.add_argument("--objects", type=int, default=3, help="regions a photo at most")
    parser.add_argument("--clicks", type=int, default=CLICKS, help="clicks on a region")
    parser.add_argument("--many", type=int, default=25, help="photos of BSDS whose first region gets 20 clicks")
    parser.add_argument("--no-replay", dest="replay", action="store_false", help="baselines on their own clicks alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--private", type=Path, help="a folder for the ten worst of all sets, not to be passed on")
    options = parser.parse_args()
    import cv2
    import torch

    cv2.setNumThreads(options.threads)
    torch.set_num_threads(options.threads)
    RESULTS.mkdir(exist_ok=True)
    tasks[options.task](options)


if __name__ == "__main__":
    main()
