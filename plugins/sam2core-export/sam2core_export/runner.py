"""Exported graphs behind the verbs of `Sam2`: image and video predictors run on them unchanged."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch._inductor
import torch.nn.functional as F
from torch import Tensor, nn

from registry.plugins import current
from sam2core.checkpoints.files import sha256
from sam2core.heads.select import Stability
from sam2core.memory.policy import MemoryPolicy
from sam2core.memory.readout import check_slots, memory_shape
from sam2core.model import STRIDE, Sam2
from sam2core.older import WORDS, renamed
from sam2core.ops.cpu.decoding import ModelInCalls
from sam2core.ops.position import sine_grid, sine_tokens
from sam2core.types import (
    DecoderOutput,
    FrameMemory,
    ImageFeatures,
    MaskPrediction,
    Multimask,
    Prompt,
    Recall,
    TokenBlock,
)
from sam2core_export.write import DESCRIPTION, VERSION

Runner = Callable[[Sequence[Tensor]], list[Tensor]]


def load(
    folder: str | os.PathLike[str], *, threads: int | None = None, providers: Sequence[str] | None = None
) -> GraphSam2:
    """A model that runs on the graphs in a folder, for `ImagePredictor`, `VideoPredictor` and `MaskGenerator`.

    `threads` and `providers` go to ONNX Runtime (None: all cores; its CPU provider). Raises ValueError when the folder
    holds no exported model, one of another version, or a file that is not the one that was written with the others.
    """
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise ValueError(f"there is no {DESCRIPTION} in {str(folder)!r}: it holds no exported model")
    about = renamed(json.loads(path.read_text(encoding="utf-8")))
    if about.get("sam2core") != VERSION:
        raise ValueError(f"{str(path)!r} is of version {about.get('sam2core')}; this runner reads version {VERSION}")
    runners: dict[str, Runner] = {}
    for name, entry in about["graphs"].items():
        file = path.parent / entry["file"]
        if "sha256" in entry and sha256(file) != entry["sha256"]:  # older packages have none
            raise ValueError(
                f"{str(file)!r} is not the file that {DESCRIPTION} was written for: export the model again"
            )
        if about["format"] == "onnx":
            runners[name] = _onnx(file, entry, threads, providers)
        else:
            runners[name] = _torch(_compiled(file) if about["format"] == "aoti" else torch.export.load(file).module())
    return GraphSam2(about, runners).eval()


def predictor(folder: str | os.PathLike[str], task: str = "image", **options: Any) -> Any:
    """The tool for a task over the graphs in a folder; the defaults of its options are those of the exported model.

    `threads` and `providers` are for `load`.
    """
    loading = {name: options.pop(name) for name in ("threads", "providers") if name in options}
    model = load(folder, **loading)
    chosen = {**model.about["predictors"].get(task, {}), **options, "type": task}
    return current().components.make("predictor", chosen, model=model)


def _onnx(file: Path, entry: Mapping[str, Any], threads: int | None, providers: Sequence[str] | None) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file, options, providers=providers or ["CPUExecutionProvider"])
    taken = {value.name for value in session.get_inputs()}  # an input that the graph has no use for is left out of it
    names = [port["name"] for port in entry["inputs"]]

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: value.contiguous().numpy() for name, value in zip(names, inputs, strict=True) if name in taken}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def _compiled(file: Path) -> Callable[..., Any]:
    return torch._inductor.aoti_load_package(str(file))


def _torch(module: Callable[..., Any]) -> Runner:
    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        outputs = module(*(value.contiguous() for value in inputs))  # compiled graphs do not look at strides
        return [outputs] if isinstance(outputs, Tensor) else list(outputs)

    return run


class GraphVerbs(Sam2):
    """`Sam2` whose four costly steps are exported graphs, each run once for all that it is given."""

    def __init__(self, about: Mapping[str, Any], runners: Mapping[str, Runner]) -> None:
        nn.Module.__init__(self)
        self.about = dict(about)
        self.image_size = (about["image_size"][0], about["image_size"][1])
        self.multimask = Multimask(**about["multimask"])
        self.memory_policy = current().components.make("memory_policy", _policy(about))
        self.fixed = None
        self.image_only = False
        stability = about["stability"]
        self.mask_decoder = _Decoder(Stability(**stability) if stability else None)
        self.prompt_encoder = _Prompts((about["mask_input_size"][0], about["mask_input_size"][1]))
        self.object_pointer = _Pointer(about["absent_object_pointer"], about["mask_stem"])
        self._no_memory = torch.tensor(about["no_memory"]).view(1, -1, 1, 1)
        self._grid = (self.image_size[0] // STRIDE, self.image_size[1] // STRIDE)
        self._runners = dict(runners)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    @property
    def head_dtype(self) -> torch.dtype:
        return torch.float32

    def encode(self, pixels: Tensor) -> ImageFeatures:
        """As `Sam2.encode`; images go through the graph one by one and must have the exported size."""
        if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, *self.image_size):
            raise ValueError(f"pixels must be (B, 3, {self.image_size[0]}, {self.image_size[1]}), not {pixels.shape}")
        rows = [self._run("image_encoder", pixels[row : row + 1].float()) for row in range(pixels.shape[0])]
        embedding, *high_res_features = (torch.cat(parts) if len(rows) > 1 else parts[0] for parts in zip(*rows))
        return ImageFeatures(embedding, sine_grid(self._grid, embedding.shape[1]), tuple(high_res_features))

    def condition(self, features: ImageFeatures, recall: Recall | Sequence[Recall] | None) -> Tensor:
        """As `Sam2.condition`. Raises ValueError for a past that does not fit the exported bank."""
        if recall is None:
            return features.embedding + self._no_memory
        recalls = [recall] if isinstance(recall, Recall) else list(recall)
        assert len({memory_shape(one) for one in recalls}) == 1, "recalls of different layouts cannot be stacked"
        rows = [self._bank(one) for one in recalls]
        (conditioned,) = self._run(
            "memory_attention", features.embedding, *(torch.stack(parts) for parts in zip(*rows))
        )
        return conditioned

    def _bank(self, recall: Recall) -> tuple[Tensor, ...]:
        """One object's past, filled up to the exported sizes: memories, slots and their mask, object pointers, ages and
        their mask."""
        about = self.about
        slots, object_pointers = about["slots"], about["object_pointers"]
        check_slots(recall, about["slot_rows"])
        for count, fits, what in (
            (len(recall.slots), slots, "memories"),
            (len(recall.object_pointers), object_pointers, "object pointers"),
        ):
            if count > fits:
                raise ValueError(
                    f"this frame recalls {count} {what} and the exported bank holds {fits}: export with "
                    f"--{'slots' if what == 'memories' else 'object-pointers'} {count}, or prompt fewer frames"
                )
        ports = {
            WORDS.get(port["name"], port["name"]): port["shape"][1:]
            for port in about["graphs"]["memory_attention"]["inputs"]
        }
        memories = torch.zeros(ports["memories"])
        places, memory_mask = torch.zeros(slots, dtype=torch.long), torch.zeros(slots, dtype=torch.bool)
        for index, (slot, memory) in enumerate(recall.slots):
            assert memory.blocks is not None, f"frame {memory.frame} was trimmed but is recalled"
            (block,) = memory.blocks
            if block.key_scale != 1.0:
                raise ValueError("the exported graphs weigh all memories alike; this policy asks for another key_scale")
            memories[index] = block.tokens[0]
            places[index], memory_mask[index] = slot, True
        tokens, ages = torch.zeros(ports["object_pointers"]), torch.zeros(object_pointers)
        said = torch.zeros(object_pointers, dtype=torch.bool)
        for index, (age, memory) in enumerate(recall.object_pointers):
            tokens[index], ages[index], said[index] = memory.object_pointer[0], age / max(recall.horizon, 1), True
        return memories, places, memory_mask, tokens, ages, said

    def decode(self, features: ImageFeatures, embedding: Tensor, prompt: Prompt) -> DecoderOutput:
        """As `Sam2.decode`, but `tokens` are the object pointers already, which `_Pointer` only gates."""
        if features.batch > 1:  # the graph's prompts share one image
            parts = [
                self.decode(features.rows(row), embedding[row], prompt.rows(row))
                for row in (slice(start, start + 1) for start in range(prompt.batch))
            ]
            return DecoderOutput.join(parts)
        batch = prompt.batch
        points, labels = self._points(prompt)
        size = self.prompt_encoder.mask_input_size
        mask_input, has_mask_input = prompt.mask_input, prompt.has_mask_input
        if mask_input is None:
            mask_input, has_mask_input = torch.zeros(batch, 1, *size), torch.zeros(batch, dtype=torch.bool)
        elif mask_input.shape[-2:] != size:
            mask_input = F.interpolate(
                mask_input.float(), size=size, mode="bilinear", align_corners=False, antialias=True
            )
        if has_mask_input is None:
            has_mask_input = torch.ones(batch, dtype=torch.bool)
        maps = embedding.expand(batch, -1, -1, -1)
        outputs = self._run(
            "mask_decoder", maps, points, labels, mask_input.float(), has_mask_input, *features.high_res_features
        )
        masks, iou, object_pointers, object_score = outputs
        return DecoderOutput(masks=masks, iou=iou, tokens=object_pointers, object_score=object_score)

    def _points(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        """Points and labels with ignored ones up to what the graph takes."""
        count = prompt.labels.shape[1]
        fits = self.about["points"]
        if fits is not None and count > fits:
            raise ValueError(f"a prompt of {count} points; the graphs were exported for {fits}: export with --points")
        padded = prompt.padded(1 if fits is None else fits)
        return padded.points.float(), padded.labels.long()

    def memorize(self, features: ImageFeatures, answer: MaskPrediction, *, frame: int, hard: bool) -> FrameMemory:
        """As `Sam2.memorize`."""
        flags = torch.full((answer.logits.shape[0],), hard)
        (tokens,) = self._run(
            "memory_encoder", features.embedding, answer.logits.float(), answer.object_score.float(), flags
        )
        position = sine_tokens(self._grid, tokens.shape[2], tokens.dtype)  # for session files; the graph adds its own
        return FrameMemory(
            frame=frame,
            blocks=(TokenBlock(tokens, position, self._grid),),
            object_pointer=answer.object_pointer,
            logits=answer.logits,
            object_score=answer.object_score,
            iou=answer.iou,
        )

    def check_policy(self, policy: MemoryPolicy) -> None:
        """Any policy may be tried: what it recalls is held against the exported bank when it recalls it."""

    def fingerprint(self) -> dict[str, Any]:
        """That of the model that was exported: one can go on with the other's sessions."""
        return dict(self.about["fingerprint"])

    def _run(self, name: str, *inputs: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self._runners[name](inputs)


class GraphSam2(ModelInCalls, GraphVerbs):
    """A model that runs on exported graphs; what the predictors ask of a model is the same.

    It answers on the CPU side of the graphs and cannot be trained, moved or cast. A past that does not fit the exported
    bank is an error. Many prompts are decoded some at a time, as the model itself does on a CPU.
    """


class _Decoder(nn.Module):
    """What predictors ask of a decoder beside its answers."""

    def __init__(self, stability: Stability | None) -> None:
        super().__init__()
        self.stability = stability


class _Prompts(nn.Module):
    """What predictors ask of a prompt encoder beside its tokens."""

    def __init__(self, mask_input_size: tuple[int, int]) -> None:
        super().__init__()
        self.mask_input_size = mask_input_size


class _Pointer(nn.Module):
    """The object pointer's small rest: graphs give object pointers, absent objects get the learned one."""

    def __init__(self, absent: Sequence[float], stem: Mapping[str, Any]) -> None:
        super().__init__()
        self.absent = torch.tensor([absent])
        self.weight, self.bias = torch.tensor(stem["weight"])[None, None], torch.tensor(stem["bias"])

    def forward(self, object_pointers: Tensor, object_score: Tensor) -> Tensor:
        return self.gate(object_pointers, object_score)

    def gate(self, object_pointers: Tensor, object_score: Tensor) -> Tensor:
        return torch.where((object_score > 0).unsqueeze(-1), object_pointers, self.absent)

    def mask_stem(self, mask: Tensor) -> Tensor:
        """A user's mask (B, 1, H, W) as a mask input (B, 1, h, w)."""
        return F.conv2d(mask, self.weight, self.bias, stride=self.weight.shape[-2:])


def _policy(about: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of the memory policy; packages of an earlier version say ``carry_mask`` beside it."""
    policy = dict(about["memory_policy"])
    return policy | {"type": "carried_mask"} if about.get("carry_mask") and policy["type"] == "recent" else policy
