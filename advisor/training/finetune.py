"""One real LoRA fine-tune through PEFT: what predictions are made about."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from advisor.core.errors import NotFinite
from advisor.core.events import Session
from advisor.core.recipe import BY_ODDS, TrainingRecipe
from advisor.core.targets import LoraSettings, Selection
from advisor.core.tasks import AGAINST_BASE, EMBEDDING, KTO
from advisor.models.descent import descent
from advisor.models.embedding import batches_of, contrast_losses, leads
from advisor.models.encode import IGNORED, EncodedRow, collate, length_bucketed
from advisor.models.forward import aligned, batch_logits, batch_loss, kto_baseline, label_scale, losses_of, rewards
from advisor.models.load import LoadedModel
from advisor.models.peft import lora_arguments, without_bitsandbytes
from advisor.training.frozen_prefix import Forward, PrefixStates, States

with without_bitsandbytes():
    from peft import LoraConfig, PeftModel, get_peft_model

Tell = Callable[[int, int, float | None, Sequence[float]], None]
"""Told of a run: steps done and in all, the training loss of the last one, validation losses from before training on."""

EVAL_BATCH = 64


@dataclass(frozen=True)
class Epoch:
    """After one epoch: mean losses in nats (regression: share of the label variance), the metric, and ``distance``.

    The distance is ‖θ−θ0‖ over all trainable parameters, θ0 their values before training.
    """

    train_loss: float
    val_loss: float
    metric: float
    distance: float


@dataclass(frozen=True)
class RunResult:
    """A finished run. ``best`` is the epoch of lowest validation loss, counted from 1 (0: before any training)."""

    epochs: tuple[Epoch, ...]
    best: int
    lora_params: int
    wall_s: float

    @property
    def at_best(self) -> Epoch:
        return self.epochs[self.best]


def finetune(
    loaded: LoadedModel,
    selection: Selection,
    settings: LoraSettings,
    recipe: TrainingRecipe,
    train: Sequence[EncodedRow],
    evaluation: Sequence[EncodedRow],
    metric: str,
    seed: int,
    session: Session | None = None,
    inspect: Callable[[nn.Module, Mapping[str, torch.Tensor]], None] | None = None,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
    prefix: PrefixStates | None = None,
    tell: Tell | None = None,
) -> RunResult:
    """Fine-tune a copy of ``loaded`` with LoRA on ``selection`` and the head, and evaluate after every epoch.

    The recipe is :class:`TrainingRecipe`'s, with gradients clipped at norm 1. An empty selection trains the head
    alone; for a language model it evaluates the model as it is. ``seed`` draws the new head, A, dropout and row order.
    Epoch 0 in the result is the untrained model (train_loss NaN). ``inspect`` is called once, after the last epoch, with
    the trained model in eval mode and θ0, the value of each trainable parameter before training, by name. ``ranks`` and
    ``alphas`` are those of single modules, where they differ from the settings'. ``prefix`` keeps what the frozen blocks
    compute from run to run of the same model and rows; by default it is kept for this run alone. ``tell`` is called after every
    step, and after every evaluation without a training loss.

    Raises:
        BadInput: the model's weights are not all in memory.
        NotFinite: the loss became NaN or infinite.
        Interrupted: the session was cancelled.
    """
    session = session or Session()
    loaded.require_in_memory()
    start = time.monotonic()
    torch.manual_seed(seed)
    model = _adapted_copy(loaded, selection, settings, ranks, alphas)
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    initial = {name: p.detach().clone() for name, p in named.items()}
    label_mean, label_std = label_scale(train) if loaded.task == "regression" else (0.0, 1.0)

    def batch_of(rows: Sequence[EncodedRow]) -> dict[str, torch.Tensor]:
        return collate(rows, loaded, label_mean, label_std)

    prefix = prefix or PrefixStates(loaded)
    depth, forward = prefix.depth(selection) if named and recipe.epochs else 0, frozen_forward(loaded, batch_of)
    eval_states = prefix.of(depth, evaluation, forward)
    train_states = prefix.of(depth, train, forward, training=True)
    epochs = [Epoch(math.nan, *evaluate(model, loaded, evaluation, metric, batch_of, eval_states), 0.0)]
    hint = "Try --dtype float32, or check the checkpoint."
    _require_finite(epochs[0].val_loss, f"{selection.name}: the validation loss", "before any training", hint)
    step, total = 0, math.ceil(len(train) / recipe.batch_size) * recipe.epochs

    def told(loss: float | None) -> None:
        if tell is not None:
            tell(step, total, loss, [epoch.val_loss for epoch in epochs])

    told(None)
    if named:
        descend = descent(named, initial, recipe, total)
        window = {"window": 1} if loaded.task == EMBEDDING else {}  # texts of all lengths are contrasted
        lengths, rng = [row.length for row in train], np.random.default_rng(seed)
        for epoch in range(recipe.epochs):
            model.train(loaded.task not in AGAINST_BASE)  # dropout would be noise in what is compared: TRL has it off too
            loss_sum, weight_sum = 0.0, 0
            for indices in length_bucketed(lengths, recipe.batch_size, rng, **window):
                session.check()
                with _starting_at(train_states, model, indices):
                    loss, weight = batch_loss(model, loaded, batch_of([train[i] for i in indices]))
                _require_finite(loss.item(), f"{selection.name}: the training loss", f"in epoch {epoch + 1}", "Lower --lr.")
                descend(loss)
                loss_sum += loss.item() * weight
                weight_sum += weight
                step += 1
                told(loss.item())
            evaluated = evaluate(model, loaded, evaluation, metric, batch_of, eval_states)
            epochs.append(Epoch(loss_sum / weight_sum, *evaluated, _distance(named, initial)))
            after = f"after epoch {epoch + 1}"
            _require_finite(epochs[-1].val_loss, f"{selection.name}: the validation loss", after, "Lower --lr.")
            told(None)
    first = 1 if named else 0  # a trained run reports a trained epoch
    best = min(range(first, len(epochs)), key=lambda i: epochs[i].val_loss)
    wall_s = time.monotonic() - start
    if inspect is not None:
        inspect(model, initial)
    return RunResult(tuple(epochs), best, selection.params(loaded.targets, settings.rank, ranks), wall_s)


def _require_finite(loss: float, what: str, when: str, hint: str) -> None:
    """Raises:
    NotFinite: the loss is NaN or infinite.
    """
    if not math.isfinite(loss):
        raise NotFinite(f"{what} is {loss} {when}.", hint)


def _distance(parameters: Mapping[str, torch.Tensor], initial: Mapping[str, torch.Tensor]) -> float:
    """‖θ−θ0‖ over all tensors."""
    return math.hypot(*((p.detach() - initial[name]).double().norm().item() for name, p in parameters.items()))


def _adapted_copy(
    loaded: LoadedModel,
    selection: Selection,
    settings: LoraSettings,
    ranks: Mapping[str, int] | None = None,
    alphas: Mapping[str, float] | None = None,
) -> nn.Module:
    model: nn.Module = copy.deepcopy(loaded.model)
    if loaded.head_is_new:
        for name in loaded.head:
            reset_head(model, name)
    if selection.targets:
        arguments = lora_arguments(
            selection,
            settings,
            task=loaded.task,
            head=loaded.head,
            targets=loaded.targets,
            base_model=loaded.name,
            ranks=ranks,
            alphas=alphas,
            reads=loaded.reads,
        )
        with without_bitsandbytes():
            return get_peft_model(model, LoraConfig(**arguments))
    for name in loaded.head:
        model.get_submodule(name).requires_grad_(True)
    return model


def frozen_forward(loaded: LoadedModel, batch_of: Callable[[Sequence[EncodedRow]], dict[str, torch.Tensor]]) -> Forward:
    """What :class:`PrefixStates` asks for: outputs of the frozen model, in the precision that runs have."""

    def forward(rows: Sequence[EncodedRow]) -> torch.Tensor:
        batch = batch_of(rows)
        del batch["labels"]
        return batch_logits(loaded.model, loaded, batch)

    return forward


def _starting_at(states: States | None, model: nn.Module, indices: Sequence[int]) -> AbstractContextManager[None]:
    """Within, ``model`` starts from the rows' kept states; None: from the rows themselves."""
    if states is None:
        return nullcontext()
    return states.replayed(model.get_base_model() if isinstance(model, PeftModel) else model, indices)


