"""Torchvision's detectors, with the user's own weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sam2core.jobs.torchvision_detector import TorchvisionDetector
from sam2core.testing import check


def test_torchvision_with_ones_own_weights(tmp_path):
    from torchvision.models import get_model

    name = "ssdlite320_mobilenet_v3_large"
    torch.manual_seed(0)
    state = get_model(name, weights=None, weights_backbone=None, num_classes=3).state_dict()
    torch.save(state, tmp_path / "mine.pth")
    options = {"model": name, "weights": str(tmp_path / "mine.pth"), "classes": "cat, dog", "threshold": 0.0}
    check("detector", TorchvisionDetector, options={**options, "device": "cpu"})
    picture = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    found = TorchvisionDetector(**options, device="cpu").detect(picture, source="a.png", frame=0)
    assert len(found.labels) > 0 and set(found.labels) <= {"cat", "dog"}
    with pytest.raises(ValueError, match="does not fit .* of 1 classes"):
        TorchvisionDetector(**{**options, "classes": "cat"}).detect(picture, source="a.png", frame=0)
    with pytest.raises(ValueError, match="wants its weights: weights=FILE"):
        TorchvisionDetector().detect(picture, source="a.png", frame=0)
    with pytest.raises(ValueError, match="did you mean 'fasterrcnn_resnet50_fpn_v2'"):
        TorchvisionDetector(model="fasterrcnn_resnet50_fpnv2")
