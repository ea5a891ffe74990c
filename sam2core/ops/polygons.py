"""Polygons as masks and masks as polygons, by the rule of COCO's own tools: x, y count pixel edges from 0.

The corners (10, 10) and (20, 20) span ten pixels a side. Source of the rule: ``rleFrPoly`` of cocoapi, which samples
every outline five times as fine as the pixels and counts crossings.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

_FINE = 5  # steps to a pixel along an outline


def fill_ring(ring: Sequence[float] | np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of one closed ring x, y, x, y, ... or (N, 2); where it crosses itself, what is twice inside
    is outside.

    Raises:
        ValueError: an odd number of values, or one that is not finite.
    """
    corners = np.asarray(ring, dtype=np.float64).reshape(-1)
    if corners.size % 2 or not np.isfinite(corners).all():
        raise ValueError(f"a polygon is x, y, x, y, ...: an even number of finite values, not {corners.size}")
    height, width = size
    if corners.size < 6:
        return np.zeros(size, dtype=bool)
    fine = np.trunc(_FINE * corners.reshape(-1, 2) + 0.5).astype(np.int64)
    u, v = _outline(fine)
    crossed = np.flatnonzero(u[1:] != u[:-1]) + 1
    columns = np.minimum(u[crossed], u[crossed - 1])
    kept = ((columns - _FINE // 2) % _FINE == 0) & (columns >= _FINE // 2)  # the middles of pixels
    columns, rows = (columns[kept] - _FINE // 2) // _FINE, np.minimum(v[crossed], v[crossed - 1])[kept]
    rows = np.ceil(np.clip((rows + 0.5) / _FINE - 0.5, 0, height)).astype(np.int64)
    inside = columns < width
    places = columns[inside] * height + rows[inside]
    toggles = np.bincount(places, minlength=height * width + 1)[: height * width]
    return np.ascontiguousarray((np.cumsum(toggles) & 1).astype(bool).reshape(width, height).T)


def fill_rings(rings: Iterable[Sequence[float] | np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of several rings, each filled by itself: what any of them covers, as COCO has it."""
    mask = np.zeros(size, dtype=bool)
    for ring in rings:
        mask |= fill_ring(ring, size)
    return mask


def is_degenerate(ring: Sequence[float] | np.ndarray) -> bool:
    """Whether a ring has no inside: fewer than three corners, or all of them on one line."""
    corners = np.asarray(ring, dtype=np.float64).reshape(-1, 2)
    if len(corners) < 3:
        return True
    spread = corners - corners[0]
    return bool(np.linalg.matrix_rank(spread, tol=1e-9) < 2)


def _outline(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every grid point along the closed ring (N, 2), corner after corner; the same both ways along an edge."""
    us, vs = [], []
    for (xs, ys), (xe, ye) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist()):
        dx, dy = abs(xe - xs), abs(ye - ys)
        across = dx >= dy
        flip = xs > xe if across else ys > ye
        if flip:
            xs, xe, ys, ye = xe, xs, ye, ys
        step = np.arange((dx if across else dy) + 1)
        if flip:
            step = step[::-1]
        if across:
            slope = (ye - ys) / dx if dx else 0.0
            us.append(step + xs)
            vs.append(np.trunc(ys + slope * step + 0.5).astype(np.int64))
        else:
            slope = (xe - xs) / dy
            vs.append(step + ys)
            us.append(np.trunc(xs + slope * step + 0.5).astype(np.int64))
    return np.concatenate(us), np.concatenate(vs)


def extent(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box x0, y0, x1, y1 around a mask (H, W), along its pixels' edges; zeros for an empty one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def window_around(mask: np.ndarray, margin: int) -> tuple[slice, slice] | None:
    """The rows and columns that a mask (H, W) lies in, and `margin` more on every side; None when it is empty."""
    x0, y0, x1, y1 = extent(mask)
    if not x1:
        return None
    return slice(max(0, y0 - margin), y1 + margin), slice(max(0, x0 - margin), x1 + margin)


def trace(mask: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The outer rings and the rings of the holes of a mask (H, W), each (N, 2) of x, y along its pixels' edges.

    `fill_ring` of an outer ring gives a piece with its holes filled. Pieces that touch at a corner alone are apart.
    """
    padded = np.pad(np.asarray(mask) != 0, 1)
    following = _edges(padded)
    outer: list[np.ndarray] = []
    holes: list[np.ndarray] = []
    while following:
        start = next(iter(following))
        corners: list[tuple[int, int]] = []
        place, heading = start, following[start][0]
        while place in following:
            ways = following[place]
            # inside lies to the right: where two pieces meet in a corner, the right turn stays with its own
            turn = (-heading[1], heading[0])
            way = turn if turn in ways else ways[0]
            ways.remove(way)
            if not ways:
                del following[place]
            if way != heading or not corners:
                corners.append(place)
            place, heading = (place[0] + way[0], place[1] + way[1]), way
            if place == start:
                break
        ring = np.array(corners, dtype=np.int64)
        (outer if _signed_area(ring) > 0 else holes).append(ring)
    return outer, holes


def _edges(padded: np.ndarray) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """From each corner of the pixels of a padded mask, the unit steps along its outline, inside to the right."""
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def add(rows: np.ndarray, columns: np.ndarray, way: tuple[int, int]) -> None:
        for x, y in zip(columns.tolist(), rows.tolist()):
            following.setdefault((x, y), []).append(way)

    inside, above, left = padded[1:, 1:], padded[:-1, 1:], padded[1:, :-1]
    rows, columns = np.nonzero(inside & ~above)
    add(rows, columns, (1, 0))  # along the top edge to the right
    rows, columns = np.nonzero(above & ~inside)
    add(rows, columns + 1, (-1, 0))  # along the bottom edge back
    rows, columns = np.nonzero(inside & ~left)
    add(rows + 1, columns, (0, -1))  # up the left edge
    rows, columns = np.nonzero(left & ~inside)
    add(rows, columns, (0, 1))  # down the right edge
    return following


def _signed_area(ring: np.ndarray) -> int:
    x, y = ring[:, 0], ring[:, 1]
    return int((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def as_one_ring(outer: Sequence[np.ndarray], holes: Sequence[np.ndarray]) -> np.ndarray:
    """All rings of a mask as a single one (N, 2), joined by slits that are passed twice and enclose nothing.

    For formats that hold one ring an object. `fill_ring` of it gives back the mask.
    """
    rings = [*outer, *holes]
    if not rings:
        return np.zeros((0, 2), dtype=np.int64)
    home = rings[0][:1]
    path = [rings[0]]
    for ring in rings[1:]:
        path += [home, ring, ring[:1]]
    return np.concatenate([*path, home] if len(rings) > 1 else path)