def reset_head(model: nn.Module, name: str) -> None:
    """Draw the weights of one head module anew from torch's current seed, as a fresh load would."""
    std = getattr(model.config, "initializer_range", 0.02)
    with torch.no_grad():
        for module in model.get_submodule(name).modules():
            if isinstance(module, nn.Linear):
                module.weight.normal_(0.0, std)
                if module.bias is not None:
                    module.bias.zero_()


@torch.no_grad()
def evaluate(model, loaded, rows, metric, batch_of, states=None) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Validation loss (pooled over target tokens or words, where a row has several) and metric."""
    model.eval()
    if loaded.task == EMBEDDING:
        return _evaluate_embeddings(model, loaded, rows, metric, batch_of)
    loss_sum, count = 0.0, 0
    predicted, actual = [], []
    for indices in length_bucketed([row.length for row in rows], EVAL_BATCH // len(rows[0].sequences)):
        batch = batch_of([rows[i] for i in indices])
        labels = batch.pop("labels")
        with _starting_at(states, model, indices):
            logits = batch_logits(model, loaded, batch)
        if loaded.task == "regression":
            loss_sum += functional.mse_loss(logits[:, 0], labels, reduction="sum").item()
            count += len(labels)
            predicted.append(logits[:, 0].cpu().numpy())
        elif loaded.task in AGAINST_BASE:
            won = rewards(model, loaded, batch, labels, logits)
            baseline = kto_baseline(model, loaded, batch, labels) if loaded.task == KTO else None
            loss_sum += losses_of(won, labels, baseline).sum().item()
            count += len(won)
            predicted.append(won.cpu().numpy())
            labels = labels[:, 0] if loaded.task == KTO else torch.ones_like(won)
        else:
            if loaded.task in BY_ODDS:
                logits, labels = aligned(loaded.task, logits, labels)
                keep = labels != IGNORED
                logits, labels = logits[keep], labels[keep]
            loss_sum += functional.cross_entropy(logits, labels, reduction="sum").item()
            count += len(labels)
            predicted.append(logits.argmax(-1).cpu().numpy())
        actual.append(labels.cpu().numpy())
    return loss_sum / count, score(metric, np.concatenate(actual), np.concatenate(predicted))


def _evaluate_embeddings(
    model: nn.Module,
    loaded: LoadedModel,
    rows: Sequence[EncodedRow],
    metric: str,
    batch_of: Callable[[Sequence[EncodedRow]], dict[str, torch.Tensor]],
) -> tuple[float, float]:
    """The same of rows that are contrasted in batches drawn once and for all."""
    embeddings: list[torch.Tensor] = [torch.empty(0)] * len(rows)
    for indices in length_bucketed([row.length for row in rows], EVAL_BATCH // len(rows[0].sequences)):
        batch = batch_of([rows[i] for i in indices])
        shape = batch.pop("labels").shape
        for i, texts in zip(indices, batch_logits(model, loaded, batch).view(*shape, -1), strict=True):
            embeddings[i] = texts
    batches = [torch.stack([embeddings[i] for i in batch]) for batch in batches_of(len(rows), seed=0)]
    losses = torch.cat([contrast_losses(batch) for batch in batches])
    ahead = torch.cat([leads(batch) for batch in batches]).cpu().numpy()
    return losses.mean().item(), score(metric, np.ones(len(ahead)), ahead)


def score(metric: str, actual: np.ndarray, predicted: np.ndarray) -> float:
    """The metric by its name; higher is better for all of them."""
    from scipy.stats import rankdata, spearmanr
    from sklearn.metrics import f1_score, matthews_corrcoef

    if metric in ("reward_accuracy", "retrieval_accuracy"):  # of rows whose better text is ahead; a tie counts half
        return float((predicted > 0).mean() + (predicted == 0).mean() / 2)
    if metric == "reward_auc":  # of pairs of a desirable and an undesirable answer those ranked right; a tie counts half
        good = actual == 1
        count, pairs = good.sum(), good.sum() * (~good).sum()
        return float((rankdata(predicted)[good].sum() - count * (count + 1) / 2) / pairs) if pairs else 0.5
    if metric == "exact_match":  # of spans: both ends
        return float((actual == predicted).reshape(-1, 2).all(1).mean())
    if metric in ("accuracy", "token_accuracy"):
        return float((actual == predicted).mean())
    if metric == "matthews":
        return float(matthews_corrcoef(actual, predicted))
    if metric == "f1":
        average = "binary" if max(actual.max(), predicted.max()) <= 1 else "macro"
        return float(f1_score(actual, predicted, average=average, zero_division=0))
    if np.ptp(predicted) == 0 or np.ptp(actual) == 0:
        return 0.0  # a constant prediction ranks nothing
    return float(spearmanr(actual, predicted).statistic)
