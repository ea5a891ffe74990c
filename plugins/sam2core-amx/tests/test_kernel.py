"""The kernel against a float64 reference, next to SDPA in the same precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sam2core_amx.kernel import averages, turned
from torch import Tensor

from sam2core.ops import rope
from sam2core.ops.attention import average_tokens

pytestmark = pytest.mark.usefixtures("tiles")

# queries, keys, their width, that of tokens: no blocks are full, or just, or one more
SIZES = [
    (1, 1, 32, 32),
    (1, 300, 64, 32),
    (17, 33, 96, 64),
    (32, 256, 256, 64),
    (33, 257, 256, 64),
    (100, 1000, 256, 64),
    (70, 511, 128, 256),
    (5, 77, 40, 20),
    (2100, 600, 64, 64),
]


@pytest.fixture(params=[1, 3])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def draw(queries: int, keys: int, width: int, narrow: int, batches=(1, 1, 1), heads: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(queries * 10000 + keys)
    sizes = ((batches[0], heads, queries, width), (batches[1], heads, keys, width), (batches[2], 1, keys, narrow))
    return [torch.randn(size, generator=generator).bfloat16() for size in sizes]


def exact(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    scores = query.double() @ key.double().transpose(2, 3) * query.shape[3] ** -0.5
    if memory_mask is not None:
        scores = scores.masked_fill(~memory_mask[:, None, None], -torch.inf)
    return scores.softmax(dim=3) @ tokens.double()


def sdpa(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    """Torch's kernel wants values as wide as keys."""
    width = max(query.shape[3], tokens.shape[3])
    scale = query.shape[3] ** -0.5
    query, key = (F.pad(tensor, (0, width - tensor.shape[3])) for tensor in (query, key))
    value = F.pad(tokens, (0, width - tokens.shape[3]))
    mask = None if memory_mask is None else memory_mask[:, None, None]
    return F.scaled_dot_product_attention(query, key, value, mask, scale=scale)[..., : tokens.shape[3]]


def root_mean_square(error: Tensor) -> float:
    return error.double().square().mean().sqrt().item()


@pytest.mark.parametrize("spread", [1, 8])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_errors_are_no_larger_than_those_of_sdpa(size, masked, spread, threads):
    query, key, tokens = draw(*size)
    query = query * spread
    memory_mask = None
    if masked:
        memory_mask = torch.rand(1, size[1], generator=torch.Generator().manual_seed(1)) < 0.6
        memory_mask[:, -1] = True
    reference = exact(query, key, tokens, memory_mask)
    mine, theirs = averages(query, key, tokens, memory_mask), sdpa(query, key, tokens, memory_mask)
    assert mine.dtype == torch.bfloat16 and mine.shape == reference.shape
    # both round weights and results to 8 bits: of few numbers, chance decides
    slack = 1.01 if mine.numel() > 5000 else 1.1
    assert root_mean_square(mine - reference) <= slack * root_mean_square(theirs - reference)
    assert (mine - reference).abs().max() <= 1.2 * (theirs - reference).abs().max()


def test_threads_change_nothing():
    query, key, tokens = draw(300, 700, 256, 64)
    before = torch.get_num_threads()
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(averages(query, key, tokens))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_other_types_are_rounded_and_any_strides_serve():
    query, key, tokens = draw(40, 300, 64, 32)
    expected = averages(query, key, tokens)
    apart = key.repeat_interleave(3, dim=3)[..., ::3]
    assert torch.equal(averages(query, apart, tokens.float()), expected)


def test_what_does_not_fit_is_refused():
    query, key, tokens = draw(40, 300, 64, 32)
    for wrong in (
        (query[..., :32], key, tokens),
        (query, key[:, :, :9], tokens),
        (query, key, tokens, torch.ones(1, 9)),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            averages(*wrong)
    with pytest.raises(ValueError, match="do not fit"):
        turned(query, torch.ones(39, 32, 2))


def test_keys_that_do_not_count_may_hold_anything():
    query, key, tokens = draw(40, 500, 64, 32)
    memory_mask = torch.arange(500) % 256 < 40
    expected = averages(query, key[:, :, memory_mask], tokens[:, :, memory_mask])
    key[:, :, ~memory_mask], tokens[:, :, ~memory_mask] = torch.nan, torch.inf
    assert torch.equal(averages(query, key, tokens, memory_mask[None]), expected)


def test_scores_beyond_what_exponentials_hold():
    query, key, tokens = draw(50, 600, 64, 32)
    query = query * 1000
    found = averages(query, key, tokens)
    torch.testing.assert_close(found, exact(query, key, tokens).bfloat16(), rtol=0.02, atol=0.02)
    falling = averages(-query.abs(), torch.arange(600.0).bfloat16()[None, None, :, None].expand(1, 1, 600, 64), tokens)
    torch.testing.assert_close(falling, tokens[:, :, :1].expand_as(falling))  # scores far below 0 all but the first


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("batches", [(1, 1, 1), (1, 3, 3), (3, 3, 3), (3, 1, 1), (3, 3, 1)], ids=str)
@pytest.mark.parametrize("masks", [0, 1, 3])
@pytest.mark.parametrize("own", [False, True], ids=["shared tokens", "tokens of each head"])
def test_rows_and_heads(batches, heads, masks, own):
    masks = min(masks, max(batches))
    query, key, tokens = draw(20, 90, 32, 32, batches, heads)
    if own:
        tokens = torch.cat([tokens, tokens.roll(1, 2)], dim=3).unflatten(3, (2, 32)).transpose(2, 3)[:, 0, :heads]
    memory_mask = torch.rand(masks, 90, generator=torch.Generator().manual_seed(2)) < 0.5 if masks else None
    query = query.transpose(1, 2).contiguous().transpose(1, 2)  # as split heads lie
    found = averages(query, key, tokens, memory_mask)
    torch.testing.assert_close(found.double(), exact(query, key, tokens, memory_mask), rtol=0.01, atol=0.005)
    portable = average_tokens.portable(query, key, tokens, memory_mask)
    torch.testing.assert_close(found, portable, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 300, 256), (2, 4, 40, 24), (3, 600, 64)], ids=str)
@pytest.mark.parametrize("layout", ["plain", "split heads", "every other"])
def test_turned_pairs_are_those_of_rope_but_for_rounding(shape, layout, threads):
    tokens = torch.randn(shape, generator=torch.Generator().manual_seed(0)).bfloat16()
    if layout == "split heads":
        tokens = tokens.transpose(-2, -3).contiguous().transpose(-2, -3)
    if layout == "every other":
        tokens = tokens.repeat_interleave(2, dim=-1)[..., ::2]
    rotary = rope.sequence((((2, 10), 20), (None, shape[-2] - 20)), shape[-1], 10000.0, "cpu")
    found = turned(tokens, rotary)
    expected = rope.rotary_complex(tokens.double(), rotary.double())
    assert found.dtype == torch.bfloat16 and found.shape == tokens.shape
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6)  # half a unit of the last place
