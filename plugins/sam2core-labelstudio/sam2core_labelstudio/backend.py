"""The ML backend that Label Studio calls: a subclass of its package's base class, for versions 1 and 2 of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from label_studio_ml.model import LabelStudioMLBase

from sam2core_labelstudio.answers import Answers

Tags = Mapping[str, Mapping[str, Any]]
Place = tuple[str, str, str, list[str]]
"""A control's name, what it marks, the task's field with its address, and the control's labels."""


def find(tags: Tags, control: str, media: str) -> Place | None:
    """The first control of a type in a labelling configuration that marks media of a type."""
    for name, tag in tags.items():
        for marked, source in zip(tag["to_name"], tag["inputs"], strict=False):
            if tag["type"].lower() == control.lower() and source["type"].lower() == media.lower():
                return name, marked, source["value"], list(tag["labels"])
    return None


def backend(answers: Answers, *, hostname: str = "", access_token: str = "") -> type[LabelStudioMLBase]:
    """The class that `label_studio_ml.api.init_app` takes. The last two are Label Studio's, for files that it keeps."""

    class Sam2Backend(LabelStudioMLBase):
        """Masks for what is drawn in images, tracks for what is drawn in videos."""

        def setup(self) -> None:
            self.set("model_version", f"sam2core {answers.client.about()['model']}")

        def predict(
            self, tasks: list[dict[str, Any]], context: dict[str, Any] | None = None, **kwargs: Any
        ) -> list[dict[str, Any]]:
            """Predictions for tasks; empty ones where nothing is drawn yet.

            Raises ValueError when the labelling configuration has neither BrushLabels on an Image nor VideoRectangle
            on a Video.
            """
            drawn = (context or {}).get("result") or []
            if not drawn:
                return [{"result": [], "score": 0.0} for _ in tasks]
            tags = self.parsed_label_config
            image, video = find(tags, "BrushLabels", "Image"), find(tags, "VideoRectangle", "Video")
            place = image or video
            if place is None:
                raise ValueError(
                    "the labelling configuration has neither <BrushLabels> for an <Image> nor <VideoRectangle> for a "
                    "<Video>: there is nowhere to put a mask or a track"
                )
            from_name, to_name, source, labels = place
            found = []
            for task in tasks:
                path = self._local(task["data"][source], task.get("id"))
                if image is not None:
                    found.append(answers.image(path, drawn, from_name=from_name, to_name=to_name, labels=labels))
                else:
                    found.append(answers.video(path, drawn))
            return found

        def fit(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """Nothing is learned from annotations here."""
            return {}

        def _local(self, address: str, task: Any) -> str:
            """Where a task's file lies here; it is fetched when it lies elsewhere."""
            if hasattr(self, "set"):  # version 2
                return self.get_local_path(
                    address, ls_host=hostname or None, ls_access_token=access_token or None, task_id=task
                )
            from label_studio_tools.core.utils.io import get_local_path

            return get_local_path(
                address,
                hostname=hostname or getattr(self, "hostname", ""),
                access_token=access_token or getattr(self, "access_token", ""),
            )

    return Sam2Backend
