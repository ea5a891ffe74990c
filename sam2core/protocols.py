"""The contracts: what a part of each kind must be. The shape letters are those of `sam2core.types`.

A part need not inherit from these; it must have the methods and attributes, with these shapes. Trainable parts are
`torch.nn.Module`s, so "call" means ``forward``. Every call must work under ``torch.no_grad`` and with gradients, on any
device, and in fp32, bf16 and fp16 without autocast. Constructors take the keywords the registry passes (named in each
docstring) and their own options as keywords with defaults; they leave device and dtype alone, and hold no buffer that
is not in the state dict: what can be computed is computed on first use.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from torch import Tensor

    from sam2core.heads.select import Stability
    from sam2core.memory.bank import MemoryBank
    from sam2core.types import (
        DecoderOutput,
        Detections,
        FrameMemory,
        Keep,
        MaskCandidates,
        MaskPrediction,
        Prompt,
        Recall,
        TokenBlock,
    )


@runtime_checkable
class Backbone(Protocol):
    """An image becomes a pyramid. Constructor: options only."""

    channels: Sequence[int]
    """Channels of each map, finest first."""
    strides: Sequence[int]
    """Stride of each map in pixels, finest first, such as (4, 8, 16, 32); 16 is among them."""

    def __call__(self, image: Tensor, /) -> list[Tensor]:
        """Normalised pixels (B, 3, H, W), sides multiples of 32, to maps (B, channels[i], H / strides[i], W / ...)."""
        ...


@runtime_checkable
class Neck(Protocol):
    """A pyramid becomes maps of one width. Constructor: ``channels, strides, dim`` and options."""

    def __call__(self, maps: Sequence[Tensor], /) -> list[Tensor]:
        """A backbone's maps to maps (B, dim, H / s, W / s) at those of the strides s = 4, 8, 16 that the backbone has.

        The last is what prompts and memories work on; the mask decoder's high-resolution features take the finer two,
        where there are any. A neck that makes others says so: `MakesStrides`.
        """
        ...


@runtime_checkable
class PromptEncoder(Protocol):
    """A prompt becomes tokens and a map. Constructor: ``dim, image_size`` and options."""

    image_size: tuple[int, int]
    """(H, W) in model pixels; it is set anew where a model goes on at another size."""

    @property
    def mask_input_size(self) -> tuple[int, int]:
        """The size (h, w) of a mask input: that of the masks that a mask decoder draws, a quarter of the image."""
        ...

    def position(self, grid: tuple[int, int], /) -> Tensor:
        """The dense position code (1, C, H, W) of a grid, in the heads' type."""
        ...

    def __call__(self, prompt: Prompt, /) -> tuple[Tensor, Tensor, Tensor | None]:
        """The tokens (B, P', C), the map, and which tokens are meant.

        The map is (1, C, 1, 1) where it is the same for all prompts, otherwise (B, C, H, W). The last is (B, P') bool
        for a ragged prompt, whose points of ``Label.IGNORED`` become no token; otherwise None: all. P' may be any
        number, and 0 where a prompt has no points.
        """
        ...


@runtime_checkable
class MaskDecoder(Protocol):
    """Prompt tokens and an image become four masks. Constructor: ``dim`` and options."""

    stability: Stability | None
    """When the single mask is unstable in evaluation, the best of the other three is given; None: never."""

    def high_res_features(self, maps: Sequence[Tensor], /) -> tuple[Tensor, ...]:
        """The neck's maps, in the heads' type, to what `high_res_features` gets; () for none. Once per image."""
        ...

    def __call__(
        self,
        embedding: Tensor,
        position: Tensor,
        sparse: Tensor,
        dense: Tensor,
        high_res_features: tuple[Tensor, ...],
        token_mask: Tensor | None = None,
        /,
    ) -> DecoderOutput:
        """All four masks for B prompts on one image or on B images.

        embedding  (1 or B, C, H, W)   conditioned image
        position   (1, C, H, W)
        sparse     (B, P, C)           prompt tokens; P may be 0
        dense      broadcasts to (B, C, H, W)
        high-resolution features      what `high_res_features` gave, of the same images as `embedding`
        counts     (B, P) bool: the prompt tokens that are meant; None: all

        Masks are (B, 4, 4 H, 4 W) logits, not gated by object score; IoU is in [0, 1]; object score is a logit.
        """
        ...


