"""Runs programs of Meta's that ask for a GPU on the CPU, over the user's own `tiny.yaml`.

    python metas_programs.py FOLDER SOURCES OUT

FOLDER holds `tiny.yaml`, and what the programs are given: `vos`, videos with masks; `notebooks`, with their images.
SOURCES is a checkout of Meta's; of the programs that it has, each writes a folder or a file into OUT:
`vos_inference.py` in all its ways, the inference class of the demo, and the cells of the notebooks.
"""

from __future__ import annotations

import functools
import json
import os
import re
import runpy
import shutil
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sam2.build_sam
import sam2.utils.misc
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from overriding import regions, weights

VOS = {
    "plain": [],
    "postprocessed": ["--apply_postprocessing"],
    "one file an object": ["--per_obj_png_file", "--use_all_masks"],
    "thresholded": ["--score_thresh", "0.5"],
    "appearing later": ["--track_object_appearing_later_in_video", "--apply_postprocessing"],
    "appearing later, one file an object": ["--track_object_appearing_later_in_video", "--per_obj_png_file"],
    "listed": ["--video_list_file", "listed.txt"],
    "optimized": ["--use_vos_optimized_video_predictor"],
}
"""The flags of `vos_inference.py`."""
COARSE = "points_per_side=4, pred_iou_thresh=0.1, stability_score_thresh=0.1"
"""A grid of few points, and thresholds that masks of random weights pass."""
NOTEBOOKS = ("image_predictor_example", "automatic_mask_generator_example", "video_predictor_example")


def vos(folder: Path, sources: Path, out: Path) -> None:
    program = sources / "tools" / "vos_inference.py"
    os.chdir(folder / "vos")
    for name, flags in VOS.items():
        given = ["--sam2_cfg", "tiny.yaml", "--sam2_checkpoint", str(out / "tiny.pt"), *flags]
        given += ["--base_video_dir", "frames", "--output_mask_dir", str(out / name)]
        given += ["--input_mask_dir", "objects" if "--per_obj_png_file" in flags else "masks"]
        sys.argv = [str(program), *given]
        runpy.run_path(str(program), run_name="__main__")


def demo(folder: Path, sources: Path, out: Path) -> None:
    """A session of the demo's backend: clicks on two objects, both ways, one taken back, one removed, all reset."""
    os.environ |= {"APP_ROOT": str(out), "MODEL_SIZE": "tiny", "SAM2_DEMO_FORCE_CPU_DEVICE": "1"}
    sys.path.insert(0, str(sources / "demo" / "backend" / "server"))
    try:
        import dataclasses_json  # noqa: F401
    except ImportError:  # what it adds is for the web server
        sys.modules["dataclasses_json"] = types.SimpleNamespace(dataclass_json=lambda kind: kind)  # type: ignore[assignment]
    from inference import data_types as ask
    from inference.predictor import InferenceAPI

    backend = InferenceAPI()
    weights(backend.predictor)
    session = backend.start_session(ask.StartSessionRequest("", str(folder / "vos" / "frames" / "clip"))).session_id
    told: list[Any] = []

    def click(frame: int, obj: int, points: Any, labels: Any, clear: bool = True) -> None:
        request = ask.AddPointsRequest("", session, frame, clear, obj, labels, points)
        told.append(backend.add_points(request))

    def both_ways(start: int) -> None:
        told.extend(backend.propagate_in_video(ask.PropagateInVideoRequest("", session, start)))

    click(1, 0, [[0.3, 0.6]], [1])
    click(1, 0, [[0.5, 0.2]], [0], clear=False)
    click(1, 1, [[0.7, 0.3]], [1])
    both_ways(1)
    click(2, 1, [[0.8, 0.4]], [1], clear=False)
    both_ways(1)
    told.append(backend.clear_points_in_frame(ask.ClearPointsInFrameRequest("", session, 2, 1)))
    told.extend(backend.remove_object(ask.RemoveObjectRequest("", session, 0)).results)
    both_ways(1)
    backend.clear_points_in_video(ask.ClearPointsInVideoRequest("", session))
    click(0, 9, [[0.5, 0.5]], [1])
    both_ways(0)
    assert backend.close_session(ask.CloseSessionRequest("", session)).success
    said = [
        [answer.frame_index, [[one.object_id, one.mask.size, one.mask.counts] for one in answer.results]]
        for answer in told
    ]
    (out / "demo.json").write_text(json.dumps(said))


