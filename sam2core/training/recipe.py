"""Recipes: everything a training run depends on apart from the data itself, as one tree of plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any

from sam2core.annotations import DTYPES, fits
from sam2core.training.adapters import Lora
from sam2core.training.augment import Augment
from sam2core.training.filming import Filming
from sam2core.training.losses import LossWeights
from sam2core.training.optim import Optim, Rule
from sam2core.training.prompting import PromptPlan
from sam2core.training.pseudo import Motion
from sam2core.training.rollout import TrainMemory
from sam2core.training.teacher import Distil

RENAMED = {"palette_videos": "davis", "coco_instances": "coco"}
"""What older recipes call some readers."""


class RecipeError(ValueError):
    """A recipe that cannot be followed; the message names the key."""


@dataclass(frozen=True)
class Source:
    """One collection of labelled images: where it lies below the data folder, how it is read, how often it is drawn."""

    path: str
    reader: str
    weight: float = 1.0
    paste: float = 0.0  # how often its things are pasted over other images; 0 everywhere: every thing alike
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stills:
    """Steps on photos between steps on clips, with a batch of their own."""

    share: float = 0.5  # of the stage's steps
    batch: int = 8
    objects: int = 8


@dataclass(frozen=True)
class Stage:
    """A stretch of steps with one image size, one length of clips and one way of prompting."""

    name: str
    steps: int
    size: int = 256
    frames: int = 1  # of a clip; 1: photos
    batch: int = 8
    objects: int = 8
    stills: Stills | None = None
    min_area: float = 0.006  # share of the image below which an object is not asked for
    dense: float = 0.0  # weight of the dense supervision of the trunk
    lr: float = 1.0  # multiplies the schedule
    weights: tuple[float, ...] = ()  # of the sources in this stage, if not their own
    again: bool = False  # begin by asking the initialisation again, with what the trunk has learned by then
    prompts: PromptPlan | None = PromptPlan()  # None: dense supervision only
    losses: LossWeights = LossWeights()


@dataclass(frozen=True)
class Recipe:
    """Everything a training run depends on, apart from the data itself."""

    model: str
    sources: tuple[Source, ...]
    stages: tuple[Stage, ...]
    overrides: dict[str, Any] = field(default_factory=dict)  # of the model's spec
    seed: int = 0
    start: str = "fresh"  # an initialisation: "fresh" is the parts' own; or "weights": go on from the model's weights
    patience: int = 0  # validations in a row that bring nothing better before the run ends early; 0: it never does
    side: int = 640  # longer side of the decoded images
    dtype: str = "float32"  # of the weights that are written: float32, bfloat16 or float16
    freeze: tuple[str, ...] = ()
    lora: Lora | None = None
    augment: Augment = Augment()
    optim: Optim = Optim()
    memory: TrainMemory = TrainMemory()
    teacher: str = ""  # a model or a file of weights that teaches this one; "": there is none
    distil: Distil = Distil()  # what is learned of it
    precision: str = "decoder"  # see `Rollout`
    checkpoint_decoder: bool = False
    checkpoint_trunk: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in (*DTYPES, *DTYPES.values()):
            raise RecipeError(f"recipe: dtype is one of {', '.join(DTYPES.values())}, not {self.dtype!r}")
        if self.patience < 0:
            raise RecipeError(f"recipe: patience is a number of validations, or 0 for none, not {self.patience}")
        if not self.stages or not self.sources:
            raise RecipeError("recipe: there must be at least one source and one stage")
        if self.distil != Distil() and not self.teacher:
            raise RecipeError("recipe: distil says what is learned of a teacher, and there is none; set teacher=NAME")
        for stage in self.stages:
            if len(stage.weights) not in (0, len(self.sources)):
                raise RecipeError(
                    f"recipe: stage {stage.name!r} has {len(stage.weights)} weights for {len(self.sources)} sources"
                )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def tracks(self) -> bool:
        """Whether anything is tracked, so that the memory parts are trained."""
        return any(stage.frames > 1 for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def begins(self, step: int) -> bool:
        """Whether a stage begins with this step."""
        starts = [0]
        for stage in self.stages[:-1]:
            starts.append(starts[-1] + stage.steps)
        return step in starts

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> Recipe:
        """A recipe from the plain tree of a YAML file. Raises RecipeError for keys and values that it does not know."""
        return _read(cls, tree, "")


_NESTED: dict[tuple[type, str], type] = {
    (Recipe, "augment"): Augment,
    (Recipe, "optim"): Optim,
    (Recipe, "sources"): Source,
    (Recipe, "stages"): Stage,
    (Recipe, "memory"): TrainMemory,
    (Recipe, "distil"): Distil,
    (Recipe, "lora"): Lora,
    (Optim, "rules"): Rule,
    (Augment, "motion"): Motion,
    (Augment, "filming"): Filming,
    (Stage, "prompts"): PromptPlan,
    (Stage, "losses"): LossWeights,
    (Stage, "stills"): Stills,
}


def _read(kind: type, tree: Mapping[str, Any], where: str) -> Any:
    if not isinstance(tree, Mapping):
        raise RecipeError(f"recipe: {where or 'the file'} must be a mapping, got {tree!r}")
    known = {item.name: item.type for item in fields(kind)}
    values: dict[str, Any] = {}
    for key, value in tree.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in known:
            near = get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RecipeError(f"recipe: unknown key {place!r}; allowed there: {', '.join(sorted(known))}{hint}")
        if (kind, key) == (Source, "reader"):
            value = RENAMED.get(value, value)
        if not fits(value, known[key]):
            raise RecipeError(f"recipe: {place} is {known[key]}, not {value!r}")
        nested = _NESTED.get((kind, key))
        if nested and isinstance(value, (list, tuple)):
            value = tuple(_read(nested, each, f"{place}[{number}]") for number, each in enumerate(value))
        elif nested and value is not None:
            value = _read(nested, value, place)
        elif isinstance(value, list):
            value = tuple(value)
        values[key] = value
    try:
        return kind(**values)
    except RecipeError:
        raise
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe: {where or 'the file'}: {error}") from error
