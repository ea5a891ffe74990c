"""Attention against softmax written out."""

from __future__ import annotations

import pytest
import torch

from sam2core.ops.attention import Attention, attend, average_tokens, merge_heads, split_heads


def naive(query, key, value, mask=None):
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1) @ value


def test_attend_equals_softmax_written_out():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    torch.testing.assert_close(attend(q, k, v), naive(q, k, v))


def test_attend_reads_only_what_the_mask_allows():
    q, k, v = (torch.randn(2, 3, n, 8) for n in (5, 7, 7))
    mask = torch.rand(2, 1, 5, 7) > 0.4
    mask[..., 0] = True
    torch.testing.assert_close(attend(q, k, v, mask), naive(q, k, v, mask))
    hidden = v.clone()
    hidden[0, :, 3] = 1e6
    mask[0, :, :, 3] = False
    torch.testing.assert_close(attend(q, k, hidden, mask), attend(q, k, v, mask))


def test_a_batch_of_one_is_shared_by_all_rows():
    q, k, v = torch.randn(4, 2, 5, 8), torch.randn(1, 2, 7, 8), torch.randn(1, 2, 7, 8)
    torch.testing.assert_close(attend(q, k, v), naive(q, k.expand(4, -1, -1, -1), v.expand(4, -1, -1, -1)))
    torch.testing.assert_close(attend(q[:1], k.expand(4, -1, -1, -1), v), attend(q[:1], k, v).expand(4, -1, -1, -1))


def test_heads_split_into_consecutive_channels():
    tokens = torch.arange(2 * 3 * 8.0).view(2, 3, 8)
    heads = split_heads(tokens, 4)
    assert heads.shape == (2, 4, 3, 2)
    assert torch.equal(heads[1, 2, 1], tokens[1, 1, 4:6])
    assert torch.equal(merge_heads(heads), tokens)


def test_attention_equals_torchs_multihead_attention():
    ours = Attention(16, heads=4)
    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.q_proj.weight, ours.k_proj.weight, ours.v_proj.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.q_proj.bias, ours.k_proj.bias, ours.v_proj.bias]))
        theirs.out_proj.weight.copy_(ours.out_proj.weight)
        theirs.out_proj.bias.copy_(ours.out_proj.bias)
    q, k, v = (torch.randn(2, n, 16) for n in (3, 6, 6))
    torch.testing.assert_close(ours(q, k, v), theirs(q, k, v, need_weights=False)[0])


def test_narrow_inside_and_foreign_keys_have_the_right_widths():
    layer = Attention(16, heads=2, inner=8, key_dim=6)
    assert layer(torch.randn(2, 3, 16), torch.randn(2, 5, 6), torch.randn(2, 5, 6)).shape == (2, 3, 16)
    assert layer.q_proj.weight.shape == (8, 16) and layer.v_proj.weight.shape == (8, 6)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="10.*3 heads"):
        Attention(10, heads=3)


@pytest.mark.parametrize("gradients", [False, True])
def test_numbers_as_a_mask_are_added_to_the_scores(gradients):
    query, key, value = (torch.randn(2, 2, 5, 8) for _ in range(3))
    query.requires_grad_(gradients)
    bias = torch.randn(1, 1, 1, 5)
    expected = ((query @ key.transpose(-1, -2)) * 8**-0.5 + bias).softmax(-1) @ value
    assert torch.allclose(attend(query, key, value, bias), expected, atol=1e-5)


def test_averages_of_tokens_are_softmax_written_out():
    query, key, tokens = torch.randn(2, 2, 5, 8), torch.randn(1, 2, 7, 8), torch.randn(2, 1, 7, 4)
    mask = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    wanted = naive(query, key.expand(2, -1, -1, -1), tokens.expand(-1, 2, -1, -1), mask[:, None, None])
    torch.testing.assert_close(average_tokens.portable(query, key, tokens, mask), wanted)
    torch.testing.assert_close(average_tokens(query, key, tokens, mask), wanted)
