"""Clips made of one labelled image: a moving camera, objects that move by themselves, what crosses and hides them.

`pseudo_video` cuts objects out by their masks, fills the holes they leave, and moves everything along smooth paths;
masks are those of what stays visible. NumPy and Pillow alone, 20 clips of 4 frames a second at 256 pixels on one core.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sam2core.media.images import read_rgb
from sam2core.training.clips import Clip

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST


@dataclass(frozen=True)
class Motion:
    """How pseudo-videos move and what makes them hard. Probabilities and ranges over a whole clip."""

    static: float = 0.05  # nothing moves at all
    slow: float = 0.0  # everything moves a twentieth to half as far, as it does between frames in a row of a video
    rotate: float = 20.0  # degrees the camera turns, at most
    scale: float = 2.0  # how much the camera zooms, at most, either way
    shear: float = 10.0  # degrees
    shift: float = 0.2  # of the side
    move: float = 0.7  # an object moves by itself
    speed: float = 0.4  # of the side, over the clip
    bend: float = 0.06  # how far an object's outline is bent, of its size
    lookalike: float = 0.3  # a copy of an object that is not asked for moves besides
    occluder: float = 0.5  # something crosses an object
    vanish: float = 0.3  # what crosses it is large enough to hide it
    leave: float = 0.15  # an object leaves the image and comes back
    swap: float = 0.2  # objects change their order in depth
    drift: float = 0.6  # light changes over the clip
    blur: float = 0.15  # motion blur
    defocus: float = 0.08
    compress: float = 0.15  # JPEG
    noise: float = 0.25
    reverse: float = 0.5  # played backwards

    def slowed(self, share: float) -> Motion:
        """The same motion, going only `share` (0 to 1) as far; nothing leaves the image."""
        return replace(
            self,
            rotate=share * self.rotate,
            scale=self.scale**share,
            shear=share * self.shear,
            shift=share * self.shift,
            speed=share * self.speed,
            bend=share * self.bend,
            leave=0.0,
        )


STILL = Motion(static=1.0, rotate=0.0, scale=1.0, shear=0.0, shift=0.0, lookalike=0.0, occluder=0.0, leave=0.0)


@dataclass(eq=False)
class Layer:
    """Something cut out of an image: its pixels with opacity, the codes of the objects it shows, and how it moves."""

    pixels: Image.Image  # RGBA
    codes: Image.Image  # mode I; 0: no object
    path: np.ndarray  # (T, 2, 3) affine maps from the layer's pixels to the canvas
    bend: np.ndarray | None = None  # (T, 4, 4, 2) how far a grid of control points moves, in the layer's pixels


def pseudo_video(
    image: np.ndarray,
    masks: np.ndarray,
    frames: int,
    generator: np.random.Generator,
    *,
    size: int | None = None,
    motion: Motion = Motion(),
    strangers: Sequence[tuple[np.ndarray, np.ndarray]] = (),
    source: str = "",
    ignored: np.ndarray | None = None,
) -> Clip:
    """A clip of `frames` frames of (size, size) from an image (H, W, 3) uint8 and masks (N, H, W) bool of objects.

    Masks that overlap belong to one thing and move together. size: by default the image's height. strangers: cut-outs
    (h, w, 3) uint8 with (h, w) bool masks that may cross the objects; without them, something plain does. Masks of the
    clip are modal: what is hidden or out of the image is not in them, and they may be empty; those of the first
    frame are not, unless an object is hidden whatever is tried. ignored: pixels (H, W) that are not counted; they move
    with what they lie on.
    """
    size = size or image.shape[0]
    codes, whole = encode_masks(masks if ignored is None else np.concatenate([masks, ignored[None]]))
    table = whole[: len(masks)]
    for _ in range(3):
        found = render(image, codes, table, frames, size, motion, strangers, generator)
        seen = table[:, found[1]]
        if seen[:, 0].any((1, 2)).all():
            break
    else:
        found = render(image, codes, table, frames, size, STILL, (), generator)
        seen = table[:, found[1]]
    void = None if ignored is None else whole[-1][found[1]]
    return Clip(found[0], np.ascontiguousarray(seen.transpose(1, 0, 2, 3)), source, void)


def encode_masks(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks (N, H, W) as one map (H, W) int32 of codes, and the table (N, codes) that says which masks a code is in.

    Code 0 is in no mask.
    """
    code = np.zeros(masks.shape[1:], dtype=np.int32)
    table = np.zeros((0, 1), dtype=bool)
    for mask in masks:
        code = 2 * code + mask
        table = np.concatenate([np.repeat(table, 2, axis=1), np.tile([[False, True]], table.shape[1])])
        if table.shape[1] > 1 << 12:  # codes that do not occur are given up, so that any number of masks fits
            code, table = _tidy(code, table)
    return _tidy(code, table)


