"""Exported graphs answer as the model does, under the predictors, and say what they cannot do."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sam2core_export import export, load, predictor
from sam2core_export.command import command

import registry
from sam2core.cli import main
from sam2core.ops.cpu import decoding
from sam2core.predictors.image import ImagePredictor
from sam2core.predictors.video import VideoPredictor

SIZE = 64
FRAMES = np.random.default_rng(0).integers(0, 256, (16, 48, 80, 3), dtype=np.uint8)


def shaken(**overrides):
    torch.manual_seed(0)
    model = registry.build("test_tiny", weights=False, image_size=SIZE, **overrides)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.mask_decoder.presence_head.layers[-1].bias.fill_(3.0)  # random objects would mostly be absent
    return model


@pytest.fixture(scope="module")
def model():
    return shaken()


@pytest.fixture(scope="module", params=["onnx", "torch_export"])
def folder(request, model, tmp_path_factory):
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    made = tmp_path_factory.mktemp(request.param)
    export(model, made, format=request.param)
    return made


@pytest.fixture(scope="module")
def tool(folder):
    """An image predictor over the graphs: reading them takes seconds, so the tests share it."""
    return predictor(folder, threads=1)


@pytest.fixture(scope="module")
def graphs(tool):
    return tool.model


def track(model):
    session = VideoPredictor(model).open(FRAMES)
    session.prompt(0, "a", points=[[30, 20], [60, 40]], labels=[1, 0])
    session.prompt(0, "b", mask=np.pad(np.ones((20, 20), bool), ((10, 18), (30, 30))))
    session.prompt(4, "c", box=[10, 10, 50, 40])
    results = list(session.propagate())
    session.prompt(9, "a", points=[[40, 25]], labels=[0])  # a correction, with the answer as a mask input
    return [*results, *session.propagate(9, 12)]


def test_a_clip_is_tracked_as_by_the_model(model, graphs):
    mine, theirs = track(graphs), track(model)
    assert len(mine) == len(theirs) == len(FRAMES) + 3
    shown = 0
    for one, other in zip(mine, theirs):
        for name, mask in other.masks.items():
            union = (one.masks[name] | mask).sum()
            shown += int(mask.sum())
            assert not union or (one.masks[name] & mask).sum() / union >= 0.99
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-3, atol=1e-3)
    assert shown > 0


def test_images_are_prompted_as_by_the_model(model, tool):
    assert isinstance(tool, ImagePredictor)
    eager = ImagePredictor(model)
    for ask in (
        {"points": [[[10, 10]], [[40, 30]], [[70, 5]]], "multimask_output": True},
        {"box": [[5, 5, 40, 40]], "points": [[[20, 20]]]},
        {"mask_input": np.random.default_rng(1).normal(size=(1, SIZE // 4, SIZE // 4)).astype(np.float32)},
    ):
        mine, theirs = tool.encode(FRAMES[0]).predict(**ask), eager.encode(FRAMES[0]).predict(**ask)
        torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(mine.iou, theirs.iou, rtol=1e-3, atol=1e-3)
    prompts = [{"points": [[10, 10]]}, None, {"box": [[5, 5, 40, 40], [1, 1, 20, 20]]}]
    both = [one.encode(list(FRAMES[:3])).predict(prompts) for one in (tool, eager)]
    for mine, theirs in zip(*both):
        torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-3, atol=1e-3)


def test_many_prompts_are_decoded_some_at_a_time(graphs, tool, monkeypatch):
    rows, decode = [], graphs._runners["mask_decoder"]
    monkeypatch.setitem(
        graphs._runners, "mask_decoder", lambda inputs: (rows.append(len(inputs[0])), decode(inputs))[1]
    )
    handle, points = tool.encode(FRAMES[0]), [[[10, 10]], [[40, 30]], [[70, 5]]]
    expected = handle.predict(points=points)
    assert rows == [3]
    one = 4 * len(graphs.about["no_memory"]) * (SIZE // 16) ** 2  # an embedding's bytes
    monkeypatch.setattr(decoding, "CALL_BYTES", 2 * one)
    found = handle.predict(points=points)
    assert rows == [3, 2, 1]
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("format", ["onnx", "torch_export"])
def test_masks_are_guided_by_the_picture_there_too(format, tmp_path):
    if format == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    model = shaken(mask_decoder={"type": "guided", "heads": 2, "hidden": 32})
    export(model, tmp_path, format=format)
    mine, theirs = (
        one.encode(FRAMES[0]).predict(points=[[30, 20]], multimask_output=True)
        for one in (predictor(tmp_path, threads=1), ImagePredictor(model))
    )
    torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-3, atol=1e-3)
    session_mine, session_theirs = (VideoPredictor(one).open(FRAMES[:4]) for one in (load(tmp_path), model))
    for session in (session_mine, session_theirs):
        session.prompt(0, "a", points=[[30, 20]])
    for one, other in zip(session_mine.propagate(), session_theirs.propagate()):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-2, atol=1e-2)


def test_the_description_names_every_input_and_no_graph_holds_complex_numbers(folder):
    about = json.loads((folder / "graphs.json").read_text())
    assert set(about["graphs"]) == {"image_encoder", "mask_decoder", "memory_attention", "memory_encoder"}
    assert about["slots"] == 3 and about["object_pointers"] == 4 and about["image_size"] == [SIZE, SIZE]
    for entry in about["graphs"].values():
        if about["format"] == "onnx":
            import onnx

            graph = onnx.load(folder / entry["file"]).graph
            assert [value.name for value in graph.output] == [port["name"] for port in entry["outputs"]]
            assert {value.name for value in graph.input} <= {port["name"] for port in entry["inputs"]}
            complex_types = {onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128}
            assert not complex_types & {value.type.tensor_type.elem_type for value in graph.value_info}
        else:
            program = torch.export.load(folder / entry["file"])
            assert len(program.graph_signature.user_inputs) == len(entry["inputs"])
            assert not [node for node in program.graph.nodes if "complex" in str(node.target)]


def test_a_past_that_does_not_fit_is_an_error(graphs):
    session = VideoPredictor(graphs).open(FRAMES)
    for frame in range(4):
        session.prompt(frame, "a", points=[[30, 20]])
    with pytest.raises(ValueError, match="recalls .* memories and the exported bank holds 3: export with --slots"):
        list(session.propagate(0, 8))


@pytest.mark.parametrize("size", ["slots", "object_pointers"])
def test_the_option_that_makes_room_for_a_past_is_one_of_the_command(graphs, monkeypatch, size):
    monkeypatch.setitem(graphs.about, size, 1)
    session = VideoPredictor(graphs).open(FRAMES)
    for frame in range(2):
        session.prompt(frame, "a", points=[[30, 20]])
    with pytest.raises(ValueError, match="the exported bank holds 1: export with") as told:
        list(session.propagate(0, 8))
    (option,) = re.findall("export with (--[a-z_-]+)", str(told.value))
    known = {name for parameter in command.params for name in parameter.opts}
    assert option in known and option == "--" + size.replace("_", "-")


def test_sessions_are_exchanged_with_the_model(model, graphs, tmp_path):
    session = VideoPredictor(model).open(FRAMES)
    session.prompt(0, "a", points=[[30, 20]])
    list(session.propagate(0, 3))
    session.save(tmp_path / "half.safetensors")
    there = VideoPredictor(graphs).load(tmp_path / "half.safetensors", FRAMES)
    for mine, theirs in zip(there.propagate(3, 5), session.propagate(3, 5)):
        torch.testing.assert_close(mine.logits, theirs.logits, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_exported_is_said(model, tmp_path):
    with pytest.raises(ValueError, match="the format is one of onnx, torch_export, aoti, not 'tflite'"):
        export(model, tmp_path, format="tflite")
    with pytest.raises(ValueError, match="only onnx graphs"):
        export(model, tmp_path, format="torch_export", int8=True)
    with pytest.raises(ValueError, match="exported in float32"):
        export(shaken().to(torch.bfloat16), tmp_path, format="torch_export")
    with pytest.raises(ValueError, match="holds no exported model"):
        load(tmp_path)


def test_an_export_that_breaks_off_leaves_the_package_that_was_there(model, tmp_path, monkeypatch):
    import sam2core_export.runner as runner
    import sam2core_export.write as write

    monkeypatch.setattr(write, "_write_onnx", lambda graph, file: file.write_bytes(weights))
    monkeypatch.setattr(runner, "_onnx", lambda *_: None)
    weights = b"a"
    export(model, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupt(line):
        raise KeyboardInterrupt

    weights = b"b"
    with pytest.raises(KeyboardInterrupt):
        export(model, tmp_path, progress=interrupt)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    load(tmp_path)
    (tmp_path / "mask_decoder.onnx").write_bytes(weights)
    with pytest.raises(ValueError, match="mask_decoder.onnx' is not the file that graphs.json was written for"):
        load(tmp_path)
    about = json.loads((tmp_path / "graphs.json").read_text())
    for entry in about["graphs"].values():
        del entry["sha256"]
    (tmp_path / "graphs.json").write_text(json.dumps(about))
    load(tmp_path)  # a package from before there were checksums


@pytest.mark.parametrize(("module", "code"), [("onnxscript", 3), ("something", 1)])
def test_a_missing_package(tmp_path, monkeypatch, module, code):
    import sam2core_export.write as write

    def fail(*_, **__):
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    monkeypatch.setattr(write, "_write_onnx", fail)
    result = CliRunner().invoke(main, ["export", "test_tiny", "--weights", "none", "-o", str(tmp_path)])
    assert result.exit_code == code and ("sam2core-export[onnx]" in result.output) == (code == 3)


def test_the_command(tmp_path, monkeypatch):
    import sam2core_export.write as write

    asked = {}
    monkeypatch.setattr(write, "export", lambda model, folder, **options: asked.update(options, folder=folder))
    words = ["export", "test_tiny", "--weights", "none", "--slots", "5", "-o", str(tmp_path), "memory_policy.frames=1"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert asked["slots"] == 5 and asked["format"] == "onnx" and asked["folder"] == tmp_path
    assert CliRunner().invoke(main, [*words, "--format", "torch_export", "--int8"]).exit_code == 2
