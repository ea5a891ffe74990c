"""What README.md says is the same as Meta's sam2 on purpose, one test per line of its table."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image


def click(predictor, state, frame=0, obj=1, **more):
    said = {"points": [[30, 30]], "labels": [1]} | more
    return predictor.add_new_points_or_box(state, frame, obj, **said)


def track(predictor, state, **how):
    return [(frame, masks.clone()) for frame, _, masks in predictor.propagate_in_video(state, **how)]


def test_a_folders_frames_are_resized_by_pillow_in_8_bits(frames):
    from sam2.utils.misc import load_video_frames

    images, height, width = load_video_frames(str(frames), 32, True)
    assert images.shape == (6, 3, 32, 32) and (height, width) == (60, 80) and images.dtype == torch.float32
    small = np.asarray(Image.open(frames / "2.jpg").convert("RGB").resize((32, 32), Image.Resampling.BICUBIC))
    wanted = (small / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(images[2].permute(1, 2, 0), wanted, atol=1e-6)


def test_the_image_predictor_resizes_in_floating_point(model):
    from sam2.utils.transforms import SAM2Transforms
    from torchvision.transforms.functional import normalize, resize, to_tensor

    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (50, 70, 3), dtype=np.uint8))
    wanted = normalize(
        resize(to_tensor(picture), [64, 64], antialias=True), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    torch.testing.assert_close(SAM2Transforms(64, 0.0)(picture), wanted, atol=1e-6, rtol=0)


def test_a_videos_size_is_its_last_frames(tmp_path):
    from sam2.utils.misc import load_video_frames

    for frame, size in (("2", (30, 20)), ("10", (50, 40))):  # by number: 10 is the last
        Image.new("RGB", size).save(tmp_path / f"{frame}.jpg")
    assert load_video_frames(str(tmp_path), 32, True)[1:] == (40, 50)


def test_ranges_include_their_end(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state)
    assert [frame for frame, _ in track(predictor, state, max_frame_num_to_track=2)] == [0, 1, 2]
    assert [frame for frame, _ in track(predictor, state, start_frame_idx=4, max_frame_num_to_track=0)] == [4]
    backwards = track(predictor, state, start_frame_idx=4, max_frame_num_to_track=2, reverse=True)
    assert [frame for frame, _ in backwards] == [4, 3, 2]


def test_backwards_from_frame_0_yields_nothing(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state)
    assert track(predictor, state, reverse=True) == []


def test_corrections_of_tracked_frames_are_forgotten(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state)
    before = dict(track(predictor, state))
    _, _, corrected = click(predictor, state, frame=3, points=[[70, 5]], labels=[0])
    assert not torch.allclose(corrected, before[3])
    torch.testing.assert_close(dict(track(predictor, state))[3], before[3])

    predictor.add_all_frames_to_correct_as_cond = True
    _, _, corrected = click(predictor, state, frame=3, points=[[70, 5]], labels=[0])
    torch.testing.assert_close(dict(track(predictor, state))[3], corrected)


def test_earlier_logits_are_a_mask_input_even_after_clear_old_points(predictor, frames):
    fresh = predictor.init_state(str(frames))
    _, _, alone = click(predictor, fresh, points=[[50, 40]])
    state = predictor.init_state(str(frames))
    click(predictor, state, points=[[10, 10]])
    _, _, after = click(predictor, state, points=[[50, 40]], clear_old_points=True)
    assert state["point_inputs_per_obj"][0][0]["point_coords"].shape == (1, 1, 2)
    assert not torch.allclose(alone, after)


def test_a_mask_at_model_size_is_not_cut_at_one_half(predictor, frames):
    state = predictor.init_state(str(frames))
    side = predictor.image_size
    soft = torch.full((side, side), 0.25)
    predictor.add_new_mask(state, 0, 1, soft)
    assert state["mask_inputs_per_obj"][0][0].unique().tolist() == [0.25]
    predictor.add_new_mask(state, 0, 1, torch.full((60, 80), 0.25))
    assert state["mask_inputs_per_obj"][0][0].unique().tolist() == [0.0]


def test_holes_are_filled_as_with_the_cuda_extension():
    from sam2.utils.misc import fill_holes_in_mask_scores

    logits = torch.full((1, 1, 12, 12), 5.0)
    logits[0, 0, 4, 4:6] = logits[0, 0, 5, 6] = -3.0  # a hole of three pixels, joined at a corner
    logits[0, 0, 0, 0] = 0.0  # at the border, and not above zero
    logits[0, 0, 8:11, 8:11] = -3.0  # nine pixels
    filled = fill_holes_in_mask_scores(logits, 8)
    assert (filled == 0.1).sum() == 4 and (filled == -3.0).sum() == 9


def test_overlaps_are_removed_in_what_is_returned_only(predictor, frames):
    predictor.non_overlap_masks = True
    state = predictor.init_state(str(frames))
    click(predictor, state, obj="a")
    _, ids, masks = click(predictor, state, obj="b", points=[[31, 31]])
    assert ids == ["a", "b"] and not ((masks[0] > 0) & (masks[1] > 0)).any()
    track(predictor, state)
    kept = [state["output_dict_per_obj"][one]["cond_frame_outputs"][0]["pred_masks"] for one in range(2)]
    shown = [torch.nn.functional.interpolate(one, (60, 80), mode="bilinear") for one in kept]
    assert not torch.equal(torch.cat(shown), masks)


def test_a_prompt_shows_other_objects_waiting_answers_of_its_own_kind_only(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state, obj="a")
    before = dict(track(predictor, state))
    click(predictor, state, frame=3, obj="a", points=[[70, 5]], labels=[0])  # a correction
    _, _, masks = click(predictor, state, frame=3, obj="b")  # a first prompt
    torch.testing.assert_close(masks[:1], before[3])


def test_a_cleared_frame_stays_in_memory_and_counts_as_not_tracked(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state)
    click(predictor, state, frame=3)
    track(predictor, state)
    predictor.clear_all_prompts_in_frame(state, 3, 1)
    outputs = state["output_dict_per_obj"][0]
    assert 3 in outputs["non_cond_frame_outputs"] and 3 not in outputs["cond_frame_outputs"]
    assert 3 not in state["frames_tracked_per_obj"][0] and 2 in state["frames_tracked_per_obj"][0]


def test_removing_the_last_object_resets_the_state(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state)
    assert predictor.remove_object(state, 1) == ([], [])
    assert state["obj_ids"] == [] and state["output_dict_per_obj"] == {}


def test_masks_are_floats_and_a_batch_of_one_loses_its_dimension(model):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    predictor.set_image(np.zeros((40, 50, 3), np.uint8))
    masks, scores, logits = predictor.predict(box=[[5, 5, 20, 20]])
    assert masks.shape == (3, 40, 50) and masks.dtype == np.float32 and set(np.unique(masks)) <= {0.0, 1.0}
    assert predictor.predict(box=[[5, 5, 20, 20], [1, 1, 9, 9]])[0].shape == (2, 3, 40, 50)


def test_min_mask_region_area_cleans_low_resolution_logits_at_zero(model):
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    generator = SAM2AutomaticMaskGenerator(model, min_mask_region_area=7, mask_threshold=0.5)
    clean = generator._engine.cleaning
    assert (clean.fill_holes, clean.drop_islands, clean.threshold) == (7, 7, 0.0)
    assert generator._engine.mask_threshold == 0.5 and generator._engine.min_region_area == 0


def test_apply_postprocessing_wins_over_hydra_overrides_extra():
    from sam2.build_sam import build_sam2_video_predictor

    extra = ["++model.fill_hole_area=3", "++model.non_overlap_masks=true"]
    made = build_sam2_video_predictor("test_tiny", device="cpu", hydra_overrides_extra=extra)
    assert made.fill_hole_area == 8 and made.non_overlap_masks and made.binarize_mask_from_pts_for_mem_enc
    plain = build_sam2_video_predictor(
        "test_tiny", device="cpu", hydra_overrides_extra=extra, apply_postprocessing=False
    )
    assert plain.fill_hole_area == 3 and not plain.binarize_mask_from_pts_for_mem_enc
    assert extra == ["++model.fill_hole_area=3", "++model.non_overlap_masks=true"]


def test_memories_are_bfloat16(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state)
    track(predictor, state)
    outputs = state["output_dict_per_obj"][0]
    for out in (outputs["cond_frame_outputs"][0], outputs["non_cond_frame_outputs"][3]):
        assert out["maskmem_features"].dtype == torch.bfloat16 and out["pred_masks"].dtype == torch.float32
        assert out["maskmem_pos_enc"][-1].shape == out["maskmem_features"].shape
