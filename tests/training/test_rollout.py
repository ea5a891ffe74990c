"""What is trained is what a session does; gradients go everywhere; one clip is learned by heart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import registry
from sam2core.memory.policy import RecentFrames
from sam2core.nano.initialisation import init_localised
from sam2core.nano.memory_policy import CarriedMask
from sam2core.training.clips import Clip, collate
from sam2core.training.losses import LossWeights
from sam2core.training.optim import Optim, optimiser
from sam2core.training.prompting import PromptPlan
from sam2core.training.rollout import Group, Rollout, TrainMemory, checkpointed_trunk, resize_model
from sam2core.training.seeded_random import SeededRandom
from sam2core.types import MaskPrediction
from tests.training.scene import wandering

PLAIN = LossWeights()
FULL = PromptPlan(mask=0.4, box=0.5, prompted=2, corrected=3, corrections=2)


def tiny(size: int = 64) -> torch.nn.Module:
    torch.manual_seed(1)
    model = registry.build("test_tiny", weights=False, memory_attention={"dropout": 0.0})
    torch.nn.init.constant_(model.mask_decoder.presence_head.layers[-1].bias, 3.0)
    resize_model(model, size)
    return model.train()


def losses(model, batch, plan=FULL, *, key=(0, 3), weights=PLAIN, **options) -> dict[str, torch.Tensor]:
    return Rollout(model, precision="full", **options)(batch, plan, weights, dense=0.0, key=key)


def gradients(model) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def test_gradients_reach_every_part():
    model = tiny(128)
    clips = [wandering(4, 128), wandering(4, 128, late=False)]
    object_score = model.mask_decoder.presence_head.layers[-1].bias
    for step in range(8):  # mask, box, click; negative and positive corrections; objects taken for absent
        torch.nn.init.constant_(object_score, 3.0 if step < 6 else -9.0)
        losses(model, collate(clips, [step, step + 1]), key=(0, step))["total"].backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # a bias before a softmax over keys shifts all logits alike
    assert {name for name in without if not name.endswith("k_proj.bias") and "qkv.bias" not in name} == set()


def test_the_trunk_learns_through_the_memory_of_the_first_frame():
    """Only the second frame's answer is looked at: what it says of the first comes through memory alone."""
    model = tiny()
    batch = collate([wandering(2, late=False)])
    frames = batch.frames.float().requires_grad_()
    rollout = Rollout(model, precision="full", memory=TrainMemory(hard_prompts=False))
    features = rollout.model.encode((frames.flatten(0, 1) / 255 - 0.45) / 0.22)
    masks = batch.masks.transpose(1, 2).flatten(0, 1)
    seen: list[dict] = []
    original = rollout._frame

    def frame(*arguments, **options):
        answer, named = original(*arguments, **options)
        seen.append(named)
        return answer, named

    rollout._frame = frame
    rollout.track(
        Group(features, torch.zeros(2, dtype=torch.long), masks, 0, SeededRandom((0, 0), [0, 1]), (0, 1)),
        PromptPlan(),
        LossWeights(),
    )
    seen[1]["total"].sum().backward()
    assert frames.grad[0, 0].abs().sum() > 0 and frames.grad[0, 1].abs().sum() > 0
    assert model.memory_encoder.feature_proj.weight.grad.any() and model.memory_readout.slot_embed.grad.any()


@pytest.mark.parametrize("policy", [RecentFrames, CarriedMask])
def test_a_tracked_clip_is_what_a_session_answers(policy):
    """First-frame masks, then tracking: the logits the loss sees are those of VideoPredictor on the same frames."""
    from sam2core.predictors.video import VideoPredictor

    model = tiny(128).eval()
    model.memory_policy = policy(frames=2, object_pointers=4)
    clip = wandering(4, 128, late=False)
    rollout = Rollout(model, precision="full")
    answers: list[MaskPrediction] = []
    original = model.memorize
    model.memorize = lambda features, answer, **options: answers.append(answer) or original(features, answer, **options)
    with torch.no_grad():
        rollout(collate([clip]), PromptPlan(mask=1.0), LossWeights(), dense=0.0, key=(0, 0))
    del model.memorize

    predictor = VideoPredictor(model, cleaning={"fill_holes": 0}, non_overlapping=False, memory_dtype="float32")
    session = predictor.open(list(clip.frames))
    for number in range(2):
        session.prompt(frame=0, object=number, mask=clip.masks[0, number])
    tracked = [result.logits for result in session.propagate()]
    assert len(answers) == 3  # nobody reads a memory of the last frame
    for frame, answer in enumerate(answers):
        # the session's frames are resized as floats, which changes nothing at model size but rounding
        assert torch.allclose(answer.logits[:, 0], tracked[frame], atol=2e-3), frame


