"""What works here where Meta's sam2 fails, as README.md lists it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image


def click(predictor, state, frame=0, obj=1, **more):
    said = {"points": [[30, 30]], "labels": [1]} | more
    return predictor.add_new_points_or_box(state, frame, obj, **said)


def track(predictor, state, **how):
    return {frame: masks.clone() for frame, _, masks in predictor.propagate_in_video(state, **how)}


def test_the_image_predictor_knows_other_sizes(model):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    assert predictor._bb_feat_sizes == [(32, 32), (16, 16), (8, 8)]
    predictor.set_image(np.zeros((40, 50, 3), np.uint8))
    assert predictor.get_image_embedding().shape == (1, 32, 8, 8)


def test_memory_around_a_prompt_can_be_cleared(predictor, frames):
    predictor.clear_non_cond_mem_around_input = True
    state = predictor.init_state(str(frames))
    click(predictor, state)
    track(predictor, state)
    click(predictor, state, frame=3)
    predictor.propagate_in_video_preflight(state)
    assert 2 not in state["output_dict_per_obj"][0]["non_cond_frame_outputs"]


def test_a_video_of_one_frame_can_be_clicked_again(predictor):
    state = predictor.init_state([np.zeros((60, 80, 3), np.uint8)])
    click(predictor, state)
    track(predictor, state)
    assert torch.isfinite(click(predictor, state, points=[[10, 10]])[2]).all()


def test_tracking_may_begin_before_the_only_prompt(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state, frame=4)
    assert torch.isfinite(track(predictor, state, start_frame_idx=1, max_frame_num_to_track=0)[1]).all()


def test_a_correction_is_answered_after_all_prompts_were_taken_back(predictor, frames):
    state = predictor.init_state(str(frames))
    click(predictor, state)
    track(predictor, state)
    predictor.clear_all_prompts_in_frame(state, 0, 1)
    assert torch.isfinite(click(predictor, state, frame=3)[2]).all()


def test_crops_in_which_nothing_is_found_and_every_output_mode(model):
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
    from sam2.utils.amg import coco_encode_rle, rle_to_mask

    options = {"points_per_side": 2, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    picture = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    nothing = SAM2AutomaticMaskGenerator(model, pred_iou_thresh=1.1, crop_n_layers=1, **options)
    assert nothing.generate(picture) == []
    found = {
        mode: SAM2AutomaticMaskGenerator(model, pred_iou_thresh=0.0, output_mode=mode, **options).generate(picture)
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    }
    for mask, runs, text in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(rle_to_mask(runs["segmentation"]), mask["segmentation"])
        assert coco_encode_rle(runs["segmentation"]) == text["segmentation"]
        assert mask["area"] == mask["segmentation"].sum()


def test_holes_and_sprinkles_need_no_extension():
    from sam2.utils.transforms import SAM2Transforms

    logits = torch.full((1, 1, 16, 16), -5.0)
    logits[..., 2:9, 2:9] = 5.0
    logits[..., 5, 5] = -5.0
    logits[..., 14, 14] = 5.0
    clean = SAM2Transforms(64, 0.0, max_hole_area=2, max_sprinkle_area=2).postprocess_masks(logits, (16, 16))
    assert clean[0, 0, 5, 5] == 10 and clean[0, 0, 14, 14] == -10 and clean[0, 0, 3, 3] == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_the_default_device_is_the_cpu_where_there_is_no_other():
    from sam2.build_sam import build_sam2

    assert build_sam2("test_tiny").device.type == "cpu"


def test_folders_of_png_path_objects_and_arrays_are_videos(predictor, frames, tmp_path):
    pictures = [Image.open(frames / f"{index}.jpg").convert("RGB") for index in range(3)]
    for index, picture in enumerate(pictures):
        picture.save(tmp_path / f"{index}.png")
    wanted = predictor.init_state(str(frames))["images"][:3]
    for source in (str(tmp_path), tmp_path, [np.asarray(one) for one in pictures], np.stack(pictures)):
        state = predictor.init_state(source)
        torch.testing.assert_close(state["images"], wanted)
        assert (state["num_frames"], state["video_height"], state["video_width"]) == (3, 60, 80)


def test_frames_ahead_are_the_same_and_few(frames, monkeypatch):
    from sam2.utils import misc

    monkeypatch.setattr(misc, "_KEPT", 2)
    wanted, _, _ = misc.load_video_frames(str(frames), 32, True, compute_device="cpu")
    loader, height, width = misc.load_video_frames(
        str(frames), 32, True, async_loading_frames=True, compute_device="cpu"
    )
    assert (len(loader), height, width) == (6, 60, 80)
    for index in (5, 0, 3, 4):
        torch.testing.assert_close(loader[index].float(), wanted[index])
        assert len(loader._kept) <= 2


@pytest.mark.parametrize("kind", ["bytes", "path"])
def test_video_files(tmp_path, kind):
    av = pytest.importorskip("av")
    from sam2.utils.misc import load_video_frames

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 80, 60, "yuv420p"
        for level in (40, 120, 200):
            values = np.full((60, 80, 3), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())
    source = path.read_bytes() if kind == "bytes" else str(path)
    images, height, width = load_video_frames(source, 32, True, img_mean=(0, 0, 0), img_std=(1, 1, 1))
    assert (tuple(images.shape), height, width) == ((3, 3, 32, 32), 60, 80)
    assert (images.mean((1, 2, 3)) * 255 - torch.tensor([40.0, 120.0, 200.0])).abs().max() < 4


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_other_modes(model, mode):
    from sam2.sam2_image_predictor import SAM2ImagePredictor

    predictor = SAM2ImagePredictor(model)
    picture = Image.new("RGB", (50, 40), (90, 90, 90)).convert(mode)
    predictor.set_image(picture)
    wanted = predictor.get_image_embedding()
    predictor.set_image(np.array(picture.convert("RGB")))
    torch.testing.assert_close(predictor.get_image_embedding(), wanted, atol=1e-4, rtol=1e-3)


def test_other_checkpoints_can_be_loaded(model, tmp_path):
    from safetensors.torch import save_file
    from sam2.build_sam import build_sam2

    path = tmp_path / "native.safetensors"
    save_file(model.core.state_dict(), path)
    again = build_sam2(str(Path(__file__).with_name("tiny.yaml")), path, device="cpu").state_dict()
    unused = again.pop("no_mem_pos_enc")  # sam2core's own files do not hold it
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in again.items())
    assert unused.shape == model.no_mem_pos_enc.shape


def test_a_checkpoint_of_a_model_of_the_registry_comes_back(model, tmp_path):
    """Saved by a program as Meta's are, its names begin with `core.`; those of its spec alone are read, too."""
    from sam2.build_sam import build_sam2, build_sam2_video_predictor

    torch.manual_seed(1)
    made = build_sam2("test_tiny", device="cpu")
    path = tmp_path / "mine.pt"
    for state in (made.state_dict(), made.core.state_dict()):
        torch.save({"model": state}, path)
        for build in (build_sam2, build_sam2_video_predictor):
            again = build("test_tiny", path, device="cpu").state_dict()
            assert all(name.startswith("core.") for name in again)
            assert all(torch.equal(made.state_dict()[name], tensor) for name, tensor in again.items())
    torch.save({"model": {f"core.{name}": tensor for name, tensor in model.core.state_dict().items()}}, path)
    again = build_sam2(str(Path(__file__).with_name("tiny.yaml")), path, device="cpu").core.state_dict()
    assert all(torch.equal(model.core.state_dict()[name], tensor) for name, tensor in again.items())
    torch.save({"model": {**made.state_dict(), "core.more": torch.zeros(1)}}, path)
    with pytest.raises(RuntimeError, match="unexpected core.more"):
        build_sam2("test_tiny", path, device="cpu")


def test_the_benchmark_is_refused_in_words_without_a_gpu(monkeypatch, capsys):
    from sam2 import benchmark

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert benchmark.main([]) == 1
    assert "torch sees none here; `sam2core bench` measures a CPU" in capsys.readouterr().err
