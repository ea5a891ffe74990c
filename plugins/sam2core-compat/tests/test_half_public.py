"""Attributes and dictionaries that real programs reach into."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch


@pytest.fixture
def images(model):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    predictor.set_image(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    return predictor


def by_hand(predictor, images, size):
    """A state as pixano-inference-sam and saber-em build it."""
    keys = ("point_inputs_per_obj", "mask_inputs_per_obj", "cached_features", "constants", "output_dict_per_obj")
    keys += ("temp_output_dict_per_obj", "frames_tracked_per_obj")
    state = {
        "images": images,
        "num_frames": len(images),
        "video_height": size[0],
        "video_width": size[1],
        "device": predictor.device,
        "storage_device": predictor.device,
        "obj_id_to_idx": OrderedDict(),
        "obj_idx_to_id": OrderedDict(),
        "obj_ids": [],
        **{key: {} for key in keys},
    }
    predictor._get_image_feature(state, frame_idx=0, batch_size=1)
    return state


def test_features_can_be_taken_and_put_back(images):
    before = images.predict(point_coords=[[20, 20]], point_labels=[1], return_logits=True)
    kept = images._features
    images.reset_predictor()
    with pytest.raises(RuntimeError, match="no image is set"):
        images.predict(point_coords=[[20, 20]], point_labels=[1])
    images._features = {"image_embed": kept["image_embed"].clone(), "high_res_feats": list(kept["high_res_feats"])}
    images._orig_hw, images._is_image_set = [(40, 50)], True
    again = images.predict(point_coords=[[20, 20]], point_labels=[1], return_logits=True)
    assert all(np.array_equal(mine, its) for mine, its in zip(before, again, strict=True))


def test_a_decoder_is_tuned_by_hand(images):
    """The widespread script: encode, decode with the model's own parts, take a step on the decoder's parameters."""
    model = images.model
    model.sam_mask_decoder.train(True)
    try:
        mask, points, labels, _ = images._prep_prompts([[[20.0, 20.0]]], [[1]], None, None, True)
        sparse, dense = model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
        low, scores, _, _ = model.sam_mask_decoder(
            image_embeddings=images._features["image_embed"][-1].unsqueeze(0),
            image_pe=model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=False,
            high_res_features=[level[-1].unsqueeze(0) for level in images._features["high_res_feats"]],
        )
        shown = images._transforms.postprocess_masks(low, images._orig_hw[-1])
        shown.mean().backward()
        weight = model.sam_mask_decoder.conv_s0.weight
        assert shown.shape == (1, 3, 40, 50) and scores.shape == (1, 3)
        assert weight.grad is None and model.sam_mask_decoder.iou_token.weight.grad.abs().sum() > 0
        assert mask is None
    finally:
        model.eval()
        model.zero_grad()


def test_decoder_and_predictor_agree(images):
    model = images.model
    _, points, labels, _ = images._prep_prompts([[20.0, 20.0]], [1], None, None, True)
    sparse, dense = model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
    with torch.no_grad():
        low, scores, tokens, object_score = model.sam_mask_decoder(
            images._features["image_embed"],
            model.sam_prompt_encoder.get_dense_pe(),
            sparse,
            dense,
            False,
            False,
            images._features["high_res_feats"],
        )
    _, wanted_scores, wanted = images.predict([[20, 20]], [1], multimask_output=False)
    np.testing.assert_allclose(low[0].clamp(-32, 32).numpy(), wanted, atol=1e-5)
    np.testing.assert_allclose(scores[0].numpy(), wanted_scores, atol=1e-5)
    assert tokens.shape == (1, 1, 32) and object_score.shape == (1, 1)


def test_boxes_of_the_prompt_encoder_get_no_padding(model):
    encode = model.sam_prompt_encoder
    sparse, dense = encode(points=None, boxes=torch.tensor([[1.0, 2.0, 30.0, 40.0]]), masks=None)
    assert sparse.shape == (1, 2, 32) and dense.shape == (1, 32, 8, 8)
    padded, _ = encode(
        points=(torch.tensor([[[1.0, 2.0], [30.0, 40.0]]]), torch.tensor([[2, 3]])), boxes=None, masks=None
    )
    torch.testing.assert_close(padded[:, :2], sparse)
    torch.testing.assert_close(padded[:, 2], encode.not_a_point_embed.weight)


def test_a_state_built_by_hand_is_one(predictor, frames):
    made = predictor.init_state(str(frames))
    hand = by_hand(predictor, made["images"], (60, 80))
    for state in (made, hand):
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])
    pairs = zip(predictor.propagate_in_video(made), predictor.propagate_in_video(hand), strict=True)
    for mine, its in pairs:
        torch.testing.assert_close(mine[2], its[2], atol=1e-3, rtol=1e-3)


def test_a_state_can_be_pruned_and_frames_appended(predictor, frames):
    """Long videos: old outputs are thrown away from outside; live ones: frames are put behind the others."""
    state = predictor.init_state(str(frames))
    everything = state["images"]
    whole = by_hand(predictor, everything, (60, 80))
    predictor.add_new_points_or_box(whole, 0, 1, points=[[30, 30]], labels=[1])
    wanted = {frame: masks.clone() for frame, _, masks in predictor.propagate_in_video(whole)}

    state = by_hand(predictor, everything[:3], (60, 80))
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])
    found = {frame: masks.clone() for frame, _, masks in predictor.propagate_in_video(state)}
    state["images"] = torch.cat([state["images"], everything[3:]])
    state["num_frames"] = 6
    outputs = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
    for frame, _, masks in predictor.propagate_in_video(state, start_frame_idx=3):
        found[frame] = masks.clone()
        outputs.pop(frame - 5, None)
    assert list(found) == list(range(6)) and found[5].shape == wanted[5].shape
    reach = predictor.core.memory_policy.horizon
    assert reach < 5 and sorted(outputs) == [1, 2, 3, 4, 5]


def test_offloaded_states_give_the_same(predictor, frames):
    plain, away = (
        predictor.init_state(str(frames), offload_state_to_cpu=offload, offload_video_to_cpu=offload)
        for offload in (False, True)
    )
    for state in (plain, away):
        predictor.add_new_mask(state, 1, "x", np.eye(60, 80, dtype=bool))
        predictor.add_new_points_or_box(state, 0, "y", box=np.array([5, 5, 40, 40]))
    pairs = zip(predictor.propagate_in_video(plain), predictor.propagate_in_video(away), strict=True)
    for mine, its in pairs:
        assert mine[1] == ["x", "y"]
        torch.testing.assert_close(mine[2], its[2], atol=1e-3, rtol=1e-3)


def test_several_objects_are_those_tracked_alone(predictor, frames):
    clicks = {"a": [[30, 30]], "b": [[60, 20]], "c": [[10, 50]]}
    together = predictor.init_state(str(frames))
    for obj, points in clicks.items():
        predictor.add_new_points_or_box(together, 0, obj, points=points, labels=[1])
    found = {frame: masks.clone() for frame, _, masks in predictor.propagate_in_video(together)}
    for row, points in enumerate(clicks.values()):
        alone = predictor.init_state(str(frames))
        predictor.add_new_points_or_box(alone, 0, 1, points=points, labels=[1])
        for frame, _, masks in predictor.propagate_in_video(alone):
            torch.testing.assert_close(found[frame][row : row + 1], masks, atol=1e-3, rtol=1e-3)


def test_a_hook_on_the_decoder_sees_one_object_at_a_time(predictor, frames):
    seen = []
    state = predictor.init_state(str(frames))
    for obj in ("a", "b"):
        predictor.add_new_points_or_box(state, 0, obj, points=[[30, 30]], labels=[1])
    handle = predictor.sam_mask_decoder.register_forward_hook(lambda module, inputs, output: seen.append(output[3]))
    list(predictor.propagate_in_video(state, max_frame_num_to_track=1))
    handle.remove()
    assert [tuple(one.shape) for one in seen] == [(1, 1), (1, 1)] and predictor.core is not None
    list(predictor.propagate_in_video(state))
    assert len(seen) == 2


def test_fewer_memories_by_attribute(predictor):
    """As saber-em does."""
    predictor.maskmem_tpos_enc = torch.nn.Parameter(predictor.maskmem_tpos_enc[:2])
    predictor.num_maskmem = 2
    assert predictor.core.memory_readout.slot_embed.shape[0] == 2 and predictor.core.memory_policy.frames == 1


@torch.inference_mode()
def test_track_step_on_dictionaries_of_ones_own(predictor, frames):
    """As CVAT's agent does: the past is a dictionary, one frame follows another."""
    state = predictor.init_state(str(frames))
    past = {"cond_frame_outputs": {}, "non_cond_frame_outputs": {}}
    for frame in range(3):
        _, _, feats, positions, sizes = predictor._get_image_feature(state, frame, 1)
        mask = torch.zeros(1, 1, predictor.image_size, predictor.image_size)
        mask[..., 20:60, 20:60] = 1
        out = predictor.track_step(
            frame_idx=frame,
            is_init_cond_frame=frame == 0,
            current_vision_feats=feats,
            current_vision_pos_embeds=positions,
            feat_sizes=sizes,
            point_inputs=None,
            mask_inputs=mask if frame == 0 else None,
            output_dict=past,
            num_frames=3,
        )
        past["non_cond_frame_outputs" if frame else "cond_frame_outputs"][frame] = out
    assert out["pred_masks"].shape == (1, 1, 32, 32) and out["pred_masks_high_res"].shape == (1, 1, 128, 128)
    assert out["maskmem_features"].shape == (1, 16, 8, 8) and out["obj_ptr"].shape == (1, 32)
    assert torch.isfinite(out["pred_masks"]).all()


