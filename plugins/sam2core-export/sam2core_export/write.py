"""Write a model's graphs into a folder, with a description that a runner in any language can follow."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._inductor

from sam2core.checkpoints.files import sha256
from sam2core.model import Sam2
from sam2core.ops.pixels import normalise
from sam2core.storage import finish
from sam2core.types import MASK_INPUT_LIMIT, NO_OBJECT, Label
from sam2core_export.graphs import Graph, Port, Sizes, graphs

FORMATS = {"onnx": ".onnx", "torch_export": ".pt2", "aoti": ".pt2"}
DESCRIPTION = "graphs.json"
VERSION = 1
EXAMPLE = {"objects": 2, "points": 3}
OPSET = 18
POINTS = 12


@torch.no_grad()
def export(
    model: Sam2,
    folder: str | os.PathLike[str],
    *,
    format: str = "onnx",
    slots: int | None = None,
    object_pointers: int | None = None,
    points: int = POINTS,
    int8: bool = False,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Write the four graphs of a float32 model and `graphs.json`; the description that was written.

    `slots` memories and `object_pointers` object pointers fit the bank of one object (None: as many as the model's own
    policy recalls with one prompted frame). `points` is the fixed number of points of a model that draws its prompts;
    others take any number. `int8` puts weights of matrix products in 8 bits (ONNX only): smaller, and lossy. ``aoti``
    compiles the graphs ahead of time for this machine's kind of processor (AOTInductor; wants a C++ compiler, now and
    not later). A model that the folder holds already is replaced once all is written; until then it stays as it is.
    Raises ValueError for an unknown format, sizes below 1, and models these graphs cannot stand for.
    """
    if format not in FORMATS:
        raise ValueError(f"the format is one of {', '.join(FORMATS)}, not {format!r}")
    if int8 and format != "onnx":
        raise ValueError(f"only onnx graphs can be quantised to int8, not {format!r}")
    policy = model.memory_policy
    sizes = Sizes(
        slots=model.memory_readout.slots if slots is None else slots,
        object_pointers=getattr(policy, "object_pointers", 16) if object_pointers is None else object_pointers,
        points=points if getattr(model.prompt_encoder, "unrolled", False) else None,
    )
    if min(sizes.slots, sizes.object_pointers, points) < 1:
        raise ValueError(
            f"slots, object pointers and points are at least 1, not {slots}, {object_pointers} and {points}"
        )
    model = model.eval()
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    write = {"onnx": _write_onnx, "torch_export": _write_torch, "aoti": _compile}[format]
    entries: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=home) as beside:
        for name, graph in graphs(model, sizes).items():
            begun = time.perf_counter()
            file = Path(beside) / f"{name}{FORMATS[format]}"
            write(graph.eval(), file)
            if int8:
                _quantise(file)
            entries[name] = {
                "file": file.name,
                "sha256": sha256(file),
                "inputs": [_port(port) for port in graph.inputs],
                "outputs": [_port(port) for port in graph.outputs],
            }
            if progress is not None:
                size = file.stat().st_size
                progress(f"{file.name}: {size / 2**20:.1f} MiB, {time.perf_counter() - begun:.1f} s")
        about = _describe(model, format, sizes, int8) | {"graphs": entries}
        description = Path(beside) / DESCRIPTION
        description.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        (home / DESCRIPTION).unlink(missing_ok=True)  # while files are put in place, the folder holds no model
        for entry in entries.values():
            finish(Path(beside) / entry["file"], home / entry["file"])
        finish(description, home / DESCRIPTION)
    return about


def _port(port: Port) -> dict[str, Any]:
    return dataclasses.asdict(port) | {"shape": list(port.shape)}


def _axes(graph: Graph) -> tuple[dict[str, Any] | None, ...]:
    """The varying axes of each input, as torch.export wants them."""
    names = {axis for port in graph.inputs for axis in port.shape if isinstance(axis, str)}
    dims = {name: torch.export.Dim(name, min=1, max=4096) for name in names}
    return tuple(
        {place: dims[axis] for place, axis in enumerate(port.shape) if isinstance(axis, str)} or None
        for port in graph.inputs
    )


def _program(graph: Graph) -> torch.export.ExportedProgram:
    axes = _axes(graph)
    kinds = [parameter.kind for parameter in inspect.signature(graph.forward).parameters.values()]
    named = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    shapes: tuple[Any, ...] = axes if named == len(kinds) else (*axes[:named], axes[named:])  # forward(a, b, *rest)
    return torch.export.export(graph, graph.example(EXAMPLE), dynamic_shapes=shapes, strict=False)


def _write_torch(graph: Graph, file: Path) -> None:
    torch.export.save(_program(graph), file)


def _compile(graph: Graph, file: Path) -> None:
    torch._inductor.aoti_compile_and_package(_program(graph), package_path=str(file))


def _write_onnx(graph: Graph, file: Path) -> None:
    program = _program(graph)
    written = torch.onnx.export(
        program,
        input_names=[port.name for port in graph.inputs],
        output_names=[port.name for port in graph.outputs],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert written is not None
    written.save(file, external_data=False)


def _quantise(file: Path) -> None:
    """Weights of linear layers in 8 bits, inputs quantised as they come; convolutions stay as they are."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = file.with_suffix(".whole.onnx")
    file.rename(whole)
    try:
        quantize_dynamic(
            whole, file, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
        )
    finally:
        whole.unlink()


def _describe(model: Sam2, format: str, sizes: Sizes, int8: bool) -> dict[str, Any]:
    spec = getattr(model, "spec", None)
    object_pointer = model.object_pointer
    black, white = (normalise(torch.full((1, 3, 1, 1), value)).flatten() for value in (0.0, 1.0))
    scale = 1 / (white - black)
    return {
        "sam2core": VERSION,
        "model": spec.name if spec else None,
        "format": format,
        "int8": int8,
        "image_size": list(model.image_size),
        "mask_input_size": list(model.prompt_encoder.mask_input_size),
        "slots": sizes.slots,
        "slot_rows": model.memory_readout.slots,
        "object_pointers": sizes.object_pointers,
        "points": sizes.points,
        "labels": {label.name.lower(): int(label) for label in Label},
        "pixel_mean": (-black * scale).tolist(),
        "pixel_std": scale.tolist(),
        "no_object": NO_OBJECT,
        "mask_input_limit": MASK_INPUT_LIMIT,
        "multimask": dataclasses.asdict(model.multimask),
        "stability": dataclasses.asdict(model.mask_decoder.stability) if model.mask_decoder.stability else None,
        "memory_policy": dict(spec.memory_policy) if spec else None,
        "predictors": {task: dict(options) for task, options in spec.predictors.items()} if spec else {},
        "no_memory": model.memory_readout.no_memory.flatten().tolist(),
        "absent_object_pointer": object_pointer.absent.flatten().tolist(),
        "mask_stem": {
            "weight": object_pointer.mask_stem.weight[0, 0].tolist(),
            "bias": object_pointer.mask_stem.bias.tolist(),
        },
        "fingerprint": model.fingerprint(),
    }
