"""GeoJSON: a file an image, a feature an object, in the coordinates of a GeoTIFF or in pixels. Written, not read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from sam2core.data.footage import Footage
from sam2core.data.writing import Written, stem_of, write_document
from sam2core.media.rasters import coordinates

PIXELS = ".npy"
"""What has no place on earth."""


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write ``NAME.geojson``: polygons along the edges of pixels, holes and all, and the coordinate system by name.

    An image without one is written in pixels, y downwards, as QuPath has it. Needs rasterio (``sam2core[geo]``).
    """
    from rasterio.features import shapes

    for item in footage:
        for frame in range(item.length):
            transform, system = _placed(item, frame)
            features = []
            for number, mask in item.read(frame).items():
                found = shapes(mask.astype(np.uint8), mask=mask, transform=transform)
                rings = [geometry["coordinates"] for geometry, _ in found]
                about = {"id": number, "category": item.classes.get(number, "object"), "pixels": int(mask.sum())}
                features.append(_feature(rings, about))
            tree: dict[str, Any] = {"type": "FeatureCollection", "features": features}
            if system is None:
                written.lose("images have no coordinate system: their polygons are in pixels")
            else:
                tree["crs"] = {"type": "name", "properties": {"name": system}}
            write_document(root / f"{stem_of(item, frame)}.geojson", tree)
        written.lose_identity(item)


def _feature(rings: list[Any], about: dict[str, Any]) -> dict[str, Any]:
    """A feature of GeoJSON; one piece is a Polygon, several are a MultiPolygon, none is no place."""
    geometry = None
    if rings:
        kind, coordinates = ("Polygon", rings[0]) if len(rings) == 1 else ("MultiPolygon", rings)
        geometry = {"type": kind, "coordinates": coordinates}
    return {"type": "Feature", "properties": about, "geometry": geometry}


def _placed(item: Footage, frame: int) -> tuple[Any, str | None]:
    """The map from a frame's pixels to coordinates, and the name of their system; None where there is none."""
    from rasterio.transform import Affine

    media = item.media[item.labelled[frame]] if isinstance(item.media, tuple) else None
    if media is None or media.suffix == PIXELS:
        return Affine.identity(), None
    return coordinates(media)
