"""`sam2core convert` and `sam2core download`, run as a user runs them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from types import SimpleNamespace

import pytest
import torch

import registry
from registry import weights
from sam2core.checkpoints import files
from sam2core.checkpoints.facebook import FACEBOOK


@pytest.fixture
def run(capsys):
    """Call `sam2core` with words; returns code, out and err."""
    from sam2core.cli import main

    def call(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words], prog_name="sam2core")
        captured = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=captured.out, err=captured.err)

    return call


@pytest.fixture(scope="module")
def tiny():
    generator = torch.Generator().manual_seed(0)
    state = registry.build("test_tiny", weights=False).state_dict()
    return {name: torch.rand(tensor.shape, generator=generator) for name, tensor in state.items()}


@pytest.fixture
def meta(tiny, tmp_path):
    """A file as Meta's are."""
    return files.write_pt(tmp_path / "meta.pt", FACEBOOK.inverse(tiny))


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_meta_to_native_and_back(run, tiny, meta, tmp_path):
    done = run("convert", meta, tmp_path / "n.safetensors", "--verify", "--license", "Apache-2.0")
    assert (done.code, done.out.strip()) == (0, str(tmp_path / "n.safetensors"))
    assert "facebook, test_tiny, 334 tensors" in done.err and "verified" in done.err
    state, metadata = files.read(tmp_path / "n.safetensors")
    assert same(state, tiny)
    assert metadata["sam2core.source_sha256"] == hashlib.sha256(meta.read_bytes()).hexdigest()
    assert metadata["modelspec.license"] == "Apache-2.0"
    assert files.embedded_spec(metadata)["name"] == "test_tiny"
    assert registry.build(tmp_path / "n.safetensors").spec.name == "test_tiny"

    assert run("convert", tmp_path / "n.safetensors", tmp_path / "back.pt", "--verify").code == 0
    assert same(files.read(tmp_path / "back.pt")[0], files.read(meta)[0])


def test_the_spec_a_file_carries_survives(run, tiny, meta, tmp_path):
    edited = registry.spec("test_tiny", memory_policy={"frames": 1})
    (tmp_path / "edited.yaml").write_text("extends: test_tiny\nmemory_policy: {frames: 1}\n")
    done = run("convert", meta, tmp_path / "n.safetensors", "-m", tmp_path / "edited.yaml")
    assert done.code == 0, done.err
    assert run("convert", tmp_path / "n.safetensors", tmp_path / "again.safetensors").code == 0
    spec = registry.spec(str(tmp_path / "again.safetensors"))
    assert spec.memory_policy == edited.memory_policy


@pytest.fixture
def wide(tmp_path):
    """A tiny model with memories as wide as transformers wants them."""
    spec = registry.spec("test_tiny", dim=128, memory_dim=64)
    state = registry.build(spec, weights=False).state_dict()
    return files.write(tmp_path / "wide.safetensors", state, files.describe(spec=dataclasses.asdict(spec)))


def test_to_transformers_and_back(run, wide, tmp_path):
    folder = tmp_path / "hf"
    done = run("convert", wide, folder, "--to", "huggingface", "--verify")
    assert done.code == 0, done.err
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "processor_config.json",
    ]
    assert files.read_metadata(folder / "model.safetensors")["format"] == "pt"
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "sam2_video" and config["num_maskmem"] == 3
    state, _ = files.read(wide)
    assert config["vision_config"]["backbone_config"]["hidden_size"] == state["backbone.pos_embed"].shape[1]
    assert run("convert", folder / "model.safetensors", tmp_path / "n.safetensors", "-m", wide).code == 0
    assert same(files.read(tmp_path / "n.safetensors")[0], state)


def test_a_model_transformers_cannot_hold_is_not_written(run, meta, tmp_path):
    done = run("convert", meta, tmp_path / "hf", "--to", "huggingface")
    assert done.code == 1 and "64 wide" in done.err and "--to huggingface-image" in done.err
    assert not (tmp_path / "hf").exists()


def test_what_other_packages_do_not_know_is_said(run, meta, tmp_path):
    nano = registry.spec("sam2core_nano")
    done = run("convert", weights.locate(nano), tmp_path / "n.pt", "-m", "sam2core_nano")
    said = "lack sam2core_nano's prompt_encoder drawn, mask_decoder guided, memory_policy carried_mask"
    assert said in done.err
    assert "other packages" not in run("convert", meta, tmp_path / "t.safetensors").err


def test_an_image_model_is_written_and_not_made_whole(run, meta, tmp_path):
    assert run("convert", meta, tmp_path / "hf", "--to", "huggingface-image", "--verify").code == 0
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["model_type"] == "sam2"
    done = run("convert", tmp_path / "hf" / "model.safetensors", tmp_path / "n.safetensors")
    assert done.code == 1 and "without memory parts" in done.err and "loads it for images" in done.err
    assert not (tmp_path / "n.safetensors").exists()
    assert registry.build("test_tiny", weights=tmp_path / "hf" / "model.safetensors").image_only


def test_a_cast_is_what_was_asked_for(run, meta, tmp_path):
    assert run("convert", meta, tmp_path / "n.safetensors", "--dtype", "bf16", "--verify").code == 0
    assert {tensor.dtype for tensor in files.read(tmp_path / "n.safetensors")[0].values()} == {torch.bfloat16}
    assert run("convert", meta, tmp_path / "hf", "--to", "huggingface-image", "--dtype", "fp16").code == 0
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "float16"