@runtime_checkable
class MemoryEncoder(Protocol):
    """Features and a mask become memory tokens. Constructor: ``dim, memory_dim`` and options."""

    def __call__(self, features: Tensor, mask: Tensor, object_score: Tensor, /) -> tuple[TokenBlock, ...]:
        """Features (1 or B, C, H, W), mask probabilities (B, 1, 16 H, 16 W) and object scores (B, 1) to token blocks.

        One block for a map, or several (a map and latents), each with tokens (B, N, Cm).
        """
        ...


@runtime_checkable
class MemoryAttention(Protocol):
    """An image is conditioned on memories. Constructor: ``dim, memory_dim`` and options."""

    def __call__(
        self, features: Tensor, position: Tensor, blocks: Sequence[TokenBlock], memory_mask: Tensor | None = None, /
    ) -> Tensor:
        """Features (1 or B, C, H, W), their position (1, C, H, W) and blocks of (B, N, Cm) to features (B, C, H, W).

        `memory_mask` (1, N in all) marks the tokens that count; it is passed by compiled models alone, which fill pasts
        up to fixed shapes.
        """
        ...


@runtime_checkable
class MemoryPolicy(Protocol):
    """What to believe, what to keep, what to recall. Constructor: options only. It has no weights.

    `sam2core.memory.policy.MemoryPolicy` is a base class with SAM 2's answers to all but `recall`.
    """

    horizon: int
    """How far back, in frames, `recall` may ever look on the recent frames; older memories are dropped."""
    clearing: int
    """How far around a prompt, in frames, recent frames are forgotten when a session is asked to."""

    def start(self) -> Any:
        """The state of a new object; handed back to the other methods. Numbers, strings, tensors, lists and dicts."""
        ...

    def copy(self, state: Any) -> Any:
        """An independent copy of an object's state, for forks and undo."""
        ...

    def choose(self, candidates: MaskCandidates, state: Any) -> Tensor:
        """The index (B,) of the candidate to believe."""
        ...

    def keep(self, answer: MaskPrediction, memory: FrameMemory, bank: MemoryBank, state: Any) -> Keep | None:
        """Where a tracked frame's memory goes; None forgets it."""
        ...

    def recall(self, bank: MemoryBank, frame: int, *, backwards: bool, length: int | None, state: Any) -> Recall:
        """Which memories `frame` attends to; `length` is the video's in frames, None when unknown."""
        ...


@runtime_checkable
class RecallsSlots(Protocol):
    """What a memory policy may say, too: a model with fewer codes is refused when it is built.

    Without it a slot that has no code is refused at the first frame that recalls it.
    """

    @property
    def recalled_slots(self) -> int:
        """`recall` gives slots from 0 up to, not including, this one."""
        ...


@runtime_checkable
class Initialisation(Protocol):
    """Fresh weights to begin training with; recipes name it as `start`. Constructor: options only."""

    def __call__(self, model: Any, /) -> None:
        """Give a `Sam2` of freshly made parts the weights that training begins with, in place.

        It does what it can for the parts it knows, and leaves others as they were made.
        """
        ...


class Predictor(Protocol):
    """A tool over a model. Constructor: ``model`` and options; the rest is its own. It holds no state of a task."""

    model: Any
    """The `Sam2` it uses."""


