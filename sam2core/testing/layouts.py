"""The contract of a layout: a way of naming tensors that loses none and leads back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from sam2core.checkpoints.layout import Layout, LayoutError
from sam2core.testing.isolation import tiny_model
from sam2core.testing.rules import Examination, Found


def examine_layout(examination: Examination, layout: Any, state: Mapping[str, Any] | None) -> None:
    """Raise ContractError at the first rule that the layout breaks."""
    with examination.rule("protocol", "a sam2core.checkpoints.layout.Layout: a value with a name, a probe and tables"):
        if not isinstance(layout, Layout):
            raise Found(f"a {type(layout).__name__}" + (", which is a class" if isinstance(layout, type) else ""))
        if not layout.name or not layout.probe:
            raise Found(f"name {layout.name!r}, probe {layout.probe!r}; both are needed to choose it")
    ours = dict(tiny_model().state_dict() if state is None else state)
    kept = dict(ours)
    with examination.rule("writing", "`inverse` names every tensor of ours, and changes none of what it is given"):
        theirs = layout.inverse(ours)
        if ours.keys() != kept.keys():
            raise Found("the mapping it was given was changed")
    with examination.rule("probe", f"the keys of `probe` ({', '.join(layout.probe)}) are in every file of this layout"):
        if missing := [key for key in layout.probe if key not in theirs]:
            raise Found(f"a file written by it lacks {', '.join(missing)}")
        if not layout.fits(theirs):
            raise Found("`fits` says no to a file written by it")
    wants = "reading what was written gives every tensor back under its name"
    if layout.without:
        wants += f", but for what the layout leaves out ({', '.join(layout.without)})"
    with examination.rule("there and back", wants):
        again = layout.rename(theirs)
        if unknown := sorted(again.keys() - ours.keys()):
            raise Found(f"names that were not there: {', '.join(unknown[:3])}")
        missing = sorted(ours.keys() - again.keys())
        if missing and not layout.without:
            raise Found(f"lost: {', '.join(missing[:3])}")
        if other := [
            name for name, x in again.items() if x.shape != ours[name].shape or not torch.equal(x, ours[name])
        ]:
            raise Found(f"other numbers: {', '.join(other[:3])}")
    if layout.tables:
        with examination.rule("unknown keys", "a key that no rule knows is a LayoutError, never dropped in silence"):
            try:
                layout.rename({**theirs, "a.key.of.nobody": torch.zeros(1)})
            except LayoutError:
                return
            raise Found("it was read without a word")
