"""Clips to train on: what one sample is, how labelled images on disk become samples, how samples become a batch.

A photo is a clip of one frame. Readers decode lazily; `Pack` decodes everything once into flat files that are
mapped into memory, so that a training step never waits for a JPEG.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from sam2core import storage
from sam2core.data.footage import Footage
from sam2core.data.label_folder import of_pairs, pairs
from sam2core.data.panoptic import PanopticPicture, coco_pictures
from sam2core.data.pictures import DataError, files_below, read_transparent

VOID = 65535
"""The region of pixels that count neither for nor against an answer."""


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """A photo whose pixels are divided into regions, and the objects that can be made of them.

    `objects` lists groups of region ids: a single region, all parts of a person, both shoes. Groups may overlap, which
    is what makes a single click ambiguous.
    """

    image: np.ndarray  # (H, W, 3) uint8
    regions: np.ndarray  # (H, W) uint16, 0 is unlabelled, VOID is not counted
    objects: tuple[tuple[int, ...], ...]
    things: tuple[bool, ...]  # per object: may it be cut out and pasted over another image?
    source: str


@dataclass(frozen=True, eq=False)
class Clip:
    """One training sample: frames and the masks of the objects to segment in them."""

    frames: np.ndarray  # (T, H, W, 3) uint8
    masks: np.ndarray  # (T, N, H, W) bool
    source: str = ""
    ignored: np.ndarray | None = None  # (T, H, W) bool: pixels that are not counted


@dataclass(frozen=True, eq=False)
class ClipBatch:
    """Clips of equal size stacked for one step."""

    frames: Tensor  # (B, T, 3, H, W) uint8
    masks: Tensor  # (B, T, N, H, W) bool
    counted: Tensor  # (B, N) bool: False where a clip has fewer objects than the others
    numbers: Tensor  # (B, N) the numbers of the objects among all objects of the step, in whichever process
    sources: tuple[str, ...] = field(default=())
    ignored: Tensor | None = None  # (B, T, H, W) bool: pixels that are not counted; None when all are

    @property
    def objects(self) -> int:
        """How many objects there are in all."""
        return int(self.counted.sum())

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same clips on a device; what is only counted stays where it is."""
        pinned = torch.device(device).type == "cuda"
        return self._moved(lambda tensor: tensor.to(device, non_blocking=pinned))

    def pin_memory(self) -> ClipBatch:
        """The same clips where a GPU fetches them faster; the data loader asks for it."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> ClipBatch:
        ignored = None if self.ignored is None else move(self.ignored)
        return replace(self, frames=move(self.frames), masks=move(self.masks), ignored=ignored)

    def split(self, pieces: int) -> list[ClipBatch]:
        """The clips in `pieces` equal parts. Raises ValueError when they cannot be divided."""
        clips = len(self.frames)
        if clips % pieces:
            raise ValueError(f"{clips} clips cannot be divided into {pieces} equal parts")
        size = clips // pieces
        parts = [slice(start, start + size) for start in range(0, clips, size)]
        ignored = [None if self.ignored is None else self.ignored[p] for p in parts]
        return [
            ClipBatch(self.frames[p], self.masks[p], self.counted[p], self.numbers[p], self.sources[p], own)
            for p, own in zip(parts, ignored)
        ]


def collate(clips: Sequence[Clip], numbers: Sequence[int] | None = None, objects: int = 0) -> ClipBatch:
    """Stack clips of equal size; those with fewer objects than `objects` or than the others are filled with none.

    numbers: each clip's number among all clips of the step. Raises ValueError when sizes differ.
    """
    shapes = {clip.frames.shape for clip in clips}
    if len(shapes) != 1:
        raise ValueError(f"clips of one batch must have equal (T, H, W, 3), got {sorted(shapes)}")
    count = max(objects, *(clip.masks.shape[1] for clip in clips))
    masks = np.zeros((len(clips), clips[0].masks.shape[0], count, *clips[0].masks.shape[2:]), dtype=bool)
    for row, clip in enumerate(clips):
        masks[row, :, : clip.masks.shape[1]] = clip.masks
    counted = torch.tensor([[place < clip.masks.shape[1] for place in range(count)] for clip in clips])
    places = torch.tensor(list(range(len(clips)) if numbers is None else numbers))
    none = np.zeros((*clips[0].frames.shape[:3],), dtype=bool)
    void = [none if clip.ignored is None else clip.ignored for clip in clips]
    return ClipBatch(
        frames=torch.from_numpy(np.stack([clip.frames for clip in clips])).permute(0, 1, 4, 2, 3).contiguous(),
        masks=torch.from_numpy(masks),
        counted=counted,
        numbers=places[:, None] * count + torch.arange(count),
        sources=tuple(clip.source for clip in clips),
        ignored=None if all(each is none for each in void) else torch.from_numpy(np.stack(void)),
    )


# readers -------------------------------------------------------------------------------------------------------------


def label_folder(
    root: str | Path,
    *,
    holdout: int = 0,
    split: str = "train",
    whole: bool = False,
    instances: bool = False,
    ignore: int | str | None = "auto",
) -> Iterator[LabelledImage]:
    """Read `root/images/NAME.*` with `root/labels/NAME.png`, whose values are class or instance ids (8 or 16 bit).

    holdout: the last `holdout` names in sorted order are the "val" split, all others the "train" split.
    whole: everything labelled together is an object too (parts of a person and the person).
    instances: ids are instances, each a thing by itself; otherwise they are classes, whose pieces are objects.
    ignore: the value of pixels that are not counted; see `data.label_folder`.
    """
    found, lonely = pairs(Path(root))
    if lonely:
        raise DataError(f"{len(lonely)} images of {root} have no labels/NAME.png, the first is {lonely[0].name}")
    footage = of_pairs(found, ignore)
    for picture in footage[: len(footage) - holdout] if split == "train" else footage[len(footage) - holdout :]:
        yield divide(picture, whole=whole, instances=instances)


def panoptic_jobs(
    root: str | Path, *, split: str = "train", licences: Sequence[str] = ()
) -> list[Callable[[], LabelledImage]]:
    """Read COCO panoptic: `images/{split}2017`, `panoptic_segmentation/annotations/panoptic_{split}2017{.json,/}`.

    licences: only images under these, by the `name` that the JSON gives a licence.
    """
    pictures, things = coco_pictures(Path(root), split, licences)
    return [partial(_divide, picture, things) for picture in pictures]


def _divide(picture: PanopticPicture, is_thing: dict[int, bool]) -> LabelledImage:
    """Segments as regions, pieces of stuff apart; pieces together and few things of a category are objects, too.

    Crowds are no objects, and their pixels are not counted.
    """
    image, ids = picture.read()
    regions = np.zeros(ids.shape, dtype=np.uint16)
    objects: list[tuple[int, ...]] = []
    things: list[bool] = []
    by_category: dict[int, list[int]] = {}
    crowds = [segment["id"] for segment in picture.segments if segment["iscrowd"]]
    for segment in picture.segments:
        if segment["iscrowd"]:
            continue
        thing = is_thing[segment["category_id"]]
        added = _add_region(regions, ids == segment["id"], split_pieces=not thing, minimum=0.002)
        if not added:
            continue
        objects += [(region,) for region in added]
        things += [thing] * len(added)
        if len(added) > 1:
            objects.append(tuple(added))
            things.append(False)
        if thing:
            by_category.setdefault(segment["category_id"], []).extend(added)
    for group in by_category.values():
        if 1 < len(group) < 5:
            objects.append(tuple(group))
            things.append(False)
    regions[np.isin(ids, crowds)] = VOID
    return LabelledImage(image, regions, tuple(objects), tuple(things), str(picture.image))


def cut_out_jobs(
    root: str | Path, *, skip: Sequence[str] = (), smallest: int = 100, colours: int = 250
) -> list[Callable[[], LabelledImage | None]]:
    """Read images with transparency anywhere below `root`; what is opaque is one object, to be pasted elsewhere.

    skip: paths that contain one of these are left out. smallest: shortest side in pixels. colours: least number of
    colours (5 bits a channel) of the opaque part, which tells photos from drawings.
    """
    paths = [path for path in sorted(files_below(Path(root), (".png",))) if not any(part in str(path) for part in skip)]
    if not paths:
        raise DataError(f"{root} holds no PNG")
    return [partial(_cut_out, path, smallest, colours) for path in paths]


def _cut_out(path: Path, smallest: int, colours: int) -> LabelledImage | None:
    pixels = read_transparent(path)
    inside = pixels[..., 3] > 128
    if min(inside.shape) < smallest or not 0.05 < inside.mean() < 0.98:
        return None
    shades = (pixels[..., :3][inside] // 8).astype(np.int32) @ np.array([1, 32, 1024], dtype=np.int32)
    if np.unique(shades).size < colours:
        return None
    image = np.ascontiguousarray(pixels[..., :3])
    return LabelledImage(image, inside.astype(np.uint16), ((1,),), (True,), str(path))


def from_labels(
    image: np.ndarray,
    labels: np.ndarray,
    ignored: np.ndarray | None = None,
    *,
    whole: bool = False,
    instances: bool = False,
    source: str = "",
) -> LabelledImage:
    """Divide an image by a map of class or instance ids; see `label_folder` for the options.

    ignored: pixels (H, W) that are not counted; they are the region `VOID`, and in no object.
    """
    regions = np.zeros(labels.shape, dtype=np.uint16)
    counted = True if ignored is None else ~ignored
    objects: list[tuple[int, ...]] = []
    things: list[bool] = []
    everything: list[int] = []
    for value in np.unique(labels):
        background = value == 0
        if background and instances:
            continue
        added = _add_region(
            regions, (labels == value) & counted, split_pieces=not instances, minimum=0.0 if instances else 0.001
        )
        objects += [(region,) for region in added]
        things += [not background and (instances or whole)] * len(added)
        if len(added) > 1:
            objects.append(tuple(added))
            things.append(False)
        if not background:
            everything += added
    if whole and len(everything) > 1:
        objects.append(tuple(everything))
        things.append(True)
    if ignored is not None:
        regions[ignored] = VOID
    return LabelledImage(image, regions, tuple(objects), tuple(things), source)


def _add_region(regions: np.ndarray, mask: np.ndarray, *, split_pieces: bool, minimum: float) -> list[int]:
    """Write a mask into the region map as one region or as its connected pieces; returns the ids given to them."""
    added: list[int] = []
    if split_pieces:
        pieces, count = ndimage.label(mask)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)
    else:
        pieces, count, sizes = mask.astype(np.int32), 1, np.array([0, int(mask.sum())])
    for piece in range(1, count + 1):
        if sizes[piece] > max(minimum * mask.size, 8):
            region = int(regions.max()) + 1
            regions[pieces == piece] = region
            added.append(region)
    return added


def divide(picture: Footage, *, whole: bool = False, instances: bool = False) -> LabelledImage:
    """A labelled image as regions; see `label_folder`. Raises DataError when it cannot be read."""
    (pixels,), ids, ignored = picture.pictures([0]), picture.ids(0), picture.ignored(0)
    return from_labels(pixels, ids, ignored, whole=whole, instances=instances, source=picture.source)


# pack ----------------------------------------------------------------------------------------------------------------


class Pack(Sequence[LabelledImage]):
    """Decoded labelled images in two flat files, mapped into memory: opening is free, reading costs a page fault.

    `Pack.write(folder, images, side=640)` makes one; `Pack(folder)` opens it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        index = self.folder / "index.json"
        if not index.exists():
            raise DataError(f"no pack at {self.folder}: index.json is missing")
        self.entries = json.loads(index.read_text())
        self.pixels = np.memmap(self.folder / "pixels.bin", dtype=np.uint8, mode="r")
        self.regions = np.memmap(self.folder / "regions.bin", dtype=np.uint16, mode="r")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> LabelledImage:  # type: ignore[override]
        entry = self.entries[index]
        height, width = entry["size"]
        start, count = entry["start"], height * width
        return LabelledImage(
            self.pixels[3 * start : 3 * (start + count)].reshape(height, width, 3),
            self.regions[start : start + count].reshape(height, width),
            tuple(tuple(group) for group in entry["objects"]),
            tuple(entry["things"]),
            entry["source"],
        )

    def __reduce__(self) -> tuple[type[Pack], tuple[Path]]:
        return Pack, (self.folder,)  # a worker maps the files itself

    @staticmethod
    def write(folder: str | Path, images: Iterator[LabelledImage], *, side: int = 640, origin: str = "") -> Pack:
        """Decode `images` into `folder`, longer sides reduced to `side` pixels; index.json is written last.

        origin: what they were made from, for `origin_of`. A pack that is there is replaced; who has it open keeps it.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("index.json", "pixels.bin", "regions.bin", "origin.txt"):
            (folder / name).unlink(missing_ok=True)
        entries, start = [], 0
        with open(folder / "pixels.bin", "wb") as pixels, open(folder / "regions.bin", "wb") as regions:
            for sample in images:
                sample = shrink(sample, side)
                height, width = sample.regions.shape
                pixels.write(np.ascontiguousarray(sample.image).tobytes())
                regions.write(np.ascontiguousarray(sample.regions).tobytes())
                entries.append(
                    {
                        "size": [height, width],
                        "start": start,
                        "objects": sample.objects,
                        "things": sample.things,
                        "source": Path(sample.source).name,
                    }
                )
                start += height * width
        if not entries:
            raise DataError(f"there is no image to decode into {folder}")
        (folder / "origin.txt").write_text(origin)
        storage.write_text(folder / "index.json", json.dumps(entries))
        return Pack(folder)

    @staticmethod
    def origin_of(folder: str | Path) -> str | None:
        """What a pack was made from, as `write` was told; None where there is no whole pack."""
        folder = Path(folder)
        if not (folder / "index.json").exists() or not (folder / "origin.txt").exists():
            return None
        return (folder / "origin.txt").read_text()


def shrink(sample: LabelledImage, side: int) -> LabelledImage:
    """Reduce a labelled image so that its longer side is at most `side` pixels."""
    height, width = sample.regions.shape
    scale = side / max(height, width)
    if scale >= 1:
        return sample
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    image = np.asarray(Image.fromarray(sample.image).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    rows = ((np.arange(size[0]) + 0.5) * height / size[0]).astype(np.int64)
    columns = ((np.arange(size[1]) + 0.5) * width / size[1]).astype(np.int64)
    return LabelledImage(image, sample.regions[rows[:, None], columns], sample.objects, sample.things, sample.source)
