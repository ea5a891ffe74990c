"""A tracked frame never makes the host wait for the device: nothing is read back, nothing is copied in one by one.

Whole frames are followed without storage, on the meta device: whoever wants to know what is in a tensor fails there.
What one frame dispatches is counted, too: a GPU spends more time on launching small operators than on computing them.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sam2core import registry
from sam2core.media.images import read_image
from sam2core.ops.cuda.regions import small_regions_on_cuda
from sam2core.ops.regions import small_regions
from sam2core.predictors import session as session_module
from sam2core.predictors.results import FrameResult
from sam2core.predictors.transforms import to_model
from sam2core.prepare import prepare
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


def meta_session(objects: int, **options):
    """A session on a device without storage, over a short clip, tracked as far as frame 3."""
    predictor = registry.predictor("test_tiny", "video", weights=False, device="meta", **options)
    prepare(predictor.model, "cuda")
    session = predictor.open(scripts.clip(8, (48, 64)))
    for number in range(objects):
        session.prompt(0, number, points=[(10 + number % 40, 20)])
    for _ in session.propagate(stop=4):
        pass
    return session


@pytest.fixture
def pooling(monkeypatch):
    """Small regions as a GPU finds them."""
    monkeypatch.setitem(small_regions._kernels, ("meta", None), small_regions_on_cuda)


@pytest.mark.parametrize("objects", [1, 3])
def test_a_whole_frame_with_the_default_options_waits_for_nothing(objects, pooling):
    session = meta_session(objects)
    with no_host_sync():
        result = session._visit(4, backwards=False)
    assert result.logits.is_meta and len(result) == objects and session.position == 4


def test_clicks_in_a_session_wait_for_nothing(pooling, monkeypatch):
    session = meta_session(2)
    given = {"earlier": None, "size": session.size, "crop": None, "model_size": session.predictor.model.image_size}
    said = session_module.read_prompt([(12, 20), (30, 9)], [1, 0], None, None, **given)  # what lies on the host
    monkeypatch.setattr(session_module, "read_prompt", lambda *told, **options: said)
    with no_host_sync():
        result = session.prompt(4, 1, points=[(12, 20), (30, 9)], labels=[1, 0])
    assert result.logits.is_meta


class Counting(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operator, types, given=(), options=None):
        self.count += operator.namespace not in ("prim",)
        return operator(*given, **(options or {}))


MOST = {1: 870, 4: 910, 16: 1060, 50: 1480}
"""Operators that a whole frame may dispatch, by objects: those of torch 2.15 and some 3 % for other releases.

The count depends on layers alone, not on widths and sizes.
"""


@pytest.mark.parametrize("objects", MOST)
def test_a_frame_dispatches_no_more_than_before(objects, pooling):
    session = meta_session(objects)
    with Counting() as counting:
        session._visit(4, backwards=False)
    assert counting.count <= MOST[objects], f"{objects} objects: {counting.count} operators"


@pytest.mark.parametrize("ask", [lambda r: r.masks, lambda r: list(r.each()), lambda r: r.scores, lambda r: r.cpu()])
def test_an_answer_of_nan_is_refused_where_the_host_waits_anyway(ask):
    """On a device the frame went on without anybody looking."""
    logits, ones = torch.zeros(1, 8, 8), torch.ones(1)
    with pytest.raises(ValueError, match="answers with NaN"):
        ask(FrameResult(0, (1,), logits, ones, ones, (16, 16), nan=torch.tensor(True)))
    fine = FrameResult(0, (1,), logits, ones, ones, (16, 16), nan=torch.tensor(False))
    ask(fine)
    assert fine.nan is None
