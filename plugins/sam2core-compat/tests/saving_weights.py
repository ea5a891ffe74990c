"""Writes a checkpoint of the smallest model as Meta's are: `python saving_weights.py FOLDER OUT.pt`."""

from __future__ import annotations

import sys

import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from overriding import weights
from sam2.build_sam import build_sam2

if __name__ == "__main__":
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=sys.argv[1], version_base="1.2"):
        model = build_sam2("tiny.yaml", device="cpu")
    weights(model)
    torch.save({"model": model.state_dict()}, sys.argv[2])
