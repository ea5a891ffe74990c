"""`sam2core verify`: whether a model's weights are the published ones, and answer on this machine as recorded."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.cli.download import SOURCES, progress
from sam2core.cli.options import check_folder

if TYPE_CHECKING:
    import numpy as np

    from registry.spec import ModelSpec
    from sam2core.model import Sam2

QUESTIONS: tuple[dict[str, Any], ...] = (
    {"image": "coffee.jpg", "prompt": {"points": [[300, 140]]}},
    {"image": "coffee.jpg", "prompt": {"box": [170, 15, 410, 215]}},
    {"image": "cat.jpg", "prompt": {"points": [[172, 128]]}},
)
"""What a model is asked: prompts on the images that come with the package."""
LEAST_IOU = 0.99
"""The overlap of a mask with the recorded one from which on they are the same: kernels of devices round differently."""


@dataclass
class Check:
    """One thing that was examined: what was found, what is recorded (None: nothing is), and whether they agree."""

    name: str
    found: str
    recorded: str | None
    agrees: bool

    @property
    def verdict(self) -> str:
        """ "ok", "DIFFERS", or "no record"."""
        return "no record" if self.recorded is None else "ok" if self.agrees else "DIFFERS"


@click.command()
@click.argument("name")
@click.option("--source", type=click.Choice(list(SOURCES)), default="any", show_default=True,
              help="The Hugging Face hub, its author's own address, or one after the other.")  # fmt: skip
@click.option("--dir", "folder", type=click.Path(file_okay=False, path_type=Path),
              help="Folder to keep a download in.  [default: the caches]")  # fmt: skip
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps")
@click.option("--against", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="A record to compare masks with.  [default: the package's, where it has one]")  # fmt: skip
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write this machine's answers as a record.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
@click.pass_context
def command(
    ctx: click.Context,
    name: str,
    source: str,
    folder: Path | None,
    device: str,
    against: Path | None,
    record: Path | None,
    as_json: bool,
) -> None:
    """Examine the weights of the model NAME, which are downloaded unless they are here.

    Compares the file's size and SHA-256 with the recorded ones, loads every tensor, and asks for three masks on
    images that come with the package, in fp32. Where a record of such masks exists, they are compared with it: the
    embedded model has one; `--record` writes one, to compare another device or machine with. The last line says it
    all, to be reported. Exit code 1 when something differs.

    \b
    sam2core verify sam2core_nano --device cuda
    sam2core verify sam2.1_hiera_l --record large.json
    """
    import registry
    from registry import weights
    from sam2core.storage import write_text

    if record is not None:
        check_folder(record)
    spec = registry.spec(name)
    known = _read_record(against or _own_record(spec.name), needed=against is not None)
    with progress(f"downloading {spec.name}") as report:
        path = weights.locate(spec, cache_dir=folder, sources=SOURCES[source], progress=report)
    found = _file(path)
    model = registry.build(name, weights=path, device=device, dtype="float32")
    answers = ask(model, known["answers"] if known else QUESTIONS)
    checks = [*_check_file(spec, known, found), _check_tensors(spec, model), _check_masks(answers, known)]
    if record is not None:
        write_text(record, json.dumps({"model": spec.name, **found, "answers": answers}, indent=1) + "\n", force=True)
    where = str(model.device)
    line = report_line(spec.name, checks, where)
    if as_json:
        rows = [{**vars(check), "verdict": check.verdict} for check in checks]
        click.echo(json.dumps({"model": spec.name, "file": str(path), "checks": rows, "report": line}, indent=1))
    else:
        for check in checks:
            recorded = f"; recorded: {check.recorded}" if check.verdict == "DIFFERS" else ""
            click.echo(f"{check.name:<10} {check.verdict:<9}  {check.found}{recorded}")
        click.echo(f"\nreport: {line}")
    ctx.exit(1 if any(check.verdict == "DIFFERS" for check in checks) else 0)


def ask(model: Sam2, questions: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A model's best mask for each question, as COCO RLE, with the IoU that it estimates itself."""
    import registry
    from sam2core.ops import rle

    samples = Path(registry.__file__).parent / "samples"
    predictor = registry.predictor(model, "image")
    answers = []
    for question in questions:
        answer = predictor.encode(samples / question["image"]).predict(**question["prompt"])
        mask = rle.encode(answer.masks[0, 0].cpu().numpy())
        about = {"image": question["image"], "prompt": question["prompt"]}
        answers.append({**about, "mask": mask, "iou": round(float(answer.iou[0, 0]), 4)})
    return answers