def _tidy(code: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    present = np.bincount(code.ravel(), minlength=table.shape[1]) > 0
    present[0] = True
    return (np.cumsum(present) - 1).astype(np.int32)[code], table[:, present]


# paths ---------------------------------------------------------------------------------------------------------------


def smooth_path(frames: int, values: int, generator: np.random.Generator) -> np.ndarray:
    """(frames, values) numbers that start at 0 and wander smoothly: speeds change slowly, the furthest is 1 away."""
    speed = generator.normal(size=values)
    steps = [np.zeros(values)]
    for _ in range(frames - 1):
        speed = 0.85 * speed + 0.5 * generator.normal(size=values)
        steps.append(steps[-1] + speed)
    path = np.stack(steps)
    return path / np.maximum(np.abs(path).max(0), 1e-6)


def affine(rotate: float, scale: float, shear: float, shift: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """The (2, 3) map that turns (degrees), scales and shears (degrees) about `centre` and shifts by `shift`."""
    angle, slant = np.deg2rad(rotate), np.tan(np.deg2rad(shear))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = scale * turn @ np.array([[1.0, slant], [0.0, 1.0]])
    return np.concatenate([linear, (centre + shift - linear @ centre)[:, None]], axis=1)


def then(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The affine map that does `first` and then `second`."""
    return np.concatenate([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]], axis=1)


def inverse(map_: np.ndarray) -> np.ndarray:
    """The affine map back."""
    linear = np.linalg.inv(map_[:, :2])
    return np.concatenate([linear, -linear @ map_[:, 2:]], axis=1)


def _camera(
    frames: int, canvas: tuple[int, int], size: int, motion: Motion, generator: np.random.Generator
) -> np.ndarray:
    """(T, 2, 3) maps from the canvas to the frame."""
    height, width = canvas
    centre = np.array([width, height]) / 2
    fit = np.array([[size / width, 0.0, 0.0], [0.0, size / height, 0.0]])
    wander = smooth_path(frames, 5, generator) * generator.uniform(0, 1, 5)
    rotate, zoom, shear = wander[:, 0] * motion.rotate, wander[:, 1], wander[:, 2] * motion.shear
    start = generator.uniform(1.0, 1.25)
    maps = []
    for t in range(frames):
        scale = np.clip(start * motion.scale ** (zoom[t] * 0.5), 0.85, 2.5)
        room = max(scale - 1, 0) / 2 + 0.1  # how far the view may go without seeing much beyond the image
        shift = np.clip(wander[t, 3:] * motion.shift, -room, room) * np.array([width, height])
        maps.append(then(fit, affine(rotate[t], scale, shear[t], shift, centre)))
    return np.stack(maps)


def _own_path(
    frames: int, centre: np.ndarray, canvas: tuple[int, int], motion: Motion, generator: np.random.Generator
) -> np.ndarray:
    """(T, 2, 3) maps of an object's own motion on the canvas."""
    side = np.array([canvas[1], canvas[0]])
    wander = smooth_path(frames, 5, generator) * generator.uniform(0, 1, 5)
    maps = []
    for t in range(frames):
        scale = 1.4 ** wander[t, 1]
        shift = wander[t, 3:] * motion.speed * side
        maps.append(affine(wander[t, 0] * motion.rotate * 1.5, scale, wander[t, 2] * motion.shear, shift, centre))
    return np.stack(maps)


def _excursion(
    path: np.ndarray, centre: np.ndarray, canvas: tuple[int, int], generator: np.random.Generator
) -> np.ndarray:
    """The path with a way out of the image and back."""
    frames = len(path)
    if frames < 3:
        return path
    out = np.zeros(frames)
    middle = int(generator.integers(1, frames - 1))
    length = int(generator.integers(1, max(2, frames // 3 + 1)))
    gone = np.abs(np.arange(frames) - middle)
    out = np.clip(1.5 - 0.6 * np.maximum(gone - (length - 1) / 2, 0), 0, 1.2)
    out[0] = 0
    height, width = canvas
    ways = np.array([[-centre[0] - width / 4, 0], [width * 1.25 - centre[0], 0], [0, -centre[1] - height / 4]])
    ways = np.concatenate([ways, [[0, height * 1.25 - centre[1]]]])
    way = ways[int(np.argmin(np.abs(ways).sum(1)))] * 1.2
    path = path.copy()
    path[:, :, 2] += out[:, None] * way
    return path


# layers --------------------------------------------------------------------------------------------------------------


def things(table: np.ndarray) -> list[np.ndarray]:
    """The masks of a table (N, codes) in groups that share pixels, directly or through others: (N,) bool each."""
    touching = (table.astype(np.int32) @ table.T.astype(np.int32)) > 0
    groups: list[np.ndarray] = []
    left = set(np.flatnonzero(touching.diagonal()))
    while left:
        group = touching[min(left)]
        while (wider := touching[group].any(0)).sum() > group.sum():
            group = wider
        groups.append(group)
        left -= set(np.flatnonzero(group))
    return groups


def cut(image: np.ndarray, inside: np.ndarray, codes: np.ndarray) -> tuple[Layer, np.ndarray] | None:
    """A layer at rest of the pixels in a mask, its edge softened, and its middle (x, y); None when it is tiny."""
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows) or len(rows) * len(columns) < 16:
        return None
    top, left = max(rows[0] - 2, 0), max(columns[0] - 2, 0)
    window = (slice(top, rows[-1] + 3), slice(left, columns[-1] + 3))
    alpha = Image.fromarray(inside[window] * np.uint8(255))
    pixels = Image.fromarray(np.ascontiguousarray(image[window])).convert("RGBA")
    pixels.putalpha(ImageChops.darker(alpha.filter(ImageFilter.GaussianBlur(0.8)), alpha))
    shown = Image.fromarray(np.where(inside[window], codes[window], 0).astype(np.int32))
    middle = np.array([(columns[0] + columns[-1] + 1) / 2, (rows[0] + rows[-1] + 1) / 2])
    place = np.array([[1.0, 0.0, left], [0.0, 1.0, top]])
    return Layer(pixels, shown, place[None]), middle


def fill_holes(image: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """The image with `holes` (H, W) bool filled smoothly from around them: far from the edge from far around."""
    height, width = holes.shape
    weight = Image.fromarray(~holes * np.uint8(255))
    known = Image.fromarray(np.where(holes[..., None], 0, image).astype(np.uint8))
    rest = image[~holes].mean(0) if not holes.all() else np.full(3, 128.0)
    filling = Image.fromarray(np.full((1, 1, 3), rest, dtype=np.uint8))
    for factor in (64, 16, 4):
        shape = (max(1, width // factor), max(1, height // factor))
        colour = np.asarray(known.resize(shape, Image.Resampling.BOX), dtype=np.float32)
        share = np.asarray(weight.resize(shape, Image.Resampling.BOX), dtype=np.float32)[..., None] / 255
        coarse = np.asarray(filling.resize(shape, BILINEAR), dtype=np.float32)
        trust = np.minimum(4 * share, 1)
        mean = colour / np.maximum(share, 1 / 64)
        filling = Image.fromarray(np.clip(mean * trust + coarse * (1 - trust), 0, 255).astype(np.uint8))
    filled = np.asarray(filling.resize((width, height), BILINEAR))
    return np.where(holes[..., None], filled, image)


def _occluder(
    target: np.ndarray,
    extent: np.ndarray,
    canvas: tuple[int, int],
    frames: int,
    motion: Motion,
    strangers: Sequence[tuple[np.ndarray, np.ndarray]],
    generator: np.random.Generator,
) -> Layer:
    """Something that crosses `target` (T, 2), an object's places, of size `extent`, some time after the first frame."""
    hide = generator.random() < motion.vanish
    side = float(extent.max()) * (generator.uniform(1.5, 2.2) if hide else generator.uniform(0.4, 1.0))
    side = float(np.clip(side, 12, 1.2 * max(canvas)))
    if strangers and generator.random() < 0.7:
        image, mask = strangers[int(generator.integers(len(strangers)))]
        scale = side / max(mask.shape)
        shape = (max(4, round(mask.shape[1] * scale)), max(4, round(mask.shape[0] * scale)))
        pixels = Image.fromarray(np.ascontiguousarray(image)).resize(shape, BILINEAR).convert("RGBA")
        pixels.putalpha(Image.fromarray(mask * np.uint8(255)).resize(shape, BILINEAR))
    else:
        shape = (round(side), round(side * generator.uniform(0.7, 1.4)))
        alpha = Image.new("L", shape, 0)
        pen = ImageDraw.Draw(alpha)
        (pen.ellipse if generator.random() < 0.5 else pen.rectangle)((1, 1, shape[0] - 2, shape[1] - 2), fill=255)
        grain = (generator.integers(0, 128, (4, 4, 3)) + generator.integers(0, 128, 3)).astype(np.uint8)
        pixels = Image.fromarray(grain).resize(shape, Image.Resampling.BICUBIC).convert("RGBA")
        pixels.putalpha(alpha)
    when = int(generator.integers(1, frames))
    angle = generator.uniform(0, 2 * np.pi)
    reach = (side + float(extent.max())) * generator.uniform(0.35, 0.9)
    way = np.array([np.cos(angle), np.sin(angle)]) * reach
    corner = np.array(shape) / 2
    path = []
    for t in range(frames):
        at = target[when] + (t - when) * way * (1.0 if abs(t - when) > 1 else 0.7) - corner
        path.append([[1.0, 0.0, at[0]], [0.0, 1.0, at[1]]])
    return Layer(pixels, Image.new("I", pixels.size, 0), np.array(path))


# rendering -----------------------------------------------------------------------------------------------------------


def render(
    image: np.ndarray,
    codes: np.ndarray,
    table: np.ndarray,
    frames: int,
    size: int,
    motion: Motion,
    strangers: Sequence[tuple[np.ndarray, np.ndarray]],
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, S, S, 3) uint8 and maps of codes (T, S, S) of an image set in motion; see `pseudo_video`."""
    height, width = codes.shape
    if generator.random() < motion.static:
        motion = replace(motion, rotate=0.0, scale=1.0, shear=0.0, shift=0.0, move=0.0, leave=0.0)
    elif motion.slow and generator.random() < motion.slow:
        motion = motion.slowed(0.05 ** generator.uniform(np.log(2) / np.log(20), 1))
    camera = _camera(frames, (height, width), size, motion, generator)
    layers, holes = _layers(image, codes, table, frames, motion, strangers, generator)
    ground = fill_holes(image, holes) if holes.any() else image
    margin = (height // 4, width // 4)
    sides = ((margin[0], margin[0]), (margin[1], margin[1]))
    backdrop = Image.fromarray(np.pad(ground, (*sides, (0, 0)), mode="reflect"))
    resting = Image.fromarray(np.pad(np.where(holes, 0, codes), sides).astype(np.int32))
    shifted = np.array([[1.0, 0.0, -margin[1]], [0.0, 1.0, -margin[0]]])
    swap_at = int(generator.integers(1, frames)) if frames > 1 and generator.random() < motion.swap else frames
    light = _light(frames, motion, generator)
    blur = generator.random() < motion.blur
    grade = _Grade(motion, generator)
    pictures, maps = [], []
    for t in range(frames):
        back = inverse(then(camera[t], shifted)).ravel().tolist()
        picture = backdrop.transform((size, size), Image.Transform.AFFINE, back, BILINEAR)
        shown = resting.transform((size, size), Image.Transform.AFFINE, back, NEAREST)
        for layer in layers if t < swap_at else layers[::-1]:
            _lay(picture, shown, layer, t, camera[t])
        picture = picture.point(light[t])
        if blur and t:
            picture = _smear(picture, camera[t] - camera[t - 1], size)
        pictures.append(grade(picture, generator))
        maps.append(np.asarray(shown))
    order = slice(None, None, -1) if generator.random() < motion.reverse and _all_seen(table, maps[-1]) else slice(None)
    return np.stack(pictures)[order], np.stack(maps)[order]


def _all_seen(table: np.ndarray, codes: np.ndarray) -> bool:
    present = np.bincount(codes.ravel(), minlength=table.shape[1]) > 0
    return bool((table & present).any(1).all())


def _layers(
    image: np.ndarray,
    codes: np.ndarray,
    table: np.ndarray,
    frames: int,
    motion: Motion,
    strangers: Sequence[tuple[np.ndarray, np.ndarray]],
    generator: np.random.Generator,
) -> tuple[list[Layer], np.ndarray]:
    """What moves by itself, from the back to the front, and the holes it leaves in the image."""
    canvas = codes.shape
    layers: list[Layer] = []
    crossing: list[Layer] = []
    holes = np.zeros(canvas, dtype=bool)
    still = np.repeat(np.array([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]), frames, axis=0)
    for group in things(table):
        inside = table[group].any(0)[codes]
        found = cut(image, inside, codes)
        if found is None:
            continue
        layer, middle = found
        extent = np.array(layer.pixels.size)
        path = still
        leaves = generator.random() < motion.leave
        if inside.mean() < 0.5 and (leaves or generator.random() < motion.move):
            path = _own_path(frames, middle, canvas, motion, generator)
            if leaves:
                path = _excursion(path, middle, canvas, generator)
            bend = None
            if motion.bend:
                wander = smooth_path(frames, 32, generator).reshape(frames, 4, 4, 2)
                bend = wander * motion.bend * generator.uniform(0, 1) * extent.mean()
            layers.append(Layer(layer.pixels, layer.codes, _all_then(path, layer.path[0]), bend))
            holes |= inside
        if inside.mean() < 0.25 and generator.random() < motion.lookalike:
            layers.insert(0, _lookalike(layer, middle, canvas, frames, motion, generator))
        if frames > 1 and generator.random() < motion.occluder / max(1.0, len(things(table)) / 2):
            places = np.stack([step[:, :2] @ middle + step[:, 2] for step in path])
            crossing.append(_occluder(places, extent, canvas, frames, motion, strangers, generator))
    return layers + crossing, holes


def _lookalike(
    layer: Layer,
    middle: np.ndarray,
    canvas: tuple[int, ...],
    frames: int,
    motion: Motion,
    generator: np.random.Generator,
) -> Layer:
    """A copy of a layer somewhere else that moves in its own way and is no object."""
    place = generator.uniform(0.1, 0.9, 2) * np.array([canvas[1], canvas[0]])
    path = _own_path(frames, middle, (canvas[0], canvas[1]), motion, generator)
    path[:, :, 2] += place - middle
    pixels = layer.pixels
    if generator.random() < 0.5:
        pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Layer(pixels, Image.new("I", pixels.size, 0), _all_then(path, layer.path[0]))


def _all_then(path: np.ndarray, first: np.ndarray) -> np.ndarray:
    return np.stack([then(step, first) for step in path])


def _lay(picture: Image.Image, shown: Image.Image, layer: Layer, t: int, camera: np.ndarray) -> None:
    """Paste a layer, as it is at time t, into an image and its map of codes."""
    place = then(camera, layer.path[t])
    width, height = layer.pixels.size
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=float) @ place[:, :2].T + place[:, 2]
    x0, y0 = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    x1, y1 = np.minimum(np.ceil(corners.max(0)), picture.size).astype(int)
    if x1 <= x0 or y1 <= y0:
        return
    pixels, codes = layer.pixels, layer.codes
    if layer.bend is not None:
        mesh = _mesh(width, height, layer.bend[t])
        pixels = pixels.transform(pixels.size, Image.Transform.MESH, mesh, BILINEAR)
        codes = codes.transform(codes.size, Image.Transform.MESH, mesh, NEAREST)
    back = inverse(place)
    back = np.concatenate([back[:, :2], back[:, :2] @ np.array([[x0], [y0]]) + back[:, 2:]], axis=1).ravel().tolist()
    size = (int(x1 - x0), int(y1 - y0))
    laid = pixels.transform(size, Image.Transform.AFFINE, back, BILINEAR)
    alpha = laid.getchannel("A")
    picture.paste(laid.convert("RGB"), (int(x0), int(y0)), alpha)
    told = codes.transform(size, Image.Transform.AFFINE, back, NEAREST)
    shown.paste(told, (int(x0), int(y0)), alpha.point(OPAQUE))


OPAQUE = [0] * 128 + [255] * 128


def _mesh(width: int, height: int, moves: np.ndarray) -> list[tuple[tuple[int, int, int, int], tuple[float, ...]]]:
    """Pillow's mesh of 3 x 3 cells whose 4 x 4 corners are fetched from where `moves` (4, 4, 2) puts them."""
    xs, ys = np.linspace(0, width, 4), np.linspace(0, height, 4)
    corner = np.stack(np.meshgrid(xs, ys), axis=-1) + moves
    cells = []
    for row in range(3):
        for column in range(3):
            box = (int(xs[column]), int(ys[row]), int(xs[column + 1]), int(ys[row + 1]))
            quad = (corner[row, column], corner[row + 1, column], corner[row + 1, column + 1], corner[row, column + 1])
            cells.append((box, tuple(float(value) for value in np.concatenate(quad))))
    return cells


def _light(frames: int, motion: Motion, generator: np.random.Generator) -> list[list[int]]:
    """A table of 768 values for each frame: brightness, contrast and tint that change slowly."""
    if generator.random() >= motion.drift:
        return [list(range(256)) * 3] * frames
    path = smooth_path(frames, 5, generator) * generator.uniform(0, 1, 5)
    ramp = np.arange(256.0)
    tables = []
    for shift, contrast, *tint in path:
        curve = (ramp - 128) * (1 + 0.15 * contrast) + 128 + 25 * shift
        table = [np.clip(curve * (1 + 0.06 * gain), 0, 255).astype(int) for gain in tint]
        tables.append(np.concatenate(table).tolist())
    return tables


def _smear(picture: Image.Image, change: np.ndarray, size: int) -> Image.Image:
    """Motion blur along the way that the middle of the image went since the frame before."""
    way = change[:, :2] @ np.array([size / 2, size / 2]) + change[:, 2]
    length = float(np.hypot(*way))
    if length < 2:
        return picture
    way *= min(0.5, 6 / length)
    for step in (0.5, 1.0):
        moved = ImageChops.offset(picture, round(way[0] * step), round(way[1] * step))
        picture = Image.blend(picture, moved, 0.4)
    return picture


class _Grade:
    """What a camera does to every frame of a clip: defocus, noise, compression."""

    def __init__(self, motion: Motion, generator: np.random.Generator):
        self.radius = generator.uniform(0.5, 1.5) if generator.random() < motion.defocus else 0.0
        self.deviation = generator.uniform(2, 8) if generator.random() < motion.noise else 0.0
        self.quality = int(generator.integers(40, 95)) if generator.random() < motion.compress else 0

    def __call__(self, picture: Image.Image, generator: np.random.Generator) -> np.ndarray:
        if self.radius:
            picture = picture.filter(ImageFilter.GaussianBlur(self.radius))
        if self.quality:
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=self.quality)
            picture = Image.fromarray(read_rgb(buffer))
        pixels = np.asarray(picture)
        if self.deviation:
            grain = generator.standard_normal((*pixels.shape[:2], 1), dtype=np.float32) * self.deviation
            pixels = np.clip(pixels + grain, 0, 255).astype(np.uint8)
        return pixels
