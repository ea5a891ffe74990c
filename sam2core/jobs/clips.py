"""The same done to many videos, on any engine: each a run in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sam2core.jobs.clip import ClipRun, ClipSettings, open_run
from sam2core.jobs.interrupt import Interrupted
from sam2core.jobs.pictures import Made, attempt
from sam2core.jobs.prompts import Prompts
from sam2core.jobs.writers import Labels

if TYPE_CHECKING:
    from sam2core.model import Sam2
    from sam2core.predictors.automask import MaskGenerator
    from sam2core.predictors.video import VideoPredictor
    from sam2core.protocols import Detector, Writer


@dataclass(frozen=True)
class Clip:
    """A video, the folder of its results, and what was pointed at in it."""

    video: str
    folder: Path
    settings: ClipSettings
    prompts: Prompts = field(default_factory=Prompts)

    @property
    def path(self) -> str:
        return self.video


@dataclass(frozen=True)
class ClipWork:
    """Follows what was pointed at, or everything, through videos; called with a worker's number, it returns what does
    one of them.

    make        builds a worker's predictor; picklable, as all of this is
    writers     makes the writers of labels for other tools
    resume      go on with runs that were stopped, begin those that were not, leave those that are complete
    force       replace earlier runs
    detect      makes a worker's detector, where the settings name one
    """

    make: Callable[[int], VideoPredictor]
    writers: Callable[[], Mapping[str, Writer]]
    resume: bool = False
    force: bool = False
    detect: Callable[[], Detector] | None = None

    def __call__(self, number: int) -> Callable[[Clip], Made]:
        predictor = self.make(number)
        detector = None if self.detect is None else self.detect()
        return lambda clip: attempt(clip, lambda clip, made: self._do(clip, made, predictor, detector))

    def _do(self, clip: Clip, made: Made, predictor: VideoPredictor, detector: Detector | None) -> None:
        from sam2core.media.frames import open_source

        resume = self.resume and (clip.folder / "run.json").exists()
        earlier = open_run(clip.folder, clip.settings, clip.prompts, resume=resume, force=self.force)
        made.document = str(clip.folder / "run.json")
        if earlier is not None and earlier["status"] == "complete":
            made.notes.append(f"{clip.folder} is finished already")
            made.masks = len(earlier["objects"])
            return
        settings = clip.settings
        labels = Labels(clip.folder, self.writers(), [clip.folder.name], "videos", force=True)
        with open_source(clip.video, start=settings.start, stop=settings.stop, stride=settings.stride) as source:
            for one in clip.prompts.values():
                settings.stretch.check(one, source)
            run = ClipRun(
                clip.folder,
                settings,
                clip.prompts,
                source,
                predictor,
                say=made.notes.append,
                progress=lambda label, done, total: None,
                labels=labels if labels.writers else None,
            )
            if settings.everything:
                run.everything(generator(predictor.model, settings), force=self.force, resume=resume)
            elif detector is None:
                run.track(force=self.force, resume=resume)
            else:
                known = (earlier or {}).get("categories", {})
                run.detected(detector, force=self.force, resume=resume, categories=known)
        if run.status == "interrupted":
            raise Interrupted(run.code - 128)
        if run.status == "failed":
            raise ValueError(f"{run.error}; {run.kept}")
        made.masks = len(run.tally.objects)


def generator(model: Sam2, settings: ClipSettings) -> MaskGenerator:
    """What finds everything in a frame, with the options of a run and, where it has none, the model's own."""
    from sam2core.predictors.automask import MaskGenerator

    own = {key: value for key, value in settings.everything.items() if key not in ("every", "max_objects")}
    return MaskGenerator(model, **{**model.spec.predictors.get("automask", {}), **own})


def folders(videos: Sequence[str], output: Path) -> list[Path]:
    """The folder of each video's results, named after it. Raises ValueError for two that would have one."""
    from sam2core.jobs.inputs import named

    return [output / name for _, name in named([Path(video) for video in videos])]