def test_late_objects_are_prompted_where_they_appear():
    rollout = Rollout(tiny(), precision="full")
    with rollout.recording() as prompts:
        named = rollout(collate([wandering(3)]), PromptPlan(), LossWeights(), dense=0.0, key=(0, 0))
    assert named["total"].isfinite() and len(prompts) == 6  # two groups of one object, three frames each
    first, late = prompts[:3], prompts[3:]
    assert [step["tracking"] for step in first] == [False, True, True] == [step["tracking"] for step in late]
    x, y = (int(value) for value in late[0]["points"][0][0])
    assert wandering(3).masks[1, 1, y, x]
    with rollout.recording() as prompts:
        rollout.memory = TrainMemory(future_prompts=False)
        rollout(collate([wandering(3)]), PromptPlan(), LossWeights(), dense=0.0, key=(0, 0))
    assert len(prompts) == 5  # the frame before it appears is not looked at


def test_corrections_collect_their_points_and_lie_in_what_was_wrong():
    rollout = Rollout(tiny(), precision="full")
    plan = PromptPlan(corrections=3, vary=False, corrected=3)
    with rollout.recording() as prompts:
        rollout(collate([wandering(3, late=False)]), plan, LossWeights(), dense=0.0, key=(0, 5))
    counts = [(step["tracking"], len(step["points"][0]), step["mask_input"]) for step in prompts]
    assert counts[:4] == [(False, 1, False), (False, 2, True), (False, 3, True), (False, 4, True)]
    corrected = [count for count in counts[4:] if count[2]]
    assert corrected in ([], [(True, n, True) for n in (1, 2, 3)], [(True, n, True) for n in (1, 2, 3)] * 2)
    last = prompts[3]["points"]
    assert all(earlier == later[:2] for earlier, later in zip(prompts[1]["points"], last))


def test_corrections_between_the_first_and_the_last_can_go_untaught():
    """The clicks are the same; what is taught is the mean of the two ends instead of all four answers."""
    model, batch = tiny(), collate([wandering(1, late=False)])
    plan = PromptPlan(corrections=3, vary=False)
    rollout = Rollout(model, precision="full")
    found = {}
    for between in (True, False):
        with rollout.recording() as prompts:
            loss = rollout(batch, replace(plan, between=between), PLAIN, dense=0.0, key=(0, 3))["total"]
        found[between] = (loss.item(), [each["points"] for each in prompts])
    assert found[True][1] == found[False][1] and len(found[True][1]) == 4
    one = rollout(batch, replace(plan, corrections=0), PLAIN, dense=0.0, key=(0, 3))["total"]
    assert found[False][0] != found[True][0]
    assert found[False][0] < 2 * found[True][0] and 2 * found[False][0] > one.item()
    loss.backward()
    assert any(parameter.grad is not None for parameter in model.mask_decoder.parameters())


def test_what_is_passed_in_half_precision_takes_no_gradient_from_what_is_taught():
    """The mask input's stem is first run, and its weights cast, where nothing is taught."""
    model, batch = tiny(), collate([wandering(1, late=False)])
    plan = PromptPlan(corrections=2, vary=False, between=False)
    Rollout(model, precision="half")(batch, plan, PLAIN, dense=0.0, key=(0, 3))["total"].backward()
    assert all(parameter.grad is not None for parameter in model.prompt_encoder.mask_stem.parameters())


def test_frames_that_are_not_taught_are_passed_as_they_are(monkeypatch):
    """The same answers on all frames; losses and gradients of those frames alone that are taught."""
    model, batch = tiny(), collate([wandering(5, late=False), wandering(5)])
    seen: dict[int, list[tuple]] = {}
    inner = Rollout._frame

    def watched(self, group, frame, *arguments, **options):
        answer, named = inner(self, group, frame, *arguments, **options)
        total = float(named["total"].detach().sum()) if named else None
        graph = answer is not None and answer.logits.requires_grad
        seen.setdefault(plan.taught, []).append((group.entry, frame, answer and answer.logits.detach(), total, graph))
        return answer, named

    monkeypatch.setattr(Rollout, "_frame", watched)
    found = {}
    for taught in (0, 3):
        plan = PromptPlan(mask=0.0, box=0.5, corrected=2, corrections=2, taught=taught)
        found[taught] = losses(model, batch, plan)["total"]
    chosen = plan.lessons(5, SeededRandom((0, 3), [0]))
    assert len(chosen) == 3 and {0, 4} < set(chosen)
    assert len({entry for entry, *_ in seen[3]}) == 2
    for (_, frame, mine, mean, graph), (_, _, known, wanted, _) in zip(seen[3], seen[0], strict=True):
        assert (mean is None) == (frame not in chosen) and not (graph and frame not in chosen)
        assert mean is None or mean == pytest.approx(wanted, rel=1e-4)
        assert (mine is None) == (known is None) and (mine is None or torch.allclose(mine, known, atol=1e-4))
    expected = sum(mean for *_, mean, _ in seen[3] if mean is not None) / 3
    assert found[3].item() == pytest.approx(expected, rel=1e-5)
    found[3].backward()
    assert gradients(model).keys() >= {name for name, _ in model.named_parameters() if name.startswith("backbone.")}


