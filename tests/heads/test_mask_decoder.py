"""The mask decoder: batches, shared images, tokens that do not count, gradients and precision."""

from __future__ import annotations

import pytest
import torch

from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.prepare import prepare
from tests.scores import threshold_between


def decoder(**options):
    made = SamMaskDecoder(16, heads=2, hidden=24, **options)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return made.eval()


def inputs(batch, tokens=3, size=(4, 6), images=None):
    images = batch if images is None else images
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(images, 16, *size, generator=generator)
    high_res_features = tuple(
        torch.randn(images, 16 // f, size[0] * s, size[1] * s, generator=generator) for f, s in ((8, 4), (4, 2))
    )
    position = torch.randn(1, 16, *size, generator=generator)
    sparse = torch.randn(batch, tokens, 16, generator=generator)
    return embedding, position, sparse, torch.randn(1, 16, 1, 1, generator=generator), high_res_features


def test_all_four_masks_at_stride_4_with_scores():
    out = decoder()(*inputs(2))
    assert out.masks.shape == (2, 4, 16, 24) and out.iou.shape == (2, 4)
    assert out.tokens.shape == (2, 4, 16) and out.object_score.shape == (2, 1)
    assert ((out.iou > 0) & (out.iou < 1)).all()


def test_one_image_shared_by_all_prompts_equals_copies_of_it():
    made = decoder()
    embedding, position, sparse, dense, high_res_features = inputs(3, images=1)
    shared = made(embedding, position, sparse, dense, high_res_features)
    copied = made(
        embedding.expand(3, -1, -1, -1),
        position,
        sparse,
        dense,
        tuple(s.expand(3, -1, -1, -1) for s in high_res_features),
    )
    alone = made(embedding, position, sparse[1:2], dense, high_res_features)
    for name in ("masks", "iou", "tokens", "object_score"):
        torch.testing.assert_close(getattr(shared, name), getattr(copied, name), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(getattr(shared, name)[1:2], getattr(alone, name), rtol=1e-4, atol=1e-4)


def test_tokens_that_do_not_count_change_nothing():
    made = decoder()
    embedding, position, sparse, dense, high_res_features = inputs(1, tokens=2)
    expected = made(embedding, position, sparse, dense, high_res_features)
    filled = torch.cat([sparse[:, :1], 100 * torch.ones(1, 2, 16), sparse[:, 1:]], dim=1)
    token_mask = torch.tensor([[True, False, False, True]])
    found = made(embedding, position, filled, dense, high_res_features, token_mask)
    for name in ("masks", "iou", "tokens", "object_score"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4)


def test_no_prompt_token_at_all():
    made = decoder()
    embedding, position, _, dense, high_res_features = inputs(1)
    assert made(embedding, position, torch.zeros(1, 0, 16), dense, high_res_features).masks.isfinite().all()


def test_without_high_res_features():
    made = decoder(high_res_features=False)
    embedding, position, sparse, dense, _ = inputs(2)
    assert made.high_res_features([embedding, embedding]) == ()
    assert made(embedding, position, sparse, dense, ()).masks.shape == (2, 4, 16, 24)
    assert not any("skip" in name for name in made.state_dict())


def test_every_parameter_gets_a_gradient():
    made = decoder().train()
    embedding, position, sparse, dense, _ = inputs(2)
    maps = [torch.randn(2, 16, 16, 24), torch.randn(2, 16, 8, 12)]
    out = made(embedding, position, sparse, dense, made.high_res_features(maps))
    (out.masks.square().mean() + out.iou.sum() + out.object_score.sum()).backward()
    assert [name for name, p in made.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_needs_no_autocast_and_stays_close(dtype):
    made, given = decoder(), inputs(2)
    exact = made(*given)
    embedding, position, sparse, dense, high_res_features = given
    args = [t.to(dtype) for t in (embedding, position, sparse, dense)]
    found = made.to(dtype)(*args, tuple(s.to(dtype) for s in high_res_features))
    assert found.masks.dtype == dtype
    assert (found.masks.float() - exact.masks).abs().max() / exact.masks.abs().max() < 0.05


@pytest.mark.usefixtures("both_products")
@torch.no_grad()
def test_only_wanted_masks_are_drawn_and_equal_the_others():
    model = prepare(SamMaskDecoder(32, heads=4, hidden=48), "cpu").eval()
    embedding, position, sparse = torch.randn(1, 32, 12, 8), torch.randn(1, 32, 12, 8), torch.randn(5, 2, 32)
    high_res_features = torch.randn(1, 4, 48, 32), torch.randn(1, 8, 24, 16)
    output = model(embedding, position, sparse, torch.zeros(1, 32, 1, 1), high_res_features)
    limit = threshold_between(output.iou)
    for want in (lambda iou: iou > limit, lambda iou: iou > 2, lambda iou: iou < 2):
        found = model.decode_filtered(embedding, position, sparse, high_res_features, want, rows=2)
        row, mask = torch.nonzero(want(output.iou)).unbind(1)
        assert torch.equal(found.row, row) and torch.equal(found.mask, mask)
        torch.testing.assert_close(found.logits, output.masks[row, mask], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found.iou, output.iou[row, mask], atol=1e-5, rtol=1e-4)


def test_stability_has_two_numbers():
    with pytest.raises(ValueError, match="stability has delta and threshold, no 'dleta'"):
        decoder(stability={"dleta": 0.1})
