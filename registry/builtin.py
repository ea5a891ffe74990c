"""The built-in plugin: every name this repository provides, registered through the same hooks as anyone's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sam2core.hooks import hookimpl

WRITERS = ("coco", "yolo", "cvat", "mots", "labelstudio", "geojson", "nifti", "tiff", "davis", "shards")
COMPONENTS: tuple[tuple[str, str, str], ...] = (
    ("backbone", "hiera", "sam2core.backbones.hiera:hiera"),
    ("backbone", "hiera_t", "sam2core.backbones.hiera:hiera_t"),
    ("backbone", "hiera_s", "sam2core.backbones.hiera:hiera_s"),
    ("backbone", "hiera_b+", "sam2core.backbones.hiera:hiera_b_plus"),
    ("backbone", "hiera_l", "sam2core.backbones.hiera:hiera_l"),
    ("backbone", "hiera_micro", "sam2core.backbones.hiera:hiera_micro"),
    ("neck", "fpn", "sam2core.backbones.fpn:Fpn"),
    ("prompt_encoder", "sam", "sam2core.heads.prompt_encoder:PromptEncoder"),
    ("mask_decoder", "sam", "sam2core.heads.mask_decoder:SamMaskDecoder"),
    ("memory_encoder", "conv", "sam2core.memory.encoder:ConvMemoryEncoder"),
    ("memory_attention", "rope", "sam2core.memory.attention:RopeMemoryAttention"),
    ("memory_policy", "recent", "sam2core.memory.policy:RecentFrames"),
    ("initialisation", "fresh", "sam2core.training.initialisation:Fresh"),
    ("predictor", "image", "sam2core.predictors.image:ImagePredictor"),
    ("predictor", "video", "sam2core.predictors.video:VideoPredictor"),
    ("predictor", "automask", "sam2core.predictors.automask:MaskGenerator"),
    ("engine", "local", "sam2core.jobs.engines:LocalEngine"),
    ("detector", "boxes", "sam2core.jobs.detectors:BoxesDetector"),
    ("detector", "torchvision", "sam2core.jobs.torchvision_detector:TorchvisionDetector"),
    *(("writer", name, f"sam2core.jobs.writers:{name}") for name in WRITERS),
    ("layout", "native", "sam2core.checkpoints.layout:NATIVE"),
    ("layout", "facebook", "sam2core.checkpoints.facebook:FACEBOOK"),
    ("layout", "huggingface", "sam2core.checkpoints.huggingface:HUGGINGFACE"),
    ("layout", "huggingface-image", "sam2core.checkpoints.huggingface:HUGGINGFACE_IMAGE"),
)


@hookimpl
def register_components(register: Callable[[str, str, Any], None]) -> None:
    for kind, name, target in COMPONENTS:
        register(kind, name, target)


@hookimpl
def register_specs(register: Callable[[str | Path], None]) -> None:
    register(Path(__file__).parent / "specs")


@hookimpl
def register_recipes(register: Callable[[str | Path], None]) -> None:
    register(Path(__file__).parent / "recipes")


@hookimpl
def register_kernels() -> None:
    from sam2core.ops import cpu  # noqa: F401  importing it attaches its kernels
