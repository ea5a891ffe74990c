"""Checkpoint files: `.pt` without running code, safetensors with the spec in the metadata.

Both are mapped into memory when read, after their containers were checked, and written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.checkpoints.containers import (
    HEADER_LIMIT,
    TORCH_SUFFIXES,
    check_container,
    check_torch,
    is_safetensors,
    not_whole,
    opened,
)
from sam2core.checkpoints.wrappers import state_of
from sam2core.older import renamed
from sam2core.storage import (
    FileError,
    json_entry,
    parse_json,
    read_json,
    regular_file,
    relative_name,
    size_text,
    writing,
)

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FileError",
    "check_container",
    "describe",
    "embedded_spec",
    "read",
    "read_metadata",
    "save_tensors",
    "sha256",
    "whole_of",
    "write",
    "write_pt",
]

SCHEMA = "1"
INDEX = ".index.json"
SPEC_LIMIT = 1 << 20  # bytes of a spec in a file


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its metadata (empty for `.pt`).

    Tensors are mapped from the file where it allows that: nothing is read until it is used, and no second copy is
    made. The mapping is private: writing to a tensor changes neither the file nor another reader's tensors. While
    tensors are in use the file must not be cut short or written over in place (replacing it by renaming is safe).
    The checksums that a `.pt` holds are checked; that reads it once, a block at a time.

    path        a file; an index of shards (``*.index.json``); or a folder, as transformers writes it

    A `.pt` may hold a state dict, or one under a key that trainers use (`wrappers`); what else it holds is ignored.

    Raises
        FileError: no such file, damaged, no checkpoint, over a bound, or one that only code could unpickle.
    """
    path = whole_of(path)
    if path.name.endswith(INDEX):
        return _read_shards(path)
    if is_safetensors(path):
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _read_torch(path), {}
    _check_tensors(path, state)
    return state, metadata


def whole_of(path: str | Path) -> Path:
    """The file that a path stands for: itself, or in a folder the weights or their index. Raises FileError."""
    path = Path(path).expanduser()
    if not path.is_dir():
        return regular_file(path)
    names = ("model.safetensors", "model.safetensors" + INDEX, "pytorch_model.bin", "pytorch_model.bin" + INDEX)
    for name in names:
        if (path / name).exists():
            return regular_file(path / name)
    raise FileError(
        f"{path} is a folder without weights; wanted a .pt or .safetensors file, or in the folder {names[0]}"
    )


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors; empty for a `.pt` and an index.

    Raises
        FileError: no such file, or a damaged one.
    """
    path = whole_of(path)
    if path.name.endswith(INDEX) or not is_safetensors(path):
        return {}
    with opened(path) as file:
        return dict(file.metadata() or {})


def embedded_spec(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The resolved spec that a native file carries, as plain values, or None.

    Raises
        FileError: no JSON object, or a schema newer than ours, or text with ``${``, which OmegaConf would interpolate.
    """
    text = metadata.get("sam2core.spec")
    if text is None:
        return None
    schema = metadata.get("sam2core.schema", SCHEMA)
    if schema != SCHEMA:
        raise FileError(f"the file's metadata follow schema {schema!r}; this version reads {SCHEMA!r}")
    if "${" in text:
        raise FileError("the spec in the file's metadata holds '${'; a file may not ask for interpolation")
    spec = parse_json(text, "the spec in the file's metadata", limit=SPEC_LIMIT)
    if not isinstance(spec, dict):
        raise FileError(f"the spec in the file's metadata is a {type(spec).__name__}, wanted an object")
    if "${" in json.dumps(spec, ensure_ascii=False):
        raise FileError("the spec in the file's metadata holds an escaped '${'; a file may not ask for interpolation")
    return renamed(spec)


def describe(
    *,
    spec: Mapping[str, Any] | None = None,
    layout: str = "native",
    source_sha256: str | None = None,
    license: str | None = None,
    **more: str,
) -> dict[str, str]:
    """Metadata for a safetensors file: what it is, for us (`sam2core.*`) and for others (`format`, `modelspec.*`).

    spec            the resolved spec, plain values
    source_sha256   checksum of the file it was converted from
    license         an SPDX name
    more            further `sam2core.<name>` entries, text
    """
    metadata = {"format": "pt", "sam2core.schema": SCHEMA, "sam2core.layout": layout}
    if spec is not None:
        metadata["sam2core.spec"] = json.dumps(spec, sort_keys=True)
        embedded_spec(metadata)
    if source_sha256 is not None:
        metadata["sam2core.source_sha256"] = source_sha256
    if license is not None:
        metadata |= {"modelspec.sai_model_spec": "1.0.0", "modelspec.license": license}
    return metadata | {f"sam2core.{name}": text for name, text in more.items()}


