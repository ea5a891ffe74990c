"""ImagePredictor: encode once, prompt many times; one image or many."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from safetensors import safe_open
from torch import Tensor

from sam2core import older
from sam2core.checkpoints import files
from sam2core.heads.select import candidates
from sam2core.media.images import ImageLike, read_image
from sam2core.model import Sam2
from sam2core.older import check_keywords
from sam2core.ops import masks as mask_ops
from sam2core.predictors.postprocess import Postprocess, clicks_on
from sam2core.predictors.transforms import (
    check_given,
    read_boxes,
    read_mask_input,
    read_points,
    to_model,
    to_model_points,
)
from sam2core.types import MASK_INPUT_LIMIT, DecoderOutput, ImageFeatures, Label, Prompt

PROMPT_KEYS = ("points", "labels", "box", "mask_input", "multimask_output")


@dataclass(frozen=True, eq=False)
class ImageResult:
    """The masks of B objects, M candidates each (M is 1, or 3 when several were asked for)."""

    masks: Tensor  # (B, M, H, W) bool, at the image's size
    iou: Tensor  # (B, M) predicted IoU of each mask
    logits: Tensor  # (B, M, h, w) low-resolution logits; one of them can be the `mask_input` of the next prompt

    @property
    def best(self) -> ImageResult:
        """The candidate with the best predicted IoU of each object: the same result with M = 1."""
        if self.iou.shape[1] == 1:
            return self
        row = torch.arange(self.iou.shape[0], device=self.iou.device)
        index = self.iou.argmax(dim=1)
        return ImageResult(
            masks=self.masks[row, index].unsqueeze(1),
            iou=self.iou[row, index].unsqueeze(1),
            logits=self.logits[row, index].unsqueeze(1),
        )


@dataclass(frozen=True, eq=False)
class _Request:
    """One image's prompts, checked: `batch` objects with the same number of points each."""

    batch: int
    points: Tensor  # (batch, P, 2) in model pixels
    labels: Tensor  # (batch, P)
    mask_input: Tensor | None  # (batch, 1, h, w)
    multimask_output: bool | None


