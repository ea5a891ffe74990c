"""The words of older files and of other packages, and ours for them. Readers hand older JSON through `renamed`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

NEAR = 0.5
"""How alike two keywords are that may be meant for each other: `mask` and `mask_input` are (0.57)."""
WORDS = {
    "absent_pointer": "absent_object_pointer",
    "anchor": "prompted",
    "anchors": "prompted",
    "exclusive": "non_overlapping",
    "future_pointers": "future_object_pointers",
    "hint_gradient": "mask_input_gradient",
    "hint_limit": "mask_input_limit",
    "hint_size": "mask_input_size",
    "pointer": "object_pointer",
    "pointers": "object_pointers",
    "presence": "object_score",
    "several": "multimask_output",
    "skips": "high_res_features",
    "trail": "recent",
}

ELSEWHERE = {
    "bbox": "box",
    "bboxes": "box",
    "boxes": "box",
    "conf": "iou_threshold",
    "imgsz": "image_size",
    "input_boxes": "box",
    "input_labels": "labels",
    "input_masks": "mask_input",
    "input_points": "points",
    "mask_inputs": "mask_input",
    "masks": "mask",
    "obj_id": "object",
    "frame_idx": "frame",
    "point_coords": "points",
    "point_labels": "labels",
}
"""What Meta's code, transformers and ultralytics call what is ours by another name."""


def check_keywords(what: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raise ValueError for keywords that `what` does not take, with ours: another package's word, or the nearest."""
    for word in unknown:
        ours = {**WORDS, **ELSEWHERE}.get(word)
        near = get_close_matches(word, known, 1, NEAR)
        if ours in known:
            raise ValueError(f"{what} takes no {word!r}; ours is {ours}. Known: {', '.join(known)}")
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{what} takes no {word!r}. Known: {', '.join(known)}{meant}")


def renamed(value: Any) -> Any:
    """A JSON value with the keys of older files renamed, also behind a dot, as in ``policy.pointers``."""
    if isinstance(value, list):
        return [renamed(item) for item in value]
    if isinstance(value, dict):
        return {_word(key): renamed(item) for key, item in value.items()}
    return value


def session(about: dict[str, Any]) -> dict[str, Any]:
    """What an older file says of a session or an image: ``model.carry_mask`` is what a memory policy says by now."""
    model, options = dict(about["model"]), dict(about.get("options", {}))
    if model.pop("carry_mask", False) and options.get("policy") == "RecentFrames":
        options["policy"] = "CarriedMask"
    return about | {"model": model} | ({"options": options} if "options" in about else {})


def _word(key: Any) -> Any:
    if not isinstance(key, str):
        return key
    before, dot, last = key.rpartition(".")
    return before + dot + WORDS.get(last, last)
