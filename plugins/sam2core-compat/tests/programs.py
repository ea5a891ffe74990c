"""Small programs as people write them for Meta's `sam2`: `python programs.py FOLDER OUT.npz`.

Each gives the arrays that it computed; all are saved under its name. FOLDER holds `tiny.yaml` and the folder `frames`.
The programs know nothing of who provides the package.
"""

from __future__ import annotations

import copy
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sam2.utils.misc
import torch
import torch.nn.functional as F
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from overriding import regions, weights
from PIL import Image
from pycocotools import mask as coco
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.build_sam import build_sam2, build_sam2_video_predictor
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.sam2_video_predictor import SAM2VideoPredictor
from torch import Tensor, nn
from torch.nn.utils import prune

SIDE = 64
PROGRAMS: dict[str, Callable[[Place], Iterator[Any]]] = {}


def program(run: Callable[[Place], Iterator[Any]]) -> Callable[[Place], Iterator[Any]]:
    PROGRAMS[run.__name__] = run
    return run


class Place:
    """What the programs share: a configuration, frames, images."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.frames = str(folder / "frames")
        rng = np.random.default_rng(7)
        blocks = [rng.integers(0, 256, size, dtype=np.uint8) for size in ((9, 12, 3), (10, 7, 3))]
        self.truck, self.groceries = (block.repeat(6, 0).repeat(6, 1) for block in blocks)

    def built(self, build: Callable[..., Any], *overrides: str, **options: Any) -> Any:
        GlobalHydra.instance().clear()
        with initialize_config_dir(config_dir=str(self.folder), version_base="1.2"):
            overrides = (f"++model.image_size={SIDE}", *overrides)
            model = build("tiny.yaml", device="cpu", hydra_overrides_extra=list(overrides), **options)
        weights(model)
        return model

    def model(self, *overrides: str, **options: Any) -> Any:
        return self.built(build_sam2, *overrides, **options)

    def video(self, *overrides: str, **options: Any) -> Any:
        predictor = self.built(build_sam2_video_predictor, *overrides, **options)
        predictor.fill_hole_area = 0
        return predictor

    def image(self, model: Any | None = None, **options: Any) -> SAM2ImagePredictor:
        return sized(SAM2ImagePredictor(self.model() if model is None else model, **options))

    def generator(self, model: Any, **options: Any) -> SAM2AutomaticMaskGenerator:
        made = SAM2AutomaticMaskGenerator(model, **options)
        sized(made.predictor)
        return made


def sized(predictor: SAM2ImagePredictor) -> SAM2ImagePredictor:
    """Meta's image predictor knows the maps of 1024 pixels alone."""
    predictor._bb_feat_sizes = [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16)]
    return predictor


def tracked(predictor: Any, state: Any, **how: Any) -> Iterator[Any]:
    for frame, ids, masks in predictor.propagate_in_video(state, **how):
        yield frame
        yield list(ids)
        yield masks


def records(found: list[dict[str, Any]]) -> Iterator[Any]:
    """Records of masks in an order that equal scores do not change."""
    yield len(found)
    for one in sorted(found, key=lambda one: (one["bbox"], one["predicted_iou"])):
        for key in ("area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"):
            yield np.array(one[key], np.float64)
        said = one["segmentation"]
        yield coco.decode(said) if isinstance(said, dict) and isinstance(said["counts"], str) else said


# the cells of Meta's three notebooks, one after another


@program
def notebook_of_images(place: Place) -> Iterator[Any]:
    predictor = place.image()
    predictor.set_image(place.truck)
    yield predictor._features["image_embed"]
    yield predictor._features["image_embed"][-1]
    point, label = np.array([[20, 15]]), np.array([1])
    masks, scores, logits = predictor.predict(point_coords=point, point_labels=label, multimask_output=True)
    order = np.argsort(scores)[::-1]
    masks, scores, logits = masks[order], scores[order], logits[order]
    yield from (masks, scores, logits)
    points, labels = np.array([[20, 15], [45, 25]]), np.array([1, 1])
    mask_input = logits[np.argmax(scores), :, :]
    for said in (labels, np.array([1, 0])):
        yield from predictor.predict(
            point_coords=points, point_labels=said, mask_input=mask_input[None, :, :], multimask_output=False
        )
    box = np.array([17, 24, 28, 35])
    yield from predictor.predict(point_coords=None, point_labels=None, box=box[None, :], multimask_output=False)
    yield from predictor.predict(
        point_coords=np.array([[23, 30]]), point_labels=np.array([0]), box=box, multimask_output=False
    )
    boxes = np.array([[3, 12, 68, 34], [5, 18, 20, 26], [14, 22, 28, 35], [50, 22, 56, 32]])
    yield from predictor.predict(point_coords=None, point_labels=None, box=boxes, multimask_output=False)
    images = [place.truck, place.groceries]
    predictor.set_image_batch(images)
    of_both = [boxes, np.array([[18, 7, 26, 24], [24, 7, 34, 24]])]
    for answer in predictor.predict_batch(None, None, box_batch=of_both, multimask_output=False):
        yield from answer
    points_of_both = [np.array([[[20, 15]], [[26, 30]]]), np.array([[[16, 12]], [[25, 12]]])]
    labels_of_both = [np.array([[1], [1]]), np.array([[1], [1]])]
    masks, scores, _ = predictor.predict_batch(points_of_both, labels_of_both, box_batch=None, multimask_output=True)
    for some, said in zip(masks, scores):
        yield some[range(len(some)), np.argmax(said, axis=-1)]


