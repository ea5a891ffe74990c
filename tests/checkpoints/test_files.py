"""Files are read without running code and without a second copy, and written whole or not at all."""

from __future__ import annotations

import json
import os
import zipfile

import pytest
import torch
from safetensors import SafetensorError

from sam2core.checkpoints import files
from sam2core.checkpoints.files import FileError


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.rand(3, 4, generator=generator), "b": torch.arange(5), "c": torch.tensor(1.5).half()}


def same(left, right):
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_safetensors_come_back_with_their_metadata(tmp_path, state):
    path = files.write(
        tmp_path / "m.safetensors", state, files.describe(spec={"dim": 3}, source_sha256="ab", license="MIT")
    )
    again, metadata = files.read(path)
    assert same(again, state)
    assert metadata["format"] == "pt" and metadata["sam2core.schema"] == "1" and metadata["sam2core.layout"] == "native"
    assert metadata["sam2core.source_sha256"] == "ab" and metadata["modelspec.license"] == "MIT"
    assert files.read_metadata(path) == metadata
    assert files.embedded_spec(metadata) == {"dim": 3}


def test_a_pt_is_written_as_metas_are(tmp_path, state):
    path = files.write_pt(tmp_path / "m.pt", state)
    assert same(torch.load(path, weights_only=True)["model"], state)
    again, metadata = files.read(path)
    assert same(again, state) and metadata == {}
    assert files.read_metadata(path) == {}


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_writing_to_a_tensor_does_not_reach_the_file(tmp_path, state, kind):
    path = tmp_path / f"m.{kind}"
    (files.write_pt if kind == "pt" else files.write)(path, state)
    path.chmod(0o444)
    before = path.read_bytes()
    mine, other = files.read(path)[0], files.read(path)[0]
    mine["a.weight"].add_(1)
    mine["b"].zero_()
    assert path.read_bytes() == before
    assert same(other, state) and not same(mine, state)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_reading_costs_no_memory_of_its_own(tmp_path, kind):
    path = tmp_path / f"m.{kind}"
    (files.write_pt if kind == "pt" else files.write)(path, {"big": torch.ones(8_000_000)})
    before = _private_kilobytes()
    tensors, _ = files.read(path)
    assert tensors["big"][::1024].sum() > 0
    assert tensors["big"].sum().item() == 8_000_000
    assert _private_kilobytes() - before < 8_000  # of 32,000


def _private_kilobytes():
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
    except OSError:
        pytest.skip("this system does not tell private memory apart")


@pytest.mark.parametrize("content", [{"model": {"a": torch.ones(1)}, "x": Harmful()}, Harmful(), {"a": Harmful()}])
def test_code_in_a_file_is_never_run(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "m.pt")
    with pytest.raises(FileError, match="code in a file is never run"):
        files.read("m.pt")
    assert not (tmp_path / "harm").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_plain_pickle_is_not_run_either(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(FileError):
        files.read("m.pt")
    assert not (tmp_path / "harm").exists()


def test_torchs_tar_files_are_not_opened(tmp_path):
    import tarfile

    (tmp_path / "pickle").write_bytes(b"x")
    with tarfile.open(tmp_path / "m.pt", "w") as archive:
        archive.add(tmp_path / "pickle", "pickle")
    with pytest.raises(FileError, match="tar archive"):
        files.read(tmp_path / "m.pt")


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 60, -10])
def test_a_file_cut_short_says_so(tmp_path, state, kind, keep):
    path = tmp_path / f"m.{kind}"
    (files.write_pt if kind == "pt" else files.write)(path, state)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match=f"no whole|never run.*|m.{kind}"):
        files.read(path)


@pytest.mark.parametrize("keep", [1, 500, 5000, 20_000])
def test_a_large_torch_file_cut_short_says_so(tmp_path, keep):
    path = files.write_pt(tmp_path / "m.pt", {"a": torch.zeros(9000)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FileError, match="no whole torch file"):
        files.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "it is empty"),
        ({"model": {}}, "it is empty"),
        ({"epoch": 3, "a": torch.ones(1)}, "epoch is no tensor"),
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
    ],
)
def test_what_is_no_checkpoint_says_what_it_is(tmp_path, content, message):
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(FileError, match=message):
        files.read(tmp_path / "m.pt")