def test_nothing_is_replaced_unasked(run, meta, tmp_path):
    (tmp_path / "n.safetensors").write_text("precious")
    done = run("convert", meta, tmp_path / "n.safetensors")
    assert done.code == 1 and "--force" in done.err and (tmp_path / "n.safetensors").read_text() == "precious"
    assert run("convert", meta, tmp_path / "n.safetensors", "--force").code == 0
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("precious")
    assert run("convert", meta, tmp_path / "hf", "--to", "huggingface").code == 1
    assert [path.name for path in (tmp_path / "hf").iterdir()] == ["config.json"]
    done = run("convert", meta, meta, "--force")
    assert done.code == 2 and "same file" in done.err


def test_what_cannot_be_converted_says_why(run, tiny, meta, tmp_path):
    assert run("convert", meta, tmp_path / "n.bin").code == 2
    done = run("convert", meta, tmp_path / "n.safetensors", "--to", "facebok")
    assert done.code == 1 and "did you mean 'facebook'" in done.err
    done = run("convert", meta, tmp_path / "n.safetensors", "-m", "sam2core_nano")
    assert done.code == 1 and "does not fit sam2core_nano" in done.err and "fits test_tiny" in done.err
    odd = files.write(tmp_path / "odd.safetensors", tiny | {"neck.lateral.0.bias": torch.ones(3)})
    done = run("convert", odd, tmp_path / "n.pt")
    assert done.code == 1 and "fits none of the models" in done.err and "--model" in done.err
    assert not list(tmp_path.glob("n.*"))


@pytest.fixture
def published(server, tmp_path, monkeypatch, meta):
    """A spec whose weights lie on the stand-in server."""
    monkeypatch.setenv("SAM2CORE_CACHE", str(tmp_path / "cache"))
    content = meta.read_bytes()
    server.files["/w/meta.pt"] = content
    spec = tmp_path / "mine.yaml"

    def write(sha=None):
        sha = sha or hashlib.sha256(content).hexdigest()
        where = (
            f"file: meta.pt, url: '{server.address}/w/meta.pt', size: {len(content)}, sha256: '{sha}', layout: facebook"
        )
        spec.write_text(f"extends: test_tiny\nweights: {{{where}}}\n")
        return spec

    return write


def test_download_prints_the_path_and_build_uses_it(run, server, published, tiny, tmp_path):
    spec = published()
    done = run("download", spec)
    path = tmp_path / "cache" / "meta.pt"
    assert (done.code, done.out.strip()) == (0, str(path)), done.err
    assert "downloading" in done.err
    assert run("download", spec, "--verify").code == 0 and len(server.gets()) == 1
    assert same(registry.build(spec, offline=True).state_dict(), tiny)


def test_download_goes_on_where_it_stopped(run, server, published, tmp_path):
    spec = published()
    server.cuts = [200_000, 0, 0]
    done = run("download", spec, "--dir", tmp_path / "there")
    assert done.code == 1 and "200000 bytes" in done.err and done.out == ""
    server.cuts, server.asked = [], []
    assert run("download", spec, "--dir", tmp_path / "there").code == 0
    assert server.gets() == [("/w/meta.pt", "bytes=200000-")]


def test_download_refuses_the_wrong_file(run, published):
    done = run("download", published(sha="0" * 64))
    assert done.code == 1 and "the checksum is" in done.err and "To get on:" in done.err


def test_verify_finds_a_file_damaged_since(run, published, tmp_path):
    spec = published()
    assert run("download", spec).code == 0
    path = tmp_path / "cache" / "meta.pt"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    assert run("download", spec).code == 0
    done = run("download", spec, "--verify")
    assert done.code == 1 and "remove it" in done.err


def test_download_needs_a_source(run, published):
    done = run("download", published(), "--source", "hub")
    assert done.code == 1 and "no hub source is declared" in done.err
    done = run("download", "test_tiny")
    assert done.code == 1 and "names no weights" in done.err


def test_verify_says_of_a_download_what_agrees_and_what_nobody_recorded(run, server, published, tmp_path):
    spec, record = published(), tmp_path / "record.json"
    done = run("verify", spec, "--device", "cpu", "--record", record)
    assert done.code == 0 and len(server.gets()) == 1, done.err
    verdicts = [tuple(line.split()[:2]) for line in done.out.splitlines()[:4]]
    assert verdicts == [("size", "ok"), ("sha256", "ok"), ("parameters", "no"), ("masks", "no")]
    report = done.out.splitlines()[-1]
    assert (
        report.startswith("report: sam2core ") and "sha256 ok" in report and f"torch {torch.__version__}, cpu" in report
    )
    done = run("verify", spec, "--against", record, "--device", "cpu")
    assert done.code == 0 and "masks ok (IoU with the record 1.0000 at least)" in done.out

    path = tmp_path / "cache" / "meta.pt"  # another file of the right names and shapes
    state, _ = files.read(path)
    path.unlink()
    files.write_pt(path, {name: tensor * 0.5 for name, tensor in state.items()})
    done = run("verify", spec, "--against", record, "--device", "cpu", "--json")
    checks = {check["name"]: check for check in json.loads(done.out)["checks"]}
    assert done.code == 1 and checks["sha256"]["verdict"] == "DIFFERS"
    assert checks["sha256"]["recorded"] != checks["sha256"]["found"] == hashlib.sha256(path.read_bytes()).hexdigest()
