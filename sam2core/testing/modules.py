"""The contracts of the parts that are modules: backbone, neck, mask decoder, memory encoder, memory attention."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from registry.assemble import init_empty_weights
from registry.kinds import KINDS
from sam2core.heads.select import Stability
from sam2core.model import finer_features
from sam2core.protocols import MakesStrides
from sam2core.testing.isolation import tiny_model
from sam2core.testing.rules import GIVEN, Examination, Found
from sam2core.testing.values import cast, changed, has_shape, same, tensors
from sam2core.types import DecoderOutput, Label, Prompt, TokenBlock

BATCH = 2
LATENTS, POINTERS = 3, 2
STRIDES = (4, 8, 16)  # of a neck's maps


@dataclass(frozen=True)
class Trial:
    """How a kind is tried: inputs for a batch of two, the call, and what the output's shapes must be.

    A tensor in `inputs` with two rows has one for each row of the batch; others are shared.
    """

    inputs: Any
    call: Callable[[Any, Any], Any]
    shapes: Callable[[Any, Any, int], None]  # part, output, batch


def examine_module(
    examination: Examination, kind: str, part: Any, given: Mapping[str, Any], size: tuple[int, int]
) -> None:
    """Raise ContractError at the first rule of the kind that the part breaks."""
    with examination.rule("protocol", f"a torch.nn.Module that is a {KINDS[kind].protocol.partition(':')[2]}"):
        if not isinstance(part, nn.Module):
            raise Found(f"a {type(part).__name__}, which is no torch.nn.Module")
        module, _, name = KINDS[kind].protocol.partition(":")
        protocol = getattr(importlib.import_module(module), name)
        if not isinstance(part, protocol):
            wanted = {*getattr(protocol, "__annotations__", {}), *(n for n in vars(protocol) if not n.startswith("_"))}
            raise Found(f"it lacks {', '.join(sorted(name for name in wanted if not hasattr(part, name)))}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        trial = _TRIALS[kind](part, given, size)
        if any(parameter.is_meta for parameter in part.parameters()):
            _shapes_alone(examination, part, trial)
            return
        part = copy.deepcopy(part).float()  # the caller's stays as it is
        _registered(examination, part)
        _shapes(examination, part, trial)
        _deterministic(examination, part, trial)
        _independent(examination, part, trial)
        _gradients(examination, part, trial)
        _types(examination, part, trial)
        _devices(examination, part, trial)
        _reloads(examination, part, trial)
        for further in _FURTHER.get(kind, ()):
            further(examination, part, trial)
        _in_a_model(examination, kind, part, given, size)


# rules that hold for all


def _registered(examination: Examination, part: nn.Module) -> None:
    wants = "every weight is a parameter and every other lasting tensor a persistent buffer, so that it is saved, moved"
    with examination.rule("state dict", f"{wants} and filled; what can be computed is computed on first use"):
        saved = part.state_dict().keys()
        for name, _ in part.named_buffers():
            if name not in saved:
                raise Found(f"the buffer {name!r} is not in the state dict (persistent=False)")
        for path, module in part.named_modules():
            for name, value in vars(module).items():
                where = f"{path}.{name}".lstrip(".")
                if name.startswith("_") and name in _OF_TORCH:
                    continue
                if isinstance(value, Tensor):
                    raise Found(f"{where!r} is a plain tensor: a parameter, a buffer, or made on first use")
                items = value.values() if isinstance(value, dict) else value
                if isinstance(items, list | tuple | set) or isinstance(value, dict):
                    if any(isinstance(item, nn.Module | nn.Parameter) for item in items):
                        raise Found(f"{where!r} holds modules or parameters in a plain {type(value).__name__}")


_OF_TORCH = frozenset(vars(nn.Module()))


def _shapes_alone(examination: Examination, part: nn.Module, trial: Trial) -> None:
    with examination.rule("shapes", "the shapes that the protocol writes, without storage too"), init_empty_weights():
        inputs = _moved(trial.inputs, "meta")
        trial.shapes(part, trial.call(part, inputs), BATCH)


def _run(part: nn.Module, trial: Trial, inputs: Any) -> Any:
    with torch.no_grad():
        return trial.call(part.eval(), inputs)


def _shapes(examination: Examination, part: nn.Module, trial: Trial) -> None:
    with examination.rule("shapes", "the shapes that the protocol writes, for batches of one and of several"):
        trial.shapes(part, _run(part, trial, trial.inputs), BATCH)
        trial.shapes(part, _run(part, trial, _rows(trial.inputs, 0)), 1)


def _deterministic(examination: Examination, part: nn.Module, trial: Trial) -> None:
    with examination.rule("determinism", "in evaluation mode, under no_grad, equal inputs give equal outputs"):
        same(
            _run(part, trial, trial.inputs),
            _run(part, trial, trial.inputs),
            "differs between two equal calls: dropout that ignores eval(), or something kept between calls",
            within=1e-6,
        )
    with examination.rule("inputs", "inputs are read, never written"):
        given = changed(trial.inputs, torch.clone)
        _run(part, trial, given)
        same(given, trial.inputs, "of the inputs was changed in place", within=0.0)


def _independent(examination: Examination, part: nn.Module, trial: Trial) -> None:
    wants = "what is computed for one row of a batch depends on that row (image, prompt or object) alone"
    with examination.rule("batch independence", wants):
        whole = _run(part, trial, trial.inputs)
        other = _run(part, trial, changed(trial.inputs, _with_another_second_row))
        rows = slice(0, 1)
        same(whole, other, "of row 0 changes when row 1 of the inputs does", rows=rows)
        for row in range(BATCH):
            alone = _run(part, trial, _rows(trial.inputs, row))
            together = _rows(whole, row)
            same(alone, together, f"of row {row} is another when the row is computed alone", within=1e-3)


def _with_another_second_row(x: Tensor) -> Tensor:
    if x.shape[:1] != (BATCH,) or not x.is_floating_point():
        return x
    return torch.cat([x[:1], x[1:].flip(-1) * -1.5 + 0.3])


def _moved(inputs: Any, device: str) -> Any:
    return changed(inputs, lambda x: x.to(device))


def _rows(inputs: Any, row: int) -> Any:
    return changed(inputs, lambda x: x[row : row + 1] if x.shape[:1] == (BATCH,) else x)


def _gradients(examination: Examination, part: nn.Module, trial: Trial) -> None:
    part = copy.deepcopy(part)
    wants = "in training mode a loss on the outputs reaches every parameter that asks for a gradient, and the inputs"
    with examination.rule("gradients", wants), torch.enable_grad():
        inputs = changed(trial.inputs, lambda x: x.clone().requires_grad_() if x.is_floating_point() else x)
        outputs = [x for _, x in tensors(trial.call(part.train(), inputs)) if x.is_floating_point()]
        loss = sum((x * torch.randn_like(x)).sum() for x in outputs)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise Found("the outputs are cut off from the parameters: detach(), no_grad() or numbers made with item()")
        loss.backward()
        trained = [(name, p) for name, p in part.named_parameters() if p.requires_grad]
        if missing := [name for name, p in trained if p.grad is None]:
            raise Found(f"no gradient for {_some(missing)}; what takes no part in the output has requires_grad=False")
        if broken := [name for name, p in trained if not p.grad.isfinite().all()]:
            raise Found(f"gradients of {_some(broken)} are not finite")
        if trained and not any(p.grad.any() for _, p in trained):
            raise Found("all gradients are zero")
        first = next(x for _, x in tensors(inputs) if x.is_floating_point())
        if first.grad is None or not first.grad.any():
            raise Found("no gradient reaches the first input")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _types(examination: Examination, part: nn.Module, trial: Trial) -> None:
    exact = _run(part, trial, trial.inputs)
    for device, dtype in _PLACES:
        wants = (
            f"with weights and inputs in {str(dtype).removeprefix('torch.')}, without autocast, outputs of that type"
        )
        with examination.rule("dtypes", f"{wants} close to the fp32 ones"):
            other = copy.deepcopy(part).to(device, dtype)
            outputs = _run(other, trial, _moved(cast(trial.inputs, dtype), device))
            for (name, x), (_, reference) in zip(tensors(outputs), tensors(exact), strict=True):
                if x.is_floating_point() and x.dtype != dtype:
                    raise Found(f"{name} is {str(x.dtype).removeprefix('torch.')}")
                if x.device.type != device:
                    raise Found(f"{name} is on {x.device}, the part and its inputs on {device}")
                if not x.isfinite().all():
                    raise Found(f"{name} is not finite")
                gap = (x.cpu().float() - reference.float()).abs().mean() / (reference.float().abs().mean() + 1e-6)
                if x.is_floating_point() and gap > (0.15 if dtype is not torch.float32 else 0.01):
                    raise Found(f"{name} is off by {gap:.2g} of its mean size")


def _places() -> list[tuple[str, torch.dtype]]:
    places = [("cpu", torch.bfloat16)]
    for device, here in (("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available())):
        if here:
            places += [(device, torch.float32), (device, torch.bfloat16), (device, torch.float16)]
    return places


_PLACES = _places()


def _devices(examination: Examination, part: nn.Module, trial: Trial) -> None:
    """Where no accelerator is, the meta device stands in for one: what it cannot do beside that is no fault."""
    with examination.rule("devices", "tensors are made where the inputs are"), torch.no_grad():
        try:
            output = trial.call(copy.deepcopy(part).to("meta").eval(), _moved(trial.inputs, "meta"))
        except RuntimeError as error:
            if "device" not in str(error):
                return
            raise
        for name, x in tensors(output):
            if not x.is_meta:
                raise Found(f"{name} is on {x.device}, whatever the inputs are on")


def _reloads(examination: Examination, part: nn.Module, trial: Trial) -> None:
    with examination.rule("state dict", "a part filled with another's state dict gives the other's outputs"):
        other = copy.deepcopy(part)
        with torch.no_grad():
            for tensor in (*other.parameters(), *other.buffers()):
                if tensor.is_floating_point():
                    tensor.add_(torch.randn_like(tensor))
        other.load_state_dict(part.state_dict(), strict=True)
        same(_run(other, trial, trial.inputs), _run(part, trial, trial.inputs), "differs after loading")


def _in_a_model(
    examination: Examination, kind: str, part: nn.Module, given: Mapping[str, Any], size: tuple[int, int]
) -> None:
    """The whole model with this part in its place: every verb runs, and its tensors are saved under the kind's name."""
    widths = {key: given[key] for key in ("dim", "memory_dim") if key in given}
    strides = part.strides if kind == "backbone" else _made(part, given.get("strides", STRIDES))
    # without maps at 4 and 8 there is nothing that a decoder's high-resolution features could take
    decoder: dict[str, Any] = {} if {4, 8} <= set(strides) else {"mask_decoder": {"high_res_features": False}}
    model = tiny_model(image_size=list(size), **widths, **decoder)
    if kind == "backbone":
        from sam2core.backbones.fpn import Fpn

        model.neck = Fpn(part.channels, part.strides, GIVEN["neck"]["dim"])
    elif kind == "neck":
        model.backbone = _Pyramid(given["channels"], given["strides"])
    setattr(model, kind, part)
    model.eval()
    with examination.rule("state dict", f"in a model, its tensors are saved under '{kind}.'"):
        inside = {name.removeprefix(f"{kind}.") for name in model.state_dict() if name.startswith(f"{kind}.")}
        if inside != set(part.state_dict()):
            raise Found(f"{_some(sorted(inside ^ set(part.state_dict())))} is saved elsewhere, or not at all")
    with examination.rule("in a model", "encode, segment, memorize and condition work with it"), torch.no_grad():
        features = model.encode(torch.randn(1, 3, *size))
        prompt = Prompt(torch.tensor([[[9.0, 9.0]]]), torch.ones(1, 1, dtype=torch.int32))
        offered = model.segment(features, model.condition(features, None), prompt, multimask_output=True)
        has_shape("the masks", offered.logits, (1, 3, size[0] // 4, size[1] // 4))
        bank, policy = _bank(), model.memory_policy
        answer = offered.take(policy.choose(offered, policy.start()))
        bank.put(model.memorize(features, answer, frame=0, hard=True), _prompted())
        recall = policy.recall(bank, 1, backwards=False, length=None, state=policy.start())
        tracked = model.segment(features, model.condition(features, recall), Prompt.nothing(1), multimask_output=False)
        has_shape("a tracked mask", tracked.logits, (1, 1, size[0] // 4, size[1] // 4))
    from sam2core.testing.training import examine_training

    examine_training(examination, kind, model, size)


def _bank() -> Any:
    from sam2core.memory.bank import MemoryBank

    return MemoryBank()


def _prompted() -> Any:
    from sam2core.types import Keep

    return Keep.PROMPTED


class _Pyramid(nn.Module):
    """A backbone of one convolution a level."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.strides = channels, strides
        self.levels = nn.ModuleList(nn.Conv2d(3, c, kernel_size=s, stride=s) for c, s in zip(channels, strides))

    def forward(self, image: Tensor) -> list[Tensor]:
        return [level(image) for level in self.levels]


# the kinds


def _maps(channels: Sequence[int], strides: Sequence[int], size: tuple[int, int]) -> list[Tensor]:
    return [torch.randn(BATCH, c, size[0] // s, size[1] // s) for c, s in zip(channels, strides, strict=True)]


def _backbone(part: Any, given: Mapping[str, Any], size: tuple[int, int]) -> Trial:
    def shapes(part: Any, maps: Any, batch: int) -> None:
        strides, channels = tuple(part.strides), tuple(part.channels)
        if len(strides) != len(channels) or list(strides) != sorted(strides):
            raise Found(f"channels {channels} and strides {strides} are not one of each per map, finest first")
        if 16 not in strides:
            raise Found(f"strides are {strides}; prompts and memories work on the map at 16")
        if not isinstance(maps, list | tuple) or len(maps) != len(strides):
            raise Found(f"{_count(maps)} for {len(strides)} strides")
        for x, c, s in zip(maps, channels, strides):
            has_shape(f"the map at stride {s}", x, (batch, c, size[0] // s, size[1] // s))

    return Trial((torch.randn(BATCH, 3, *size),), lambda part, inputs: part(*inputs), shapes)


def _neck(part: Any, given: Mapping[str, Any], size: tuple[int, int]) -> Trial:
    wanted = _made(part, given["strides"])

    def shapes(part: Any, maps: Any, batch: int) -> None:
        if not isinstance(maps, list | tuple) or len(maps) != len(wanted):
            raise Found(f"{_count(maps)} for strides {wanted}")
        for x, s in zip(maps, wanted):
            has_shape(f"the map at stride {s}", x, (batch, given["dim"], size[0] // s, size[1] // s))

    return Trial(
        (_maps(given["channels"], given["strides"], size),), lambda part, inputs: part(list(inputs[0])), shapes
    )


def _made(part: Any, strides: Sequence[int]) -> list[int]:
    """The strides of the maps behind a neck: those it says that it makes, or those of 4, 8, 16 that it is given."""
    return list(part.made_strides) if isinstance(part, MakesStrides) else [s for s in STRIDES if s in strides]


def _count(maps: Any) -> str:
    return f"{len(maps)} maps" if isinstance(maps, list | tuple) else f"a {type(maps).__name__}"


def _mask_decoder(part: Any, given: Mapping[str, Any], size: tuple[int, int]) -> Trial:
    dim, h, w = given["dim"], size[0] // 16, size[1] // 16
    inputs = (
        torch.randn(BATCH, dim, h, w),
        torch.randn(1, dim, h, w),
        torch.randn(BATCH, 3, dim),
        torch.randn(1, dim, 1, 1),
        (*_maps((dim,) * 3, STRIDES, size), torch.randn(BATCH, 3, *size)),
    )
    return Trial(inputs, _decode, lambda part, output, batch: _decoder_shapes(output, batch, dim, h, w))


def _decode(part: Any, inputs: Any, token_mask: Tensor | None = None) -> Any:
    embedding, position, sparse, dense, (*maps, pixels) = inputs
    high_res_features = finer_features(part, maps, pixels)
    if not isinstance(high_res_features, tuple):
        raise Found(f"high_res_features gives a {type(high_res_features).__name__}, not a tuple")
    if token_mask is None:
        return part(embedding, position, sparse, dense, high_res_features)
    return part(embedding, position, sparse, dense, high_res_features, token_mask)


def _decoder_shapes(output: Any, batch: int, dim: int, h: int, w: int) -> None:
    if not isinstance(output, DecoderOutput):
        raise Found(f"a {type(output).__name__}, not a DecoderOutput")
    has_shape("masks", output.masks, (batch, 4, 4 * h, 4 * w))
    has_shape("iou", output.iou, (batch, 4))
    has_shape("tokens", output.tokens, (batch, 4, dim))
    has_shape("object_score", output.object_score, (batch, 1))
    if not output.iou.is_meta and not bool(((output.iou >= 0) & (output.iou <= 1)).all()):
        raise Found(f"iou reaches from {output.iou.min():.3g} to {output.iou.max():.3g}; it is in [0, 1]")


def _memory_encoder(part: Any, given: Mapping[str, Any], size: tuple[int, int]) -> Trial:
    dim, h, w = given["dim"], size[0] // 16, size[1] // 16
    inputs = (torch.randn(BATCH, dim, h, w), torch.rand(BATCH, 1, *size), torch.tensor([[3.0], [-3.0]]))
    return Trial(
        inputs,
        lambda part, inputs: part(*inputs),
        lambda part, blocks, batch: _block_shapes(blocks, batch, given["memory_dim"]),
    )


def _block_shapes(blocks: Any, batch: int, width: int) -> None:
    if not isinstance(blocks, tuple) or not blocks or not all(isinstance(block, TokenBlock) for block in blocks):
        raise Found(f"a {type(blocks).__name__}, not a tuple of TokenBlocks")
    for index, block in enumerate(blocks):
        if block.tokens.ndim != 3:
            raise Found(f"the tokens of block {index} are {tuple(block.tokens.shape)}, not (B, N, {width})")
        count = block.tokens.shape[1]
        has_shape(f"the tokens of block {index}", block.tokens, (batch, count, width))
        rows = block.position.shape[0] if block.position.shape[0] == 1 else batch
        has_shape(f"the position of block {index}", block.position, (rows, count, width))
        if block.grid is not None and block.grid[0] * block.grid[1] != count:
            raise Found(f"block {index} has {count} tokens on a grid of {block.grid}")


def _memory_attention(part: Any, given: Mapping[str, Any], size: tuple[int, int]) -> Trial:
    dim, width, h, w = given["dim"], given["memory_dim"], size[0] // 16, size[1] // 16

    def block(count: int, grid: tuple[int, int] | None, rows: int = BATCH) -> TokenBlock:
        return TokenBlock(torch.randn(BATCH, count, width), torch.randn(rows, count, width), grid)

    blocks = [block(h * w, (h, w), 1), block(h * w, (h, w)), block(LATENTS, None), block(POINTERS * dim // width, None)]
    inputs = (torch.randn(BATCH, dim, h, w), torch.randn(1, dim, h, w), blocks)
    return Trial(
        inputs,
        lambda part, inputs: part(*inputs),
        lambda part, output, batch: has_shape("the features", output, (batch, dim, h, w)),
    )


def _prompt_encoder(part: Any, given: Mapping[str, Any], size: tuple[int, int]) -> Trial:
    dim, h, w = given["dim"], size[0] // 16, size[1] // 16
    labels = torch.tensor([[1, 0], [2, 3]], dtype=torch.int32).repeat(1, 2)
    places = torch.stack([torch.randint(0, side, (BATCH, 4)) for side in (size[1], size[0])], dim=2).int()
    inputs = (torch.randn(BATCH, 1, size[0] // 4, size[1] // 4), places, labels, torch.tensor([True, False]))

    def call(part: Any, inputs: Any) -> Any:
        mask, places, labels, has = inputs
        sparse, dense, token_mask = part(Prompt(places.float(), labels, mask_input=mask, has_mask_input=has))
        if token_mask is not None:
            raise Found("a mask of tokens for a prompt that is not ragged; None is wanted")
        return sparse, dense, part.position((h, w)).expand(len(labels), -1, -1, -1)

    def shapes(part: Any, output: Any, batch: int) -> None:
        sparse, dense, position = output
        has_shape("the tokens", sparse, (batch, sparse.shape[1], dim))
        has_shape("the map", dense, (batch, dim, h, w))
        has_shape("the position", position, (batch, dim, h, w))

    return Trial(inputs, call, shapes)


_TRIALS: dict[str, Callable[[Any, Mapping[str, Any], tuple[int, int]], Trial]] = {
    "backbone": _backbone,
    "neck": _neck,
    "prompt_encoder": _prompt_encoder,
    "mask_decoder": _mask_decoder,
    "memory_encoder": _memory_encoder,
    "memory_attention": _memory_attention,
}


# rules of one kind


def _shared_image(examination: Examination, part: nn.Module, trial: Trial) -> None:
    """One image for all objects gives what the image repeated for each gives."""

    def image(change: Callable[[Tensor], Tensor]) -> Any:
        first, *rest = trial.inputs
        if examination.kind == "mask_decoder":
            rest[-1] = changed(rest[-1], change)  # the maps and pixels behind its high-resolution features
        return (change(first), *rest)

    with examination.rule("a shared image", "features of one row serve every object: B rows come out, as if repeated"):
        shared = _run(part, trial, image(lambda x: x[:1]))
        trial.shapes(part, shared, BATCH)
        repeated = _run(part, trial, image(lambda x: x[:1].expand(BATCH, *x.shape[1:])))
        same(shared, repeated, "is another than with the image repeated", within=1e-3)


def _prompts(examination: Examination, part: Any, trial: Trial) -> None:
    if part.stability is not None and not isinstance(part.stability, Stability):
        with examination.rule("stability", "None, or a sam2core.heads.select.Stability"):
            raise Found(f"a {type(part.stability).__name__}")
    with examination.rule("no prompt tokens", "P may be 0"):
        embedding, position, sparse, dense, maps = trial.inputs
        trial.shapes(part, _run(part, trial, (embedding, position, sparse[:, :0], dense, maps)), BATCH)
    wants = "prompt tokens that `token_mask` does not mean change nothing; without counts, all are meant"
    with examination.rule("token_mask", wants), torch.no_grad():
        plain = _decode(part, trial.inputs)
        meant = torch.ones(BATCH, sparse.shape[1], dtype=torch.bool)
        same(_decode(part, trial.inputs, meant), plain, "differs when all tokens are counted", within=1e-3)
        filled = (embedding, position, torch.cat([sparse, 9 * torch.randn_like(sparse)], dim=1), dense, maps)
        token_mask = torch.cat([meant, ~meant], dim=1)
        same(_decode(part, filled, token_mask), plain, "changes with tokens that are not counted", within=1e-3)


def _ragged_prompts(examination: Examination, part: Any, trial: Trial) -> None:
    _, places, labels, _ = trial.inputs
    points, part = places.float(), part.eval()
    with examination.rule("mask_input_size", "a quarter of `image_size`, which may be set anew"):
        if tuple(part.mask_input_size) != (part.image_size[0] // 4, part.image_size[1] // 4):
            raise Found(f"{part.mask_input_size} for images of {part.image_size}")
    with examination.rule("no mask", "the map is (1, C, 1, 1) where it is the same for all prompts"), torch.no_grad():
        _, dense, _ = part(Prompt(points, labels))
        if dense.shape[0] not in (1, BATCH) or dense.shape[0] == 1 and tuple(dense.shape[2:]) != (1, 1):
            raise Found(f"a map of {tuple(dense.shape)}")
    wants = "points of Label.IGNORED become no token: those that are meant are as without them, and marked"
    with examination.rule("ragged prompts", wants), torch.no_grad():
        exact, _, _ = part(Prompt(points, labels))
        ignored = torch.full_like(labels, int(Label.IGNORED))
        filled = Prompt(torch.cat([points, points], 1), torch.cat([labels, ignored], 1), ragged=True)
        tokens, _, meant = part(filled)
        if meant is None or meant.dtype != torch.bool or meant.shape != tokens.shape[:2]:
            raise Found("no booleans (B, P') that mark the tokens that are meant")
        kept = torch.stack([row[flags] for row, flags in zip(tokens, meant, strict=True)])
        same(kept, exact, "is another with ignored points")
    with examination.rule("no points", "a prompt may have none, with a mask input or without"), torch.no_grad():
        tokens, _, _ = part(Prompt(points[:, :0], labels[:, :0]))
        has_shape("the tokens", tokens, (BATCH, tokens.shape[1], exact.shape[2]))


def _masks_matter(examination: Examination, part: Any, trial: Trial) -> None:
    features, mask, object_score = trial.inputs
    with examination.rule("what is remembered", "the tokens tell of the mask and of the features"):
        plain = _run(part, trial, trial.inputs)
        for name, other in (
            ("mask", (features, 1 - mask, object_score)),
            ("features", (-features, mask, object_score)),
        ):
            if all(torch.equal(a, b) for (_, a), (_, b) in zip(tensors(plain), tensors(_run(part, trial, other)))):
                raise Found(f"the tokens are the same for another {name}")
    with examination.rule("dtypes", "mask probabilities may be fp32 while weights and features are bfloat16"):
        low = copy.deepcopy(part).to(torch.bfloat16)
        blocks = _run(low, trial, (features.bfloat16(), mask, object_score.bfloat16()))
        for name, x in tensors(blocks):
            if x.is_floating_point() and x.dtype != torch.bfloat16:
                raise Found(f"{name} is {x.dtype}")


def _memories(examination: Examination, part: Any, trial: Trial) -> None:
    features, position, blocks = trial.inputs
    with examination.rule(
        "memories", "every block is read, whether it lies on a grid or not, and any number of blocks"
    ):
        whole = _run(part, trial, trial.inputs)
        for index in range(len(blocks)):
            others = [*blocks[:index], replace(blocks[index], tokens=-blocks[index].tokens), *blocks[index + 1 :]]
            if torch.equal(whole, _run(part, trial, (features, position, others))):
                raise Found(f"block {index} of {len(blocks)} (grid {blocks[index].grid}) changes nothing")
        for some in ([blocks[0]], blocks[:2], [blocks[3]]):
            trial.shapes(part, _run(part, trial, (features, position, some)), BATCH)
    wants = "`memory_mask` (1, N) marks the tokens that count; what is filled in beside them changes nothing"
    with examination.rule("memory_mask", wants), torch.no_grad():
        empty = TokenBlock(torch.zeros_like(blocks[0].tokens), torch.zeros_like(blocks[0].tokens), blocks[0].grid)
        filled = [*blocks[:2], empty, *blocks[2:]]
        flags = [torch.full((1, block.tokens.shape[1]), block is not empty) for block in filled]
        output = part.eval()(features, position, filled, torch.cat(flags, dim=1))
        same(output, whole, "changes with tokens that are not readable", within=1e-3)


_FURTHER: dict[str, Sequence[Callable[[Examination, Any, Trial], None]]] = {
    "prompt_encoder": (_ragged_prompts,),
    "mask_decoder": (_shared_image, _prompts),
    "memory_encoder": (_shared_image, _masks_matter),
    "memory_attention": (_shared_image, _memories),
}
