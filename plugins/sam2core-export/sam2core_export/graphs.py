"""The four graphs: what one exported file computes, from tensors to tensors, with nothing left to do outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sam2core.model import STRIDE, Sam2, finer_features
from sam2core.ops.masks import resize
from sam2core.ops.position import sine_grid, sine_time, sine_tokens
from sam2core.types import Prompt, TokenBlock

Shape = tuple["int | str", ...]


@dataclass(frozen=True)
class Port:
    """One input or output of a graph. Axes are numbers, or the names of those that vary."""

    name: str
    dtype: str  # float32, int64, bool
    shape: Shape


@dataclass(frozen=True)
class Sizes:
    """What is fixed when a model is exported."""

    slots: int
    object_pointers: int
    points: int | None
    """Points of a prompt; None: any number."""


class Graph(nn.Module):
    """A module with named inputs and outputs."""

    inputs: Sequence[Port]
    outputs: Sequence[Port]

    def example(self, sizes: dict[str, int]) -> tuple[Tensor, ...]:
        """Inputs to trace with, varying axes as long as `sizes` says."""
        generator = torch.Generator().manual_seed(0)
        values = []
        for port in self.inputs:
            shape = [axis if isinstance(axis, int) else sizes[axis] for axis in port.shape]
            if port.dtype == "float32":
                values.append(torch.rand(shape, generator=generator))
            else:
                values.append(torch.ones(shape, dtype=getattr(torch, port.dtype)))
        return tuple(values)


class ImageEncoder(Graph):
    """Pixels to what every prompt on the image shares."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.backbone, self.neck, self.decoder = model.backbone, model.neck, model.mask_decoder
        (height, width), dim = _grid(model), _dim(model)
        self.inputs = [Port("pixels", "float32", (1, 3, *model.image_size))]
        self.outputs = [Port("embedding", "float32", (1, dim, height, width))]
        with torch.device("meta"):
            maps = [torch.empty(1, dim, height * by, width * by) for by in (4, 2, 1)]
            pixels = torch.empty(1, 3, *model.image_size)
        high_res_features = _on_meta(model.mask_decoder, maps, pixels)
        self.outputs += [
            Port(f"skip_stride{4 * 2**index}", "float32", tuple(skip)) for index, skip in enumerate(high_res_features)
        ]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        maps = self.neck(self.backbone(pixels))
        return (maps[-1], *finer_features(self.decoder, maps, pixels))


class MaskDecoder(Graph):
    """A prompt for each object, on a shared image, to all four masks: prompt encoder, decoder and object pointers."""

    def __init__(self, model: Sam2, sizes: Sizes, high_res_features: Sequence[Port]) -> None:
        super().__init__()
        self.prompt_encoder, self.decoder = model.prompt_encoder, model.mask_decoder
        self.object_pointer = model.object_pointer.proj
        (height, width), dim = _grid(model), _dim(model)
        mask_input = model.prompt_encoder.mask_input_size
        points: int | str = "points" if sizes.points is None else sizes.points
        self.inputs = [
            Port("embedding", "float32", ("objects", dim, height, width)),
            Port("points", "float32", ("objects", points, 2)),
            Port("labels", "int64", ("objects", points)),
            Port("mask_input", "float32", ("objects", 1, *mask_input)),
            Port("has_mask_input", "bool", ("objects",)),
            *high_res_features,
        ]
        self.outputs = [
            Port("masks", "float32", ("objects", 4, 4 * height, 4 * width)),
            Port("iou", "float32", ("objects", 4)),
            Port("object_pointers", "float32", ("objects", 4, dim)),
            Port("object_score", "float32", ("objects", 1)),
        ]

    def forward(
        self,
        embedding: Tensor,
        points: Tensor,
        labels: Tensor,
        mask_input: Tensor,
        has_mask_input: Tensor,
        *high_res_features: Tensor,
    ) -> tuple[Tensor, ...]:
        prompt = Prompt(points, labels, mask_input=mask_input, has_mask_input=has_mask_input, ragged=True)
        sparse, dense, token_mask = self.prompt_encoder(prompt)
        position = self.prompt_encoder.position((embedding.shape[-2], embedding.shape[-1]))
        out = self.decoder(embedding, position, sparse, dense, high_res_features, token_mask)
        return out.masks, out.iou, self.object_pointer(out.tokens), out.object_score