@program
def notebook_of_automatic_masks(place: Place) -> Iterator[Any]:
    model = place.model(apply_postprocessing=False)
    yield from records(place.generator(model, points_per_side=4).generate(place.truck))
    generator = place.generator(
        model=model,
        points_per_side=4,
        points_per_batch=8,
        pred_iou_thresh=0.1,
        stability_score_thresh=0.2,
        stability_score_offset=0.7,
        crop_n_layers=1,
        box_nms_thresh=0.7,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=25.0,
        use_m2m=True,
    )
    yield from records(generator.generate(place.truck))


@program
def notebook_of_videos(place: Place) -> Iterator[Any]:
    predictor = place.video()
    state = predictor.init_state(video_path=place.frames)

    def said(frame: int, obj: int, **prompt: Any) -> Iterator[Any]:
        prompt = {key: np.array(value, dtype=np.float32) for key, value in prompt.items()}
        if "labels" in prompt:
            prompt["labels"] = prompt["labels"].astype(np.int32)
        yield from predictor.add_new_points_or_box(inference_state=state, frame_idx=frame, obj_id=obj, **prompt)

    predictor.reset_state(state)
    yield from said(0, 1, points=[[14, 30]], labels=[1])
    yield from said(0, 1, points=[[14, 30], [20, 18]], labels=[1, 1])
    yield from tracked(predictor, state)
    yield from said(2, 1, points=[[8, 40]], labels=[0])
    yield from tracked(predictor, state)
    predictor.reset_state(state)
    yield from said(0, 4, box=[24, 2, 40, 36])
    yield from tracked(predictor, state)
    predictor.reset_state(state)
    yield from said(0, 4, box=[24, 2, 40, 36], points=[[34, 6]], labels=[1])
    yield from tracked(predictor, state)
    predictor.reset_state(state)
    yield from said(0, 2, points=[[16, 26]], labels=[1])
    yield from said(0, 2, points=[[16, 26], [22, 14]], labels=[1, 0])
    yield from said(0, 3, points=[[34, 12]], labels=[1])
    yield from tracked(predictor, state)
    yield from said(3, 3, points=[[30, 20]], labels=[0])
    yield from tracked(predictor, state)


# services over video sessions


@program
def backend_of_the_demo(place: Place) -> Iterator[Any]:
    predictor = place.video()
    predictor.fill_hole_area = 8
    state = predictor.init_state(place.frames, offload_video_to_cpu=False)

    def coded(ids: Any, masks: Tensor) -> Iterator[Any]:
        yield list(ids)
        for mask in (masks > 0)[:, 0].cpu().numpy():
            found = coco.encode(np.array(mask, dtype=np.uint8, order="F"))
            yield coco.decode(found)

    def click(frame: int, obj: int, points: Any, labels: Any, clear: bool) -> Iterator[Any]:
        frame, ids, masks = predictor.add_new_points_or_box(
            inference_state=state,
            frame_idx=frame,
            obj_id=obj,
            points=points,
            labels=labels,
            clear_old_points=clear,
            normalize_coords=False,
        )
        yield frame
        yield masks
        yield from coded(ids, masks)

    def both_ways(start: int) -> Iterator[Any]:
        for reverse in (False, True):
            for frame, ids, masks in predictor.propagate_in_video(
                inference_state=state, start_frame_idx=start, max_frame_num_to_track=None, reverse=reverse
            ):
                yield frame
                yield from coded(ids, masks)

    yield from click(1, 0, [[0.3, 0.6]], [1], True)
    yield from click(1, 0, [[0.5, 0.2]], [0], False)
    yield from click(1, 1, [[0.7, 0.3]], [1], True)
    yield from both_ways(1)
    yield from click(2, 1, [[0.8, 0.4]], [1], False)
    drawn = coco.decode(coco.encode(np.asfortranarray(np.eye(48, 64, k=8, dtype=np.uint8).repeat(1, 0))))
    yield from predictor.add_new_mask(inference_state=state, frame_idx=0, obj_id=5, mask=torch.tensor(drawn > 0))
    yield from both_ways(1)
    frame, ids, masks = predictor.clear_all_prompts_in_frame(state, 2, 1)
    yield from coded(ids, masks)
    ids, changed = predictor.remove_object(state, 0)
    for frame, masks in changed:
        yield frame
        yield from coded(ids, masks)
    yield from both_ways(1)
    predictor.reset_state(state)
    yield from click(0, 9, [[0.5, 0.5]], [1], True)
    yield from both_ways(0)


