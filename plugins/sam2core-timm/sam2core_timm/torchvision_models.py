"""The classifiers of torchvision as backbones."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import StochasticDepth

from registry.errors import UnknownName, hint
from sam2core.checkpoints.hub import Source
from sam2core.ops.pixels import MEAN, STD
from sam2core_timm.trunk import STRIDES, Trunk, no_drop_path, on_meta
from sam2core_timm.weights import read_weights


def torchvision_trunk(*, name: str = "resnet50", pretrained: bool | str = False, drop_path: float = 0.0) -> Trunk:
    """A convolutional classifier or a Swin of torchvision: its maps at the strides 4, 8, 16 and 32.

    name         as torchvision writes it: "resnet50", "convnext_tiny", "swin_t"
    pretrained   whether to begin with torchvision's best weights, from the cache or pytorch.org; or a file with weights
                 for this classifier. Nothing is read where a model is filled from a checkpoint of its own
    drop_path    how often the last block is left out in training; earlier ones in proportion

    Raises UnknownName for a name torchvision does not know, ValueError for a family without such maps and for weights
    that do not fit.
    """
    if name not in (known := models.list_models(module=models)):
        raise UnknownName(f"torchvision has no model {name!r}{hint(name, known)}")
    weights = models.get_model_weights(name).DEFAULT
    with torch.device("meta"):
        whole = models.get_model(name)
        channels_last = isinstance(whole, models.SwinTransformer)
        indices, channels = _levels(Stages(_steps(name, whole)), channels_last=channels_last)
    if drop_path and not isinstance(whole, DROPPING):
        raise no_drop_path("torchvision", name)
    whole = models.get_model(name)
    # set here: torchvision's Swin takes no rate of one's own
    blocks = [layer for layer in whole.modules() if isinstance(layer, StochasticDepth)]
    for number, block in enumerate(blocks):
        block.p = drop_path * number / max(1, len(blocks) - 1)
    trunk = Stages(_steps(name, whole), indices)
    if pretrained and not on_meta():
        source = Source(file=weights.url.rpartition("/")[2], url=weights.url) if pretrained is True else None
        _fill(name, whole, trunk, read_weights(pretrained, source, name))
    learned = weights.transforms() if pretrained is True else None
    mean, std = (learned.mean, learned.std) if learned else (MEAN, STD)
    return Trunk(trunk, channels, mean=mean, std=std, channels_last=channels_last)


FEATURES = (models.ConvNeXt, models.EfficientNet, models.MobileNetV2, models.MobileNetV3, models.SwinTransformer)
"""The families whose steps are in a sequence ``features``."""

DROPPING = (models.ConvNeXt, models.EfficientNet, models.SwinTransformer)
"""The families whose blocks may be left out in training."""


class Stages(nn.Sequential):
    """A classifier's steps in a row, without its last layers; the maps behind the steps at `indices` are given."""

    def __init__(self, steps: list[nn.Module], indices: tuple[int, ...] = ()) -> None:
        self.indices = indices or tuple(range(len(steps)))
        super().__init__(*steps[: self.indices[-1] + 1])

    def forward(self, x: Tensor) -> list[Tensor]:
        """An image (B, 3, H, W) to maps (B, C, h, w), or (B, h, w, C) as the classifier has them."""
        maps = []
        for index, step in enumerate(self):
            x = step(x)
            if index in self.indices:
                maps.append(x)
        return maps


def _steps(name: str, model: nn.Module) -> list[nn.Module]:
    """A classifier as steps in a row. Raises ValueError for a family that is not known here."""
    if isinstance(model, models.ResNet):
        stem = nn.Sequential(model.conv1, model.bn1, model.relu, model.maxpool)
        return [stem, model.layer1, model.layer2, model.layer3, model.layer4]
    if isinstance(model, FEATURES):
        return list(model.features)
    raise ValueError(
        f"torchvision's {name!r} is of no family that is known here: ResNet, ConvNeXt, EfficientNet, MobileNetV2, "
        "MobileNetV3, SwinTransformer; backbone 'timm' may have it"
    )


def _levels(stages: Stages, *, channels_last: bool) -> tuple[tuple[int, ...], dict[int, int]]:
    """The last step at each stride, and the channels there by stride; the stages are on the meta device.

    channels_last    whether maps are (B, h, w, C)
    """
    side, (row, channel) = 64, (1, 3) if channels_last else (2, 1)
    maps = stages.eval()(torch.empty(1, 3, side, side, device="meta"))
    found = {side // x.shape[row]: index for index, x in enumerate(maps) if side // x.shape[row] in STRIDES}
    return tuple(found.values()), {stride: maps[index].shape[channel] for stride, index in found.items()}


def _fill(name: str, whole: nn.Module, trunk: nn.Module, state: dict[str, Tensor]) -> None:
    """Load a file into a classifier whose steps the trunk shares. Only what the trunk lacks may be absent."""
    used = {id(tensor) for tensor in trunk.state_dict(keep_vars=True).values()}
    wanted = {key for key, tensor in whole.state_dict(keep_vars=True).items() if id(tensor) in used}
    if missing := sorted(wanted - state.keys()):
        raise ValueError(f"these weights are not those of torchvision's {name!r}: {missing[0]} is missing")
    try:
        whole.load_state_dict({key: state[key] for key in wanted}, strict=False)
    except RuntimeError as error:
        raise ValueError(f"these weights are not those of torchvision's {name!r}: {error}") from error
