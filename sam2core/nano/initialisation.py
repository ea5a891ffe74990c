"""Fresh weights with which a decoder already looks where the user clicked.

From a default initialisation a mask decoder needs very many steps before its tokens attend to the clicked place. But
the random Fourier code of a click and the code of the same place on the image are nearly equal, and unrelated for
distant places: a query and key projection that are *the same* semi-orthogonal matrix keep that kernel, and a value and
output projection that are each other's transpose copy what is found there. Started like this, a mask token holds the
image content under the click at step 0, and a short run on a CPU learns to segment.

`Localised` does this before there are any features, and again for a trunk that has learned some, whose content would
drown the position code: it lets attention match in the directions in which the content is quiet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sam2core.backbones.fpn import Fpn
from sam2core.heads.mask_decoder import SamMaskDecoder
from sam2core.heads.prompt_encoder import PromptEncoder
from sam2core.ops.attention import Attention


class Localised:
    """Starting weights for models of SAM's prompt encoder and mask decoder, whose attention begins at the click.

    Options: `content` is the norm of the image embedding, which has to stay below that of the position code for the
    match to show. A neck other than `Fpn` keeps its weights, and so does a model with other heads.
    """

    def __init__(self, *, content: float = 3.0) -> None:
        self.content = content

    def __call__(self, model: nn.Module) -> None:
        if _has_sams_heads(model):
            init_localised(model, content=self.content)

    def again(self, model: nn.Module, embedding: Tensor) -> None:
        """See `init_localised_for`."""
        if _has_sams_heads(model):
            init_localised_for(model, embedding)


def _has_sams_heads(model: nn.Module) -> bool:
    return isinstance(model.mask_decoder, SamMaskDecoder) and isinstance(model.prompt_encoder, PromptEncoder)


@torch.no_grad()
def init_localised(model: nn.Module, *, content: float = 3.0) -> None:
    """Initialise a Sam2's neck, prompt encoder and mask decoder in place so that attention starts at the clicked cell.

    content: norm of the image embedding, which has to stay below that of the position code for the match to show.
    """
    decoder, encoder = model.mask_decoder, model.prompt_encoder
    dim = decoder.mask_tokens.embedding_dim
    laterals = list(model.neck.lateral) if isinstance(model.neck, Fpn) else []
    for lateral in laterals:
        nn.init.trunc_normal_(lateral.weight, std=lateral.in_channels**-0.5)
        nn.init.zeros_(lateral.bias)
    for lateral in laterals[-2:]:
        lateral.weight.mul_(content * dim**-0.5)
    for embedding in (*encoder.label_embed, encoder.padding_embed, encoder.no_mask):
        nn.init.trunc_normal_(embedding.weight, std=0.02)
    encoder.mask_stem[-1].weight.mul_(0.1)
    for tokens in (decoder.iou_token, decoder.mask_tokens, decoder.presence_token):
        nn.init.trunc_normal_(tokens.weight, std=0.1)

    transformer = decoder.transformer
    for layer in transformer.layers:
        _copying(layer.self_attn, match=2.0, norm=(dim / 2) ** 0.5, gain=1.0 if layer.first else 0.1)
        _copying(layer.token_to_image, match=9.0, norm=dim**0.5, gain=2.0)
        _copying(layer.image_to_token, match=2.0, norm=dim**0.5, gain=0.03)
        layer.mlp.layers[-1].weight.mul_(0.1)
    _copying(transformer.final_token_to_image, match=9.0, norm=dim**0.5, gain=0.5)

    for mlp in (*decoder.mask_mlps, decoder.iou_head, decoder.presence_head):
        for linear in mlp.layers:
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
        mlp.layers[-1].weight.mul_(0.3)
    for convolution in (decoder.upscale[0], decoder.upscale[3]):
        nn.init.normal_(convolution.weight, std=convolution.in_channels**-0.5)
        nn.init.zeros_(convolution.bias)
    nn.init.constant_(decoder.presence_head.layers[-1].bias, 3.0)


@torch.no_grad()
def init_localised_for(model: nn.Module, embedding: Tensor, *, match: float = 14.0, fetched: float = 3.0) -> None:
    """Let the tokens' attention to the image start at the clicked cell again, for the features of a trained trunk.

    embedding: (B, C, H, W) of some images. Content varies in few directions only; queries and keys are given the
    quiet ones, where the position code shows, and values the loud ones. match: attention logit of the clicked cell
    above distant ones. fetched: norm of what is fetched under the click, in units of the click's own code.
    """
    content = embedding + model.prompt_encoder.no_mask.weight[0].view(1, -1, 1, 1)
    content = content.permute(0, 2, 3, 1).flatten(0, 2)
    normed = nn.functional.layer_norm(content, content.shape[-1:])
    dim = content.shape[-1]
    later = dim**0.5 / (1 + fetched**2) ** 0.5  # norm of the position code in the token once content was fetched
    transformer = model.mask_decoder.transformer
    first, *others = (layer.token_to_image for layer in transformer.layers)
    gain = fetched * dim**0.5 / float(content.norm(dim=1).mean())
    _copying(first, match=match, norm=dim**0.5, gain=gain, content=content)
    for attention in (*others, transformer.final_token_to_image):
        _copying(attention, match=match, norm=later, gain=0.3, content=normed)


def _quiet_to_loud(content: Tensor, *, centred: bool) -> Tensor:
    """The principal directions (C, C) of (n, C) vectors, the quietest in the first row."""
    if centred:
        content = content - content.mean(0)
    return torch.linalg.eigh(content.T @ content / len(content)).eigenvectors.T


def _copying(attention: Attention, *, match: float, norm: float, gain: float, content: Tensor | None = None) -> None:
    """Equal query and key projections, transposed value and output projections.

    match: the logit of a code of the width's typical norm with a query of norm `norm` in the same direction.
    content: (n, C) vectors whose quiet directions are matched and whose loud ones are copied; None: any directions.
    """
    inner, dim = attention.q_proj.weight.shape
    code = (dim / 2) ** 0.5
    share = inner / attention.heads / dim  # of the product that one head sees
    scale = (match / (norm * code * share * (inner / attention.heads) ** -0.5)) ** 0.5
    matched, copied = nn.init.orthogonal_(torch.empty(inner, dim)), nn.init.orthogonal_(torch.empty(inner, dim))
    if content is not None:
        turn, other_turn = (
            nn.init.orthogonal_(torch.empty(inner, inner)),
            nn.init.orthogonal_(torch.empty(inner, inner)),
        )
        matched = turn @ _quiet_to_loud(content, centred=True)[:inner]
        copied = other_turn @ _quiet_to_loud(content, centred=False)[dim - inner :]
    attention.q_proj.weight.copy_(scale * matched)
    attention.k_proj.weight.copy_(scale * matched)
    attention.v_proj.weight.copy_(copied)
    attention.out_proj.weight.copy_(gain * copied.T)
    for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
        nn.init.zeros_(linear.bias)