@program
def offloaded_and_read_ahead(place: Place) -> Iterator[Any]:
    predictor = place.video()
    state = predictor.init_state(
        place.frames, offload_video_to_cpu=True, offload_state_to_cpu=True, async_loading_frames=True
    )
    yield predictor.add_new_points_or_box(state, 1, "cup", points=torch.tensor([[20.0, 20.0]]), labels=[1])[2]
    yield from tracked(predictor, state)
    yield from tracked(predictor, state, start_frame_idx=1, reverse=True)
    for kind, outputs in sorted(state["output_dict_per_obj"][0].items()):
        for frame, out in sorted(outputs.items()):
            yield f"{kind} {frame} {sorted(out)}"
            yield out["maskmem_features"].dtype.__repr__()
            yield out["maskmem_features"].float()
            yield from (out["maskmem_pos_enc"][-1], out["pred_masks"], out["obj_ptr"], out["object_score_logits"])
    yield sorted(state)
    yield [key for key in sorted(state) if key.endswith("_per_obj") and state[key]]


@program
def clicks_that_add_up(place: Place) -> Iterator[Any]:
    predictor = place.video()
    state = predictor.init_state(place.frames)
    for place_, label in (([20, 20], 1), ([40, 30], 0), ([10, 8], 1)):
        yield predictor.add_new_points_or_box(
            state, 0, 1, points=np.array([place_], np.float32), labels=np.array([label]), clear_old_points=False
        )[2]
        yield state["point_inputs_per_obj"][0][0]["point_coords"]
        yield state["point_inputs_per_obj"][0][0]["point_labels"]
    yield from tracked(predictor, state, start_frame_idx=0, max_frame_num_to_track=2)
    yield predictor.add_new_points_or_box(state, 2, 1, points=[[30, 30]], labels=[1], clear_old_points=False)[2]
    yield predictor.add_new_points_or_box(state, 2, 1, points=[[34, 20]], labels=[0], clear_old_points=False)[2]
    yield predictor.add_new_points_or_box(state, 0, 1, box=np.array([4, 4, 40, 40]))[2]
    yield from tracked(predictor, state)


@program
def objects_come_and_go(place: Place) -> Iterator[Any]:
    predictor = place.video("++model.non_overlap_masks=true")
    state = predictor.init_state(place.frames)
    mask = np.zeros((48, 64))
    mask[10:30, 10:40] = 1
    yield predictor.add_new_mask(state, 0, 3, mask)[2]
    yield predictor.add_new_points_or_box(state, 0, 1, points=[[50, 30]], labels=[1])[2]
    yield from tracked(predictor, state)
    yield predictor.add_new_mask(state, 2, 7, torch.from_numpy(mask.T[:48].repeat(2, 1)[:48, :64] > 0))[2]
    yield from tracked(predictor, state, start_frame_idx=2)
    ids, shown = predictor.remove_object(state, 3)
    yield list(ids)
    for frame, masks in shown:
        yield frame
        yield masks
    yield from tracked(predictor, state, start_frame_idx=2)
    yield list(predictor.remove_object(state, 99)[0])
    try:
        predictor.remove_object(state, 99, strict=True)
    except RuntimeError as error:
        yield type(error).__name__
    yield list(predictor.remove_object(state, 1, need_output=False)[0])
    yield list(predictor.remove_object(state, 7)[0])


@program
def sessions_that_are_copied_and_saved(place: Place) -> Iterator[Any]:
    predictor = place.video()
    state = predictor.init_state(place.frames)
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    first = list(tracked(predictor, state, max_frame_num_to_track=1))
    other = copy.deepcopy(state)
    saved = io.BytesIO()
    torch.save({key: state[key] for key in state if key != "images"}, saved)
    predictor.reset_state(state)
    saved.seek(0)
    again = {**torch.load(saved, weights_only=False), "images": state["images"]}
    yield from first
    for one in (other, again):
        yield predictor.add_new_points_or_box(one, 2, 1, points=[[10, 20]], labels=[1])[2]
        yield from tracked(predictor, one, start_frame_idx=1)


