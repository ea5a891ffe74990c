"""`sam2core convert`: a checkpoint from one layout to another, with everything its readers want beside it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sam2core.annotations import dtype_name
from sam2core.cli.options import Dtype
from sam2core.jobs.folder import TakenError

if TYPE_CHECKING:
    from torch import Tensor

    from registry.spec import ModelSpec
    from sam2core.model import Sam2

FOLDERS = ("huggingface", "huggingface-image")  # layouts written as a folder with JSON beside the tensors
TRANSFORMERS_MEMORY_DIM = 64  # a constant of its memory attention, up to 5.23 at least


@click.command()
@click.argument("source", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "layout",
    metavar="LAYOUT",
    help="native, facebook, huggingface, huggingface-image, or a plugin's.  [default: native for .safetensors, "
    "facebook for .pt]",
)
@click.option(
    "-m", "--model", metavar="NAME", help="The model it is for.  [default: what the file says or its shapes fit]"
)
@click.option("--dtype", type=Dtype(), help="Cast to this.  [default: as in the file]")
@click.option("--license", "licence", metavar="SPDX", help="Licence to record, such as Apache-2.0.")
@click.option("--verify", is_flag=True, help="Read the result again and compare every tensor.")
@click.option("--force", is_flag=True, help="Replace what is there.")
def command(
    source: Path,
    target: Path,
    layout: str | None,
    model: str | None,
    dtype: str | None,
    licence: str | None,
    verify: bool,
    force: bool,
) -> None:
    """Convert the checkpoint SOURCE to TARGET, whose path is printed.

    What SOURCE is, its keys say. Native files carry their model's spec: `registry.build("file.safetensors")` needs no
    name. The huggingface layouts are folders that transformers' `from_pretrained` loads: Sam2VideoModel, and
    huggingface-image for the smaller Sam2Model.

    \b
    sam2core convert sam2.1_hiera_tiny.pt tiny.safetensors
    sam2core convert tiny.safetensors tiny.pt
    sam2core convert tiny.safetensors folder --to huggingface
    """
    from registry import weights
    from registry.plugins import current
    from sam2core.checkpoints import files

    if layout is None:
        layout = _layout_of(target)
    into = current().components.resolve("layout", layout)
    outputs = _outputs(source, target, layout, force)

    state, found = _read(source)
    metadata = files.read_metadata(source)
    spec = _spec(source, state, model, metadata)
    empty = _empty(spec)
    weights.check(source.name, spec, empty.state_dict(), state)
    if dtype is not None:
        state = _cast(state, dtype)
    click.echo(f"{source.name}: {found}, {spec.name}, {len(state)} tensors", err=True)

    _check_readers(spec, layout)
    written = into.inverse(state)
    if layout in FOLDERS:
        target.mkdir(parents=True, exist_ok=True)
        _write_folder(target, written, spec, empty, state, image_only=layout == "huggingface-image", force=force)
    elif target.suffix.lower() == ".pt":
        files.write_pt(target, written, force=force)
    else:
        described = files.describe(
            spec=dataclasses.asdict(spec) if layout == "native" else None,
            layout=layout,
            source_sha256=_checksum(source),
            license=licence or metadata.get("modelspec.license"),
        )
        files.write(target, written, described, force=force)
    if verify:
        _verify(outputs[0], layout, written)
    click.echo(target)


_FILES = ("model.safetensors", "config.json", "processor_config.json")
META = {"prompt_encoder": "sam", "mask_decoder": "sam", "memory_policy": "recent"}
"""Parts without weights of their own that other packages have in Meta's form alone."""


def _layout_of(target: Path) -> str:
    """The layout that a file's ending stands for. Raises click.UsageError for an ending that stands for none."""
    layout = {".safetensors": "native", ".pt": "facebook"}.get(target.suffix.lower())
    if layout is None:
        raise click.UsageError(f"{target} ends in neither .safetensors nor .pt: say which layout with --to")
    return layout


