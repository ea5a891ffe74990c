"""The same done to many videos, by workers that may die: what made the results, what is done, what is yet to do."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from sam2core.jobs.folder import KEEP, REPLACE, TakenError, check_own, try_folder
from sam2core.storage import disk_errors, inside, json_entry, read_json, write_text

if TYPE_CHECKING:
    from sam2core.model import Sam2
    from sam2core.protocols import Engine

FORMAT = "sam2core.vos.1"


class Named(Protocol):
    """A video with the name of its results."""

    @property
    def name(self) -> str: ...


Video = TypeVar("Video", bound=Named)


@dataclass(frozen=True)
class Record:
    """What a manifest says of a finished video."""

    frames: int
    files: int
    sha256: str
    seconds: float


def fingerprint(model: Sam2) -> str:
    """A hash of a model's weights, names and shapes, whatever their type: the same for the same checkpoint."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def build_settings(model: Sam2) -> dict[str, Any]:
    """What decides the masks of an image, as far as the model does: a name is not enough, files are replaced."""
    return {"spec": asdict(model.spec), "fingerprint": fingerprint(model)}


class Manifest:
    """``OUT/manifest.json``: what made the masks, the videos that were asked for, and a record of each finished one.

    Raises TakenError when there is one already and neither `resume` nor `force` is asked for, or a folder of one of the
    videos that no run made; ValueError when one to go on with is of another model, of other options or other videos:
    masks of two runs are never mixed. Raises DiskError when the folder cannot be written to.
    """

    def __init__(
        self, out: Path, made_by: Mapping[str, Any], videos: Sequence[str], *, resume: bool, force: bool = False
    ) -> None:
        self.path = out / "manifest.json"
        self.document: dict[str, Any] = {"format": FORMAT, "made_by": dict(made_by), "videos": list(videos), "done": {}}
        if force:
            self._clear(out)
        if not self.path.exists():
            check_own((out / name for name in videos), (), "evaluate vos")
        else:
            held = self._held()
            if not resume:
                raise TakenError(f"{out} holds the masks of a run already: --resume goes on, {REPLACE}")
            for key in ("format", "made_by", "videos"):
                if held.get(key) != json.loads(json.dumps(self.document[key])):
                    raise ValueError(f"{self.path} is of another run: {_difference(key, held, self.document)}")
            self.document["done"] = {name: record for name, record in held["done"].items() if (out / name).is_dir()}
        try_folder(out)
        self.save()

    def _held(self) -> dict[str, Any]:
        document = read_json(self.path)
        if not isinstance(document, dict) or document.get("format") != FORMAT:
            raise TakenError(f"{self.path} is not one of this program's; {KEEP}")
        for key in ("videos", "done"):
            json_entry(document, key, (list, dict), str(self.path))
        return document

    def _clear(self, out: Path) -> None:
        """Delete what an earlier run made, and nothing else."""
        if not self.path.exists():
            return
        names = [name for name in self._held()["videos"] if isinstance(name, str)]
        for name in names:
            place = inside(out, name, str(self.path))
            for folder in (place, place.with_name(place.name + ".part")):
                if folder.is_dir():
                    shutil.rmtree(folder)
        self.path.unlink()

    @property
    def waiting(self) -> list[str]:
        """The videos that are not done, in order."""
        return [name for name in self.document["videos"] if name not in self.document["done"]]

    def add(self, video: str, record: Record) -> None:
        self.document["done"][video] = asdict(record)
        self.save()

    def save(self) -> None:
        with disk_errors(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.document, indent=1) + "\n", force=True)


def _difference(key: str, held: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    was, new = held.get(key), now[key]
    if isinstance(was, dict) and isinstance(new, dict):
        return "; ".join(
            f"{name} was {was.get(name)!r}, is {new[name]!r}" for name in new if was.get(name) != new[name]
        )
    if isinstance(was, list) and isinstance(new, list):
        return f"{len(was)} videos were asked for, now {len(new)}, {len(set(was) ^ set(new))} of them in one only"
    return f"{key} was {was!r}, is {new!r}"


def run(
    engine: Engine,
    writers: Callable[[int], Callable[[Video], Record]],
    videos: Sequence[Video],
    manifest: Manifest,
) -> Iterator[tuple[str, Record]]:
    """Do what a manifest still lacks, on any engine; each finished video is in the manifest before it is yielded.

    Raises ChildProcessError at the end that names the videos over which workers kept dying; the others are done then.
    """
    waiting = set(manifest.waiting)
    todo = [video for video in videos if video.name in waiting]
    lost: list[str] = []
    for index, record in engine.map(writers, todo):
        name = todo[index].name
        if isinstance(record, ChildProcessError):
            lost.append(f"{name}: {record}")
            continue
        manifest.add(name, record)
        yield name, record
    if lost:
        raise ChildProcessError(f"{len(lost)} of {len(todo)} videos could not be done; {'; '.join(lost)}")
