"""When sam2core computes, when Meta's methods do, and what is refused."""

from __future__ import annotations

import copy
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

TINY = str(Path(__file__).with_name("tiny.yaml"))


def tracked(predictor, frames):
    state = predictor.init_state(str(frames))
    shown = [predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])[2]]
    shown.append(predictor.add_new_mask(state, 0, 2, np.eye(60, 80, dtype=bool))[2])
    shown += [masks for _, _, masks in predictor.propagate_in_video(state, max_frame_num_to_track=3)]
    return torch.cat([one.flatten() for one in shown])


def test_both_ways_give_the_same(predictor, frames):
    wanted = tracked(predictor, frames)
    handle = predictor.memory_encoder.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="memory_encoder is hooked: .* as Meta's is"):
        found = tracked(predictor, frames)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        assert predictor.core is None
        handle.remove()
        assert predictor.core is not None
    torch.testing.assert_close(found, wanted, atol=1e-3 * float(wanted[wanted > -1000].abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("name", "value"),
    [("sigmoid_scale_for_mem_enc", 5.0), ("max_cond_frames_in_attn", 2), ("multimask_output_for_tracking", False)],
)
def test_an_option_that_sam2core_has_acts_there(predictor, frames, name, value):
    tracked(predictor, frames)
    first = predictor.core
    setattr(predictor, name, value)
    assert predictor.core is not None and predictor.core is not first
    assert predictor.core.memory_encoder.mask_scale == predictor.sigmoid_scale_for_mem_enc
    assert predictor.core.multimask.while_tracking is predictor.multimask_output_for_tracking
    assert predictor.core.memory_readout.no_memory is predictor.no_mem_embed


def test_weights_are_shared_when_they_are_replaced(predictor):
    assert predictor.core is not None
    predictor.memory_encoder.out_proj.weight = torch.nn.Parameter(torch.zeros(16, 32, 1, 1))
    assert predictor.core.memory_encoder.out_proj.weight is predictor.memory_encoder.out_proj.weight
    assert predictor.double().core.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:.* as Meta's is")
@pytest.mark.parametrize(
    "touch",
    [
        lambda one: setattr(one, "soft_no_obj_ptr", True),
        lambda one: setattr(one.sam_prompt_encoder, "forward", one.sam_prompt_encoder.forward),
        lambda one: setattr(one, "track_step", one.track_step),
        lambda one: setattr(one.image_encoder.trunk.blocks[0].norm1, "eps", 0.5),
        lambda one: setattr(one.memory_attention, "norm", torch.nn.Identity()),
        lambda one: setattr(one, "obj_ptr_proj", copy.deepcopy(one.obj_ptr_proj)),
        lambda one: one.sam_mask_decoder.train(),
        lambda one: one.image_encoder.register_forward_pre_hook(lambda *_: None),
    ],
)
def test_what_touches_a_model(predictor, touch):
    assert predictor.core is not None
    touch(predictor)
    assert predictor.core is None


def test_a_patched_class_and_a_patched_function(predictor, monkeypatch):
    from sam2.modeling import sam2_base
    from sam2.modeling.sam.transformer import RoPEAttention

    for place, name in ((RoPEAttention, "forward"), (sam2_base, "select_closest_cond_frames")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, lambda *_, **__: None)
            assert predictor.core is None
        assert predictor.core is not None


def test_copies_go_their_own_way(predictor, frames):
    wanted = tracked(predictor, frames)
    file = io.BytesIO()
    torch.save(predictor, file)
    file.seek(0)
    for other in (copy.deepcopy(predictor), torch.load(file, weights_only=False)):
        assert other.core.memory_readout.no_memory is other.no_mem_embed is not predictor.no_mem_embed
        torch.testing.assert_close(tracked(other, frames), wanted)


def test_a_model_of_the_registry_refuses(frames):
    from sam2.build_sam import build_sam2_video_predictor
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    made = build_sam2_video_predictor("test_tiny", device="cpu")
    tracked(made, frames)
    made.num_maskmem = made.num_maskmem  # nothing new
    for name, value in (("soft_no_obj_ptr", True), ("track_step", print), ("memory_encoder", torch.nn.Identity())):
        with pytest.raises(ValueError, match=rf"{name} is set, but a model of sam2core's registry .* nothing"):
            setattr(made, name, value)
    core = made.core
    handle = core.memory_attention.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="memory_attention is hooked, but a model of sam2core's registry"):
        tracked(made, frames)
    handle.remove()

    class Mine(SAM2VideoPredictor):
        def _encode_new_memory(self, *args, **kwargs):
            raise NotImplementedError

    with pytest.raises(ValueError, match="Mine._encode_new_memory is overridden, but"):
        Mine(image_encoder=core, memory_attention=None, memory_encoder=None)


def test_vos_optimized_says_so_and_costs_nothing_on_a_cpu(predictor, frames):
    from sam2.build_sam import build_sam2_video_predictor

    with pytest.warns(UserWarning, match="compiled at their first use on a GPU.*on a CPU nothing is compiled") as told:
        made = build_sam2_video_predictor(TINY, device="cpu", vos_optimized=True)
    assert len(told) == 1 and type(made).__name__ == "SAM2VideoPredictorVOS"
    made.load_state_dict(predictor.state_dict())
    torch.testing.assert_close(tracked(made, frames), tracked(predictor, frames))
    assert made.core.fixed is None
