"""Runs `compat_program.py` on Meta's package as if its CUDA extension were built, without its progress bars.

Memories without object pointers are read in the model's type, where Meta's sam2 fails for mixing bfloat16 and float32.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import sam2.modeling.memory_attention
import sam2.sam2_video_predictor
import sam2.utils.misc
import torch
from scipy import ndimage


def components(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the extension computes: 8-connected regions' labels and areas."""
    labels, areas = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    for index, one in enumerate(mask[:, 0].cpu().numpy()):
        found, _ = ndimage.label(one, structure=np.ones((3, 3)))
        counts = np.bincount(found.ravel())
        counts[0] = 0
        labels[index, 0], areas[index, 0] = found, counts[found]
    return torch.from_numpy(labels), torch.from_numpy(areas)


def main() -> None:
    attention = sam2.modeling.memory_attention.MemoryAttention
    read = attention.forward

    def one_type(self, curr, memory, **rest):
        return read(self, curr=curr, memory=memory.float(), **rest)

    attention.forward = one_type
    sam2.utils.misc.get_connected_components = components
    sam2.sam2_video_predictor.tqdm = lambda frames, **_: frames
    runpy.run_path(str(Path(__file__).with_name("compat_program.py")), run_name="__main__")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.argv[0] = "compat_program.py"
    main()