def write(
    path: str | Path, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, force: bool = False
) -> Path:
    """Write tensors as safetensors: whole or not at all. Tensors that share memory are each written in full.

    metadata    text to text; `describe` makes ours. ``{"format": "pt"}`` is added, since transformers asks for it
    force       replace a file that is there

    Raises
        FileError: the file is there and `force` is not set, or its name ends like a `.pt`.
        OSError: the disk is full, or fails.
    """
    path = Path(path)
    if path.suffix in TORCH_SUFFIXES:
        raise FileError(f"{path.name}: this writes safetensors, and the name is a torch file's; call it .safetensors")
    save_tensors(path, _apart(state), metadata, force=force)
    return path


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    force: bool = False,
) -> None:
    """Write tensors that share no memory as safetensors, whole or not at all; equal content gives equal bytes.

    metadata    text to text; ``{"format": "pt"}`` is added

    Raises
        FileError: the file is there and `force` is not set, or its folder is not.
        OSError: the disk is full, or fails, of which safetensors has an error of its own.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with writing(path, force=force) as part:
        try:
            save_file(dict(tensors), str(part), metadata={"format": "pt"} | dict(metadata or {}))
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            if number is not None:  # a full disk, most often, which is told as one
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise OSError(f"{path} could not be written: {error}") from error
        _sort_metadata(part)


def _sort_metadata(path: Path) -> None:
    """Write a file's metadata anew in the order of their names: the library's own order differs from run to run."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        again = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        assert len(again) <= length, "the library wrote its header more tightly than JSON can be"
        file.seek(8)
        file.write(again.ljust(length))


def write_pt(path: str | Path, state: Mapping[str, Tensor], *, force: bool = False) -> Path:
    """Write ``{"model": state}`` as Meta's `.pt` files are: whole or not at all.

    Raises
        FileError: the file is there and `force` is not set, or its name ends in `.safetensors`.
        OSError: the disk is full, or fails.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        raise FileError(f"{path.name}: this writes a torch file, and the name is a safetensors one's; call it .pt")
    # torch.save writes the whole storage below a view: a row of a big tensor would drag all of it along
    own = {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in _apart(state).items()
    }
    save(path, {"model": own}, force=force)
    return path


def save(path: str | Path, content: Any, *, force: bool = False) -> None:
    """What `torch.save` writes, whole or not at all.

    Raises
        FileError: the file is there and `force` is not set, or its folder is not.
        OSError: the disk is full, or fails.
    """
    import torch

    with writing(path, force=force) as part:
        try:
            torch.save(content, part)
        except RuntimeError as error:  # what torch's zip writer makes of a full disk, without saying so
            raise OSError(f"{path} could not be written, is the disk full? {error}") from error


def sha256(path: str | Path, progress: Callable[[int, int], None] | None = None) -> str:
    """The checksum of a file, in hexadecimal. `progress` is called with bytes done and bytes in all."""
    path = whole_of(path)
    total, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})


def _read_torch(path: Path) -> dict[str, Tensor]:
    import torch

    zipped = check_torch(path)
    try:
        # Only the zip form can be mapped; torch's form of before 1.6 is read into memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        # torch's own words are about its arguments; the last line is about the file
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "not a pickle"
        reason = reason.removeprefix("Please file an issue with the following so that we can make ").strip()
        if "documentation of torch.load" in reason:
            reason = "it asks for code"
        raise FileError(
            f"{path.name} holds more than tensors and plain values, and code in a file is never run ({reason}).\n"
            "  get it as safetensors, or where you trust it save it again as torch.save({'model': state_dict}, path)"
        ) from error
    except _RAW as error:
        reason = f"{type(error).__name__}: {str(error).splitlines()[0]}" if str(error) else type(error).__name__
        raise not_whole(path, path.name, "torch", reason) from error
    return state_of(content, path.name)


# What a damaged pickle makes torch's reader stumble over, besides what it says itself.
_RAW = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


def _read_shards(index: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of the files that an index names, beside it. Raises FileError."""
    tree = read_json(index, limit=HEADER_LIMIT)
    places: dict[str, list[str]] = {}
    for name, shard in json_entry(tree, "weight_map", dict, index.name).items():
        places.setdefault(relative_name(shard, f"{index.name}: {name!r}"), []).append(name)
    if not places:
        raise FileError(f"{index.name} names no tensor")
    if missing := [shard for shard in places if not (index.parent / shard).is_file()]:
        raise FileError(
            f"{index.name}: {len(missing)} of {len(places)} files are not beside it (first: {missing[0]}): get them too"
        )
    state: dict[str, Tensor] = {}
    for shard, names in places.items():
        if shard.endswith(INDEX):
            raise FileError(f"{index.name} names another index, {shard}")
        part, _ = read(index.parent / shard)
        if absent := [name for name in names if name not in part]:
            raise FileError(f"{index.name} says that {absent[0]} is in {shard}, and it is not there")
        state |= {name: part[name] for name in names}
    return state, {}


def _check_tensors(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raise FileError for tensors that lie elsewhere, or claim more memory than the file could mean."""
    import torch

    claimed = 0
    for name, tensor in state.items():
        if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
            raise FileError(f"{path.name}: {name!r} is no plain tensor: it is sparse, quantized or without storage")
        claimed += tensor.nbytes
    most = 16 * path.stat().st_size + (16 << 20)  # views of one storage may say the same bytes a few times
    if claimed > most:
        raise FileError(
            f"{path.name}: its tensors claim {size_text(claimed)}; a file of {size_text(path.stat().st_size)} "
            f"may claim {size_text(most)} at most"
        )


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors on the CPU, dense, and none overlapping another in memory."""
    out: dict[str, Tensor] = {}
    taken: list[tuple[int, int, str]] = []
    for name, tensor in state.items():
        tensor = tensor.detach().to("cpu").contiguous()
        out[name] = tensor
        taken.append((tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes, name))
    taken.sort()
    stop = 0
    for start, end, name in taken:
        if start < stop:
            out[name] = out[name].clone()
        stop = max(stop, end)
    return out
