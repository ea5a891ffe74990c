"""A student is taught by its teacher: what is compared, that it goes on as if never stopped, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import registry
from sam2core.checkpoints.files import FileError
from sam2core.cli.train import command, write_weights
from sam2core.cli.train_data import read_recipe
from sam2core.data.pictures import DataError
from sam2core.training.augment import Augment, Mixture
from sam2core.training.clips import collate
from sam2core.training.loop import check_model, train
from sam2core.training.losses import LossWeights
from sam2core.training.prompting import PromptPlan
from sam2core.training.recipe import Recipe, RecipeError
from sam2core.training.rollout import Rollout, resize_model
from sam2core.training.teacher import (
    ADAPTERS,
    Distil,
    FeatureCache,
    Teacher,
    TeacherModel,
    add_distil_adapters,
    distance,
    fitted,
    soft_mask_loss,
)
from sam2core.training.unlabelled import unlabelled
from sam2core.types import Prompt
from tests.training.job import squares
from tests.training.scene import wandering

PROMPTS = {"mask": 0.4, "box": 0.4, "prompted": 2, "corrected": 2, "corrections": 1}


def tiny(seed: int = 1, **overrides) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = registry.build("test_tiny", weights=False, memory_attention={"dropout": 0.0}, **overrides)
    torch.nn.init.constant_(model.mask_decoder.presence_head.layers[-1].bias, 3.0)
    resize_model(model, 64)
    return model


def wider() -> torch.nn.Module:
    return tiny(7, dim=64)


PLAIN = Distil()


def taught(student, teacher, distil: Distil = PLAIN, *, cache: FeatureCache | None = None) -> Rollout:
    add_distil_adapters(student, teacher, distil, size=64, memory=True, seed=0)
    return Rollout(student, precision="full", teacher=Teacher(Rollout(teacher, precision="full"), distil, cache))


def losses(rollout: Rollout, plan: PromptPlan | None, *, clips: int = 1, frames: int = 3) -> dict[str, torch.Tensor]:
    batch = collate([wandering(frames, late=number > 0) for number in range(clips)])
    return rollout(batch, plan, LossWeights(), dense=0.0, key=(0, 3))


def test_there_is_nothing_to_learn_from_oneself():
    """Embeddings, conditioned embeddings, masks and scores of an equal teacher are the student's own."""
    student = tiny().eval()
    rollout = taught(student, copy.deepcopy(student))
    tracked = losses(rollout, PromptPlan(mask=0.5, box=0.5), frames=3)
    corrected = losses(rollout, PromptPlan(box=0.5, corrections=2, vary=False), frames=1)
    assert set(tracked) - set(corrected) == {"teacher_memory"}
    for found in (tracked, corrected):
        for name in set(found) - {"total", "teacher_object_score"}:
            assert found[name] < 1e-5, name
        assert found["teacher_object_score"] > 0  # never quite sure


def test_distances_are_smallest_for_equal_answers():
    theirs = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert distance(theirs, theirs).tolist() == [0, 0, 0]
    other = theirs + torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1)
    variances = theirs.flatten(1).var(1, correction=0)
    assert torch.allclose(distance(other, theirs), torch.tensor([1.0, 4.0, 9.0]) / variances)
    assert torch.allclose(distance(other[:1], theirs[:1]), distance(other, theirs)[:1])  # whatever else is there
    logits = theirs.clone().requires_grad_()
    soft_mask_loss(logits, theirs).sum().backward()
    assert soft_mask_loss(theirs, theirs).abs().max() < 1e-6 and logits.grad.abs().max() < 1e-6
    assert (soft_mask_loss(theirs + 0.5, theirs) > 1e-3).all()


