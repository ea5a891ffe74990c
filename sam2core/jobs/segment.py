"""What was pointed at in photos: asked of a predictor, and written; one image or many, on any engine."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sam2core.jobs.detectors import prompts_of
from sam2core.jobs.folder import SEGMENT, Origin, began_as, check_own, held
from sam2core.jobs.manifest import build_settings
from sam2core.jobs.pictures import Made, Picture, attempt, document, is_same, read_picture, unfinished
from sam2core.jobs.prompts import UserPrompt, read_mask
from sam2core.storage import FileError, disk_errors, read_json, relative_name

if TYPE_CHECKING:
    import numpy as np

    from sam2core.predictors.image import ImageHandle, ImagePredictor, RememberedResult
    from sam2core.protocols import Detector

Answer = TypeVar("Answer")
CERTAIN = 10.0
"""The logit that a mask given as an image stands for: sure, and not beyond what the encoder saw in training."""
TOGETHER = 64
"""Boxes that are asked at once."""
KINDS = ("masks", "overlay", "palette", "cutouts")
"""What can be drawn of an image."""


@dataclass(frozen=True)
class SegmentWork:
    """Cuts out what was pointed at: called with a worker's number, it returns what does an image.

    make        builds a worker's predictor; picklable, as all of this is
    output      where to write to
    settings    what decides the masks beside model and prompts; what was made with the same is not made again
    weights     what documents say of the model's
    kinds       what is drawn, of `KINDS`
    frame       which image of files that hold several; None: the first
    multimask   three masks an object instead of one
    force       do again what is done, and replace what is of other images
    """

    make: Callable[[int], ImagePredictor]
    output: Path
    settings: Mapping[str, Any]
    weights: str | None = None
    kinds: Sequence[str] = ("masks", "overlay")
    frame: int | None = None
    multimask: bool = False
    force: bool = False
    detect: Callable[[], Detector] | None = None
    """Makes a worker's detector, which says what there is in an image; without it, what was pointed at is."""
    like: Sequence[tuple[str, str]] = ()
    """Labelled images, each with its mask's file, whose objects are looked for on all others."""

    def __call__(self, number: int) -> Callable[[Picture], Made]:
        from sam2core.media.images import as_bytes

        segmenter = Segmenter(self.make(number), weights=self.weights, multimask=self.multimask)
        settings = {**build_settings(segmenter.predictor.model), **self.settings, "kinds": list(self.kinds)}
        if self.like:
            settings["like"] = [[Origin.of(path).sha256 for path in pair] for pair in self.like]
            for image, mask in self.like:
                segmenter.remember(image, mask)

        detector = None if self.detect is None else self.detect()

        def do(picture: Picture, made: Made) -> None:
            own = {**settings, "prompts": [one.document() for one in picture.prompts]}
            own = json.loads(json.dumps(own))
            origin = Origin.of(picture.path)
            output = SegmentOutput(self.output, picture.name, origin, force=self.force, kinds=self.kinds)
            made.document = str(output.path)
            if output.held and not self.force and is_same(output.held, origin, own) and output.is_whole():
                made.notes.append(f"{output.path} is there already (--force makes it again)")
                made.masks = len(output.held["masks"])
                return
            photograph = read_picture(picture.path, self.frame, made.notes.append)
            prompts: Sequence[UserPrompt] = picture.prompts
            if detector is not None:
                prompts = prompts_of(detector, as_bytes(photograph), str(picture.path))
            facts, masks = segmenter.segment(photograph, prompts, origin)
            output.write({**facts, "settings": own}, masks, photograph)
            made.masks = len(facts["masks"])

        return lambda picture: attempt(picture, do)


