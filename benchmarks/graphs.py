"""Our own exported graphs on other engines, as peers of the model they were made of: OpenVINO and ONNX Runtime.

`plugins/sam2core-export` writes the four graphs; each engine runs them behind the same verbs, so the predictors, and
all that lies between the graphs, are ours on every side. OpenVINO chooses its own kernels; bfloat16 is
asked of it by its `INFERENCE_PRECISION_HINT`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ENGINES = ("openvino", "onnxruntime")


class Graph(nn.Module):
    """One graph on OpenVINO; a module, so that hooks can time it."""

    def __init__(self, file: Path, entry: dict[str, Any], dtype: str, threads: int) -> None:
        super().__init__()
        import openvino

        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[dtype],
        }
        compiled = core.compile_model(core.read_model(file), "CPU", settings)
        told = str(compiled.get_property("INFERENCE_PRECISION_HINT"))
        if dtype == "bfloat16" and "bfloat16" not in told:
            raise SystemExit(f"OpenVINO makes no bfloat16 products here: asked for it, it takes {told}")
        taken = {name for port in compiled.inputs for name in port.names}  # inputs without a use are left out
        self.places = [place for place, port in enumerate(entry["inputs"]) if port["name"] in taken]
        self.names = [port["name"] for port in entry["inputs"]]
        self.request = compiled.create_infer_request()
        self.outputs = len(compiled.outputs)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        feed = {self.names[place]: inputs[place].contiguous().numpy() for place in self.places}
        self.request.infer(feed, share_inputs=True)
        return [torch.from_numpy(self.request.get_output_tensor(n).data.copy()) for n in range(self.outputs)]


class OnnxGraph(nn.Module):
    """One graph on ONNX Runtime, by the plugin's own runner."""

    def __init__(self, file: Path, entry: dict[str, Any], dtype: str, threads: int) -> None:
        super().__init__()
        from sam2core_export.runner import _onnx

        if dtype != "float32":
            raise SystemExit("ONNX Runtime's CPU provider runs these graphs in float32 only")
        self.run = _onnx(file, entry, threads, None)

    def forward(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        return self.run(inputs)


def written(model: Any, folder: Path) -> Path:
    """The graphs of a model, written into a folder unless they are there."""
    from sam2core_export.write import export

    if not (folder / "graphs.json").exists():
        export(model, folder, format="onnx")
    return folder


def load(folder: Path, engine: str, dtype: str = "float32", threads: int | None = None) -> Any:
    """A model that runs on the graphs in a folder, by one of ENGINES."""
    from sam2core_export.runner import GraphSam2

    about = json.loads((folder / "graphs.json").read_text(encoding="utf-8"))
    about["memory_policy"] = about["memory_policy"] or {"type": "recent"}
    make = Graph if engine == "openvino" else OnnxGraph
    runners = {
        name: make(folder / entry["file"], entry, dtype, threads or torch.get_num_threads())
        for name, entry in about["graphs"].items()
    }
    return GraphSam2(about, runners).eval()
