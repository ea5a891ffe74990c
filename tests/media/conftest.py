"""Videos of every kind, made once; and no thread of a frame source outlives its test."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.media.numbered import VIDEOS, workers, write_video


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    yield
    if workers():
        gc.collect()
    until = time.monotonic() + 5
    while workers() and time.monotonic() < until:
        time.sleep(0.01)
    assert not workers()


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @functools.cache
    def write(kind: str) -> Path:
        name, codec, options = VIDEOS[kind]
        container = {"movflags": "frag_keyframe+empty_moov"} if kind == "h264 in pieces" else None
        folder = tmp_path_factory.mktemp("video")
        return write_video(folder / name, codec, options=options, container=container)

    return write