def report_line(name: str, checks: Sequence[Check], device: str) -> str:
    """Everything that was found in one line, with what it was found with."""
    import torch

    import sam2core

    said = [
        f"{check.name} {check.verdict}" + (f" ({check.found})" if check.name == "masks" else "") for check in checks
    ]
    machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    if device.startswith("cuda"):
        device += f" ({torch.cuda.get_device_name(device)})"
    return f"sam2core {sam2core.__version__}, {name}: {', '.join(said)}; torch {torch.__version__}, {device}, {machine}"


def _own_record(name: str) -> Path:
    import registry

    return Path(registry.__file__).parent / "weights" / f"{name}.masks.json"


def _read_record(path: Path, *, needed: bool) -> dict[str, Any] | None:
    """A record, or None where the package has none. Raises FileError for one that is damaged or not there."""
    from sam2core.storage import FileError, json_entry, read_json

    if not needed and not path.is_file():
        return None
    known = read_json(path)
    if not json_entry(known, "answers", list, path.name):
        raise FileError(f"{path.name}: 'answers' is empty")
    for answer in known["answers"]:
        for key, kind in (("image", str), ("prompt", dict), ("mask", dict), ("iou", float)):
            json_entry(answer, key, kind, f"{path.name}, answers")
        if answer["image"] not in {question["image"] for question in QUESTIONS}:
            raise FileError(f"{path.name} asks about {answer['image']!r}, which is none of the package's images")
        if not answer["prompt"] or not set(answer["prompt"]) <= {"points", "labels", "box"}:
            raise FileError(
                f"{path.name}: a prompt has points, labels or a box; got {', '.join(answer['prompt']) or 'none'}"
            )
    return known


def _file(path: Path) -> dict[str, Any]:
    from sam2core.checkpoints import files

    with progress(f"reading {path.name}") as report:
        return {"size": path.stat().st_size, "sha256": files.sha256(path, report)}


def _check_file(spec: ModelSpec, known: dict[str, Any] | None, found: dict[str, Any]) -> list[Check]:
    """Size and checksum, beside the spec's or else the record's."""
    checks = []
    for key in ("size", "sha256"):
        recorded = getattr(spec.weights, key) or (known or {}).get(key)
        text = None if recorded is None else str(recorded)
        checks.append(Check(key, str(found[key]), text, recorded == found[key]))
    return checks


def _check_tensors(spec: ModelSpec, model: Sam2) -> Check:
    """How many numbers were loaded; that they are finite and of the right shapes was checked then."""
    count = sum(tensor.numel() for tensor in model.state_dict().values())
    recorded = None if spec.parameters is None else f"{spec.parameters:,}"
    return Check("parameters", f"{count:,}", recorded, count == spec.parameters)


def _check_masks(answers: Sequence[dict[str, Any]], known: dict[str, Any] | None) -> Check:
    from sam2core.ops import rle

    if known is None:
        areas = ", ".join(f"{rle.area(answer['mask'])} px at {answer['iou']:.3f}" for answer in answers)
        return Check("masks", areas, None, False)
    least = min(_overlap(rle.decode(a["mask"]), rle.decode(b["mask"])) for a, b in zip(answers, known["answers"]))
    return Check("masks", f"IoU with the record {least:.4f} at least", f"{LEAST_IOU} or more", least >= LEAST_IOU)


def _overlap(mask: np.ndarray, recorded: np.ndarray) -> float:
    """The IoU of two masks: 1 where both are empty, 0 where they are not of one size."""
    if mask.shape != recorded.shape:
        return 0.0
    either = int((mask | recorded).sum())
    return int((mask & recorded).sum()) / either if either else 1.0