def test_names_of_parameters_and_of_the_state_dict(model):
    names = {name for name, _ in model.named_parameters()}
    assert {"maskmem_tpos_enc", "no_mem_embed", "sam_mask_decoder.conv_s0.weight"} <= names
    assert {name.split(".")[0] for name in names} >= {"image_encoder", "memory_attention", "sam_prompt_encoder"}
    assert len(list(model.parameters())) == len(list(model.core.parameters())) + 1  # no_mem_pos_enc
    state = model.state_dict()
    assert "no_mem_pos_enc" in state and names <= set(state)
    assert model.load_state_dict(state) == ([], [])
    with pytest.raises(RuntimeError, match="missing maskmem_tpos_enc; unexpected something.else"):
        short = {name: tensor for name, tensor in state.items() if name != "maskmem_tpos_enc"}
        model.load_state_dict(short | {"something.else": torch.zeros(1)})
    missing, unexpected = model.load_state_dict({**state, "something.else": torch.zeros(1)}, strict=False)
    assert (missing, unexpected) == ([], ["something.else"])


def test_replacing_load_video_frames_works(predictor, frames, monkeypatch):
    """As FiftyOne does."""
    import sam2.sam2_video_predictor as module

    wanted = predictor.init_state(str(frames))["images"]
    monkeypatch.setattr(module, "load_video_frames", lambda video_path, **_: (wanted[: video_path[0]], 60, 80))
    assert predictor.init_state((2, "a reader"))["num_frames"] == 2


