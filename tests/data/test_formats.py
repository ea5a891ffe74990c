"""Every format: recognised, and the same masks to the pixel wherever it is used."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from PIL import Image

from sam2core.data.checking import check
from sam2core.data.converting import convert, writable
from sam2core.data.formats import FORMATS, open_clips, open_data, recognise
from sam2core.data.pictures import DataError
from sam2core.evaluation.clicks import samples_of
from sam2core.evaluation.scoring import score, tracks
from sam2core.evaluation.vos import MaskFiles
from sam2core.training.clips import divide
from sam2core.training.filming import Filming, film
from sam2core.training.readers import FOOTAGE, READERS
from tests.data import made

SIZE = 64
PLAIN = Filming(
    reverse=0.0, late=0.0, flip=0.0, rotate=0.0, shear=0.0, jitter=(0.0,) * 3, jitter_frame=(0.0,) * 3, grey=0, mosaic=0
)
NEEDS = {"nifti": "nibabel"}


def masks_of(number: int) -> list[np.ndarray]:
    labels = made.ids(number)
    return sorted((labels == value for value in (1, 2)), key=lambda mask: int(mask.sum()))


def same(found: list[np.ndarray], number: int) -> bool:
    found = sorted((np.asarray(mask) for mask in found), key=lambda mask: int(mask.sum()))
    return len(found) == 2 and all((one == two).all() for one, two in zip(found, masks_of(number)))


@pytest.fixture(scope="module", params=FORMATS)
def data(request, tmp_path_factory):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return open_data(made.data_of(request.param, tmp_path_factory.mktemp("data") / request.param))


def frames(data):
    return [(item, frame) for item in data.footage for frame in range(item.length)]


def test_it_is_recognised_and_told(data):
    assert recognise(data.root)[0] == data.format.name
    assert data.format.name in data.sentence and str(len(data.footage)) in data.sentence
    again = open_data(data.root, data.format.name)
    assert [item.name for item in again.footage] == [item.name for item in data.footage]


def test_training_evaluation_and_prediction_see_the_same(data):
    clicked = list(samples_of(data, background=False, smallest=0.0, largest=1.0))
    assert len(clicked) == 3
    for number, ((item, frame), sample) in enumerate(zip(frames(data), clicked)):
        (image,) = item.pictures([frame])
        assert same(list(item.read(frame).values()), number), "as prompts and truths"
        assert same(list(sample.masks), number) and (sample.image == image).all(), "as clicked on"
        assert set(np.unique(item.ids(frame))) - {0} == set(item.objects(frame))
        if item.still:
            assert same([np.isin(regions, group) for regions, group in _objects(item)], number), "as trained on"
        assert abs(image[40, 12 + number].astype(int) - (220, 60, 60)).max() < 12 or data.format.name == "nifti"


def _objects(item):
    sample = divide(item, instances=True)
    return [(sample.regions, group) for group in sample.objects]


def test_training_cuts_clips_out_of_it(data):
    reader = {**READERS, **FOOTAGE}[data.format.name]
    assert reader is not None
    clip = film(data.footage[0], 1, np.random.default_rng(0), size=SIZE, objects=2, min_area=0.0, filming=PLAIN)
    assert clip is not None and clip.masks.shape == (1, 2, SIZE, SIZE) and clip.masks.any((2, 3)).all()


def test_check_counts_it(data):
    found = check(data.footage)
    assert not found.problems and found.frames == 3 and found.sizes == {made.SIZE: 3}
    assert found.videos == (1 if data.format.clips else 0)
    assert any("128x96 (3)" in line for line in found.lines())


def test_vos_takes_clips_and_refuses_pictures(data, tmp_path):
    if not data.format.clips:
        with pytest.raises(DataError, match="images, no videos"):
            open_clips(data.root)
        return
    opened = open_clips(data.root)
    (item,) = opened.footage
    folders = {number: item.object_name(number) for number in item.objects(0)} if item.overlapping else None
    files = MaskFiles(tmp_path / item.name, folders)
    for frame, name in enumerate(item.names):
        files.write(name, item.read(frame), made.SIZE)
    protocol = "sav" if item.overlapping else "davis"
    (found,) = [objects for _, objects in score(opened.footage, tmp_path, protocol=protocol, ends=True)]
    assert [one.j.mean for one in found] == [1.0, 1.0] and len(tracks(item)) == (2 if item.overlapping else 1)


def as_jpegs(root):
    """A folder of the same labels over JPEGs, one of them called .jpeg."""
    for place, path in enumerate([*root.glob("images/*.png"), *root.glob("JPEGImages/*/*.png")]):
        Image.open(path).save(path.with_suffix(".jpg" if place else ".jpeg"), "JPEG", quality=95)
        path.unlink()
    return root


PAIRS = [
    (source, target)
    for source, target in product(("label_folder", "davis"), writable())
    if FORMATS[source].clips or not FORMATS[target].clips
]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_round_trips(source, target, tmp_path):
    if target in NEEDS:
        pytest.importorskip(NEEDS[target])
    data = open_data(made.data_of(source, tmp_path / "a"))
    if target == "sa1b":
        with pytest.raises(DataError, match="SA-1B holds JPEGs"):
            convert(data, tmp_path / "no", target)
        data = open_data(as_jpegs(tmp_path / "a"), source)
    written = convert(data, tmp_path / "b", target)
    back = open_data(tmp_path / "b", target)
    assert len(frames(back)) == 3 and not list(tmp_path.glob("*.part"))
    for number, (item, frame) in enumerate(frames(back)):
        assert same(list(item.read(frame).values()), number)
    if source == "davis" and not FORMATS[target].clips:
        assert any("videos whose objects" in sentence for sentence in written.sentences)


def test_what_cannot_be_converted_is_refused(tmp_path):
    data = open_data(made.label_folder(tmp_path / "a"))
    with pytest.raises(DataError, match="davis holds videos, .* holds images"):
        convert(data, tmp_path / "b", "davis")
    with pytest.raises(DataError, match="sav is read and not written"):
        convert(data, tmp_path / "b", "sav")
    with pytest.raises(DataError, match="there is no format 'yollo'.*did you mean 'yolo'"):
        convert(data, tmp_path / "b", "yollo")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(DataError, match="there already and not empty"):
        convert(data, tmp_path / "full", "yolo")
    with pytest.raises(DataError, match="in none of the formats that are read"):
        open_data(tmp_path / "full")
    with pytest.raises(DataError, match="has no option 'axis'; it has ignore"):
        open_data(tmp_path / "a", axis=1)


def test_overlap_and_classes_that_are_lost_are_told(tmp_path):
    convert(open_data(made.label_folder(tmp_path / "a", 1)), tmp_path / "coco", "coco")
    document = tmp_path / "coco" / "annotations.json"
    document.write_text(document.read_text().replace('"object"', '"dog"'))
    data = open_data(tmp_path / "coco")
    assert data.footage[0].classes == {1: "dog", 2: "dog"}
    data.footage[0]._shapes[0].append(data.footage[0]._shapes[0][0].__class__(3, data.footage[0]._shapes[0][0].coded))
    sentences = convert(data, tmp_path / "b", "label_folder").sentences
    assert any("pixels that belong to several objects" in each for each in sentences)
    assert "lost: 2 class names" in sentences
