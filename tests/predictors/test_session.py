"""Sessions: the equalities that users rely on, bit for bit, and clear errors."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import registry
from sam2core.checkpoints import files
from sam2core.media.frames import FrameError
from sam2core.ops.regions import connected_components
from sam2core.predictors.tracks import Passes
from sam2core.predictors.video import VideoPredictor
from sam2core.types import NO_OBJECT

SIZE = (48, 80)
LENGTH = 20


def shaken_model(carry_mask: bool = False):
    torch.manual_seed(0)
    policy = {"type": "carried_mask" if carry_mask else "recent", "frames": 2, "object_pointers": 4}
    model = registry.build("test_tiny", weights=False, image_size=64, memory_policy=policy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # default initialisation hides bugs
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        model.mask_decoder.presence_head.layers[-1].bias.fill_(1.0)
    return model


@pytest.fixture(scope="module", params=[False, True], ids=["", "carry"])
def predictor(request: pytest.FixtureRequest) -> VideoPredictor:
    return VideoPredictor(shaken_model(request.param))


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (LENGTH, *SIZE, 3), dtype=np.uint8)


def same(a, b) -> bool:
    return (
        a.frame == b.frame
        and a.objects == b.objects
        and torch.equal(a.logits, b.logits)
        and torch.equal(a.iou, b.iou)
        and torch.equal(a.object_score, b.object_score)
    )


def all_same(first, second) -> bool:
    first, second = list(first), list(second)
    return len(first) == len(second) and all(map(same, first, second))


def row(result, object):
    index = result.objects.index(object)
    return result.logits[index], result.iou[index], result.object_score[index]


def prompted(predictor, frames, **options):
    session = predictor.open(frames, **options)
    session.prompt(0, "a", [[10, 20]])
    session.prompt(0, "b", box=[30, 5, 60, 40])
    return session


# equalities


def test_a_stream_equals_a_file(predictor, frames):
    offline = list(prompted(predictor, frames).propagate())
    live = predictor.open()
    said = {"a": {"points": [[10, 20]]}, "b": {"box": [30, 5, 60, 40]}}
    streamed = [live.step(frame, said if index == 0 else None) for index, frame in enumerate(frames)]
    assert all_same(offline, streamed)


def test_features_asked_for_first_are_those_of_the_session(predictor, frames):
    whole = list(prompted(predictor, frames).propagate())
    session = predictor.open(frames)
    seen = session.features(0)
    assert not any(part.requires_grad for part in (seen.embedding, seen.position, *seen.high_res_features))
    session.prompt(0, "a", [[10, 20]])
    session.prompt(0, "b", box=[30, 5, 60, 40])
    assert session.features(0) is seen
    assert all_same(session.propagate(), whole)


def test_bounded_equals_unbounded(predictor, frames):
    bounded, unbounded = prompted(predictor, frames), prompted(predictor, frames, keep="all")
    assert all_same(bounded.propagate(), unbounded.propagate())
    horizon = predictor.policy.horizon
    assert all(len(track.bank.recent) <= 2 * horizon + 1 for track in bounded.tracks.values())
    assert all(len(track.bank) == LENGTH for track in unbounded.tracks.values())


def test_going_back_from_a_prompted_frame_needs_nothing_that_was_forgotten(predictor, frames):
    runs = []
    for keep in ("horizon", "all"):
        session = predictor.open(frames, keep=keep)
        session.prompt(4, "a", [[10, 20]])
        runs.append(list(session.propagate(direction="both")))
    assert all_same(*runs)
    assert [result.frame for result in runs[0]] == [*range(4, LENGTH), 3, 2, 1, 0]


def test_closing_and_going_on_equals_an_uninterrupted_run(predictor, frames):
    whole = list(prompted(predictor, frames).propagate())
    session = prompted(predictor, frames)
    run = session.propagate()
    parts = [next(run) for _ in range(7)]
    run.close()
    parts += session.propagate(start=session.position + 1)
    assert all_same(whole, parts)


def test_objects_together_equal_one_by_one(predictor, frames):
    together = list(prompted(predictor, frames).propagate())
    for object, said in (("a", {"points": [[10, 20]]}), ("b", {"box": [30, 5, 60, 40]})):
        alone = predictor.open(frames)
        alone.prompt(0, object, **said)
        for one, both in zip(alone.propagate(), together, strict=True):
            for mine, theirs in zip(row(one, object), row(both, object), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cap", [1, 2, 3])
def test_a_cap_on_objects_per_call_changes_nothing(frames, cap):
    runs = []
    for objects_per_call in (None, cap):  # storage in half precision would make steps of last-bit differences
        predictor = VideoPredictor(shaken_model(), objects_per_call=objects_per_call, memory_dtype="float32")
        session = predictor.open(frames)
        for index in range(5):
            session.prompt(index % 3, index, [[5 + 10 * index, 20]])  # ragged: three groups at first
        runs.append(list(session.propagate(stop=9)))
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one.logits, other.logits, rtol=1e-5, atol=1e-5)


def test_a_tracked_frame_is_told_the_mask_before_it(frames):
    """Clamped as mask inputs are, of the nearest frame, also one that lies ahead; with SAM 2's own policy none is."""
    told = []
    for carry_mask in (False, True):
        model = shaken_model(carry_mask)
        segment = model.segment
        mask_inputs: list[torch.Tensor | None] = []
        model.segment = lambda f, e, p, *, multimask_output, mask_inputs=mask_inputs, segment=segment: (
            mask_inputs.append(p.mask_input) or segment(f, e, p, multimask_output=multimask_output)
        )
        session = VideoPredictor(model, cleaning={"fill_holes": 0}, memory_dtype="float32").open(frames)
        session.prompt(3, "a", points=[[10, 20]])
        asked = len(mask_inputs)
        shown = {result.frame: result.logits for result in session.propagate(direction="both")}
        told.append(mask_inputs[asked:])
        prompted = session.tracks["a"].bank.prompted[3].logits
        if carry_mask:
            assert torch.equal(mask_inputs[asked], prompted.clamp(-32, 32))  # frame 4
            assert torch.equal(mask_inputs[asked + LENGTH - 4], prompted.clamp(-32, 32))  # frame 2, on the way back
            assert mask_inputs[asked + 1].shape == prompted.shape and not torch.equal(
                mask_inputs[asked + 1], mask_inputs[asked]
            )
    assert (
        all(mask_input is None for mask_input in told[0])
        and len(told[0]) == len(told[1]) == LENGTH - 1 == len(shown) - 1
    )