@program
def memories_that_are_pruned(place: Place) -> Iterator[Any]:
    predictor = place.video()
    state = predictor.init_state(place.frames)
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    for frame, _, masks in predictor.propagate_in_video(state):
        yield masks
        outputs = state["output_dict_per_obj"][0]["non_cond_frame_outputs"]
        for at in [at for at in outputs if at < frame]:
            outputs.pop(at)
        state["cached_features"].clear()


@program
def an_image_predictor_over_a_video_predictor(place: Place) -> Iterator[Any]:
    video = place.video()
    predictor = place.image(video)
    predictor.set_image(Image.open(f"{place.frames}/0.jpg"))
    masks, scores, _ = predictor.predict(box=np.array([10, 10, 40, 30]), multimask_output=True)
    yield from (masks, scores)
    state = video.init_state(place.frames)
    yield video.add_new_mask(state, 0, 1, masks[scores.argmax()])[2]
    yield from tracked(video, state)


# images in many forms


@program
def images_in_many_forms(place: Place) -> Iterator[Any]:
    predictor = place.image(max_hole_area=0.0)
    forms = [
        place.truck,
        Image.fromarray(place.truck),
        np.ascontiguousarray(place.truck[..., ::-1]),
        place.truck.astype(np.float32) / 255,
        np.asfortranarray(place.truck),
    ]
    for one in forms:
        predictor.set_image(one)
        yield predictor.get_image_embedding()
        yield predictor._orig_hw[0]
        masks, scores, low = predictor.predict([[20, 20]], [1], return_logits=True)
        yield from (masks, scores, low)
        yield from predictor.predict(mask_input=low[:1], multimask_output=False, return_logits=True)
        yield from predictor.predict(np.array([[0.5, 0.5]]), np.array([1]), normalize_coords=False)
        yield from predictor.predict([[[20, 20]], [[30, 30]]], [[1], [1]], box=[[5, 5, 30, 30], [10, 10, 50, 40]])
    predictor.reset_predictor()
    try:
        predictor.predict([[20, 20]], [1])
    except RuntimeError as error:
        yield type(error).__name__


@program
def masks_of_grids_of_ones_own(place: Place) -> Iterator[Any]:
    model = place.model()
    grid = [np.array([[0.2, 0.2], [0.5, 0.6], [0.8, 0.4]])]
    for mode in ("binary_mask", "uncompressed_rle", "coco_rle"):
        generator = place.generator(
            model, points_per_side=None, point_grids=grid, pred_iou_thresh=0.0, stability_score_thresh=0.0,
            output_mode=mode,
        )  # fmt: skip
        found = generator.generate(place.groceries)
        for one in found:
            if mode == "uncompressed_rle":
                one["segmentation"] = np.array(one["segmentation"]["counts"])
        yield from records(found)


# the inside, by hand


