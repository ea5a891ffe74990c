"""A program written for Meta's `sam2`: image, automatic mask and video flows by random seeds, everything it gets saved.

    python compat_program.py CHECKPOINT FRAMES OUT.npz SEED... [--config NAME] [--override KEY=VALUE]...

It knows nothing of who provides the package. `test_compat.py` runs it once on each and compares the files.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator
from sam2.build_sam import build_sam2, build_sam2_video_predictor
from sam2.sam2_image_predictor import SAM2ImagePredictor

OBJECTS = (1, "cup", 7)


def picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A smooth image with edges: random blocks, enlarged and mixed."""
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    blocks = Image.fromarray(coarse).resize((width, height), Image.NEAREST)
    smooth = Image.fromarray(coarse[::-1]).resize((width, height), Image.BICUBIC)
    return np.asarray(Image.blend(blocks, smooth, 0.5))


def points(rng: random.Random, size: tuple[int, int], count: int) -> np.ndarray:
    return np.array([[rng.uniform(0, size[1] - 1), rng.uniform(0, size[0] - 1)] for _ in range(count)], np.float32)


def box(rng: random.Random, size: tuple[int, int]) -> np.ndarray:
    x0, y0 = rng.uniform(0, size[1] * 0.6), rng.uniform(0, size[0] * 0.6)
    return np.array([x0, y0, x0 + rng.uniform(4, size[1] * 0.4), y0 + rng.uniform(4, size[0] * 0.4)], np.float32)