def test_adding_and_removing_objects_touches_no_other(predictor, frames):
    def alone(object, start, stop):
        session = predictor.open(frames)
        session.prompt(start, object, [[10, 20] if object == "a" else [60, 30]])
        return {result.frame: row(result, object) for result in session.propagate(stop=stop)}

    session = predictor.open(frames)
    session.prompt(0, "a", [[10, 20]])
    seen = list(session.propagate(stop=8))
    session.prompt(8, "b", [[60, 30]])
    seen += session.propagate(start=8, stop=14)
    session.remove("a")
    seen += session.propagate(start=14)
    a, b = alone("a", 0, 14), alone("b", 8, None)
    for result in seen:
        for object, expected in (("a", a), ("b", b)):
            if object in result.objects:
                for mine, theirs in zip(row(result, object), expected[result.frame], strict=True):
                    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    session.remove("b")
    assert session.objects == ()
    session.prompt(3, "c", [[1, 2]])
    assert [result.objects for result in session.propagate(start=3, stop=5)] == [("c",), ("c",)]


# corrections


def test_a_correction_on_a_tracked_frame_survives(predictor, frames):
    session = prompted(predictor, frames, keep="all")
    first = list(session.propagate())
    corrected = session.prompt(10, "a", [[12, 22]], [0])
    assert not torch.equal(corrected.logits[0], first[10].logits[0])
    assert torch.equal(corrected.logits[1], first[10].logits[1])
    again = list(session.propagate())
    assert torch.equal(again[10].logits[0], corrected.logits[0])
    for k in range(LENGTH):  # the other object is alone in its batch on the corrected frame
        torch.testing.assert_close(again[k].logits[1], first[k].logits[1], rtol=1e-5, atol=1e-5)
    assert not torch.equal(again[11].logits[0], first[11].logits[0])


def test_an_earlier_answer_is_a_mask_input(predictor, frames):
    fresh, hinted = predictor.open(frames), predictor.open(frames)
    expected = fresh.prompt(0, "a", [[40, 30]])
    hinted.prompt(0, "a", [[10, 20]])
    assert not torch.equal(hinted.prompt(0, "a", [[40, 30]]).logits, expected.logits)


def test_points_are_replaced_or_added(predictor, frames):
    session = predictor.open(frames)
    session.prompt(0, "a", [[10, 20]])
    session.prompt(0, "a", [[30, 20]], [0], add=True)
    assert session.tracks["a"].prompts[0].labels.tolist() == [1, 0]
    session.prompt(0, "a", [[11, 20]])
    assert session.tracks["a"].prompts[0].labels.tolist() == [1]
    with pytest.raises(ValueError, match="box comes before"):
        session.prompt(0, "a", box=[1, 2, 30, 30], add=True)


def test_undo_takes_a_prompt_back_with_all_it_did(predictor, frames):
    session, plain = prompted(predictor, frames, keep="all"), prompted(predictor, frames, keep="all")
    session.prompt(0, "a", [[40, 30]], [0])
    session.prompt(5, "c", [[3, 3]])
    assert session.undo() == "c" and session.objects == ("a", "b")
    assert session.undo() == "a"
    assert all_same(session.propagate(), plain.propagate())
    assert predictor.open(frames).undo() is None


