"""What a program overrides, patches, sets or hooks changes the masks as it changes those of Meta's package.

The list of what there is to override is made from Meta's package, which runs beside this one, each in a process of its
own. Without it these tests are skipped.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from both import META, OURS, run, write_place

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(META is None, reason="Meta's package is the reference: pip install sam2==1.1.0")


TOGETHER = ("_get_image_feature", "_prepare_backbone_features")
"""What sam2core calls, too; overriding it changes masks, and leaves the objects of a frame together."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_place(tmp_path_factory.mktemp("overrides"), 3)


@pytest.fixture(scope="module")
def answers(folder):
    """What both packages answered to every override, by its name."""
    theirs, ours, names = folder / "theirs.npz", folder / "ours.npz", folder / "names"
    with ThreadPoolExecutor(2) as both:  # the second begins when the first has said what there is
        tasks = [both.submit(run, META, HERE / "overriding.py", "list", folder, theirs, names)]
        while not names.exists() and not tasks[0].done():
            time.sleep(0.1)
        if names.exists():
            tasks.append(both.submit(run, OURS, HERE / "overriding.py", "as listed", folder, ours, names))
        for task in tasks:
            task.result()
    with np.load(theirs) as first, np.load(ours) as second:
        return {name: (first[name], second[name]) for name in first.files}


def apart(theirs: np.ndarray, ours: np.ndarray) -> float:
    """How far apart two answers are, as a part of the spread of the first; infinite for other shapes."""
    if theirs.shape != ours.shape:
        return np.inf
    real = theirs > -1000  # the mark of an absent object is compared as such
    if not np.array_equal(real, ours > -1000):
        return np.inf
    spread = max(float(np.abs(theirs[real]).max(initial=0.0)), 1e-6)
    return float(np.abs(theirs - ours)[real].max(initial=0.0)) / spread


def test_every_override_changes_the_masks_as_it_changes_metas(answers):
    wrong, acting = [], 0
    for name, (theirs, ours) in answers.items():
        if theirs.dtype.kind == "U":  # Meta's fails
            continue
        if ours.dtype.kind == "U":
            wrong.append(f"{name}: {ours}")
        elif name.startswith("calls"):  # as often as Meta's calls it, or once for all objects of a frame
            if theirs != ours and not name.endswith(TOGETHER):
                wrong.append(f"{name}: {ours} instead of {theirs}")
        elif (found := apart(theirs, ours)) > 1e-3:
            wrong.append(f"{name}: {found:.1e}")
        if not name.startswith(("plain", "calls")):
            acting += apart(answers[f"plain {name.split(' ')[0]}"][0], theirs) > 1e-3
    assert not wrong, "\n".join(wrong)
    assert acting > 250, f"only {acting} of {len(answers)} overrides change anything"


def test_the_list_holds_what_programs_reach_for(answers):
    for name in (
        "video subclass _encode_new_memory",
        "video instance _prepare_memory_conditioned_features",
        "video attribute soft_no_obj_ptr",
        "video attribute sigmoid_scale_for_mem_enc",
        "video hook memory_attention.layers.0.cross_attn_image",
        "image hook sam_prompt_encoder",
        "image subclass _predict",
        "automatic subclass _process_batch",
        "automatic replaced sam2.automatic_mask_generator:batched_nms",
        "video replaced sam2.modeling.sam2_base:select_closest_cond_frames",
        "video replaced sam2.modeling.sam2_utils:LayerNorm2d.forward",
    ):
        assert name in answers
    for kind in ("video", "image", "automatic"):  # what was overridden is put back, and sam2core computes again
        assert np.array_equal(answers[f"plain {kind}"][1], answers[f"plain again {kind}"][1])


def test_a_choice_by_motion_is_a_subclass(folder):
    """A tracker that believes the mask where the object was heading, and remembers frames it believes in."""
    found = {}
    for name, where in (("theirs", META), ("ours", OURS)):
        run(where, HERE / "choosing_by_motion.py", folder, folder / f"motion {name}.npz")
        with np.load(folder / f"motion {name}.npz") as file:
            found[name] = dict(file)
    assert apart(found["theirs"]["motion"], found["ours"]["motion"]) < 1e-3
    assert apart(found["theirs"]["plain"], found["ours"]["plain"]) < 1e-3
    assert apart(found["theirs"]["plain"], found["theirs"]["motion"]) > 0.1
    assert found["ours"]["chosen"].tolist() == found["theirs"]["chosen"].tolist()
    assert len(set(found["ours"]["chosen"].tolist())) > 1
    assert found["ours"]["names"].tolist() == found["theirs"]["names"].tolist()  # an optimizer's state fits by index