class Segmenter:
    """Asks a predictor for what was pointed at, and says of the answer what a document says.

    weights     what documents say of the model's
    multimask   three masks an object instead of one, best first
    """

    def __init__(self, predictor: ImagePredictor, *, weights: str | None, multimask: bool) -> None:
        self.predictor, self.weights, self.multimask = predictor, weights, multimask
        self.looks_for_alike = False
        """Whether images are asked for what `remember` was shown, and not for what was pointed at."""
        self.seconds = (0.0, 0.0)
        """How long the last image took: to be encoded, and to be asked of."""

    def remember(self, image: str, mask: str) -> None:
        """Show what to look for on all others: a labelled image, and the file of its mask, a number an object.

        Raises ValueError, with the file's name, for what cannot be read and for a mask of another size.
        """
        from sam2core.media.labels import read_objects
        from sam2core.storage import regular_file

        labelled = read_picture(regular_file(image), None, lambda line: None)
        objects = read_objects(regular_file(mask))
        size = next(iter(objects.values())).shape
        if size != labelled.shape[:2]:
            height, width = labelled.shape[:2]
            raise ValueError(f"the mask {mask} is {size[1]} x {size[0]}, its image {image} {width} x {height}")
        try:
            self.predictor.remember(labelled, list(objects.values()), object_ids=[str(name) for name in objects])
        except ValueError as error:
            raise ValueError(f"{mask}: {error}") from error
        self.looks_for_alike = True

    def segment(
        self, photograph: np.ndarray, prompts: Sequence[UserPrompt], origin: Origin
    ) -> tuple[dict[str, Any], np.ndarray]:
        """What a document says of an image, and its masks (B, M, H, W) bool, best first.

        Raises ValueError for prompts that do not fit the image.
        """
        import sam2core

        model = self.predictor.model
        height, width = photograph.shape[:2]
        found = None
        if self.looks_for_alike:
            found = self._found(photograph)
            masks, scores = found.masks.cpu().numpy(), found.iou.cpu().numpy()
            prompts = [UserPrompt(str(name), 0) for name in found.objects]
        else:
            masks, scores = self._predict(photograph, prompts)
        told = describe_masks(masks, scores, prompts)
        if found is not None:
            for one, score in zip(told, found.object_score.tolist(), strict=True):
                one["object_score"] = round(score, 4)
        facts = {
            "sam2core": sam2core.__version__,
            "model": {"name": model.spec.name, "image_size": list(model.image_size), "weights": self.weights},
            "image": {"path": origin.path, "sha256": origin.sha256, "width": width, "height": height},
            "prompt": said(prompts),
            "masks": told,
        }
        return facts, masks

    def _found(self, photograph: np.ndarray) -> RememberedResult:
        """The remembered objects that are to be seen on an image."""
        found = self._asked(photograph, lambda handle: cast("RememberedResult", handle.predict()))
        present: RememberedResult = found[found.visible]
        return present

    def _predict(self, photograph: np.ndarray, prompts: Sequence[UserPrompt]) -> tuple[np.ndarray, np.ndarray]:
        """The masks (B, M, H, W) bool, best first, and their estimated IoU (B, M)."""
        import numpy as np

        size = (photograph.shape[0], photograph.shape[1])
        asked = [self._keywords(part, size) for part in _together(prompts)]  # what does not fit is told first
        answers = self._asked(
            photograph, lambda handle: [_answer(handle, keywords, self.multimask) for keywords in asked]
        )
        if not answers:
            return np.zeros((0, 3 if self.multimask else 1, *size), dtype=bool), np.zeros((0, 1), dtype=np.float32)
        masks, scores = (np.concatenate(each) for each in zip(*answers))
        return _best_first(masks, scores)

    def _asked(self, photograph: np.ndarray, ask: Callable[[ImageHandle], Answer]) -> Answer:
        """What an encoded image answers; how long both took is kept."""
        began = time.perf_counter()
        handle = self.predictor.encode(photograph)
        encoded = time.perf_counter()
        answer = ask(handle)
        self.seconds = encoded - began, time.perf_counter() - encoded
        return answer

    def _keywords(self, prompts: Sequence[UserPrompt], size: tuple[int, int]) -> dict[str, Any]:
        """One object's prompt, or several objects' boxes, as keywords of `ImageHandle.predict`."""
        import numpy as np

        one = prompts[0]
        keywords: dict[str, Any] = {}
        if one.points:
            keywords["points"] = np.array(one.points, dtype=np.float32)
            keywords["labels"] = np.array(one.labels, dtype=np.int64)
        if one.box is not None:
            keywords["box"] = np.array(
                [each.box for each in prompts] if len(prompts) > 1 else one.box, dtype=np.float32
            )
        if one.mask is not None:
            keywords["mask_input"] = as_mask_input(
                read_mask(one.mask, size, of="image"), self.predictor.model.image_size
            )
        return keywords


