"""A tracked frame never makes the host wait for the device: nothing is read back, nothing is copied in one by one."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sam2core import registry
from sam2core.media.images import read_image
from sam2core.predictors.transforms import to_model
from tests.parity import scripts

READ = {"item", "tolist", "cpu", "numpy", "nonzero", "argwhere", "__bool__", "__int__", "__float__", "__index__"}
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero"}


class Waited(AssertionError):
    pass


class NoReading(TorchFunctionMode):
    """Refuses what reads a tensor, and tensors made on a device from values of the host."""

    def __torch_function__(self, function, types, given=(), options=None):
        options = options or {}
        name = getattr(function, "__name__", "")
        if name in READ:
            raise Waited(name)
        if name == "new_tensor" or (name in ("tensor", "as_tensor") and options.get("device") is not None):
            raise Waited(f"{name} with values of the host")
        return function(*given, **options)


class NoWaiting(TorchDispatchMode):
    """Refuses the operators whose result, or its shape, the host has to know."""

    def __torch_dispatch__(self, operator, types, given=(), options=None):
        name = operator.name().split(".")[0]
        if name in WAITING:
            raise Waited(name)
        if name in ("aten::index", "aten::index_put", "aten::index_put_"):
            if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in given[1]):
                raise Waited(f"{name} with a mask")
        return operator(*given, **(options or {}))


@contextmanager
def no_host_sync():
    with ExitStack() as stack:
        stack.enter_context(NoReading())
        stack.enter_context(NoWaiting())
        yield


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: torch.nonzero(x),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.new_tensor([1.0]),
        lambda x: x.cpu(),
    ],
)
def test_the_watch_sees_waiting(wait):
    with no_host_sync(), pytest.raises(Waited):
        wait(torch.ones(3))


@pytest.mark.parametrize("objects", [1, 3])
def test_a_tracked_frame_waits_for_nothing(objects):
    predictor = registry.predictor("test_tiny", "video", weights=False, cleaning={"fill_holes": 0})
    frames = scripts.clip(6, (48, 64))
    session = predictor.open(frames)
    for number in range(objects):
        session.prompt(0, number, points=[(10 + 10 * number, 20)])
    for _ in session.propagate(stop=4):
        pass
    model = predictor.model
    pixels = to_model(read_image(frames[4]), model.image_size).to(model.device)
    tracks = list(session.tracks.values())
    with torch.inference_mode(), no_host_sync():
        features = model.encode(pixels)
        predictor.follow(features, tracks, 4, backwards=False, length=6)
    assert all(track.bank.get(4) is not None for track in tracks)
