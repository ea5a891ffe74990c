"""Decoding in calls that fit a CPU's caches, and drawing of those masks only that somebody keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops.cpu.chunks import predicts_on_cpu
from sam2core.ops.cpu.products import product
from sam2core.ops.layers import LayerNorm2d
from sam2core.types import DecoderOutput, FilteredMasks, ImageFeatures, Prompt

# A decoder call whose image tokens outgrow the last-level cache costs twice per prompt.
CALL_BYTES = 8 * 2**20


def _rows_per_call(embedding: Tensor) -> int:
    """How many prompts one decoder call takes: as many as fit the cache."""
    return max(1, CALL_BYTES // (embedding[0].numel() * embedding.element_size()))


class ModelInCalls:
    """A `Sam2` that decodes some prompts at a time."""

    replaces = ("decode", "decode_filtered")

    def decode(self: Any, features: ImageFeatures, embedding: Tensor, prompt: Prompt) -> DecoderOutput:
        whole = super().decode  # type: ignore[misc]
        rows = _rows_per_call(embedding.to(self.head_dtype)) if embedding.device.type == "cpu" else prompt.batch
        if prompt.batch <= rows or torch.is_grad_enabled():
            return whole(features, embedding, prompt)
        outputs = []
        for start in range(0, prompt.batch, rows):
            some = slice(start, start + rows)
            part = features if features.batch == 1 else features.rows(some)
            part_embedding = embedding if embedding.shape[0] == 1 else embedding[some]
            outputs.append(whole(part, part_embedding, prompt.rows(some)))
        return DecoderOutput.join(outputs)

    def decode_filtered(
        self: Any, features: ImageFeatures, embedding: Tensor, prompt: Prompt, keep: Callable[[Tensor], Tensor]
    ) -> FilteredMasks:
        if not (predicts_on_cpu(embedding) and isinstance(self.mask_decoder, DrawsFiltered) and self.fixed is None):
            return super().decode_filtered(features, embedding, prompt, keep)  # type: ignore[misc]
        _, dense, _ = self.prompt_encoder(prompt.rows(slice(2)))
        if len(dense) > 1:  # a map for each prompt
            return super().decode_filtered(features, embedding, prompt, keep)  # type: ignore[misc]
        embedding = embedding.to(self.head_dtype)
        sparse, dense, _ = self.prompt_encoder(prompt)
        position = self.prompt_encoder.position((embedding.shape[-2], embedding.shape[-1]))
        return self.mask_decoder.decode_filtered(
            embedding + dense, position, sparse, features.high_res_features, keep, rows=_rows_per_call(embedding)
        )


class DrawsFiltered:
    """A `SamMaskDecoder` that can leave out masks by their scores."""

    replaces = ("forward", "enlarge", "with_own_tokens")

    def decode_filtered(
        self: Any,
        embedding: Tensor,
        position: Tensor,
        sparse: Tensor,
        high_res_features: tuple[Tensor, ...],
        keep: Callable[[Tensor], Tensor],
        *,
        rows: int,
    ) -> FilteredMasks:
        """Only those masks whose scores `keep` takes, for many prompts (B, P, C) on one image (1, C, H, W).

        Scores come before masks, so the others are never drawn: the same logits up to rounding as `forward`'s, for less
        than half of the work where most masks are bad. `embedding` has the prompts' common map added already;
        `keep` turns scores (B', 4) into booleans (B', 4); `rows` prompts go through at a time.
        """
        image = embedding.flatten(2).transpose(1, 2).contiguous()
        image_at = position.flatten(2).transpose(1, 2).contiguous()
        shared = self.transformer.share(image, image_at)
        draw = _Drawing(self, self.own_features(high_res_features), (embedding.shape[-2], embedding.shape[-1]))
        all_tokens, _ = self.with_own_tokens(sparse, None)
        kept, logits, iou = [], [], []
        for start in range(0, sparse.shape[0], rows):
            tokens, maps = self.transformer(all_tokens[start : start + rows], image, image_at, shared=shared)
            scores = F.sigmoid(self.iou_head(tokens[:, 1]))
            places = torch.nonzero(keep(scores))
            kept.append(places + places.new_tensor([start, 0]))
            iou.append(scores[places[:, 0], places[:, 1]])
            logits.append(draw(maps, tokens[:, 2 : 2 + self.MASKS], places))
        places = torch.cat(kept)
        masks = self.finish(torch.cat(logits).unsqueeze(1), high_res_features).squeeze(1)
        return FilteredMasks(row=places[:, 0], mask=places[:, 1], logits=masks, iou=torch.cat(iou))


class _Drawing:
    """The way from an image's tokens to masks as matrix products: strides equal kernels, so no window overlaps.

    Maps stay in tokens' order (cells, within them quarters, within them pixels); the image's finer maps are brought
    into that order once for all prompts.
    """

    def __init__(self, decoder: Any, high_res_features: tuple[Tensor, ...], grid: tuple[int, int]) -> None:
        self.decoder, self.grid = decoder, grid
        widen, _, _, widen_again, _ = decoder.upscale
        assert isinstance(widen, nn.ConvTranspose2d) and isinstance(widen_again, nn.ConvTranspose2d)
        self.first, self.second = _as_matrix(widen), _as_matrix(widen_again)
        self.bias, self.bias_again = _repeated(widen.bias), _repeated(widen_again.bias)
        if high_res_features:
            height, width = grid
            finer = high_res_features[1].view(-1, height, 2, width, 2).permute(1, 3, 2, 4, 0)
            finest = high_res_features[0].view(-1, height, 2, 2, width, 2, 2).permute(1, 4, 2, 5, 3, 6, 0)
            self.bias = self.bias + finer.reshape(height * width, -1)
            self.bias_again = self.bias_again + finest.reshape(4 * height * width, -1)

    def __call__(self, maps: Tensor, tokens: Tensor, places: Tensor) -> Tensor:
        """Logits (K, h, w) of the masks at `places` (K, 2) (prompt, mask), from tokens (B, N, C) and (B, 4, C)."""
        decoder, (height, width) = self.decoder, self.grid
        norm = decoder.upscale[1]
        assert isinstance(norm, LayerNorm2d)
        drawn = []
        for row, masks in _by_row(places):
            x = product(maps[row], self.first).add_(self.bias).view(4 * height * width, -1)
            x = _gelu_(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
            x = _gelu_(product(x, self.second).add_(self.bias_again)).view(16 * height * width, -1)
            filters = torch.cat([decoder.mask_mlps[mask](tokens[row : row + 1, mask]) for mask in masks])
            drawn.append(filters @ x.T)
        if not drawn:
            return maps.new_zeros(0, 4 * height, 4 * width)
        nested = torch.cat(drawn).view(-1, height, width, 2, 2, 2, 2)
        return nested.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * height, 4 * width)


def _as_matrix(layer: nn.ConvTranspose2d) -> Tensor:
    """A transposed convolution of kernel and stride 2 as the matrix (4 C', C) of a linear layer to a cell's pixels."""
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 2)


def _gelu_(x: Tensor) -> Tensor:
    """GELU in place: what is drawn stays in cache."""
    return torch.ops.aten.gelu_(x)


def _repeated(bias: Tensor | None) -> Tensor:
    assert bias is not None
    return bias.repeat(4)


def _by_row(places: Tensor) -> Iterator[tuple[int, list[int]]]:
    """Each row of sorted (row, mask) pairs with its masks."""
    rows: dict[int, list[int]] = {}
    for row, mask in places.tolist():
        rows.setdefault(row, []).append(mask)
    yield from rows.items()
