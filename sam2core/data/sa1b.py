"""SA-1B: ``sa_N.jpg`` with ``sa_N.json`` beside it, run lengths with the model's own estimates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sam2core.data.documents import Documents, entries, head, mentions
from sam2core.data.footage import Footage, Shape, ShapeFootage, naming
from sam2core.data.pictures import DataError, files_below
from sam2core.data.writing import Written, copy_pictures, write_document
from sam2core.ops import rle


class Sa1bPicture(ShapeFootage):
    """An image of SA-1B; what is known of its masks lies beside it and is read when it is asked for."""

    def __init__(self, image: Path, name: str, documents: Documents, min_iou: float, max_area: float) -> None:
        super().__init__(name, (image,), (), origin=image.with_suffix(".json"), source=str(image))
        self.document, self.documents = image.with_suffix(".json"), documents
        self.min_iou, self.max_area = min_iou, max_area

    def shapes(self, frame: int) -> Sequence[Shape]:
        tree = self.documents(self.document)
        annotated = entries(tree, "annotations", self.document)
        with naming(self.document):
            kept = [one["segmentation"] for one in annotated if self._wanted(one)]
        return [Shape(number, coded) for number, coded in enumerate(kept, 1)]

    def _wanted(self, one: dict[str, Any]) -> bool:
        height, width = one["segmentation"]["size"]
        return one.get("predicted_iou", 1.0) >= self.min_iou and one.get("area", 0) <= self.max_area * height * width


def recognise(root: Path) -> bool:
    pictures = files_below(root, (".jpg",))
    if not pictures or not pictures[0].with_suffix(".json").exists():
        return False
    text = head(pictures[0].with_suffix(".json"))
    return mentions(text, "annotations") and not mentions(text, "images")


def read(root: Path, *, min_iou: float = 0.0, max_area: float = 0.7) -> list[Footage]:
    """The images below `root`, in order.

    min_iou: masks with a lower `predicted_iou` are left out. max_area: so are those above this share of the image.
    Raises DataError.
    """
    pictures = files_below(root, (".jpg",))
    if not pictures:
        raise DataError(f"no .jpg below {root}")
    missing = [path for path in pictures if not path.with_suffix(".json").exists()]
    if missing:
        raise DataError(f"{len(missing)} images below {root} have no .json, the first is {missing[0]}")
    documents = Documents()
    return [Sa1bPicture(path, path.relative_to(root).as_posix(), documents, min_iou, max_area) for path in pictures]


def write(root: Path, footage: Iterable[Footage], written: Written) -> None:
    """Write images as JPEGs, which must be JPEGs already, and a JSON file each."""
    for item in footage:
        if not isinstance(item.media, tuple) or any(
            path.suffix.lower() not in (".jpg", ".jpeg") for path in item.media
        ):
            raise DataError(f"SA-1B holds JPEGs; {item.source} is none")
        for frame, stem in enumerate(copy_pictures(root, item)):
            place = next(path for path in root.glob(f"{stem}.jp*g"))
            if place.suffix != ".jpg":
                place.rename(place.with_suffix(".jpg"))
            masks = list(item.read(frame).values())
            size = masks[0].shape if masks else item.ids(frame).shape
            picture = {"file_name": f"{stem}.jpg", "height": int(size[0]), "width": int(size[1])}
            annotated = [
                {"id": number, "segmentation": rle.encode(mask), "area": int(mask.sum())}
                for number, mask in enumerate(masks, 1)
            ]
            write_document(root / f"{stem}.json", {"image": picture, "annotations": annotated})
        written.lose("class names", len(item.classes))
        written.lose_identity(item)
