"""The examples for other tools, against a live server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
BOX = (190.0, 120.0, 330.0, 340.0)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_points_and_shapes_become_a_labels_layer(server: SimpleNamespace) -> None:
    napari = example("napari_labels")
    said = napari.prompts([(0, 180, 100), (0.0, 10, 10), (3, 200, 430)], [2, 2, 3], [True, False, True])
    assert said == {
        (2, 0): {"points": [(100.0, 180.0), (10.0, 10.0)], "labels": [1, 0]},
        (3, 3): {"points": [(430.0, 200.0)], "labels": [1]},
    }
    x0, y0, x1, y1 = BOX
    drawn = napari.boxes([np.array([[0, y0, x0], [0, y0, x1], [0, y1, x1], [0, y1, x0]])], [1])
    assert drawn == {(1, 0): {"box": BOX}}
    with server.client.open(sample="chair.mp4") as clip:
        labels = np.zeros((clip.frames, *clip.size), dtype=np.uint8)
        for (number, frame), one in {**drawn, **said}.items():
            napari.paint(labels, frame, clip.prompt(number, frame=frame, **one))
        for frame in napari.track(clip, labels, 0):
            if frame == 4:
                clip.cancel()
    session = server.video.open(server.samples / "chair.mp4", keep="all")
    for (number, frame), one in {**drawn, **said}.items():
        session.prompt(frame, number, **one)
    for result in session.propagate(0, 5):
        wanted = np.zeros(clip.size, dtype=np.uint8)
        for number, mask in result.masks.items():
            wanted[mask.numpy()] = number
        assert np.array_equal(labels[result.frame], wanted), result.frame
    assert {0, 2, 3} <= set(np.unique(labels[4]).tolist())


def test_clicks_become_cvat_masks(server: SimpleNamespace) -> None:
    cvat = example("cvat_interactor")
    picture = Image.open(server.samples / "cat.jpg")
    handle = server.image.encode(picture)
    interactor = cvat.Interactor(server.client)
    points = interactor.detect(picture, positive=[(220, 150)], negative=[(20, 20)])
    opened = interactor._session
    wanted = handle.predict(points=[[220, 150], [20, 20]], labels=[1, 0]).masks[0, 0].numpy()
    assert np.array_equal(cvat.decode(points, wanted.shape), wanted) and wanted.any()
    boxed = interactor.detect(picture, box=(60, 20, 300, 280))
    wanted = handle.predict(box=[60, 20, 300, 280]).masks[0, 0].numpy()
    assert np.array_equal(cvat.decode(boxed, wanted.shape), wanted)
    assert interactor._session is opened, "the image was opened once"
    interactor.close()
    assert len(server.app.state.sessions) == 0