def test_gradients_reach_the_students_parts_and_none_of_the_teachers():
    student, teacher = tiny().train(), wider()
    rollout = taught(student, teacher)
    before = copy.deepcopy(teacher.state_dict())
    plan = PromptPlan(mask=0.3, box=0.5, prompted=2, corrected=3, corrections=1)
    found = losses(rollout, plan, clips=2)
    found["total"].backward()
    assert set(found) == {"total", *(f"teacher_{name}" for name in DISTILLED)}  # labels are not looked at
    for part in ("backbone", "neck", "mask_decoder", "memory_attention", "memory_encoder", ADAPTERS):
        assert any(p.grad is not None and p.grad.any() for p in getattr(student, part).parameters()), part
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


DISTILLED = ("embedding", "memory", "mask", "iou", "object_score")


def test_labels_teach_besides_when_that_is_said():
    student, teacher = tiny(), wider()
    found = losses(taught(student, teacher, Distil(labels=True)), PromptPlan(box=0.5))
    assert {"mask", "iou", "object_score"} < set(found) and "teacher_mask" in found
    parts = {"embedding": 1.0, "memory": 1.0, "mask": 1.0, "iou": 0.5, "object_score": 0.05}
    theirs = sum(weight * found[f"teacher_{name}"] for name, weight in parts.items())
    plain = LossWeights()
    own = found["mask"] + plain.spread * found["spread"] + plain.iou * found["iou"]
    own = own + plain.object_score * found["object_score"]
    assert torch.allclose(found["total"], theirs + own, rtol=1e-4)


def test_a_teacher_of_another_size_sees_the_same_places():
    """A teacher shown twice the pixels answers with the same masks as one that is shown such pictures anyway."""
    teacher = wider().eval()
    rollout = taught(tiny(), teacher, Distil(size=128))
    batch = collate([wandering(1, late=False)])
    features = rollout.teacher.encode(batch.frames.flatten(0, 1))
    assert teacher.image_size == (128, 128) and features.embedding.shape[-1] == 8
    prompt = Prompt(torch.tensor([[[10.0, 20.0]]]), torch.ones(1, 1, dtype=torch.int32), torch.zeros(1, 1, 16, 16))
    asked = fitted(prompt, (64, 64), teacher)
    assert asked.points.tolist() == [[[20.0, 40.0]]] and asked.mask_input.shape[-2:] == (32, 32)
    found = losses(rollout, PromptPlan(box=0.5, corrections=1), frames=2)
    assert all(value.isfinite() for value in found.values())


def test_pieces_of_a_batch_add_up():
    student, teacher = tiny(), wider()
    rollout = taught(student, teacher)
    batch = collate([wandering(2, late=False), wandering(2)])
    plan = PromptPlan(mask=0.4, box=0.5, corrections=1)
    whole = rollout(batch, plan, LossWeights(), dense=0.0, key=(0, 1))
    parts = [rollout(each, plan, LossWeights(), dense=0.0, key=(0, 1)) for each in batch.split(2)]
    for name, value in whole.items():
        assert torch.allclose(value, sum(each.get(name, torch.zeros(())) for each in parts), rtol=1e-3, atol=1e-5), name


def recipe(steps: int = 4, **more) -> Recipe:
    stage = {"name": "all", "steps": steps, "size": 64, "frames": 2, "batch": 2, "objects": 2, "prompts": PROMPTS}
    first = {"name": "features", "steps": 1, "size": 64, "batch": 2, "objects": 1, "prompts": None}
    tree = {
        "model": "test_tiny",
        "teacher": "test_tiny",
        "sources": [{"path": "-", "reader": "label_folder"}],
        "stages": [first, {**stage, "stills": {"share": 0.4, "batch": 2, "objects": 2}}],
        "optim": {"warmup": 2, "lr": 1e-3},
        "precision": "full",
    }
    return Recipe.read(tree | more)


STILL = Augment(whole=1.0, paste=0.0, shapes=0.0, colour=0.0, grey=0.0, blur=0.0, noise=0.0)


