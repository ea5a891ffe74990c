"""Where kernels are launched: on the device that holds the tensors, whichever is the current one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on_device(tensor: Tensor) -> AbstractContextManager[object]:
    """Within it, kernels run on a tensor's device: Triton launches on the current one, which may be another."""
    return torch.cuda.device(tensor.device) if tensor.device.type == "cuda" else nullcontext()
