"""Collect the free material of `nano.yaml` in one folder. What each image's licence is goes to LICENCES.tsv.

    python sam2core/nano/recipes/nano_data.py DIR --from PLACE

PLACE holds what was fetched and unpacked before: `coco128_panoptic`, `dsb2018_nuclei`, `pumavos`, `videos` (the demo
videos of the SAM 2 repository), Debian's `openclipart-png`, `lomiri-wallpapers-16.04` and `blender-data`, npm's
`@pmndrs/assets` as `pmndrs`, and the wheels `scikit_image`, `scikit_learn`. Needs pillow, PyAV and OpenEXR.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from sam2core.media.frames import open_source
from sam2core.media.images import as_bytes, image_size, read_rgb, read_rgba

LICENCES = {4: "CC BY 2.0", 5: "CC BY-SA 2.0", 7: "no known copyright restrictions", 8: "US government work"}
WALLPAPERS = {  # of Debian's copyright file: CC BY 4.0, one CC0
    "aitzgorri_by_Aitzol_Berasategi": "CC BY 4.0",
    "friends_by_Aitzol_Berasategi": "CC BY 4.0",
    "life_by_Aitzol_Berasategi": "CC BY 4.0",
    "picosdeeuropa_by_Aitzol_Berasategi": "CC BY 4.0",
    "Picture_0B_by_freespace": "CC BY 4.0",
    "Picture_1A_by_freespace": "CC BY 4.0",
    "seeding_by_Clements_Engelhardt": "CC0 1.0",
    "sunset_by_Aitzol_Berasategi": "CC BY 4.0",
    "umang_by_Abhishek_Mudgal": "CC BY 4.0",
    "Wine_by_Jakkub_Mede": "CC BY 4.0",
}
SKIMAGE = {  # chelsea and coffee are this package's samples: not trained on
    "astronaut.png": "public domain (NASA)",
    "camera.png": "CC0",
    "coins.png": "no known copyright restrictions",
    "brick.png": "CC0",
    "grass.png": "CC0",
    "gravel.png": "CC0",
    "rocket.jpg": "CC0",
    "motorcycle_left.png": "CC0",
}
VIDEOS = ("01_dog", "02_cups", "03_blocks", "04_coffee", "05_default_juggle")
DRAWINGS = (
    "animals food tools transportation/vehicles transportation/boating transportation recreation/music recreation/toys "
    "recreation/sports people plants buildings containers electronics computer/hardware office science education"
).split()
MOST = 800  # drawings
VIEW = 320  # pixels of a view out of a panorama


def free_photographs(place: Path) -> Iterator[tuple[str, Image.Image, str]]:
    """(name, image, licence) of the photos that come one by one."""
    for name, licence in WALLPAPERS.items():
        path = next((place / "lomiri-wallpapers-16.04").rglob(f"{name}.jpg"))
        picture = Image.fromarray(read_rgb(path))
        picture.thumbnail((2400, 2400))
        yield f"wallpaper_{name}", picture, licence
    for name, licence in SKIMAGE.items():
        yield f"skimage_{Path(name).stem}", Image.fromarray(read_rgb(place / "scikit_image" / name)), licence
    for name in ("china", "flower"):
        yield f"sklearn_{name}", Image.fromarray(read_rgb(place / "scikit_learn" / f"{name}.jpg")), "CC BY 2.0"
    frames = sorted((place / "pumavos" / "caps" / "JPEGImages").glob("*.jpg"))
    for number in range(5, len(frames), 12):
        yield f"caps_{number}", Image.fromarray(read_rgb(frames[number])), "CC BY 4.0 (PUMaVOS)"


def stills(path: Path, count: int) -> Iterator[Image.Image]:
    """Frames of a video, evenly spread."""
    with open_source(path) as frames:
        for place in np.linspace(0, (frames.length or 1) - 1, count).astype(int):
            yield Image.fromarray(as_bytes(frames[int(place)]))


def panoramas(place: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of the panoramas (CC0, Greg Zaal, Poly Haven); npm's are wrapped in JavaScript."""
    for path in sorted((place / "pmndrs" / "hdri").glob("*.exr.js")):
        coded = re.search(r"base64,([A-Za-z0-9+/=]+)", path.read_text())
        assert coded
        target = scratch / f"{path.name.split('.')[0]}.exr"
        target.write_bytes(base64.b64decode(coded[1]))
        yield f"pmndrs_{target.stem}", target
    for path in sorted((place / "blender-data").rglob("studiolights/world/*.exr")):
        yield f"blender_{path.stem}", path