def run(folder: Path, *, cache: Path | None = None, **options) -> dict[str, torch.Tensor]:
    mixture = Mixture([squares()], [1.0], augment=STILL)
    trained = train(
        tiny(3), recipe(), mixture, folder, workers=0, teacher=TeacherModel(wider(), cache), **options
    ).state_dict()
    assert not any(name.startswith(ADAPTERS) for name in trained)
    return trained


@pytest.mark.parametrize("cached", [False, True])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, cached):
    cache = tmp_path / "cache" if cached else None
    whole = run(tmp_path / "whole", cache=cache)
    run(tmp_path / "parts", stop_after=2, cache=cache)
    parts = run(tmp_path / "parts", cache=cache)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert (tmp_path / "parts" / "metrics.csv").read_text().splitlines()[0].count("teacher_") == len(DISTILLED)


def test_an_image_in_the_cache_is_not_encoded_again(tmp_path):
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    teacher, asked = wider(), []
    cache = FeatureCache(tmp_path, teacher)
    rollout = Rollout(teacher, precision="full")
    one = Teacher(rollout, Distil(), cache)
    encode = rollout.encode
    rollout.encode = lambda shown: asked.append(len(shown)) or encode(shown)
    new = one.encode(pictures)
    known = one.encode(pictures.flip(0)).rows(torch.tensor([1, 0]))
    assert asked == [1, 1] and torch.equal(new.embedding, known.embedding)
    exact = encode(pictures)
    for mine, full in zip((new.embedding, *new.high_res_features), (exact.embedding, *exact.high_res_features)):
        assert torch.allclose(mine, full, rtol=2e-3, atol=1e-3)
    assert torch.equal(new.position, exact.position)
    # another size, another teacher, another picture: other files
    assert FeatureCache(tmp_path, tiny()).path(pictures[0]) != cache.path(pictures[0]) != cache.path(pictures[1])
    assert cache.path(pictures[0]) != cache.path(pictures[0, :, :32])
    path = cache.path(pictures[0])
    path.write_bytes(path.read_bytes()[:100])  # what no kill leaves behind, since files appear whole
    with pytest.raises(FileError, match=path.name):
        one.encode(pictures)
    assert not list(tmp_path.rglob("*.part*"))


def test_what_cannot_teach_is_refused_in_words():
    with pytest.raises(RecipeError, match="distil says what is learned of a teacher.*teacher=NAME"):
        recipe(teacher="", distil={"masks": 2.0})
    with pytest.raises(RecipeError, match=r"distil: distil.size is 0 .* multiple of 32 pixels, not 50"):
        recipe(distil={"size": 50})
    with pytest.raises(RecipeError, match="did you mean 'embedding'"):
        recipe(distil={"embeding": 1.0})
    with pytest.raises(RecipeError, match="names teacher 'test_tiny', and none was given"):
        check_model(tiny(), recipe())
    with pytest.raises(ValueError, match=r"the teacher has no map of stride 32.*both have 4, 8, 16"):
        add_distil_adapters(With32(tiny()), wider(), Distil(levels=(32,)), size=64, memory=True, seed=0)
    with pytest.raises(RecipeError, match="all weights of `distil` are 0"):
        nothing = dict.fromkeys(("embedding", "memory", "masks", "iou", "object_score"), 0.0)
        check_model(tiny(), recipe(distil=nothing), teacher=wider())
    dense = recipe(stages=[{"name": "d", "steps": 1, "size": 64, "dense": 1.0}])
    with pytest.raises(RecipeError, match="set distil.labels to true, or dense to 0"):
        check_model(tiny(), dense, teacher=wider())
    images = wider()
    images.image_only = True
    with pytest.raises(RecipeError, match="no memory parts, so it cannot teach clips"):
        check_model(tiny(), recipe(), teacher=images)


class With32:
    """A model whose masks are read from a map at stride 32 as well."""

    def __init__(self, model):
        self.model = model

    def __getattr__(self, name):
        return getattr(self.model, name)

    def eval(self):
        return self

    def encode(self, pixels):
        found = self.model.eval().encode(pixels)
        low = torch.nn.functional.avg_pool2d(found.embedding, 2)
        return replace(found, high_res_features=(*found.high_res_features, low))


