"""pixano-inference-sam: image embeddings given out and taken back through private attributes; a video by hand."""

from __future__ import annotations

import base64
import io
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

folder, checkpoint = Path(sys.argv[1]), sys.argv[2]

from pixano_inference.configs import ModelDeploymentConfig  # noqa: E402
from pixano_inference.schemas import SegmentationInput  # noqa: E402
from pixano_inference_sam.image import Sam2ImageModel  # noqa: E402
from pixano_inference_sam.video import Sam2VideoModel  # noqa: E402

picture = np.full((80, 100, 3), 60, np.uint8)
picture[20:60, 30:70] = (200, 160, 90)
file = io.BytesIO()
Image.fromarray(picture).save(file, "PNG")
url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
options = {
    "path": checkpoint,
    "config_file": "configs/sam2.1/sam2.1_hiera_t.yaml",
    "compile": False,
    "torch_dtype": "float32",
}


def config(kind: str, **more):
    return ModelDeploymentConfig(
        model_class=kind,
        model_params={**options, **more},
        resources={"num_gpus": 0},
        name=kind,
        capability="segmentation" if kind == "Sam2ImageModel" else "tracking",
    )


images = Sam2ImageModel(config("Sam2ImageModel"))
images.load_model()
asked = {
    "image": url,
    "points": [[[50, 40]]],
    "labels": [[1]],
    "return_image_embedding": True,
    "return_logits": True,
    "multimask_output": True,
    "num_multimask_outputs": 3,
}
first = images.predict(SegmentationInput(**asked))
again = images.predict(
    SegmentationInput(
        **asked,
        image_embedding=first.image_embedding,
        high_resolution_features=first.high_resolution_features,
        reset_predictor=True,
    )
)
assert first.masks == again.masks and len(first.masks[0]) == 3

videos = Sam2VideoModel(config("Sam2VideoModel", vos_optimized=False))
videos.load_model()
frames = folder / "frames"
frames.mkdir()
for frame in range(2):
    Image.fromarray(np.roll(picture, 3 * frame, axis=1)).save(frames / f"{frame:05d}.jpg")
os.environ["PIXANO_INFERENCE_MEDIA_ROOT"] = str(folder)
state = videos._init_video_state(
    ["data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode() for path in sorted(frames.iterdir())]
)
predictor = videos._predictor
predictor.add_new_points_or_box(state, 0, 1, points=[[50, 40]], labels=[1])
areas = [int((masks > 0).sum()) for _, _, masks in predictor.propagate_in_video(state)]
assert len(areas) == 2
sys.stdout.write(
    f"pixano-inference-sam: the same {len(first.masks[0])} masks from its own embedding; video areas {areas}" + "\n"
)