def test_no_such_file_and_a_folder(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        files.read(tmp_path / "m.pt")
    with pytest.raises(FileError, match="is a folder"):
        files.read(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileError, match="model.safetensors is no whole"):
        files.read(tmp_path)


def test_nothing_is_replaced_unasked(tmp_path, state):
    for name, write in (("m.safetensors", files.write), ("m.pt", files.write_pt)):
        path = tmp_path / name
        path.write_text("precious")
        with pytest.raises(FileError, match="there already"):
            write(path, state)
        assert path.read_text() == "precious"
        write(path, state, force=True)
        assert same(files.read(path)[0], state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.pt", "m.safetensors"]


def test_a_name_says_what_is_inside(tmp_path, state):
    with pytest.raises(FileError, match="call it .safetensors"):
        files.write(tmp_path / "m.pt", state)
    with pytest.raises(FileError, match="call it .pt"):
        files.write_pt(tmp_path / "m.safetensors", state)
    with pytest.raises(FileError, match="is no folder"):
        files.write(tmp_path / "nowhere" / "m.safetensors", state)


@pytest.mark.parametrize(
    "write, name, library, error",
    [
        (files.write, "m.safetensors", "safetensors.torch.save_file", SafetensorError("No space left")),
        (files.write_pt, "m.pt", "torch.save", RuntimeError("unexpected pos 576 vs 534")),
    ],
)
def test_a_full_disk_is_an_oserror_that_names_the_file(tmp_path, state, monkeypatch, write, name, library, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(library, fail)
    with pytest.raises(OSError, match=f"{name} could not be written.*{error}"):
        write(tmp_path / name, state)
    assert not list(tmp_path.iterdir())


def test_a_written_file_has_the_users_permissions(tmp_path, state):
    old = os.umask(0o022)
    try:
        assert files.write(tmp_path / "m.safetensors", state).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(old)


def test_tensors_that_share_memory_are_each_written_in_full(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    shared = {"whole": base, "again": base, "row": base[1], "turned": base.t(), "wide": torch.ones(1, 4).expand(3, 4)}
    wanted = {name: tensor.clone() for name, tensor in shared.items()}
    for path in (files.write(tmp_path / "m.safetensors", shared), files.write_pt(tmp_path / "m.pt", shared)):
        again, _ = files.read(path)
        assert same(again, wanted)
        again["row"].zero_()
        assert torch.equal(again["whole"], wanted["whole"])


def test_a_view_does_not_drag_its_storage_into_a_pt(tmp_path):
    path = files.write_pt(tmp_path / "m.pt", {"row": torch.zeros(1000, 1000)[0]})
    assert path.stat().st_size < 20_000
    assert zipfile.is_zipfile(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"dim": "${oc.env:HOME}"}', "interpolation"),
        ('{"dim": "\\u0024{oc.env:HOME}"}', "interpolation"),
        ('{"dim": ', "no JSON"),
        ("[1]", "is a list"),
    ],
)
def test_a_spec_in_metadata_is_plain_json(text, message):
    with pytest.raises(FileError, match=message):
        files.embedded_spec({"sam2core.spec": text})


def test_a_spec_of_a_later_schema_is_refused():
    with pytest.raises(FileError, match="schema '2'"):
        files.embedded_spec({"sam2core.spec": json.dumps({}), "sam2core.schema": "2"})
    assert files.embedded_spec({}) is None


def test_describe_refuses_what_reading_would_refuse():
    with pytest.raises(FileError, match="interpolation"):
        files.describe(spec={"dim": "${x}"})


def test_the_checksum_is_sha256_with_progress(tmp_path):
    import hashlib

    path = tmp_path / "m.bin"
    path.write_bytes(b"x" * 3_000_000)
    seen = []
    found = files.sha256(path, lambda done, total: seen.append((done, total)))
    assert found == hashlib.sha256(b"x" * 3_000_000).hexdigest()
    assert seen[-1] == (3_000_000, 3_000_000) and len(seen) == 3


def test_equal_content_gives_equal_bytes(tmp_path):
    metadata = {f"sam2core.{word}": f'"{word}" \n ä' for word in ("spec", "layout", "license", "schema", "source")}
    state = {"b": torch.ones(3), "a": torch.zeros(2, 2), "ä": torch.arange(5)}
    written = []
    for count in range(6):
        some = dict(reversed(metadata.items())) if count % 2 else metadata
        path = files.write(tmp_path / f"{count}.safetensors", state, some)
        again, read = files.read(path)
        assert read == {"format": "pt"} | metadata and same(again, state)
        written.append(path.read_bytes())
    assert len(set(written)) == 1


def test_a_folder_and_an_index_of_shards_are_read(tmp_path):
    state = {name: torch.full((2,), float(number)) for number, name in enumerate("abcd")}
    files.write(tmp_path / "one.safetensors", {name: state[name] for name in "ab"})
    files.write(tmp_path / "two.safetensors", {name: state[name] for name in "cd"})
    places = {"a": "one", "b": "one", "c": "two", "d": "two"}
    index = tmp_path / "model.safetensors.index.json"

    def names(**changes):
        index.write_text(json.dumps({"weight_map": {n: f"{p}.safetensors" for n, p in (places | changes).items()}}))

    names()
    for path in (tmp_path, index):
        read, _ = files.read(path)
        assert read.keys() == state.keys() and all(torch.equal(read[name], state[name]) for name in state)
    for changes, words in (
        ({"a": "../one"}, "leaves its folder"),
        ({"a": "three"}, "1 of 3 files are not beside it"),
        ({"a": "two"}, "says that a is in two.safetensors, and it is not there"),
    ):
        names(**changes)
        with pytest.raises(FileError, match=f"index.json.*{words}"):
            files.read(tmp_path)
    index.write_text('{"weight_map": null}')
    with pytest.raises(FileError, match="'weight_map' is a mapping; got null"):
        files.read(index)
    files.write(tmp_path / "model.safetensors", state)
    assert files.read(tmp_path)[0].keys() == state.keys()