def one_step(model: Any, image: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """The features of an image as trainers take them: the tokens, their positions, and the maps, coarsest last."""
    out = model.forward_image(image)
    _, feats, positions, _ = model._prepare_backbone_features(out)
    if model.directly_add_no_mem_embed:
        feats[-1] = feats[-1] + model.no_mem_embed
    sizes = [(SIDE // stride, SIDE // stride) for stride in (4, 8, 16)]
    batch = image.shape[0]
    maps = [feat.permute(1, 2, 0).view(batch, -1, *size) for feat, size in zip(feats[::-1], sizes[::-1], strict=True)][
        ::-1
    ]
    return feats, positions, maps


def noise(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@program
def a_tracker_by_hand(place: Place) -> Iterator[Any]:
    """Memory encoder and attention called one by one, as fine-tuners of medical videos do."""
    model = place.model()
    feats, positions, maps = one_step(model, noise(2, 3, SIDE, SIDE))
    points = (torch.tensor([[[20.0, 20.0]], [[40.0, 30.0]]]), torch.ones(2, 1, dtype=torch.int))
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=None)
    yield from (sparse, dense)
    low, iou, tokens, score = model.sam_mask_decoder(
        image_embeddings=maps[-1],
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
        repeat_image=False,
        high_res_features=maps[:-1],
    )
    yield from (low, iou, tokens, score)
    high = F.interpolate(low, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    for from_points in (True, False):
        memory, where = model._encode_new_memory(
            current_vision_feats=feats,
            feat_sizes=[(16, 16), (8, 8), (4, 4)],
            pred_masks_high_res=high,
            object_score_logits=score,
            is_mask_from_pts=from_points,
        )
        yield from (memory, where[0])
    tokens = memory.flatten(2).permute(2, 0, 1)
    seen = model.memory_attention(
        curr=[feats[-1]],
        curr_pos=[positions[-1]],
        memory=tokens,
        memory_pos=where[0].flatten(2).permute(2, 0, 1) + model.maskmem_tpos_enc[0],
        num_obj_ptr_tokens=0,
    )
    yield seen


@program
def fine_tuning_in_sixty_lines(place: Place) -> Iterator[Any]:
    predictor = place.image()
    predictor.model.sam_mask_decoder.train(True)
    predictor.model.sam_prompt_encoder.train(True)
    optimizer = torch.optim.AdamW(params=predictor.model.parameters(), lr=1e-4, weight_decay=4e-5)
    truth = torch.zeros(2, *place.truck.shape[:2])
    truth[0, 5:30, 10:40], truth[1, 20:50, 30:60] = 1, 1
    for _ in range(2):
        predictor.set_image(place.truck)
        mask_input, points, labels, box = predictor._prep_prompts(
            np.array([[[20, 15]], [[45, 35]]]), np.ones((2, 1)), box=None, mask_logits=None, normalize_coords=True
        )
        assert mask_input is None and box is None
        sparse, dense = predictor.model.sam_prompt_encoder(points=(points, labels), boxes=None, masks=None)
        finer = [level[-1].unsqueeze(0) for level in predictor._features["high_res_feats"]]
        low, scores, _, _ = predictor.model.sam_mask_decoder(
            image_embeddings=predictor._features["image_embed"][-1].unsqueeze(0),
            image_pe=predictor.model.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
            repeat_image=points.shape[0] > 1,
            high_res_features=finer,
        )
        masks = torch.sigmoid(predictor._transforms.postprocess_masks(low, predictor._orig_hw[-1])[:, 0])
        loss = -(truth * masks.clamp(1e-5).log() + (1 - truth) * (1 - masks).clamp(1e-5).log()).mean()
        union = truth.sum((1, 2)) + (masks > 0.5).sum((1, 2)) - (truth * (masks > 0.5)).sum((1, 2))
        loss = loss + 0.05 * (scores[:, 0] - (truth * (masks > 0.5)).sum((1, 2)) / union).abs().mean()
        predictor.model.zero_grad()
        loss.backward()
        optimizer.step()
        yield from (loss, low, scores)
        yield [name for name, weight in predictor.model.named_parameters() if weight.grad is not None]
        predictor.set_image(place.truck)
        yield from predictor.predict(np.array([[20, 15]]), np.array([1]))


class Adapter(nn.Module):
    """A layer of low rank beside a linear one."""

    def __init__(self, inner: nn.Linear, seed: int) -> None:
        super().__init__()
        self.inner = inner
        self.down = nn.Linear(inner.in_features, 2, bias=False)
        self.up = nn.Linear(2, inner.out_features, bias=False)
        with torch.no_grad():
            self.down.weight.copy_(noise(2, inner.in_features, seed=seed))
            self.up.weight.copy_(0.1 * noise(inner.out_features, 2, seed=seed + 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + self.up(self.down(x))


@program
def adapters_of_low_rank(place: Place) -> Iterator[Any]:
    predictor = place.video()
    for weight in predictor.parameters():
        weight.requires_grad_(False)
    for seed, block in enumerate(predictor.image_encoder.trunk.blocks):
        block.attn.qkv = Adapter(block.attn.qkv, seed)
    predictor.memory_attention.layers[0].linear1 = Adapter(predictor.memory_attention.layers[0].linear1, 50)
    yield [name for name, weight in predictor.named_parameters() if weight.requires_grad]
    feats, _, maps = one_step(predictor, noise(1, 3, SIDE, SIDE))
    heads = predictor._forward_sam_heads(
        backbone_features=maps[-1],
        point_inputs={"point_coords": torch.tensor([[[20.0, 30.0]]]), "point_labels": torch.ones(1, 1)},
        mask_inputs=None,
        high_res_features=maps[:-1],
        multimask_output=True,
    )
    heads[1].mean().backward()
    yield [weight.grad for weight in predictor.parameters() if weight.grad is not None]
    state = predictor.init_state(place.frames)
    yield predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])[2]
    yield from tracked(predictor, state)


class Before(nn.Module):
    """A block with something learned before it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        dim = block.attn.qkv.in_features
        self.prompt = nn.Sequential(nn.Linear(dim, 4), nn.GELU(), nn.Linear(4, dim), nn.GELU())
        weights_of(self.prompt)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x + self.prompt(x))


def weights_of(module: nn.Module) -> None:
    with torch.no_grad():
        for seed, weight in enumerate(module.parameters()):
            weight.copy_(0.2 * noise(*weight.shape, seed=seed))


@program
def a_trunk_under_another_head(place: Place) -> Iterator[Any]:
    """What networks of the shape of a U do: all but the trunk is deleted, and its blocks get adapters."""
    model = place.model()
    for name in (
        "sam_mask_decoder", "sam_prompt_encoder", "memory_encoder", "memory_attention", "mask_downsample",
        "obj_ptr_tpos_proj", "obj_ptr_proj",
    ):  # fmt: skip
        delattr(model, name)
    del model.image_encoder.neck
    trunk = model.image_encoder.trunk
    for weight in trunk.parameters():
        weight.requires_grad = False
    trunk.blocks = nn.Sequential(*(Before(block) for block in trunk.blocks))
    maps = trunk(noise(2, 3, SIDE, SIDE))
    yield from maps
    sum(one.mean() for one in maps).backward()
    yield [weight.grad for weight in trunk.parameters() if weight.grad is not None]
    yield sorted(model.state_dict())
    yield [trunk.channel_list, len(trunk.stage_ends)]


@program
def an_attack_on_an_image(place: Place) -> Iterator[Any]:
    """The gradient of a mask by the pixels, in evaluation mode."""
    model = place.model()
    pixels = noise(1, 3, SIDE, SIDE).requires_grad_()
    _, _, maps = one_step(model, pixels)
    heads = model._forward_sam_heads(
        backbone_features=maps[-1],
        point_inputs={"point_coords": torch.tensor([[[20.0, 30.0]]]), "point_labels": torch.ones(1, 1)},
        high_res_features=maps[:-1],
        multimask_output=False,
    )
    heads[0].sigmoid().sum().backward()
    yield pixels.grad
    yield heads[0]
    yield model.sam_mask_decoder.conv_s0.weight.grad


@program
def an_image_predictor_with_gradients(place: Place) -> Iterator[Any]:
    """A prompt that is learned, through the predictor's own `_predict`, whose gradients are switched on again."""
    predictor = place.image()
    predictor.set_image(place.truck)
    points = torch.tensor([[[20.0, 30.0]]], requires_grad=True)
    masks, iou, low = SAM2ImagePredictor._predict.__wrapped__(
        predictor, points, torch.ones(1, 1, dtype=torch.int), return_logits=True
    )
    masks.mean().backward()
    yield from (masks, iou, low)
    yield points.grad is not None and bool(points.grad.abs().sum() > 0)


@program
def features_by_hooks(place: Place) -> Iterator[Any]:
    predictor = place.image()
    seen: list[Any] = []
    handles = [
        predictor.model.image_encoder.trunk.register_forward_hook(lambda _, __, out: seen.extend(out)),
        predictor.model.image_encoder.trunk.blocks[2].attn.register_forward_hook(lambda _, __, out: seen.append(out)),
        predictor.model.image_encoder.neck.register_forward_pre_hook(lambda _, given: seen.append(given[0][0])),
        predictor.model.sam_mask_decoder.transformer.register_forward_hook(lambda _, __, out: seen.extend(out)),
        predictor.model.sam_mask_decoder.output_hypernetworks_mlps[0].register_forward_hook(
            lambda _, given, out: seen.extend((given[0], out))
        ),
    ]
    predictor.set_image(place.truck)
    yield from predictor.predict([[20, 20], [30, 40]], [1, 0])
    yield len(seen)
    yield from seen
    for handle in handles:
        handle.remove()
    seen.clear()
    predictor.set_image(place.truck)
    yield len(seen)


@program
def functions_of_torch_that_are_replaced(place: Place) -> Iterator[Any]:
    """Attention maps by another `scaled_dot_product_attention`; a layer's `forward`, and every module's call."""
    predictor = place.video()
    state = predictor.init_state(place.frames)
    predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
    seen: list[Any] = []
    attend, linear, call = F.scaled_dot_product_attention, nn.Linear.forward, nn.Module.__call__

    def watched(q: Tensor, k: Tensor, v: Tensor, **more: Any) -> Tensor:
        seen.append((q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1))
        return attend(q, k, v, **more)

    def doubled(self: nn.Linear, x: Tensor) -> Tensor:
        return 1.1 * linear(self, x)

    def counted(self: nn.Module, *args: Any, **more: Any) -> Any:
        seen.append(type(self).__name__)
        return call(self, *args, **more)

    replaced = ((F, "scaled_dot_product_attention", watched), (nn.Linear, "forward", doubled))
    for owner, name, function in (*replaced, (nn.Module, "__call__", counted)):
        before = getattr(owner, name)
        setattr(owner, name, function)
        try:
            yield from tracked(predictor, state)
        finally:
            setattr(owner, name, before)
        yield len(seen)
        yield from seen[:30]
        seen.clear()


# subclasses and patches


class Widening(SAM2VideoPredictor):
    """Thresholds, sizes and fallbacks of one's own, at four places."""

    def __init__(self, margin: float = 0.5, **options: Any) -> None:
        super().__init__(**options)
        self.margin = margin
        self.steps: list[int] = []

    def _track_step(self, frame_idx: int, *args: Any, **more: Any) -> Any:
        self.steps.append(frame_idx)
        out, heads, finer, image = super()._track_step(frame_idx, *args, **more)
        low, high, iou, best_low, best_high, pointer, score = heads
        return out, (low, high, iou, best_low + self.margin, best_high + self.margin, pointer, score), finer, image

    def _use_multimask(self, is_init_cond_frame: bool, point_inputs: Any) -> bool:
        return is_init_cond_frame and super()._use_multimask(is_init_cond_frame, point_inputs)

    @torch.inference_mode()
    def propagate_in_video(self, inference_state: Any, *args: Any, **more: Any) -> Iterator[Any]:
        for frame, ids, masks in super().propagate_in_video(inference_state, *args, **more):
            yield frame, ids, masks - self.margin

    def _get_image_feature(self, inference_state: Any, frame_idx: int, batch_size: int) -> Any:
        return super()._get_image_feature(inference_state, frame_idx, batch_size)


@program
def a_subclass_at_four_places(place: Place) -> Iterator[Any]:
    predictor = place.video(f"++model._target_={__name__}.Widening", "++model.margin=0.75")
    state = predictor.init_state(place.frames)
    yield predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])[2]
    yield predictor.add_new_points_or_box(state, 0, 2, points=[[10, 40]], labels=[1])[2]
    yield from tracked(predictor, state)
    yield predictor.steps
    yield isinstance(predictor, SAM2VideoPredictor)


@program
def a_class_that_is_swapped(place: Place) -> Iterator[Any]:
    predictor = place.video()
    predictor.__class__ = Widening
    predictor.margin, predictor.steps = 0.25, []
    state = predictor.init_state(place.frames)
    yield predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])[2]
    yield from tracked(predictor, state)
    yield predictor.steps


