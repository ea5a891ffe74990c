"""Models and predictors by upstream's configuration names, or by the names of sam2core's registry."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

import torch

from sam2 import configuration
from sam2.modeling.assembly import PARTS, describe
from sam2.modeling.sam2_base import SAM2Base

HF_MODEL_ID_TO_FILENAMES = {
    f"facebook/sam{version}-hiera-{size}": (
        f"configs/sam{version}/sam{version}_hiera_{short}.yaml",
        f"sam{version}_hiera_{size.replace('-', '_')}.pt",
    )
    for version in ("2", "2.1")
    for size, short in (("tiny", "t"), ("small", "s"), ("base-plus", "b+"), ("large", "l"))
}

_STABILITY = {
    "dynamic_multimask_via_stability": True,
    "dynamic_multimask_stability_delta": 0.05,
    "dynamic_multimask_stability_thresh": 0.98,
}


def build_sam2(
    config_file,
    ckpt_path=None,
    device="cuda",
    mode="eval",
    hydra_overrides_extra=[],  # noqa: B006
    apply_postprocessing=True,
    **kwargs,
):
    """A model by its configuration, on a device, in evaluation mode unless `mode` says otherwise.

    `config_file` is upstream's name, the path of such a YAML file, or a model of sam2core's registry. `ckpt_path` is a
    file in any layout that sam2core reads; None is a fresh initialisation. The default device falls back to the CPU
    where there is no CUDA. `hydra_overrides_extra` are overrides of the configuration in Hydra's notation.
    """
    overrides = _postprocessing(apply_postprocessing, video=False)
    return _build(config_file, SAM2Base, ckpt_path, device, mode, [*hydra_overrides_extra, *overrides])


def build_sam2_video_predictor(
    config_file,
    ckpt_path=None,
    device="cuda",
    mode="eval",
    hydra_overrides_extra=[],  # noqa: B006
    apply_postprocessing=True,
    vos_optimized=False,
    **kwargs,
):
    """A video predictor, as `build_sam2`; with `vos_optimized`, one whose parts are compiled."""
    from sam2.sam2_video_predictor import SAM2VideoPredictor, SAM2VideoPredictorVOS

    overrides = _postprocessing(apply_postprocessing, video=True)
    kind = SAM2VideoPredictorVOS if vos_optimized else SAM2VideoPredictor
    return _build(config_file, kind, ckpt_path, device, mode, [*hydra_overrides_extra, *overrides])


def _postprocessing(wanted: bool, *, video: bool) -> list[str]:
    """What upstream calls postprocessing: the stability fallback; for videos hard prompt masks and filled holes too."""
    if not wanted:
        return []
    options: dict[str, Any] = {f"sam_mask_decoder_extra_args.{name}": value for name, value in _STABILITY.items()}
    if video:
        options |= {"binarize_mask_from_pts_for_mem_enc": True, "fill_hole_area": 8}
    return [f"++model.{name}={str(value).lower()}" for name, value in options.items()]


def _build(config: Any, kind: type[SAM2Base], ckpt_path: Any, device: Any, mode: str, overrides: list[str]) -> SAM2Base:
    place = _device(device)
    try:
        tree = configuration.load(config)
    except ValueError as error:
        core = _from_registry(config, error)
        tree = {"image_encoder": core, "memory_attention": None, "memory_encoder": None}
        if any(text.lstrip("+").startswith("model.sam_mask_decoder_extra_args") for text in overrides):
            # a model of the registry says itself whether its single mask falls back
            overrides = [text for text in overrides if "sam_mask_decoder_extra_args" not in text]
    tree = configuration.override(tree, overrides)
    kind = _kind(tree.pop("_target_", None), kind)
    parts = {
        key: describe(value, f"model.{key}") if isinstance(value, Mapping) else value for key, value in tree.items()
    }
    try:
        model = kind(**parts)
    except TypeError as error:
        raise ValueError(f"the configuration does not fit {kind.__name__}: {error}") from error
    _load_checkpoint(model, ckpt_path)
    model = model.to(place)
    return model.eval() if mode == "eval" else model


def _kind(target: str | None, wanted: type[SAM2Base]) -> type[SAM2Base]:
    """The class that a configuration names: one of this package's, or a subclass that is imported already."""
    if target is None or target == "sam2.modeling.sam2_base.SAM2Base":
        return wanted
    module, _, name = target.rpartition(".")
    import sys

    if module.startswith("sam2.") and target not in PARTS:
        importlib.import_module(module)
    found = getattr(sys.modules.get(module), name, None)
    if not (isinstance(found, type) and issubclass(found, SAM2Base)):
        raise ValueError(f"model._target_ is {target!r}, which is no SAM2Base that has been imported")
    return found


def _from_registry(name: Any, otherwise: ValueError) -> Any:
    """A model of sam2core's registry, with its own weights where it carries them."""
    import registry

    if not isinstance(name, str) or name not in registry.models():
        raise otherwise
    weights = registry.spec(name).weights
    return registry.build(name, weights=weights is not None and weights.package)


def _device(device: Any) -> torch.device:
    """The device asked for; upstream's default, "cuda", is the CPU where there is no CUDA."""
    if device is None:
        device = "cuda"
    place = torch.device(device)
    return torch.device("cpu") if device == "cuda" and not torch.cuda.is_available() else place


def _hf_download(model_id):
    from huggingface_hub import hf_hub_download

    if model_id not in HF_MODEL_ID_TO_FILENAMES:
        from sam2.modeling.assembly import near

        known = ", ".join(HF_MODEL_ID_TO_FILENAMES)
        raise KeyError(f"there is no model {model_id!r}{near(model_id, HF_MODEL_ID_TO_FILENAMES)}; known: {known}")
    config_name, checkpoint_name = HF_MODEL_ID_TO_FILENAMES[model_id]
    return config_name, hf_hub_download(repo_id=model_id, filename=checkpoint_name)


def build_sam2_hf(model_id, **kwargs):
    """A model by its name on the hub."""
    config_name, ckpt_path = _hf_download(model_id)
    return build_sam2(config_file=config_name, ckpt_path=ckpt_path, **kwargs)


def build_sam2_video_predictor_hf(model_id, **kwargs):
    """A video predictor by its name on the hub."""
    config_name, ckpt_path = _hf_download(model_id)
    return build_sam2_video_predictor(config_file=config_name, ckpt_path=ckpt_path, **kwargs)


def _load_checkpoint(model, ckpt_path):
    """Load a file into a model, strictly. Raises RuntimeError when they do not fit, ValueError for unreadable files."""
    if ckpt_path is None:
        return
    from registry import weights

    state, _ = weights.read(os.fspath(ckpt_path))
    model.load_state_dict(state, strict=True)
