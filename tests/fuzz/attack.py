"""The child process: reads damaged files of each kind, within limits; writes down what was neither read nor refused.

    python -m tests.fuzz.attack FOLDER COUNT

FOLDER/KIND.now holds the number of the file in work, so that a process that dies tells of what; FOLDER/KIND.json is
the list of faults, written when the kind is done.
"""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

MEMORY = 3 << 30  # bytes that the process may take beyond what it has when the work begins
SECONDS = 10  # for one file

KINDS = ("spec", "prompts", "session", "pt", "safetensors", "png", "jpeg", "mp4")
_TEXT = [
    b"null",
    b"-1",
    b"[]",
    b"{}",
    b"true",
    b"1e999",
    b'"\\ud800"',
    b"100000000000000000000",
    b'""',
    b"NaN",
    b"${a}",
]
_TEXT += [
    b"../../x",
    b"[" * 3000,
    b"\x00",
    b"\xff\xfe",
    b": ",
    b"- ",
    b"&a ",
    b"*a",
    b"!!python/name:os.system",
    b"x" * 20000,
]


class TooSlow(BaseException):
    """Not an Exception, so that no reader can catch it."""


def damaged(data: bytes, chance: random.Random, *, text: bool) -> bytes:
    """A file with a few random edits."""
    out = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        place = chance.randrange(len(out) + 1)
        if chance.random() < 0.5:
            place = min(place, chance.randrange(2000))  # headers are in front
        kind = chance.randrange(6)
        if kind == 0:
            del out[place:]
        elif kind == 1 and out:
            for at in range(place, min(place + chance.randrange(1, 9), len(out))):
                out[at] = chance.randrange(256)
        elif kind == 2 and out:
            at = min(place, len(out) - 1)
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 3:
            del out[place : place + chance.randrange(1, 60)]
        elif kind == 4:
            out[place:place] = out[place : place + chance.randrange(1, 200)]
        elif text:
            out[place : place + chance.randrange(12)] = chance.choice(_TEXT)
        else:
            out[place : place + 8] = chance.choice(
                (b"\xff" * 8, bytes(8), b"\xff\xff\xff\x7f" * 2, b"\x00\x00\x01\x00" * 2)
            )
    return bytes(out)


def changed(tree: Any, chance: random.Random) -> Any:
    """A tree of JSON with one value replaced, removed or moved: what damage of bytes seldom makes."""
    tree = json.loads(json.dumps(tree))
    at, key, node = None, None, tree
    while isinstance(node, dict | list) and node and (at is None or chance.random() < 0.8):
        key = chance.choice(list(node) if isinstance(node, dict) else range(len(node)))
        at, node = node, node[key]
    if at is None:
        return tree
    if chance.random() < 0.2:
        del at[key]
    else:
        at[key] = chance.choice([None, -1, True, [], {}, "x", 1.5, 10**30, [[]], {"tensor": 99}, "../x", 3, [1, 2], at])
        if at[key] is at:
            at[key] = [json.loads(json.dumps(node))]
    return tree


