"""All side-by-side results in one table and one plot: how many times as fast as its peers this library is.

    python benchmarks/summary.py

Reads what the other scripts wrote into ``benchmarks/results/`` and writes ``summary.md`` and ``summary.png`` there.
Every figure is the median of the ratios within rounds, in which all took turns, or for automatic masks the
ratio of the medians. Nothing is measured here.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PEERS = ("sam2", "transformers", "onnxruntime")
MACHINES = {
    "Intel Xeon with AMX": {"image": "image_t", "encoder": "encoder", "video": "video_t", "automask": "automask_t"},
    "AMD EPYC, Zen 4": {kind: f"{kind}_epyc" for kind in ("image", "encoder", "video", "automask")},
    "AMD EPYC, Zen 5": {kind: f"{kind}_zen5" for kind in ("image", "encoder", "video", "automask")},
}
IMAGE = {
    "first_answer": "process start to first mask",
    "encode": "encode an image, reading and resizing included",
    "one_point": "one click, three masks",
    "prompts_16": "16 clicks in one call",
}
ENCODER = {
    "float32": "image encoder, {size}",
    "bfloat16": "image encoder, {size}, bfloat16",
    "bfloat16 compiled": "image encoder, {size}, bfloat16, ours compiled",
}
SIZES = {"t": "tiny", "l": "large"}
SPEED, MEMORY = "times as fast", "times as little memory"
Found = tuple[str, str, str, float]
"""What (SPEED or MEMORY), the row, the peer, how many times."""


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def image(result: dict[str, Any]) -> Iterator[Found]:
    """Start-up, encoding and prompts of one image. What one imports at once another imports when it builds."""
    for peer in PEERS:
        parts = [[row for row in result["rows"] if row["task"] == task and peer in row] for task in ("import", "load")]
        if all(parts):
            times = median(sum(row[peer]["wall"] for row in pair) / sum(row["ours"]["wall"] for row in pair)
                           for pair in zip(*parts))  # fmt: skip
            yield SPEED, "import, build and load a file (torch's own import not counted)", peer, times
    for task, label in IMAGE.items():
        for peer in PEERS:
            rounds = [row for row in result["rows"] if row["task"] == task and peer in row]
            if rounds:
                yield SPEED, label, peer, median(row[peer]["wall"] / row["ours"]["wall"] for row in rounds)
    for row in result["rows"]:
        if row["task"] == "memory":
            for peer in PEERS:
                if peer in row:
                    yield MEMORY, "one image, encoded and clicked", peer, row[peer]["peak"] / row["ours"]["peak"]


def encoder(result: dict[str, Any]) -> Iterator[Found]:
    """The image encoder alone; in bfloat16 beside autocast."""
    for size, row in result["sizes"].items():
        for kind, label in ENCODER.items():
            mine, theirs = row.get(f"ours {kind}"), row.get(f"sam2 {kind.removesuffix(' compiled')}")
            if mine and theirs:
                times = median(b / a for a, b in zip(mine["seconds"], theirs["seconds"]))
                yield SPEED, label.format(size=SIZES[size]), "sam2", times


def video(result: dict[str, Any]) -> Iterator[Found]:
    """A tracked frame, every memory filled; in bfloat16 beside autocast."""
    for count in sorted({row["objects"] for row in result["rows"]}):
        objects = "1 object" if count == 1 else f"{count} objects"
        for kind, words in (("float32", ""), ("bfloat16", ", bfloat16")):
            mine = f"ours {kind}"
            for peer in PEERS:
                theirs = f"{peer} {kind}"
                rounds = [row for row in result["rows"] if row["objects"] == count and mine in row and theirs in row]
                if rounds:
                    times = median(row[theirs]["wall"] / row[mine]["wall"] for row in rounds)
                    yield SPEED, f"a tracked frame, {objects}{words}", peer, times


def automask(result: dict[str, Any]) -> Iterator[Found]:
    """Everything in an image, 144 clicks."""
    summary = result["summary"]
    for mine, words in (("ours", ""), ("ours bf16", ", bfloat16")):
        for peer in PEERS:
            theirs = f"{peer}{mine.removeprefix('ours')}"
            if mine in summary and theirs in summary:
                label = f"automatic masks{words}"
                yield SPEED, label, peer, summary[theirs]["seconds"] / summary[mine]["seconds"]
                yield MEMORY, label, peer, summary[theirs]["peak_mb"] / summary[mine]["peak_mb"]


READERS = {"image": image, "encoder": encoder, "video": video, "automask": automask}


def collect() -> dict[str, list[Found]]:
    """What is there, by machine."""
    found: dict[str, list[Found]] = {}
    for machine, files in MACHINES.items():
        found[machine] = []
        for kind, stem in files.items():
            path = RESULTS / f"{stem}.json"
            if path.exists():
                found[machine] += READERS[kind](json.loads(path.read_text(encoding="utf-8")))
    return found


def labels_of(found: dict[str, list[Found]], what: str, peers: Sequence[str]) -> list[str]:
    """The rows of a table; what only a later machine has comes after the row it follows there."""
    labels: list[str] = []
    for rows in found.values():
        place = 0
        for kind, label, peer, _ in rows:
            if kind == what and peer in peers:
                if label not in labels:
                    labels.insert(place, label)
                place = labels.index(label) + 1
    return labels


def table(found: dict[str, list[Found]], what: str, peers: Sequence[str]) -> str:
    """Rows by what was done, columns by machine and peer."""
    columns = [
        (machine, peer)
        for machine, rows in found.items()
        for peer in peers
        if any(row[0] == what and row[2] == peer for row in rows)
    ]
    lines = [
        f"| {what} | " + " | ".join(f"{peer}, {machine}" for machine, peer in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for label in labels_of(found, what, peers):
        cells = []
        for machine, peer in columns:
            times = [row[3] for row in found[machine] if row[:3] == (what, label, peer)]
            cells.append(f"{times[0]:.2f}" if times else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def machines() -> str:
    """The versions of each machine's column, as `image.py` recorded them."""
    lines = ["| machine | rounds | versions |", "|---|---|---|"]
    for machine, files in MACHINES.items():
        result = json.loads((RESULTS / f"{files['image']}.json").read_text(encoding="utf-8"))
        versions = ", ".join(f"{name} {version}" for name, version in result["machine"]["versions"].items())
        lines.append(f"| {machine} | {result['rounds']} | {versions} |")
    return "\n".join(lines)