@program
def parts_of_one_model_in_another(place: Place) -> Iterator[Any]:
    predictor, other = place.video(), place.model()
    with torch.no_grad():
        for weight in other.sam_mask_decoder.parameters():
            weight.mul_(1.1)
    predictor.sam_mask_decoder = other.sam_mask_decoder
    predictor.image_encoder.trunk.load_state_dict(other.image_encoder.trunk.state_dict())
    state = predictor.init_state(place.frames)
    yield predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])[2]
    yield from tracked(predictor, state)
    yield str(predictor.load_state_dict(other.state_dict(), strict=False))


@program
def weights_that_are_averaged_pruned_and_frozen(place: Place) -> Iterator[Any]:
    predictor = place.image()
    average = copy.deepcopy(predictor.model)
    state = {name: 0.5 * tensor + 0.1 for name, tensor in average.state_dict().items()}
    average.load_state_dict(state)
    prune.l1_unstructured(average.image_encoder.trunk.blocks[0].mlp.layers[0], "weight", amount=0.3)
    average.requires_grad_(False)
    for one in (predictor, place.image(average)):
        one.set_image(place.truck)
        yield from one.predict([[20, 20]], [1])


@program
def halves(place: Place) -> Iterator[Any]:
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        predictor = place.image()
        predictor.set_image(place.truck)
        yield predictor._features["image_embed"].dtype.__repr__()
        masks, scores, low = predictor.predict([[20, 20]], [1], return_logits=True)
        yield [masks.dtype.str, scores.dtype.str, low.dtype.str, list(masks.shape), list(low.shape)]
        video = place.video()
        state = video.init_state(place.frames)
        frame, ids, masks = video.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])
        yield [frame, list(ids), list(masks.shape), masks.dtype.__repr__()]
        for frame, _, masks in video.propagate_in_video(state):
            yield [frame, list(masks.shape), masks.dtype.__repr__()]
        for outputs in state["output_dict_per_obj"][0].values():
            for frame, out in sorted(outputs.items()):
                yield [frame, *(f"{key} {value.dtype}" for key, value in out.items() if isinstance(value, Tensor))]