class ImagePredictor:
    """Segments images from points, boxes and masks.

    `encode` runs the image encoder and returns a handle; the handle answers any number of prompts. Nothing is kept on
    the predictor, so any number of threads can share one. Options: `mask_threshold` on the logits (0.0 is even odds);
    `fill_holes` and `drop_islands` clean regions up to so many low-resolution pixels; `keep_largest` keeps one region;
    `keep_clicked` keeps the regions that hold a positive click, however small, where there is one.
    Source: upstream ``SAM2ImagePredictor``, without its hidden state.
    """

    def __init__(
        self,
        model: Sam2,
        *,
        mask_threshold: float = 0.0,
        fill_holes: int = 0,
        drop_islands: int = 0,
        keep_largest: bool = False,
        keep_clicked: bool = False,
    ) -> None:
        self.model = model.eval()
        self.mask_threshold = mask_threshold
        self.keep_clicked = keep_clicked
        self.postprocess = Postprocess(
            fill_holes=fill_holes, drop_islands=drop_islands, keep_largest=keep_largest, threshold=mask_threshold
        )

    @overload
    def encode(self, images: list[Any] | tuple[Any, ...]) -> ImageBatchHandle: ...
    @overload
    def encode(self, images: ImageLike) -> ImageHandle: ...

    @torch.inference_mode()
    def encode(self, images: Any) -> ImageHandle | ImageBatchHandle:
        """Encode an image, or a list of images of any sizes in one call of the encoder.

        An image is a path, a PIL image, an array (H, W, 3 | 1 | 4) or (H, W), or a tensor (3 | 1 | 4, H, W); values are
        uint8, uint16 or floating in [0, 1]. Raises ValueError for anything else.
        """
        if not isinstance(images, list | tuple):
            features, sizes = self._encode([images])
            return ImageHandle(self, features, sizes[0])
        if not images:
            raise ValueError("there is no image to encode: the list is empty")
        features, sizes = self._encode(images)
        return ImageBatchHandle(self, features, sizes)

    def _encode(self, images: Sequence[ImageLike]) -> tuple[ImageFeatures, list[tuple[int, int]]]:
        values = [read_image(image) for image in images]
        pixels = [to_model(value.to(self.model.device), self.model.image_size) for value in values]
        features = self.model.encode(torch.cat(pixels))
        conditioned = self.model.condition(features, None)
        kept = ImageFeatures(
            embedding=_ordinary(conditioned),
            position=_ordinary(features.position),
            high_res_features=tuple(_ordinary(level) for level in features.high_res_features),
        )
        return kept, [(value.shape[1], value.shape[2]) for value in values]

    def load(self, path: str | os.PathLike[str]) -> ImageHandle | ImageBatchHandle:
        """A handle that was saved before; the tensors are mapped from the file.

        Raises ValueError when the file is no saved handle or comes from another model.
        """
        with safe_open(str(path), framework="pt", device=str(self.model.device)) as file:
            metadata = file.metadata() or {}
            if "sam2core.handle" not in metadata:
                raise ValueError(f"{str(path)!r} is not a saved image handle")
            about = older.session(older.renamed(json.loads(metadata["sam2core.handle"])))
            if about["model"] != (mine := self.model.fingerprint()):
                raise ValueError(f"{str(path)!r} was encoded by another model: {about['model']}, this one is {mine}")
            features = ImageFeatures(
                embedding=file.get_tensor("embedding"),
                position=file.get_tensor("position"),
                # older files say "skip"
                high_res_features=tuple(
                    file.get_tensor(name) for name in sorted(file.keys()) if name.startswith(("high_res.", "skip."))
                ),
            )
        sizes = [(height, width) for height, width in about["sizes"]]
        if about["batch"]:
            return ImageBatchHandle(self, features, sizes)
        return ImageHandle(self, features, sizes[0])

    def _save(
        self, path: str | os.PathLike[str], features: ImageFeatures, sizes: Sequence[tuple[int, int]], *, batch: bool
    ) -> None:
        tensors = {"embedding": features.embedding, "position": features.position}
        tensors |= {f"high_res.{index}": level for index, level in enumerate(features.high_res_features)}
        about = {"model": self.model.fingerprint(), "sizes": list(sizes), "batch": batch}
        own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        files.save_tensors(path, own, {"sam2core.handle": json.dumps(about)}, force=True)

    def _request(
        self,
        size: tuple[int, int],
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        multimask_output: bool | None = None,
    ) -> _Request:
        """Check one image's prompts and bring them to model pixels."""
        check_given(points, labels, box, mask_input)
        parts: dict[str, tuple[Tensor, Tensor]] = {}
        if box is not None:  # a box goes before the points
            parts["box"] = read_boxes(box, size)
        if points is not None:
            parts["points"] = read_points(points, labels, size)
        if mask_input is not None:
            mask_input = read_mask_input(mask_input, self.model.prompt_encoder.mask_input_size)
        batches = {name: xy.shape[0] for name, (xy, _) in parts.items()}
        if mask_input is not None:
            batches["mask_input"] = mask_input.shape[0]
        if len(set(batches.values())) > 1:
            told = ", ".join(f"{name} for {count}" for name, count in batches.items())
            raise ValueError(f"all parts of a prompt must be for the same number of objects; got {told}")
        batch = next(iter(batches.values()))
        if parts:
            xy = torch.cat([xy for xy, _ in parts.values()], dim=1)
            marks = torch.cat([marks for _, marks in parts.values()], dim=1)
        else:
            xy, marks = torch.zeros(batch, 0, 2), torch.zeros(batch, 0, dtype=torch.int32)
        return _Request(batch, to_model_points(xy, size, self.model.image_size), marks, mask_input, multimask_output)

    def _answer(
        self,
        features: ImageFeatures,
        sizes: Sequence[tuple[int, int]],
        requests: Sequence[_Request | None],
    ) -> list[ImageResult]:
        """Answer the requests of each image in one decoder call; None, or no object, gets no masks."""
        model = self.model
        asked = [(index, request) for index, request in enumerate(requests) if request and request.batch]
        answers: dict[int, ImageResult] = {}
        if asked:
            output = self._decode(features, asked)
            start = 0
            for index, request in asked:
                rows = slice(start, start + request.batch)
                start += request.batch
                part = DecoderOutput(
                    output.masks[rows], output.iou[rows], output.tokens[rows], output.object_score[rows]
                )
                answers[index] = self._result(part, request, sizes[index])
        for index, wanted in enumerate(requests):
            if index not in answers:
                shape = 0, 3 if wanted and wanted.multimask_output else 1
                with torch.inference_mode(False):
                    answers[index] = ImageResult(
                        masks=torch.zeros(*shape, *sizes[index], dtype=torch.bool, device=model.device),
                        iou=torch.zeros(*shape, device=model.device),
                        logits=torch.zeros(*shape, *model.prompt_encoder.mask_input_size, device=model.device),
                    )
        return [answers[index] for index in range(len(requests))]

    def _decode(self, features: ImageFeatures, asked: Sequence[tuple[int, _Request]]) -> DecoderOutput:
        """One decoder call for all rows of all images; shorter rows are filled up with ignored points."""
        device = self.model.device
        width = max(request.points.shape[1] for _, request in asked)
        points, labels = [], []
        for _, request in asked:
            missing = width - request.points.shape[1]
            points.append(torch.cat([request.points, request.points.new_zeros(request.batch, missing, 2)], dim=1))
            filler = request.labels.new_full((request.batch, missing), int(Label.IGNORED))
            labels.append(torch.cat([request.labels, filler], dim=1))
        marks = torch.cat(labels)
        mask_inputs = [request.mask_input for _, request in asked]
        mask_input = has_mask_input = None
        if any(one is not None for one in mask_inputs):
            size = self.model.prompt_encoder.mask_input_size
            filled = [
                torch.zeros(request.batch, 1, *size) if request.mask_input is None else request.mask_input.cpu()
                for _, request in asked
            ]
            mask_input = torch.cat(filled).to(device)
            if any(one is None for one in mask_inputs):
                flags = [request.mask_input is not None for _, request in asked for _ in range(request.batch)]
                has_mask_input = torch.tensor(flags, device=device)
        prompt = Prompt(
            points=torch.cat(points).to(device),
            labels=marks.to(device),
            mask_input=mask_input,
            has_mask_input=has_mask_input,
            ragged=bool((marks == Label.IGNORED).any()),
        )
        if features.batch > 1:
            rows = [index for index, request in asked for _ in range(request.batch)]
            features = features.rows(torch.tensor(rows, device=device))
        return self.model.decode(features, features.embedding, prompt)

    def _result(self, output: DecoderOutput, request: _Request, size: tuple[int, int]) -> ImageResult:
        stability = self.model.mask_decoder.stability
        if request.multimask_output is None:
            logits, iou = self._by_rule(output, request)
        else:
            logits, iou, _ = candidates(output, multimask_output=request.multimask_output, stability=stability)
        mask_ops.refuse_nan(iou, logits)
        clicks = None
        if self.keep_clicked:
            clicks = clicks_on(logits, request.points, request.labels, image_size=self.model.image_size)
        clean = self.postprocess(logits.float(), clicks)
        with torch.inference_mode(False), torch.no_grad():  # to be edited, and to be learned from
            return ImageResult(
                masks=mask_ops.resize(clean, size) > self.mask_threshold,
                iou=iou.to(torch.float32, copy=True),
                logits=logits.float().clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT),
            )

    def _by_rule(self, output: DecoderOutput, request: _Request) -> tuple[Tensor, Tensor]:
        """One mask per object by the model's own rule: the best of three for a lone click, else the single mask."""
        counts = (request.labels != Label.IGNORED).sum(dim=1).tolist()
        ambiguous = torch.tensor([self.model.multimask.applies(count, tracking=False) for count in counts])
        ambiguous = ambiguous.to(output.iou.device)
        logits, iou, _ = candidates(output, multimask_output=False, stability=self.model.mask_decoder.stability)
        row = torch.arange(iou.shape[0], device=iou.device)
        best = output.iou[:, 1:].argmax(dim=1) + 1
        return (
            torch.where(ambiguous.view(-1, 1, 1, 1), output.masks[row, best].unsqueeze(1), logits),
            torch.where(ambiguous.view(-1, 1), output.iou[row, best].unsqueeze(1), iou),
        )


