"""Runs the original EdgeTAM and writes down what it computes; a program of its own, since its package is named `sam2`.

    python recorder.py FOLDER_WITH_THE_PACKAGE SIDE OUT.safetensors OUT.pt

The package: `pip install --no-deps --target FOLDER edgetam-dimos`. Every tensor is re-randomised, because freshly
initialised models hide mistakes. SIDE is the image's side in pixels, a multiple of 256.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch

FRAMES = 8
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def video(side: int) -> torch.Tensor:
    """Frames (T, side, side, 3) uint8: blobs that move over noise."""
    generator = torch.Generator().manual_seed(3)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    frames = []
    for frame in range(FRAMES):
        noise = torch.randint(0, 60, (side, side, 3), generator=generator)
        for blob, colour in enumerate(((200, 40, 40), (30, 180, 60), (60, 80, 220))):
            y, x = side * (0.3 + 0.2 * blob) + 3 * frame, side * (0.6 - 0.15 * blob) - 4 * frame
            inside = (rows - y) ** 2 + (columns - x) ** 2 < (side * 0.12) ** 2
            noise[inside] = noise[inside] // 2 + torch.tensor(colour) // 2
        frames.append(noise)
    return torch.stack(frames).to(torch.uint8)


def prompts(side: int) -> list[tuple[int, int, list[list[float]], list[int]]]:
    """(frame, object, points, labels); labels 2 and 3 are the corners of a box."""
    at = [[0.3 * side, 0.6 * side], [0.62 * side, 0.28 * side], [0.5 * side, 0.5 * side]]
    return [
        (0, 1, [at[0]], [1]),
        (0, 2, [at[2], at[1]], [1, 0]),
        (5, 1, [at[1]], [1]),
        (5, 2, [at[0], at[2]], [1, 1]),
    ]


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    """Overwrite every tensor so that no two layers agree and activations keep an ordinary size."""
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        matrix = isinstance(part, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.ConvTranspose2d))
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            noise = torch.randn(tensor.shape, generator=generator)
            if not tensor.is_floating_point():
                continue
            if name == "running_var":
                tensor.copy_(1.0 + noise.abs())
            elif "gaussian" in name:
                tensor.copy_(noise)
            elif name in ("bias", "gamma", "running_mean"):
                tensor.copy_(0.3 * noise)
            elif matrix:
                fan_in = tensor.shape[0] if isinstance(part, torch.nn.ConvTranspose2d) else tensor[0].numel()
                tensor.copy_(noise / math.sqrt(fan_in))
            elif name == "weight" and tensor.ndim == 1:
                tensor.copy_(1.0 + 0.2 * noise)
            else:
                tensor.copy_(0.5 * noise)
    head = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
    head.weight.mul_(0.05)
    head.bias.fill_(2.0)


def build(package: Path, side: int) -> torch.nn.Module:
    sys.path.insert(0, str(package))
    import timm.models
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    real = timm.models.create_model
    timm.models.create_model = lambda name, **options: real(name, **(options | {"pretrained": False}))
    tree = OmegaConf.load(package / "sam2" / "configs" / "edgetam.yaml")
    tree.model._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    tree.model.image_size = side
    grid = [side // 16, side // 16]
    tree.model.memory_attention.layer.self_attention.feat_sizes = grid
    tree.model.memory_attention.layer.cross_attention.q_sizes = grid
    tree.model.binarize_mask_from_pts_for_mem_enc = True
    tree.model.sam_mask_decoder_extra_args = {
        "dynamic_multimask_via_stability": True,
        "dynamic_multimask_stability_delta": 0.05,
        "dynamic_multimask_stability_thresh": 0.98,
    }
    return instantiate(tree.model, _recursive_=True).eval()


@torch.inference_mode()
def record(model: torch.nn.Module, side: int) -> dict[str, torch.Tensor]:
    """Tensors by name: the trunk's maps, the neck, a memory of each kind, and the logits of every tracked frame."""
    import sam2.sam2_video_predictor as module

    frames = video(side)
    pixels = (frames.permute(0, 3, 1, 2).float() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[
        :, None, None
    ]
    out = {f"trunk.{level}": map_ for level, map_ in enumerate(model.image_encoder.trunk(pixels[:1]))}
    features = model.forward_image(pixels[:1])
    out["embedding"] = features["backbone_fpn"][2]
    module.load_video_frames = lambda **_: (pixels, side, side)
    for number in (1, 2):  # one at a time: its perceiver takes one object, its sessions join all of theirs
        state = model.init_state(video_path="")
        for frame, one, points, labels in prompts(side):
            if one == number:
                model.add_new_points_or_box(state, frame, 1, points=torch.tensor(points), labels=torch.tensor(labels))
        for frame, _, logits in model.propagate_in_video(state):
            out[f"logits.{number}.{frame}"] = logits[0, 0]
        for keep in ("cond_frame_outputs", "non_cond_frame_outputs"):
            for frame, memory in state["output_dict"][keep].items():
                out[f"memory.{number}.{frame}"] = memory["maskmem_features"][0].float()
                out[f"pointer.{number}.{frame}"] = memory["obj_ptr"][0]
                out[f"presence.{number}.{frame}"] = memory["object_score_logits"][0]
    return {name: tensor.clone().contiguous() for name, tensor in out.items()}


def main() -> None:
    package, side, recording, checkpoint = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = build(package, side)
    randomise(model, 11)
    torch.save({"model": model.state_dict()}, checkpoint)
    save_file(record(model, side), recording)


if __name__ == "__main__":
    main()
