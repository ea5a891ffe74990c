"""A detector of torchvision, with weights that the user has."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sam2core.jobs.detectors import detections
from sam2core.storage import regular_file

if TYPE_CHECKING:
    import numpy as np

    from sam2core.types import Detections


class TorchvisionDetector:
    """A model of ``torchvision.models.detection`` as it is named there; nothing is fetched.

    weights     a file with its state, .pth or .safetensors
    classes     what its classes are called, between commas, the background left out; empty: those of COCO, as
                torchvision's own weights have them
    threshold   boxes with a lower score are left out
    device      "auto", "cpu", "cuda" and so on

    Raises ValueError for a model that torchvision has not, with the nearest match, and for a threshold beyond 0 and 1.
    """

    def __init__(
        self,
        *,
        weights: str = "",
        model: str = "fasterrcnn_resnet50_fpn_v2",
        classes: str = "",
        threshold: float = 0.5,
        device: str = "auto",
    ) -> None:
        from torchvision.models import detection, list_models

        known = list_models(module=detection)
        if model not in known:
            near = get_close_matches(model, known, 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"torchvision has no detector {model!r}; it has {', '.join(known)}{meant}")
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is a score from 0 to 1, not {threshold}")
        self.weights, self.model, self.threshold, self.device = weights, model, threshold, device
        self.classes = [word.strip() for word in classes.split(",") if word.strip()]
        self._model: Any = None

    def detect(self, picture: np.ndarray, *, source: str, frame: int) -> Detections:
        """The things in an image (H, W, 3) uint8, surest first.

        The first call reads the weights. Raises ValueError when there are none, or those of another model.
        """
        import numpy as np
        import torch

        if self._model is None:
            self._open()
        device = next(self._model.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(device).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            (found,) = self._model([pixels])
        kept = found["scores"] >= self.threshold
        labels = [self.classes[number - 1] for number in found["labels"][kept].tolist()]
        return detections(found["boxes"][kept].cpu().numpy(), labels, found["scores"][kept].cpu().numpy())

    def _open(self) -> None:
        import torch
        from torchvision.models import get_model, get_model_weights

        from sam2core.checkpoints import files

        if not self.weights:
            raise ValueError(f"the detector torchvision wants its weights: weights=FILE, those of {self.model}")
        if not self.classes:
            self.classes = get_model_weights(self.model).DEFAULT.meta["categories"][1:]
        state, _ = files.read(regular_file(Path(self.weights)))
        made = get_model(self.model, weights=None, weights_backbone=None, num_classes=len(self.classes) + 1)
        try:
            made.load_state_dict(state)
        except RuntimeError as error:
            shown = " ".join(str(error).split())[:300]
            raise ValueError(
                f"{self.weights} does not fit {self.model} of {len(self.classes)} classes: {shown}"
            ) from error
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = made.eval().to(device)
