"""Label Studio's regions as prompts, and masks as its regions. It counts in percent of the sides, and frames from 1."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sam2core_labelstudio import brush
from sam2core_labelstudio.client import Mask

Box = tuple[float, float, float, float]
Region = dict[str, Any]
LABEL_KEYS = ("brushlabels", "rectanglelabels", "keypointlabels", "labels", "ellipselabels", "polygonlabels")


@dataclass
class Said:
    """What regions say of one object in an image."""

    points: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    box: Box | None = None
    mask: dict[str, Any] | None = None

    def arguments(self) -> dict[str, Any]:
        """Keywords of `Session.prompt`. A mask stands alone; points and a box go before it."""
        if self.mask is not None and not self.points and self.box is None:
            return {"mask": self.mask}
        found: dict[str, Any] = {"points": self.points, "labels": self.labels} if self.points else {}
        return {**found, "box": self.box} if self.box is not None else found


def image_prompts(regions: Iterable[Region], size: tuple[int, int]) -> list[Said]:
    """The objects that regions speak of: one, or one per rectangle when there are several.

    Key points (`is_positive` says which side), rectangles and brush strokes are read; points go to the rectangles that
    they lie in, to all when they lie in none. Raises ValueError for regions of other types.
    """
    boxes: list[Box] = []
    points: list[tuple[tuple[float, float], int]] = []
    mask: dict[str, Any] | None = None
    for region in regions:
        value, kind = region["value"], region["type"]
        if kind.startswith("keypoint"):
            positive = region.get("is_positive", value.get("is_positive", True))
            points.append((_point(value, size), int(bool(positive))))
        elif kind.startswith("rectangle"):
            boxes.append(box_of(value, size))
        elif kind.startswith("brush"):
            mask = brush.coco(brush.decode(value["rle"], size))
        else:
            raise ValueError(
                f"a region of type {kind!r} says nothing here: draw key points, rectangles or with the brush"
            )
    objects = [Said(box=box) for box in boxes] or [Said(mask=mask)]
    for xy, label in points:
        inside = [one for one in objects if one.box is not None and _within(xy, one.box)]
        for one in inside or objects:
            one.points.append(xy)
            one.labels.append(label)
    return [one for one in objects if one.points or one.box is not None or one.mask is not None]


def brush_region(mask: Mask, *, from_name: str, to_name: str, labels: list[str]) -> Region:
    """A mask as a brush region with labels."""
    height, width = mask.size
    return {
        "id": uuid.uuid4().hex[:10],
        "type": "brushlabels",
        "from_name": from_name,
        "to_name": to_name,
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": brush.encode(brush.pixels(mask)), "brushlabels": labels},
        "score": mask.iou,
        "readonly": False,
    }


def labels_of(region: Region) -> list[str]:
    """The labels that a region carries."""
    for key in (region.get("type", ""), *LABEL_KEYS):
        if labels := region.get("value", {}).get(key):
            return list(labels)
    return []


def box_of(value: Mapping[str, Any], size: tuple[int, int]) -> Box:
    """A rectangle in percent as pixels x0, y0, x1, y1; a turned one by what surrounds it."""
    height, width = size
    x, y = value["x"] * width / 100, value["y"] * height / 100
    across, down = value["width"] * width / 100, value["height"] * height / 100
    angle = math.radians(value.get("rotation", 0) or 0)
    corners = [  # it is turned about its upper left corner
        (
            x + i * across * math.cos(angle) - j * down * math.sin(angle),
            y + i * across * math.sin(angle) + j * down * math.cos(angle),
        )
        for i in (0, 1)
        for j in (0, 1)
    ]
    xs, ys = zip(*corners, strict=True)
    return (min(xs), min(ys), max(xs), max(ys))


def percent(box: tuple[int, int, int, int], size: tuple[int, int]) -> dict[str, float]:
    """A box in pixels, the last corner exclusive, as a rectangle's value."""
    height, width = size
    x0, y0, x1, y1 = box
    return {
        "x": 100 * x0 / width,
        "y": 100 * y0 / height,
        "width": 100 * (x1 - x0) / width,
        "height": 100 * (y1 - y0) / height,
        "rotation": 0,
    }


def _point(value: Mapping[str, Any], size: tuple[int, int]) -> tuple[float, float]:
    return (value["x"] * size[1] / 100, value["y"] * size[0] / 100)


def _within(xy: tuple[float, float], box: Box) -> bool:
    return box[0] <= xy[0] <= box[2] and box[1] <= xy[1] <= box[3]


class Clock:
    """Label Studio's frames and the video's: it counts by the rate that its Video tag names, whatever the video's
    is."""

    def __init__(self, value: Mapping[str, Any], frames: int, fps: float | None) -> None:
        self.frames = frames
        self.count = int(value.get("framesCount") or frames)
        self.duration = float(value.get("duration") or frames / (fps or 25.0))

    def to_clip(self, frame: int) -> int:
        """The video's frame, from 0, that is shown at one of Label Studio's."""
        if self.count == self.frames:
            return min(max(frame - 1, 0), self.frames - 1)
        return min(max(int((frame - 1) * self.frames / self.count + 0.5), 0), self.frames - 1)

    def time(self, frame: int) -> float:
        return (frame - 1) * self.duration / self.count


def key_frames(region: Region) -> list[dict[str, Any]]:
    """The key frames that a region of a video has, each with `frame`: rectangles, or points without a width."""
    value = region["value"]
    if "sequence" in value:
        return list(value["sequence"])
    if "frame" in value:
        return [dict(value)]
    raise ValueError(f"region {region.get('id')!r} of type {region.get('type')!r} says on no frame where it is")


def said_at(key: Mapping[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    """What a key frame says of its object: keywords of `Session.prompt`."""
    if key.get("width") and key.get("height"):
        return {"box": box_of(key, size)}
    return {"points": [_point(key, size)], "labels": [int(bool(key.get("is_positive", True)))]}


def sequence(boxes: Mapping[int, dict[str, float] | None], clock: Clock) -> list[dict[str, Any]]:
    """Rectangles by Label Studio's frame, None where the object is not seen, as key frames.

    A rectangle before a gap is not `enabled`: Label Studio then shows nothing until the next key frame.
    """
    keys: list[dict[str, Any]] = []
    for frame in sorted(boxes):
        box = boxes[frame]
        if box is None:
            if keys:
                keys[-1]["enabled"] = False
            continue
        keys.append({"frame": frame, **box, "enabled": True, "time": clock.time(frame)})
    return keys
