"""Our model live against transformers' ``Sam2Model`` and ``Sam2VideoModel`` with the same re-randomised tensors.

transformers' mask prompts take their object pointer from the best of three masks, Meta's and ours from the single
one, so mask prompts are compared with Meta's sam2 only (``test_stages.py``).
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

from sam2core.types import Prompt, TokenBlock
from tests.parity import answers, oracle, stages

pytest.importorskip("transformers", reason="transformers is the reference")

MODELS = [("t", 0, "2.1"), ("t", 1, "2.0"), ("b+", 2, "2.1"), ("mini", 3, "2.1")]


def compare(found, expected):
    assert oracle.error(found, expected) <= 1e-4


@lru_cache(maxsize=1)
def pair(size: str, seed: int, family: str):
    """transformers' model and ours with equal tensors, and two random images."""
    from sam2core.checkpoints.huggingface import HUGGINGFACE, HUGGINGFACE_IMAGE

    shape = oracle.SHAPES[size].at(family=family)
    ours = oracle.randomise(oracle.ours(shape), seed)
    with torch.no_grad():
        ours.mask_decoder.presence_head.layers[-1].weight.mul_(0.05)
        ours.mask_decoder.presence_head.layers[-1].bias.fill_(5.0)
    video = shape.memory_dim == 64  # transformers fixes that width in its memory attention
    theirs = oracle.transformers_model(shape, video=video)
    layout = HUGGINGFACE if video else HUGGINGFACE_IMAGE
    theirs.load_state_dict(layout.inverse(ours.state_dict()), strict=True)
    pixels = torch.randn(2, 3, shape.image, shape.image, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return shape, theirs, ours, pixels, ours.encode(pixels), theirs.get_image_embeddings(pixels)


@pytest.fixture(params=MODELS, ids=[f"{size}-{family}-seed{seed}" for size, seed, family in MODELS], scope="module")
def models(request):
    return pair(*request.param)


@torch.no_grad()
def test_image_encoder(models):
    _, theirs, ours, pixels, features, embeddings = models
    hidden = theirs.vision_encoder.backbone(pixels)
    maps = hidden.intermediate_hidden_states
    for found, expected in zip(ours.backbone(pixels), maps, strict=True):
        compare(found, expected.permute(0, 3, 1, 2))
    compare(ours.condition(features, None), embeddings[2])
    compare(features.high_res_features[0], embeddings[0])
    compare(features.high_res_features[1], embeddings[1])
    position = theirs.vision_encoder(pixels).fpn_position_encoding[-1]
    compare(features.position, position[:1])


@pytest.mark.parametrize("name", ["tracking", "one", "two", "five", "box", "box_and_point"])
@torch.no_grad()
def test_prompts_and_decoder(models, name):
    shape, theirs, ours, _, features, embeddings = models
    video = shape.memory_dim == 64
    batch = 1 if video else 2  # transformers' video model decodes one image at a time
    features = features.rows(torch.arange(batch))
    embeddings = [embedding[:batch] for embedding in embeddings]
    points = stages.prompt_tensors(name, shape.image, batch=batch)
    given = {}
    if points is not None:
        coordinates, labels = points
        clicks = labels[0] < 2
        if video and clicks.any() and not clicks.all():
            clicks[:] = True  # its video model cannot take clicks and a box in one call: the box as two labelled points
        if clicks.any():
            given |= {"input_points": coordinates[:, None, clicks], "input_labels": labels[:, None, clicks]}
        if not clicks.all():
            given["input_boxes"] = coordinates[:, ~clicks].flatten(1)[:, None]
    elif video:
        given = {"input_points": torch.zeros(1, 1, 1, 2), "input_labels": -torch.ones(1, 1, 1, dtype=torch.int32)}
    embedding = ours.condition(features, None)
    for multimask_output in (True, False):
        offered = ours.segment(
            features, embedding, answers.as_prompt(points, None, batch), multimask_output=multimask_output
        )
        run = theirs._single_frame_forward if video else theirs
        output = run(image_embeddings=embeddings, multimask_output=multimask_output, **given)
        compare(offered.iou, output.iou_scores[:, 0])
        compare(offered.object_score, output.object_score_logits[:, 0])
        if video:
            best = offered.take(ours.memory_policy.choose(offered, None))
            compare(best.logits, output.pred_masks)
            compare(best.object_pointer, output.object_pointer[:, 0])
        else:
            compare(offered.logits, output.pred_masks[:, 0])


@torch.no_grad()
def test_decoder_with_a_mask_input(models):
    shape, theirs, ours, _, features, embeddings = models
    features, embeddings = features.rows(torch.arange(1)), [embedding[:1] for embedding in embeddings]
    mask_input = 3.0 * torch.randn(1, 1, shape.image // 4, shape.image // 4, generator=torch.Generator().manual_seed(4))
    coordinates, labels = stages.prompt_tensors("two", shape.image)
    run = theirs._single_frame_forward if shape.memory_dim == 64 else theirs
    given = {"input_points": coordinates[:, None], "input_labels": labels[:, None], "input_masks": mask_input}
    output = run(image_embeddings=embeddings, multimask_output=False, **given)
    offered = ours.segment(
        features, ours.condition(features, None), Prompt(coordinates, labels, mask_input), multimask_output=False
    )
    compare(offered.iou, output.iou_scores[:, 0])
    compare(offered.logits, output.pred_masks.view_as(offered.logits))


@pytest.mark.parametrize("hard", [False, True])
@torch.no_grad()
def test_memory_encoder(models, hard):
    shape, theirs, ours, _, features, _ = models
    if shape.memory_dim != 64:
        pytest.skip("transformers' image model has no memory")
    full = 4.0 * torch.randn(2, 1, shape.image, shape.image, generator=torch.Generator().manual_seed(5))
    object_score = torch.tensor([[2.0], [-2.0]])
    found = answers.memory_encoder(ours, features.embedding, full, object_score, hard)
    current = features.embedding.flatten(2).permute(2, 0, 1)
    tokens, position = theirs._encode_new_memory(current, full, object_score[..., None], is_mask_from_pts=hard)
    # transformers' occlusion embedding expects one object: it adds along another axis for two, so only the present row
    rows = slice(0, 1) if theirs.occlusion_spatial_embedding_parameter is not None else slice(0, 2)
    error = oracle.error(found["tokens"][rows], tokens.transpose(0, 1)[rows])
    assert error <= 2**-8, "beyond the rounding to bfloat16 that transformers stores memories in"
    compare(found["position"][:1], position.transpose(0, 1)[:1])
    mask = (full > 0).float() if hard else full.sigmoid()
    exact, _ = theirs.memory_encoder(features.embedding, mask * 20.0 - 10.0)
    compare(found["tokens"][:1], exact.flatten(2).transpose(1, 2)[:1])


@torch.no_grad()
def test_memory_attention(models):
    shape, theirs, ours, _, features, _ = models
    if shape.memory_dim != 64:
        pytest.skip("transformers' image model has no memory")
    generator = torch.Generator().manual_seed(6)
    grid = (shape.image // 16, shape.image // 16)
    cells = grid[0] * grid[1]
    tokens, position = (torch.randn(1, 3 * cells + 8, 64, generator=generator) for _ in range(2))
    starts = (0, cells, 2 * cells)
    blocks = [TokenBlock(tokens[:, s : s + cells], position[:, s : s + cells], grid) for s in starts]
    blocks.append(TokenBlock(tokens[:, 3 * cells :], position[:, 3 * cells :], None))
    found = ours.memory_attention(features.embedding[:1], features.position, blocks)
    output = theirs.memory_attention(
        current_vision_features=features.embedding[:1].flatten(2).permute(2, 0, 1),
        current_vision_position_embeddings=features.position.flatten(2).permute(2, 0, 1),
        memory=tokens.transpose(0, 1),
        memory_posision_embeddings=position.transpose(0, 1),
        num_object_pointer_tokens=8,
    )
    compare(found, output.squeeze(1).transpose(1, 2).reshape(found.shape))
