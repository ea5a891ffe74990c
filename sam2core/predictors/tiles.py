"""Automatic masks of images of any size: tile by tile, objects that a seam cuts put together, memory bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from sam2core.media.rasters import Window
from sam2core.ops import rle
from sam2core.predictors.automask_record import AutoMask
from sam2core.predictors.crops import Crop

AGREEMENT = 0.5
"""The IoU, where two tiles overlap, from which their masks are one object."""
STRIP = 2**24
"""Pixels of an object that are looked at in one go when it is put together: one may be as large as the image."""

Segment = Callable[[np.ndarray], Sequence[AutoMask]]
Progress = Callable[[int, int], None]


def tile_grid(size: tuple[int, int], tile: int, overlap: int) -> list[list[Crop]]:
    """Rows of tiles that cover an image of (H, W), neighbours sharing `overlap` pixels or a little more.

    Raises ValueError for a tile that is not larger than twice the overlap.
    """
    if overlap < 0 or tile <= 2 * overlap:
        raise ValueError(f"a tile is larger than twice the overlap; got {tile} and {overlap} pixels")

    def line(length: int) -> list[tuple[int, int]]:
        if length <= tile:
            return [(0, length)]
        count = -(-(length - overlap) // (tile - overlap))
        starts = np.linspace(0, length - tile, count).round().astype(int).tolist()
        return [(start, start + tile) for start in starts]

    rows, columns = line(size[0]), line(size[1])
    return [[(x0, y0, x1, y1) for x0, x1 in columns] for y0, y1 in rows]


def stream_tiles(
    segment: Segment,
    source: Window,
    *,
    tile: int = 1024,
    overlap: int | None = None,
    agreement: float = AGREEMENT,
    progress: Progress | None = None,
) -> Iterator[AutoMask]:
    """The masks of an image of any size, as soon as no further tile can add to them.

    `segment` finds the masks of one tile, such as `MaskGenerator.generate`; `source` is (H, W) or (H, W, C), and read
    one tile at a time; `tile` and `overlap` are pixels (default: an eighth of a tile). Masks of neighbouring tiles that
    agree where both see them become one; so an object larger than a tile is put together as well. A mask that its tile
    cuts off, and that the tile beyond does not confirm although it sees all of it, is dropped. `progress(done, total)`
    counts tiles. Raises ValueError for a source that is no image.
    """
    if len(source.shape) not in (2, 3) or min(source.shape[:2]) < 1:
        raise ValueError(f"an image is (H, W) or (H, W, C), not {tuple(source.shape)}")
    size = (int(source.shape[0]), int(source.shape[1]))
    rows = tile_grid(size, tile, tile // 8 if overlap is None else overlap)
    total, done = sum(len(row) for row in rows), 0
    above: list[_Tile] = []
    open_objects: dict[int, _Object] = {}
    for number, row in enumerate(rows):
        current: list[_Tile] = []
        for crop in row:
            x0, y0, x1, y1 = crop
            found = segment(np.ascontiguousarray(source[y0:y1, x0:x1]))
            here = _Tile(crop, [_Piece.of(mask, crop, size) for mask in found])
            for piece in here.pieces:
                open_objects[id(piece.owner)] = piece.owner
            for neighbour in (*above, *current[-1:]):
                _join(neighbour, here, open_objects, agreement)
            current.append(here)
            done += 1
            if progress is not None:
                progress(done, total)
        below = rows[number + 1][0][1] if number + 1 < len(rows) else size[0] + 1
        for key, thing in list(open_objects.items()):
            if all(piece.box[3] < below for piece in thing.pieces):
                del open_objects[key]
                if not thing.doubtful:
                    yield thing.whole(size)
        above = current
    assert not open_objects


@dataclass(eq=False)
class _Object:
    """Pieces that are one object."""

    pieces: list[_Piece] = field(default_factory=list)

    @property
    def doubtful(self) -> bool:
        """Cut off by its tile, within what a neighbour sees of it, and confirmed by nobody."""
        return len(self.pieces) == 1 and self.pieces[0].unconfirmed

    def whole(self, size: tuple[int, int]) -> AutoMask:
        """The object in the image of `size`; estimates are those of its largest piece."""
        x0, y0 = (min(piece.box[side] for piece in self.pieces) for side in (0, 1))
        x1, y1 = (max(piece.box[side] for piece in self.pieces) for side in (2, 3))
        step = max(1, STRIP // (y1 - y0 + 1))
        zones = ((left, y0, min(left + step, x1 + 1), y1 + 1) for left in range(x0, x1 + 1, step))
        largest = max(self.pieces, key=lambda piece: piece.area)
        return AutoMask(
            size=size,
            runs=rle.runs_of_parts(((self._within(zone), zone[:2]) for zone in zones), size),
            box=(x0, y0, x1, y1),
            iou=largest.iou,
            stability=largest.stability,
            point=largest.point,
            crop=largest.crop,
        )

    def _within(self, zone: Crop) -> np.ndarray:
        """The object's pixels in a zone, as far as that goes."""
        together = np.zeros((zone[3] - zone[1], zone[2] - zone[0]), dtype=bool)
        for piece in self.pieces:
            if part := piece.part(zone):
                inside, (x0, y0, x1, y1) = part
                together[y0 - zone[1] : y1 - zone[1], x0 - zone[0] : x1 - zone[0]] |= inside
        return together


