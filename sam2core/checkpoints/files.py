"""Checkpoint files: `.pt` without running code, safetensors with the spec in the metadata.

Both are mapped into memory when read, and written whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.storage import FileError, regular_file, writing

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "FileError",
    "describe",
    "embedded_spec",
    "read",
    "read_metadata",
    "save_tensors",
    "sha256",
    "write",
    "write_pt",
]

SCHEMA = "1"
_TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file and its metadata (empty for `.pt`).

    Tensors are mapped from the file where it allows that: nothing is read until it is used, and no second copy is
    made. The mapping is private: writing to a tensor changes neither the file nor another reader's tensors. While
    tensors are in use the file must not be cut short or written over in place (replacing it by renaming is safe).

    A `.pt` may hold a state dict, or one under the key ``model``; what else a training checkpoint holds is ignored.

    Raises
        FileError: no such file, damaged, no checkpoint, or one that only code could unpickle.
    """
    path = _existing(path)
    if _is_safetensors(path):
        return _read_safetensors(path)
    return _read_torch(path), {}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors; empty for a `.pt`.

    Raises
        FileError: no such file, or a damaged one.
    """
    path = _existing(path)
    if not _is_safetensors(path):
        return {}
    with _opened(path) as file:
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
    try:
        spec = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(f"the spec in the file's metadata is no JSON: {error}") from error
    if not isinstance(spec, dict):
        raise FileError(f"the spec in the file's metadata is a {type(spec).__name__}, wanted an object")
    if "${" in json.dumps(spec, ensure_ascii=False):
        raise FileError("the spec in the file's metadata holds an escaped '${'; a file may not ask for interpolation")
    return spec


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
    if path.suffix in _TORCH_SUFFIXES:
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
    path = _existing(path)
    total, done, digest = path.stat().st_size, 0, hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            if progress is not None:
                progress(done, total)
    return digest.hexdigest()


def _existing(path: str | Path) -> Path:
    path = Path(path).expanduser()
    inside = path / "model.safetensors"
    if inside.is_file():
        raise FileError(f"{path} is a folder; wanted a .pt or .safetensors file: did you mean {inside}?")
    return regular_file(path)


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors" or (path.suffix not in _TORCH_SUFFIXES and not zipfile.is_zipfile(path))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise _not_whole(path, "safetensors", f"{error}.") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})


def _read_torch(path: Path) -> dict[str, Tensor]:
    import torch

    zipped = zipfile.is_zipfile(path)
    if not zipped and tarfile.is_tarfile(path):
        # torch's oldest form; before 2.6 it ran code from it even with weights_only (CVE-2025-32434).
        raise FileError(f"{path.name} is a tar archive, a form of torch file that is not read: save it again")
    if not zipped and _begins(path, b"PK"):  # torch finds an end in some of these, and speaks of an invalid argument
        raise _not_whole(path, "torch", "its end is missing")
    try:
        # Only the zip form can be mapped; torch's form of before 1.6 is read into memory.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else "not a pickle"
        raise FileError(
            f"{path.name} holds more than tensors and plain values, and code in a file is never run ({reason}).\n"
            "  get it as safetensors, or where you trust it save it again as torch.save({'model': state_dict}, path)"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile) as error:
        raise _not_whole(path, "torch", str(error).splitlines()[0] if str(error) else repr(error)) from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping):
        raise FileError(f"{path.name} holds a {type(content).__name__}, wanted a mapping of names to tensors")
    strangers = [str(name) for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if strangers or not content:
        raise FileError(
            f"{path.name} holds no state dict, at the top or under 'model': "
            f"{', '.join(strangers[:5]) or 'it is empty'} {'is no tensor' if len(strangers) == 1 else 'are no tensors'}"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _not_whole(path: Path, kind: str, reason: str) -> FileError:
    return FileError(
        f"{path.name} is no whole {kind} file ({path.stat().st_size} bytes): {reason}\n"
        "  it may have been cut short while copying or downloading: get it again"
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
