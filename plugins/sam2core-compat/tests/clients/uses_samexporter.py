"""samexporter: its own folder of Hydra configurations, its encoder and decoder, and the decoder as ONNX."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import onnx
import samexporter.export_sam2 as exporter
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

folder, checkpoint = Path(sys.argv[1]), sys.argv[2]
GlobalHydra.instance().clear()
configurations = str(Path(exporter.__file__).parent / "sam2_configs")
with initialize_config_dir(config_dir=configurations, version_base="1.2"):
    model = exporter.build_sam2(exporter.MODEL_CONFIGS["sam2.1_hiera_tiny"], checkpoint, device="cpu")
picture = torch.from_numpy(np.random.default_rng(0).random((1, 3, 1024, 1024), np.float32))
finest, finer, embedding = exporter.SAM2ImageEncoder(model)(picture)
assert (finest.shape, finer.shape, embedding.shape) == ((1, 32, 256, 256), (1, 64, 128, 128), (1, 256, 64, 64))
points, labels = torch.tensor([[[500.0, 400.0]]]), torch.ones(1, 1)
inputs = (embedding, finest, finer, points, labels, torch.zeros(1, 1, 256, 256), torch.zeros(1))
decoder = exporter.SAM2ImageDecoder(model, multimask_output=True)
masks, iou = decoder(*inputs)
assert masks.shape == (1, 3, 256, 256) and iou.shape == (1, 3) and torch.isfinite(masks).all()
written = io.BytesIO()
torch.onnx.export(decoder, inputs, written, opset_version=17, dynamo=False)
graph = onnx.load_from_string(written.getvalue())
onnx.checker.check_model(graph)
sys.stdout.write(f"samexporter: {len(graph.graph.node)} nodes, {len(written.getvalue()) / 2**20:.0f} MiB\n")
