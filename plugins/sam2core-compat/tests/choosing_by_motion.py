"""A tracker with a sense of motion, written for Meta's `sam2` as a subclass: `python choosing_by_motion.py FOLDER OUT`.

Of the three masks on offer it takes the one that the decoder likes and that lies where the object was heading, and it
looks back at those frames alone whose mask it believed in.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from overriding import weights
from sam2.build_sam import build_sam2_video_predictor
from sam2.sam2_video_predictor import SAM2VideoPredictor

MOTION = 0.95
"""How much of a mask's score is its place."""
BELIEVED = 0.4
"""The score from which on a frame is looked back at."""


def box_of(mask: torch.Tensor) -> torch.Tensor:
    """The box x0, y0, x1, y1 of a mask of logits (H, W); zeros for an empty one."""
    rows, columns = (mask > 0).any(1).nonzero().flatten(), (mask > 0).any(0).nonzero().flatten()
    if len(rows) == 0:
        return torch.zeros(4)
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()


def overlap(a: torch.Tensor, b: torch.Tensor) -> float:
    sides = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    both = sides.prod()
    return float(both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both).clamp(min=1e-6))


class Heading:
    """A Kalman filter of a box that moves at a steady pace."""

    def __init__(self) -> None:
        self.state: torch.Tensor | None = None  # four sides and their speeds
        self.spread = torch.eye(8) * 10.0
        self.step = torch.eye(8)
        self.step[:4, 4:] = torch.eye(4)

    def expect(self) -> torch.Tensor | None:
        return None if self.state is None else (self.step @ self.state)[:4]

    def see(self, box: torch.Tensor) -> None:
        if self.state is None:
            self.state = torch.cat([box, torch.zeros(4)])
            return
        self.state = self.step @ self.state
        self.spread = self.step @ self.spread @ self.step.T + torch.eye(8)
        gain = self.spread[:, :4] @ torch.linalg.inv(self.spread[:4, :4] + 4.0 * torch.eye(4))
        self.state = self.state + gain @ (box - self.state[:4])
        self.spread = self.spread - gain @ self.spread[:4]


class MotionPredictor(SAM2VideoPredictor):
    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.heading = Heading()
        self.believed: dict[int, float] = {}
        self.chosen: list[int] = []
        self.score = 1.0

    def _forward_sam_heads(
        self, backbone_features, point_inputs=None, mask_inputs=None, high_res_features=None, multimask_output=False
    ):
        expected = self.heading.expect() if point_inputs is None and mask_inputs is None else None
        decoder = self.sam_mask_decoder
        decode = decoder.forward

        def by_motion(*arguments, **more):
            masks, ious, tokens, object_score = decode(*arguments, **more)
            if expected is not None and masks.shape[1] == 3:
                places = torch.tensor([[overlap(box_of(one), expected) for one in masks[0]]])
                ious = MOTION * places + (1 - MOTION) * ious
            return masks, ious, tokens, object_score

        decoder.forward = by_motion
        try:
            heads = super()._forward_sam_heads(
                backbone_features, point_inputs, mask_inputs, high_res_features, multimask_output
            )
        finally:
            del decoder.forward
        if heads[2].shape[1] == 3:
            self.chosen.append(int(heads[2].argmax()))
        self.score = float(heads[2].max())
        self.heading.see(box_of(heads[3][0, 0]))
        return heads

    def _use_mask_as_output(self, backbone_features, high_res_features, mask_inputs):
        heads = super()._use_mask_as_output(backbone_features, high_res_features, mask_inputs)
        self.heading = Heading()
        self.heading.see(box_of(heads[3][0, 0]))
        return heads

    def _prepare_memory_conditioned_features(self, frame_idx, is_init_cond_frame, output_dict, **more):
        recent = output_dict["non_cond_frame_outputs"]
        kept = {at: out for at, out in recent.items() if self.believed.get(at, 1.0) >= BELIEVED}
        output_dict = {**output_dict, "non_cond_frame_outputs": kept}
        return super()._prepare_memory_conditioned_features(
            frame_idx=frame_idx, is_init_cond_frame=is_init_cond_frame, output_dict=output_dict, **more
        )

    def track_step(self, frame_idx, **more):
        out = super().track_step(frame_idx=frame_idx, **more)
        self.believed[frame_idx] = self.score
        return out


def tracked(folder: Path, *overrides: str):
    with initialize_config_dir(config_dir=str(folder), version_base="1.2"):
        predictor = build_sam2_video_predictor("tiny.yaml", device="cpu", hydra_overrides_extra=list(overrides))
    weights(predictor)
    predictor.fill_hole_area = 0
    state = predictor.init_state(str(folder / "frames"))
    drawn = np.zeros((48, 64), bool)
    drawn[2:46, 2:34] = True
    predictor.add_new_mask(state, 0, 1, drawn)
    return predictor, torch.cat([masks.flatten() for _, _, masks in predictor.propagate_in_video(state)])


def main(folder: Path, out: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    GlobalHydra.instance().clear()
    _, plain = tracked(folder)
    predictor, motion = tracked(folder, f"++model._target_={__name__}.MotionPredictor")
    names = np.array([name for name, _ in predictor.named_parameters()])
    np.savez(out, plain=plain.numpy(), motion=motion.numpy(), chosen=np.array(predictor.chosen), names=names)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