def test_redo_gives_back_what_undo_took(predictor, frames):
    session, plain = prompted(predictor, frames, keep="all"), prompted(predictor, frames, keep="all")
    for one in (session, plain):
        list(one.propagate(stop=5))
        one.prompt(3, "a", [[40, 30]], [0])
        one.prompt(4, "c", [[3, 3]])
    assert (session.undo(), session.undo()) == ("c", "a")
    assert (session.redo(), session.redo(), session.redo()) == ("a", "c", None)
    assert session.objects == plain.objects
    assert all_same(session.propagate(), plain.propagate())
    session.undo()
    session.prompt(0, "b", [[9, 9]])
    assert session.redo() is None, "another prompt ends what can be given back"


def test_undo_brings_a_removed_object_back(predictor, frames):
    session, plain = prompted(predictor, frames, keep="all"), prompted(predictor, frames, keep="all")
    for one in (session, plain):
        list(one.propagate(stop=5))
        one.prompt(4, "c", [[3, 3]])
    session.remove("b")
    assert session.objects == ("a", "c") and session.undo() == "b"
    assert session.objects == plain.objects, "it stands where it stood"
    assert session.redo() == "b" and session.objects == ("a", "c") and session.undo() == "b"
    assert all_same(session.propagate(start=5), plain.propagate(start=5))
    session.remove("a")
    assert session.redo() is None and (session.undo(), session.undo()) == ("a", "c")


@pytest.mark.parametrize("live", [True, False], ids=["live", "iterator"])
def test_undo_and_redo_long_after_the_frame_has_passed(predictor, frames, live):
    def follow(session, prompts, until, swaps=()):
        """Frames up to `until`, prompts on the first; then what is to be swapped."""
        if live and session.position is None:
            session.step(frames[0])
        for object, point in prompts:
            session.prompt(0, object, [point])
        for swap in swaps:
            getattr(session, swap)()
        if live:
            for frame in frames[1:until]:
                session.step(frame)
        else:
            for _ in session.propagate(stop=until):
                pass
        return session

    def onward(session):
        return [session.step(frame) for frame in frames[12:]] if live else list(session.propagate(12))

    def opened():
        return predictor.open() if live else predictor.open(iter(frames))

    plain = follow(opened(), [("a", [10, 20])], 2)
    corrected = follow(opened(), [("a", [10, 20]), ("a", [40, 20])], 12)
    assert corrected.undo() == "a" and list(corrected.tracks["a"].prompts[0].points.shape) == [1, 2]
    known = corrected.tracks["a"].bank.prompted[0]
    first = onward(corrected)
    assert torch.equal(known.logits, plain.tracks["a"].bank.prompted[0].logits)
    assert [result.frame for result in first] == list(range(12, LENGTH))

    undone = follow(opened(), [("a", [10, 20]), ("b", [60, 9])], 12, ["undo"])
    assert undone.objects == ("a",) and undone.redo() == "b"
    together = follow(opened(), [("a", [10, 20]), ("b", [60, 9])], 2)
    onward(undone)
    memories = undone.tracks["b"].bank.prompted[0], together.tracks["b"].bank.prompted[0]
    for one, other in zip(*(memory.blocks for memory in memories), strict=True):
        torch.testing.assert_close(one.tokens.float(), other.tokens.float(), rtol=0.02, atol=0.02)


def test_prompts_on_every_remembered_frame_of_a_live_session(predictor, frames):
    live = predictor.open()
    for frame in frames[:4]:
        live.step(frame)
    for number in range(4):
        live.prompt(number, f"object {number}", [[10, 10]])
    assert len(live.step(frames[4]).objects) == 4
    assert [next(iter(track.bank.prompted)) for track in live.tracks.values()] == [0, 1, 2, 3]


def test_clear_takes_back_what_was_said_on_a_frame(predictor, frames):
    session = prompted(predictor, frames, keep="all")
    session.prompt(9, "a", [[40, 30]])
    list(session.propagate())
    session.clear(9, "a")
    track = session.tracks["a"]
    assert 9 not in track.bank.prompted and 9 in track.bank.recent and 9 not in track.prompts
    assert track.passes.direction(9) is None and track.passes.direction(10) is False
    session.clear(0, "a")
    with pytest.raises(ValueError, match="'a' has no prompt"):
        session.propagate()


def test_the_recent_frames_around_a_prompt_can_be_forgotten(frames):
    predictor = VideoPredictor(shaken_model(), forget_around_prompts=True)
    session = prompted(predictor, frames, keep="all")
    list(session.propagate())
    session.prompt(10, "a", [[12, 22]], [0])
    list(session.propagate(start=10, stop=11))
    reach = predictor.policy.clearing
    assert all(abs(at - 10) > reach for at in session.tracks["a"].bank.recent)
    assert any(abs(at - 10) <= reach for at in session.tracks["b"].bank.recent)


# save, load, fork


def test_a_fork_goes_its_own_way(predictor, frames):
    session = prompted(predictor, frames)
    list(session.propagate(stop=5))
    other = session.fork()
    other.remove("b")
    other.prompt(5, "a", [[40, 30]], [0])
    list(other.propagate(start=5, stop=9))
    plain = prompted(predictor, frames)
    whole = list(plain.propagate())
    assert all_same(session.propagate(start=5), whole[5:])


