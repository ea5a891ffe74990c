"""Multi-head attention: project, split heads, attend, merge. The one place that calls SDPA."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sam2core.ops import layers
from sam2core.ops.layers import predicts_on_cpu, product
from sam2core.ops.operator import Operator

# Scores are made a block at a time: what matrix products still run fast on and caches hold.
BLOCK = (512 if layers.WIDE else 1024, 2048)  # queries, keys
# Where products are fast, softmax in one call over whole rows is the better deal: as many queries as fit a large cache,
# but enough of them for a product. In fp32 only where so many fit.
BLOCK_BYTES, BLOCK_ROWS = 8 * 2**20, 512
# Below this many scores a head, SDPA's single call is the better deal.
BLOCK_SCORES = 2**22
# Whether this CPU has tile instructions, as torch >= 2.6 tells; asked here, for compilers cannot.
TILES = bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
# Up to this many scores in all, training on a CPU keeps them: SDPA's backward pass there takes several times as long.
KEPT_SCORES = 2**26


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Softmax attention over (B, heads, N, d) tensors; batches of one are shared by all rows.

    `mask` broadcasts to (B, heads, Nq, Nk): boolean, True where a key may be read, or numbers that scores get added.
    """
    if dropout == 0.0 and _meets_kernel(query, key, mask):
        return average_tokens(query, key, value, _readable(mask))
    if dropout == 0.0 and mask is None and _products_are_fast(query, key, value):
        if _is_long(query, key):
            return average_tokens(query, key, value)
        return _attend_windows(query, key, value)
    batch = max(query.shape[0], key.shape[0], value.shape[0])
    query, key, value = (t if t.shape[0] == batch else t.expand(batch, -1, -1, -1) for t in (query, key, value))
    if dropout == 0.0 and _keeps_scores(query, key):
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        return scores.softmax(-1).to(value.dtype) @ value
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)


