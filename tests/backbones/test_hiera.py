"""The trunk: shapes, position, windows and refusals. Its numbers are for the golden and parity tests."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sam2core.backbones import hiera
from sam2core.backbones.hiera import Hiera
from sam2core.ops.cpu import hiera as chunked
from sam2core.prepare import prepare

SIZES = {
    # name: (function, parameters, channels, blocks)
    "t": (hiera.hiera_t, 26_850_720, (96, 192, 384, 768), 12),
    "s": (hiera.hiera_s, 33_948_576, (96, 192, 384, 768), 16),
    "b+": (hiera.hiera_b_plus, 68_676_832, (112, 224, 448, 896), 24),
    "l": (hiera.hiera_l, 212_151_888, (144, 288, 576, 1152), 48),
}


def small(**options):
    chosen = {"heads": 1, "stages": (1, 1, 2, 1), "windows": (4, 2, 6, 3), "global_blocks": (3,), "background": (3, 5)}
    trunk = Hiera(8, **(chosen | options))
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return trunk.eval()


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes_on_the_meta_device(name):
    make, parameters, channels, blocks = SIZES[name]
    with torch.device("meta"):
        trunk = make()
        maps = trunk(torch.empty(2, 3, 128, 192))
    assert round(sum(p.numel() for p in trunk.parameters()) / 1e6, 2) == round(parameters / 1e6, 2)
    assert trunk.channels == channels and trunk.strides == (4, 8, 16, 32) and len(trunk.blocks) == blocks
    assert [tuple(m.shape) for m in maps] == [(2, c, 128 // s, 192 // s) for c, s in zip(channels, trunk.strides)]


@pytest.mark.parametrize("size", [(32, 32), (64, 32), (96, 160)])
def test_maps_of_any_size_that_the_strides_divide(size):
    trunk = small()
    maps = trunk(torch.randn(2, 3, *size))
    assert [tuple(m.shape[2:]) for m in maps] == [(size[0] // s, size[1] // s) for s in trunk.strides]
    assert all(m.isfinite().all() for m in maps)


def test_position_is_a_bicubic_background_and_a_tiled_window():
    trunk = small()
    found = trunk.position((8, 12))
    background = F.interpolate(trunk.pos_embed, size=(8, 12), mode="bicubic", align_corners=False)
    for row, column in ((0, 0), (3, 5), (7, 11), (4, 8)):
        expected = background[0, :, row, column] + trunk.pos_embed_window[0, :, row % 4, column % 4]
        torch.testing.assert_close(found[0, row, column], expected)


def test_window_attention_does_not_cross_windows():
    trunk = small(global_blocks=(), stages=(1, 1, 1, 1))
    image = torch.randn(1, 3, 64, 64)
    changed = image.clone()
    changed[:, :, 40:, 40:] += 1.0  # far from the first windows of every stage, beyond the patches' overlap
    before, after = trunk(image), trunk(changed)
    assert torch.equal(before[0][..., :8, :8], after[0][..., :8, :8])
    assert not torch.equal(before[0], after[0])


def test_a_global_block_sees_the_whole_map():
    trunk = small(global_blocks=(0,), stages=(1, 1, 1, 1))
    image = torch.randn(1, 3, 64, 64)
    changed = image.clone()
    changed[:, :, 40:, 40:] += 1.0
    assert not torch.equal(trunk(image)[0][..., 0, 0], trunk(changed)[0][..., 0, 0])


def test_images_of_a_batch_do_not_meet():
    trunk = small()
    images = torch.randn(3, 3, 64, 96)
    together = trunk(images)
    for row in range(3):
        for found, alone in zip(together, trunk(images[row : row + 1])):
            torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-4)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"stages .* windows"):
        Hiera(8, heads=1, stages=(1, 1), windows=(4, 2), global_blocks=())
    with pytest.raises(ValueError, match="100"):
        small()(torch.randn(1, 3, 100, 64))


def test_every_parameter_gets_a_gradient():
    trunk = small().train()
    sum(m.square().mean() for m in trunk(torch.randn(1, 3, 64, 64))).backward()
    without = [name for name, p in trunk.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_drop_path_grows_with_depth_and_only_acts_in_training():
    trunk = small(drop_path=0.4)
    rates = [block.drop_path.rate for block in trunk.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    image = torch.randn(4, 3, 64, 64)
    assert torch.equal(trunk(image)[-1], trunk(image)[-1])
    trunk.train()
    assert not torch.equal(trunk(image)[-1], trunk(image)[-1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_needs_no_autocast_and_stays_close(dtype):
    trunk = small()
    image = torch.randn(1, 3, 64, 64)
    exact = trunk(image)
    for found, expected in zip(trunk.to(dtype)(image.to(dtype)), exact):
        assert found.dtype == dtype
        assert (found.float() - expected).abs().max() / expected.abs().max() < 0.05


def test_prediction_in_inference_mode_does_not_poison_training():
    trunk = small()
    with torch.inference_mode():
        trunk(torch.randn(1, 3, 96, 32))
    trunk.train()(torch.randn(1, 3, 96, 32))[-1].sum().backward()
    assert trunk.pos_embed.grad is not None


def test_an_odd_window_cannot_be_pooled():
    with pytest.raises(ValueError, match="must be even, not 7"):
        Hiera(8, heads=1, stages=(1, 1, 1, 1), windows=(8, 4, 7, 4), global_blocks=())


@pytest.mark.parametrize("size", [(64, 96), (96, 64)])
def test_prediction_in_chunks_of_windows_changes_nothing(monkeypatch, size):
    trunk = small()
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        whole = trunk(images)
        prepare(trunk, "cpu")
        monkeypatch.setattr(chunked, "CHUNK_LIMIT", 0)
        monkeypatch.setattr(chunked, "CHUNK_BYTES", 0)
        assert [block._rows_at_once(torch.empty(2, 16, 24, 8)) for block in trunk.blocks] == [4, 4, 2, 16, 6]
        for found, expected in zip(trunk(images), whole):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert trunk.blocks[0]._rows_at_once(torch.empty(2, 16, 24, 8)) == 16  # training takes the map at once
