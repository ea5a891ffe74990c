"""What runs have found, as labelled footage: read from their documents when it is wanted, and written in any format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from sam2core.data.footage import Footage, Shape, ShapeFootage
from sam2core.media.frames import open_source
from sam2core.media.render.documents import RleFrames
from sam2core.storage import read_json


class FoundPictures(Sequence[Footage]):
    """The images of some documents of `segment` or `automask`, each read when it is asked for."""

    def __init__(self, documents: Sequence[Path], names: Sequence[str]) -> None:
        self.documents, self.names = documents, names

    def __len__(self) -> int:
        return len(self.documents)

    @overload
    def __getitem__(self, index: int) -> Footage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Footage]: ...
    def __getitem__(self, index: int | slice) -> Footage | list[Footage]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return picture(self.documents[index], self.names[index])


def picture(document: Path, name: str) -> Footage:
    """The image of a document and its best masks. Raises FileError when it is none."""
    told = read_json(document)
    image = told["image"]
    file = Path(image["path"])
    best = [mask for mask in told["masks"] if not mask.get("rank")]
    shapes = [
        Shape(number, mask["segmentation"], mask.get("category", ""))
        for number, mask in enumerate(best, 1)
        if mask["area"]
    ]
    classes = {shape.number: shape.label for shape in shapes if shape.label}
    size = (int(image["height"]), int(image["width"]))
    # the name of an image is that of its results, which no other has, and ends as the file does
    return ShapeFootage(f"{name}{file.suffix}", (file,), (shapes,), drawn_on=size, origin=document, classes=classes)


class _Frames(Sequence[Sequence[Shape]]):
    """The shapes of a run's frames, read one at a time."""

    def __init__(self, frames: RleFrames, objects: Sequence[str], classes: Mapping[str, str]) -> None:
        self.frames, self.classes = frames, classes
        self.numbers = {name: number for number, name in enumerate(objects, 1)}
        self.labelled = sorted(frames)

    def __len__(self) -> int:
        return len(self.labelled)

    def __getitem__(self, index: Any) -> Any:
        said = self.frames[self.labelled[index]]["objects"]
        return [
            Shape(self.numbers[name], one["segmentation"], self.classes.get(name, ""))
            for name, one in said.items()
            if one["segmentation"]["counts"] and one["object_score"] > 0
        ]


def clip(video: str, frames: RleFrames, objects: Sequence[str], classes: Mapping[str, str]) -> Footage:
    """A video and the masks of a run over it. Raises ValueError when it cannot be read."""
    place = Path(video)
    with open_source(video) as source:
        files = source.files
    shapes = _Frames(frames, objects, classes)
    numbered = {number: classes[name] for name, number in shapes.numbers.items() if name in classes}
    name = place.stem if place.suffix and place.is_file() else place.name
    media: Any = tuple(files) if files else place
    return ShapeFootage(name, media, shapes, shapes.labelled, origin=video, classes=numbered, source=video)
