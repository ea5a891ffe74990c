"""Tables, the plot and the ten worst, from what `evaluation.py` measured."""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sam2core.evaluation import clicks
from sam2core.evaluation.metrics import clicks_needed, summarise, terciles

COUNTS = (1, 3, 8)
GOALS = (0.8, 0.9)
MANY = 20
FREE = ("Attribution License", "Attribution-ShareAlike License", "No known copyright restrictions")
Found = Mapping[str, Mapping[str, Mapping[str, Any]]]  # image -> object -> what was found


def report(options: argparse.Namespace) -> None:
    """Write ``evaluation_MODEL.md``, ``.png``, and ``_worst.jpg`` of photos that may be shown."""
    results = Path(__file__).parent / "results"
    stem = f"evaluation_{Path(options.model).stem}"
    simple = _read(results / "evaluation_baselines.json")
    own = _read(results / f"{stem}.json")
    methods = {name: held["sets"] for name, held in {**own["methods"], **simple["methods"]}.items()}
    names = [name for name in methods if not name.endswith("clicks of the model")]
    sets = list(dict.fromkeys(name for method in names for name in methods[method]))
    lines = ["# How good the masks are", "", *_words(options.model in methods)]
    for name in sets:
        lines += _table(name, {method: methods[method].get(name, {}) for method in names})
        lines += _replayed(name, methods, options.model)
    for name in CLIPS:
        lines += _clips(name, {**simple.get("clips", {}).get(name, {}), **own.get("clips", {}).get(name, {})})
    settings = {**simple["methods"], **own["methods"]}
    lines += ["## Settings", "", *(f"* {name}: `{settings[name]['settings']}`" for name in names), ""]
    (results / f"{stem}.md").write_text("\n".join(lines))
    _plot(results / f"{stem}.png", sets, {name: methods[name] for name in names})
    if options.model in methods:
        worst(options, methods[options.model], results / f"{stem}_worst.jpg")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {"methods": {}}


def _words(model: bool) -> list[str]:
    who = "the model and simple methods" if model else "simple methods (the model was not measured yet)"
    return [
        f"Mean IoU of {who} on the same regions, those that all methods were measured on;",
        "each is clicked where its own answer is most wrong. In brackets the 95 % interval over photos.",
        "*box*: from the tight box of the true mask. *best of 3*: the best of the model's three masks after one click,",
        "chosen by an oracle, not comparable with the other columns. *NoC*: clicks to an IoU of 0.80 or 0.90, at most",
        "20, on the first region of BSDS's first photos. Seconds are one thread's, measured on a busy machine.",
        "",
    ]


def _shared(found: Mapping[str, Found], count: int) -> list[tuple[str, str]]:
    """Image and object of what every method has answered with so many clicks."""
    each = [
        {(image, key) for image, held in one.items() for key, what in held.items() if len(what["iou"]) >= count}
        for one in found.values()
    ]
    return sorted(set.intersection(*each)) if each else []


def _scores(found: Found, places: Sequence[tuple[str, str]], pick: Any) -> list[list[float]]:
    images: dict[str, list[float]] = {}
    for image, key in places:
        images.setdefault(image, []).append(pick(found[image][key]))
    return list(images.values())


