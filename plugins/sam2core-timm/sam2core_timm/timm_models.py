"""The classifiers of timm as backbones."""

from __future__ import annotations

import inspect
from typing import Any

import timm
import torch
from torch import Tensor, nn

from registry.errors import UnknownName, hint
from sam2core.checkpoints.hub import Source
from sam2core_timm.trunk import STRIDES, Trunk, no_drop_path, on_meta
from sam2core_timm.weights import efficientnet_names, read_weights


def timm_trunk(*, name: str = "resnet50", pretrained: bool | str = False, drop_path: float = 0.0) -> Trunk:
    """A classifier of timm: its maps at those of the strides 4, 8, 16 and 32 that it has; of a plain ViT, one at 16.

    name         as timm writes it, with or without the tag of its weights: "convnext_tiny.in12k_ft_in1k"
    pretrained   whether to begin with timm's weights, from the cache or the hub; or a file with weights for this
                 classifier. Nothing is read where a model is filled from a checkpoint of its own
    drop_path    how often the last block is left out in training; earlier ones in proportion

    Raises UnknownName for a name timm does not know, ValueError for one without a map at stride 16, one that takes
    images of a single size, weights that do not fit.
    """
    kind, _, tag = name.partition(".")
    if not timm.is_model(kind) or (tag and name not in timm.list_pretrained(f"{kind}.*")):
        known = timm.list_pretrained(f"{kind}.*") if timm.is_model(kind) else timm.list_models()
        raise UnknownName(f"timm has no model {name!r}{hint(name, known)}")
    with torch.device("meta"):
        whole = timm.create_model(name)
    indices, channels, patch = _levels(name, whole)
    taken = inspect.signature(type(whole)).parameters
    options: dict[str, Any] = {"dynamic_img_size": True} if "dynamic_img_size" in taken else {}
    if drop_path:
        if "drop_path_rate" not in taken:
            raise no_drop_path("timm", name)
        options["drop_path_rate"] = drop_path
    body = timm.create_model(name, features_only=True, out_indices=indices, **options)
    if pretrained and not on_meta():
        source = _source(whole.pretrained_cfg) if pretrained is True else None
        state = efficientnet_names(read_weights(pretrained, source, name), whole.state_dict())
        _fill(name, body, _fitting(name, whole, state))
    mean, std = whole.pretrained_cfg["mean"], whole.pretrained_cfg["std"]
    channels_last = getattr(body, "output_fmt", "NCHW") == "NHWC"
    trunk = Trunk(body, channels, mean=mean, std=std, patch=patch, channels_last=channels_last)
    if on_meta():  # models are made like this first, whatever comes then
        _check_sizes(name, trunk)
    return trunk


def _levels(name: str, whole: nn.Module) -> tuple[list[int], dict[int, int], int]:
    """Which of a classifier's maps are taken, their channels by stride, and the patch of a plain ViT (otherwise 16)."""
    found = getattr(whole, "feature_info", None) or []
    strides = [info["reduction"] for info in found]
    if strides and len(set(strides)) == 1:  # the same for every block: a plain ViT
        return [len(found) - 1], {16: found[-1]["num_chs"]}, strides[0]
    last = {stride: index for index, stride in enumerate(strides) if stride in STRIDES}
    if 16 not in last:
        raise ValueError(f"timm's {name!r} has maps at strides {sorted(set(strides))}, and 16 has to be among them")
    indices = sorted(last.values())
    return indices, {strides[index]: found[index]["num_chs"] for index in indices}, 16


def _check_sizes(name: str, trunk: Trunk) -> None:
    """Raise ValueError for a classifier, without storage, that takes images of one size alone."""
    height, width = 96, 128
    try:
        rows = [x.shape[2] for x in trunk(torch.empty(1, 3, height, width))]
    except (AssertionError, RuntimeError) as error:  # what torch and timm raise
        raise ValueError(f"timm's {name!r} does not take images of any size: {error}") from error
    if rows != [height // stride for stride in trunk.strides]:
        raise ValueError(f"timm's {name!r} says strides {list(trunk.strides)} and gives {rows} rows for {height}")


def _source(config: dict[str, Any]) -> Source | None:
    """Where timm's weights are: on the hub, or else at an address of their author's."""
    if repo := config.get("hf_hub_id"):
        return Source(file=config.get("hf_hub_filename") or "model.safetensors", repo=repo)
    if url := config.get("url"):
        return Source(file=url.rpartition("/")[2], url=url)
    return None


def _fitting(name: str, whole: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A file's tensors as timm names them, all of them there; a classifier's last layer may be absent.

    Raises ValueError for what does not fit.
    """
    last = whole.pretrained_cfg.get("classifier") or ()
    prefixes = tuple(f"{each}." for each in ((last,) if isinstance(last, str) else last))
    known = whole.state_dict()
    if state.keys() <= known.keys():  # names are timm's, not those that it renames
        unused = {key: torch.zeros(known[key].shape) for key in known if prefixes and key.startswith(prefixes)}
        state = {**state, **unused}
    overlay = {"state_dict": state, "num_classes": whole.num_classes, "label_offset": 0}
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except (RuntimeError, KeyError) as error:  # what torch, and timm's renaming of older files, raise
        raise ValueError(f"these weights are not those of timm's {name!r}: {error}") from error


def _fill(name: str, body: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a classifier's tensors into its features, which call them alike but for "stages_0" and "model." in front.

    timm can do it, too, but is content with any part of a file.
    """
    known = {key.replace("_", "."): key for key in state}
    wanted = {key: key.removeprefix("model.").replace("_", ".") for key in body.state_dict()}
    if absent := [key for key, plain in wanted.items() if plain not in known]:
        raise ValueError(f"timm's {name!r} cannot begin pretrained: nothing in its weights is called {absent[0]!r}")
    body.load_state_dict({key: state[known[plain]] for key, plain in wanted.items()})
