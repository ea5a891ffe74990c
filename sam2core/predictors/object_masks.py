"""ObjectMasks: what the results for images, videos and automatic masks have in common, in one vocabulary."""

from __future__ import annotations

import importlib
import io
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from sam2core import storage
from sam2core.annotations import integer
from sam2core.data.coco import Document
from sam2core.media.images import ImageLike, as_bytes, read_rgb
from sam2core.media.palettes import palette
from sam2core.media.render.overlays import overlay
from sam2core.older import takes_our_words
from sam2core.ops import rle
from sam2core.ops.polygons import extent, trace

if TYPE_CHECKING:
    from typing_extensions import Self

Picture: TypeAlias = "ImageLike | Callable[[], ImageLike] | None"
"""What a result lies over: an image as its user gave it, or what reads it when it is drawn on."""
TOLD = 4
"""Objects that `repr` tells one by one."""


def named(model: Any) -> str:
    """What to call a model in a `repr`: its name in the zoo, where it has one."""
    spec = getattr(model, "spec", None)
    return type(model).__name__ if spec is None else repr(spec.name)


class ObjectMasks(ABC):
    """The masks of K objects over one image, and the forms in which people and programs take them.

    Masks have the image's size only while they are asked for. ``len`` is K; iterating gives a result per object, and
    indexing one or some of the objects: by number (by id in a video), a list of these, a slice, or K booleans, as in
    ``result[result.scores > 0.8]``. The image is held as it was given, and read when it is drawn on.
    """

    size: tuple[int, int]
    """The image's (H, W)."""
    picture: Picture

    if TYPE_CHECKING:  # a field of some results, which a property here would give a default

        @property
        def objects(self) -> tuple[Hashable, ...]:
            """What the objects are called, in order."""

    @property
    @abstractmethod
    def scores(self) -> np.ndarray:
        """The model's own estimate of each mask's IoU, (K,) float32."""

    @abstractmethod
    def each(self) -> Iterator[np.ndarray]:
        """The masks (H, W) bool of the objects, one after the other; of an object's candidates, the best."""

    @abstractmethod
    def _rows(self, rows: list[int]) -> Self:
        """A result of the same kind of some objects."""

    @abstractmethod
    def cpu(self) -> Self:
        """The same result with its tensors on the CPU."""

    # one and some

    def __len__(self) -> int:
        return len(self.objects)

    def __iter__(self) -> Iterator[Any]:
        apart = self._apart()
        for row in range(len(self)):
            yield apart._rows([row])

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._apart()._rows(list(range(len(self)))[key])
        if hasattr(key, "tolist"):  # an array or a tensor
            key = key.tolist()
        if not isinstance(key, list):
            return self._apart()._rows([self._row(key)])
        if key and all(isinstance(one, bool) for one in key):
            if len(key) != len(self):
                raise ValueError(f"{len(key)} booleans do not choose among {len(self)} objects")
            return self._apart()._rows([row for row, chosen in enumerate(key) if chosen])
        return self._apart()._rows([self._row(one) for one in key])

    def _apart(self) -> Self:
        """The same result, in which no object's mask depends on the others'."""
        return self

    def _row(self, key: Any) -> int:
        """The row of an object. Raises IndexError where there is none of that number, ValueError for no number."""
        number = integer(key)
        if number is None:
            raise ValueError(f"objects are numbered from 0 on; {key!r} is no number, slice, list or booleans")
        if not -len(self) <= number < len(self):
            raise IndexError(f"object {number} of {len(self)}")
        return number % len(self)

    # for programs

    def numpy(self) -> np.ndarray:
        """The masks (K, H, W) bool; of an object's candidates, the best."""
        masks = np.zeros((len(self), *self.size), dtype=bool)
        for place, mask in zip(masks, self.each()):
            place[...] = mask
        return masks

    @property
    def areas(self) -> np.ndarray:
        """The masks' areas in pixels, (K,) int64."""
        return np.array([np.count_nonzero(mask) for mask in self.each()], dtype=np.int64)

    @property
    def boxes(self) -> np.ndarray:
        """The masks' tight boxes x0, y0, x1, y1 along pixel edges, (K, 4) int64, zeros for empty ones."""
        return np.array([extent(mask) for mask in self.each()], dtype=np.int64).reshape(-1, 4)

    def polygons(self) -> list[list[np.ndarray]]:
        """The outlines of each object, (N, 2) x, y along pixel edges, one per piece; holes are filled."""
        return [trace(mask)[0] for mask in self.each()]

    def rle(self) -> list[dict[str, Any]]:
        """Each mask in COCO's run-length coding, ``{"size": [H, W], "counts": str}``, as pycocotools reads it."""
        return [rle.encode(mask) for mask in self.each()]

    def to_coco(self, file_name: str = "", *, labels: str | Mapping[Any, str] = "object") -> dict[str, Any]:
        """A COCO document of this image, ready for JSON; pycocotools loads it. Objects without a pixel are left out.

        `file_name` is what its entry names; by default the file that the image was read from. `labels` is the
        category of all objects, or one for each object. Raises ValueError for an object without one.
        """
        if not file_name and isinstance(self.picture, str | os.PathLike):
            file_name = Path(self.picture).name
        document = Document([labels] if isinstance(labels, str) else ())
        number = document.add_picture(file_name, self.size)
        for name, score, mask in zip(self.objects, self.scores.tolist(), self.each()):
            if not isinstance(labels, str) and name not in labels:
                raise ValueError(f"labels say nothing of object {name!r}; they are of {', '.join(map(repr, labels))}")
            if mask.any():
                label = labels if isinstance(labels, str) else labels[name]
                document.add_mask(number, mask, label, score=round(score, 4))
        return document.json()

    def to_supervision(self) -> Any:
        """`supervision.Detections` with masks, supervision's own boxes of them, and scores as confidence.

        ``data["object"]`` has what the objects are called. Raises ImportError where supervision is not installed.
        """
        supervision = _installed("supervision")
        masks = self.numpy()
        empty = np.zeros((0, 4), dtype=np.float32)
        return supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(np.float32) if len(masks) else empty,
            mask=masks,
            confidence=self.scores,
            data={"object": np.array([str(name) for name in self.objects], dtype=object)},
            **self._tracked(),
        )

    def _tracked(self) -> dict[str, Any]:
        """What `supervision.Detections` is told beside masks and scores."""
        return {}

    def to_frame(self) -> Any:
        """A `pandas.DataFrame`, a row per object: ``object``, ``iou``, ``area``, ``x0``, ``y0``, ``x1``, ``y1``, ...

        Raises ImportError where pandas is not installed.
        """
        pandas = _installed("pandas")
        masks = [(np.count_nonzero(mask), *extent(mask)) for mask in self.each()]
        numbers = np.array(masks, dtype=np.int64).reshape(-1, 5)
        columns = {"object": list(self.objects), "iou": self.scores, **self._columns()}
        return pandas.DataFrame(columns | dict(zip(("area", "x0", "y0", "x1", "y1"), numbers.T)))

    def _columns(self) -> dict[str, Any]:
        """What `to_frame` says beside objects, scores, areas and boxes."""
        return {}

    # for people

    @takes_our_words
    def plot(
        self,
        picture: ImageLike | None = None,
        *,
        names: bool | Sequence[str] | None = None,
        boxes: bool = False,
        colors: np.ndarray | None = None,
        opacity: float = 0.45,
        points: Any = (),
        labels: Any = None,
    ) -> np.ndarray:
        """The image with masks drawn on it, (H, W, 3) uint8 RGB; small ones lie above large ones.

        `picture` takes the place of the one that was given to the model; `names` are written on the masks: words, or
        whether the objects' own are; `boxes` draws the boxes of the masks too. The others are those of
        `sam2core.media.render.overlay`. Raises ValueError where the image cannot be had any more, or has another
        size.
        """
        canvas = self._pixels(picture)
        if canvas.shape[:2] != tuple(self.size):
            raise ValueError(
                f"the image is {canvas.shape[1]}x{canvas.shape[0]} pixels, the masks are for "
                f"{self.size[1]}x{self.size[0]}"
            )
        colors = palette(len(self)) if colors is None else np.asarray(colors)
        words = self._names(names)
        if len(words) != len(self) or colors.shape != (len(self), 3):
            raise ValueError(f"{len(self)} objects want as many names and colours; got {len(words)} and {colors.shape}")
        apart = self._apart()
        for row in np.argsort(-self.areas, kind="stable").tolist():
            mask = next(apart._rows([row]).each())  # one at a time: there may be hundreds
            canvas = overlay(
                canvas,
                [mask],
                colors=colors[[row]],
                names=[words[row]],
                opacity=opacity,
                boxes=[extent(mask)] if boxes and mask.any() else (),
            )
        return overlay(canvas, points=points, labels=labels)

    def _names(self, names: bool | Sequence[str] | None) -> list[str]:
        if isinstance(names, bool) or names is None:
            return [str(name) if names else "" for name in self.objects]
        return [str(name) for name in names]

    def _pixels(self, picture: ImageLike | None) -> np.ndarray:
        """The image to draw on, (H, W, 3) uint8."""
        given = self.picture if picture is None else picture
        if given is None:
            raise ValueError("this result does not know its image any more: give it, plot(image)")
        return pixels_of(given)

    def show(self, picture: ImageLike | None = None, **drawing: Any) -> None:
        """Show `plot` in the notebook this runs in, or else in the system's viewer. Arguments are those of `plot`."""
        drawn = Image.fromarray(self.plot(picture, **drawing))
        if _in_notebook():
            importlib.import_module("IPython.display").display(drawn)
        else:
            drawn.show()

    def save(self, path: str | os.PathLike[str], picture: ImageLike | None = None, **drawing: Any) -> None:
        """Write `plot` as an image, whole or not at all, in place of what was there; its folder must be there.

        The suffix says which kind: .png, .jpg, .webp, .tif, .bmp. Raises ValueError for another, OSError where nothing
        can be written. Further arguments are those of `plot`.
        """
        path = Path(path)
        kind = Image.registered_extensions().get(path.suffix.lower())
        if kind not in KINDS:
            raise ValueError(f"{path.name!r}: the suffix says which kind of image: {', '.join(SUFFIXES)}")
        drawn = Image.fromarray(self.plot(picture, **drawing))
        with storage.writing(path, force=True) as unfinished:
            drawn.save(unfinished, format=kind)

    def _repr_png_(self) -> bytes | None:
        """What a notebook shows of a result; nothing where its image is not known any more."""
        return self._shown("PNG")

    def _repr_jpeg_(self) -> bytes | None:
        """The same in a fifth of the bytes, for notebooks that keep it."""
        return self._shown("JPEG")

    def _shown(self, kind: str) -> bytes | None:
        try:
            drawn = self.plot()
        except (ValueError, OSError):
            return None
        file = io.BytesIO()
        Image.fromarray(drawn).save(file, format=kind)
        return file.getvalue()

    def __repr__(self) -> str:
        height, width = self.size
        told = [f"{name!r}: {score:.2f}" for name, score in zip(self.objects[:TOLD], self.scores.tolist())]
        more = [f"and {len(self) - TOLD} more"] if len(self) > TOLD else []
        objects = "1 object" if len(self) == 1 else f"{len(self)} objects"
        said = f"{objects} (iou {', '.join([*told, *more])})" if told else objects
        return f"<{type(self).__name__}{self._where()}: {said}, {width}x{height} pixels>"

    def _where(self) -> str:
        """What `repr` says after the kind of result."""
        return ""


def row_called(key: Any, objects: tuple[Hashable, ...]) -> int:
    """The row of the object of this id. Raises ValueError where there is none."""
    number = integer(key)
    wanted = key if number is None else number
    if wanted not in objects:
        raise ValueError(f"there is no object {key!r}; known objects: {', '.join(map(repr, objects)) or 'none'}")
    return objects.index(wanted)


KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".webp", ".tif", ".bmp")


def pixels_of(picture: Any) -> np.ndarray:
    """An image as its user gave it, or what reads it, as RGB (H, W, 3) uint8. Raises ValueError where it is none."""
    if callable(picture):
        picture = picture()
    return read_rgb(picture) if isinstance(picture, str | os.PathLike) else as_bytes(picture)


def _installed(package: str) -> Any:
    """A package that is no dependency. Raises ImportError that says how to get it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(
            f"{package} is not installed, and nothing else here needs it: pip install {package}"
        ) from error


def _in_notebook() -> bool:
    """Whether a notebook shows what is displayed."""
    import sys

    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return running is not None and type(running).__name__ == "ZMQInteractiveShell"
