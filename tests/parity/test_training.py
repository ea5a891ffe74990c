"""The video recipe is Meta's, and what `sam2core train` writes goes back to Meta's code, which gives the same masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import registry
from sam2core.checkpoints.facebook import FACEBOOK
from sam2core.cli.convert import command as convert
from sam2core.cli.train import command as train
from sam2core.cli.train_data import read_recipe
from sam2core.training.optim import learning_rate, parameter_groups
from sam2core.training.recipe import Recipe
from tests.parity import oracle, scripts
from tests.parity.whose import need_upstream

need_upstream()

# the spec test_tiny, but for the numbers of memories, which Meta's code fixes
TINY = oracle.Shape(8, 1, (1, 1, 2, 1), (8, 4, 6, 3), (3,), (7, 7), 128, 32, 16, 64, 4, 2)
AS_METAS = ("memory_policy={frames: 6, object_pointers: 16}", "memory_readout={slots: 7}")
SMALL = ("stages.0.size=64", "stages.0.batch=1", "stages.0.prompts.corrections=1")


def invoke(command, *arguments: object) -> None:
    result = CliRunner().invoke(command, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Videos as MOSE has them, and the frames of one as images."""
    root = tmp_path_factory.mktemp("data")
    for name in ("JPEGImages/a", "Annotations/a", "images", "labels"):
        (root / name).mkdir(parents=True)
    for t in range(4):
        ids = np.zeros((60, 80), np.uint8)
        ids[10:40, 8 + 4 * t : 40 + 4 * t], ids[30:55, 50:75] = 1, 2
        colours = np.array([[40, 60, 50], [220, 90, 60], [70, 120, 230]], np.uint8)
        for folder, picture in (("Annotations/a", ids), ("labels", ids), ("images", colours[ids])):
            Image.fromarray(picture).save(root / folder / f"{t}.png")
        Image.fromarray(colours[ids]).save(root / "JPEGImages/a" / f"{t}.jpg")
    return root


@pytest.mark.parametrize("recipe", ["finetune_image", "finetune_video", "decoder_only", "lora"])
def test_meta_loads_what_was_trained_and_gives_the_same_masks(recipe, data, tmp_path):
    if recipe == "lora":
        pytest.importorskip("peft", reason="the recipe needs it")
    spec = [f"overrides.{each}" for each in AS_METAS]
    steps = ["model=test_tiny", "start=fresh", "optim.lr=1e-3", "optim.warmup=0", "stages.0.steps=2", *SMALL, *spec]
    frames = ["stages.0.frames=3"] if recipe == "finetune_video" else []
    invoke(
        train,
        "--recipe",
        recipe,
        "--data",
        data,
        "-o",
        tmp_path / "run",
        "--workers",
        0,
        "--device",
        "cpu",
        *steps,
        *frames,
    )
    weights = tmp_path / "run" / "weights.safetensors"
    invoke(convert, weights, tmp_path / "theirs.pt", "--to", "facebook", "--verify")

    ours = registry.build(weights)
    theirs = oracle.upstream(TINY, video=True)
    state = torch.load(tmp_path / "theirs.pt", weights_only=True)["model"]
    theirs.load_state_dict(state, strict=True)
    settings = scripts.Settings("2.1", TINY.image)
    video = scripts.clip(settings.length, settings.size)
    values = scripts.pixels(video, TINY.image)
    with torch.inference_mode():
        known = {at: (image[None], theirs.forward_image(image[None])) for at, image in enumerate(values)}
    steps = [
        scripts.Prompt(0, "cup", ((20.0, 12.0),), (1,)),
        scripts.Prompt(2, "mat", ((40.0, 20.0), (5.0, 5.0)), (1, 0)),
        scripts.Propagate(),
    ]
    tally = scripts.Tally()
    with scripts.driven(theirs):
        scripts.play(
            scripts.Ours(ours, video, settings), scripts.Theirs(theirs, values, settings, known), steps, 1e-3, tally
        )
    assert tally.masks >= 2 * settings.length


def meta_recipe() -> dict:
    """Meta's own file, as the package `sam2` brings it."""
    import sam2
    from omegaconf import OmegaConf

    path = Path(sam2.__file__).parent / "configs" / "sam2.1_training" / "sam2.1_hiera_b+_MOSE_finetune.yaml"
    for name, function in (("times", lambda a, b: a * b), ("divide", lambda a, b: a / b)):
        OmegaConf.register_new_resolver(name, function, replace=True)
    tree = OmegaConf.load(path)
    parts = {name: OmegaConf.to_container(tree[name], resolve=True) for name in ("scratch", "dataset", "vos")}
    return {**parts, "trainer": {key: tree.trainer[key] for key in ("model", "optim", "loss", "seed_value")}}


