"""The guided mask decoder: the filter against its definition, and what stays as the decoder it extends has it."""

from __future__ import annotations

from types import EllipsisType

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.model import finer_features
from sam2core.nano.guided_mask_decoder import GuidedMaskDecoder
from sam2core.ops.guided import LIMIT, upsample, window_mean
from sam2core.prepare import prepare
from sam2core.testing import tiny_model
from tests.scores import threshold_between


def pair(**options) -> tuple[GuidedMaskDecoder, SamMaskDecoder]:
    """A guided decoder and a plain one with the same weights."""
    torch.manual_seed(3)
    guided = GuidedMaskDecoder(32, heads=4, hidden=48, **options).eval()
    plain = SamMaskDecoder(32, heads=4, hidden=48).eval()
    plain.load_state_dict(guided.state_dict())
    return guided, plain


def given(images: int, prompts: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(5)
    embedding, position = torch.randn(images, 32, 6, 4), torch.randn(1, 32, 6, 4)
    return embedding, position, torch.randn(prompts, 3, 32), torch.randn(1, 32, 1, 1)


def high_res_features_of(decoder: SamMaskDecoder, images: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(7)
    maps = [torch.randn(images, 32, 24, 16), torch.randn(images, 32, 12, 8)]
    return finer_features(decoder, maps, torch.randn(images, 3, 96, 64))


def by_definition(picture: np.ndarray, logits: np.ndarray, radius: int, epsilon: float) -> np.ndarray:
    """He et al. 2010, equations 14 to 16, window by window: an image (3, h, w) and one map (h, w)."""
    height, width = logits.shape
    slope, offset = np.zeros((3, height, width)), np.zeros((height, width))

    def window(y: int, x: int) -> tuple[slice | EllipsisType, ...]:
        return ..., slice(max(0, y - radius), y + radius + 1), slice(max(0, x - radius), x + radius + 1)

    for y in range(height):
        for x in range(width):
            colours = picture[window(y, x)].reshape(3, -1)
            values = logits[window(y, x)].ravel()
            centred = colours - colours.mean(1, keepdims=True)
            covariance = centred @ centred.T / values.size + epsilon * np.eye(3)
            slope[:, y, x] = np.linalg.solve(covariance, centred @ values / values.size)
            offset[y, x] = values.mean() - slope[:, y, x] @ colours.mean(1)
    found = np.zeros_like(logits)
    for y in range(height):
        for x in range(width):
            mean = slope[window(y, x)].reshape(3, -1).mean(1)
            found[y, x] = mean @ picture[:, y, x] + offset[window(y, x)].mean()
    return found


@torch.no_grad()
@pytest.mark.parametrize(("radius", "epsilon"), [(1, 0.5), (3, 2e-3), (9, 0.05)])
def test_it_is_the_guided_filter(radius, epsilon):
    guided, plain = pair(radius=radius, epsilon=epsilon)
    pixels = torch.randn(1, 3, 96, 64)
    maps = [torch.randn(1, 32, 24, 16), torch.randn(1, 32, 12, 8)]
    rows = given(1, 2)
    raw = plain(*rows, finer_features(plain, maps, pixels)).masks * 5
    guide = finer_features(guided, maps, pixels)[0][:, -12:]
    found = guided.finish(raw, (guide,))
    picture = F.avg_pool2d(pixels, 4)[0].double().numpy()
    for row in range(2):
        for mask in range(4):
            clamped = raw[row, mask].clamp(-LIMIT, LIMIT).double().numpy()
            expected = by_definition(picture, clamped, radius, epsilon)
            np.testing.assert_allclose(found[row, mask].numpy(), expected, atol=2e-3 * np.abs(expected).max())


@torch.no_grad()
def test_all_but_the_masks_is_the_plain_decoders():
    guided, plain = pair()
    rows = given(2, 2)
    found, expected = guided(*rows, high_res_features_of(guided, 2)), plain(*rows, high_res_features_of(plain, 2))
    assert torch.equal(found.iou, expected.iou) and torch.equal(found.object_score, expected.object_score)
    assert torch.equal(found.tokens, expected.tokens)
    assert found.masks.shape == expected.masks.shape and not torch.equal(found.masks, expected.masks)


@torch.no_grad()
def test_a_plain_picture_is_smoothed_alone_and_an_even_mask_stays():
    guided, _ = pair(radius=2)
    maps = [torch.randn(1, 32, 24, 16), torch.randn(1, 32, 12, 8)]
    even, noise = torch.full((1, 4, 24, 16), 3.0), torch.randn(1, 1, 24, 16)
    colourful = finer_features(guided, maps, torch.randn(1, 3, 96, 64))[0][:, -12:]
    torch.testing.assert_close(guided.finish(even, (colourful,)), even, atol=1e-3, rtol=0)
    grey = finer_features(guided, maps, torch.full((1, 3, 96, 64), 0.7))[0][:, -12:]
    twice = window_mean(window_mean(noise, guided.radius), guided.radius)
    torch.testing.assert_close(guided.finish(noise, (grey,)), twice, atol=1e-3, rtol=0)


@torch.no_grad()
def test_a_ragged_mask_ends_at_the_edge_of_the_picture():
    guided, _ = pair()
    pixels = torch.full((1, 3, 256, 256), -1.0)
    pixels[..., 64:192, 64:192] = 1.0  # a bright square
    maps = [torch.randn(1, 32, 64, 64), torch.randn(1, 32, 32, 32)]
    square = torch.zeros(64, 64, dtype=torch.bool)
    square[16:48, 16:48] = True
    generator = torch.Generator().manual_seed(0)
    ragged = F.avg_pool2d(torch.where(square, 4.0, -4.0)[None, None], 5, 1, 2)
    ragged = ragged + 2 * torch.randn(1, 1, 64, 64, generator=generator)

    def wrong(logits: torch.Tensor) -> int:
        return int(((logits[0, 0] > 0) != square).sum())

    found = guided.finish(ragged, finer_features(guided, maps, pixels))
    assert wrong(ragged) > 100 and wrong(found) < 10


@torch.no_grad()
def test_only_wanted_masks_are_drawn_and_equal_the_others():
    guided = prepare(pair()[0], "cpu")
    embedding, position, sparse, _ = given(1, 5)
    high_res_features = high_res_features_of(guided, 1)
    output = guided(embedding, position, sparse, torch.zeros(1, 32, 1, 1), high_res_features)
    limit = threshold_between(output.iou)
    for want in (lambda iou: iou > limit, lambda iou: iou > 2, lambda iou: iou < 2):
        found = guided.decode_filtered(embedding, position, sparse, high_res_features, want, rows=2)
        row, mask = torch.nonzero(want(output.iou)).unbind(1)
        assert torch.equal(found.row, row) and torch.equal(found.mask, mask)
        torch.testing.assert_close(found.logits, output.masks[row, mask], atol=1e-4, rtol=1e-3)


def test_every_parameter_gets_a_gradient():
    guided = prepare(pair()[0], "cpu")
    out = guided.train()(*given(2, 2), high_res_features_of(guided, 2))
    (out.masks.square().mean() + out.iou.sum() + out.object_score.sum()).backward()
    assert [name for name, p in guided.named_parameters() if p.grad is None] == []


@torch.no_grad()
@pytest.mark.parametrize("whole", [False, True], ids=["lowered", "cast"])
def test_half_precision_stays_close(whole):
    sizes = {"image_size": [96, 64], "mask_decoder": {"type": "guided", "heads": 4, "hidden": 32}}
    model = tiny_model(**sizes).eval()
    pixels = torch.randn(1, 3, 96, 64)

    def masks() -> torch.Tensor:
        from sam2core.types import Prompt

        features = model.encode(pixels)
        prompt = Prompt(torch.tensor([[[30.0, 40.0]]]), torch.ones(1, 1, dtype=torch.int32))
        return model.segment(features, model.condition(features, None), prompt, multimask_output=True).logits.float()

    exact = masks()
    model = model.to(torch.bfloat16) if whole else model.to_mixed_precision(torch.bfloat16)
    assert (masks() - exact).abs().max() <= 0.1 * exact.abs().max() + 0.02


def test_options_are_checked():
    with pytest.raises(ValueError, match="radius must be at least 1 and epsilon above 0, not 0 and 0.002"):
        GuidedMaskDecoder(32, radius=0)
    with pytest.raises(ValueError, match="not 3 and 0"):
        GuidedMaskDecoder(32, epsilon=0)


def test_upsampling_to_the_same_size_is_the_filter():
    torch.manual_seed(0)
    picture, logits = torch.randn(3, 9, 13), (torch.randn(2, 2, 9, 13) * 3).clamp(-LIMIT, LIMIT)
    found = upsample(logits, picture, radius=2, epsilon=0.1)
    for row in range(2):
        for mask in range(2):
            expected = by_definition(picture.double().numpy(), logits[row, mask].double().numpy(), 2, 0.1)
            np.testing.assert_allclose(found[row, mask].numpy(), expected, atol=1e-4)