def _products_are_fast(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether plain products beat SDPA for tokens that attend to each other.

    In a CPU's bfloat16 without tiles, and in fp32 where SDPA's own products are slow (`layers.WIDE`): long ones there.
    """
    if query.device.type != "cpu" or torch.is_grad_enabled():
        return False
    if query.dtype == torch.float32:  # asked before shapes are, which exported graphs leave open
        fast = _takes_onednn(query) and predicts_on_cpu(query) and _is_long(query, key)
    else:
        fast = query.dtype == torch.bfloat16 and not _sdpa_is_fast(query.dtype)
    return fast and query.shape == key.shape == value.shape


def _attend_windows(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention as two batched products; the scores of all windows are held at once."""
    batch, heads, count, dim = query.shape
    query, key, value = (tokens.reshape(-1, count, dim) for tokens in (query, key, value))
    scores = torch.baddbmm(query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=dim**-0.5)
    weights = scores.softmax(-1) if torch.compiler.is_compiling() else torch.softmax(scores, -1, out=scores)
    return torch.bmm(weights, value).view(batch, heads, count, dim)


def _keeps_scores(query: Tensor, key: Tensor) -> bool:
    """Whether to attend with plain products: where a gradient will be asked for on a CPU, and the scores fit."""
    if query.device.type != "cpu" or not query.requires_grad or torch.compiler.is_compiling():
        return False
    return torch.is_grad_enabled() and query[..., 0].numel() * key.shape[-2] <= KEPT_SCORES


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, N, C) to (B, heads, N, C / heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(tokens: Tensor) -> Tensor:
    """(B, heads, N, d) to (B, N, heads * d)."""
    return tokens.transpose(1, 2).flatten(2)


def attend_projected(
    query: Tensor,
    key: Tensor,
    tokens: Tensor,
    project: nn.Linear,
    mask: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention whose values are a linear projection of narrow tokens (B, Nk, C); gives (B, Nq, C').

    Softmax rows sum to one, so the projection can wait until the tokens have been averaged. On a CPU, where long
    attention is bound by arithmetic, that is what happens: the second product then is C wide instead of d. Equal to
    projecting first, up to rounding. Used for prediction alone; training takes SDPA, and so do other devices to which
    no kernel of `average_tokens` is attached.
    """
    heads = query.shape[1]
    if not _averages_first(query, key, project, mask) or dropout:
        return merge_heads(attend(query, key, split_heads(project(tokens), heads), mask, dropout))
    tokens = tokens.to(query.dtype)  # under autocast only what a product gave is in half precision
    means = average_tokens(query, key.to(query.dtype), tokens.unsqueeze(1), _readable(mask))
    weights = project.weight.unflatten(0, (heads, -1))  # (heads, d, C)
    merged = merge_heads(means @ weights.transpose(1, 2))
    return merged if project.bias is None else merged.add_(project.bias)


def _average(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    """Tokens (B, heads or 1, Nk, C) averaged for queries (B, heads, Nq, d), with softmax weights of keys of that width.

    Gives (B, heads, Nq, C) in the queries' type; a batch of one is shared by all rows. `memory_mask` (B, Nk) marks the
    keys that count, at least one in a row; None: all. A plugin attaches a faster kernel with
    ``average_tokens.register_kernel(device, dtype)``; all long attention then takes it, save in training.
    """
    means = _means_like(query, key, tokens, memory_mask)
    whole = query.dtype != torch.float32 or _takes_onednn(query) and key.shape[2] * BLOCK_ROWS * 4 <= BLOCK_BYTES
    mean = _mean_of_rows if whole else _mean
    scaled = query * query.shape[3] ** -0.5
    for row in range(means.shape[0]):
        for head in range(means.shape[1]):
            q, k = scaled[row % query.shape[0], head], key[row % key.shape[0], head]
            t = tokens[row % tokens.shape[0], head % tokens.shape[1]]
            if memory_mask is not None:
                counts = memory_mask[row % memory_mask.shape[0]]
                k, t = k[counts], t[counts]
            means[row, head] = mean(q, k, t)
    return means


def _means_like(query: Tensor, key: Tensor, tokens: Tensor, memory_mask: Tensor | None = None) -> Tensor:
    """Laid out so that merging heads copies nothing."""
    batch = max(query.shape[0], key.shape[0], tokens.shape[0])
    return query.new_empty(batch, query.shape[2], query.shape[1], tokens.shape[3]).transpose(1, 2)


average_tokens = Operator(
    "average_tokens(Tensor query, Tensor key, Tensor tokens, Tensor? memory_mask=None) -> Tensor", _average, _means_like
)


def _meets_kernel(query: Tensor, key: Tensor, mask: Tensor | None) -> bool:
    """Whether a kernel of `average_tokens` is attached for this attention: in prediction, long, masked by key alone."""
    if not average_tokens.attached(query) or torch.is_grad_enabled() or not _is_long(query, key):
        return False
    return mask is None or mask.dtype == torch.bool and mask.shape[1:3] == (1, 1)


def _readable(mask: Tensor | None) -> Tensor | None:
    """A mask (B, 1, 1, Nk) by key, (B, Nk)."""
    return None if mask is None else mask[:, 0, 0]


def _is_long(query: Tensor, key: Tensor) -> bool:
    return query.shape[2] * key.shape[2] >= BLOCK_SCORES


def _mean(query: Tensor, key: Tensor, tokens: Tensor) -> Tensor:
    """Tokens (Nk, C) averaged with softmax weights of each query (Nq, d), scaled already: (Nq, C).

    Scores of a block of keys are folded into running sums, rescaled when the largest score grows (Milakov and
    Gimelshein 2018, "Online normalizer calculation for softmax").
    """
    queries, keys = min(BLOCK[0], query.shape[0]), min(BLOCK[1], key.shape[0])
    buffer = query.new_empty(queries * keys)
    means = query.new_empty(query.shape[0], tokens.shape[1])
    for start in range(0, query.shape[0], queries):
        q = query[start : start + queries]
        top = q.new_full((q.shape[0], 1), -torch.inf)
        total = q.new_zeros(q.shape[0], 1)
        mean = means[start : start + queries].zero_()
        for first in range(0, key.shape[0], keys):
            k = key[first : first + keys]
            weights = _scores(q, k, buffer)
            higher = torch.maximum(top, weights.amax(dim=1, keepdim=True))
            weights.sub_(higher).exp_()
            shrink = top.sub_(higher).exp_()
            total.mul_(shrink).add_(weights.sum(dim=1, keepdim=True))
            mean.mul_(shrink)
            if _takes_onednn(query):
                mean.add_(product(weights, tokens[first : first + keys].T))
            else:
                mean.addmm_(weights, tokens[first : first + keys])
            top = higher
        mean.div_(total)
    return means


def _mean_of_rows(query: Tensor, key: Tensor, tokens: Tensor) -> Tensor:
    """`_mean`, whole rows of scores at a time."""
    block = max(BLOCK_ROWS, BLOCK_BYTES // (key.shape[0] * query.element_size()))
    buffer = query.new_empty(min(block, query.shape[0]) * key.shape[0])
    means = query.new_empty(query.shape[0], tokens.shape[1])
    for start in range(0, query.shape[0], block):
        weights = _scores(query[start : start + block], key, buffer)
        torch.softmax(weights, dim=-1, out=weights)
        if _takes_onednn(query):
            means[start : start + block] = product(weights, tokens.T)
        else:
            torch.mm(weights, tokens, out=means[start : start + block])
    return means


def _takes_onednn(query: Tensor) -> bool:
    """Whether products of these are faster by oneDNN, which writes to no buffer of the caller's."""
    return layers.WIDE and query.dtype == torch.float32


def _scores(query: Tensor, key: Tensor, buffer: Tensor) -> Tensor:
    """Queries (N, d) times keys (M, d), (N, M): in the buffer, if `torch.mm` makes them."""
    if _takes_onednn(query):
        return product(query.contiguous(), key)
    return torch.mm(query, key.T, out=buffer[: query.shape[0] * key.shape[0]].view(query.shape[0], -1))


def _averages_first(query: Tensor, key: Tensor, project: nn.Linear, mask: Tensor | None = None) -> bool:
    """Whether averaging tokens before projecting them pays, and is allowed."""
    if project.in_features >= query.shape[3] * query.shape[1]:
        return False
    if _meets_kernel(query, key, mask):
        return True
    return mask is None and predicts_on_cpu(query) and _is_long(query, key) and not _sdpa_is_fast(query.dtype)


def _sdpa_is_fast(dtype: torch.dtype) -> bool:
    """Whether SDPA on this CPU beats plain products in this type: in half precision with tile instructions (AMX)."""
    return dtype != torch.float32 and TILES


class Attention(nn.Module):
    """Attention of one token sequence to another, with an optional narrower inner width.

    Mirrors the attention of SAM's two-way transformer. Queries are `dim` wide, keys and values `key_dim`;
    inside, all are `inner` wide.
    """

    def __init__(self, dim: int, *, heads: int, inner: int | None = None, key_dim: int | None = None) -> None:
        super().__init__()
        inner = dim if inner is None else inner
        key_dim = dim if key_dim is None else key_dim
        if inner % heads:
            raise ValueError(f"attention width {inner} cannot be split into {heads} heads")
        self.heads = heads
        self.q_proj = nn.Linear(dim, inner)
        self.k_proj = nn.Linear(key_dim, inner)
        self.v_proj = nn.Linear(key_dim, inner)
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, Nq, dim), (B, Nk, key_dim) twice -> (B, Nq, dim); a batch of one is shared by all rows."""
        q = split_heads(self.q_proj(query), self.heads)
        k = split_heads(self.k_proj(key), self.heads)
        v = split_heads(self.v_proj(value), self.heads)
        return self.out_proj(merge_heads(attend(q, k, v, mask)))
