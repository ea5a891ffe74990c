"""Our sessions live against transformers' ``Sam2VideoModel`` where it does what SAM 2 does: clicks on the first frame,
then forward. It differs on purpose elsewhere: no earlier answer goes along with a correction, and there are no ranges
in reverse from a tracked frame.
"""

from __future__ import annotations

import pytest
import torch

from sam2core.predictors.video import VideoPredictor
from tests.parity import oracle, scripts

pytest.importorskip("transformers", reason="transformers is the reference")

FRAMES, SIZE = 8, (30, 50)
POINTS, LABELS = [[20.0, 12.0], [40.0, 25.0]], [1, 0]
# transformers fixes the memory's width
SHAPE = oracle.SHAPES["mini"].at(dim=128, memory_dim=64, hidden=96)


@pytest.mark.parametrize(
    ("family", "seed", "object_score", "points"), [("2.1", 1, 5.0, 1), ("2.1", 2, 0.0, 2), ("2.0", 3, 5.0, 2)]
)
def test_clicks_on_the_first_frame_then_forward(family, seed, object_score, points):
    from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

    shape = SHAPE.at(family=family)
    ours = oracle.randomise(oracle.ours(shape), seed)
    with torch.no_grad():
        head = ours.mask_decoder.presence_head.layers[-1]
        head.weight.mul_(0.05 if object_score else 1.0)
        head.bias.fill_(object_score)
    theirs = oracle.transformers_model(shape, video=True)
    theirs.load_state_dict(oracle.to_transformers(ours.state_dict()), strict=True)
    frames = scripts.clip(FRAMES, SIZE, seed)

    said = Sam2VideoInferenceSession(  # a dtype by name, its default, fails
        dtype=torch.float32, video=scripts.pixels(frames, shape.image), video_height=SIZE[0], video_width=SIZE[1]
    )
    scale = torch.tensor([shape.image / SIZE[1], shape.image / SIZE[0]])
    prompt = {
        "point_coords": (torch.tensor(POINTS[:points]) * scale)[None, None],
        "point_labels": torch.tensor(LABELS[:points], dtype=torch.int32)[None, None],
    }
    said.add_point_inputs(said.obj_id_to_idx(1), 0, prompt)
    said.obj_with_new_inputs = [1]
    expected = list(theirs.propagate_in_video_iterator(said, start_frame_idx=0))

    session = VideoPredictor(ours, cleaning={"fill_holes": 0}).open(frames, keep="all")
    session.prompt(0, 1, POINTS[:points], LABELS[:points])
    found = list(session.propagate())

    assert len(found) == len(expected) == FRAMES
    for mine, other in zip(found, expected, strict=True):
        assert (mine.frame, list(mine.objects)) == (other.frame_idx, other.object_ids)
        assert oracle.error(mine.logits, other.pred_masks[:, 0]) <= 1e-3
        assert float((mine.object_score - other.object_score_logits.flatten()).abs().max()) <= 1e-3
