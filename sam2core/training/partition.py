"""Photos nobody has drawn masks for, divided by a classical method into regions that follow boundaries and nest.

Small watershed cells are merged, the two most alike first; a node of that tree which lasts, because nothing near it is
like it, is an object. A network trained on such objects learns what "one region" means on real textures. The masks are
computed from the image alone, so nobody else's rights are in them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from sam2core.data.pictures import PICTURES, DataError, files_below, read_picture
from sam2core.media.images import image_size
from sam2core.training.clips import LabelledImage, cut_out_jobs

BINS = 10  # of each channel's histogram
REACH = 1.2  # how long a region must last: the merging cost that ends it, over the one that made it
FLOOR = 0.08  # costs below this are noise


def photograph_jobs(
    root: str | Path,
    *,
    side: int = 560,
    tiles: int = 1,
    names: Sequence[str] = (),
    most: int = 40,
    smallest: float = 0.006,
    largest: float = 0.7,
) -> list[Callable[[], LabelledImage | None]]:
    """Read images anywhere below `root` and divide each; see `divide`.

    side: longer side in pixels at which an image is divided. tiles: an image larger than `side` is divided as a whole
    and again in 2 x 2 up to tiles x tiles pieces, which show what is small in it. names: only these file names. most:
    objects of an image. smallest, largest: share of the image. What lies well inside an image may be cut out.
    """
    paths = sorted(files_below(Path(root), PICTURES))
    paths = [path for path in paths if not names or path.name in names]
    if not paths:
        raise DataError(f"{root} holds no image ({', '.join(PICTURES)})")
    return [
        partial(_photograph, path, box, side, most, (smallest, largest))
        for path in paths
        for box in pieces(path, side, tiles)
    ]


def _photograph(
    path: Path, box: tuple[int, int, int, int], side: int, most: int, areas: tuple[float, float]
) -> LabelledImage | None:
    piece = np.asarray(_within(Image.fromarray(read_picture(path)).crop(box), side))
    regions, objects = divide(piece, most=most, areas=areas)
    if not objects:
        return None
    things = tuple(_stands_alone(np.isin(regions, group)) for group in objects)
    return LabelledImage(piece, regions, objects, things, str(path))


def drawing_jobs(root: str | Path, *, most: int = 10) -> list[Callable[[], LabelledImage | None]]:
    """Read cut-outs (images with transparency), whatever their colours, and divide each; `most` parts of it."""
    return [partial(_drawing, job, most) for job in cut_out_jobs(root, colours=1)]


def _drawing(job: Callable[[], LabelledImage | None], most: int) -> LabelledImage | None:
    whole = job()
    if whole is None:
        return None
    inside = whole.regions > 0
    regions, parts = divide(whole.image, most=most, areas=(0.02, 0.6), inside=inside)
    rest = int(regions.max()) + 1
    regions = np.where(inside & (regions == 0), rest, np.where(inside, regions, 0)).astype(np.uint16)
    everything = tuple(int(region) for region in np.unique(regions) if region)
    objects = (everything, *(part for part in parts if part != everything))
    return LabelledImage(whole.image, regions, objects, (True, *(False for _ in objects[1:])), whole.source)


def _stands_alone(mask: np.ndarray) -> bool:
    """Whether a mask is of a middling size and the image's border hardly cuts it."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    return bool(0.015 < mask.mean() < 0.35 and border.mean() < 0.03)


def pieces(path: Path, side: int, tiles: int) -> Iterator[tuple[int, int, int, int]]:
    """The whole of an image, then its tiles, as (left, top, right, bottom); tiles while they are not small."""
    try:
        height, width = image_size(path)
    except ValueError as error:
        raise DataError(str(error)) from error
    for count in range(1, tiles + 1):
        if count > 1 and max(height, width) < 0.75 * count * side:
            return
        tall, wide = height / count, width / count
        for row in range(count):
            for column in range(count):
                corners = (column * wide, row * tall, (column + 1) * wide, (row + 1) * tall)
                left, top, right, bottom = (round(value) for value in corners)
                yield left, top, right, bottom


