"""What a classifier's stages need beside themselves to be a backbone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sam2core.ops.pixels import MEAN, STD

STRIDES = (4, 8, 16, 32)
"""The strides that a model has a use for."""


class Trunk(nn.Module):
    """Stages of a classifier as a backbone: one map a stride, batch norms frozen, pixels normalised as it learned them.

    body             an image (B, 3, H, W) to a list of maps, finest first
    channels         of the maps, by their strides
    mean, std        what the classifier's pixels were normalised with, of RGB values in [0, 1]
    patch            side of a ViT's patches; where it is not 16, the ViT sees the image at ``patch / 16`` of its
                     size, so that there is a patch for every 16 pixels
    channels_last    whether the body's maps are (B, H, W, C), as Swin's are

    Batch norms use the statistics they were trained with, in training too: a batch of a few large images has none
    worth having. Their factors and offsets are trained.
    """

    def __init__(
        self,
        body: nn.Module,
        channels: Mapping[int, int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        patch: int = 16,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.strides = tuple(sorted(channels))
        self.channels = tuple(channels[stride] for stride in self.strides)
        self.mean, self.std = tuple(mean), tuple(std)
        self.patch = patch
        self.channels_last = channels_last
        _keep_buffers(body)
        self.train(self.training)

    def train(self, mode: bool = True) -> Trunk:
        """Training mode, or not, but for batch norms."""
        super().train(mode)
        for module in self.body.modules():
            if isinstance(module, _BatchNorm):
                module.train(False)
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """Normalised pixels (B, 3, H, W), sides multiples of 32, to maps, finest first."""
        x = self._as_learned(image)
        if self.patch != 16:
            size = [side // 16 * self.patch for side in image.shape[-2:]]
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=self.patch < 16)
        return [each.permute(0, 3, 1, 2) if self.channels_last else each for each in self.body(x)]

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers that stand in a row, inside whatever stages, first to last."""
        return [self.body.get_submodule(name) for name in _rows(self.body)]

    def layer_id(self, name: str) -> int:
        """The depth of a parameter: n + 1 in block n; what stands between blocks counts with the one before."""
        prefixes = [f"body.{block}." for block in _rows(self.body)]
        depth = 0
        for each, _ in self.named_parameters():
            depth = next((n + 1 for n, prefix in enumerate(prefixes) if each.startswith(prefix)), depth)
            if each == name:
                return depth
        raise ValueError(f"the trunk has no parameter {name!r}")

    def _as_learned(self, image: Tensor) -> Tensor:
        """The pixels with the classifier's mean and deviation in the place of the model's."""
        if (self.mean, self.std) == (MEAN, STD):
            return image
        scale = [ours / theirs for ours, theirs in zip(STD, self.std)]
        shift = [(ours - theirs) / spread for ours, theirs, spread in zip(MEAN, self.mean, self.std)]
        return image * image.new_tensor(scale).view(1, 3, 1, 1) + image.new_tensor(shift).view(1, 3, 1, 1)


def _rows(module: nn.Module, prefix: str = "") -> Iterator[str]:
    """The names of the layers with weights that stand in a row: in a sequence or list, and no such thing themselves."""
    row = isinstance(module, nn.Sequential | nn.ModuleList)
    for name, child in module.named_children():
        if row and not isinstance(child, nn.Sequential | nn.ModuleList):
            if any(True for _ in child.parameters()):
                yield prefix + name
        else:
            yield from _rows(child, f"{prefix}{name}.")


def _keep_buffers(body: nn.Module) -> None:
    """Have every buffer saved: a model that is filled from a file computes none of them anew."""
    for module in body.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, buffer, persistent=True)


def on_meta() -> bool:
    """Whether parts are being made without storage, to be filled from a file: pretrained weights are not wanted."""
    return torch.get_default_device().type == "meta"


def no_drop_path(library: str, name: str) -> ValueError:
    """The error for a classifier whose blocks cannot be left out in training."""
    return ValueError(
        f"blocks of {library}'s {name!r} cannot be left out: backbone.drop_path is 0 for it "
        "(in a recipe overrides.backbone.drop_path=0)"
    )
