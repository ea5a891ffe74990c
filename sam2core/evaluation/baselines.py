"""What a model must beat: methods of before that answer the same clicks, boxes and first masks, without learning.

The free settings come from ``benchmarks/evaluation.py tune``: 50 training photos (25 of COCO's train half, 25 of
CCP without its last 100), one region each, three clicks; what each setting scored is kept in
``benchmarks/results/evaluation_tuning.json``. They are frozen here as defaults, and say what else was tried.
OpenCV and scikit-image are imported when a method that needs them looks at its first image; both come with
``sam2core[baselines]``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from sam2core.evaluation.clicks import Answers, Click
from sam2core.ops.masks import resize
from sam2core.predictors.image import ImageHandle


def discs(size: tuple[int, int], clicks: Iterable[Click], radius: float) -> np.ndarray:
    """Pixels (H, W) of an image of this size within `radius` of any of the clicks."""
    ys, xs = np.ogrid[: size[0], : size[1]]
    found = np.zeros(size, dtype=bool)
    for click in clicks:
        found |= (ys - click.y) ** 2 + (xs - click.x) ** 2 <= radius**2
    return found


def _seed_radius(size: tuple[int, int]) -> float:
    """What a click is certain of: a disc of 1 % of the diagonal, 3 pixels at least."""
    return max(3.0, 0.01 * float(np.hypot(*size)))


def _ring(size: tuple[int, int], share: float = 0.02) -> np.ndarray:
    """The border of an image, `share` of its shorter side wide."""
    width = max(1, round(share * min(size)))
    ring = np.ones(size, dtype=bool)
    ring[width:-width, width:-width] = False
    return ring


# clicks --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConstantDisc:
    """The baseline that ignores the image: a disc around each positive click, cut out again at negative ones."""

    radius: float = 0.1  # as a share of the image's shorter side; of 0.05 to 0.4

    def encode(self, image: np.ndarray) -> Answers:
        size = image.shape[:2]

        def answer(clicks: Sequence[Click], state: Any) -> tuple[np.ndarray, Any]:
            mask = np.zeros(size, dtype=bool)
            for click in clicks:
                mask[discs(size, [click], self.radius * min(size))] = click.positive
            return mask, None

        return answer


@dataclass(frozen=True)
class FloodFill:
    """The magic wand: connected pixels whose CIE Lab colour differs from the clicked one by at most `tolerance`."""

    tolerance: float = 16.0  # of 4, 8, 12, 16, 24, 32

    def encode(self, image: np.ndarray) -> Answers:
        lab = to_lab(image)

        def filled(click: Click) -> np.ndarray:
            near = np.linalg.norm(lab - lab[click.y, click.x], axis=-1) <= self.tolerance
            pieces, _ = ndimage.label(near)
            return pieces == pieces[click.y, click.x]

        def answer(clicks: Sequence[Click], state: Any) -> tuple[np.ndarray, Any]:
            mask = np.zeros(image.shape[:2], dtype=bool)
            for click in clicks:
                mask[filled(click)] = click.positive
            return mask, None

        return answer


@dataclass(frozen=True)
class GrabCut:
    """OpenCV's GrabCut (Rother et al. 2004), five iterations, from clicks or from a box.

    From clicks: a disc of 1 % of the diagonal around each is certain; the border is certainly background where no
    click says otherwise; what lies within `radius` of a positive click is probably the object, all else probably not.
    From a box: OpenCV's own start, all outside certainly background.
    """

    radius: float = 0.05  # as a share of the image's shorter side; of 0.025 to 0.5, on every third photo
    side: int = 640  # the longer side it computes on; at 320 it loses small objects whole
    iterations: int = 5

    def encode(self, image: np.ndarray) -> Answers:
        import cv2

        scaled = Scaled(image, self.side)
        size = scaled.size

        def answer(clicks: Sequence[Click], state: Any) -> tuple[np.ndarray, Any]:
            said = [scaled.click(click) for click in clicks]
            near = discs(size, [click for click in said if click.positive], self.radius * min(size))
            labels = np.where(near, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
            labels[_ring(size)] = cv2.GC_BGD
            for click in said:  # the latest wins where discs overlap
                labels[discs(size, [click], _seed_radius(size))] = cv2.GC_FGD if click.positive else cv2.GC_BGD
            return scaled.back(self._cut(scaled.image, labels, None, cv2.GC_INIT_WITH_MASK)), None

        return answer

    def box(self, image: np.ndarray, box: Sequence[float]) -> np.ndarray:
        """The mask (H, W) of what is in a box x0, y0, x1, y1 (pixel edges)."""
        import cv2

        scaled = Scaled(image, self.side)
        height, width = scaled.size
        x0, y0, x1, y1 = (side * scaled.scale for side in box)
        x0, y0 = max(0, int(np.floor(x0))), max(0, int(np.floor(y0)))
        x1, y1 = min(width, int(np.ceil(x1))), min(height, int(np.ceil(y1)))
        if (x1 - x0, y1 - y0) == (width, height):  # nothing outside to learn a background from
            return np.ones(image.shape[:2], dtype=bool)
        labels = np.zeros((height, width), dtype=np.uint8)
        return scaled.back(self._cut(scaled.image, labels, (x0, y0, x1 - x0, y1 - y0), cv2.GC_INIT_WITH_RECT))

    def _cut(self, image: np.ndarray, labels: np.ndarray, box: Any, mode: int) -> np.ndarray:
        import cv2

        pixels = np.ascontiguousarray(image[..., ::-1])
        if mode == cv2.GC_INIT_WITH_MASK and not np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)).any():
            return np.zeros(labels.shape, dtype=bool)  # clicks outside cover all those inside
        cv2.setRNGSeed(0)  # its k-means starts at random
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(pixels, labels, box, background, foreground, self.iterations, mode)
        return (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)


@dataclass(frozen=True)
class RandomWalker:
    """scikit-image's random walker (Grady 2006) on CIE Lab, seeded by the clicks' discs and by the image's border."""

    beta: float = 130.0  # of 90, 130, 300 and 1000, on every third photo
    side: int = 320  # the longer side it computes on; probabilities are scaled up

    def encode(self, image: np.ndarray) -> Answers:
        from skimage.segmentation import random_walker

        scaled = Scaled(image, self.side)
        size, lab = scaled.size, to_lab(scaled.image)

        def answer(clicks: Sequence[Click], state: Any) -> tuple[np.ndarray, Any]:
            seeds = np.where(_ring(size), 2, 0)
            for click in clicks:
                seeds[discs(size, [scaled.click(click)], _seed_radius(size))] = 1 if click.positive else 2
            if not (seeds == 1).any():  # clicks outside cover all those inside
                return np.zeros(image.shape[:2], dtype=bool), None
            with warnings.catch_warnings():  # probabilities a thousandth beyond [0, 1] at this tolerance
                warnings.filterwarnings("ignore", "The probability range is outside")
                chance = random_walker(
                    lab, seeds, beta=self.beta, mode="cg_j", tol=1e-3, channel_axis=-1, return_full_prob=True
                )[0]
            return scaled.back(chance), None

        return answer


