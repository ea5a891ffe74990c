"""The model, its three predictors, and the one thread in which all of them work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import torch

import registry
from registry.plugins import current
from sam2core.predictors.automask import MaskGenerator
from sam2core.predictors.image import ImageHandle, ImagePredictor
from sam2core.predictors.session import VideoSession
from sam2core.predictors.video import VideoPredictor

Answer = TypeVar("Answer")


class Engine:
    """One model, and one thread that works with it: calls queue, so a GPU's memory serves one call at a time.

    Long work comes in small calls (a frame each), between which those of other sessions get their turn. Arguments are
    those of `registry.build`; the predictors' options are those of the model's spec.
    """

    def __init__(self, name: str, *pairs: str, **arguments: Any) -> None:
        self.name = name
        self.model = registry.build(name, *pairs, **arguments)
        self.image: ImagePredictor = self._predictor("image")
        self.video: VideoPredictor = self._predictor("video")
        self.automask: MaskGenerator = self._predictor("automask")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")

    def grid(self, points_per_side: int) -> MaskGenerator:
        """The mask generator with another grid of clicks."""
        return self._predictor("automask", points_per_side=points_per_side)

    def _predictor(self, task: str, **options: Any) -> Any:
        options = {**self.model.spec.predictors.get(task, {}), **options, "type": task}
        return current().components.make("predictor", options, model=self.model)

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Do a piece of work in the model's thread, after what was asked for before it."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @torch.inference_mode()
    def handle(self, session: VideoSession, frame: int) -> ImageHandle:
        """A handle on one frame of a video, over the features that the session has of it anyway."""
        features = session.features(frame)
        conditioned = replace(features, embedding=self.model.condition(features, None))
        return ImageHandle(self.image, conditioned, session.size)

    def close(self) -> None:
        """End the thread after what it is doing."""
        self._thread.shutdown(wait=True, cancel_futures=True)
