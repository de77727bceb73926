"""What training a LoRA selection costs: parameters (exact), peak memory and relative time (estimates; no torch).

The memory estimate rests on what one small forward pass really saved for the backward pass
(:func:`advisor.probing.footprint.measure_training`); the time estimate on a count of the work, with one calibrated constant.
Both are checked against real PEFT runs in ``benchmarks/cost.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advisor.core.errors import BadInput
from advisor.core.probe import PROBE_AGAIN
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings, Selection, Target

Growth = tuple[float, float, float, float]
"""Amounts that grow with a padded batch of B rows and T tokens: (once, per B, per B·T, per B·T²)."""

LORA_BYTES = 16  # a LoRA parameter: weight, gradient and Adam's two moments, float32 (PEFT keeps adapters in it)
# Multiply-adds that take as long as moving one byte. The one calibrated constant: among 4 to 100 the value with the
# smallest largest error over the runs of benchmarks/cost.py (CPU, one thread, bfloat16: every time within 15 %). GPUs
# move bytes at a relatively higher price, and launch small kernels at a fixed one: not measured.
MACS_PER_BYTE = 16.0


@dataclass(frozen=True)
class TrainingFootprint:
    """What training on a model leaves in memory, measured with every adaptable module still plain.

    Attributes:
        weight_bytes: bytes of all parameters and buffers.
        weight_itemsize: bytes of one weight.
        autocast: whether training runs under bfloat16 autocast.
        targets: names of the adaptable modules in the order they are called.
        saved: bytes kept for the backward pass from each target's call up to the next one's (the last: up to the
            head, or to the end), aligned with ``targets``.
        spared_alone: what of that is not kept when the first adapted module is this one, and no other that reads
            the same input is adapted (taken from the last layer with its role), aligned with ``targets``.
        head_saved: bytes kept from the head's call to the end, the loss included (no head: zeros).
        head_saved_alone: the same when only the head is trained.
        inputs: which tensor each target reads (equal numbers: the same one), aligned with ``targets``.
        input_kept_by: index of the target after whose call the model keeps that tensor anyway, -1 when it does not.
        logits: elements of the model's output.
        other_macs: multiply-adds per token of the output embedding (0 for classifiers).
        measured_on: the padded batches (rows, tokens) measured.
        seen: share of those tokens that each target sees, aligned with ``targets``; empty: all. Where a source is longer
            than its target, a decoder's modules see fewer than its encoder's; a stack of experts sees a token several times.
    """

    weight_bytes: int
    weight_itemsize: int
    autocast: bool
    targets: tuple[str, ...]
    saved: tuple[Growth, ...]
    spared_alone: tuple[Growth, ...]
    head_saved: Growth
    head_saved_alone: Growth
    inputs: tuple[int, ...]
    input_kept_by: tuple[int, ...]
    logits: Growth
    other_macs: float
    measured_on: tuple[tuple[int, int], ...]
    seen: tuple[float, ...] = ()

    def share_seen(self, index: int) -> float:
        """Of the target at ``index``."""
        return self.seen[index] if self.seen else 1.0

    @property
    def lora_casts(self) -> bool:
        """Whether LoRA works on casts of its inputs: PEFT keeps A and B in float32, autocast computes in bfloat16."""
        return self.autocast or self.weight_itemsize != 4

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TrainingFootprint:
        """The inverse of ``dataclasses.asdict``, also after a trip through JSON.

        Raises:
            BadInput: fields are missing or unknown.
        """
        try:
            return cls(**{name: _tuples(value) for name, value in fields.items()})
        except TypeError as error:
            raise BadInput(f"The training footprint is garbled: {error}", PROBE_AGAIN) from error


@dataclass(frozen=True)
class Cost:
    """The cost of training one selection.

    Attributes:
        params: LoRA parameters, as PEFT counts and stores them.
        active_params: those among them that one token goes through; fewer where experts are adapted.
        params_with_head: the same plus the parameters of a head trained in full.
        memory_bytes: estimated peak memory of a training step, in bytes.
        time_vs_all_linear: estimated time of a step as a share of that of adapting every module.
    """

    params: int
    active_params: int
    params_with_head: int
    memory_bytes: int
    time_vs_all_linear: float


def estimate_cost(
    selection: Selection,
    targets: Sequence[Target],
    settings: LoraSettings,
    recipe: TrainingRecipe,
    footprint: TrainingFootprint,
    head_params: int,
    mean_tokens: float,
    max_tokens: int,
    extra_passes: int = 0,
) -> Cost:
    """The cost of training ``selection`` and the head as :func:`advisor.training.finetune.finetune` does.

    Memory is that of the largest batch there can be: ``recipe.batch_size`` rows padded to ``max_tokens``; buffers that
    live for one operation are left out, but for the loss's and the gradient of a whole stack of experts, as are allocator
    and framework overheads. Time is that of a batch of ``mean_tokens``. No modules means the head alone; without a head
    either (a causal LM) nothing is trained: the weights only, and no time.

    Args:
        head_params: parameters of the head trained in full, 0 for a causal LM.
        mean_tokens: mean tokens of a training row.
        max_tokens: tokens of the longest training row.
        extra_passes: forward passes beside each step's own, see :class:`advisor.core.tasks.Task`.
    """
    params = selection.params(targets, settings.rank)
    memory = (
        footprint.weight_bytes
        + trained_bytes(selection, targets, settings, footprint, head_params)
        + activation_bytes(selection, targets, settings, footprint, recipe.batch_size, max_tokens)
        + max(
            loss_bytes(footprint, recipe.batch_size, max_tokens) if selection.targets or head_params else 0.0,
            stack_gradient_bytes(selection, targets, footprint),
        )
    )
    everything = Selection("all-linear", tuple(t.name for t in targets))
    work, most = (
        _work(s, targets, settings, footprint, mean_tokens, recipe.batch_size, extra_passes) if s.targets or head_params else 0.0
        for s in (selection, everything)
    )
    active = selection.active_params(targets, settings.rank)
    return Cost(params, active, params + head_params, round(memory), work / most)


def trained_bytes(
    selection: Selection,
    targets: Sequence[Target],
    settings: LoraSettings,
    footprint: TrainingFootprint,
    head_params: int,
) -> float:
    """Bytes of what training adds to the weights: trained parameters, their gradients and Adam's two moments.

    LoRA: 4 × float32 = 16 bytes a parameter. Head: 4 × the weights' own size, since PEFT trains a copy and keeps
    the original, which is among the weights; trained alone, without PEFT, the head is not copied: 3 ×.
    """
    copies = 4 if selection.targets else 3
    lora = LORA_BYTES * selection.params(targets, settings.rank)
    return float(lora + copies * footprint.weight_itemsize * head_params)


def activation_bytes(
    selection: Selection,
    targets: Sequence[Target],
    settings: LoraSettings,
    footprint: TrainingFootprint,
    batch_size: int,
    tokens: int,
) -> float:
    """Bytes kept between the forward and the backward pass for ``batch_size`` rows padded to ``tokens`` tokens.

    - what the model keeps from the first adapted module's call on (nothing before it needs a gradient), less
      what only modules beside it would need (``spared_alone``), and what the head and the loss keep;
    - the input x of every adapted module, which A's gradient needs: [tokens, a] in the compute type. Where it is
      not cast, modules that read one tensor keep it once, or not at all where the model keeps it anyway; under
      autocast each keeps its own bfloat16 cast;
    - A's output, which B's gradient needs: [tokens, rank] in the compute type;
    - under autocast, the bfloat16 casts of A and B.

    Of a stack of experts PEFT makes a sum W + BA in every step, which is kept as the weights were, in bfloat16 under autocast;
    the input of each expert is a copy, and there is no output of A.
    """
    if not selection.targets:
        return amount(footprint.head_saved_alone, batch_size, tokens)
    itemsize = 2 if footprint.autocast else 4
    known = {t.name: t for t in targets}
    chosen = set(selection.targets)
    adapted = [i for i, name in enumerate(footprint.targets) if name in chosen]
    first, read = adapted[0], [footprint.inputs[i] for i in adapted]
    total = sum(amount(g, batch_size, tokens) for g in (*footprint.saved[first:], footprint.head_saved))
    if read.count(read[0]) == 1:
        total -= amount(footprint.spared_alone[first], batch_size, tokens)
    for position, index in enumerate(adapted):
        target, tokens_seen = known[footprint.targets[index]], footprint.share_seen(index) * tokens
        shared = footprint.input_kept_by[index] >= first or footprint.inputs[index] in read[:position]
        if footprint.lora_casts or target.experts or not shared:
            total += itemsize * target.in_features * batch_size * tokens_seen
        if not target.experts:
            total += itemsize * settings.rank * batch_size * tokens_seen
        elif not footprint.autocast:
            total += footprint.weight_itemsize * stack_size(target)
    return total + (itemsize * selection.params(targets, settings.rank) if footprint.autocast else 0)


def loss_bytes(footprint: TrainingFootprint, batch_size: int, tokens: int) -> float:
    """Bytes of the loss's short-lived buffers: two float32 tensors as large as the logits.

    What is kept besides (the log-softmax) is among the activations. For a large vocabulary this is much.
    """
    return 2 * 4 * amount(footprint.logits, batch_size, tokens)


def stack_size(target: Target) -> int:
    """Weights of a whole stack of experts; 0 for a module."""
    return target.experts * target.in_features * target.out_features


def stack_gradient_bytes(selection: Selection, targets: Sequence[Target], footprint: TrainingFootprint) -> float:
    """Bytes of the gradient of W + BA of the largest adapted stack of experts, which lives until it is B's and A's."""
    chosen = set(selection.targets)
    return float(footprint.weight_itemsize * max((stack_size(t) for t in targets if t.name in chosen), default=0))


def amount(growth: Growth, batch_size: float, tokens: float) -> float:
    """The value of ``growth`` for ``batch_size`` rows padded to ``tokens`` tokens."""
    once, per_row, per_token, per_pair = growth
    return once + batch_size * (per_row + tokens * (per_token + tokens * per_pair))


def _first(selection: Selection, footprint: TrainingFootprint) -> int:
    """Index, in calling order, of the first adapted module."""
    chosen = set(selection.targets)
    return next(i for i, name in enumerate(footprint.targets) if name in chosen)


def _work(
    selection: Selection,
    targets: Sequence[Target],
    settings: LoraSettings,
    footprint: TrainingFootprint,
    tokens: float,
    batch_size: int,
    extra_passes: int,
) -> float:
    """Work of one step per token, in multiply-adds.

    - forward, all modules: a·b each, the output embedding, and for everything that is not a matrix product
      ``MACS_PER_BYTE`` for each byte it keeps; the same again for each further pass;
    - backward, from the first adapted module on: the same again (frozen weights need no gradient of their own);
    - LoRA: 3·rank·(a+b) multiply-adds (forward and two gradients), and the bytes its small kernels move: x, and the
      output, twice each way;
    - LoRA of a stack of experts: the whole weight's gradient, a·b multiply-adds; and once a step, whatever the tokens, BA and
      its two gradients, 3·rank·a·b for each expert, and the stack's bytes, which are read, added, and written with its gradient.
    """
    shapes = {t.name: t for t in targets}
    forward = [
        footprint.share_seen(index) * shapes[name].in_features * shapes[name].out_features
        + MACS_PER_BYTE * (growth[2] + tokens * growth[3])
        for index, (name, growth) in enumerate(zip(footprint.targets, footprint.saved, strict=True))
    ]
    seen = {name: footprint.share_seen(index) for index, name in enumerate(footprint.targets)}
    work = (1 + extra_passes) * (sum(forward) + footprint.other_macs)
    if selection.targets:
        work += sum(forward[_first(selection, footprint) :]) + footprint.other_macs
    itemsize = 2 if footprint.autocast else 4
    for name in selection.targets:
        a, b = shapes[name].in_features, shapes[name].out_features
        if size := stack_size(shapes[name]):
            once = size * (3 * settings.rank + 4 * footprint.weight_itemsize * MACS_PER_BYTE)
            work += seen[name] * a * b + once / (batch_size * tokens)
            continue
        work += seen[name] * (3 * settings.rank * (a + b) + 4 * itemsize * MACS_PER_BYTE * (a + b))
    return work


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value
