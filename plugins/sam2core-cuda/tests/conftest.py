"""Where no GPU is, the kernels run in Triton's interpreter, on the CPU; it must be chosen before they are imported."""

from __future__ import annotations

import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def device() -> str:
    return DEVICE
