"""Render the videos of `nano.yaml`: solid things that turn, come nearer and hide one another, with exact masks.

    python sam2core/nano/recipes/nano_renders.py DIR

DIR is the folder that `nano_data.py` made; the videos go to DIR/renders. Meshes are pybullet's own (zlib licence),
covered with pieces of the folder's photos, before more of them. Needs pybullet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pybullet
import pybullet_data
from PIL import Image, ImageFilter
from scipy.spatial.transform import Rotation, Slerp

from sam2core.media.images import read_rgb

CLIPS, FRAMES, SIZE = 200, 6, 288
NAMED = (
    "duck teddy2_VHACD_CHs soccerball bunny torus/torus_textured lego/lego jenga/jenga domino/domino cube objects/mug"
)
COLOURS = [0, 0, 0, 230, 60, 60, 60, 200, 60, 60, 60, 230, 230, 200, 60, 200, 60, 200]  # of the palette


def solid(mesh: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The triangles (T, 3, 3) of a Wavefront file about 0 with radius 1, their normals (T, 3), and places on a texture.

    A texture is laid on from the side that a triangle faces most.
    """
    rows = [line.split() for line in mesh.read_text(errors="ignore").splitlines()]
    points = np.array([row[1:4] for row in rows if row[:1] == ["v"]], dtype=float)
    points -= (points.min(0) + points.max(0)) / 2
    points /= np.linalg.norm(points, axis=1).max()
    faces = [[int(corner.split("/")[0]) for corner in row[1:]] for row in rows if row[:1] == ["f"]]
    fans = [(face[0], face[k], face[k + 1]) for face in faces for k in range(1, len(face) - 1)]
    corners = points[np.array([[index - 1 if index > 0 else index for index in fan] for fan in fans])]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    axes = np.array([[1, 2], [0, 2], [0, 1]])[np.abs(normals).argmax(1)]
    places = 0.5 + 0.5 * np.take_along_axis(corners, axes[:, None].repeat(3, 1), 2)
    return corners, normals, places


def patch(photographs: list[Path], rng: np.random.Generator, side: int) -> Image.Image:
    """A square piece of some photo."""
    picture = Image.fromarray(read_rgb(photographs[int(rng.integers(len(photographs)))]))
    span = min(picture.size) * rng.uniform(0.3, 1.0)
    left, top = rng.uniform(0, picture.width - span), rng.uniform(0, picture.height - span)
    return picture.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + span, top + span))


def wander(rng: np.random.Generator, reach: np.ndarray) -> np.ndarray:
    """(FRAMES, 3) places on a smooth curve through three random ones."""
    ends = rng.uniform(-1, 1, (3, 3)) * reach
    t = np.linspace(0, rng.uniform(0.3, 1.0), FRAMES)[:, None]
    return (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]


def clip(number: int, target: Path, meshes: list[Path], photographs: list[Path]) -> None:
    """Render one video to target/JPEGImages/NUMBER and target/Annotations/NUMBER."""
    rng = np.random.default_rng([7, number])
    pybullet.resetSimulation()
    bodies, paths, turns = [], [], []
    for place in range(int(rng.integers(2, 5))):
        corners, normals, places = solid(meshes[int(rng.integers(len(meshes)))])
        shape = pybullet.createVisualShape(
            pybullet.GEOM_MESH,
            vertices=(corners * rng.uniform(0.35, 1.0)).reshape(-1, 3).tolist(),
            indices=list(range(3 * len(corners))),
            uvs=places.reshape(-1, 2).tolist(),
            normals=normals.repeat(3, axis=0).tolist(),
        )
        body = pybullet.createMultiBody(baseVisualShapeIndex=shape)
        colour = [*rng.uniform(0.3, 1.0, 3), 1]
        if rng.random() < 0.75:
            covering = target / f"texture_{number}_{place}.png"  # pybullet keeps textures by their name
            patch(photographs, rng, 256).save(covering)
            texture, colour = pybullet.loadTexture(str(covering)), [1, 1, 1, 1]
            covering.unlink()
            pybullet.changeVisualShape(body, -1, textureUniqueId=texture)
        pybullet.changeVisualShape(body, -1, rgbaColor=colour)
        bodies.append(body)
        paths.append(wander(rng, np.array([1.2, 1.2, 0.8])))
        start = Rotation.random(random_state=rng)
        spin = Rotation.from_rotvec(rng.normal(size=3) * rng.uniform(0.1, 0.8))
        turns.append(Slerp([0, FRAMES - 1], Rotation.concatenate([start, spin * start]))(np.arange(FRAMES)))
    ground = np.asarray(patch(photographs, rng, SIZE * 5 // 4))
    drift = wander(rng, np.full(3, SIZE / 8))[:, :2]
    light = rng.normal(size=3).tolist()
    lens = pybullet.computeProjectionMatrixFOV(rng.uniform(30, 60), 1.0, 0.1, 20)
    away = rng.uniform(2.5, 4.0)
    folders = [target / kind / f"{number:04d}" for kind in ("JPEGImages", "Annotations")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for frame in range(FRAMES):
        for body, path, turn in zip(bodies, paths, turns):
            pybullet.resetBasePositionAndOrientation(body, path[frame].tolist(), turn[frame].as_quat().tolist())
        eye = pybullet.computeViewMatrix([0, -away, 0.3], [0, 0, 0], [0, 0, 1])
        _, _, colour, _, ids = pybullet.getCameraImage(
            SIZE, SIZE, eye, lens, light, shadow=0, renderer=pybullet.ER_TINY_RENDERER,
            lightAmbientCoeff=0.6, lightDiffuseCoeff=0.6, lightSpecularCoeff=0.05,
        )  # fmt: skip
        rows, columns = (SIZE // 8 + drift[frame]).round().astype(int)
        back = ground[rows : rows + SIZE, columns : columns + SIZE]
        ids = np.reshape(ids, (SIZE, SIZE))
        front = np.reshape(colour, (SIZE, SIZE, 4))[..., :3].astype(np.uint8)
        shown = Image.fromarray(np.where((ids >= 0)[..., None], front, back)).filter(ImageFilter.GaussianBlur(0.5))
        shown.save(folders[0] / f"{frame:05d}.jpg", quality=90)
        labels = np.zeros(ids.shape, np.uint8)
        for place, body in enumerate(bodies):
            labels[ids == body] = place + 1
        coded = Image.fromarray(labels, mode="P")
        coded.putpalette(COLOURS)
        coded.save(folders[1] / f"{frame:05d}.png")


def main() -> None:
    """Render all videos that are not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path)
    given = parser.parse_args()
    photographs = sorted((given.target / "photographs").glob("*.jpg"))
    root = Path(pybullet_data.getDataPath())
    meshes = [root / f"{name}.obj" for name in NAMED.split()] * 12
    meshes += sorted(root.glob("random_urdfs/*/*.obj"))[:400]
    meshes = [mesh for mesh in meshes if mesh.stat().st_size < 400_000]
    pybullet.connect(pybullet.DIRECT)
    target = given.target / "renders"
    target.mkdir(exist_ok=True)
    for number in range(CLIPS):
        if not (target / "Annotations" / f"{number:04d}" / f"{FRAMES - 1:05d}.png").exists():
            clip(number, target, meshes, photographs)


if __name__ == "__main__":
    main()
