"""Runs a program of Meta's that asks for a GPU on the CPU, over the user's own `tiny.yaml`.

python on_cpu.py FOLDER PROGRAM ARGUMENT...
"""

from __future__ import annotations

import functools
import runpy
import sys
import warnings

import sam2.build_sam
import sam2.utils.misc
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from overriding import regions

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    folder, program, *arguments = sys.argv[1:]
    sam2.utils.misc.get_connected_components = regions
    sam2.build_sam.build_sam2_video_predictor = functools.partial(
        sam2.build_sam.build_sam2_video_predictor, device="cpu"
    )
    torch.autocast = lambda *_, **__: torch.inference_mode()  # Meta's asks for CUDA's
    sys.argv = [program, "--sam2_cfg", "tiny.yaml", *arguments]
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=folder, version_base="1.2"):
        runpy.run_path(program, run_name="__main__")
