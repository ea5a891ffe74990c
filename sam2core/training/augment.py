"""Augmentation: labelled images in, training clips out. Every random draw comes from the generator that is passed in.

Crops, flips and colour changes keep a photo a photo. `paste_object` and `paste_shape` make new ones: objects
cut out by their masks, or procedural shapes filled with texture, laid over another image with exact occluded masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from sam2core.data.footage import Footage
from sam2core.training.clips import VOID, Clip, LabelledImage
from sam2core.training.filming import Filming, film
from sam2core.training.pseudo import Motion, pseudo_video


@dataclass(frozen=True)
class Augment:
    """How training samples are made from labelled images. Probabilities and ranges; see `Mixture.sample`."""

    zoom: tuple[float, float] = (0.35, 1.0)  # side of the crop as a share of the image
    stretch: float = 1.3  # largest change of the aspect ratio, either way
    whole: float = 0.25  # probability of the whole image squeezed to a square
    paste: float = 0.5  # probability of pasting objects from other images
    retexture: float = 0.0  # of those, how many keep their outline alone and are filled with another image
    shapes: float = 0.3  # probability of pasting procedural shapes
    colour: float = 0.8  # probability of a colour change
    grey: float = 0.08
    blur: float = 0.1
    noise: float = 0.2
    max_area: float = 0.8  # objects larger than this share of the crop are not asked for
    motion: Motion = Motion()  # of clips made from images
    filming: Filming = Filming()  # of clips cut out of footage


@dataclass(frozen=True, eq=False)
class Canvas:
    """An image in the making: pixels, region ids, and the objects that can be made of them."""

    image: np.ndarray  # (S, S, 3) uint8
    regions: np.ndarray  # (S, S) int32
    objects: list[tuple[int, ...]]


class Mixture:
    """Draws clips from several collections of labelled images with given weights, deterministically by index."""

    def __init__(
        self,
        collections: Sequence[Sequence[LabelledImage] | Sequence[Footage]],
        weights: Sequence[float],
        *,
        augment: Augment = Augment(),
        seed: int = 0,
        pasting: Sequence[float] | None = None,
    ):
        if len(collections) != len(weights) or not collections:
            raise ValueError(f"{len(collections)} collections need as many weights, got {len(weights)}")
        self.collections = list(collections)
        total = float(sum(weights))
        self.weights = np.array([weight / total for weight in weights])
        self.augment = augment
        self.seed = seed
        # how often things of each collection are pasted; None: every thing alike
        self.pasting = None if pasting is None or not sum(pasting) else np.array(pasting) / sum(pasting)
        self.cut_outs = [
            (which, index, number)
            for which, collection in enumerate(self.collections)
            for index, source in enumerate(collection)
            if isinstance(source, LabelledImage)
            for number, thing in enumerate(source.things)
            if thing
        ]
        if self.pasting is not None:
            self.first_thing = np.searchsorted([which for which, _, _ in self.cut_outs], range(len(weights) + 1))
            for which in np.flatnonzero(self.pasting):
                if self.first_thing[which] == self.first_thing[which + 1]:
                    raise ValueError(f"things of source {which} are to be pasted, but it has none")

    def sample(
        self,
        epoch: int,
        index: int,
        *,
        size: int,
        objects: int,
        min_area: float = 0.006,
        frames: int = 1,
        weights: Sequence[float] = (),
    ) -> Clip:
        """The clip with this number: frames of (size, size) and `objects` masks, the same for the same arguments.

        An image becomes a clip of several frames as a `pseudo_video`. weights: of the collections, if not the usual
        ones. Raises RuntimeError when 50 crops in a row hold
        no object of a usable size.
        """
        generator = np.random.default_rng([self.seed, epoch, index])
        chances = np.array(weights) / sum(weights) if len(weights) else self.weights
        for _ in range(50):
            source = self._draw(generator, chances)
            if isinstance(source, Footage):
                clip = self._film(source, frames, generator, size=size, objects=objects, min_area=min_area)
                if clip is not None:
                    return clip
                continue
            # an image that is set in motion is larger than its frames: the camera has room, zooming in loses less
            canvas = crop(source, size if frames == 1 else size * 5 // 4, self.augment, generator)
            canvas = self._compose(canvas, generator)
            masks = choose_objects(canvas, objects, (min_area, self.augment.max_area), generator, repeat=frames == 1)
            if masks is None:
                continue
            frame = recolour(canvas.image, self.augment, generator)
            void = canvas.regions == VOID
            ignored = void if void.any() else None
            if frames == 1:
                return Clip(frame[None], masks[None], source.source, None if ignored is None else ignored[None])
            motion, strangers = self.augment.motion, self._strangers(generator)
            return pseudo_video(
                frame,
                masks,
                frames,
                generator,
                size=size,
                motion=motion,
                strangers=strangers,
                source=source.source,
                ignored=ignored,
            )
        raise RuntimeError(f"no crop with an object of area {min_area} to {self.augment.max_area} found")

    def _film(
        self, source: Footage, frames: int, generator: np.random.Generator, *, size: int, objects: int, min_area: float
    ) -> Clip | None:
        """A clip of footage; a single image is set in motion when the clip wants several frames."""
        moves = source.length == 1 and frames > 1
        found = film(
            source,
            1 if moves else frames,
            generator,
            size=size * 5 // 4 // 2 * 2 if moves else size,
            objects=objects,
            min_area=min_area,
            filming=self.augment.filming,
        )
        if found is None or not moves:
            return found
        strangers, motion = self._strangers(generator), self.augment.motion
        return pseudo_video(
            found.frames[0],
            found.masks[0],
            frames,
            generator,
            size=size,
            motion=motion,
            strangers=strangers,
            source=found.source,
            ignored=None if found.ignored is None else found.ignored[0],
        )

    def _draw(self, generator: np.random.Generator, chances: np.ndarray) -> LabelledImage | Footage:
        collection = self.collections[generator.choice(len(self.collections), p=chances)]
        return collection[int(generator.integers(len(collection)))]

    def _texture(self, generator: np.random.Generator) -> np.ndarray:
        source = self._draw(generator, self.weights)
        if isinstance(source, Footage):
            return source.pictures([int(generator.integers(source.length))])[0]
        return source.image

    def _strangers(self, generator: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
        """Something cut out of any of the images, to cross the objects of another: pixels and mask."""
        if not self.cut_outs:
            return []
        source, number = self._cut_out(generator)
        inside = np.isin(source.regions, source.objects[number])
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        if not len(rows):  # lost when the image was reduced
            return []
        window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        return [(source.image[window], inside[window])]

    def _cut_out(self, generator: np.random.Generator) -> tuple[LabelledImage, int]:
        """An image, and the number of its object that is cut out."""
        start, stop = 0, len(self.cut_outs)
        if self.pasting is not None:
            which = int(generator.choice(len(self.pasting), p=self.pasting))
            start, stop = self.first_thing[which : which + 2]
        which, index, number = self.cut_outs[int(generator.integers(start, stop))]
        source = self.collections[which][index]
        assert isinstance(source, LabelledImage)
        return source, number

    def _compose(self, canvas: Canvas, generator: np.random.Generator) -> Canvas:
        if self.cut_outs and generator.random() < self.augment.paste:
            for _ in range(int(generator.integers(1, 4))):
                thing = self._cut_out(generator)
                plain = not self.augment.retexture or generator.random() >= self.augment.retexture
                canvas = paste_object(canvas, *thing, generator, texture=None if plain else self._texture(generator))
        if generator.random() < self.augment.shapes:
            for _ in range(int(generator.integers(1, 4))):
                canvas = paste_shape(canvas, self._texture(generator), generator)
        return canvas


def crop(source: LabelledImage, size: int, augment: Augment, generator: np.random.Generator) -> Canvas:
    """A random rectangle of the image, resized to (size, size), flipped half of the time."""
    height, width = source.regions.shape
    if generator.random() < augment.whole:
        top, left, tall, wide = 0.0, 0.0, float(height), float(width)
    else:
        side = generator.uniform(*augment.zoom) * min(height, width)
        ratio = augment.stretch ** generator.uniform(-1, 1)
        tall, wide = min(side * ratio**0.5, height), min(side / ratio**0.5, width)
        top, left = generator.uniform(0, height - tall), generator.uniform(0, width - wide)
    box = (left, top, left + wide, top + tall)
    image = np.asarray(Image.fromarray(source.image).resize((size, size), Image.Resampling.BILINEAR, box=box))
    grid = (np.arange(size) + 0.5) / size
    rows = np.minimum((top + grid * tall).astype(np.int64), height - 1)
    columns = np.minimum((left + grid * wide).astype(np.int64), width - 1)
    regions = source.regions[rows[:, None], columns].astype(np.int32)
    if generator.random() < 0.5:
        image, regions = image[:, ::-1], regions[:, ::-1]
    return Canvas(np.array(image), np.array(regions), list(source.objects))


def paste_object(
    canvas: Canvas,
    source: LabelledImage,
    number: int,
    generator: np.random.Generator,
    *,
    texture: np.ndarray | None = None,
) -> Canvas:
    """Lay one object of another image over the canvas at a random place, size, rotation; its parts stay objects.

    texture: an image that fills the object's outline; what was inside is gone, its parts too.
    """
    group = source.objects[number]
    lookup = np.zeros(1 + max(int(source.regions.max()), *map(max, source.objects)), dtype=bool)
    lookup[list(group)] = True
    mask = lookup[source.regions]
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if mask.sum() < 400:
        return canvas
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    image, regions = source.image[window], np.where(mask[window], source.regions[window], 0).astype(np.int32)
    size = canvas.regions.shape[0]
    scale = min(generator.uniform(0.25, 0.85) * size / max(regions.shape), 2.5)
    shape = (max(4, round(regions.shape[1] * scale)), max(4, round(regions.shape[0] * scale)))
    picture = Image.fromarray(np.ascontiguousarray(image)).resize(shape, Image.Resampling.BILINEAR)
    labels = Image.fromarray(regions).resize(shape, Image.Resampling.NEAREST)
    if generator.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        labels = labels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if generator.random() < 0.5:
        angle = generator.uniform(-30, 30)
        picture = picture.rotate(angle, Image.Resampling.BILINEAR, expand=True)
        labels = labels.rotate(angle, Image.Resampling.NEAREST, expand=True)
    inside = set(group)
    parts = [tuple(part) for part in source.objects if set(part) <= inside]
    if texture is not None:
        picture, parts = Image.fromarray(_fill((labels.height, labels.width), texture, generator)), [tuple(group)]
    return _lay_over(canvas, np.asarray(picture), np.asarray(labels), parts, generator)


def paste_shape(canvas: Canvas, texture: np.ndarray, generator: np.random.Generator) -> Canvas:
    """Lay a random polygon, ellipse or ring over the canvas, filled with a plain colour, a gradient or a texture."""
    size = canvas.regions.shape[0]
    side = int(generator.uniform(0.15, 0.6) * size)
    labels = Image.new("I", (side, side), 0)
    pen = ImageDraw.Draw(labels)
    kind = generator.integers(4)
    if kind == 0:
        pen.ellipse((0, generator.uniform(0, 0.4) * side, side - 1, side - 1), fill=1)
    elif kind == 1:
        pen.rectangle((0, generator.uniform(0, 0.6) * side, side - 1, side - 1), fill=1)
    elif kind == 2:
        pen.ellipse((0, 0, side - 1, side - 1), fill=1)
        hole = generator.uniform(0.2, 0.35) * side
        pen.ellipse((hole, hole, side - hole, side - hole), fill=2 if generator.random() < 0.5 else 0)
    else:
        corners = int(generator.integers(3, 12))
        angles = np.sort(generator.uniform(0, 2 * np.pi, corners))
        radii = side / 2 * generator.uniform(0.35, 1.0, corners)
        xs, ys = side / 2 + radii * np.cos(angles), side / 2 + radii * np.sin(angles)
        pen.polygon([(float(x), float(y)) for x, y in zip(xs, ys)], fill=1)
    labels = labels.rotate(generator.uniform(0, 360), Image.Resampling.NEAREST, expand=True)
    regions = np.asarray(labels)
    fill = _fill(regions.shape, texture, generator)
    if (regions == 2).any():
        fill = np.where((regions == 2)[..., None], _fill(regions.shape, texture, generator), fill)
    present = [int(value) for value in np.unique(regions) if value]
    parts = [(value,) for value in present] + ([tuple(present)] if len(present) > 1 else [])
    return _lay_over(canvas, fill, regions, parts, generator)


def _fill(shape: tuple[int, int], texture: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    height, width = shape
    kind = generator.random()
    if kind < 0.6 and min(texture.shape[:2]) > 16:
        tall = int(min(texture.shape[0], height * generator.uniform(0.4, 2)))
        wide = int(min(texture.shape[1], width * generator.uniform(0.4, 2)))
        top = int(generator.integers(0, texture.shape[0] - tall + 1))
        left = int(generator.integers(0, texture.shape[1] - wide + 1))
        patch = Image.fromarray(np.ascontiguousarray(texture[top : top + tall, left : left + wide]))
        return np.asarray(patch.resize((width, height), Image.Resampling.BILINEAR))
    first, second = generator.integers(0, 256, (2, 3)).astype(np.float32)
    if kind < 0.8:
        second = np.clip(first + generator.normal(0, 25, 3), 0, 255)
    ys, xs = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j].astype(np.float32)
    angle = generator.uniform(0, 2 * np.pi)
    ramp = np.clip(0.5 + (xs - 0.5) * np.cos(angle) + (ys - 0.5) * np.sin(angle), 0, 1)[..., None]
    return (first * (1 - ramp) + second * ramp).astype(np.uint8)


def _lay_over(
    canvas: Canvas,
    image: np.ndarray,
    regions: np.ndarray,
    parts: list[tuple[int, ...]],
    generator: np.random.Generator,
) -> Canvas:
    """Paste pixels where `regions` is not 0, edges softened by about a pixel, under new region ids."""
    size = canvas.regions.shape[0]
    height, width = regions.shape
    top = int(generator.integers(-height // 3, size - height // 2 + 1))
    left = int(generator.integers(-width // 3, size - width // 2 + 1))
    y0, x0, y1, x1 = max(top, 0), max(left, 0), min(top + height, size), min(left + width, size)
    if y1 - y0 < 4 or x1 - x0 < 4:
        return canvas
    window = (slice(y0, y1), slice(x0, x1))
    source = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
    cut = regions[source]
    alpha = Image.fromarray(((cut > 0) * 255).astype(np.uint8))
    if generator.random() < 0.7:
        alpha = alpha.filter(ImageFilter.GaussianBlur(generator.uniform(0.4, 1.0)))
    weight = np.asarray(alpha).astype(np.float32)[..., None] / 255
    frame, labels = canvas.image.copy(), canvas.regions.copy()
    frame[window] = (frame[window] * (1 - weight) + image[source] * weight + 0.5).astype(np.uint8)
    shift = max(int(labels.max()), max((max(group) for group in canvas.objects), default=0))
    labels[window] = np.where(cut > 0, cut + shift, labels[window])
    added = [tuple(region + shift for region in part) for part in parts]
    return Canvas(frame, labels, canvas.objects + added)


def choose_objects(
    canvas: Canvas, count: int, areas: tuple[float, float], generator: np.random.Generator, *, repeat: bool = True
) -> np.ndarray | None:
    """Masks (N, S, S) of `count` randomly chosen objects of a usable size; None without any.

    Too few are repeated, or with repeat=False fewer are returned.
    """
    pixels = canvas.regions.size
    sizes = np.bincount(canvas.regions.ravel(), minlength=1)
    usable: dict[tuple[int, ...], tuple[int, ...]] = {}
    for group in canvas.objects:
        seen = tuple(region for region in group if region < len(sizes) and sizes[region])
        area = sum(int(sizes[region]) for region in seen) / pixels
        if areas[0] <= area <= areas[1]:
            usable[seen] = group
    if not usable:
        return None
    groups = list(usable)
    order = generator.permutation(len(groups))
    picks = [groups[order[number % len(groups)]] for number in range(count if repeat else min(count, len(groups)))]
    masks = np.zeros((len(picks), *canvas.regions.shape), dtype=bool)
    for number, group in enumerate(picks):
        lookup = np.zeros(len(sizes), dtype=bool)
        lookup[list(group)] = True
        masks[number] = lookup[canvas.regions]
    return masks


def recolour(image: np.ndarray, augment: Augment, generator: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, gamma and gains through one table per channel; grey, blur and noise now and then."""
    if generator.random() < augment.colour:
        ramp = np.linspace(0, 1, 256)
        gamma, contrast = np.exp(generator.normal(0, 0.2)), np.exp(generator.normal(0, 0.2))
        shift = generator.normal(0, 0.06)
        tables = []
        for gain in np.exp(generator.normal(0, 0.08, 3)):
            curve = ((ramp**gamma) - 0.5) * contrast + 0.5 + shift
            tables.append(np.clip(curve * gain * 255, 0, 255).astype(np.uint8))
        image = np.stack([tables[channel][image[..., channel]] for channel in range(3)], axis=-1)
        if generator.random() < 0.2:
            image = image[..., generator.permutation(3)]
    if generator.random() < augment.grey:
        grey = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        image = np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)
    if generator.random() < augment.blur:
        blurred = Image.fromarray(np.ascontiguousarray(image)).filter(
            ImageFilter.GaussianBlur(generator.uniform(0.4, 1.5))
        )
        image = np.asarray(blurred)
    if generator.random() < augment.noise:
        noise = generator.normal(0, generator.uniform(2, 10), image.shape[:2] + (1,))
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image)
