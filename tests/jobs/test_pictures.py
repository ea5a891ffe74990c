"""Images done by workers that are killed, and by a run that is: the same bytes in the end, nothing done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sam2core.jobs.folder import try_folder
from sam2core.jobs.inputs import clips, named, pictures
from tests.jobs.killed import children, go

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_killed_workers_and_a_killed_parent_change_nothing(tmp_path):
    files = [tmp_path / f"{number:03d}.png" for number in range(60)]
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]) * 50)
    go(tmp_path / "one", files, 1)
    whole, out = content(tmp_path / "one"), tmp_path / "two"
    command = [sys.executable, "-m", "tests.jobs.killed", str(out), *map(str, files)]
    parent = subprocess.Popen(command, cwd=ROOT)
    wait_for(lambda: len(list(out.glob("*.json"))) > 5, parent)
    os.kill(children(parent.pid)[0], signal.SIGKILL)
    wait_for(lambda: len(list(out.glob("*.json"))) > 20, parent)
    workers = children(parent.pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: not any(Path(f"/proc/{worker}/fd").exists() for worker in workers))  # they follow it
    before = len(list(out.glob("*.json")))
    again = go(out, files, 1)
    assert content(out) == whole and 20 < before < 60
    assert sum(bool(one.notes) for one in again.pictures) == before


def test_a_picture_that_kills_its_workers_is_a_failure_that_the_next_run_tries_again(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        file.write_bytes(file.name.encode())
    done = go(tmp_path / "out", files, 2, deadly="1")
    assert [one.path for one in done.failed] == [str(files[1])] and len(done.pictures) == 3
    assert "2 workers died over it, the last with exit code 9" in done.summary("pictures")["reasons"][str(files[1])]
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {"0", "2", "3"}
    again = go(tmp_path / "out", files, 2)
    assert not again.failed and [bool(one.notes) for one in again.pictures] == [True, False, True, True]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def wait_for(reached, process: subprocess.Popen | None = None) -> None:
    until = time.monotonic() + 100
    while not reached():
        assert time.monotonic() < until and (process is None or process.poll() is None)
        time.sleep(0.002)


def test_names_of_results(tmp_path):
    def names(*paths):
        return [name for _, name in named([tmp_path / path for path in paths])]

    assert names("a.jpg", "b.png") == ["a", "b"]
    assert names("a.jpg", "A.png", "a.jpg.png") == ["a.jpg", "A.png", "a.jpg.png"]
    assert names("x/a.jpg", "y/a.jpg", "c.jpg") == ["x_a.jpg", "y_a.jpg", "c"]
    assert names("p/x/a.jpg", "q/x/a.jpg") == ["p_x_a.jpg", "q_x_a.jpg"]
    with pytest.raises(ValueError, match="two runs"):
        named([tmp_path / "x" / "a.jpg", tmp_path / "y" / "a.jpg", tmp_path / "x_a.jpg", tmp_path / "x_a.png"])


def test_what_words_name(tmp_path):
    for name in ("b10.png", "b9.png", "c.mp4", "d.mp4", "._b9.png"):
        (tmp_path / name).touch()
    assert [path.name for path in pictures([str(tmp_path), str(tmp_path / "b9.png")])] == ["b9.png", "b10.png"]
    assert [path.name for path in pictures([str(tmp_path / "b1*.png")])] == ["b10.png"]
    assert clips([str(tmp_path / "*.mp4")]) == [str(tmp_path / "c.mp4"), str(tmp_path / "d.mp4")]
    frames = str(tmp_path / "*.png")
    assert clips([frames]) == [frames] and clips([str(tmp_path)]) == [str(tmp_path)]
    with pytest.raises(ValueError, match="is an image, no video"):
        clips([str(tmp_path / "b9.png"), str(tmp_path / "b10.png")])
    with pytest.raises(OSError, match="no such file"):
        pictures([str(tmp_path / "gone.png")])
    with pytest.raises(ValueError, match="s3://bucket/a.png is an address: jobs read and write folders; mount it"):
        pictures(["s3://bucket/a.png"])
    with pytest.raises(ValueError, match="gs://bucket/out is an address"):
        try_folder(Path("gs://bucket/out"))  # where a folder called "gs:" was made
    try_folder(tmp_path / "out")