def test_lessons_are_the_same_for_a_whole_step_and_reach_every_frame():
    plan = PromptPlan(taught=3)
    drawn = [plan.lessons(6, SeededRandom((0, step), [row])) for step in range(40) for row in (0, 5)]
    assert drawn[::2] == drawn[1::2] and {frame for lesson in drawn for frame in lesson} == set(range(6))
    assert plan.lessons(3, SeededRandom((0, 0), [0])) == PromptPlan().lessons(3, SeededRandom((0, 0), [0])) == [0, 1, 2]
    with pytest.raises(ValueError, match="taught is 0"):
        PromptPlan(taught=1)


def test_the_sum_over_parts_of_a_batch_is_the_batch():
    """What accumulation and processes rely on: losses and gradients add up over clips, whoever computes them."""
    model = tiny()
    clips = [wandering(3), wandering(3, late=False), Clip(*(lambda c: (c.frames, c.masks[:, :1]))(wandering(3)))]
    losses(model, collate(clips), key=(1, 2))["total"].backward()
    whole = gradients(model)
    total = 0.0
    for number in (2, 0, 1):
        part = losses(model, collate([clips[number]], [number], objects=2), key=(1, 2))["total"]
        total += float(part.detach())
        part.backward()
    parts = gradients(model)
    assert whole.keys() == parts.keys()
    assert total == pytest.approx(float(losses(model, collate(clips), key=(1, 2))["total"].detach()), rel=1e-5)
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], rtol=1e-3, atol=1e-4 * float(value.abs().max()) + 1e-7), name


@pytest.mark.parametrize("where", ["decoder", "trunk"])
def test_computing_again_changes_no_gradient(where):
    model, batch = tiny(), collate([wandering(2)])
    losses(model, batch)["total"].backward()
    plain = gradients(model)
    if where == "decoder":
        losses(model, batch, checkpoint_decoder=True)["total"].backward()
    else:
        with checkpointed_trunk(model):
            losses(model, batch)["total"].backward()
        assert "forward" not in vars(model.backbone.blocks[0])
    again = gradients(model)
    assert plain.keys() == again.keys() and all(torch.allclose(plain[n], again[n], atol=1e-6) for n in plain)


def test_upstreams_loss_is_a_sum_over_steps_of_gated_masks():
    model, batch = tiny(), collate([wandering(2)])
    weights = LossWeights(bce=0.0, focal=20.0, dice=1.0, iou=1.0, object_score=1.0, compat="upstream")
    one = losses(model, batch, PromptPlan(), weights=weights)
    assert set(one) == {"total", "focal", "dice", "iou", "object_score"}
    many = losses(model, batch, PromptPlan(corrections=3, vary=False), weights=weights)
    assert float(many["total"].detach()) > 1.3 * float(one["total"].detach())
    many["total"].backward()
    assert model.mask_decoder.mask_mlps[0].layers[0].weight.grad.any()


def test_what_is_no_precision_is_refused():
    with pytest.raises(ValueError, match="precision is one of full, decoder, half, not 'bf16'"):
        Rollout(tiny(), precision="bf16")


def large(size: int = 128) -> Clip:
    """One large square that moves: masks are predicted a quarter as fine, so a small one never gets beyond 0.9."""
    frames, masks = np.full((4, size, size, 3), (40, 60, 50), np.uint8), np.zeros((4, 1, size, size), bool)
    for t in range(4):
        masks[t, 0, 24:104, 8 + 8 * t : 88 + 8 * t] = True
        frames[t][masks[t, 0]] = (220, 90, 60)
    return Clip(frames, masks, "large")


def overfit(steps: int) -> float:
    """The mean J of the tracked frames after so many steps on one clip."""
    model = registry.build("test_tiny", weights=False, memory_encoder={"layer_scale": 0.1}).train()
    init_localised(model)
    batch, rollout = collate([large()]), Rollout(model, precision="full")
    update = optimiser(model, Optim(weight_decay=0.0))
    for step in range(steps):
        for group in update.param_groups:
            group["lr"] = 6e-3 * min(1.0, (step + 1) / 10, 3 * (1 - step / steps))
        named = rollout(batch, PromptPlan(mask=1.0), LossWeights(object_score=0.3), dense=0.0, key=(0, step))
        update.zero_grad(set_to_none=True)
        (named["total"] / batch.objects).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update.step()
    return tracked_j(model.eval(), large())


def tracked_j(model: torch.nn.Module, clip: Clip) -> float:
    """J over the frames after the first, as the public predictor tracks the first frame's masks."""
    from sam2core.predictors.video import VideoPredictor

    session = VideoPredictor(model, cleaning={"fill_holes": 0}).open(list(clip.frames))
    for number in range(clip.masks.shape[1]):
        session.prompt(frame=0, object=number, mask=clip.masks[0, number])
    scores = []
    for result in session.propagate(start=1):
        for number, mask in result.masks.items():
            truth = clip.masks[result.frame, number]
            scores.append((mask.numpy() & truth).sum() / max((mask.numpy() | truth).sum(), 1))
    return float(np.mean(scores))


def test_one_clip_is_learned_by_heart():
    assert overfit(80) > 0.95