def kinds(folder: Path) -> dict[str, tuple[Path, Callable[[Path, random.Random], None], Callable[[Path], Any]]]:
    """For each kind its file, what damages it there, and what reads it."""
    import numpy as np
    import torch
    from PIL import Image

    import registry
    from registry.weights import read_spec
    from sam2core.checkpoints import files
    from sam2core.jobs.prompt_files import PromptFile
    from sam2core.media.frames import open_source
    from sam2core.media.images import read_image

    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    model = registry.build("test_tiny", weights=False, image_size=64)
    predictor = registry.current().components.make("predictor", {"type": "video"}, model=model)
    session = predictor.open([noise, noise, noise])
    session.prompt(0, 1, points=[[20, 20]], labels=[1])
    for _ in session.propagate():
        pass
    session.save(folder / "whole.session")
    stored, metadata = files.read(folder / "whole.session")
    about = json.loads(metadata["sam2core.session"])
    weights = dict(list(model.state_dict().items())[:12])
    whole: dict[str, bytes] = {}
    whole["spec"] = (
        b"extends: test_tiny\ndescription: a\nweights: {file: w.pt, repo: a/b, size: 3}\nimage_size: [64, 96]\n"
        b"memory_policy: {type: recent, frames: 3}\nmemory_attention: {type: rope, layers: 2, heads: 1}\n"
        b"mask_decoder: {heads: 4, stability: {delta: 0.1, threshold: 0.9}}\npredictors: {image: {mask_threshold: 0}}\n"
    )
    prompts = {
        "prompts": [
            {"frame": 0, "object": "a", "points": [[1, 2, 1]], "box": [1, 2, 3, 4]},
            {"frame": 2, "object": "b", "box": [0, 0, 9, 9]},
        ]
    }
    whole["prompts"] = json.dumps(prompts).encode()
    files.write_pt(folder / "whole.pt", weights)
    files.write(folder / "whole.safetensors", weights, files.describe(spec={"extends": "test_tiny", "dim": 64}))
    for name in ("pt", "safetensors", "session"):
        whole[name] = (folder / f"whole.{name}").read_bytes()
    for name in ("png", "jpeg"):
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, name)
        whole[name] = stream.getvalue()
    whole["mp4"] = (Path(registry.__file__).parent / "samples" / "chair.mp4").read_bytes()

    def bytes_of(kind: str) -> Callable[[Path, random.Random], None]:
        def write(path: Path, chance: random.Random) -> None:
            path.write_bytes(damaged(whole[kind], chance, text=kind in ("spec", "prompts")))

        return write

    def some_prompts(path: Path, chance: random.Random) -> None:
        if chance.random() < 0.5:
            path.write_text(json.dumps(changed(prompts, chance)))
        else:
            bytes_of("prompts")(path, chance)

    def some_session(path: Path, chance: random.Random) -> None:
        if chance.random() < 0.7:
            files.save_tensors(path, stored, {"sam2core.session": json.dumps(changed(about, chance))}, force=True)
        else:
            bytes_of("session")(path, chance)

    def read_session(path: Path) -> None:
        predictor.load(path, [noise, noise, noise])

    def read_spec_file(path: Path) -> None:
        registry.build(path, weights=False, device="meta")

    def read_weights(path: Path) -> None:
        for tensor in files.read(path)[0].values():
            tensor.sum()

    def read_safetensors(path: Path) -> None:
        read_weights(path)
        read_spec(path)

    def read_clip(path: Path) -> None:
        with open_source(path) as source:
            for count, _ in enumerate(source):
                if count > 3:
                    break

    return {
        "spec": (folder / "a.yaml", bytes_of("spec"), read_spec_file),
        "prompts": (folder / "a.json", some_prompts, lambda path: PromptFile(path).prompts()),
        "session": (folder / "a.session", some_session, read_session),
        "pt": (folder / "a.pt", bytes_of("pt"), read_weights),
        "safetensors": (folder / "a.safetensors", bytes_of("safetensors"), read_safetensors),
        "png": (folder / "a.png", bytes_of("png"), read_image),
        "jpeg": (folder / "a.jpeg", bytes_of("jpeg"), read_image),
        "mp4": (folder / "a.mp4", bytes_of("mp4"), read_clip),
    }


def fault_of(read: Callable[[Path], Any], path: Path) -> str | None:
    """What is wrong with how a file was taken, or None: it was read, or refused by a ValueError with its name."""
    signal.alarm(SECONDS)
    try:
        read(path)
    except ValueError as error:
        if path.name not in str(error):
            return "names no file: " + "".join(traceback.format_exception_only(error)) + traceback.format_exc()[-700:]
    except (Exception, TooSlow):  # noqa: BLE001 -- whatever it is, it is the finding
        return traceback.format_exc()[-1500:]
    finally:
        signal.alarm(0)
    return None


def main(folder: Path, count: int) -> None:
    def stop(*_: object) -> None:
        raise TooSlow

    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, stop)
    table = kinds(folder)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    for kind, (path, damage, read) in table.items():
        faults = []
        for number in range(count):
            (folder / f"{kind}.now").write_text(str(number))
            damage(path, random.Random(f"{kind} {number}"))
            if (fault := fault_of(read, path)) is not None:
                faults.append([number, fault])
        (folder / f"{kind}.json").write_text(json.dumps(faults))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
