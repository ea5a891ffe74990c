"""The words of older files and of other packages, and ours for them. Readers hand older JSON through `renamed`."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ParamSpec, TypeVar

Given = ParamSpec("Given")
Answer = TypeVar("Answer")

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

CLEANING = {"fill_holes": 0, "drop_islands": 0, "keep_clicked": False, "keep_largest": False}
"""Options of predictors that are steps of one, `cleaning`, by now, and what they say when they say nothing."""
CLEANING_TASKS = ("image", "video", "automask")

ELSEWHERE = {
    "box_nms_thresh": "nms_threshold",
    "crop_n_layers": "crop_layers",
    "crop_n_points_downscale_factor": "crop_points_downscale",
    "crop_nms_thresh": "crop_nms_threshold",
    "crop_overlap_ratio": "crop_overlap",
    "image": "images",
    "fill_hole_area": "fill_holes",
    "max_hole_area": "fill_holes",
    "max_sprinkle_area": "drop_islands",
    "min_mask_region_area": "min_region_area",
    "pred_iou_thresh": "iou_threshold",
    "stability_score_offset": "stability_offset",
    "stability_score_thresh": "stability_threshold",
    "start_frame_idx": "start",
    "use_m2m": "refine",
    "video": "source",
    "video_path": "source",
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


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was most likely meant to be, or None when nothing is close."""
    names = list(known)
    if (ours := {**WORDS, **ELSEWHERE}.get(word)) in names:
        return ours
    if "cleaning" in names and (ours or word) in CLEANING:
        return "cleaning"
    lower = {name.lower(): name for name in reversed(names)}
    match = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=NEAR)
    if match:
        return lower[match[0]]
    # "samurai" for "acme.samurai": a name written without its package
    tails = [name for name in names if name.lower().rpartition(".")[2] == word.lower()]
    return tails[0] if tails else None


def check_keywords(what: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raise ValueError for keywords that `what` does not take, with ours: another package's word, or the nearest."""
    for word in unknown:
        near = nearest(word, known)
        ours = {**WORDS, **ELSEWHERE}.get(word, word)
        if near == "cleaning" and ours in CLEANING:
            step = f"cleaning={{'{ours}': ...}}"
            raise ValueError(f"{what} takes no {word!r}; ours is {step}. Known: {', '.join(known)}")
        if near is not None and ours == near:
            raise ValueError(f"{what} takes no {word!r}; ours is {near}. Known: {', '.join(known)}")
        meant = f"; did you mean {near!r}?" if near else ""
        raise ValueError(f"{what} takes no {word!r}. Known: {', '.join(known)}{meant}")


def takes_our_words(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
    """A function that answers keywords it does not take as `check_keywords` does, in place of a TypeError."""
    entries = inspect.signature(function).parameters.values()
    known = [entry.name for entry in entries if entry.kind in (entry.POSITIONAL_OR_KEYWORD, entry.KEYWORD_ONLY)]
    known = known[known[:1] == ["self"] :]
    name = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")
    what = name if function.__name__ in ("__init__", "__call__") else function.__name__

    @functools.wraps(function)
    def checked(*arguments: Given.args, **keywords: Given.kwargs) -> Answer:
        check_keywords(what, [word for word in keywords if word not in known], known)
        return function(*arguments, **keywords)

    return checked


def renamed(value: Any) -> Any:
    """A JSON value with the keys of older files renamed, also behind a dot, as in ``policy.pointers``."""
    if isinstance(value, list):
        return [renamed(item) for item in value]
    if isinstance(value, dict):
        return {_word(key): renamed(item) for key, item in value.items()}
    return value


def predictors(options: Any) -> Any:
    """Options per task as a spec or an override has them: the steps of cleaning stood beside the other options."""
    if not isinstance(options, dict):
        return options
    return {task: _cleaning(own) if task in CLEANING_TASKS else own for task, own in options.items()}


def _cleaning(options: Any) -> Any:
    if not isinstance(options, dict) or not any(step in options for step in CLEANING):
        return options
    steps = {step: options[step] for step in CLEANING if step in options}
    others = {name: value for name, value in options.items() if name not in CLEANING}
    return others | {"cleaning": steps | (options.get("cleaning") or {})}


def session(about: dict[str, Any]) -> dict[str, Any]:
    """What an older file says of a session or an image.

    ``model.carry_mask`` is what a memory policy says by now; holes were filled without a chain of cleaning.
    """
    model, options = dict(about["model"]), dict(about.get("options", {}))
    if model.pop("carry_mask", False) and options.get("policy") == "RecentFrames":
        options["policy"] = "CarriedMask"
    if "fill_holes" in options:
        steps = {step: options.pop(step, nothing) for step, nothing in CLEANING.items()}
        steps |= {"threshold": 0.0, "filled": 0.1}
        options |= {f"cleaning.{step}": value for step, value in steps.items()}
    return about | {"model": model} | ({"options": options} if "options" in about else {})


def _word(key: Any) -> Any:
    if not isinstance(key, str):
        return key
    before, dot, last = key.rpartition(".")
    return before + dot + WORDS.get(last, last)