def _cell(scores: list[list[float]]) -> str:
    one = summarise(scores)
    return f"{one.mean:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _table(name: str, found: Mapping[str, Found]) -> list[str]:
    found = {method: one for method, one in found.items() if one}
    places = _shared(found, COUNTS[-1])
    if not places:
        return []
    many = _shared(found, MANY)
    head = ["method", *(f"@{count}" for count in COUNTS), "box", "best of 3", "NoC80", "NoC90", "s/click"]
    lines = [f"## {name}", "", f"{len({image for image, _ in places})} photos, {len(places)} regions."]
    if many:
        lines[-1] += f" NoC on {len(many)} regions."
    lines += ["", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for method, one in found.items():
        row = [method, *(_cell(_scores(one, places, lambda what, at=count: what["iou"][at - 1])) for count in COUNTS)]
        for extra in ("box", "oracle"):
            row.append(
                _cell(_scores(one, places, lambda what, key=extra: what[key]))
                if all(extra in one[image][key] for image, key in places)
                else ""
            )
        for goal in GOALS:
            needed = [clicks_needed(one[image][key]["iou"][:MANY], goal) or MANY for image, key in many]
            row.append(f"{np.mean(needed):.1f}" if needed else "")
        row.append(f"{np.median([one[image][key]['seconds'] for image, key in places]):.3f}")
        lines.append("| " + " | ".join(row) + " |")
    return [*lines, "", *_thirds(found, places)]


def _thirds(found: Mapping[str, Found], places: Sequence[tuple[str, str]]) -> list[str]:
    first = next(iter(found.values()))
    which = terciles([first[image][key]["area"] for image, key in places])
    lines = [
        "By area, mean IoU after 3 clicks:",
        "",
        "| method | smallest third | middle | largest |",
        "|---|---|---|---|",
    ]
    for method, one in found.items():
        means = [
            np.mean([one[image][key]["iou"][2] for (image, key), own in zip(places, which) if own == third])
            for third in range(3)
        ]
        lines.append(f"| {method} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return [*lines, ""]


def _replayed(name: str, methods: Mapping[str, Mapping[str, Found]], model: str) -> list[str]:
    """The baselines on the clicks that the model's errors asked for."""
    suffix = ", clicks of the model"
    found = {
        key.removesuffix(suffix): one[name] for key, one in methods.items() if key.endswith(suffix) and name in one
    }
    own = methods.get(model, {}).get(name, {})
    places = sorted(
        set.intersection(
            *({(image, key) for image, held in one.items() for key in held} for one in (own, *found.values()))
        )
        if found and own
        else set()
    )
    if not places:
        return []
    lines = [f"All on the clicks that `{model}` asked for ({len(places)} regions):", ""]
    lines += ["| method | " + " | ".join(f"@{count}" for count in COUNTS) + " |", "|" + "---|" * (1 + len(COUNTS))]
    row = [_cell(_scores(own, places, lambda what, at=count: what["iou"][at - 1])) for count in COUNTS]
    lines.append(f"| {model} | " + " | ".join(row) + " |")
    for method, one in found.items():
        row = [_cell(_scores(one, places, lambda what, at=count: what["at"][str(at)])) for count in COUNTS]
        lines.append(f"| {method} | " + " | ".join(row) + " |")
    return [*lines, ""]


CLIPS = {
    "chair": (
        "The video `chair` of PUMaVOS",
        "60 frames, one object: the reflection of a chair that turns. In view is the whole frame, or a crop so many "
        "times as large as the box of the true first mask.",
    ),
    "made": (
        "Made videos",
        "24 videos of 24 frames, one thing each: photos of COCO's val half set in motion; half of the things are "
        "crossed, now and then hidden, a third have a double.",
    ),
}


def _clips(name: str, clips: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not clips:
        return []
    title, what = CLIPS[name]
    lines = [f"## {title}", "", what]
    lines += [
        "Protocol of DAVIS (first and last frame do not count), in percent. From a click or a box, the simple methods",
        "start with the mask of the random walker or of GrabCut.",
    ]
    lines += ["", "| method | prompt | J&F | J | F | s/frame |", "|---|---|---|---|---|---|"]
    for method, prompts in clips.items():
        for prompt, one in prompts.items():
            values = [f"{100 * one['overall'][key]:.1f}" for key in ("J&F-Mean", "J-Mean", "F-Mean")]
            lines.append(f"| {method} | {prompt} | " + " | ".join(values) + f" | {one['seconds']:.3f} |")
    return [*lines, ""]


def _plot(path: Path, sets: Sequence[str], methods: Mapping[str, Mapping[str, Found]]) -> None:
    """Mean IoU against clicks, a panel for each set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    by_set = {name: {method: one[name] for method, one in methods.items() if one.get(name)} for name in sets}
    shown = [name for name in sets if _shared(by_set[name], COUNTS[-1])]
    if not shown:
        return
    figure, panels = pyplot.subplots(1, len(shown), figsize=(4.2 * len(shown), 3.8), sharey=True, squeeze=False)
    for panel, name in zip(panels[0], shown):
        found = by_set[name]
        places = _shared(found, COUNTS[-1])
        for method, one in found.items():
            curve = np.mean([one[image][key]["iou"][: COUNTS[-1]] for image, key in places], axis=0)
            panel.plot(range(1, len(curve) + 1), curve, marker="o", markersize=3, label=method)
        panel.set_title(f"{name}, {len(places)} regions")
        panel.set_xlabel("clicks")
        panel.set_ylim(0, 1)
        panel.grid(alpha=0.3)
    panels[0][0].set_ylabel("mean IoU")
    panels[0][0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


# the worst -----------------------------------------------------------------------------------------------------------


def worst(options: argparse.Namespace, found: Mapping[str, Found], path: Path, *, count: int = 10) -> None:
    """The regions with the lowest IoU after three clicks, of photos that may be passed on; --private: of all."""
    licences = options.data / "coco128_panoptic" / "LICENSES_per_image.tsv"
    with licences.open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file, delimiter="\t")}
    free = {name for name, row in rows.items() if row["licence"] in FREE}
    everything = [
        (what["iou"][2], name, image, key)
        for name, images in found.items()
        for image, held in images.items()
        for key, what in held.items()
    ]
    shown = sorted(one for one in everything if one[1] == "coco128_val" and one[2] in free)[:count]
    if shown:
        _sheet(options, found, shown, path)
        images = dict.fromkeys(image for _, _, image, _ in shown)
        credits = [f"{image}: {rows[image]['licence']}, {rows[image]['flickr_url']}" for image in images]
        path.with_suffix(".txt").write_text("\n".join(credits) + "\n")
    if options.private is not None:
        options.private.mkdir(parents=True, exist_ok=True)
        _sheet(options, found, sorted(everything)[:count], options.private / path.name)


def _sheet(options: argparse.Namespace, found: Any, shown: Sequence[tuple[float, str, str, str]], path: Path) -> None:
    """A row for each region: the photo with the true mask, and the answer after three clicks."""
    import registry
    from benchmarks.evaluation import object_key, sets
    from sam2core.media.render import overlay

    tool = clicks.PredictorSegmenter(registry.predictor(options.model, "image", weights=options.weights))
    wanted = {(name, image, key): score for score, name, image, key in shown}
    tiles: dict[tuple[str, str, str], np.ndarray] = {}
    for name in dict.fromkeys(one[1] for one in shown):
        for sample in sets(options.data, options.objects)[name]():
            for truth in sample.masks:
                place = (name, sample.name, object_key(truth))
                if place not in wanted:
                    continue
                said = [clicks.Click(x, y, bool(on)) for x, y, on in found[name][sample.name][place[2]]["clicks"][:3]]
                answers, state, answer = tool.encode(sample.image), None, truth
                for number in range(1, len(said) + 1):
                    answer, state = answers(said[:number], state)
                points, labels = [[click.x, click.y] for click in said], [int(click.positive) for click in said]
                pair = [
                    overlay(sample.image, [truth], colors=np.array([[46, 190, 80]])),
                    overlay(sample.image, [answer], colors=np.array([[30, 144, 255]]), points=points, labels=labels),
                ]
                tiles[place] = np.concatenate([_fit(one) for one in pair], axis=1)
    rows = [tiles[name, image, key] for _, name, image, key in shown]
    columns = [np.concatenate(rows[start : start + 5]) for start in range(0, len(rows), 5)]
    if len(columns) == 2:
        columns[1] = np.pad(columns[1], ((0, columns[0].shape[0] - columns[1].shape[0]), (12, 0), (0, 0)))
    Image.fromarray(np.concatenate(columns, axis=1)).save(path, quality=85)


def _fit(picture: np.ndarray, size: tuple[int, int] = (300, 220)) -> np.ndarray:
    small = Image.fromarray(picture)
    small.thumbnail(size)
    canvas = Image.new("RGB", size, (20, 20, 20))
    canvas.paste(small, ((size[0] - small.width) // 2, (size[1] - small.height) // 2))
    return np.asarray(canvas)