@dataclass(eq=False)
class _Piece:
    """A mask of one tile, in the image's pixels."""

    box: Crop  # the last corner inclusive
    packed: np.ndarray  # the box's pixels, eight to a byte
    area: int
    iou: float
    stability: float
    point: tuple[float, float]
    crop: Crop
    cut: tuple[bool, bool, bool, bool]  # whether it touches the left, top, right, bottom of its tile inside the image
    owner: _Object
    unconfirmed: bool = False

    @classmethod
    def of(cls, mask: AutoMask, crop: Crop, size: tuple[int, int]) -> _Piece:
        left, top, right, bottom = mask.box
        x0, y0, x1, y1 = crop
        piece = cls(
            box=(left + x0, top + y0, right + x0, bottom + y0),
            packed=np.packbits(mask.mask[top : bottom + 1, left : right + 1]),
            area=mask.area,
            iou=mask.iou,
            stability=mask.stability,
            point=(mask.point[0] + x0, mask.point[1] + y0),
            crop=crop,
            cut=(
                left <= 1 and x0 > 0,
                top <= 1 and y0 > 0,
                right >= x1 - x0 - 2 and x1 < size[1],
                bottom >= y1 - y0 - 2 and y1 < size[0],
            ),
            owner=_Object(),
        )
        piece.owner.pieces.append(piece)
        return piece

    @property
    def inside(self) -> np.ndarray:
        shape = self.box[3] - self.box[1] + 1, self.box[2] - self.box[0] + 1
        return np.unpackbits(self.packed, count=shape[0] * shape[1]).view(bool).reshape(shape)

    def part(self, zone: Crop) -> tuple[np.ndarray, Crop] | None:
        """What of it lies in a zone, and where; None for nothing."""
        x0, y0 = max(self.box[0], zone[0]), max(self.box[1], zone[1])
        x1, y1 = min(self.box[2] + 1, zone[2]), min(self.box[3] + 1, zone[3])
        if x0 >= x1 or y0 >= y1:
            return None
        left, top = self.box[:2]
        inside = self.inside[y0 - top : y1 - top, x0 - left : x1 - left]
        return (inside, (x0, y0, x1, y1)) if inside.any() else None

    def hidden_in(self, zone: Crop) -> bool:
        """Whether its tile cuts it off inside the zone, and the zone holds all of it."""
        x0, y0, x1, y1 = zone
        left, top, right, bottom = self.box
        within = x0 <= left and y0 <= top and right < x1 and bottom < y1
        # the sides of the zone that are sides of its own tile, with the neighbour going on beyond them
        sides = (x0 == self.crop[0], y0 == self.crop[1], x1 == self.crop[2], y1 == self.crop[3])
        return within and any(cut and side for cut, side in zip(self.cut, sides))


@dataclass(eq=False)
class _Tile:
    crop: Crop
    pieces: list[_Piece]


def _join(a: _Tile, b: _Tile, open_objects: dict[int, _Object], agreement: float) -> None:
    """Make one object of the pieces of two tiles that agree in the zone both see; best agreement first, one to one."""
    zone = (
        max(a.crop[0], b.crop[0]),
        max(a.crop[1], b.crop[1]),
        min(a.crop[2], b.crop[2]),
        min(a.crop[3], b.crop[3]),
    )
    if zone[0] >= zone[2] or zone[1] >= zone[3]:
        return
    seen_a = [(piece, part) for piece in a.pieces if (part := piece.part(zone)) is not None]
    seen_b = [(piece, part) for piece in b.pieces if (part := piece.part(zone)) is not None]
    pairs = []
    for i, (_, part_a) in enumerate(seen_a):
        for j, (_, part_b) in enumerate(seen_b):
            score = _agreement(part_a, part_b)
            if score >= agreement:
                pairs.append((score, i, j))
    used_a: set[int] = set()
    used_b: set[int] = set()
    for _, i, j in sorted(pairs, key=lambda pair: -pair[0]):
        if i in used_a or j in used_b:
            continue
        used_a.add(i)
        used_b.add(j)
        _unite(seen_a[i][0].owner, seen_b[j][0].owner, open_objects)
    for seen, used in ((seen_a, used_a), (seen_b, used_b)):
        for index, (piece, _) in enumerate(seen):
            if index not in used and piece.hidden_in(zone):
                piece.unconfirmed = True


def _agreement(a: tuple[np.ndarray, Crop], b: tuple[np.ndarray, Crop]) -> float:
    (inside_a, at_a), (inside_b, at_b) = a, b
    x0, y0 = max(at_a[0], at_b[0]), max(at_a[1], at_b[1])
    x1, y1 = min(at_a[2], at_b[2]), min(at_a[3], at_b[3])
    if x0 >= x1 or y0 >= y1:
        return 0.0
    common = (
        inside_a[y0 - at_a[1] : y1 - at_a[1], x0 - at_a[0] : x1 - at_a[0]]
        & inside_b[y0 - at_b[1] : y1 - at_b[1], x0 - at_b[0] : x1 - at_b[0]]
    )
    shared = int(np.count_nonzero(common))
    return shared / (int(np.count_nonzero(inside_a)) + int(np.count_nonzero(inside_b)) - shared)


def _unite(a: _Object, b: _Object, open_objects: dict[int, _Object]) -> None:
    if a is b:
        return
    for piece in b.pieces:
        piece.owner = a
    a.pieces += b.pieces
    open_objects.pop(id(b), None)
    open_objects[id(a)] = a