def _ordinary(tensor: Tensor) -> Tensor:
    """A copy that autograd accepts where it was made in inference mode."""
    with torch.inference_mode(False), torch.no_grad():
        return tensor.clone() if tensor.is_inference() else tensor


class ImageHandle:
    """One encoded image; answers any number of prompts, from any number of threads."""

    def __init__(self, predictor: ImagePredictor, features: ImageFeatures, size: tuple[int, int]) -> None:
        self.predictor = predictor
        self.features = features
        self.size = size
        """The image's (H, W), in whose pixels prompts are given and masks returned."""

    @torch.inference_mode()
    def predict(
        self,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        *,
        multimask_output: bool | None = None,
        **unknown: Any,
    ) -> ImageResult:
        """The masks that the prompt asks for, for one object or for B objects at once.

        `points` x, y in the image's pixels, (N, 2) or (B, N, 2); `labels` (N,) or (B, N): 1 on the object (default),
        0 off it, -1 no point (fills up a row); `box` x0, y0, x1, y1, (4,) or (B, 4); `mask_input` the low-resolution
        logits of an earlier answer, (h, w) or (B, h, w). Points, box and mask input of one object can be combined.

        `multimask_output`: True gives three candidates per object, False the single mask; None, the default, gives one
        mask by the model's own rule: the best of three for a lone click, which is ambiguous, and the single mask for
        everything else. Raises ValueError for wrong shapes, labels and places.
        """
        check_keywords("predict", unknown, PROMPT_KEYS)
        request = self.predictor._request(self.size, points, labels, box, mask_input, multimask_output)
        return self.predictor._answer(self.features, [self.size], [request])[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the encoded image to a safetensors file that `ImagePredictor.load` reads."""
        self.predictor._save(path, self.features, [self.size], batch=False)


class ImageBatchHandle:
    """Several encoded images; `handle[i]` is the handle of one."""

    def __init__(self, predictor: ImagePredictor, features: ImageFeatures, sizes: Sequence[tuple[int, int]]) -> None:
        self.predictor = predictor
        self.features = features
        self.sizes = list(sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> ImageHandle:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        one = ImageFeatures(
            embedding=self.features.embedding[index : index + 1],
            position=self.features.position,
            high_res_features=tuple(level[index : index + 1] for level in self.features.high_res_features),
        )
        return ImageHandle(self.predictor, one, self.sizes[index])

    @torch.inference_mode()
    def predict(self, prompts: Sequence[Mapping[str, Any] | None]) -> list[ImageResult]:
        """One result per image, from one decoder call; a prompt holds the arguments of `ImageHandle.predict`.

        Images may have different numbers of objects and points; None or an empty prompt gets a result without masks.
        Raises ValueError when the prompts do not fit the images, naming the image.
        """
        if isinstance(prompts, Mapping) or len(prompts) != len(self):
            count = "one prompt" if isinstance(prompts, Mapping) else f"{len(prompts)} prompts"
            raise ValueError(f"there are {len(self)} images and {count}; give a list of one prompt (or None) per image")
        requests: list[_Request | None] = []
        for index, prompt in enumerate(prompts):
            if not prompt:
                requests.append(None)
                continue
            check_keywords(f"image {index}: a prompt", [key for key in prompt if key not in PROMPT_KEYS], PROMPT_KEYS)
            try:
                requests.append(self.predictor._request(self.sizes[index], **prompt))
            except ValueError as error:
                raise ValueError(f"image {index}: {error}") from error
        return self.predictor._answer(self.features, self.sizes, requests)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the encoded images to a safetensors file that `ImagePredictor.load` reads."""
        self.predictor._save(path, self.features, self.sizes, batch=True)