@pytest.mark.parametrize("student", ["sam2.1_hiera_t", "edgetam", "efficienttam_ti"])
def test_the_recipe_fits_the_large_model_and_small_students(student):
    """Sizes as in use, weights nowhere: widths, levels and patterns are what is checked."""
    if student not in registry.models():
        pytest.skip(f"{student} is a plugin's")
    found = Recipe.read(read_recipe("distil", (f"model={student}",)))
    empty, large = (registry.build(name, weights=False, device="meta") for name in (student, "sam2.1_hiera_l"))
    check_model(empty, found, teacher=large)
    levels = {"sam2.1_hiera_t": {"4", "8", "16"}, "edgetam": {"4", "8", "16"}, "efficienttam_ti": {"16"}}
    assert set(getattr(empty, ADAPTERS)) == {*levels[student], "memory"}


def photographs(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    (folder / "deep").mkdir(parents=True)
    for number in range(2):
        pixels = np.kron(draw.integers(0, 256, (6, 8, 3)), np.ones((12, 12, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "deep" / f"{number}.png")
    return folder


def test_what_is_unlabelled_is_guessed_at(tmp_path):
    photographs(tmp_path)
    video = tmp_path / "clip.gif"
    frames = [Image.new("RGB", (64, 48), (90 * number, 40, 200)) for number in range(3)]
    frames[0].save(video, save_all=True, append_images=frames[1:])
    pictures = [each for each in unlabelled(tmp_path) if each.still]
    assert [each.name for each in pictures] == ["deep/0.png", "deep/1.png"]
    masks = pictures[0].masks(0, pictures[0].objects(0))
    assert masks.shape == (16, 72, 96) and masks.any((1, 2)).all() and masks.mean((1, 2)).max() < 0.5
    assert np.array_equal(masks, unlabelled(tmp_path)[0].masks(0, pictures[0].objects(0)))
    assert not np.array_equal(masks, unlabelled(tmp_path, seed=1)[0].masks(0, pictures[0].objects(0)))
    (clip,) = [each for each in unlabelled(tmp_path) if not each.still]
    assert clip.length == 3 and clip.media == video and clip.masks(1, [1]).shape[1:] == clip.pictures([1])[0].shape[:2]
    folders = unlabelled(tmp_path, folders=True)
    assert [(each.name, each.length) for each in folders] == [("deep", 2), ("clip.gif", clip.length)]
    with pytest.raises(DataError, match="holds no image"):
        unlabelled(tmp_path / "nothing")


def test_the_verb_teaches_on_photographs_alone(tmp_path):
    teacher = write_weights(tmp_path / "teacher.safetensors", tiny(7, dim=64), Recipe.read(TEACHER))
    photographs(tmp_path / "data")
    sizes = [f"stages.{number}.{key}" for number in range(3) for key in ("steps=1", "size=64", "batch=2", "objects=2")]
    arguments = ["--recipe", "distil", "--data", str(tmp_path / "data"), "-o", str(tmp_path / "run")]
    arguments += ["--workers", "0", "--teacher-cache", str(tmp_path / "cache"), "model=test_tiny", "precision=full"]
    arguments += [f"teacher={teacher}", *sizes, "stages.2.frames=2", "stages.2.stills=null"]
    found = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    student = registry.build(tmp_path / "run" / "weights.safetensors")
    assert student.spec.name == "test_tiny" and not hasattr(student, ADAPTERS)
    assert list((tmp_path / "cache").rglob("*.safetensors"))


TEACHER = {"model": "test_tiny", "overrides": {"dim": 64}, "sources": [{"path": "-", "reader": "auto"}]}
TEACHER |= {"stages": [{"name": "none", "steps": 1}]}
