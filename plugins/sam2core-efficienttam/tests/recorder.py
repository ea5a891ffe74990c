"""Runs the original EfficientTAM on made-up tensors and writes down its masks; the recording lies beside this file.

    git clone https://github.com/yformer/EfficientTAM original
    python recorder.py original recording.safetensors

Every tensor is drawn from a seed and its own name (`values`), so the recording holds answers only and the test
makes the same tensors again.
"""

from __future__ import annotations

import math
import sys
import zlib
from pathlib import Path

import torch

SIDE = 256
FRAMES = 5
VARIANTS = ("ti", "ti_1", "ti_2")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PROMPTS = [  # frame, object, points, labels
    (0, 1, [[80.0, 150.0]], [1]),
    (0, 2, [[128.0, 128.0], [160.0, 72.0]], [1, 0]),
    (3, 1, [[160.0, 72.0]], [1]),
]


def clip() -> torch.Tensor:
    """Frames (T, side, side, 3) uint8: discs that move over noise."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    frames = []
    for frame in range(FRAMES):
        noise = torch.randint(0, 60, (SIDE, SIDE, 3), generator=generator)
        for blob, colour in enumerate(((200, 40, 40), (30, 180, 60), (60, 80, 220))):
            y, x = SIDE * (0.3 + 0.2 * blob) + 3 * frame, SIDE * (0.6 - 0.15 * blob) - 4 * frame
            inside = (rows - y) ** 2 + (columns - x) ** 2 < (SIDE * 0.12) ** 2
            noise[inside] = noise[inside] // 2 + torch.tensor(colour) // 2
        frames.append(noise)
    return torch.stack(frames).to(torch.uint8)


def values(name: str, shape: torch.Size) -> torch.Tensor:
    """The tensor called `name` in the original's words: no two alike, activations of an ordinary size."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    last = name.rsplit(".", 1)[-1]
    if name == "sam_mask_decoder.pred_obj_score_head.layers.2.bias":
        return noise * 0.05 + 2.0  # objects are there as a rule
    if "gaussian" in name:
        return noise
    if last in ("bias", "gamma"):
        return 0.3 * noise
    if (
        len(shape) >= 2
        and last == "weight"
        and "embed." not in name.replace("patch_embed.", "")
        and "token" not in name
    ):
        return noise / math.sqrt(shape[1:].numel())
    if last == "weight" and len(shape) == 1:
        return 1.0 + 0.2 * noise
    return 0.5 * noise


def build(variant: str) -> torch.nn.Module:
    import efficient_track_anything
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    folder = Path(efficient_track_anything.__file__).parent / "configs" / "efficienttam"
    tree = OmegaConf.load(folder / f"efficienttam_{variant}.yaml").model
    tree._target_ = "efficient_track_anything.efficienttam_video_predictor.EfficientTAMVideoPredictor"
    tree.image_size = SIDE
    tree.compile_image_encoder = False
    for attention in (tree.memory_attention.layer.self_attention, tree.memory_attention.layer.cross_attention):
        attention.feat_sizes = [SIDE // 16, SIDE // 16]
    tree.binarize_mask_from_pts_for_mem_enc = True
    tree.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    model = instantiate(tree, _recursive_=True).eval()
    model.load_state_dict({name: values(name, tensor.shape) for name, tensor in model.state_dict().items()})
    return model


@torch.inference_mode()
def record(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The first frame's embedding (every eighth channel), and the low-resolution logits of every object and frame."""
    import efficient_track_anything.efficienttam_video_predictor as module

    pixels = clip().permute(0, 3, 1, 2).float() / 255
    pixels = (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    out = {"embedding": model.forward_image(pixels[:1])["backbone_fpn"][-1][:, ::8]}
    module.load_video_frames = lambda **_: (pixels, SIDE, SIDE)
    state = model.init_state(video_path="")
    for frame, number, points, labels in PROMPTS:
        model.add_new_points_or_box(state, frame, number, points=torch.tensor(points), labels=torch.tensor(labels))
    for _ in model.propagate_in_video(state):
        pass
    for number, outputs in zip(state["obj_ids"], state["output_dict_per_obj"].values()):
        for keep in ("cond_frame_outputs", "non_cond_frame_outputs"):
            for frame, memory in outputs[keep].items():
                out[f"logits.{number}.{frame}"] = memory["pred_masks"][0, 0]
    return out


def main() -> None:
    from safetensors.torch import save_file

    sys.path.insert(0, sys.argv[1])
    recording = {}
    for variant in VARIANTS:
        for name, tensor in record(build(variant)).items():
            recording[f"{variant}.{name}"] = tensor.clone().contiguous()
    save_file(recording, sys.argv[2])


if __name__ == "__main__":
    main()
