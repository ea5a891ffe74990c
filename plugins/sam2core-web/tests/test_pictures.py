"""An image gives on the page what `sam2core segment` makes of it, whatever its depth, colours and turn."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

import registry
from sam2core.media.images import read_rgb
from sam2core.ops import rle

CAT = Path(registry.__file__).parent / "samples" / "cat.jpg"


def cat() -> np.ndarray:
    """A dark cat, small, in greys between those of eight bits: (H, W) in [0, 1]."""
    with Image.open(CAT) as picture:
        grey = np.asarray(picture.convert("L").resize((225, 150)), dtype=np.float64)
    rows = np.arange(len(grey))[:, None]
    return (grey / 255 * 0.02 + rows / 1e6).astype(np.float32)


def written(kind: str) -> tuple[bytes, str]:
    """An image file of one kind, and its suffix."""
    values, file = cat(), io.BytesIO()
    if kind == "16-bit":
        Image.fromarray(np.round(values * 65535).astype(np.uint16)).save(file, "PNG")
    elif kind == "float":
        Image.fromarray(values).save(file, "TIFF")
    else:
        picture = Image.fromarray(np.round(values * 50 * 255).astype(np.uint8)).convert("RGB")
        if kind == "cmyk":
            picture.convert("CMYK").save(file, "JPEG", quality=95)
        else:
            exif = Image.Exif()
            exif[274] = int(kind.removeprefix("turn "))
            picture.save(file, "JPEG", quality=95, exif=exif)
    return file.getvalue(), {"float": ".tiff", "16-bit": ".png"}.get(kind, ".jpg")


@pytest.mark.parametrize("kind", ["16-bit", "float", "cmyk", "turn 6", "turn 3"])
def test_pictures_as_segment_sees_them(client: TestClient, tmp_path: Path, kind: str) -> None:
    data, suffix = written(kind)
    path = tmp_path / f"cat{suffix}"
    path.write_bytes(data)
    opened = client.post("/api/uploads", params={"name": path.name}, content=data).json()
    height, width = (opened["height"], opened["width"])
    assert (height, width) == ((225, 150) if kind == "turn 6" else (150, 225))
    point = [width * 0.5, height * 0.5]
    said = client.post(f"/api/sessions/{opened['id']}/prompts", json={"object": 1, "points": [point]}).json()
    predictor = client.app.state.engine.image
    wanted = predictor.encode(str(path)).predict(points=[point])  # what `sam2core segment` calls
    mask = rle.decode(said["masks"]["1"]["segmentation"])
    assert np.array_equal(mask, wanted.masks[0, 0].numpy()) and mask.any()
    assert said["masks"]["1"]["iou"] == round(float(wanted.iou[0, 0]), 4)
    everything = client.post(f"/api/sessions/{opened['id']}/everything", json={"points_per_side": 4}).json()["masks"]
    made = client.app.state.engine.grid(4).generate(str(path))
    assert sorted(one["area"] for one in everything) == sorted(one.area for one in made)
    seen = Image.open(io.BytesIO(client.get(f"/api/sessions/{opened['id']}/frames/0").content))
    assert np.abs(np.asarray(seen).astype(int) - read_rgb(path).astype(int)).mean() < 3


def test_thumbnails_of_deep_pictures(serve, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for kind in ("16-bit", "float"):
        data, suffix = written(kind)
        (tmp_path / f"deep{suffix}").write_bytes(data)
    client = serve(media=tmp_path)
    for name in ("deep.png", "deep.tiff"):
        assert {"name": name, "kind": "image"} in client.get("/api/media").json()
        seen = client.get("/api/thumbnail", params={"of": "media", "name": name})
        assert Image.open(io.BytesIO(seen.content)).size == (225, 150)
