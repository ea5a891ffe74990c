"""These tests are about the package `sam2` in this folder, whatever else of that name is installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[1]
TINY = str(Path(__file__).with_name("tiny.yaml"))
ROOT = PLUGIN.parents[1]

for place in (Path(__file__).parent, ROOT, PLUGIN):
    if str(place) in sys.path:
        sys.path.remove(str(place))
    sys.path.insert(0, str(place))
if "sam2" in sys.modules and PLUGIN not in Path(sys.modules["sam2"].__file__ or "").parents:
    pytest.exit("another package `sam2` is imported already: run these tests in a process of their own", returncode=2)


@pytest.fixture(scope="session")
def model():
    """The whole architecture in its smallest size, with Meta's interface."""
    import torch
    from sam2.build_sam import build_sam2

    torch.manual_seed(0)
    return build_sam2(TINY, device="cpu")


@pytest.fixture
def predictor():
    """A video predictor over the smallest model, whose objects are always there."""
    import torch
    from sam2.build_sam import build_sam2_video_predictor

    torch.manual_seed(0)
    made = build_sam2_video_predictor(TINY, device="cpu")
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        made.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(9.0)
    return made


@pytest.fixture(scope="session")
def frames(tmp_path_factory):
    """A folder of six JPEG frames of 60 x 80 pixels."""
    from both import write_frames
    from PIL import Image

    folder = tmp_path_factory.mktemp("frames")
    write_frames(folder, 6, size=(80, 60), resample=Image.Resampling.NEAREST)
    return folder