def _within(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def divide(
    picture: np.ndarray,
    *,
    most: int = 40,
    areas: tuple[float, float] = (0.006, 0.7),
    inside: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[tuple[int, ...], ...]]:
    """Divide an image (H, W, 3) uint8: a map (H, W) uint16 of regions, and objects as groups of region ids.

    most: objects, at most; those that last longest, and the larger ones rather. areas: least and largest share of the
    image. inside: (H, W) bool, what lies outside of it is one cell of its own and in no object.
    """
    features = _features(picture)
    edges = _edges(features)
    cells = _cells(edges, inside)
    tree = Tree.grow(cells, features, edges, inside)
    kept = tree.lasting(most, areas, cells.size)
    owner, groups = tree.nested(kept)
    return owner[cells].astype(np.uint16), groups


def lab(picture: np.ndarray) -> np.ndarray:
    """sRGB (H, W, 3) uint8 as CIE L*a*b* (D65), float32."""
    value = picture.astype(np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ (matrix / np.array([[0.9505], [1.0], [1.089]])).T.astype(np.float32)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = root[..., 0], root[..., 1], root[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1).astype(np.float32)


def _features(picture: np.ndarray) -> np.ndarray:
    """(H, W, 5): lightness, two colours, fine and coarse roughness, each about 0 to 1."""
    colour = lab(picture) / 100
    light = colour[..., 0]
    rough = []
    for scale in (1.5, 4.0):
        away = light - ndimage.gaussian_filter(light, scale)
        rough.append(np.sqrt(ndimage.gaussian_filter(away**2, 1.5 * scale)) * 4)
    smooth = ndimage.gaussian_filter(colour, (0.8, 0.8, 0))
    smooth[..., 1:] *= 1.6  # colours differ less than lightness does
    return np.concatenate([smooth, np.stack(rough, axis=-1)], axis=-1)


def _edges(features: np.ndarray) -> np.ndarray:
    """Boundary strength (H, W), about 0 to 1: how much the features change, finely and coarsely."""
    fine, coarse = features[..., :3], features
    found = np.zeros(features.shape[:2], dtype=np.float32)
    for maps, scale, weight in ((fine, 1.0, 1.0), (coarse, 2.5, 1.4)):
        power = np.zeros_like(found)
        for channel in range(maps.shape[-1]):
            power += ndimage.gaussian_gradient_magnitude(maps[..., channel], scale).astype(np.float32) ** 2
        found += weight * scale * np.sqrt(power)
    return found


def _cells(edges: np.ndarray, inside: np.ndarray | None) -> np.ndarray:
    """Watershed cells (H, W) from 0: one seed on the quietest pixel of every square of about 11 pixels."""
    height, width = edges.shape
    step = 11
    seeds = np.zeros(edges.shape, dtype=np.int32)
    number = 0
    for top in range(0, height, step):
        for left in range(0, width, step):
            window = edges[top : top + step, left : left + step]
            place = int(window.argmin())
            number += 1
            seeds[top + place // window.shape[1], left + place % window.shape[1]] = number
    steep = np.clip(edges * 400, 0, 255).astype(np.uint8)
    cells = ndimage.watershed_ift(steep, seeds)
    if inside is not None:
        cells = np.where(inside, cells, 0)
    return np.unique(cells, return_inverse=True)[1].reshape(edges.shape)


@dataclass(eq=False)
class Tree:
    """The tree that merging makes: nodes 0 to cells - 1 are cells, every other has two children."""

    sizes: list[float]
    births: list[float]  # the cost of the merger that made a node
    deaths: list[float] = field(default_factory=list)  # of the one that ended it
    children: dict[int, tuple[int, int]] = field(default_factory=dict)
    outside: int = -1  # the cell that is in no object

    @classmethod
    def grow(cls, cells: np.ndarray, features: np.ndarray, edges: np.ndarray, inside: np.ndarray | None) -> Tree:
        """Merge cells, the cheapest pair first, until one is left."""
        count = int(cells.max()) + 1
        sizes = np.bincount(cells.ravel(), minlength=count).astype(np.float64)
        histograms = list(_histograms(cells, features, count))
        means = [np.bincount(cells.ravel(), features[..., c].ravel(), count) / sizes for c in range(features.shape[-1])]
        middles = list(np.stack(means, axis=1))
        around = _borders(cells, edges)
        outside = int(cells[~inside][0]) if inside is not None and not inside.all() else -1
        if outside >= 0:
            for other in around.pop(outside, {}):
                around[other].pop(outside)
        tree = cls(list(sizes), [0.0] * count, [np.inf] * count, {}, outside)
        total = float(cells.size)

        def cost(a: int, b: int) -> float:
            border, length = around[a][b]
            apart = float(np.abs(histograms[a] - histograms[b]).sum()) / (2 * features.shape[-1])
            gap = float(np.sqrt(((middles[a] - middles[b]) ** 2).sum()))
            small = min(tree.sizes[a], tree.sizes[b]) / total
            return (border / length + 0.6 * apart + 0.3 * gap) * (small + 2e-4) ** 0.22

        queue = [(cost(a, b), a, b) for a in around for b in around[a] if a < b]
        heapq.heapify(queue)
        while queue:
            price, a, b = heapq.heappop(queue)
            if a not in around or b not in around:
                continue
            new, weight = len(tree.sizes), tree.sizes[a] + tree.sizes[b]
            share = tree.sizes[a] / weight
            price = max(price, tree.births[a], tree.births[b])
            tree.deaths[a] = tree.deaths[b] = price
            tree.sizes.append(weight)
            tree.births.append(price)
            tree.deaths.append(np.inf)
            tree.children[new] = (a, b)
            histograms.append(share * histograms[a] + (1 - share) * histograms[b])
            middles.append(share * middles[a] + (1 - share) * middles[b])
            joined: dict[int, tuple[float, float]] = {}
            for old in (a, b):
                for other, (border, length) in around.pop(old).items():
                    if other in (a, b):
                        continue
                    known = joined.get(other, (0.0, 0.0))
                    joined[other] = (known[0] + border, known[1] + length)
                    around[other].pop(old)
            around[new] = joined
            for other, value in joined.items():
                around[other][new] = value
                heapq.heappush(queue, (cost(other, new), other, new))
        return tree

    def lasting(self, most: int, areas: tuple[float, float], pixels: int) -> list[int]:
        """The nodes of a usable size that last longest, children before parents."""
        found = []
        for node, size in enumerate(self.sizes):
            lasts = self.deaths[node] / max(self.births[node], FLOOR)
            if areas[0] * pixels <= size <= areas[1] * pixels and node != self.outside and lasts > REACH:
                found.append((np.log(min(lasts, 100.0)) * size**0.3, node))
        return sorted(node for _, node in sorted(found, reverse=True)[:most])

    def nested(self, kept: Sequence[int]) -> tuple[np.ndarray, tuple[tuple[int, ...], ...]]:
        """For every cell its region (of the innermost kept node, 0 for none), and each kept node's regions."""
        number = {node: place + 1 for place, node in enumerate(kept)}
        cells = min(self.children, default=len(self.sizes))
        owner = np.zeros(cells, dtype=np.int64)
        parts: dict[int, list[int]] = {node: [number[node]] for node in kept}
        inherited: dict[int, int] = {}
        for node in range(len(self.sizes) - 1, -1, -1):
            mine = node if node in number else inherited.get(node)
            if node in number:
                above = inherited.get(node)
                if above is not None:
                    parts[above].append(number[node])
            for child in self.children.get(node, ()):
                if mine is not None:
                    inherited[child] = mine
            if node < cells and mine is not None:
                owner[node] = number[mine]
        for node in sorted(kept):  # children come before parents
            direct = parts[node][1:]
            for region in direct:
                parts[node] += [r for r in parts[kept[region - 1]] if r not in parts[node]]
        present = set(np.unique(owner).tolist())
        groups = (tuple(region for region in parts[node] if region in present) for node in kept)
        return owner, tuple(dict.fromkeys(group for group in groups if group))


def _histograms(cells: np.ndarray, features: np.ndarray, count: int) -> np.ndarray:
    """(cells, channels * BINS): how each cell's values are spread, blurred by a bin either way."""
    spread = []
    for channel in range(features.shape[-1]):
        low, high = np.quantile(features[..., channel], (0.01, 0.99))
        place = np.clip((features[..., channel] - low) / max(high - low, 0.15) * BINS, 0, BINS - 1).astype(np.int64)
        table = np.bincount(cells.ravel() * BINS + place.ravel(), minlength=count * BINS).reshape(count, BINS)
        table = ndimage.convolve1d(table.astype(np.float64), [0.25, 0.5, 0.25], axis=1, mode="nearest")
        spread.append(table / table.sum(1, keepdims=True))
    return np.concatenate(spread, axis=1)


def _borders(cells: np.ndarray, edges: np.ndarray) -> dict[int, dict[int, tuple[float, float]]]:
    """For every cell its neighbours, with the summed strength and the length of the border between them."""
    pairs, strengths = [], []
    for first, second in ((np.s_[:, :-1], np.s_[:, 1:]), (np.s_[:-1], np.s_[1:])):
        a, b = cells[first], cells[second]
        other = a != b
        pairs.append(np.stack([np.minimum(a, b)[other], np.maximum(a, b)[other]], axis=1))
        strengths.append(np.maximum(edges[first], edges[second])[other])
    joined, strength = np.concatenate(pairs), np.concatenate(strengths)
    keys, place = np.unique(joined[:, 0] * (cells.max() + 1) + joined[:, 1], return_inverse=True)
    sums, lengths = np.bincount(place, strength), np.bincount(place)
    around: dict[int, dict[int, tuple[float, float]]] = {number: {} for number in range(int(cells.max()) + 1)}
    for key, total, length in zip(keys.tolist(), sums.tolist(), lengths.tolist()):
        a, b = divmod(key, int(cells.max()) + 1)
        around[a][b] = around[b][a] = (total, float(length))
    return around
