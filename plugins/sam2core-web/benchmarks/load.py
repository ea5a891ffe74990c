"""Many clients at once, each from an address of its own: is every answer right, and does memory come back?

    python plugins/sam2core-web/benchmarks/load.py [--clients 20] [--requests 1000] [--rounds 3]

Starts `sam2core serve`, and lets the clients open images and videos, prompt, preview, track, cancel, add objects, go
on, undo, export and close, as each one's seed says. Every mask that came is compared with the library's own for what
that client said, afterwards. Prints the figures and writes `results/load.{json,md}` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np

import registry
from sam2core.media.frames import open_source
from sam2core.ops import rle

HERE = Path(__file__).parent
SAMPLES = Path(registry.__file__).parent / "samples"
MODEL, SIZE = "sam2core_nano", 256
IMAGES = ("cat.jpg", "coffee.jpg")
CLIP, LAST = "chair.mp4", 6
POINTS = ((220, 150), (100, 180), (150, 250), (300, 200), (60, 90))
BOXES = ((190, 120, 330, 340), (60, 20, 300, 280))

Prompts = tuple[tuple[int, Hashable, "tuple[Any, ...]"], ...]
"""What was said, in order: frame, object, and ("point", x, y) or ("box", ...)."""


@dataclass
class Report:
    """What happened. `masks`: what was said -> the run lengths that came; `left`: the sessions that nobody closed."""

    masks: dict[tuple[Any, ...], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def requests(self) -> int:
        return sum(map(len, self.seconds.values()))


class Client(threading.Thread):
    """One caller, at 127.0.0.N, who does one thing after the other until the requests of all are spent."""

    def __init__(self, number: int, server: str, report: Report, requests: int, seed: int) -> None:
        super().__init__(name=f"client {number}")
        self.report, self.requests = report, requests
        self.random = random.Random(f"{seed}-{number}")
        transport = httpx.HTTPTransport(local_address=f"127.0.0.{number + 2}")
        self.http = httpx.Client(base_url=f"{server}/api", transport=transport, timeout=300)

    def run(self) -> None:
        with self.http:
            while not self.report.errors:
                try:
                    if self.report.requests >= self.requests:
                        left = self.open(CLIP)  # and goes away without closing it
                        with self.report.lock:
                            self.report.left.append(left)
                        return
                    self.random.choice((self.image, self.image, self.clip))()
                except (httpx.HTTPError, AssertionError, KeyError) as error:
                    with self.report.lock:
                        self.report.errors.append(f"{self.name}: {type(error).__name__}: {error}")

    def call(self, what: str, method: str, path: str, **body: Any) -> httpx.Response:
        started = time.perf_counter()
        answer = self.http.request(method, path, **body)
        self.took(what, started)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text[:300]}"
        return answer

    def took(self, what: str, started: float) -> None:
        with self.report.lock:
            self.report.seconds[what].append(time.perf_counter() - started)

    def saw(self, key: tuple[Any, ...], mask: dict[str, Any]) -> None:
        with self.report.lock:
            self.report.masks[key][mask["segmentation"]["counts"]] += 1

    def open(self, sample: str) -> str:
        if self.random.random() < 0.5:
            answer = self.call("open", "POST", "/sessions", json={"sample": sample})
        else:
            data = (SAMPLES / sample).read_bytes()
            answer = self.call("upload", "POST", f"/uploads?name={sample}", content=data)
        return f"/sessions/{answer.json()['id']}"

    def said(self, where: str, frame: int, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if self.random.random() < 0.7:
            said, body = ("point", *(point := self.random.choice(POINTS))), {"points": [point], "labels": [1]}
        else:
            said, body = ("box", *(box := self.random.choice(BOXES))), {"box": box}
        answer = self.call("prompt", "POST", f"{where}/prompts", json={"object": number, "frame": frame, **body})
        return said, answer.json()["masks"][str(number)]

    def image(self) -> None:
        sample = self.random.choice(IMAGES)
        where = self.open(sample)
        known: dict[str, dict[str, Any]] = {}
        for number in range(1, self.random.randint(3, 7)):
            said, mask = self.said(where, 0, number)
            self.saw(("image", sample, said), mask)
            known[str(number)] = mask
            point = self.random.choice(POINTS)
            answer = self.call("preview", "POST", f"{where}/preview", json={"point": point})
            self.saw(("image", sample, ("point", *point)), answer.json())
        if self.random.random() < 0.5:
            self.call("undo", "POST", f"{where}/undo")
            known.popitem()
        assert self.call("masks", "GET", f"{where}/masks/0").json()["masks"] == known, "another client's masks"
        kind = self.random.choice(("coco", "palette", "cutouts", "overlay"))
        self.call("export", "GET", f"{where}/export?kind={kind}")
        if self.random.random() < 0.1:
            self.call("everything", "POST", f"{where}/everything", json={"points_per_side": 4})
        self.call("close", "DELETE", where)

    def clip(self) -> None:
        """A and B, tracked, sometimes cancelled; C added where it stopped; gone on with."""
        where = self.open(CLIP)
        prompts: list[Any] = []
        for number in (1, 2):
            said, mask = self.said(where, 0, number)
            prompts.append((0, number, said))
            self.saw(("clip", (prompts[-1],), 0, number), mask)
        at = self.random.choice((2, 4, LAST))
        position = 0
        for frame, masks in self.track(where, at, {"start": 0, "stop": LAST}):
            position = frame
            for number in (1, 2):
                self.saw(("clip", (prompts[number - 1],), frame, number), masks[str(number)])
        said, mask = self.said(where, position, 3)
        prompts.append((position, 3, said))
        if position < LAST - 1:
            for frame, masks in self.track(where, LAST, {"start": position + 1, "stop": LAST}):
                assert set(masks) == {"1", "2", "3"}, "an object is missing"
                for number in (1, 2, 3):
                    self.saw(("clip", (prompts[number - 1],), frame, number), masks[str(number)])
        self.call("export", "GET", f"{where}/export?kind={self.random.choice(('coco', 'palette'))}")
        self.call("close", "DELETE", where)

    def track(self, where: str, at: int, body: dict[str, Any]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The frames of a run; cancelled, by another connection, when frame `at` came."""
        name, started = "", time.perf_counter()
        with self.http.stream("POST", f"{where}/propagate", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    assert name != "error", data
                    if name == "frame":
                        yield data["frame"], data["masks"]
                        if data["frame"] == at:
                            self.call("cancel", "POST", f"{where}/cancel")
        assert name == "done", f"the stream ended with {name!r}"
        self.took("propagate", started)


def run(server: str, *, clients: int, requests: int, seed: int) -> Report:
    """Let the clients loose. They stop after `requests` in all, each with what it has begun, or at the first error."""
    report = Report()
    threads = [Client(number, server, report, requests, seed) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return report


def wrong(report: Report) -> list[tuple[Any, ...]]:
    """The keys whose masks are not the library's own: each object alone, in a session that nobody disturbs."""
    image = registry.predictor(MODEL, "image", image_size=SIZE)
    handles = {sample: image.encode(SAMPLES / sample) for sample in IMAGES}
    video = registry.predictor(MODEL, "video", image_size=SIZE)
    found: list[tuple[Any, ...]] = []
    frames: dict[Any, dict[int, tuple[Any, ...]]] = defaultdict(dict)
    for key, came in report.masks.items():
        if key[0] == "image":
            mask = handles[key[1]].predict(**arguments(key[2])).masks[0, 0].numpy()
            if set(came) != {rle.encode(mask)["counts"]}:
                found.append(key)
        else:
            _, said, frame, _ = key
            frames[said][frame] = key
    for ((first, number, said),), keys in frames.items():
        with open_source(SAMPLES / CLIP) as source:
            session = video.open(source, keep="all")
            session.prompt(first, number, **arguments(said))
            for result in session.propagate(first, LAST):
                if result.frame in keys:
                    mask = result.masks[number].numpy()
                    if set(report.masks[keys[result.frame]]) != {rle.encode(mask)["counts"]}:
                        found.append(keys[result.frame])
    return found


def arguments(said: tuple[Any, ...]) -> dict[str, Any]:
    kind, *numbers = said
    return {"points": [numbers]} if kind == "point" else {"box": numbers}


def resident(process: int) -> float:
    """A process's resident memory in MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {process} has no memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=85.0, help="seconds of rest, of which a session has one minute")
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-c", "from sam2core.cli import main; main()", "serve", "--port", str(port), "--idle", "1"]
    command += ["--no-save", "--model", MODEL, "--image-size", str(SIZE)]
    server = subprocess.Popen([sys.executable, *command], env={**os.environ, "SAM2CORE_PLUGINS": "web"})
    try:
        address = f"http://127.0.0.1:{port}"
        while True:
            try:
                httpx.get(f"{address}/api/about").raise_for_status()
                break
            except httpx.TransportError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.2)
        memory, rounds = [resident(server.pid)], []
        print(f"started: {memory[0]:.0f} MB", flush=True)
        for number in range(options.rounds):
            started = time.perf_counter()
            report = run(address, clients=options.clients, requests=options.requests, seed=number)
            seconds = time.perf_counter() - started
            busy = resident(server.pid)
            time.sleep(options.idle)
            memory.append(resident(server.pid))
            kept = [where for where in report.left if httpx.get(f"{address}/api{where}").status_code != 404]
            assert options.idle < 85 or not kept, f"sessions that nobody used are still there: {kept}"
            bad = wrong(report)
            rounds.append(
                {
                    "requests": report.requests,
                    "seconds": round(seconds, 1),
                    "errors": report.errors,
                    "memory_mb": {"at its end": round(busy), "at rest": round(memory[-1])},
                    "masks": sum(sum(came.values()) for came in report.masks.values()),
                    "wrong": [repr(key) for key in bad],
                    "calls": {
                        what: {
                            "count": len(times),
                            "median_ms": round(1000 * float(np.median(times))),
                            "p95_ms": round(1000 * float(np.percentile(times, 95))),
                        }
                        for what, times in sorted(report.seconds.items())
                    },
                }
            )
            told = {name: value for name, value in rounds[-1].items() if name != "calls"}
            print(f"{told}, {memory[-1]:.0f} MB after {options.idle:.0f} s of rest", flush=True)
    finally:
        server.terminate()
        server.wait()
    write(options, memory[0], rounds)


def write(options: argparse.Namespace, before: float, rounds: list[dict[str, Any]]) -> None:
    figures = {
        "clients": options.clients,
        "model": f"{MODEL}, {SIZE} pixels",
        "cores": len(os.sched_getaffinity(0)),
        "memory_mb_before": round(before),
        "rounds": rounds,
    }
    folder = HERE / "results"
    folder.mkdir(exist_ok=True)
    (folder / "load.json").write_text(json.dumps(figures, indent=1) + "\n")
    lines = [
        f"{options.clients} clients at once, `{MODEL}` at {SIZE} pixels, {figures['cores']} cores. Every mask that "
        "came was compared with the library's own, bit for bit.",
        "",
        "| round | requests | seconds | errors | masks compared | wrong | server's memory at its end | after a rest |",
        "|---|---|---|---|---|---|---|---|",
        f"| before | | | | | | | {before:,.0f} MB |",
    ]
    lines += [
        f"| {number} | {one['requests']:,} | {one['seconds']:.0f} | {len(one['errors'])} | {one['masks']:,} | "
        f"{len(one['wrong'])} | {one['memory_mb']['at its end']:,} MB | {one['memory_mb']['at rest']:,} MB |"
        for number, one in enumerate(rounds, 1)
    ]
    lines += ["", "| last round | calls | median | 95 % |", "|---|---|---|---|"]
    lines += [
        f"| {what} | {one['count']} | {one['median_ms']:,} ms | {one['p95_ms']:,} ms |"
        for what, one in rounds[-1]["calls"].items()
    ]
    (folder / "load.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
