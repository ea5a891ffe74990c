"""simple-sam2: a video, clicked on, tracked in batches of two frames, masks saved as files."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np

folder, checkpoint = Path(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
writer = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 10, (128, 96))
for frame in range(3):
    picture = np.full((96, 128, 3), 40, np.uint8)
    cv2.rectangle(picture, (30 + 4 * frame, 30), (70 + 4 * frame, 70), (200, 180, 60), -1)
    writer.write(picture)
writer.release()

from simple_sam2 import SAM2Service  # noqa: E402

service = SAM2Service(
    cfg="configs/sam2.1/sam2.1_hiera_t.yaml", ckpt=checkpoint, batch_size=2, storage_dir=str(folder / "storage")
)
about = service.init_video("demo", video_path=str(folder / "clip.mp4"))
assert about["total_frames"] == 3, about
service.add_prompts("demo", frame_idx=0, obj_id=1, pos_points=[[40, 40]])
service.propagate_and_save("demo", obj_labels={"1": "box"})
written = sorted((folder / "storage").rglob("*_1_box.png"))
assert len(written) == 3, written
masks = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in written]
assert all(mask.shape == (96, 128) and set(np.unique(mask)) <= {0, 255} for mask in masks)
sys.stdout.write(f"simple-sam2: {len(masks)} masks, areas {[int((mask > 0).sum()) for mask in masks]}" + "\n")