def test_saved_and_loaded_equals_uninterrupted(predictor, frames, tmp_path):
    whole = list(prompted(predictor, frames).propagate())
    session = prompted(predictor, frames)
    session.save(tmp_path / "fresh.safetensors")  # with prompts that wait to be memorized
    assert all_same(predictor.load(tmp_path / "fresh.safetensors", frames).propagate(), whole)
    list(session.propagate(stop=9))
    session.save(tmp_path / "half.safetensors")
    loaded = predictor.load(tmp_path / "half.safetensors", frames)
    assert loaded.position == 8
    assert all_same(loaded.propagate(start=9), whole[9:])


def test_a_new_process_goes_on_bit_for_bit(predictor, frames, tmp_path):
    whole = list(prompted(predictor, frames).propagate())
    session = prompted(predictor, frames)
    list(session.propagate(stop=9))
    session.save(tmp_path / "half.safetensors")
    np.save(tmp_path / "frames.npy", frames)
    torch.save(predictor.model.state_dict(), tmp_path / "model.pt")
    script = (
        "import sys, numpy as np, torch, registry\n"
        "from sam2core.predictors.video import VideoPredictor\n"
        "torch.set_num_threads(int(sys.argv[3]))\n"
        "model = registry.build('test_tiny', weights=False, image_size=64,\n"
        "    memory_policy={'type': sys.argv[2], 'frames': 2, 'object_pointers': 4})\n"
        "model.load_state_dict(torch.load(sys.argv[1] + '/model.pt', weights_only=True))\n"
        "frames = np.load(sys.argv[1] + '/frames.npy')\n"
        "session = VideoPredictor(model).load(sys.argv[1] + '/half.safetensors', frames)\n"
        "torch.save([r.logits for r in session.propagate(start=9)], sys.argv[1] + '/rest.pt')\n"
    )
    policy = predictor.model.spec.memory_policy["type"]  # and sums are split by threads
    told = [str(tmp_path), policy, str(torch.get_num_threads())]
    subprocess.run([sys.executable, "-c", script, *told], check=True)
    rest = torch.load(tmp_path / "rest.pt", weights_only=True)
    assert all(torch.equal(mine, result.logits) for mine, result in zip(rest, whole[9:], strict=True))


def test_undo_and_redo_are_saved(predictor, frames, tmp_path):
    """After every step another session goes on from the file; it undoes and redoes as the one that never stopped."""

    def track(session):
        return [result.logits for result in session.propagate(0, 3)]

    steps = [
        lambda session: session.prompt(0, 1, points=[[20, 20]]),
        track,
        lambda session: session.prompt(1, 1, points=[[30, 24]]),
        lambda session: session.prompt(1, "b", box=[4, 4, 30, 30]),
        lambda session: session.remove(1),
        *[lambda session: session.undo()] * 3,
        lambda session: session.redo(),
        lambda session: session.undo(),
        track,
    ]
    whole, path = predictor.open(frames, keep="all"), tmp_path / "s.safetensors"
    predictor.open(frames, keep="all").save(path)
    for step in steps:
        parts = predictor.load(path, frames)
        wanted, found = step(whole), step(parts)
        assert type(wanted) is type(found)
        if isinstance(wanted, list):
            assert all(torch.equal(one, two) for one, two in zip(wanted, found, strict=True))
        elif not hasattr(wanted, "logits"):
            assert wanted == found
        assert whole.objects == parts.objects and parts.history.undoable == whole.history.undoable
        path.unlink()
        parts.save(path)


def test_a_past_takes_little_room(predictor, frames, tmp_path):
    """Memories that a step back shares with now are written once, as text too."""
    session = predictor.open(frames, keep="all")
    session.prompt(0, 1, points=[[20, 20]])
    for _ in session.propagate():
        pass
    session.save(tmp_path / "a.safetensors")
    for _ in range(8):
        session.prompt(0, 1, points=[[20, 20]])
    session.save(tmp_path / "b.safetensors")
    one, two = (files.read_metadata(tmp_path / f"{name}.safetensors")["sam2core.session"] for name in "ab")
    assert len(json.loads(two)["undo"]) == 9 and len(two) < 3 * len(one)


def test_a_live_session_is_saved_with_the_frames_it_remembers(predictor, frames, tmp_path):
    def go_on(live):
        said = {2: {"c": {"points": [[5, 5]]}}}
        return [live.step(frame, said.get(index)) for index, frame in enumerate(frames[6:])]

    live = predictor.open()
    for index, frame in enumerate(frames[:6]):
        live.step(frame, {1: {"points": [[10, 20]]}} if index == 0 else None)
    live.prompt(5, 1, [[40, 30]], [0])  # waits, on the current frame
    live.save(tmp_path / "live.safetensors")
    loaded = predictor.load(tmp_path / "live.safetensors")
    assert all_same(go_on(loaded), go_on(live))