@runtime_checkable
class Engine(Protocol):
    """Where a data set's videos are worked on. Constructor: ``workers`` (how many at once) and options.

    `sam2core.jobs.engines.LocalEngine` works in processes of this machine.
    """

    def map(self, prepare: Callable[[int], Callable[[Any], Any]], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Each item's index with its result, once for each item, as they are finished.

        `prepare` is called once in every worker, with the worker's number, and returns the function for one item; it,
        the items and the results can be pickled. An exception of that function ends the run and is raised here. A
        worker that dies is replaced and its item is done again; an item over which `attempts` workers died has a
        ChildProcessError in the place of a result, and the others go on. Leaving the iterator early stops the workers.
        """
        ...


@runtime_checkable
class Detector(Protocol):
    """Where things are in an image. Constructor: options alone; what takes long is done with the first image.

    `sam2core.jobs.detectors.BoxesDetector` reads what another program found.
    """

    def detect(self, picture: np.ndarray, *, source: str, frame: int) -> Detections:
        """The things in an image (H, W, 3) uint8 that is displayed, surest first.

        source  the image's or the video's file, as the user named it
        frame   its number in the video; 0 for an image
        """
        ...


@runtime_checkable
class Writer(Protocol):
    """What makes labels for other tools of what a run found. Constructor: options alone.

    holds   what it can write: "images", "videos", or both
    """

    holds: tuple[str, ...]

    def write(self, folder: Path, footage: Sequence[Any]) -> list[str]:
        """Fill an empty folder with labelled footage (`sam2core.data.footage`), read one after the other.

        Returns sentences about what could not be kept. Raises ValueError for what cannot be written at all.
        """
        ...


@runtime_checkable
class Layout(Protocol):
    """How a file names its tensors: a value, not something that is made. See `sam2core.checkpoints.layout`."""

    name: str

    def rename(self, state: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """A file's tensors under our names."""
        ...

    def inverse(self, state: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Our tensors under the file's names."""
        ...


# what a part may have besides; each says what happens without it


@runtime_checkable
class MixesPrecision(Protocol):
    """A part that says what of it stays fp32 in a model of half precision. Without it, a part is cast whole."""

    def to_mixed_precision(self, dtype: torch.dtype, /) -> None:
        """Cast, in place, what may be in half precision."""
        ...


@runtime_checkable
class HasBlocks(Protocol):
    """A backbone of blocks in a row. Without them, recipes with `layer_decay` or `checkpoint_trunk` are refused.

    A method ``layer_id(name)`` may say how deep a parameter lies: 0 for what comes before the blocks, n + 1 for block
    n, ``len(blocks) + 1`` for what comes behind. Without it, names that begin with ``blocks.N.`` are block N's,
    ``patch_embed`` and ``pos_embed`` come before, all else behind.
    """

    blocks: Sequence[Any]


@runtime_checkable
class MakesStrides(Protocol):
    """A neck that makes maps at strides which its backbone lacks. Without it, its maps are at those of its backbone."""

    made_strides: Sequence[int]
    """Stride of each map that the neck makes, finest first; the last is 16."""


@runtime_checkable
class ReadsPixels(Protocol):
    """A mask decoder that reads the image itself. Without it, a decoder sees the neck's maps alone."""

    def with_pixels(self, high_res_features: tuple[Tensor, ...], pixels: Tensor, /) -> tuple[Tensor, ...]:
        """What `high_res_features` gave, and the normalised pixels (B, 3, 16 H, 16 W), to what is kept of an image."""
        ...


@runtime_checkable
class Unrolled(Protocol):
    """A prompt encoder that goes through a prompt's points one by one. Without it, a graph takes any number of points.

    A graph that is exported of one with ``unrolled`` true takes prompts of one number of points.
    """

    unrolled: bool


@runtime_checkable
class TaughtDensely(Protocol):
    """A mask decoder that can be taught without its attention. Without it, stages with `dense` above 0 are refused."""

    mask_mlps: Sequence[Callable[[Tensor], Tensor]]
    """Each makes of tokens (B, N, C) filters (B, N, C') for what `enlarge` gives."""

    def enlarge(self, maps: Tensor, high_res_features: tuple[Tensor, ...], /) -> Tensor:
        """A map (B, C, H, W) at stride 16 to the one (B, C', 4 H, 4 W) that filters make masks of."""
        ...


@runtime_checkable
class PromptsTrackedFrames(Protocol):
    """A memory policy that says what a tracked frame is prompted with. Without it: nothing, as in SAM 2."""

    def tracking_prompt(
        self, recalls: Sequence[Recall], mask_input_size: tuple[int, int], device: torch.device, /
    ) -> Prompt:
        """The prompt of objects with these pasts, a row for each row of a recall's memories, on a device."""
        ...


@runtime_checkable
class Reinitialises(Protocol):
    """An initialisation that can be asked again once a trunk has learned. Without it, stages that ask are refused."""

    def again(self, model: Any, embedding: Tensor, /) -> None:
        """Change a model's weights in place, given embeddings (B, C, H, W) of some images."""
        ...
