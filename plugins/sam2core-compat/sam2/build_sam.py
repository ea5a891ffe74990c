"""Models and predictors by Meta's configuration names, or by the names of sam2core's registry."""

from __future__ import annotations

import os
from typing import Any

import torch

from sam2 import configuration
from sam2.modeling.sam2_base import SAM2Base
from sam2.spelling import near

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

    `config_file` is Meta's name, the path of such a YAML file, or a model of sam2core's registry. `ckpt_path` is a
    file in any layout that sam2core reads; None is a fresh initialisation. The default device falls back to the CPU
    where there is no CUDA. `hydra_overrides_extra` are overrides of the configuration in Hydra's notation.
    """
    overrides = _postprocessing(apply_postprocessing, video=False)
    return _build(config_file, ckpt_path, device, mode, [*hydra_overrides_extra, *overrides])


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
    kind = "SAM2VideoPredictorVOS" if vos_optimized else "SAM2VideoPredictor"
    overrides = [f"++model._target_=sam2.sam2_video_predictor.{kind}"]
    if vos_optimized:
        overrides.append("++model.compile_image_encoder=true")
    overrides += [*hydra_overrides_extra, *_postprocessing(apply_postprocessing, video=True)]
    return _build(config_file, ckpt_path, device, mode, overrides)


def _postprocessing(wanted: bool, *, video: bool) -> list[str]:
    """What Meta's sam2 calls postprocessing: the stability fallback; for videos hard prompt masks and filled holes
    too."""
    if not wanted:
        return []
    options: dict[str, Any] = {f"sam_mask_decoder_extra_args.{name}": value for name, value in _STABILITY.items()}
    if video:
        options |= {"binarize_mask_from_pts_for_mem_enc": True, "fill_hole_area": 8}
    return [f"++model.{name}={str(value).lower()}" for name, value in options.items()]


def _build(config: Any, ckpt_path: Any, device: Any, mode: str, overrides: list[str]) -> SAM2Base:
    place = _device(device)
    try:
        model = configuration.build(config, overrides)
    except configuration.NoConfiguration as error:
        model = _from_registry(config, overrides, error)
    if not isinstance(model, SAM2Base):
        raise ValueError(f"model._target_ of {config!r} makes a {type(model).__name__}, which is no SAM2Base")
    _load_checkpoint(model, ckpt_path)
    model = model.to(place)
    return model.eval() if mode == "eval" else model


def _from_registry(name: Any, overrides: list[str], otherwise: ValueError) -> Any:
    """A model of sam2core's registry, with its own weights where it carries them."""
    import registry

    if not isinstance(name, str) or name not in registry.models():
        raise otherwise
    weights = registry.spec(name).weights
    core = registry.build(name, weights=weights is not None and weights.package)
    # such a model says itself whether its single mask falls back
    said = [text for text in overrides if "sam_mask_decoder_extra_args" not in text]
    tree = {"_target_": "sam2.modeling.sam2_base.SAM2Base", "memory_attention": None, "memory_encoder": None}
    return configuration.make(configuration.override(tree, said) | {"image_encoder": core}, "model")


def _device(device: Any) -> torch.device:
    """The device asked for; Meta's default, "cuda", is the CPU where there is no CUDA."""
    if device is None:
        device = "cuda"
    place = torch.device(device)
    return torch.device("cpu") if device == "cuda" and not torch.cuda.is_available() else place


def _hf_download(model_id):
    from huggingface_hub import hf_hub_download

    if model_id not in HF_MODEL_ID_TO_FILENAMES:
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
    from sam2core.checkpoints import files

    path = os.fspath(ckpt_path)
    try:
        state, _ = files.read(path)
    except files.FileError as error:
        raise weights.WeightsError(str(error)) from error
    saved_here = any(name.startswith("core.") for name in state)
    if not saved_here and not {*state} & {*model.state_dict()}:  # another layout than Meta's
        state, _ = weights.read(path)
    model.load_state_dict(state, strict=True)