# compilers and exporters


@program
def compiled_parts(place: Place) -> Iterator[Any]:
    predictor = place.video()
    predictor.image_encoder.forward = torch.compile(predictor.image_encoder.forward, backend="eager")
    predictor.memory_attention.forward = torch.compile(predictor.memory_attention.forward, backend="eager")
    predictor.sam_mask_decoder = torch.compile(predictor.sam_mask_decoder, backend="eager")
    state = predictor.init_state(place.frames)
    yield predictor.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])[2]
    yield from tracked(predictor, state)
    images = place.image()
    images.model.image_encoder = torch.compile(images.model.image_encoder, backend="eager")
    images.set_image(place.truck)
    yield from images.predict([[20, 20]], [1])


class Encoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        out = self.model.forward_image(x)
        _, feats, _, _ = self.model._prepare_backbone_features(out)
        feats[-1] = feats[-1] + self.model.no_mem_embed
        sizes = ((SIDE // 4, SIDE // 4), (SIDE // 8, SIDE // 8), (SIDE // 16, SIDE // 16))
        return tuple(
            feat.permute(1, 2, 0).reshape(1, -1, *size) for feat, size in zip(feats[::-1], sizes[::-1], strict=True)
        )


class Decoder(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.prompts, self.masks = model.sam_prompt_encoder, model.sam_mask_decoder

    def forward(self, embedding: Tensor, fine: Tensor, finer: Tensor, points: Tensor, labels: Tensor) -> Any:
        sparse, dense = self.prompts(points=(points, labels), boxes=None, masks=None)
        masks, iou, _, _ = self.masks.predict_masks(
            image_embeddings=embedding,
            image_pe=self.prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            repeat_image=False,
            high_res_features=[finer, fine],
        )
        return masks, iou


@program
def exported_to_onnx(place: Place) -> Iterator[Any]:
    import onnxruntime

    model = place.model()
    image = noise(1, 3, SIDE, SIDE)
    prompt = (torch.tensor([[[20.0, 30.0]]]), torch.ones(1, 1))
    maps = Encoder(model)(image)
    for module, given in ((Encoder(model), (image,)), (Decoder(model), (*maps, *prompt))):
        written = io.BytesIO()
        with torch.no_grad():
            torch.onnx.export(module.eval(), given, written, opset_version=17, dynamo=False)
        session = onnxruntime.InferenceSession(written.getvalue())
        names = [one.name for one in session.get_inputs()]
        yield names and len(names)
        yield from session.run(None, {name: one.detach().numpy() for name, one in zip(names, given, strict=True)})


@program
def traced_and_exported(place: Place) -> Iterator[Any]:
    model = place.model()
    image = noise(1, 3, SIDE, SIDE)
    with torch.no_grad():
        yield from torch.jit.trace(Encoder(model).eval(), image, check_trace=False)(image + 0.1)
        yield from torch.export.export(model.image_encoder.trunk, (image,)).module()(image + 0.1)


@program
def checkpoints_that_come_back(place: Place) -> Iterator[Any]:
    model = place.model()
    with torch.no_grad():
        model.no_mem_embed.mul_(2)
    file = place.folder / f"saved by {Path(sys.argv[2]).stem}.pt"
    torch.save({"model": model.state_dict(), "epoch": 3}, file)
    other = place.built(build_sam2_video_predictor)
    sam2.build_sam._load_checkpoint(other, str(file))
    state = other.init_state(place.frames)
    yield other.add_new_points_or_box(state, 0, 1, points=[[30, 20]], labels=[1])[2]
    whole = io.BytesIO()
    torch.save(model, whole)
    whole.seek(0)
    again = place.image(torch.load(whole, weights_only=False))
    again.set_image(place.truck)
    yield from again.predict([[20, 20]], [1])
    short = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("memory")}
    torch.save({"model": short}, file)
    try:
        sam2.build_sam._load_checkpoint(other, str(file))
    except RuntimeError as error:
        yield type(error).__name__


def saved(name: str, run: Callable[[Place], Iterator[Any]], place: Place) -> Iterator[tuple[str, np.ndarray]]:
    """What a program computes, one thing after another, under names of their own; a failure as its text."""

    def flat(thing: Any) -> Iterator[np.ndarray]:
        if isinstance(thing, Tensor):
            yield thing.detach().float().numpy() if thing.dtype == torch.bfloat16 else thing.detach().numpy()
        elif isinstance(thing, list | tuple) and any(isinstance(one, Tensor | np.ndarray) for one in thing):
            for one in thing:
                yield from flat(one)
        else:
            yield thing if isinstance(thing, np.ndarray) else np.array(str(thing))

    number = 0
    try:
        for thing in run(place):
            for one in flat(thing):
                yield f"{name} {number:03d}", one.copy()
                number += 1
    except Exception as error:  # noqa: BLE001  # a package may fail in any way
        yield f"{name} {number:03d} failed", np.array(f"{type(error).__name__}: {error}"[:500])


def main(folder: str, out: str, *names: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    sam2.utils.misc.get_connected_components = regions  # Meta's needs its CUDA extension
    place = Place(Path(folder))
    found: dict[str, np.ndarray] = {}
    for name in names or PROGRAMS:
        found |= dict(saved(name, PROGRAMS[name], place))
    np.savez(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
