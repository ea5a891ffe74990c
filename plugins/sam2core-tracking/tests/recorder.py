"""Asks SAMURAI which mask it believes and which frames it recalls, for scripted decoder answers.

    git clone https://github.com/yangchris11/samurai original
    python recorder.py original/sam2 recording.json

The decoder is replaced by `script.py`, and what reaches the memory attention is recognised among the stored memories.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from script import FRAMES, SIDE, script

SEEDS = tuple(range(12))
TRUNK = {"embed_dim": 16, "num_heads": 1, "stages": [1, 1, 2, 1], "global_att_blocks": [3]}


def build(folder: Path) -> Any:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    tree = OmegaConf.load(folder / "sam2" / "configs" / "samurai" / "sam2.1_hiera_t.yaml").model
    tree._target_ = "sam2.sam2_video_predictor.SAM2VideoPredictor"
    tree.image_size = SIDE
    for key, value in TRUNK.items():
        tree.image_encoder.trunk[key] = value
    tree.image_encoder.neck.backbone_channel_list = [TRUNK["embed_dim"] * 2**level for level in (3, 2, 1, 0)]
    for attention in (tree.memory_attention.layer.self_attention, tree.memory_attention.layer.cross_attention):
        attention.feat_sizes = [SIDE // 16, SIDE // 16]
    return instantiate(tree, _recursive_=True).eval()


@torch.inference_mode()
def record(model: Any, seed: int) -> dict[str, list]:
    """Per frame: the believed mask's number, and the frames whose memories are read, as the slots go (oldest first)."""
    import sam2.sam2_video_predictor as module

    answers, chosen, recalled, told = script(seed), [], [], {}
    module.load_video_frames = lambda **_: (torch.randn(FRAMES, 3, SIDE, SIDE), SIDE, SIDE)

    def decoder(multimask_output: bool, image_embeddings: torch.Tensor, **_: Any) -> tuple[torch.Tensor, ...]:
        masks, ious, object_score = answers[len(chosen)]
        tokens = torch.arange(3.0)[None, :, None].expand(1, 3, 256)
        assert multimask_output
        told["masks"] = masks
        return masks[None], ious[None], tokens, torch.tensor([[object_score]])

    def attention(curr: Any, memory: torch.Tensor, num_obj_ptr_tokens: int, **_: Any) -> torch.Tensor:
        size = (SIDE // 16) ** 2
        spatial = memory[: memory.shape[0] - num_obj_ptr_tokens].split(size)
        stored = state["output_dict"]["cond_frame_outputs"] | state["output_dict"]["non_cond_frame_outputs"]
        known = {at: one["maskmem_features"].flatten(2).permute(2, 0, 1) for at, one in stored.items()}
        recalled.append([next(at for at, one in known.items() if torch.equal(one, part.to(one))) for part in spatial])
        return curr[0]

    encode = model._encode_new_memory

    def encoded(*arguments: Any, pred_masks_high_res: torch.Tensor, **options: Any) -> Any:
        features, positions = encode(*arguments, pred_masks_high_res=pred_masks_high_res, **options)
        return torch.randn_like(features), positions  # to be told apart

    model.sam_mask_decoder.forward = decoder
    model.memory_attention.forward = attention
    model._encode_new_memory = encoded
    object_pointer = model.obj_ptr_proj.forward
    model.obj_ptr_proj.forward = lambda token: chosen.append(int(token[0, 0])) or object_pointer(token)
    model.kf_mean = model.kf_covariance = None
    model.stable_frames = 0
    state = model.init_state(video_path="")
    model.add_new_points_or_box(state, 0, 1, points=torch.tensor([[50.0, 60.0]]), labels=torch.tensor([1]))
    for _ in model.propagate_in_video(state):
        pass
    model._encode_new_memory = encode
    return {"chosen": chosen, "recalled": recalled}


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    recording = {}
    for seed in SEEDS:
        recording[seed] = record(build(Path(sys.argv[1])), seed)
    Path(sys.argv[2]).write_text(json.dumps(recording))


if __name__ == "__main__":
    main()