def test_files_that_do_not_fit_are_refused(predictor, frames, tmp_path):
    session = prompted(predictor, frames)
    session.save(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="give the source"):
        predictor.load(tmp_path / "s.safetensors")
    with pytest.raises(ValueError, match="20 frames.*19"):
        predictor.load(tmp_path / "s.safetensors", frames[1:])
    with pytest.raises(ValueError, match="other options.*fill_holes: 8 there, 0 here"):
        VideoPredictor(predictor.model, cleaning={"fill_holes": 0}).load(tmp_path / "s.safetensors", frames)
    other = registry.build("test_tiny", weights=False, image_size=64, memory_policy=predictor.model.spec.memory_policy)
    other.load_state_dict(predictor.model.state_dict())
    assert VideoPredictor(other).load(tmp_path / "s.safetensors", frames).objects == ("a", "b")
    with pytest.raises(ValueError, match="other options.*policy.frames: 2 there, 1 here"):
        policy = registry.build("test_tiny", weights=False, memory_policy={"frames": 1}).memory_policy
        VideoPredictor(other, policy=policy).load(tmp_path / "s.safetensors", frames)
    for part in ("memory_encoder", "backbone", "neck"):
        changed = next(p for name, p in other.named_parameters() if name.startswith(part))
        before = changed.detach().clone()
        with torch.no_grad():
            changed += 0.1
        with pytest.raises(ValueError, match="another model"):
            VideoPredictor(other).load(tmp_path / "s.safetensors", frames)
        with torch.no_grad():
            changed.copy_(before)
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="not a saved session"):
        predictor.load(tmp_path / "x.safetensors", frames)
    session.prompt(0, (1, 2), [[3, 3]])
    with pytest.raises(ValueError, match="strings or integers"):
        session.save(tmp_path / "t.safetensors")


# crops


CROP = (20, 6, 71, 45)


def cropped(frames):
    x0, y0, x1, y1 = CROP
    return np.ascontiguousarray(frames[:, y0:y1, x0:x1])


def test_a_crop_is_tracked_as_if_it_were_the_video(predictor, frames):
    """Whatever the prompt; its logits are those of the cut frames, and its masks lie where they belong."""
    mask = np.zeros(SIZE, bool)
    mask[10:30, 25:50] = True
    session, cut = predictor.open(frames, crop=CROP), predictor.open(cropped(frames))
    for opened, (x, y), drawn in ((session, (0, 0), mask), (cut, (20, 6), cropped(mask[None])[0])):
        opened.prompt(0, "a", [[30 - x, 20 - y]])
        opened.prompt(0, "a", [[60 - x, 40 - y]], labels=[0], add=True)
        opened.prompt(0, "b", box=[10 - x, 10 - y, 50 - x, 44 - y])  # over the crop's edge
        opened.prompt(2, "c", mask=drawn)
    for mine, theirs in zip(session.propagate(), cut.propagate(), strict=True):
        assert same(mine, theirs)
        assert mine.size == SIZE and mine.crop == CROP and theirs.crop is None
        inside = mine.video_logits[:, 6:45, 20:71]
        assert torch.equal(inside, theirs.video_logits)
        outside = mine.video_logits.clone()
        outside[:, 6:45, 20:71] = NO_OBJECT
        assert (outside == NO_OBJECT).all()
        assert {one: int(found.sum()) for one, found in mine.masks.items()} == {
            one: int(found.sum()) for one, found in theirs.masks.items()
        }
        assert torch.equal(mine.enlarged(1, 2), mine.video_logits[1:2])


def test_a_crop_of_everything_changes_nothing(predictor, frames):
    whole = prompted(predictor, frames, crop=(-5, -0.5, 80.5, 99))
    assert whole.crop == (0, 0, 80, 48)
    plain = prompted(predictor, frames)
    assert all_same(whole.propagate(), plain.propagate())


def test_a_crop_covers_the_pixels_it_touches(predictor, frames):
    assert predictor.open(frames, crop=[20.9, 6.2, 70.1, 44.5]).crop == CROP


def test_a_crop_of_a_stream_equals_that_of_a_file(predictor, frames, tmp_path):
    offline = predictor.open(frames, crop=CROP)
    offline.prompt(0, "a", [[30, 20]])
    offline = list(offline.propagate())
    live = predictor.open(crop=CROP)
    seen = [live.step(frames[0], {"a": {"points": [[30, 20]]}})]
    live.fork().save(tmp_path / "s.safetensors")  # both keep it
    again = predictor.load(tmp_path / "s.safetensors")
    assert again.crop == CROP
    seen += [again.step(frame) for frame in frames[1:]]
    assert all_same(seen, offline) and seen[-1].crop == CROP


def test_a_first_step_that_fails_leaves_the_crop_as_it_was_asked_for(predictor, frames):
    live = predictor.open(crop=CROP)
    with pytest.raises(ValueError, match="outside the crop"):
        live.step(frames[0][:30, :50], {"a": {"points": [[1, 1]]}})
    assert live.step(frames[0], {"a": {"points": [[60, 40]]}}).crop == CROP


def test_a_session_is_saved_with_its_crop(predictor, frames, tmp_path):
    session = predictor.open(frames, crop=CROP)
    session.prompt(0, "a", [[30, 20]])
    whole = list(session.propagate())
    for _ in (steps := session.propagate()):
        break
    steps.close()
    session.save(tmp_path / "s.safetensors")
    again = predictor.load(tmp_path / "s.safetensors", frames)
    assert again.crop == CROP and all_same(again.propagate(1), whole[1:])


