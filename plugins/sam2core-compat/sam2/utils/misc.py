"""Frames, regions and boxes, under Meta's names."""

from __future__ import annotations

import functools
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sam2core.media.decoding import open_video
from sam2core.media.frames import open_source
from sam2core.media.images import read_rgb
from sam2core.ops import masks as mask_ops
from sam2core.ops import regions
from sam2core.ops.pixels import MEAN, STD
from sam2core.predictors.video import FILLED

_JPEG = (".jpg", ".jpeg", ".JPG", ".JPEG")
_PICTURES = (".png", ".webp", ".tif", ".tiff", ".bmp")
_VIDEO = (".mp4", ".MP4")
_KEPT = 32


def get_sdpa_settings():
    """Whether the GPU is old, and whether flash and plain attention may be used; torch chooses by itself here."""
    if not torch.cuda.is_available():
        return True, False, True
    major = torch.cuda.get_device_properties(0).major
    return major < 7, major >= 8, major < 8


def get_connected_components(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Labels and areas, int32, of the 8-connected regions of binary masks (N, 1, H, W); the same on every device."""
    return regions.connected_components(mask.bool())


def mask_to_box(masks: Tensor) -> Tensor:
    """The boxes (B, 1, 4) of boolean masks (B, 1, H, W): x0, y0, x1, y1, inclusive; W, H, -1, -1 for an empty mask."""
    height, width = masks.shape[-2:]
    empty = torch.tensor([width, height, -1, -1], device=masks.device)
    filled = masks.any(dim=-1).any(dim=-1, keepdim=True)
    return torch.where(filled, mask_ops.boxes(masks.bool()), empty)


def fill_holes_in_mask_scores(mask: Tensor, max_area: int) -> Tensor:
    """Logits with background regions of up to `max_area` pixels set just above zero; no extension is needed."""
    assert max_area > 0, "max_area must be positive"
    return torch.where(regions.holes(mask, max_area), FILLED, mask)


def concat_points(old_point_inputs, new_points: Tensor, new_labels: Tensor) -> dict[str, Tensor]:
    """Points and labels, behind those given before."""
    if old_point_inputs is not None:
        new_points = torch.cat([old_point_inputs["point_coords"], new_points], dim=1)
        new_labels = torch.cat([old_point_inputs["point_labels"], new_labels], dim=1)
    return {"point_coords": new_points, "point_labels": new_labels}


# frames


def _load_img_as_tensor(img_path, image_size):
    """An image as float64 (3, S, S) in [0, 1], resized by Pillow in 8 bits, and its own height and width."""
    picture = Image.fromarray(read_rgb(img_path))
    width, height = picture.size
    values = np.array(picture.resize((image_size, image_size)))
    return torch.from_numpy(values / 255.0).permute(2, 0, 1), height, width


class AsyncVideoFrameLoader:
    """Frames of a folder, decoded ahead of their use; unlike Meta's it keeps the last 32 only.

    `loader[i]` is normalised pixels (3, S, S) in float64, as Meta's.
    """

    def __init__(self, img_paths, image_size, offload_video_to_cpu, img_mean, img_std, compute_device):
        self.img_paths = list(img_paths)
        self.image_size = image_size
        self.offload_video_to_cpu = offload_video_to_cpu
        self.img_mean = img_mean
        self.img_std = img_std
        self.compute_device = compute_device
        self.video_height: int | None = None
        self.video_width: int | None = None
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self[0]

    def _read(self, index: int) -> Tensor:
        image, self.video_height, self.video_width = _load_img_as_tensor(self.img_paths[index], self.image_size)
        return (image - self.img_mean) / self.img_std

    def _coming(self, index: int) -> Any:
        with self._lock:
            if index not in self._kept:
                self._kept[index] = self._pool.submit(self._read, index)
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(index)
            return self._kept[index]

    def __getitem__(self, index: int) -> Tensor:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no frame {index} among {len(self)}")
        index %= len(self)
        found = self._coming(index)
        for after in range(index + 1, min(index + 3, len(self))):
            self._coming(after)
        try:
            image = found.result()
        except OSError as error:
            raise RuntimeError(f"frame {index}, {str(self.img_paths[index])!r}, cannot be read") from error
        return image if self.offload_video_to_cpu else image.to(self.compute_device, non_blocking=True)

    def __len__(self) -> int:
        return len(self.img_paths)


def load_video_frames(
    video_path,
    image_size,
    offload_video_to_cpu,
    img_mean=MEAN,
    img_std=STD,
    async_loading_frames=False,
    compute_device=torch.device("cuda"),  # noqa: B008
):
    """A video's frames as normalised pixels (T, 3, S, S), and its height and width.

    `video_path` is a folder of JPEG files named by number, an mp4 file or its bytes, as Meta's sam2 takes; or a path
    object, or anything else that `sam2core.media.frames.open_source` reads.
    """
    options = {
        "image_size": image_size,
        "offload_video_to_cpu": offload_video_to_cpu,
        "img_mean": img_mean,
        "img_std": img_std,
        "compute_device": compute_device,
    }
    if isinstance(video_path, os.PathLike):
        video_path = os.fspath(video_path)
    if isinstance(video_path, bytes) or (isinstance(video_path, str) and os.path.splitext(video_path)[1] in _VIDEO):
        return load_video_frames_from_video_file(video_path=video_path, **options)
    if isinstance(video_path, str) and os.path.isdir(video_path):
        return load_video_frames_from_jpg_images(
            video_path=video_path, async_loading_frames=async_loading_frames, **options
        )
    with open_source(video_path) as source:
        pictures = (_resized(frame, image_size) for frame in source)
        return *_stack(pictures, source.length, **options), *source.size


def load_video_frames_from_jpg_images(
    video_path,
    image_size,
    offload_video_to_cpu,
    img_mean=MEAN,
    img_std=STD,
    async_loading_frames=False,
    compute_device=torch.device("cuda"),  # noqa: B008
):
    """As `load_video_frames`, of a folder: JPEG files by their number, or other images where there is no JPEG.

    Pixels are resized by Pillow in 8 bits, unlike those of the image predictor; the size is the last image's.
    """
    folder = os.fspath(video_path)
    if not os.path.isdir(folder):
        raise NotImplementedError(f"{folder!r} is no folder of frames; pass a folder, or a video to load_video_frames")
    files = [name for name in os.listdir(folder) if os.path.splitext(name)[1] in _JPEG]
    if not files:
        files = [name for name in os.listdir(folder) if os.path.splitext(name)[1].lower() in _PICTURES]
    if not files:
        raise RuntimeError(f"no images found in {folder}")
    if unnumbered := [name for name in files if not os.path.splitext(name)[0].isdecimal()]:
        raise ValueError(f"frames are named by number, as 00000.jpg; in {folder!r} there is {sorted(unnumbered)[0]!r}")
    paths = [os.path.join(folder, name) for name in sorted(files, key=lambda name: int(os.path.splitext(name)[0]))]
    if async_loading_frames:
        mean, std = _statistics(img_mean), _statistics(img_std)
        frames = AsyncVideoFrameLoader(paths, image_size, offload_video_to_cpu, mean, std, compute_device)
        return frames, frames.video_height, frames.video_width
    size = [0, 0]

    def pictures() -> Iterator[Tensor]:
        for path in paths:
            image, *size[:] = _load_img_as_tensor(path, image_size)
            yield image

    images = _stack(pictures(), len(paths), image_size, offload_video_to_cpu, img_mean, img_std, compute_device)
    return images[0], *size


def load_video_frames_from_video_file(
    video_path,
    image_size,
    offload_video_to_cpu,
    img_mean=MEAN,
    img_std=STD,
    compute_device=torch.device("cuda"),  # noqa: B008
):
    """As `load_video_frames`, of a video file or its bytes, decoded by PyAV and resized by FFmpeg's bicubic scaler.

    Rotated videos are turned upright. Needs ``sam2core[video]``; Meta's sam2 needs decord.
    """
    size = [0, 0]

    def pictures() -> Iterator[Tensor]:
        where = "the video" if isinstance(video_path, bytes) else repr(os.fspath(video_path))
        source = io.BytesIO(video_path) if isinstance(video_path, bytes) else os.fspath(video_path)
        container, stream = open_video(source, where)
        with container:
            for picture in container.decode(stream):
                turns = round(picture.rotation / 90) % 4
                size[:] = (picture.width, picture.height) if turns % 2 else (picture.height, picture.width)
                small = picture.reformat(width=image_size, height=image_size, format="rgb24", interpolation="BICUBIC")
                values = np.rot90(small.to_ndarray(), turns).copy()
                yield torch.from_numpy(values).permute(2, 0, 1).float() / 255.0

    images = _stack(pictures(), None, image_size, offload_video_to_cpu, img_mean, img_std, compute_device)
    return images[0], *size


def _resized(frame: Any, image_size: int) -> Tensor:
    """A frame of any source as (3, S, S) in [0, 1], resized by Pillow as those of a folder are."""
    values = frame.permute(1, 2, 0).cpu().numpy() if isinstance(frame, Tensor) else frame
    if values.dtype != np.uint8:
        top = 65535 if values.dtype == np.uint16 else 1
        values = np.clip(np.rint(values.astype(np.float64) / top * 255), 0, 255).astype(np.uint8)
    picture = Image.fromarray(values).resize((image_size, image_size))
    return torch.from_numpy(np.array(picture) / 255.0).permute(2, 0, 1)


def _stack(
    pictures: Iterator[Tensor],
    count: int | None,
    image_size: int,
    offload_video_to_cpu: bool,
    img_mean: Sequence[float],
    img_std: Sequence[float],
    compute_device: Any,
) -> tuple[Tensor]:
    """All images as one normalised fp32 tensor (T, 3, S, S), on the CPU or the device."""
    if count is None:
        images = torch.stack([picture.float() for picture in pictures])
    else:
        images = torch.zeros(count, 3, image_size, image_size, dtype=torch.float32)
        for index, picture in enumerate(pictures):
            images[index] = picture
    if not offload_video_to_cpu:
        images = images.to(compute_device)
    images -= _statistics(img_mean).to(images.device)
    images /= _statistics(img_std).to(images.device)
    return (images,)


@functools.lru_cache(maxsize=8)
def _statistics(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None, None]