def notebook(folder: Path, file: Path, out: Path) -> None:
    """The cells of a notebook, and the arrays that stand after each; what fails ends it, and is told."""
    work = out / "notebooks"
    shutil.copytree(folder / "notebooks", work, dirs_exist_ok=True)
    found: dict[str, np.ndarray] = {}
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    os.chdir(work)
    for number, cell in enumerate(cells):
        source = "".join(cell["source"])
        if any(line.lstrip().startswith(("!", "%")) for line in source.splitlines()):
            continue  # what installs, and downloads
        source = source.replace("SAM2AutomaticMaskGenerator(sam2)", "SAM2AutomaticMaskGenerator(model=sam2,)")
        source = re.sub(r"(points_per_side|pred_iou_thresh|stability_score_thresh)=[0-9.]+,", "", source)
        source = source.replace("model=sam2,", f"model=sam2, {COARSE},")
        if "plt" in names:
            names["plt"].close("all")
        try:
            exec(compile(source, f"{file.name}, cell {number}", "exec"), names)
        except Exception as error:  # noqa: BLE001  # a package may fail in any way
            found[f"{number:03d} failed"] = np.array(f"{type(error).__name__}: {error}"[:300])
            break
        found |= {f"{number:03d} {name}": one.copy() for name, one in sorted(arrays(names))}
    np.savez(out / f"{file.stem}.npz", **found)


def arrays(names: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """The masks, scores and logits among a notebook's names, in lists and dictionaries, too."""

    def inside(name: str, value: Any) -> Iterator[tuple[str, np.ndarray]]:
        if isinstance(value, torch.Tensor):
            yield name, value.detach().numpy()
        elif isinstance(value, np.ndarray):
            yield name, value
        elif isinstance(value, dict):
            for key, one in value.items():
                yield from inside(f"{name} {key}", one)
        elif isinstance(value, list | tuple):
            for key, one in enumerate(value):
                yield from inside(f"{name} {key}", one)

    for name, value in names.items():
        if name.startswith(("mask", "score", "logit", "best_mask", "out_mask", "video_segments")):
            yield from inside(name, value)


def main(folder: Path, sources: Path, out: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sam2.utils.misc.get_connected_components = regions  # Meta's needs its CUDA extension
    sam2.build_sam.build_sam2_video_predictor = functools.partial(
        sam2.build_sam.build_sam2_video_predictor, device="cpu"
    )
    torch.autocast = lambda *_, **__: torch.inference_mode()  # Meta's asks for CUDA's
    torch.compile = lambda function, **_: function  # Meta's compiles everything, for minutes
    with initialized(folder):
        model = sam2.build_sam.build_sam2("tiny.yaml", device="cpu")
        weights(model)
        (out / "checkpoints").mkdir(parents=True)
        torch.save({"model": model.state_dict()}, out / "tiny.pt")
        for size in ("tiny", "large"):
            shutil.copy(out / "tiny.pt", out / "checkpoints" / f"sam2.1_hiera_{size}.pt")
        if (sources / "tools" / "vos_inference.py").exists():
            vos(folder, sources, out)
        if (sources / "demo" / "backend").exists():
            demo(folder, sources, out)
        for name in NOTEBOOKS:
            if (sources / "notebooks" / f"{name}.ipynb").exists():
                notebook(folder, sources / "notebooks" / f"{name}.ipynb", out)


def initialized(folder: Path) -> Any:
    GlobalHydra.instance().clear()
    return initialize_config_dir(config_dir=str(folder), version_base="1.2")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
