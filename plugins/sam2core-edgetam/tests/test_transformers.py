"""The layout and the masks against transformers' `EdgeTamVideoModel`, live."""

from __future__ import annotations

import math

import pytest
import torch
from sam2core_edgetam.layouts import HUGGINGFACE

import registry
from sam2core.media.images import read_image
from sam2core.predictors.transforms import to_model
from sam2core.predictors.video import VideoPredictor

pytest.importorskip("transformers", minversion="5", reason="transformers 5 or newer is the reference")
SIDE, FRAMES = 256, 4


@pytest.fixture(scope="module")
def theirs():
    """The released architecture at 256 pixels."""
    from transformers import (
        EdgeTamVideoConfig,
        EdgeTamVideoModel,
        EdgeTamVideoPromptEncoderConfig,
        EdgeTamVisionConfig,
        TimmWrapperConfig,
    )

    backbone = {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]}
    vision = EdgeTamVisionConfig(
        backbone_config=TimmWrapperConfig(architecture="repvit_m1", model_args=backbone),
        backbone_feature_sizes=[[SIDE // stride] * 2 for stride in (4, 8, 16)],
    )
    config = EdgeTamVideoConfig(
        vision_config=vision,
        prompt_encoder_config=EdgeTamVideoPromptEncoderConfig(image_size=SIDE),
        image_size=SIDE,
        memory_attention_rope_feat_sizes=[SIDE // 16] * 2,
        enable_occlusion_spatial_embedding=False,
        enable_temporal_pos_encoding_for_object_pointers=False,
    )
    return EdgeTamVideoModel(config).eval()


@pytest.fixture(scope="module")
def ours(theirs):
    """Ours with the same tensors, all of them random: what a fresh model has alike would hide a wrong name."""
    model = registry.build("edgetam", weights=False, image_size=SIDE)
    generator = torch.Generator().manual_seed(5)
    state = model.state_dict()
    for name, tensor in state.items():
        noise = torch.randn(tensor.shape, generator=generator)
        if not tensor.is_floating_point() or "frequencies" in name:
            continue
        if name.endswith("running_var"):
            tensor.copy_(1.0 + noise.abs())
        elif tensor.ndim > 1 and name.endswith("weight"):
            tensor.copy_(noise / math.sqrt(tensor[0].numel()))
        else:
            tensor.add_(0.2 * noise)
    state["mask_decoder.presence_head.layers.2.bias"].fill_(5.0)
    theirs.load_state_dict(HUGGINGFACE.inverse(state), strict=True)
    return model


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


def test_every_tensor_has_its_name_and_shape_there(theirs, ours):
    written = HUGGINGFACE.inverse(ours.state_dict())
    expected = {name: tensor.shape for name, tensor in theirs.state_dict().items()}
    assert {name: tensor.shape for name, tensor in written.items()} == expected and len(expected) == 984


@torch.inference_mode()
def test_a_click_is_tracked_alike(theirs, ours):
    from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoInferenceSession

    coarse = torch.randint(0, 256, (3, 6, 8), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    first = coarse.repeat_interleave(SIDE // 6 + 1, 1).repeat_interleave(SIDE // 8, 2)[:, :SIDE]
    frames = [first.roll(5 * frame, 2).permute(1, 2, 0).contiguous().numpy() for frame in range(FRAMES)]
    pixels = torch.cat([to_model(read_image(frame), (SIDE, SIDE)) for frame in frames])
    said = EdgeTamVideoInferenceSession(video=pixels, video_height=SIDE, video_width=SIDE, dtype=torch.float32)
    points = {"point_coords": torch.tensor([[[[90.0, 120.0]]]]), "point_labels": torch.tensor([[[1]]]).int()}
    said.add_point_inputs(said.obj_id_to_idx(1), 0, points)
    said.obj_with_new_inputs = [1]
    expected = list(theirs.propagate_in_video_iterator(said, start_frame_idx=0))

    session = VideoPredictor(ours, cleaning={"fill_holes": 0}).open(frames)
    session.prompt(0, 1, points=[[90, 120]])
    found = list(session.propagate())
    assert len(found) == len(expected) == FRAMES
    for mine, other in zip(found, expected):
        assert error(mine.logits, other.pred_masks[:, 0]) < 1e-3, mine.frame
