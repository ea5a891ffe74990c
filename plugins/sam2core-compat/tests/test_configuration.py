"""Configurations by Meta's names, and overrides in Hydra's notation."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch


def built(name, *overrides):
    """A model without storage."""
    from sam2 import configuration
    from sam2.modeling.sam2_base import SAM2Base

    from registry.assemble import init_empty_weights

    with init_empty_weights():
        made = configuration.make(configuration.load(name, overrides), "model")
    assert type(made) is SAM2Base
    return made.eval()


@pytest.mark.parametrize("family", ["sam2", "sam2.1"])
@pytest.mark.parametrize("size", ["t", "s", "b+", "l"])
def test_the_eight_models_are_those_of_the_registry(family, size):
    import registry

    made = built(f"configs/{family}/{family}_hiera_{size}.yaml").core
    known = registry.build(f"{family}_hiera_{size}", weights=False, device="meta")
    shapes = {name: tensor.shape for name, tensor in known.state_dict().items()}
    assert {name: tensor.shape for name, tensor in made.state_dict().items()} == shapes
    assert vars(made.memory_policy) == vars(known.memory_policy) and made.multimask == known.multimask
    blocks = zip(made.backbone.blocks, known.backbone.blocks, strict=True)
    assert all(
        (mine.window, mine.pool, mine.attn.heads) == (its.window, its.pool, its.attn.heads) for mine, its in blocks
    )


def test_names_as_upstreams_users_spell_them():
    from sam2 import configuration

    for name in (
        "sam2.1_hiera_l",
        "sam2.1_hiera_l.yaml",
        "configs/sam2.1/sam2.1_hiera_l",
        "configs/sam2.1/sam2.1_hiera_l.yaml",
    ):
        assert configuration.load(name)["image_encoder"]["trunk"]["embed_dim"] == 144
    assert configuration.load("sam2_hiera_b+.yaml")["image_encoder"]["trunk"]["embed_dim"] == 112
    path = Path(configuration.FOLDER / "sam2_hiera_t.yaml")
    assert configuration.load(path) == configuration.load("sam2_hiera_t") == configuration.load(str(path))
    with pytest.raises(ValueError, match=r"no configuration 'sam2.1_hiera_large.yaml', did you mean"):
        configuration.load("sam2.1_hiera_large.yaml")


def test_overrides_change_add_and_remove():
    made = built(
        "sam2.1_hiera_t",
        "model.image_size=512",
        "++model.max_cond_frames_in_attn=4",
        "+model.memory_temporal_stride_for_eval=2",
        "~model.compile_image_encoder",
        "++model.memory_attention.layer.self_attention.feat_sizes=[32,32]",
        "++model.memory_encoder.fuser.layer.layer_scale_init_value=1e-3",
    )
    assert made.image_size == 512 and made.core.image_size == (512, 512)
    assert made.core.memory_policy.prompted == 4 and made.core.memory_policy.stride == 2
    assert made.core.prompt_encoder.mask_input_size == (128, 128)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.imagesize=512", "there is no 'imagesize', did you mean 'image_size'"),
        ("++model.image_encoder.trunk.embedding=96", "model.image_encoder.trunk has no option 'embedding'"),
        ("+model.image_size=512", "adds what is there already"),
        ("image_size=512", "is no override"),
        ("++model.image_encoder.neck.fuse_type=max", "fuse_type is 'sum' or 'avg', not 'max'"),
        ("++model.no_such_option=1", "model has no option 'no_such_option'"),
        ("~model.image_encoder", "model does not fit SAM2Base: .*image_encoder"),
        ("++model.image_encoder.trunk._target_=os.system", "is 'os.system'; what can be built"),
        ("++model._target_=os.system", "is 'os.system'; what can be built"),
        ("++model._target_=sam2.modeling.sam2_utils.LayerNorm2d", "model has no option 'image_size'"),
    ],
)
def test_what_is_wrong_is_named(override, told):
    from sam2.build_sam import build_sam2

    with pytest.raises(ValueError, match=told):
        build_sam2("sam2.1_hiera_t", device="cpu", hydra_overrides_extra=[override])


@pytest.mark.parametrize(
    ("override", "why"),
    [
        ("++model.soft_no_obj_ptr=true", "soft_no_obj_ptr is True"),
        ("++model.image_encoder.neck.fpn_interp_model=bilinear", "fpn_interp_model is 'bilinear'"),
        ("++model.image_encoder.neck.fuse_type=avg", "fuse_type is 'avg'"),
        ("++model.use_obj_ptrs_in_encoder=false", None),
        ("++model.directly_add_no_mem_embed=false", "directly_add_no_mem_embed is False"),
        ("++model.memory_attention.layer.pos_enc_at_attn=true", "pos_enc_at_attn is True"),
    ],
)
def test_what_no_released_model_has_goes_upstreams_way(override, why):
    extra = ["++model.fixed_no_obj_ptr=false"] if why is None else []
    made = built("sam2.1_hiera_t", override, *extra)
    with pytest.warns(UserWarning, match=f"{why or 'fixed_no_obj_ptr is False|use_obj_ptrs_in_encoder is False'}"):
        assert made.core is None


def test_no_hydra_is_imported_by_building():
    import subprocess

    places = [str(Path(__file__).parents[1]), str(Path(__file__).parents[3])]
    program = f"import sys; sys.path[:0] = {places!r}; sys.modules['hydra'] = None\n"
    program += "import sam2; assert 'torch' not in sys.modules\n"
    program += "from sam2.build_sam import build_sam2; build_sam2('test_tiny', device='cpu')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_hydra_builds_the_same_where_it_is_installed():
    hydra = pytest.importorskip("hydra")
    from hydra.core.global_hydra import GlobalHydra
    from hydra.utils import instantiate
    from omegaconf import OmegaConf
    from sam2.sam2_video_predictor import SAM2VideoPredictor

    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("sam2", version_base="1.2"):
        overrides = [
            "++model._target_=sam2.sam2_video_predictor.SAM2VideoPredictor",
            "++model.image_encoder.trunk.embed_dim=16",
            "++model.image_encoder.trunk.stages=[1,2,3,1]",
            "++model.image_encoder.trunk.global_att_blocks=[4]",
            "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
            "++model.image_size=128",
            "++model.fill_hole_area=8",
        ]
        config = hydra.compose(config_name="configs/sam2.1/sam2.1_hiera_t.yaml", overrides=overrides)
        OmegaConf.resolve(config)
        made = instantiate(config.model, _recursive_=True)
    assert (
        isinstance(made, SAM2VideoPredictor) and made.fill_hole_area == 8 and made.eval().core.image_size == (128, 128)
    )
    assert isinstance(made, torch.nn.Module) and made.hidden_dim == 256


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A user's folder, which is where the program runs: a whole configuration, and one that changes it."""
    (tmp_path / "mine.yaml").write_text(Path(__file__).with_name("tiny.yaml").read_text())
    (tmp_path / "wider.yaml").write_text("defaults:\n  - mine\n  - _self_\nside: 256\nmodel:\n  num_maskmem: 3\n")
    (tmp_path / "lost.yaml").write_text(
        "model:\n  _target_: sam2.modeling.sam2_base.SAM2Base\n  image_size: ${sides}\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_users_own_file_by_path_and_by_name(own):
    from sam2.build_sam import build_sam2, build_sam2_video_predictor

    for name in ("mine", "mine.yaml", own / "mine.yaml", str(own / "mine")):
        assert build_sam2(name, device="cpu").image_size == 128
    made = build_sam2("mine", device="cpu", hydra_overrides_extra=["side=192", "++width=64"])
    assert made.image_size == 192 and made.hidden_dim == 64
    assert type(build_sam2_video_predictor("mine", device="cpu")).__name__ == "SAM2VideoPredictor"
    with pytest.raises(ValueError, match=r"lost.yaml.*sides"):
        build_sam2("lost", device="cpu")


def test_hydra_is_asked_first_where_the_program_initialised_it(own, monkeypatch):
    hydra = pytest.importorskip("hydra")
    from hydra.core.global_hydra import GlobalHydra
    from sam2.build_sam import build_sam2, build_sam2_video_predictor

    monkeypatch.chdir(own.parent)
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(config_dir=str(own), version_base="1.2"):
        for name in ("mine", "mine.yaml"):
            assert build_sam2(name, device="cpu").image_size == 128
        wider = build_sam2_video_predictor("wider", device="cpu", hydra_overrides_extra=["model.num_maskmem=2"])
        assert (wider.image_size, wider.num_maskmem, wider.fill_hole_area) == (256, 2, 8)
        assert build_sam2("sam2.1_hiera_t", device="cpu").hidden_dim == 256  # not in that folder: one of ours
        with pytest.raises(ValueError, match="lost.*sides"):
            build_sam2("lost", device="cpu")
        with pytest.raises(ValueError, match="Hydra cannot compose 'mine'.*nothing"):
            build_sam2("mine", device="cpu", hydra_overrides_extra=["model.nothing=1"])


def test_a_list_of_defaults_is_composed_by_hydra(own, monkeypatch):
    from sam2.build_sam import build_sam2

    pytest.importorskip("hydra")
    assert build_sam2("wider", device="cpu").image_size == 256
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"list of `defaults`.*pip install hydra-core"):
        build_sam2("wider", device="cpu")


def test_a_part_of_ones_own_is_named_by_target_once_it_is_imported(own):
    from sam2.build_sam import build_sam2
    from sam2.modeling.memory_encoder import MaskDownSampler

    class Mine(MaskDownSampler):
        pass

    Mine.__module__, Mine.__qualname__ = __name__, "Mine"
    sys.modules[__name__].Mine = Mine
    said = [f"++model.memory_encoder.mask_downsampler._target_={__name__}.Mine"]
    made = build_sam2("mine", device="cpu", hydra_overrides_extra=said)
    assert type(made.memory_encoder.mask_downsampler) is Mine
    with pytest.warns(UserWarning, match="mask_downsampler is a Mine"):
        assert made.core is None
    with pytest.raises(ValueError, match=r"mask_downsampler._target_ is 'elsewhere.Mine'"):
        build_sam2("mine", device="cpu", hydra_overrides_extra=[said[0].replace(__name__, "elsewhere")])