def plot(found: dict[str, list[Found]], path: Path) -> None:
    """A panel for each machine; right of 1 this library is faster."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    labels = labels_of(found, SPEED, PEERS)
    figure, panels = pyplot.subplots(
        1, len(found), figsize=(13, 0.27 * len(labels) + 1.4), sharey=True, sharex=True, layout="constrained"
    )
    for axes, (machine, rows) in zip(panels, found.items()):
        for number, peer in enumerate(PEERS):
            spots = [(row[3], labels.index(row[1])) for row in rows if row[0] == SPEED and row[2] == peer]
            if spots:
                across, down = zip(*spots)
                axes.scatter(across, down, s=34, color=f"C{number}", label=f"beside {peer}", zorder=3)
        axes.axvline(1, color="0.3", linewidth=1)
        axes.grid(axis="both", color="0.9")
        axes.set(xscale="log", title=f"{machine}, two cores", xlabel="times as fast (right of 1: ours is faster)")
        ticks = [0.7, 1, 1.5, 2, 3, 5, 8]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].invert_yaxis()
    panels[1].legend(loc="center right", fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    found = collect()
    text = [
        "# Beside the others, in one table",
        "",
        "`sam2.1_hiera_t` (the encoder of the large size, too) with the same random weights in all, 1024 px, two "
        "threads. Above 1.00 this library is faster, or needs less. float32 where nothing else is said; in bfloat16 "
        "the others run under autocast. Read from the reports beside this file by `benchmarks/summary.py`. Compare "
        "packages within a machine, not machines: versions differ (the last table), and so does the day of the code.",
        "",
        table(found, SPEED, PEERS[:1]),
        "",
        table(found, SPEED, PEERS[1:]),
        "",
        table(found, MEMORY, PEERS),
        "",
        "What ran, and how many rounds `image.py` had; the other scripts' reports say theirs.",
        "",
        machines(),
        "",
        "![The same as a plot](summary.png)",
        "",
    ]
    (RESULTS / "summary.md").write_text("\n".join(text), encoding="utf-8")
    plot(found, RESULTS / "summary.png")


if __name__ == "__main__":
    main()
