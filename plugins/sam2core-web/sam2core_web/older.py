"""Sessions that older versions kept, a folder each, taken over by the store.

A folder is called as its session and holds ``state.json``, for clips the library's ``session-N.safetensors`` that it
names, and ``source``, the uploaded file. It is removed when all of it is in the store; one that cannot be taken over
stays, and is told of with the reason.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import Tensor

from sam2core import older
from sam2core.checkpoints import files
from sam2core.media.frames import open_source
from sam2core.media.images import as_bytes, read_rgb
from sam2core.predictors.session_file import KEY
from sam2core.storage import parse_json, read_json
from sam2core_web import media
from sam2core_web.covers import cover
from sam2core_web.store import KEPT_ANSWER, KeptState, Store

LOG = logging.getLogger(__name__)
STATE, SOURCE = "state.json", "source"
NAME = re.compile(r"[A-Za-z0-9_-]{22}")
SCHEMA = 1


def take_over(store: Store, place: Callable[[str, str], Path]) -> None:
    """Take over what lies in a store's folder; `place(of, name)` is where samples and files of the media folder lie."""
    for folder in sorted(store.folder.iterdir()):
        if not NAME.fullmatch(folder.name) or not (folder / STATE).is_file():
            continue
        try:
            if not store.has(folder.name):
                _take_over(store, folder, place)
        except ValidationError as error:
            wrong = error.errors()[0]
            LOG.warning("%s is not taken over: %s: %s", folder, ".".join(map(str, wrong["loc"])), wrong["msg"])
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            LOG.warning("%s is not taken over: %s", folder, error)
        else:
            shutil.rmtree(folder)


def _take_over(store: Store, folder: Path, place: Callable[[str, str], Path]) -> None:
    told = read_json(folder / STATE)
    if told["schema"] != SCHEMA:
        raise ValueError(f"{STATE} has schema {told['schema']}, not {SCHEMA}")
    uploaded = told["of"] == "uploads"
    path = folder / SOURCE if uploaded else place(told["of"], told["file"])
    if media.kind(path) == "image":
        first = read_rgb(path)
        frames = 1
    else:
        with open_source(path) as source:
            first, frames = as_bytes(source[0]), source.length or 1
    video, tensors = (None, {}) if told["tensors"] is None else _remembered(folder / Path(told["tensors"]).name)
    state = {
        "file": told["file"],
        "size": first.shape[:2],
        "frames": frames,
        "objects": [_object(int(number), one) for number, one in told["things"].items()],
        "legs": told["legs"],
        "video": video,
    }
    text = json.dumps(state)
    KeptState.model_validate_json(text)
    answers = {
        (int(number), int(frame)): json.dumps([coded["counts"], *rest])
        for number, one in told["things"].items()
        for frame, (coded, *rest) in one["answers"].items()
    }
    for answer in answers.values():
        KEPT_ANSWER.validate_json(answer)
    if uploaded and not store.media(folder.name).exists():
        _second_name(path, store.media(folder.name))
    columns = {
        "id": folder.name,
        "used": (folder / STATE).stat().st_mtime,
        "model": "",  # it was not told; what the model remembers fits one alone
        "name": told["name"],
        "kind": told["kind"],
        "frames": frames,
        "objects": len(told["things"]),
        "origin": told["of"],
        "cover": cover(first),
        "state": text,
    }
    store.add(columns, answers, tensors)


def _object(number: int, one: dict[str, Any]) -> dict[str, Any]:
    prompts = {
        frame: {key: said[key] for key in ("points", "labels", "box")}
        | {"mask": None if said["mask"] is None else said["mask"]["counts"]}
        for frame, said in one["said"].items()
    }
    return {"number": number, "name": one["name"], "color": one["color"], "prompts": prompts}


def _remembered(path: Path) -> tuple[dict[str, Any], dict[int, Tensor]]:
    """What the library's session told, in the words of today, and its tensors by number."""
    stored, metadata = files.read(path)
    about = older.session(older.renamed(parse_json(metadata[KEY], path.name)))
    about |= {"undo": [], "redo": []}  # of the objects there was no past
    return about, {int(key): tensor for key, tensor in stored.items()}


def _second_name(path: Path, kept: Path) -> None:
    """Give a file a second name, or copy it where that cannot be: what is in the old folder stays until all is done."""
    try:
        os.link(path, kept)
    except OSError:
        shutil.copyfile(path, kept)