def _answer(handle: ImageHandle, keywords: Mapping[str, Any], multimask: bool) -> tuple[np.ndarray, np.ndarray]:
    result = handle.predict(**keywords, multimask_output=True if multimask else None)  # None: the model's own rule
    return result.masks.cpu().numpy(), result.iou.float().cpu().numpy()


def _together(prompts: Sequence[UserPrompt]) -> Iterator[list[UserPrompt]]:
    """Objects that are asked at once: those in a row of which there is nothing but a box."""
    part: list[UserPrompt] = []
    for one in prompts:
        lone = one.box is not None and not one.points and one.mask is None
        if part and (not lone or len(part) == TOGETHER):
            yield part
            part = []
        if lone:
            part.append(one)
        else:
            yield [one]
    if part:
        yield part


def said(prompts: Sequence[UserPrompt]) -> dict[str, Any]:
    """All that was pointed at in an image, as it is drawn; the mask is that of a lone object."""
    return {
        "points": [point for one in prompts for point in one.points],
        "labels": [label for one in prompts for label in one.labels],
        "boxes": [one.box for one in prompts if one.box is not None],
        "mask": prompts[0].mask if len(prompts) == 1 else None,
    }


class SegmentOutput:
    """The files of a photo in which something was pointed at: NAME.json, and what it names.

    Raises TakenError when they would replace those of another image, unless forced, or somebody else's.
    """

    def __init__(
        self, folder: Path, name: str, origin: Origin, *, force: bool, kinds: Sequence[str] = ("masks", "overlay")
    ) -> None:
        self.folder, self.name, self.origin, self.kinds = folder, name, origin, kinds
        self.path = folder / f"{name}.json"
        documents = [each for each in (self.path, unfinished(self.path)) if _is_segments(each)]
        check_own([self.path], documents, "segment")
        self.held = held(self.path, origin, force=force)
        """The document that is there already."""
        self.earlier = {folder / each for one in documents for each in _named(one) if each.startswith(f"{name}.")}

    def is_whole(self) -> bool:
        """Whether all that the document names is there."""
        return all(path.exists() for path in self.earlier)

    def write(self, facts: dict[str, Any], masks: np.ndarray, picture: np.ndarray) -> list[Path]:
        """Write the masks (B, M, H, W) bool, the overlay and the document, whose facts get the names; the paths."""
        import numpy as np

        from sam2core.media.images import as_bytes
        from sam2core.media.palettes import davis
        from sam2core.media.render import write_png

        flat = masks.reshape(-1, *masks.shape[2:])
        backdrop = as_bytes(picture)
        files: dict[Path, np.ndarray] = {}
        for number, (mask, told) in enumerate(zip(flat, facts["masks"])):
            if "masks" in self.kinds:
                told["file"] = f"{self.name}.mask{number}.png"
                files[self.folder / told["file"]] = mask.astype(np.uint8) * 255
            if "cutouts" in self.kinds:
                told["cutout"] = f"{self.name}.cutout{number}.png"
                alpha = mask[..., None].astype(np.uint8)
                files[self.folder / told["cutout"]] = np.concatenate([backdrop * alpha, alpha * 255], axis=2)
        if "palette" in self.kinds:
            facts["palette"] = f"{self.name}.palette.png"
            files[self.folder / facts["palette"]] = _numbers(masks)
        if "overlay" in self.kinds:
            facts["overlay"] = f"{self.name}.overlay.png"
            files[self.folder / facts["overlay"]] = _drawn(backdrop, masks, facts["prompt"])
        check_own(files, self.earlier, "segment")
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with document(self.path, json.dumps({"format": SEGMENT, **facts}, indent=1)):
                for path, pixels in files.items():
                    write_png(path, pixels, colors=davis() if path.name.endswith(".palette.png") else None)
                for path in self.earlier - {*files}:
                    path.unlink(missing_ok=True)
        return [*files, self.path]


