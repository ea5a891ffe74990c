"""segment-geospatial: from_pretrained out of a cache, clicks, boxes, a batch, and every mask of a picture."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import numpy as np

folder, checkpoint = Path(sys.argv[1]), sys.argv[2]
revision = "0" * 40
cached = folder / "hub" / "models--facebook--sam2-hiera-tiny"
(cached / "snapshots" / revision).mkdir(parents=True)
(cached / "refs").mkdir()
(cached / "refs" / "main").write_text(revision)
shutil.copy(checkpoint, cached / "snapshots" / revision / "sam2_hiera_tiny.pt")
os.environ |= {"HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}

from samgeo.samgeo2 import SamGeo2  # noqa: E402

image = np.full((80, 100, 3), 60, np.uint8)
image[20:60, 30:70] = (200, 160, 90)
clicked = SamGeo2("sam2-hiera-tiny", device="cpu", automatic=False)
clicked.set_image(image)
masks, scores, logits = clicked.predict(
    point_coords=[[50, 40]], point_labels=[1], multimask_output=True, return_results=True
)
assert (masks.shape, scores.shape, logits.shape) == ((3, 80, 100), (3,), (3, 256, 256))
masks, _, _ = clicked.predict(boxes=[[30, 20, 70, 60]], multimask_output=False, return_results=True)
assert masks.shape[-2:] == (80, 100)
clicked.set_image_batch([image, image[:, ::-1].copy()])
assert len(clicked.predictor._orig_hw) == 2

automatic = SamGeo2(
    "sam2-hiera-tiny",
    device="cpu",
    automatic=True,
    points_per_side=2,
    pred_iou_thresh=-1,
    stability_score_thresh=0,
    box_nms_thresh=1.0,
)
automatic.generate(image)
keys = {"segmentation", "area", "bbox", "predicted_iou", "point_coords", "stability_score", "crop_box"}
assert automatic.masks and all(keys <= set(record) for record in automatic.masks), automatic.masks[:1]
sys.stdout.write(
    f"segment-geospatial: scores {scores.round(3).tolist()}, {len(automatic.masks)} masks of the whole picture" + "\n"
)