class Scaled:
    """An image reduced so that its longer side is at most `side`, for methods too slow to see all of it."""

    def __init__(self, image: np.ndarray, side: int) -> None:
        self.full = image.shape[:2]
        self.scale = min(1.0, side / max(self.full))
        self.size = (max(1, round(self.full[0] * self.scale)), max(1, round(self.full[1] * self.scale)))
        self.image = image
        if self.scale < 1:
            self.image = np.asarray(Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BOX))

    def click(self, click: Click) -> Click:
        """A click of the full image where it lies in the small one."""
        x, y = int((click.x + 0.5) * self.scale), int((click.y + 0.5) * self.scale)
        return Click(min(x, self.size[1] - 1), min(y, self.size[0] - 1), click.positive)

    def back(self, chance: np.ndarray) -> np.ndarray:
        """A mask or probabilities (h, w) of the small image as a mask (H, W) of the full one."""
        picture = Image.fromarray(chance.astype(np.float32))
        return np.asarray(picture.resize(self.full[::-1], Image.Resampling.BILINEAR)) > 0.5


def to_lab(image: np.ndarray) -> np.ndarray:
    """uint8 sRGB (H, W, 3) as CIE Lab (D65), slightly smoothed so that noise does not stop a fill."""
    rgb = ndimage.gaussian_filter(image.astype(np.float64), (1, 1, 0)) / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    matrix = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
    )
    xyz = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    curve = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(curve, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# videos --------------------------------------------------------------------------------------------------------------


class CopyFirstMask:
    """The baseline that does not look: every frame gets the masks of the first."""

    def follow(self, frames: Iterable[np.ndarray], masks: Mapping[Any, np.ndarray]) -> Iterator[dict[Any, np.ndarray]]:
        """For each frame (H, W, 3), the masks (H, W) by object id; `masks` are those of the first frame."""
        for _ in frames:
            yield dict(masks)


class FlowWarp:
    """Masks carried from frame to frame by OpenCV's DIS optical flow (Kroeger et al. 2016), medium preset.

    The flow is computed from the new frame back to the one before, so that every new pixel looks up where it came from;
    what is looked up is kept soft (bilinear) and cut at one half only for the answer.
    """

    def follow(self, frames: Iterable[np.ndarray], masks: Mapping[Any, np.ndarray]) -> Iterator[dict[Any, np.ndarray]]:
        """For each frame (H, W, 3) uint8, the masks (H, W) by object id; `masks` are those of the first frame."""
        import cv2

        flow: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        soft: dict[Any, Any] = {key: mask.astype(np.float32) for key, mask in masks.items()}
        before: np.ndarray | None = None
        for frame in frames:
            gray = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
            if before is not None:
                moved = flow.calc(gray, before, None)
                height, width = gray.shape
                xs, ys = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
                xs, ys = xs + moved[..., 0], ys + moved[..., 1]
                soft = {key: cv2.remap(mask, xs, ys, cv2.INTER_LINEAR) for key, mask in soft.items()}
            before = gray
            yield {key: mask > 0.5 for key, mask in soft.items()}


# labelled images ---------------------------------------------------------------------------------------------------


class NearestFeatures:
    """What remembered images must beat: a place belongs to the object when its nearest labelled feature does.

    Features are the predictor's own embeddings, compared by their cosine. Nothing is learned, nothing but the encoder
    is used.
    """

    def __init__(self) -> None:
        self.on: list[Tensor] = []
        self.off: list[Tensor] = []

    def remember(self, image: ImageHandle, mask: np.ndarray) -> None:
        """Take the features of an image on and off a mask (H, W) bool; at least one place is on it."""
        features = _directions(image)
        share = F.interpolate(torch.as_tensor(mask)[None, None].float(), features.shape[1:], mode="area")[0, 0]
        inside = share >= min(0.5, float(share.max()))
        self.on.append(features[:, inside])
        self.off.append(features[:, ~inside])

    def find(self, image: ImageHandle) -> np.ndarray:
        """The mask (H, W) bool of the object on another image. Raises ValueError when nothing was remembered."""
        if not self.on:
            raise ValueError("no image was remembered")
        features = _directions(image)
        flat = features.flatten(1)
        on, off = (
            (flat.T @ torch.cat(each, dim=1)).amax(dim=1) if sum(part.shape[1] for part in each) else -torch.ones(1)
            for each in (self.on, self.off)
        )
        nearer = (on - off).view(1, 1, *features.shape[1:])
        return (resize(nearer, image.size)[0, 0] > 0).numpy()


def _directions(image: ImageHandle) -> Tensor:
    """The embedding of an image (C, h, w), every place of length 1."""
    return F.normalize(image.unconditioned().embedding[0].float().cpu(), dim=0)
