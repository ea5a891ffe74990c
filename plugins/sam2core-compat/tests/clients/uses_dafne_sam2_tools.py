"""dafne-sam2-tools: a subclass with an `init_state` of its own, composed by Hydra, over a volume's slices."""

from __future__ import annotations

import sys

import numpy as np
from dafne_sam2.automatic.backbone import SAM2Segmenter, mask_to_box
from dafne_sam2.automatic.checkpoints import resolve_checkpoint

segmenter = SAM2Segmenter(*resolve_checkpoint(sys.argv[2], "configs/sam2.1/sam2.1_hiera_t.yaml"), device="cpu")
volume = np.full((3, 80, 100), 20, np.uint8)
for at, one in enumerate(volume):
    one[20:60, 30 + 3 * at : 70 + 3 * at] = 200
assert segmenter.encoder_f_extractor(volume[0]).shape == (352, 128, 128)
thing = volume[1] > 100
found, logits = segmenter.segment_volume_mask(volume, {1: thing}, return_logits=True)
assert found.shape == volume.shape and np.isfinite(logits).all() and (logits > -1e4).all()
prompts = {"thing": {0: mask_to_box(volume[0] > 100)}, "rest": {0: (0, 0, 100, 18)}}
joint = segmenter.segment_volume_joint(volume, prompts, {"thing": "box", "rest": "box"})
assert sorted(joint) == ["rest", "thing"]
areas = [int(one.sum()) for one in (found, *joint.values())]
sys.stdout.write(f"dafne-sam2-tools: areas {areas} in {len(volume)} slices\n")