def test_a_crop_takes_masks_of_any_type_and_strides(predictor, frames):
    drawn = np.zeros(SIZE, np.uint16)
    drawn[10:30, 25:50] = 300
    session = predictor.open(frames, crop=CROP)
    expected = session.prompt(0, "a", mask=drawn > 0)
    for kind in (drawn, drawn[::-1, ::-1].copy()[::-1, ::-1], np.asfortranarray(drawn), torch.from_numpy(drawn > 0)):
        assert torch.equal(session.prompt(0, "a", mask=kind).logits, expected.logits)


def test_what_lies_outside_a_crop_is_refused(predictor, frames):
    session = predictor.open(frames, crop=CROP)
    session.prompt(0, "a", [[71, 45]])  # the far corner belongs to it
    before = session.result(0)
    mask = np.zeros(SIZE, bool)
    mask[:5, :15] = True
    for said, message in (
        ({"points": [[30, 20], [19, 20]]}, r"point \(19, 20\) lies outside the crop \(20, 6, 71, 45\)"),
        ({"points": [[30, 46]], "labels": [0]}, r"point \(30, 46\) lies outside the crop"),
        ({"box": [0, 0, 20, 48]}, r"box \(0, 0, 20, 48\) lies outside the crop"),
        ({"box": [30, 45, 60, 48]}, r"box \(30, 45, 60, 48\) lies outside the crop"),
        ({"points": [[81, 20]]}, "outside the image of 80x48"),
        ({"mask": mask}, "the mask lies outside the crop"),
        ({"mask": mask[:-1]}, r"as large as the image, \(48, 80\), not \(47, 80\)"),
    ):
        with pytest.raises(ValueError, match=message):
            session.prompt(0, "a", **said)
        assert same(session.result(0), before)
    for crop, message in (
        ((80, 0, 99, 9), r"crop \(80, 0, 99, 9\) holds no pixel of 80x48"),
        ((30, 20, 30, 40), "holds no pixel"),
        ((40, 20, 30, 40), "x0 < x1"),
        ((1, 2, 3), "x0, y0, x1, y1; not"),
        (("a", 0, 1, 1), "crop must be numbers"),
        ((0, 0, float("nan"), 9), "not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.open(frames, crop=crop)
        with pytest.raises(ValueError, match=message):
            predictor.open(crop=crop).step(frames[0])


# ranges, progress, results


def test_ranges_are_exact(predictor, frames):
    session = predictor.open(frames)
    session.prompt(5, "a", [[10, 20]])

    def visited(*args, **options):
        return [result.frame for result in session.propagate(*args, **options)]

    assert visited() == list(range(5, 20))
    assert visited(2, 6) == [2, 3, 4, 5]
    assert visited(18, 40) == [18, 19]
    assert visited(7, 3, direction="backward") == [7, 6, 5, 4]
    assert visited(direction="backward") == [5, 4, 3, 2, 1, 0]
    for start, stop, direction in ((5, 5, "forward"), (5, 2, "forward"), (5, 9, "backward")):
        with pytest.raises(ValueError, match="no frame lies between"):
            session.propagate(start, stop, direction=direction)
    with pytest.raises(ValueError, match="before frame 0"):
        session.propagate(0, direction="backward")
    with pytest.raises(ValueError, match="sideways"):
        session.propagate(direction="sideways")


def test_progress_is_told_after_every_frame(predictor, frames):
    for options, total in (({}, 20), ({"stop": 4}, 4), ({"start": 3, "direction": "both"}, 20)):
        told: list[tuple[int, int]] = []
        session = prompted(predictor, frames)
        list(session.propagate(**options, progress=lambda done, total, told=told: told.append((done, total))))
        assert told == [(k + 1, total) for k in range(total)]


def test_results_carry_everything_at_the_videos_size(predictor, frames):
    session = prompted(predictor, frames)
    result = next(session.propagate())
    assert result.video_logits.shape == (2, *SIZE) and result.logits.dtype == torch.float32
    assert result.masks["b"].shape == SIZE and result.masks["b"].dtype == torch.bool
    assert ((result.iou >= 0) & (result.iou <= 1)).all() and (result.object_score > -1024).all()
    late = session.prompt(3, "late", [[4, 4]])
    assert late.object_score.tolist()[:2] == [-1024.0, -1024.0] and not late.masks["a"].any()


def regions_of(logits: torch.Tensor) -> int:
    labels, _ = connected_components(logits[None] > 0)
    return labels[labels > 0].unique().numel()


def test_keep_clicked_cleans_a_first_click_and_leaves_corrections(frames):
    model = shaken_model()
    plain, clean = (
        VideoPredictor(model, cleaning={"keep_clicked": keep, "fill_holes": 0}).open(frames) for keep in (False, True)
    )
    places = [(x, y) for x in range(2, 80, 5) for y in range(1, 48, 3)]  # a click on a pixel of the mask that it makes
    for click in places:
        before, after = (session.prompt(0, 1, points=[click]).logits[0] for session in (plain, clean))
        at = (click[1] * 16 // 48, click[0] * 16 // 80)
        if before[at] > 0 and regions_of(before) > 1:
            break
    else:
        pytest.fail("no click lies in the mask that it makes")
    kept = after > 0
    assert kept[at] and not (kept & (before <= 0)).any() and regions_of(after) == 1 < regions_of(before)
    assert torch.equal(after[kept], before[kept])
    # a correction says what was missed, and the rest of the tracked mask stays
    for session in (plain, clean):
        list(session.propagate(stop=4))
    for click in places:
        logits = clean.prompt(2, 1, points=[click]).logits[0]
        if logits[click[1] * 16 // 48, click[0] * 16 // 80] > 0 and regions_of(logits) > 1:
            break
    else:
        pytest.fail("the regions without a click are gone")
    assert VideoPredictor(model).options != VideoPredictor(model, cleaning={"keep_clicked": True}).options


def test_exclusive_gives_every_pixel_to_one_object(frames):
    session = prompted(VideoPredictor(shaken_model(), non_overlapping=True), frames)
    for result in session.propagate(stop=4):
        assert sum(mask.int() for mask in result.masks.values()).max() <= 1


def test_numpys_integers_are_ids_and_frames(predictor, frames, tmp_path):
    labels = np.zeros(SIZE, np.int64)
    labels[4:20, 4:20], labels[25:40, 50:70] = 3, 7
    session = predictor.open(frames, start=np.int64(1), stride=np.int64(2))
    for one in np.unique(labels)[1:]:
        session.prompt(np.int64(0), one, mask=labels == one)
    assert session.objects == (3, 7) and all(type(id) is int for id in session.objects)
    assert [result.frame for result in session.propagate(np.int64(0), np.int64(3))] == [0, 1, 2]
    session.save(tmp_path / "s.safetensors")
    for wrong in (True, 0.0, "0"):
        with pytest.raises(ValueError, match="a frame is a number"):
            session.prompt(wrong, 3, [[1, 1]])


def test_results_can_be_edited_and_learned_from(predictor, frames):
    session = prompted(predictor, frames)
    shown = session.prompt(0, "a", [[12, 20]], add=True)
    for result in (shown, *session.propagate(stop=2)):
        result.logits[:] = 0.0
        assert not any(mask.any() for mask in result.masks.values())
        (torch.nn.Linear(1, 1)(result.iou[:, None]).sum() + result.object_score.sum()).backward()
    assert session.result(1).logits.any(), "what is remembered is not what was handed out"


def test_hashable_ids_and_their_order(predictor, frames):
    session = predictor.open(frames)
    for object in ("z", 3, (1, "x"), None):
        session.prompt(0, object, [[10, 20]])
    assert session.objects == ("z", 3, (1, "x"), None)


# a video of one frame, and half precision


def test_a_video_of_one_frame(predictor, frames):
    session = predictor.open(frames[:1])
    session.prompt(0, "a", [[10, 20]])
    (first,) = session.propagate()
    again = session.prompt(0, "a", [[40, 30]], [0])
    assert first.logits.isfinite().all() and again.logits.isfinite().all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_in_every_direction(frames, dtype):
    predictor = VideoPredictor(shaken_model().to(getattr(torch, dtype)))
    session = predictor.open(frames[:8])
    for frame in (2, 4, 6):
        session.prompt(frame, "m", mask=np.arange(SIZE[1])[None] > np.full((SIZE[0], 1), 40 + frame))
    session.prompt(3, "p", [[10, 20]])
    results = list(session.propagate(start=3, direction="both"))
    assert len(results) == 8 and all(result.logits.isfinite().all() for result in results)


# errors


def test_prompts_that_make_no_sense_change_nothing(predictor, frames):
    session = prompted(predictor, frames)
    before = session.tracks["a"]
    for options, message in (
        ({"frame": 20, "object": "a", "points": [[1, 1]]}, "20 frames, 0 to 19"),
        ({"frame": -1, "object": "a", "points": [[1, 1]]}, "from 0 on"),
        ({"frame": 0, "object": "a"}, "needs points, a box or a mask"),
        ({"frame": 0, "object": "a", "points": [[90, 1]]}, "outside the image of 80x48"),
        ({"frame": 0, "object": "a", "points": [[[1, 1]], [[2, 2]]]}, "one object"),
        ({"frame": 0, "object": "a", "points": [[1, 1]], "labels": [-1]}, "no prompt"),
        ({"frame": 0, "object": "a", "points": [[1, 1]], "mask": np.ones(SIZE)}, "stands alone"),
        ({"frame": 0, "object": "a", "mask": np.ones((2, 3, 4))}, "(H, W)"),
        ({"frame": 0, "object": "a", "labels": [1]}, "without points"),
    ):
        with pytest.raises(ValueError) as error:
            session.prompt(**options)
        assert message in str(error.value)
        assert session.tracks["a"] is before


def test_nothing_prompted_nothing_to_propagate(predictor, frames):
    with pytest.raises(ValueError, match="no object to track"):
        predictor.open(frames).propagate()
    with pytest.raises(ValueError, match="no object 'x'; known objects: 'a', 'b'"):
        prompted(predictor, frames).remove("x")


def test_live_sessions_have_their_own_rules(predictor, frames):
    live = predictor.open()
    with pytest.raises(ValueError, match="before its first step"):
        _ = live.size
    with pytest.raises(ValueError, match="has not come yet"):
        live.prompt(0, "a", [[1, 1]])
    assert live.step(frames[0]).objects == ()
    with pytest.raises(ValueError, match="one size"):
        live.step(frames[1][:, :40])
    with pytest.raises(ValueError, match="outside the image"):
        live.step(frames[1], {"a": {"points": [[500, 1]]}})
    assert live.position == 0 and live.objects == ()
    with pytest.raises(ValueError, match="point"):
        live.step(frames[1], {"a": {"point": [[5, 1]]}})
    assert live.position == 0 and live.objects == () and list(live._frames.encoded) == [0]
    live.step(frames[1], {"a": {"points": [[5, 1]]}})
    live.clear(1, "a")
    with pytest.raises(ValueError, match="no prompt on any frame"):
        live.step(frames[2])
    assert live.position == 1
    live.prompt(1, "a", [[5, 1]])
    with pytest.raises(ValueError, match="no frames to propagate over"):
        live.propagate()
    for frame in frames[2:10]:
        live.step(frame)
    with pytest.raises(ValueError, match="has passed"):
        live.prompt(2, "b", [[1, 1]])
    with pytest.raises(ValueError, match="without a source"):
        predictor.open(frames).step(frames[0])


def test_options_are_checked(predictor, frames):
    for options, message in (
        ({"memory_dtype": "int8"}, "float32, bfloat16, float16"),
        ({"objects_per_call": 0}, "at least 1"),
        ({"cleaning": {"fill_holes": -1}}, "0 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            VideoPredictor(predictor.model, **options)
    with pytest.raises(ValueError, match="horizon, all"):
        predictor.open(frames, keep="some")


def test_passes_stay_few():
    passes = Passes()
    for frame in range(5000):
        passes.add(frame, backwards=False)
    for frame in range(3000, 1999, -1):
        passes.add(frame, backwards=True)
    assert passes.runs == [(0, 1999, False), (3001, 4999, False), (2000, 3000, True)]
    passes.drop(2500)
    assert passes.direction(2500) is None and passes.direction(2499) is True and passes.direction(4000) is False


def test_only_drawn_masks_of_the_pictures_size_are_prompts(predictor, frames):
    session = predictor.open(frames)
    drawn = np.zeros(SIZE, bool)
    drawn[10:30, 25:50] = True
    expected = session.prompt(0, "a", mask=drawn).logits
    for kind in (drawn.astype(np.uint8) * 7, drawn.astype(np.int64), torch.from_numpy(drawn).int()):
        assert torch.equal(session.prompt(0, "a", mask=kind).logits, expected)
    logits = np.where(drawn, 8.0, -8.0)
    for wrong in (logits, torch.from_numpy(logits).sigmoid(), np.full(SIZE, np.nan), drawn.T, drawn[:-1], drawn[None]):
        with pytest.raises(ValueError, match=r"\(H, W\).*mask_input"):
            session.prompt(0, "a", mask=wrong)
    with pytest.raises(ValueError, match="axes are the wrong way round"):
        session.prompt(0, "a", mask=drawn.T)
    assert torch.equal(session.result(0).logits, expected)


@pytest.mark.parametrize("stop", [None, 4])
def test_frames_encoded_at_once_give_the_same_masks(stop):
    clip = np.random.default_rng(0).integers(0, 256, (7, 48, 64, 3), dtype=np.uint8)
    torch.manual_seed(0)
    model = registry.build("test_tiny", weights=False)
    encoded = []
    encode = model.encode

    def masks(**options):
        session = VideoPredictor(model, **options).open(clip)
        session.prompt(0, 1, [(20, 20)])
        encoded.clear()
        return [result.logits for result in session.propagate(stop=stop)]

    model.encode = lambda pixels: (encoded.append(len(pixels)), encode(pixels))[1]
    apart, together = masks(), masks(frames_per_call=3)
    assert encoded == ([2, 3, 1] if stop is None else [2, 1])  # frame 0 was encoded for its prompt
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="frames_per_call is a number of frames, 1 or more, not 0"):
        VideoPredictor(model, frames_per_call=0)


def test_a_damaged_frame_costs_none_before_it_when_some_are_encoded_at_once(tmp_path):
    for number in range(5):
        Image.fromarray(np.full((48, 64, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    predictor = VideoPredictor(registry.build("test_tiny", weights=False), frames_per_call=4)
    session = predictor.open(tmp_path)
    session.prompt(0, 1, [(20, 20)])
    seen = []
    with pytest.raises(FrameError, match="frame 3"):
        for result in session.propagate():
            seen.append(result.frame)
    assert seen == [0, 1, 2]