def test_errors_are_of_upstreams_kinds(predictor, frames, images):
    state = predictor.init_state(str(frames))
    with pytest.raises(RuntimeError, match="No input points or masks are provided"):
        next(predictor.propagate_in_video(state))
    with pytest.raises(ValueError, match="together"):
        predictor.add_new_points_or_box(state, 0, 1, points=[[1, 1]])
    with pytest.raises(ValueError, match="at least one"):
        predictor.add_new_points_or_box(state, 0, 1)
    with pytest.raises(ValueError, match="clear_old_points"):
        predictor.add_new_points_or_box(state, 0, 1, box=[1, 1, 9, 9], clear_old_points=False)
    with pytest.raises(RuntimeError, match="Cannot remove"):
        predictor.remove_object(state, "nobody", strict=True)
    assert predictor.remove_object(state, "nobody") == (state["obj_ids"], [])
    with pytest.raises(AssertionError):
        images.predict_batch()
    with pytest.raises(AssertionError):
        images.predict(point_coords=[[1, 1]])
    with pytest.raises(NotImplementedError):
        images.set_image("picture.jpg")


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_autocast_is_tolerated(predictor, frames, images, dtype):
    with torch.autocast("cpu", dtype=dtype):
        state = predictor.init_state(str(frames))
        predictor.add_new_points_or_box(state, 0, 1, points=[[30, 30]], labels=[1])
        for _, _, masks in predictor.propagate_in_video(state, max_frame_num_to_track=2):
            assert masks.dtype == torch.float32 and torch.isfinite(masks).all()
        masks, scores, logits = images.predict([[20, 20]], [1])
    assert masks.dtype == scores.dtype == logits.dtype == np.float32


def test_a_model_of_the_registry_by_its_name(tmp_path):
    from sam2.build_sam import build_sam2_video_predictor

    made = build_sam2_video_predictor("sam2core_nano", device="cpu")
    assert made.image_size == 640 and made.num_maskmem == 5 and made.fill_hole_area == 8
    with pytest.raises(ValueError, match="no configuration 'sam2core_nono'"):
        build_sam2_video_predictor("sam2core_nono", device="cpu")


def test_from_pretrained_reads_the_hubs_cache(tmp_path, monkeypatch):
    import sam2.build_sam as module
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    assert module.HF_MODEL_ID_TO_FILENAMES["facebook/sam2.1-hiera-base-plus"] == (
        "configs/sam2.1/sam2.1_hiera_b+.yaml",
        "sam2.1_hiera_base_plus.pt",
    )
    monkeypatch.setattr(module, "_hf_download", lambda model_id: ("test_tiny", None))
    made = SAM2ImagePredictor.from_pretrained("facebook/sam2-hiera-tiny", device="cpu", mask_threshold=0.25)
    assert made.mask_threshold == 0.25 and made.device.type == "cpu"
    monkeypatch.undo()
    with pytest.raises(KeyError, match="did you mean 'facebook/sam2-hiera-tiny'"):
        module._hf_download("facebook/sam2-hiera-tny")