def _outputs(source: Path, target: Path, layout: str, force: bool) -> list[Path]:
    """The files that are to be written, the one with the tensors first.

    Raises
        click.UsageError: a target that the layout cannot be written to, or the source itself.
        TakenError: one of the files is there, and `force` does not replace it.
    """
    if layout in FOLDERS:
        outputs = [target / name for name in _FILES]
        if target.exists() and not target.is_dir():
            raise click.UsageError(f"--to {layout} writes a folder, and {target} is a file")
    else:
        outputs = [target]
        if target.suffix.lower() not in (".safetensors", ".pt"):
            raise click.UsageError(f"--to {layout} writes a .safetensors or .pt file; got {target}")
    present = [path for path in outputs if path.exists()]
    if present and not force:
        raise TakenError(f"{present[0]} is there already: --force replaces it, another TARGET keeps it")
    if any(path.samefile(source) for path in present):
        raise click.UsageError("SOURCE and TARGET are the same file")
    return outputs


def _read(source: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a whole model under our names, and the layout they came in."""
    from registry import weights
    from registry.errors import WeightsError

    state, found = weights.read(source)
    if found.without:
        raise WeightsError(
            f"{source.name} holds an image model ({found.name}): without memory parts it makes no whole model.\n"
            f"  sam2core segment IMAGE --model NAME --weights {source} loads it for images"
        )
    return state, found.name


def _cast(state: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """The tensors with those of floating point in one of DTYPES."""
    import torch

    to = getattr(torch, dtype_name(dtype))
    return {name: tensor.to(to) if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def _check_readers(spec: ModelSpec, layout: str) -> None:
    """Raise WeightsError for a model that a layout's readers cannot hold; say which of its parts they lack."""
    from registry.errors import WeightsError

    if layout == "huggingface" and not spec.dim > spec.memory_dim == TRANSFORMERS_MEMORY_DIM:
        raise WeightsError(
            f"transformers' Sam2VideoModel has memories {TRANSFORMERS_MEMORY_DIM} wide, narrower than its features, "
            f"whatever its config says;\n  {spec.name}'s are {spec.memory_dim} wide, its features {spec.dim}. "
            "Its image half can be written: --to huggingface-image"
        )
    ours = [
        f"{part} {getattr(spec, part)['type']}" for part, name in META.items() if getattr(spec, part)["type"] != name
    ]
    if layout != "native" and ours:
        click.echo(f"other packages lack {spec.name}'s {', '.join(ours)}, and will answer worse with it", err=True)


def _spec(source: Path, state: Mapping[str, Tensor], model: str | None, metadata: Mapping[str, str]) -> ModelSpec:
    """The model a checkpoint is for: as named, as the file says, or the one its shapes fit."""
    import registry
    from registry import weights
    from registry.errors import WeightsError

    if model is not None:
        return registry.spec(model)
    if "sam2core.spec" in metadata:
        return registry.spec(weights.read_spec(source))
    names = weights.fitting(state)
    if not names:
        raise WeightsError(
            f"{source.name} fits none of the models on offer: {', '.join(registry.models())}.\n"
            "  name the nearest with --model and the message will say what differs"
        )
    if len(names) > 1:
        click.echo(f"{source.name} fits {', '.join(names)}; taking {names[0]} (--model chooses)", err=True)
    return registry.spec(names[0])


def _empty(spec: ModelSpec) -> Sam2:
    from registry.assemble import assemble, init_empty_weights
    from registry.plugins import current

    with init_empty_weights():
        return assemble(spec, current().components)


def _checksum(path: Path) -> str:
    from sam2core.checkpoints import files

    with click.progressbar(length=path.stat().st_size, label="reading", file=sys.stderr) as bar:
        return files.sha256(path, lambda done, total: bar.update(done - bar.pos))


def _write_folder(
    folder: Path,
    written: Mapping[str, Tensor],
    spec: ModelSpec,
    empty: Sam2,
    state: Mapping[str, Tensor],
    *,
    image_only: bool,
    force: bool,
) -> None:
    import json

    from sam2core import storage
    from sam2core.checkpoints import files, huggingface

    config = huggingface.config(
        spec=dataclasses.asdict(spec),
        options=_options(spec, empty),
        trunk=_trunk(spec, empty),
        head_hidden=state["mask_decoder.iou_head.layers.0.weight"].shape[0],
        image_only=image_only,
    )
    config["dtype"] = str(state["memory_readout.no_memory"].dtype).removeprefix("torch.")
    files.write(folder / _FILES[0], written, force=force)
    for name, tree in (
        (_FILES[1], config),
        (_FILES[2], huggingface.processor_config(spec.image_size, image_only=image_only)),
    ):
        storage.write_text(folder / name, json.dumps(tree, indent=2, sort_keys=True) + "\n", force=force)


def _options(spec: ModelSpec, model: Sam2) -> dict[str, dict[str, Any]]:
    """All options of the parts transformers has, defaults included.

    Raises
        SpecError: a part of another type, which transformers does not have.
    """
    import inspect

    from registry.errors import SpecError
    from sam2core.heads.mask_decoder import SamMaskDecoder
    from sam2core.memory.policy import RecentFrames

    known = {
        "neck": ("fpn",),
        "memory_encoder": ("conv",),
        "memory_attention": ("rope",),
    }
    for part, types in known.items():
        if getattr(spec, part)["type"] not in types:
            raise SpecError(f"transformers has no {part} {getattr(spec, part)['type']!r}, which {spec.name} uses")
    if not isinstance(model.mask_decoder, SamMaskDecoder):  # what extends it has the same weights
        raise SpecError(f"transformers has no mask_decoder {spec.mask_decoder['type']!r}, which {spec.name} uses")
    targets = {part: type(getattr(model, part)) for part in (*known, "mask_decoder", "memory_readout")} | {
        "memory_policy": RecentFrames
    }
    given = {part: dict(getattr(spec, part)) for part in targets}
    if not isinstance(model.memory_policy, RecentFrames):
        click.echo(f"transformers knows no memory policy but SAM 2's own: {spec.name}'s is not written", err=True)
        given["memory_policy"] = {}
    options = {
        part: {
            name: parameter.default
            for name, parameter in inspect.signature(target).parameters.items()
            if parameter.default is not inspect.Parameter.empty
        }
        | given[part]
        for part, target in targets.items()
    }
    if not options["mask_decoder"].get("high_res_features", True):
        raise SpecError(f"transformers has no mask decoder without high-resolution features, which {spec.name} uses")
    return options


def _trunk(spec: ModelSpec, model: Sam2) -> dict[str, Any]:
    """Hiera's numbers, read from its blocks.

    Raises
        SpecError: another backbone, which transformers does not have.
    """
    from registry.errors import SpecError
    from sam2core.backbones.hiera import Hiera

    trunk = model.backbone
    if not isinstance(trunk, Hiera):
        raise SpecError(f"transformers' Sam2 has no backbone {spec.backbone['type']!r}, which {spec.name} uses")
    blocks = list(trunk.blocks)
    starts = [index for index, block in enumerate(blocks) if index == 0 or block.pool]
    ends = [*starts[1:], len(blocks)]
    windows: list[int] = []
    for stage, (start, end) in enumerate(zip(starts, ends)):
        # A stage's first block cuts windows of the stage before.
        own = [block.window for block in blocks[start:end] if block.window and not block.pool]
        own += [blocks[end].window] if end < len(blocks) and blocks[end].window else []
        first = trunk.pos_embed_window.shape[-1]
        windows.append(first if stage == 0 else own[0] if own else windows[-1])
    return {
        "embed_dim": trunk.channels[0],
        "heads": blocks[0].attn.heads,
        "stages": [end - start for start, end in zip(starts, ends)],
        "windows": windows,
        "global_blocks": [index for index, block in enumerate(blocks) if not block.window],
        "background": list(trunk.pos_embed.shape[-2:]),
        "mlp_ratio": blocks[0].mlp.layers[0].out_features / trunk.channels[0],
    }


def _verify(path: Path, layout: str, written: Mapping[str, Tensor]) -> None:
    """Raise WeightsError unless the file at `path` holds exactly `written`, and reads as `layout`."""
    import torch

    from registry import weights
    from registry.errors import WeightsError
    from sam2core.checkpoints import files

    again, _ = files.read(path)
    differing = sorted(set(again) ^ set(written))
    differing += [
        name
        for name in set(again) & set(written)
        if again[name].dtype != written[name].dtype or not torch.equal(again[name], written[name])
    ]
    if differing:
        raise WeightsError(
            f"{path} does not hold what was written: {len(differing)} tensors differ, {differing[0]} first"
        )
    weights.read(path, layout=layout)
    click.echo(f"verified: {len(again)} tensors are as they were", err=True)