def images(model, seed: int, save) -> None:
    rng, values = random.Random(seed), np.random.default_rng(seed)
    predictor = SAM2ImagePredictor(model, max_hole_area=rng.choice([0, 8]), max_sprinkle_area=rng.choice([0, 8]))
    predictor._bb_feat_sizes = [(model.image_size // s, model.image_size // s) for s in (4, 8, 16)]
    size = (rng.randrange(60, 300), rng.randrange(60, 300))
    image = picture(values, *size)
    predictor.set_image(Image.fromarray(image) if seed % 2 else image)
    save("embedding", predictor.get_image_embedding())
    for level in predictor._features["high_res_feats"]:
        save("level", level)

    def ask(**prompt):
        masks, ious, low = predictor.predict(**prompt)
        save("logits" if prompt.get("return_logits") else "masks", masks)
        save("ious", ious)
        save("low", low)
        return low[np.argmax(ious)][None]

    labels = np.array([rng.randrange(2) for _ in range(3)])
    low = ask(point_coords=points(rng, size, 1), point_labels=np.array([1]), return_logits=True)
    ask(point_coords=points(rng, size, 1), point_labels=np.array([1]))
    ask(point_coords=points(rng, size, 3), point_labels=labels, mask_input=low, multimask_output=False)
    ask(point_coords=points(rng, size, 3), point_labels=[1, -1, 0], multimask_output=False, return_logits=True)
    ask(box=box(rng, size), multimask_output=False, return_logits=True)
    ask(box=box(rng, size), point_coords=points(rng, size, 2), point_labels=[1, 0], return_logits=True)
    ask(mask_input=low, multimask_output=False, return_logits=True)
    ask(point_coords=points(rng, (1, 1), 2) + 0.5, point_labels=[1, 1], normalize_coords=False, return_logits=True)
    boxes = np.stack([box(rng, size) for _ in range(3)])
    masks, ious, low = predictor.predict(box=boxes, multimask_output=False, return_logits=True)
    save("logits", masks), save("ious", ious), save("low", low)
    many = points(rng, size, 8).reshape(4, 2, 2)
    masks, ious, low = predictor.predict(point_coords=many, point_labels=np.ones((4, 2)), return_logits=True)
    save("logits", masks), save("ious", ious), save("low", low)

    sizes = [size, (rng.randrange(60, 200), rng.randrange(60, 200))]
    predictor.set_image_batch([picture(values, *one) for one in sizes])
    answers = predictor.predict_batch(
        point_coords_batch=[points(rng, one, 2) for one in sizes],
        point_labels_batch=[np.array([1, 0])] * 2,
        box_batch=[box(rng, one) for one in sizes] if seed % 3 else None,
        return_logits=True,
    )
    for kind, found in zip(("logits", "ious", "low"), answers):
        for one in found:
            save(kind, one)


def automatic(model, seed: int, save) -> None:
    rng, values = random.Random(seed), np.random.default_rng(seed)
    generator = SAM2AutomaticMaskGenerator(
        model,
        points_per_side=rng.choice([3, 5]),
        points_per_batch=rng.choice([4, 64]),
        pred_iou_thresh=rng.choice([0.0, 0.5]),
        stability_score_thresh=rng.choice([0.0, 0.3]),
        stability_score_offset=rng.choice([0.5, 1.0]),
        box_nms_thresh=rng.choice([0.7, 0.9]),
        crop_n_layers=seed % 2,
        crop_n_points_downscale_factor=2,
        min_mask_region_area=rng.choice([0, 10]),
        output_mode=("binary_mask", "uncompressed_rle")[seed % 2],
        use_m2m=seed % 4 == 1,
        multimask_output=seed % 4 != 2,
    )
    generator.predictor._bb_feat_sizes = [(model.image_size // s, model.image_size // s) for s in (4, 8, 16)]
    records = generator.generate(picture(values, rng.randrange(60, 160), rng.randrange(60, 160)))
    save("count", np.array(len(records)))
    for record in records:
        for key in ("area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"):
            save(f"record {key}", np.array(record[key], dtype=np.float64))
        found = record["segmentation"]
        if isinstance(found, dict):
            save("record size", np.array(found["size"]))
            save("record counts", np.array(found["counts"]))
        else:
            save("record mask", found)


def video(predictor, folder: Path, seed: int, save) -> None:
    rng, values = random.Random(seed), np.random.default_rng(seed)
    size, length = (rng.randrange(60, 120), rng.randrange(60, 120)), rng.randrange(4, 8)
    frames = folder / str(seed)
    frames.mkdir(parents=True, exist_ok=True)
    first = picture(values, *size)
    for frame in range(length):
        moved = Image.fromarray(np.roll(first, 4 * frame, axis=1))
        moved.save(frames / f"{frame:05d}.jpg", quality=95)
    predictor.non_overlap_masks = seed % 3 == 1
    predictor.add_all_frames_to_correct_as_cond = seed % 4 == 2
    state = predictor.init_state(str(frames), offload_state_to_cpu=seed % 2 == 0, async_loading_frames=seed % 3 == 0)
    save("frame", state["images"][length - 1])

    def shown(answer) -> None:
        frame, ids, masks = answer
        save("frame number", np.array(frame))
        save("ids", np.array([OBJECTS.index(one) for one in ids]))
        save("video", masks)

    def click(frame, obj, **more):
        count = rng.randrange(1, 4)
        said = {
            "points": points(rng, size, count),
            "labels": np.array([1] + [rng.randrange(2) for _ in range(count - 1)]),
        }
        kind = rng.randrange(4) if not more else 0
        if kind == 1:
            said = {"box": box(rng, size)}
        elif kind == 2:
            said |= {"box": box(rng, size)}
        shown(predictor.add_new_points_or_box(state, frame, obj, **said, **more))

    def draw(frame, obj):
        mask = np.zeros(size, bool)
        x0, y0, x1, y1 = box(rng, size).astype(int)
        mask[y0:y1, x0:x1] = rng.random() > 0.1
        shown(predictor.add_new_mask(state, frame, obj, torch.from_numpy(mask) if rng.random() < 0.5 else mask))

    def propagate():
        start = rng.choice([None, None, rng.randrange(length)])
        limit = rng.choice([None, None, rng.randrange(length)])
        take = rng.choice([length, length, 2])
        answers = predictor.propagate_in_video(state, start, limit, reverse=rng.random() < 0.3)
        for count, answer in enumerate(answers):
            if count == take:
                break
            shown(answer)

    objects = OBJECTS[: rng.randrange(1, 4)]
    click(0, objects[0])
    for _ in range(rng.randrange(5, 10)):
        what, frame, obj = rng.random(), rng.randrange(length), rng.choice(objects)
        if what < 0.3:
            click(frame, obj)
        elif what < 0.38:
            click(frame, obj, clear_old_points=False)
        elif what < 0.5:
            draw(frame, obj)
        elif what < 0.85:
            try:
                propagate()
            except RuntimeError:
                save("refused", np.array(1))
        elif what < 0.92:
            cleared = predictor.clear_all_prompts_in_frame(state, frame, obj)
            shown(cleared)
        elif what < 0.97:
            ids, updated = predictor.remove_object(state, obj)
            save("ids", np.array([OBJECTS.index(one) for one in ids]))
            for _, masks in sorted(updated, key=lambda one: one[0]):
                save("video", masks)
        else:
            predictor.reset_state(state)
    for index, outputs in state["output_dict_per_obj"].items():
        for group in ("cond_frame_outputs", "non_cond_frame_outputs"):
            save("kept", np.array([index, *sorted(outputs[group])]))
            for frame in sorted(outputs[group]):
                for key in ("maskmem_features", "pred_masks", "obj_ptr", "object_score_logits"):
                    save(f"state {key}", outputs[group][frame][key])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("frames", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("seeds", type=int, nargs="+")
    parser.add_argument("--config", default="configs/sam2.1/sam2.1_hiera_t.yaml")
    parser.add_argument("--override", action="append", default=[])
    parser.add_argument("--flows", default="images,automatic,video")
    given = parser.parse_args()
    common = {"device": "cpu", "hydra_overrides_extra": given.override}
    model = build_sam2(given.config, given.checkpoint, **common)
    predictor = build_sam2_video_predictor(given.config, given.checkpoint, **common)
    kept: dict[str, np.ndarray] = {}
    for seed in given.seeds:
        for flow in given.flows.split(","):

            def save(name, value, flow=flow, seed=seed):
                value = value.detach().float().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
                kept[f"{flow} {seed} {len(kept):06d} {name}"] = value

            try:
                if flow == "images":
                    images(model, seed, save)
                elif flow == "automatic":
                    automatic(model, seed, save)
                else:
                    video(predictor, given.frames, seed, save)
            except (AssertionError, IndexError):  # where the one stops, the other may go on
                kept[f"{flow} {seed} {len(kept):06d} stopped"] = np.array(1)
    np.savez(given.out, **kept)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
