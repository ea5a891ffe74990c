"""ImagePredictor: encode once, prompt many times; one image or many."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from sam2core import older
from sam2core.checkpoints import files
from sam2core.heads.select import candidates
from sam2core.media.images import ImageLike, at_hand
from sam2core.model import Sam2
from sam2core.older import check_keywords, takes_our_words
from sam2core.ops import masks as mask_ops
from sam2core.predictors.image_memory import ImageMemory
from sam2core.predictors.object_masks import TOLD, ObjectMasks, Picture, named, row_called
from sam2core.predictors.postprocess import Cleaning, Clicks
from sam2core.predictors.transforms import (
    check_given,
    pixels_of,
    read_boxes,
    read_mask_input,
    read_points,
    to_model,
    to_model_points,
)
from sam2core.types import MASK_INPUT_LIMIT, DecoderOutput, ImageFeatures, Label, Prompt

if TYPE_CHECKING:
    from typing_extensions import Self

PROMPT_KEYS = ("points", "labels", "box", "mask_input", "multimask_output")


@dataclass(frozen=True, eq=False, repr=False)
class ImageResult(ObjectMasks):
    """The masks of B objects, M candidates each (M is 1, or 3 when several were asked for).

    Candidates stand in the order of the model's mask tokens, as Meta's code has them, which is no ranking: `ranked` has
    the highest `iou` first, and `best` that one alone. What is said of an object is said of its best candidate.
    """

    cleaned: Tensor  # (B, M, h, w) low-resolution logits after the predictor's options; `masks` are made of them
    iou: Tensor  # (B, M) predicted IoU of each mask
    logits: Tensor  # (B, M, h, w) low-resolution logits; one of them can be the `mask_input` of the next prompt
    size: tuple[int, int]
    threshold: float = 0.0
    """The logit above which a pixel is inside."""
    picture: Picture = None

    @cached_property
    def masks(self) -> Tensor:
        """(B, M, H, W) bool, at the image's size; made when first asked for."""
        with torch.inference_mode(False), torch.no_grad():
            return self._enlarged(self.cleaned)

    @property
    def best(self) -> ImageResult:
        """The candidate with the best predicted IoU of each object: the same result with M = 1."""
        if self.iou.shape[1] == 1:
            return self
        row = torch.arange(self.iou.shape[0], device=self.iou.device)
        index = self.iou.argmax(dim=1)
        return self._with(lambda tensor: tensor[row, index].unsqueeze(1))

    @property
    def ranked(self) -> ImageResult:
        """The same result, of each object the candidate with the highest `iou` first, as the command line has them."""
        rank = self.iou.argsort(dim=1, descending=True, stable=True)
        row = torch.arange(self.iou.shape[0], device=self.iou.device).unsqueeze(1)
        return self._with(lambda tensor: tensor[row, rank])

    @property
    def objects(self) -> tuple[Hashable, ...]:
        return tuple(range(self.iou.shape[0]))

    @property
    def scores(self) -> np.ndarray:
        return self.best.iou[:, 0].cpu().numpy()

    def each(self) -> Iterator[np.ndarray]:
        best = self.best
        if "masks" in self.__dict__:
            yield from best.masks[:, 0].cpu().numpy()
            return
        for row in range(len(self)):
            with torch.inference_mode(False), torch.no_grad():
                mask = self._enlarged(best.cleaned[row : row + 1])[0, 0]
            yield mask.cpu().numpy()

    def cpu(self) -> Self:
        return self._with(lambda tensor: tensor.cpu())

    def _rows(self, rows: list[int]) -> Self:
        return self._with(lambda tensor: tensor[rows])

    def _enlarged(self, logits: Tensor) -> Tensor:
        return mask_ops.resize(logits, self.size) > self.threshold

    def _with(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same result with its tensors changed, those among them that were made from others already."""
        with torch.inference_mode(False), torch.no_grad():
            other = replace(self, cleaned=change(self.cleaned), iou=change(self.iou), logits=change(self.logits))
            if "masks" in self.__dict__:
                other.__dict__["masks"] = change(self.masks)
        return other

    def _where(self) -> str:
        return "" if self.iou.shape[1] == 1 else f" of {self.iou.shape[1]} candidates each"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RememberedResult(ImageResult):
    """Where remembered objects are on an image: a mask each, and whether they are there at all.

    Objects are called as `ImagePredictor.remember` was told: ``result["cup"]`` is the result of one.
    """

    object_ids: tuple[Hashable, ...]
    object_score: Tensor  # (K,) > 0: the object is in the image; the masks of the others are empty

    @property
    def objects(self) -> tuple[Hashable, ...]:
        return self.object_ids

    @property
    def visible(self) -> np.ndarray:
        """Which objects the model holds to be in the image, (K,) bool: ``result[result.visible]`` has those alone."""
        return (self.object_score > 0).cpu().numpy()

    def cpu(self) -> Self:
        return replace(super().cpu(), object_score=self.object_score.cpu())

    def _rows(self, rows: list[int]) -> Self:
        ids = tuple(self.object_ids[row] for row in rows)
        return replace(super()._rows(rows), object_ids=ids, object_score=self.object_score[rows])

    def _row(self, key: Any) -> int:
        return row_called(key, self.objects)

    def _names(self, names: Any) -> list[str]:
        return super()._names(True if names is None and len(self) > 1 else names)

    def _columns(self) -> dict[str, Any]:
        return {"object_score": self.object_score.cpu().numpy()}


@dataclass(frozen=True, eq=False)
class _Request:
    """One image's prompts, checked, in model pixels, and how they are to be answered."""

    prompt: Prompt
    multimask_output: bool | None


class ImagePredictor:
    """Segments images from points, boxes and masks.

    `encode` runs the image encoder and returns a handle; the handle answers any number of prompts. Nothing is kept on
    the predictor but what it is told to `remember`, so any number of threads can share one. Options: `mask_threshold`
    on the logits (0.0 is even odds); `cleaning` holds steps of `Cleaning`, such as ``{"fill_holes": 32}``; without them
    masks stay as they come.
    Source: Meta's ``SAM2ImagePredictor``, without its hidden state.
    """

    @takes_our_words
    def __init__(
        self,
        model: Sam2,
        *,
        mask_threshold: float = 0.0,
        cleaning: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model.eval()
        self.mask_threshold = mask_threshold
        self.cleaning = Cleaning(threshold=mask_threshold).edited(cleaning)
        self.memory = ImageMemory.of(self.model)
        """What was remembered: a value, which `remember` and `forget` replace."""

    def __repr__(self) -> str:
        return f"<ImagePredictor of {named(self.model)}>"

    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...], prompts: Any = None) -> list[ImageResult]: ...
    @overload
    def __call__(self, images: ImageLike, points: Any = None, **prompt: Any) -> ImageResult: ...

    def __call__(self, images: Any, *prompts: Any, **prompt: Any) -> Any:
        """`encode` an image, or a list of them, and `predict`, whose arguments follow the images."""
        return self.encode(images).predict(*prompts, **prompt)

    @takes_our_words
    def remember(
        self, image: ImageLike | ImageHandle, masks: Any, *, object_ids: Sequence[Hashable] | None = None
    ) -> None:
        """Remember objects on a labelled image, to find them on others: `predict` without a prompt does.

        `masks` are booleans or integers, of which 0 is off the object, at the image's size: (H, W) for one object or
        (K, H, W); or an earlier result, whose best candidates are taken. `object_ids` says what they are called (a
        result's own, or numbers from 0): a name that is known already is the same object, seen once more. Raises
        ValueError, and remembers nothing, for wrong shapes, an empty mask, and weights that have no memory.
        """
        handle = image if isinstance(image, ImageHandle) else self.encode(image)
        self.memory = self.memory.remember(handle.unconditioned(), handle.size, masks, object_ids)

    def forget(self) -> None:
        """Forget all that was remembered."""
        self.memory = ImageMemory.of(self.model)

    def load_memory(self, path: str | os.PathLike[str]) -> None:
        """Remember what a memory holds that ``predictor.memory.save(path)`` wrote, in place of what was remembered.

        Raises ValueError for a file that holds none, or one of another model.
        """
        self.memory = self.memory.load(path)

    @overload
    def encode(self, images: list[Any] | tuple[Any, ...]) -> ImageBatchHandle: ...
    @overload
    def encode(self, images: ImageLike) -> ImageHandle: ...

    @takes_our_words
    @torch.inference_mode()
    def encode(self, images: Any) -> ImageHandle | ImageBatchHandle:
        """Encode an image, or a list of images of any sizes in one call of the encoder.

        An image is a path, an address (http, https), a PIL image, an array (H, W, 3 | 1 | 4) or (H, W), or a tensor
        (3 | 1 | 4, H, W); values are uint8, uint16 or floating in [0, 1]. Handles and results hold it as it was given,
        to be drawn on. Raises ValueError for anything else.
        """
        if not isinstance(images, list | tuple):
            image = at_hand(images)
            embedding, features, sizes = self._encode([image])
            return ImageHandle(self, features, sizes[0], image, embedding)
        if not images:
            raise ValueError("there is no image to encode: the list is empty")
        pictures = [at_hand(image) for image in images]
        embedding, features, sizes = self._encode(pictures)
        return ImageBatchHandle(self, features, sizes, pictures, embedding)

    def _encode(self, images: Sequence[ImageLike]) -> tuple[Tensor, ImageFeatures, list[tuple[int, int]]]:
        """The embedding as it was encoded, what prompts are asked of, and the sizes."""
        values = [pixels_of(image, self.model.device) for image in images]
        pixels = [to_model(value, self.model.image_size) for value in values]
        features = self.model.encode(torch.cat(pixels))
        conditioned = self.model.condition(features, None)
        kept = ImageFeatures(
            embedding=_ordinary(conditioned),
            position=_ordinary(features.position),
            high_res_features=tuple(_ordinary(level) for level in features.high_res_features),
        )
        return _ordinary(features.embedding), kept, [(value.shape[1], value.shape[2]) for value in values]

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
            # files of before have the embedding as it was conditioned, and nothing to remember it by
            encoded = file.get_tensor("encoded") if "encoded" in file.keys() else None
            features = ImageFeatures(
                embedding=file.get_tensor("embedding") if encoded is None else encoded,
                position=file.get_tensor("position"),
                # older files say "skip"
                high_res_features=tuple(
                    file.get_tensor(name) for name in sorted(file.keys()) if name.startswith(("high_res.", "skip."))
                ),
            )
        if encoded is not None:
            with torch.no_grad():
                features = replace(features, embedding=self.model.condition(features, None))
        sizes = [(height, width) for height, width in about["sizes"]]
        if about["batch"]:
            return ImageBatchHandle(self, features, sizes, encoded=encoded)
        return ImageHandle(self, features, sizes[0], encoded=encoded)

    def _save(self, path: str | os.PathLike[str], handle: ImageHandle | ImageBatchHandle) -> None:
        batch = isinstance(handle, ImageBatchHandle)
        features, sizes = handle.features, handle.sizes if isinstance(handle, ImageBatchHandle) else [handle.size]
        embedding = {"embedding": features.embedding} if handle.encoded is None else {"encoded": handle.encoded}
        tensors = {**embedding, "position": features.position}
        tensors |= {f"high_res.{index}": level for index, level in enumerate(features.high_res_features)}
        about = {"model": self.model.fingerprint(), "sizes": list(sizes), "batch": batch}
        own = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        files.save_tensors(path, own, {"sam2core.handle": json.dumps(about)}, force=True)

    def _find(self, handle: ImageHandle) -> RememberedResult:
        """The remembered objects on an image."""
        logits, iou, object_score = self.memory.find(handle.unconditioned())
        clean = self.cleaning(logits.unsqueeze(1))
        with torch.inference_mode(False), torch.no_grad():
            return RememberedResult(
                object_ids=tuple(self.memory.tracks),
                cleaned=clean.clone(),
                iou=iou.unsqueeze(1).clone(),
                object_score=object_score.clone(),
                logits=logits.unsqueeze(1).clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT),
                size=handle.size,
                threshold=self.mask_threshold,
                picture=handle.picture,
            )

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
        prompt = Prompt(
            points=to_model_points(xy, size, self.model.image_size),
            labels=marks,
            mask_input=None if mask_input is None else mask_input.cpu(),
            ragged=bool((marks == Label.IGNORED).any()),
        )
        return _Request(prompt, multimask_output)

    def _answer(
        self,
        features: ImageFeatures,
        sizes: Sequence[tuple[int, int]],
        requests: Sequence[_Request | None],
        pictures: Sequence[Picture],
    ) -> list[ImageResult]:
        """Answer the requests of each image in one decoder call; None, or no object, gets no masks."""
        model = self.model
        asked = [(index, request) for index, request in enumerate(requests) if request and request.prompt.batch]
        answers: dict[int, ImageResult] = {}
        if asked:
            output = self._decode(features, asked)
            start = 0
            for index, request in asked:
                rows = slice(start, start + request.prompt.batch)
                start += request.prompt.batch
                answers[index] = self._result(output.rows(rows), request, sizes[index], pictures[index])
        for index, wanted in enumerate(requests):
            if index not in answers:
                shape = 0, 3 if wanted and wanted.multimask_output else 1
                with torch.inference_mode(False):
                    logits = torch.zeros(*shape, *model.prompt_encoder.mask_input_size, device=model.device)
                    answers[index] = ImageResult(
                        cleaned=logits,
                        iou=torch.zeros(*shape, device=model.device),
                        logits=logits,
                        size=sizes[index],
                        threshold=self.mask_threshold,
                        picture=pictures[index],
                    )
        return [answers[index] for index in range(len(requests))]

    def _decode(self, features: ImageFeatures, asked: Sequence[tuple[int, _Request]]) -> DecoderOutput:
        """One decoder call for all rows of all images; shorter rows are filled up with ignored points."""
        if features.batch > 1:
            rows = [index for index, request in asked for _ in range(request.prompt.batch)]
            features = features.rows(torch.tensor(rows, device=self.model.device))
        prompt = Prompt.join([request.prompt for _, request in asked]).to(self.model.device)
        return self.model.decode(features, features.embedding, prompt)

    def _result(self, output: DecoderOutput, request: _Request, size: tuple[int, int], picture: Picture) -> ImageResult:
        stability = self.model.mask_decoder.stability
        if request.multimask_output is None:
            logits, iou = self._by_rule(output, request)
        else:
            logits, iou, _ = candidates(output, multimask_output=request.multimask_output, stability=stability)
        mask_ops.refuse_nan(iou, logits)
        clicks = Clicks(request.prompt.points, request.prompt.labels, self.model.image_size)
        clean = self.cleaning(logits.float(), clicks)
        with torch.inference_mode(False), torch.no_grad():  # to be edited, and to be learned from
            return ImageResult(
                cleaned=clean,
                iou=iou.to(torch.float32, copy=True),
                logits=logits.float().clamp(-MASK_INPUT_LIMIT, MASK_INPUT_LIMIT),
                size=size,
                threshold=self.mask_threshold,
                picture=picture,
            )

    def _by_rule(self, output: DecoderOutput, request: _Request) -> tuple[Tensor, Tensor]:
        """One mask per object by the model's own rule: the best of three for a lone click, else the single mask."""
        counts = (request.prompt.labels != Label.IGNORED).sum(dim=1).tolist()
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

    def __init__(
        self,
        predictor: ImagePredictor,
        features: ImageFeatures,
        size: tuple[int, int],
        picture: Picture = None,
        encoded: Tensor | None = None,
    ) -> None:
        self.predictor = predictor
        self.features = features
        """What prompts are asked of: the image, conditioned on an empty past."""
        self.size = size
        """The image's (H, W), in whose pixels prompts are given and masks returned."""
        self.picture = picture
        """The image as it was given; None where it is not known, as of a handle that was saved."""
        self.encoded = encoded
        """The embedding as it was encoded, before it was conditioned; None where it is not known."""

    def __repr__(self) -> str:
        return f"<ImageHandle: {self.size[1]}x{self.size[0]} pixels, encoded by {named(self.predictor.model)}>"

    @takes_our_words
    @torch.inference_mode()
    def predict(
        self,
        points: Any = None,
        labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        *,
        multimask_output: bool | None = None,
    ) -> ImageResult:
        """The masks that the prompt asks for, for one object or for B objects at once.

        `points` x, y in the image's pixels, (N, 2) or (B, N, 2); `labels` (N,) or (B, N): 1 on the object (default),
        0 off it, -1 no point (fills up a row); `box` x0, y0, x1, y1, (4,) or (B, 4); `mask_input` the low-resolution
        logits of an earlier answer, (h, w) or (B, h, w). Points, box and mask input of one object can be combined.

        `multimask_output`: True gives three candidates per object, in the model's order (`ImageResult.best` takes the
        one with the highest estimate), False the single mask; None, the default, gives one
        mask by the model's own rule: the best of three for a lone click, which is ambiguous, and the single mask for
        everything else. Without a prompt the answer is where the objects are that the predictor was told to `remember`,
        a `RememberedResult`. Raises ValueError for wrong shapes, labels and places.
        """
        if self.predictor.memory.images and points is labels is box is mask_input is None:
            if multimask_output:
                raise ValueError("a remembered object has one mask on an image, the one that the model believes")
            return self.predictor._find(self)
        request = self.predictor._request(self.size, points, labels, box, mask_input, multimask_output)
        return self.predictor._answer(self.features, [self.size], [request], [self.picture])[0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the encoded image to a safetensors file that `ImagePredictor.load` reads."""
        self.predictor._save(path, self)

    def unconditioned(self) -> ImageFeatures:
        """The image as it was encoded, which memories are made of and are read for.

        Raises ValueError for a handle that does not hold it: one that was saved before images could be remembered.
        """
        if self.encoded is None:
            raise ValueError("this encoded image cannot be used with remembered images: encode it anew")
        return replace(self.features, embedding=self.encoded)


class ImageBatchHandle:
    """Several encoded images; `handle[i]` is the handle of one."""

    def __init__(
        self,
        predictor: ImagePredictor,
        features: ImageFeatures,
        sizes: Sequence[tuple[int, int]],
        pictures: Sequence[Picture] = (),
        encoded: Tensor | None = None,
    ) -> None:
        self.predictor = predictor
        self.features = features
        self.sizes = list(sizes)
        self.pictures = list(pictures) or [None] * len(self.sizes)
        self.encoded = encoded

    def __repr__(self) -> str:
        sizes = ", ".join(f"{width}x{height}" for height, width in self.sizes[:TOLD])
        more = f" and {len(self) - TOLD} more" if len(self) > TOLD else ""
        return f"<ImageBatchHandle: {len(self)} images ({sizes}{more}), encoded by {named(self.predictor.model)}>"

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> ImageHandle:
        if not -len(self) <= index < len(self):
            raise IndexError(f"image {index} of {len(self)}")
        index %= len(self)
        one = self.features.rows(slice(index, index + 1))
        encoded = None if self.encoded is None else self.encoded[index : index + 1]
        return ImageHandle(self.predictor, one, self.sizes[index], self.pictures[index], encoded)

    @takes_our_words
    @torch.inference_mode()
    def predict(self, prompts: Sequence[Mapping[str, Any] | None] | None = None) -> list[ImageResult]:
        """One result per image, from one decoder call; a prompt holds the arguments of `ImageHandle.predict`.

        Images may have different numbers of objects and points; None or an empty prompt gets a result without masks.
        Without `prompts` the remembered objects are looked for on all of them, one after the other. Raises ValueError
        when the prompts do not fit the images, naming the image.
        """
        if prompts is None:
            if not self.predictor.memory.images:
                raise ValueError(f"there are {len(self)} images and no prompts, and no image was remembered")
            return [self.predictor._find(self[index]) for index in range(len(self))]
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
        return self.predictor._answer(self.features, self.sizes, requests, self.pictures)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the encoded images to a safetensors file that `ImagePredictor.load` reads."""
        self.predictor._save(path, self)