def _numbers(masks: np.ndarray) -> np.ndarray:
    """Each pixel's object, counted from 1, of the best candidates of masks (B, M, H, W); the first named lies above."""
    import numpy as np

    if len(masks) > 255:
        raise ValueError(f"palette files hold 255 objects, not {len(masks)}: --write masks instead")
    ids = np.zeros(masks.shape[2:], dtype=np.uint8)
    for number in range(len(masks), 0, -1):
        ids[masks[number - 1, 0]] = number
    return ids


def _drawn(backdrop: np.ndarray, masks: np.ndarray, prompt: Mapping[str, Any]) -> np.ndarray:
    """Masks (B, M, H, W) and prompts over a photo, the candidates side by side."""
    import numpy as np

    from sam2core.media.render import overlay

    said = {"points": prompt["points"], "labels": prompt["labels"], "boxes": prompt["boxes"]}
    return np.concatenate([overlay(backdrop, masks[:, rank], **said) for rank in range(masks.shape[1])], axis=1)


def _is_segments(path: Path) -> bool:
    """Whether a file is a document of `segment`, of this version or an earlier one."""
    if began_as(path, SEGMENT):
        return True
    try:
        told = read_json(path)
    except FileError:
        return False
    return isinstance(told, dict) and {"sam2core", "model", "prompt", "masks"} <= told.keys()


def _named(path: Path) -> list[str]:
    """The files that a document of `segment` names, beside it."""
    told = read_json(path)
    names = [told.get("overlay"), told.get("palette")]
    names += [mask.get(key) for mask in told["masks"] if isinstance(mask, dict) for key in ("file", "cutout")]
    return [relative_name(name, str(path)) for name in names if name is not None]


def describe_masks(masks: np.ndarray, scores: np.ndarray, prompts: Sequence[UserPrompt]) -> list[dict[str, Any]]:
    """Say per mask what a program wants to know; masks (B, M, H, W) bool, scores (B, M), and what asked for the B."""
    from sam2core.ops import rle
    from sam2core.ops.polygons import extent

    found = []
    for number, (candidates, estimates) in enumerate(zip(masks, scores)):
        for rank, (mask, estimate) in enumerate(zip(candidates, estimates)):
            x0, y0, x1, y1 = extent(mask)
            found.append(
                {
                    "object": number,
                    "rank": rank,
                    "iou": round(float(estimate), 4),
                    "area": int(mask.sum()),
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "segmentation": rle.encode(mask),
                    **_told(prompts[number]),
                }
            )
    return found


def _told(prompt: UserPrompt) -> dict[str, Any]:
    """What was said of an object beside where it is."""
    told = {"name": prompt.object, "category": prompt.category, "score": prompt.score}
    return {key: value for key, value in told.items() if value not in (None, "")}


def as_mask_input(inside: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Turn a mask of the photo into the low-resolution logits that a predictor starts from: (h, w) float32."""
    import numpy as np
    from PIL import Image

    height, width = (side // 4 for side in image_size)
    share = Image.fromarray(inside.astype(np.uint8) * 255).resize((width, height), Image.Resampling.BOX)
    return (np.asarray(share, dtype=np.float32) / 127.5 - 1.0) * CERTAIN


def _best_first(masks: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Order every object's candidates by their estimated IoU: masks (B, M, H, W), scores (B, M)."""
    import numpy as np

    order = np.argsort(-scores, axis=1, kind="stable")
    rows = np.arange(len(order))[:, None]
    return masks[rows, order], scores[rows, order]
