"""Containers that are damaged, or would take all memory, are noticed before anything of them is used."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sam2core.checkpoints import files
from sam2core.checkpoints.containers import check_container, is_safetensors, is_zip
from sam2core.checkpoints.files import FileError


def test_every_flipped_byte_of_a_pt_is_noticed(tmp_path: Path) -> None:
    state = {"a": torch.randn(40, 40), "b": torch.arange(9.0)}
    whole = files.write_pt(tmp_path / "w.pt", state).read_bytes()
    for seed in range(30):
        chance, content = random.Random(seed), bytearray(whole)
        for _ in range(20):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (tmp_path / "w.pt").write_bytes(content)
        try:
            again, _ = files.read(tmp_path / "w.pt")
        except FileError as error:
            assert "w.pt" in str(error)
        else:  # what no checksum covers: padding and times in the zip
            assert all(torch.equal(again[name], state[name]) for name in state)


def repacked(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))


LIMITED = """
import json, resource, sys
from sam2core.checkpoints import files
import torch
resource.setrlimit(resource.RLIMIT_DATA, (1 << 30, 1 << 30))
said = {}
for path in sys.argv[1:]:
    try:
        files.read(path)
    except files.FileError as error:
        said[path] = str(error)
print(json.dumps(said))
"""


def test_what_would_take_all_memory_or_never_end_is_refused(tmp_path: Path) -> None:
    wanted = {
        "deflated.pt": "is compressed or locked",
        "bytearray.pt": "more than tensors and plain values",
        "pickle.pt": "its pickle has .*; at most 16.8 MB are read",
        "views.pt": "its tensors claim .* may claim",
        "deep.pt": "",
        "zero.pt": "is a device",
        "pipe.pt": "is a pipe",
        "header.safetensors": "header has .*; at most 16.8 MB are read",
    }
    for name, more, how in (("deflated", 20_000_000, zipfile.ZIP_DEFLATED), ("pickle", 17 << 20, zipfile.ZIP_STORED)):
        path = files.write_pt(tmp_path / f"{name}.pt", {"a": torch.zeros(4)})
        repacked(path, lambda name, old, more=more: old + bytes(more if name.endswith("pkl") else 0), how)  # type: ignore[misc]
    (tmp_path / "bytearray.pt").write_bytes(b"\x80\x02cbuiltins\nbytearray\nJ\x00\x00\x00\x7f\x85R.")
    torch.save({"a": torch.zeros(1).expand(1_000_000_000)}, tmp_path / "views.pt")
    (tmp_path / "deep.pt").write_bytes(b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b".")
    (tmp_path / "header.safetensors").write_bytes((17 << 20).to_bytes(8, "little") + b" " * (17 << 20))
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.pt")
    paths = [str(tmp_path / name) for name in wanted]
    run = subprocess.run([sys.executable, "-c", LIMITED, *paths], capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr[-1500:]
    said = json.loads(run.stdout)
    for path, words in zip(paths, wanted.values(), strict=True):
        assert re.search(words, said[path]) and Path(path).name in said[path], said[path]


def test_a_container_is_known_by_its_content(tmp_path: Path) -> None:
    state = {"a": torch.zeros(4)}
    torch_file = files.write_pt(tmp_path / "a.pt", state)
    tensors = files.write(tmp_path / "b.safetensors", state)
    assert (is_zip(torch_file), is_zip(tensors)) == (True, False)
    assert (is_safetensors(torch_file), is_safetensors(tensors)) == (False, True)
    for path in (torch_file, tensors):
        check_container(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        with pytest.raises(FileError, match="theirs"):
            check_container(path, name="theirs")