class MemoryAttention(Graph):
    """An image and each object's past, in a bank of fixed size whose empty places are masked, to conditioned images.

    The codes of slots and ages are added here, so the bank holds what the memory encoder and the decoder gave.
    """

    def __init__(self, model: Sam2, sizes: Sizes) -> None:
        super().__init__()
        self.attention, self.readout = model.memory_attention, model.memory_readout
        self.grid, dim = _grid(model), _dim(model)
        self.dim, self.memory_dim = dim, model.memory_readout.memory_dim
        height, width = self.grid
        slots, object_pointers = sizes.slots, sizes.object_pointers
        self.inputs = [
            Port("embedding", "float32", (1, dim, height, width)),
            Port("memories", "float32", ("objects", slots, height * width, self.memory_dim)),
            Port("slots", "int64", ("objects", slots)),
            Port("memory_mask", "bool", ("objects", slots)),
            Port("object_pointers", "float32", ("objects", object_pointers, dim)),
            Port("ages", "float32", ("objects", object_pointers)),
            Port("object_pointer_mask", "bool", ("objects", object_pointers)),
        ]
        self.outputs = [Port("conditioned", "float32", ("objects", dim, height, width))]

    def forward(
        self,
        embedding: Tensor,
        memories: Tensor,
        slots: Tensor,
        memory_mask: Tensor,
        object_pointers: Tensor,
        ages: Tensor,
        object_pointer_mask: Tensor,
    ) -> Tensor:
        readout, cells = self.readout, self.grid[0] * self.grid[1]
        codes = readout.slot_embed[:, 0, 0][slots]  # (B, S, Cm)
        place = sine_tokens(self.grid, self.memory_dim, memories.dtype, memories.device)
        blocks = [
            TokenBlock(memories[:, slot], place + codes[:, slot, None], self.grid) for slot in range(memories.shape[1])
        ]
        pieces = self.dim // self.memory_dim
        tokens = object_pointers.unflatten(2, (pieces, self.memory_dim)).flatten(1, 2)
        position = torch.zeros_like(tokens)
        if readout.pointer_time is not None:
            code = readout.pointer_time(sine_time(ages.flatten(), self.dim)).view(-1, ages.shape[1], self.memory_dim)
            position = code.repeat_interleave(pieces, dim=1)
        blocks.append(TokenBlock(tokens, position, None))
        mask = torch.cat(
            [
                memory_mask.unsqueeze(2).expand(-1, -1, cells).flatten(1),
                object_pointer_mask.unsqueeze(2).expand(-1, -1, pieces).flatten(1),
            ],
            dim=1,
        )
        image_at = sine_grid(self.grid, self.dim, embedding.device)
        return self.attention(embedding, image_at, blocks, mask)


class MemoryEncoder(Graph):
    """What an answer leaves behind: the raw image features and each object's mask to memory tokens."""

    def __init__(self, model: Sam2) -> None:
        super().__init__()
        self.encoder, self.image_size = model.memory_encoder, model.image_size
        (height, width), dim = _grid(model), _dim(model)
        mask_input = model.prompt_encoder.mask_input_size
        self.inputs = [
            Port("embedding", "float32", (1, dim, height, width)),
            Port("logits", "float32", ("objects", 1, *mask_input)),
            Port("object_score", "float32", ("objects", 1)),
            Port("hard", "bool", ("objects",)),
        ]
        self.outputs = [Port("memory", "float32", ("objects", height * width, model.memory_readout.memory_dim))]

    def forward(self, embedding: Tensor, logits: Tensor, object_score: Tensor, hard: Tensor) -> Tensor:
        full = resize(logits, self.image_size)
        mask = torch.where(hard.view(-1, 1, 1, 1), (full > 0).float(), full.sigmoid())
        return self.encoder(embedding, mask, object_score)[0].tokens


def graphs(model: Sam2, sizes: Sizes) -> dict[str, Graph]:
    """A model's four graphs. Raises ValueError for one whose parts these graphs cannot stand for."""
    if model.dtype != torch.float32:
        raise ValueError(f"graphs are exported in float32, the model is {model.dtype}")
    if model.image_only:
        raise ValueError("these weights hold no memory parts, so two of the four graphs could not be written")
    _check_memories(model)
    encoder = ImageEncoder(model)
    return {
        "image_encoder": encoder,
        "mask_decoder": MaskDecoder(model, sizes, [port for port in encoder.outputs if "skip" in port.name]),
        "memory_attention": MemoryAttention(model, sizes),
        "memory_encoder": MemoryEncoder(model),
    }


@torch.no_grad()
def _check_memories(model: Sam2) -> None:
    """Raise ValueError unless a frame's memory is one map of tokens on the image's grid."""
    (height, width), dim = _grid(model), _dim(model)
    mask = torch.zeros(1, 1, *model.image_size)
    blocks = model.memory_encoder(torch.zeros(1, dim, height, width), mask, torch.ones(1, 1))
    if len(blocks) != 1 or blocks[0].grid != (height, width):
        kinds = ", ".join(str(block.grid or "latents") for block in blocks)
        raise ValueError(
            f"a frame's memory must be one {height} x {width} map to be exported; "
            f"{type(model.memory_encoder).__name__} gives {kinds}"
        )


def _grid(model: Sam2) -> tuple[int, int]:
    return model.image_size[0] // STRIDE, model.image_size[1] // STRIDE


def _dim(model: Sam2) -> int:
    return model.memory_readout.dim


def _on_meta(decoder: nn.Module, maps: Sequence[Tensor], pixels: Tensor) -> list[torch.Size]:
    """The shapes of what a decoder keeps of an image, without computing it."""
    state = {name: tensor.to("meta") for name, tensor in decoder.state_dict().items()}
    project = _Skips(decoder)
    renamed = {f"decoder.{name}": tensor for name, tensor in state.items()}
    found = torch.func.functional_call(project, renamed, (maps, pixels))
    return [level.shape for level in found]


class _Skips(nn.Module):
    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, maps: Sequence[Tensor], pixels: Tensor) -> tuple[Tensor, ...]:
        return finer_features(self.decoder, maps, pixels)