def view(panorama: np.ndarray, yaw: float, pitch: float, across: float) -> Image.Image:
    """A view (VIEW, VIEW) out of an equirectangular panorama of linear light; angles in degrees."""
    half = np.tan(np.deg2rad(across / 2))
    x, y = np.meshgrid(np.linspace(-half, half, VIEW), np.linspace(half, -half, VIEW))
    ray = np.stack([x, y, np.ones_like(x)], axis=-1)
    ray /= np.linalg.norm(ray, axis=-1, keepdims=True)
    cos, sin = np.cos(np.deg2rad(pitch)), np.sin(np.deg2rad(pitch))
    up, ahead = cos * ray[..., 1] + sin * ray[..., 2], cos * ray[..., 2] - sin * ray[..., 1]
    height, width = panorama.shape[:2]
    column = (np.arctan2(ray[..., 0], ahead) / (2 * np.pi) + yaw / 360) % 1 * width
    row = (0.5 - np.arcsin(np.clip(up, -1, 1)) / np.pi) * height
    seen = [ndimage.map_coordinates(panorama[..., c], [row, column], order=1, mode="grid-wrap") for c in range(3)]
    light = np.stack(seen, axis=-1)
    light = light * (0.35 / max(float(np.median(light)), 1e-3)) ** 0.8
    shown = np.clip(1 - np.exp(-1.4 * np.clip(light, 0, None)), 0, 1) ** (1 / 2.2)
    return Image.fromarray((shown * 255).astype(np.uint8))


def main() -> None:
    """Collect everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    parser.add_argument("--from", dest="place", type=Path, required=True)
    given = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None  # some drawings are stored very large
    target, place = given.target, given.place
    photographs, drawings = target / "photographs", target / "drawings"
    for folder in (photographs, drawings):
        folder.mkdir(parents=True, exist_ok=True)
    licences = []

    def keep(name: str, picture: Image.Image, licence: str) -> None:
        picture.save(photographs / f"{name}.jpg", quality=95)
        licences.append(f"photographs/{name}.jpg\t{licence}")

    for name, picture, licence in free_photographs(place):
        keep(name, picture, licence)
    import json

    listing = place / "coco128_panoptic/panoptic_segmentation/annotations/panoptic_train2017.json"
    for image in json.loads(listing.read_text())["images"]:
        path = place / "coco128_panoptic/images/train2017" / image["file_name"]
        if image["license"] in LICENCES and path.exists():
            keep(f"coco_{path.stem}", Image.fromarray(read_rgb(path)), f"{LICENCES[image['license']]} (COCO)")
    for name in VIDEOS:
        for number, picture in enumerate(stills(place / "videos" / f"{name}.mp4", 6)):
            keep(f"video_{name}_{number}", picture, "Apache-2.0 (facebookresearch/sam2)")
    import OpenEXR

    for name, path in panoramas(place, target):
        channels = OpenEXR.File(str(path)).channels()
        pixels = channels["RGB"].pixels if "RGB" in channels else np.stack([channels[c].pixels for c in "RGB"], -1)
        bright = np.nan_to_num(np.asarray(pixels, dtype=np.float32), nan=100.0, posinf=100.0)  # the sun, in half floats
        for number in range(6):
            picture = view(bright, 60 * number + 20, -8 + 12 * (number % 3), 75)
            if np.asarray(picture.convert("L")).std() > 18:
                keep(f"{name}_{number}", picture, "CC0 (Greg Zaal, Poly Haven)")
    for path in target.glob("*.exr"):
        path.unlink()

    rng = np.random.default_rng(0)
    root = place / "openclipart-png/usr/share/openclipart/png"
    found = sorted({path for folder in DRAWINGS for path in (root / folder).rglob("*.png") if path.is_file()})
    for path in [found[number] for number in rng.permutation(len(found))]:
        size = image_size(path)
        if min(size) < 100 or max(size) > 4 * min(size) or max(size) > 4000:
            continue
        picture = Image.fromarray(read_rgba(path))
        picture.thumbnail((300, 300), Image.Resampling.LANCZOS)
        inside = np.asarray(picture)[..., 3] > 128
        if not 0.12 < inside.mean() < 0.95 or ndimage.label(inside)[1] > 4:
            continue
        name = "_".join(path.relative_to(root).parts)
        if sum(line.startswith("drawings") for line in licences) == MOST:
            break
        picture.save(drawings / name)
        licences.append(f"drawings/{name}\tpublic domain / CC0 (openclipart.org)")
    for name in ("coco128_panoptic", "dsb2018_nuclei"):
        if not (target / name).exists():
            shutil.copytree(place / name, target / name)
    (target / "LICENCES.tsv").write_text("\n".join(licences) + "\n")


if __name__ == "__main__":
    main()
