"""The law of this room: nothing outside it opens an image, a video or a raster."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for folder in ("sam2core", "registry", "benchmarks", "plugins")
    for file in (ROOT / folder).rglob("*.py")
    if ROOT / "sam2core" / "media" not in file.parents
    and not {"tests", "build", ".venv"} & set(file.relative_to(ROOT).parts)
)
OPENERS = {
    *("Image.open", "ImageOps.exif_transpose", "av.open", "iio.imread", "iio.imiter"),
    *("cv2.imread", "cv2.imdecode", "cv2.VideoCapture", "imageio.imread", "imageio.get_reader", "io.imread"),
    *("tifffile.imread", "tifffile.TiffFile", "tifffile.memmap", "skimage.io.imread", "rasterio.open"),
    *("torchvision.io.read_image", "torchvision.io.decode_image", "torchvision.io.read_video"),
}


def openings(source: str) -> Iterator[str]:
    """The calls in a module that open images or videos to read them."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        name = ".".join(name.split(".")[-2:]) if name not in OPENERS else name
        written = len(node.args) > 1 and isinstance(node.args[1], ast.Constant) and node.args[1].value == "w"
        if name.replace("_av", "av") in OPENERS and not (name.endswith("av.open") and written):
            yield f"line {node.lineno}: {ast.unparse(node)[:80]}"


def test_only_media_opens_pictures_and_clips() -> None:
    found = {str(file.relative_to(ROOT)): list(openings(file.read_text(encoding="utf-8"))) for file in FILES}
    found = {name: calls for name, calls in found.items() if calls}
    assert len(FILES) > 150 and not found, f"these open what sam2core.media opens: {found}"


def test_the_law_sees_what_it_is_for() -> None:
    bad = "from PIL import Image\nImage.open(p)\ncv2.imread(p)\nself._av.open(p, 'r')\nPIL.Image.open(p)\n"
    assert len(list(openings(bad))) == 4
    assert not list(openings("av.open(p, 'w')\nopen(p)\nImage.fromarray(x)\npath.open()\n"))
