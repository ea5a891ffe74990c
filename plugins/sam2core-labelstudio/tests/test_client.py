"""The client against a live server: what it gives is the library's own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sam2core_labelstudio import ApiError, Client, brush
from sam2core_labelstudio.command import main

BOX, POINT = (190.0, 120.0, 330.0, 340.0), (430.0, 200.0)


def test_a_picture(server: SimpleNamespace, tmp_path: Path) -> None:
    handle = server.image.encode(server.samples / "cat.jpg")
    with server.client.open(server.samples / "cat.jpg") as picture:
        assert (picture.kind, picture.size) == ("image", (300, 451))
        mask = picture.prompt(1, points=[(220, 150)], name="cat")[1]
        assert np.array_equal(brush.pixels(mask), handle.predict(points=[[220, 150]]).masks[0, 0].numpy())
        assert mask.object_score is None and mask.area == brush.pixels(mask).sum()
        assert picture.preview((220, 150)) == mask
        other = picture.prompt(2, box=(60, 20, 300, 280), points=[(20, 20)], labels=[0])
        assert other[1] == mask and picture.masks() == other
        assert picture.prompt(3, mask=mask)[3].counts == mask.counts
        picture.remove(3)
        assert [one["id"] for one in picture.undo()["objects"]] == [1, 2, 3]
        assert [one["id"] for one in picture.undo()["objects"]] == [1, 2]
        assert [one["id"] for one in picture.undo()["objects"]] == [1]
        picture.redo()
        picture.export("overlay", tmp_path / "cat.png", effect="contour")
        assert (tmp_path / "cat.png").read_bytes()[:4] == b"\x89PNG"
        with pytest.raises(ApiError, match="kind"):
            picture.export("poster", tmp_path / "cat.png.2")
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
    with pytest.raises(ApiError, match="no such session") as refused:
        picture.state()
    assert refused.value.status == 404
    picture.close()


def test_a_clip_is_tracked_cancelled_and_gone_on_with(server: SimpleNamespace) -> None:
    with server.client.open(sample="chair.mp4") as clip:
        clip.prompt(1, box=BOX)
        got = {}
        for frame in clip.track(stop=12):
            got[frame.number] = frame.masks
            if frame.number == 3:
                assert clip.cancel()["resumable"]
        at = max(got)
        assert at < 11
        clip.prompt(2, frame=at, points=[POINT])
        for frame in clip.track(resume=True):
            got[frame.number] = frame.masks
            assert frame.total == 11 - at
        assert sorted(got) == list(range(12)) and set(got[11]) == {1, 2}
        state = clip.state()
        assert not state["tracking"] and not state["resumable"]
        broken_off = clip.track(start=0)
        assert next(broken_off).number == 0
        broken_off.close()
        assert clip.cancel()["tracking"] is False
    session = server.video.open(server.samples / "chair.mp4", keep="all")
    session.prompt(0, 1, box=list(BOX))
    for result in session.propagate(0, 12):
        assert np.array_equal(brush.pixels(got[result.frame][1]), result.masks[1].numpy()), result.frame


def test_what_goes_wrong_is_said(server: SimpleNamespace, tmp_path: Path) -> None:
    words = tmp_path / "words.jpg"
    words.write_text("no image")
    with pytest.raises(ApiError, match="no image") as refused:
        server.client.open(words)
    assert refused.value.status == 415
    for address in ("localhost", "127.0.0.1:8000", "http://localhost:http", "http://[::1"):
        with pytest.raises(ValueError, match="http://HOST:PORT"):
            Client(address)
    with pytest.raises(ApiError, match="no answer from"):
        Client("http://127.0.0.1:9").about()
    with server.client.open(sample="cat.jpg") as picture, pytest.raises(ApiError, match="nothing to track"):
        next(picture.track())
    assert server.client.about()["model"] == "sam2core_nano"


@pytest.mark.parametrize(
    ("server", "code", "said"), [("http://127.0.0.1:9", 1, "no answer from"), ("127.0.0.1:8000", 2, "http://HOST:PORT")]
)
def test_a_backend_without_a_server(server: str, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--server", server])
    assert ended.value.code == code and said in capsys.readouterr().err


def test_a_backend_without_label_studio(
    server: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "label_studio_ml", None)
    with pytest.raises(SystemExit) as ended:
        main(["--server", server.address])
    assert ended.value.code == 1 and "extra `backend` of sam2core-labelstudio" in capsys.readouterr().err