def test_the_video_recipe_is_metas_value_for_value():
    meta, ours = meta_recipe(), Recipe.read(read_recipe("finetune_video"))
    scratch, model, optim = meta["scratch"], meta["trainer"]["model"], meta["trainer"]["optim"]
    (stage,) = ours.stages
    plan, memory, filming = stage.prompts, ours.memory, ours.augment.filming
    assert plan is not None
    assert (stage.size, stage.frames, stage.objects, stage.batch, ours.seed) == (
        scratch["resolution"],
        scratch["num_frames"],
        scratch["max_num_objects"],
        8 * scratch["train_batch_size"],  # GPUs
        meta["trainer"]["seed_value"],
    )
    assert stage.steps == scratch["num_epochs"] * (1246 * meta["dataset"]["multiplier"] // 8)
    assert ours.overrides == {"backbone": {"drop_path": model.image_encoder.trunk.drop_path_rate}}
    layer = model.memory_attention.layer
    (dropout,) = {layer.dropout, layer.self_attention.dropout, layer.cross_attention.dropout}
    tiny = registry.build("test_tiny", weights=False)  # by the same default
    assert {each.p for each in tiny.memory_attention.modules() if isinstance(each, torch.nn.Dropout)} == {dropout}

    assert plan.mask == 1 - model.prob_to_use_pt_input_for_train and plan.box == model.prob_to_use_box_input_for_train
    assert plan.from_target == model.prob_to_sample_from_gt_for_train
    assert plan.prompted == model.num_init_cond_frames_for_train and model.rand_init_cond_frames_for_train
    assert plan.corrected == model.num_frames_to_correct_for_train and model.rand_frames_to_correct_for_train
    assert plan.corrections == model.num_correction_pt_per_frame and not plan.vary and plan.correct == 1.0
    assert memory.keep_corrections == model.add_all_frames_to_correct_as_cond
    assert ours.checkpoint_decoder == model.use_act_ckpt_iterative_pt_sampling

    assert (optim.optimizer._target_, optim.gradient_clip.norm_type) == ("torch.optim.AdamW", 2)
    assert ours.optim.clip == optim.gradient_clip.max_norm and ours.optim.betas == (0.9, 0.999) and ours.optim.ema == 0
    assert ours.precision == "half" and optim.amp.amp_dtype == "bfloat16"
    loss = meta["trainer"]["loss"]["all"]
    weights, named = stage.losses, loss.weight_dict
    assert (weights.focal, weights.dice, weights.iou, weights.object_score, weights.bce, weights.compat) == (
        named.loss_mask,
        named.loss_dice,
        named.loss_iou,
        named.loss_class,
        0,
        "upstream",
    )
    assert loss.supervise_all_iou and loss.iou_use_l1_loss and loss.focal_gamma_obj_score == 0

    flip, affine, _, jitter, grey, own, *_ = meta["vos"]["train_transforms"][0]["transforms"]
    assert flip["consistent_transform"] and filming.flip == 0.5
    assert (filming.rotate, filming.shear, filming.grey) == (affine["degrees"], affine["shear"], grey["p"])
    for values, found in ((jitter, filming.jitter), (own, filming.jitter_frame)):
        assert found == (values["brightness"], values["contrast"], values["saturation"]) and values["hue"] is None
    assert (filming.stride, filming.reverse, filming.late, filming.mosaic, filming.zoom) == (1, 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_every_parameter_learns_at_metas_rate(share):
    """Rate and weight decay by Meta's names, from what its file says: groups, layer decay, what is not decayed."""
    meta, ours = meta_recipe(), Recipe.read(read_recipe("finetune_video"))
    optim, scratch = meta["trainer"]["optim"], meta["scratch"]
    theirs = oracle.upstream(TINY)
    layers = {name for name, each in theirs.named_modules() if isinstance(each, torch.nn.LayerNorm)}
    trunk, (modifier,) = theirs.image_encoder.trunk, optim.param_group_modifiers
    cosine = 0.5 * (1 + np.cos(np.pi * share))
    expected = {}
    for name, _ in theirs.named_parameters():
        base = scratch["vision_lr" if name.startswith("image_encoder.") else "base_lr"]
        rate = base / 10 + (base - base / 10) * cosine
        if name.startswith(modifier.apply_to) and "pos_embed" not in name:
            depth = trunk.get_layer_id(name.removeprefix("image_encoder.trunk."))
            rate *= modifier.layer_decay_value ** (trunk.get_num_layers() + 1 - depth)
        expected[name] = (rate, 0.0 if "bias" in name or name.rpartition(".")[0] in layers else 0.1)

    model = registry.build("test_tiny", weights=False)
    markers = {name: torch.full_like(value, number) for number, (name, value) in enumerate(model.state_dict().items())}
    names = {name: int(value.flatten()[0]) for name, value in FACEBOOK.inverse(markers).items()}
    groups = {id(each): group for group in parameter_groups(model, ours.optim) for each in group["params"]}
    rate = learning_rate(round(share * ours.steps), ours.steps, ours.optim)
    known = dict(model.named_parameters())
    values = [known.get(name) for name in model.state_dict()]
    del expected["no_mem_pos_enc"]  # nothing reads it; ours has none
    for name, (wanted, decay) in expected.items():
        group = groups[id(values[names[name]])]
        assert rate * group["multiplier"] == pytest.approx(wanted, rel=1e-4), name
        assert group["weight_decay"] == decay, name
