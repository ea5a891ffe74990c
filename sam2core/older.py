"""The words of older files, and those that took their place: readers hand their JSON through `renamed`."""

from __future__ import annotations

from typing import Any

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


def renamed(value: Any) -> Any:
    """A JSON value with the keys of older files renamed, also behind a dot, as in ``policy.pointers``."""
    if isinstance(value, list):
        return [renamed(item) for item in value]
    if isinstance(value, dict):
        return {_word(key): renamed(item) for key, item in value.items()}
    return value


def _word(key: Any) -> Any:
    if not isinstance(key, str):
        return key
    before, dot, last = key.rpartition(".")
    return before + dot + WORDS.get(last, last)
