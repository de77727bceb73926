"""Float64 kernel blocks by ``torch.func``: ``vmap(jacrev)`` over full weights, independent of ``advisor``'s passes.

Nothing is padded: examples of equal length are taken together, so there is no mask either. Outputs and losses are
written here from their definition (docs/design.md 2.2), not taken from ``advisor.probing.outputs``.
"""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import vision_language
from PIL import Image
from torch import nn
from torch.func import functional_call, jacrev, vmap

Outputs = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Text:
    """One tokenised example; ``label`` is a class id, a standardised value, or for each token the id to learn. ``decoder``:
    what a decoder behind an encoder reads. ``rejected``: of a pair of answers the worse one. ``others``: of an anchor its
    positive and negatives. ``pixels``: [channels, height, width], in place of ids. ``beside``: what is read beside the ids, as it
    is in a batch of one."""

    ids: Sequence[int]
    label: int | float | Sequence[int]
    types: Sequence[int] | None = None
    decoder: Sequence[int] | None = None
    pixels: torch.Tensor | None = None
    beside: Mapping[str, torch.Tensor] = field(default_factory=dict)
    rejected: Text | None = None
    others: Sequence[Text] = ()

    def inputs(self) -> dict[str, Any]:
        """A batch of this one, without padding or a mask."""
        if self.pixels is not None:
            return {"pixel_values": self.pixels[None].double()}
        given = {"input_ids": self.ids, "token_type_ids": self.types, "decoder_input_ids": self.decoder}
        beside = {k: t.double() if t.is_floating_point() else t for k, t in self.beside.items()}
        return {"use_cache": False, **beside, **{k: torch.tensor([list(ids)]) for k, ids in given.items() if ids is not None}}


@dataclass(frozen=True)
class Reference:
    """Per-example derivatives in float64.

    Attributes:
        outputs: [n, P]; losses: [n].
        jacobians: for each parameter, [n, P, its size]; gradients: for each parameter, [n, its size].
    """

    outputs: torch.Tensor
    losses: torch.Tensor
    jacobians: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]

    def weight_block(self, parameters: Sequence[str], factor: float = 1.0) -> torch.Tensor:
        """factor · Σ over outputs and parameters of J Jᵀ, [n, n]."""
        return factor * sum(
            (torch.einsum("ipa,jpa->ij", j, j) for j in (self.jacobians[p] for p in parameters)),
            start=torch.zeros(()),
        )

    def gradient_block(self, parameters: Sequence[str]) -> torch.Tensor:
        """⟨∇ℓ_i, ∇ℓ_j⟩, [n, n]."""
        return sum((g @ g.T for g in (self.gradients[p] for p in parameters)), start=torch.zeros(()))


def margin(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return (logits[1] - logits[0]).reshape(1)


def value(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return logits


def centred(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return logits - logits.sum() / len(logits)


def projected(signs: torch.Tensor) -> Outputs:
    return lambda logits, label: signs.double().T @ centred(logits, label)


def mean_odds(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Mean of log p − log(1 − p) over the tokens to learn; token t is predicted at position t − 1."""
    p, learned = _target_probabilities(logits, label)
    return ((torch.log(p) - torch.log1p(-p)) * learned).sum().reshape(1) / learned.sum()


def mean_target_odds(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The same where token t is predicted at position t."""
    return mean_odds(*_one_later(logits, label))


def target_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return token_loss(*_one_later(logits, label))


def preferred(logits: Any, label: Any) -> torch.Tensor:
    """β·(log π(chosen) − log π(rejected)) with β = 0.1, log π the sum over the answer's tokens."""
    better, worse = (_log_likelihood(*each) for each in zip(logits, label, strict=True))
    return 0.1 * (better - worse).reshape(1)


def mean_odds_of_ends(logits: Any, label: Any) -> torch.Tensor:
    """Mean of log p − log(1 − p) over a span's first and last token, p a softmax over all tokens of the row."""
    p = torch.stack([torch.softmax(each, 0)[place] for each, place in zip(logits, label, strict=True)])
    return (torch.log(p) - torch.log1p(-p)).mean().reshape(1)


def loss_of_ends(logits: Any, label: Any) -> torch.Tensor:
    return -torch.stack([torch.log_softmax(each, 0)[place] for each, place in zip(logits, label, strict=True)]).mean()


def dpo_loss(logits: Any, label: Any) -> torch.Tensor:
    """DPO's loss where the policy still is its reference."""
    policy = preferred(logits, label)
    return -torch.log(1 / (1 + torch.exp(-(policy - policy.detach())))).sum()


def reward(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """±β·log π(answer) with β = 0.1; the label of the first token, which nothing predicts, is the sign."""
    return 0.1 * label[0] * _log_likelihood(logits, label).reshape(1)


def kto_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """KTO's loss where the policy still is its reference, so that all that is compared with it is 0."""
    policy = reward(logits, label)
    return 1 - 1 / (1 + torch.exp(-(policy - policy.detach()))).sum()


def _log_likelihood(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    p, _ = _target_probabilities(logits, label)
    return torch.log(p[label[1:] >= 0]).sum()


def _one_later(logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([logits, logits[-1:]]), torch.cat([label[:1] * 0 - 100, label])


def cross_entropy(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    one_hot = (torch.arange(len(logits)) == label).double()
    return -(torch.log(torch.exp(logits) / torch.exp(logits).sum()) * one_hot).sum()


def squared(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return (logits[0] - label) ** 2 / 2


def token_loss(logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    p, learned = _target_probabilities(logits, label)
    return -(torch.log(p) * learned).sum() / learned.sum()


def _target_probabilities(logits: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    exponents = torch.exp(logits[:-1])
    wanted = (torch.arange(logits.shape[-1]) == label[1:, None]).double()
    learned = (label[1:] >= 0).double()
    p = (exponents * wanted).sum(-1) / exponents.sum(-1)
    return torch.where(learned > 0, p, 0.5), learned


def looped_reference(
    model: nn.Module, parameters: Sequence[str], texts: Sequence[Text], output: Outputs, loss: Outputs
) -> Reference:
    """As :func:`reference`, by plain autograd, one text and one scalar at a time: where vmap cannot go, such as routing."""
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")  # the faster ones have no float64
    chosen = [_own(model, name) for name in parameters]
    values, rows = [], []
    for text in texts:
        made = model(**text.inputs())
        logits: Any = made.logits[0] if "logits" in made else (made.start_logits[0], made.end_logits[0])
        label: Any = torch.tensor(text.label)
        if text.rejected is not None:
            logits = logits, model(**text.rejected.inputs()).logits[0]
            label = label, torch.tensor(text.rejected.label)
        scalars = torch.cat([output(logits, label), loss(logits, label).reshape(1)])
        found = [torch.autograd.grad(s, chosen, retain_graph=True, materialize_grads=True) for s in scalars]
        values.append(scalars.detach())
        rows.append([torch.stack([g.flatten() for g in grads]) for grads in zip(*found, strict=True)])
    stacked = {name: torch.stack(j) for name, j in zip(parameters, zip(*rows, strict=True), strict=True)}
    return _reference(torch.stack(values), stacked)


def require_blocks(probe: Any, loaded: Any, rows: Sequence[Any], kind: str) -> None:
    """The probe's blocks and losses of these rows of compared or marked answers are those of :func:`looped_reference`."""
    weights = [t.name if t.experts else f"{t.name}.weight" for t in loaded.targets]
    texts = tokenised(loaded.tokenizer, rows, kind)
    wanted = looped_reference(loaded.model, weights, texts, *scalars_of(kind))
    for block, own, weight in zip(probe.weight_blocks, probe.gradient_blocks, weights, strict=True):
        assert relative(block, wanted.weight_block([weight])) < 1e-5
        assert relative(own, wanted.gradient_block([weight])) < 1e-5
    assert torch.allclose(torch.from_numpy(probe.losses), wanted.losses, atol=1e-6)


def contrasted_reference(
    model: nn.Module, parameters: Sequence[str], texts: Sequence[Text], batches: Sequence[Sequence[int]], pooling: str = "mean"
) -> Reference:
    """Of texts to be embedded, by the definition: what a row adds to the gradient of the summed losses of its batch is their
    gradient with the embeddings of all other rows held still. The output's is −2 times that."""
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    model.set_attn_implementation("eager")
    chosen = [_own(model, name) for name in parameters]

    def embedded(text: Text) -> torch.Tensor:
        states = model(**text.inputs()).last_hidden_state[0]
        return {"mean": states.mean(0), "cls": states[0], "lasttoken": states[-1]}[pooling]

    losses = torch.zeros(len(texts), dtype=torch.float64)
    rows: dict[int, list[torch.Tensor]] = {}
    for batch in batches:
        still = [[embedded(t).detach() for t in (texts[i], *texts[i].others)] for i in batch]
        for place, i in enumerate(batch):
            own = [embedded(t) for t in (texts[i], *texts[i].others)]
            each = contrasted([*still[:place], own, *still[place + 1 :]])
            losses[i] = each[place].detach()
            found = torch.autograd.grad(each.sum(), chosen, materialize_grads=True)
            rows[int(i)] = [g.flatten() for g in found]
    gradients = {name: torch.stack([rows[i][k] for i in range(len(texts))]) for k, name in enumerate(parameters)}
    outputs = torch.zeros(len(texts), 1, dtype=torch.float64)
    return Reference(outputs, losses, {name: -2 * g[:, None] for name, g in gradients.items()}, gradients)


def contrasted(rows: Sequence[Sequence[torch.Tensor]]) -> torch.Tensor:
    """−log of each row's share e^(20·cosine) of its positive among the positives and negatives of all."""
    losses = []
    for anchor, positive, *_ in rows:
        odds = [torch.exp(20 * (anchor @ t) / (anchor.norm() * t.norm())) for _, *others in rows for t in others]
        own = torch.exp(20 * (anchor @ positive) / (anchor.norm() * positive.norm()))
        losses.append(-torch.log(own / torch.stack(odds).sum()))
    return torch.stack(losses)


def _own(model: nn.Module, name: str) -> nn.Parameter:
    """A parameter by itself, where modules share one (Zamba2): LoRA adapts the calls of one module."""
    module = model.get_submodule(name.rpartition(".")[0])
    parameter = nn.Parameter(model.get_parameter(name).detach().clone())
    setattr(module, name.rpartition(".")[2], parameter)
    return parameter


def reference(model: nn.Module, parameters: Sequence[str], texts: Sequence[Text], output: Outputs, loss: Outputs) -> Reference:
    """Derivatives of ``output`` and ``loss`` of each text's logits in the named parameters.

    Logits are [classes], or [tokens, vocabulary] for language models; labels come as tensors.
    """
    model = copy.deepcopy(model).double().eval()
    model.set_attn_implementation("eager")  # SDPA has no derivative under vmap
    for module in model.modules():  # it looks at token values, which vmap cannot
        if hasattr(module, "warn_if_padding_and_no_attention_mask"):
            module.warn_if_padding_and_no_attention_mask = lambda *_: None
    state = {name: p.detach() for name, p in model.named_parameters()}
    chosen = {name: state[name] for name in parameters}

    def scalars(weights: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        arguments = {k: v[None] for k, v in inputs.items() if k != "label"}
        if "pixel_values" not in arguments:
            arguments["use_cache"] = False
        logits = functional_call(model, {**state, **weights}, kwargs=arguments).logits[0]
        both = torch.cat([output(logits, inputs["label"]), loss(logits, inputs["label"]).reshape(1)])
        return both, both

    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[len(text.ids), len(text.decoder or ())].append(index)
    found: list[tuple[torch.Tensor, dict[str, torch.Tensor]]] = [None] * len(texts)  # type: ignore[list-item]
    for members in groups.values():
        given = [texts[i].inputs() for i in members]
        inputs = {key: torch.cat([each[key] for each in given]) for key in given[0] if key != "use_cache"}
        inputs["label"] = torch.tensor([texts[i].label for i in members])
        jacobians, values = vmap(jacrev(scalars, has_aux=True), in_dims=(None, 0))(chosen, inputs)
        for row, index in enumerate(members):
            found[index] = values[row], {name: j[row].flatten(1) for name, j in jacobians.items()}
    values = torch.stack([v for v, _ in found]).detach()
    stacked = {name: torch.stack([j[name] for _, j in found]).detach() for name in parameters}
    return _reference(values, stacked)


def _reference(values: torch.Tensor, stacked: Mapping[str, torch.Tensor]) -> Reference:
    """From scalars [n, P + 1] and their derivatives in each parameter, [n, P + 1, its size]; the loss comes last."""
    return Reference(
        values[:, :-1],
        values[:, -1],
        {name: j[:, :-1] for name, j in stacked.items()},
        {name: j[:, -1] for name, j in stacked.items()},
    )


def relative(block: object, wanted: torch.Tensor) -> float:
    """‖block − wanted‖ / ‖wanted‖, Frobenius, in float64."""
    difference = torch.as_tensor(block, dtype=torch.float64) - wanted
    return float(torch.linalg.norm(difference) / (torch.linalg.norm(wanted) or 1.0))  # zero where nothing reads a module's output


# --- data: rows of unequal length, and the same rows tokenised without advisor.models.encode ---------------------------------

KINDS = ("binary", "three", "regression", "causal-lm")
CLASSES = {"token-classification": 3, "images": 2, "binary": 2, "three": 3, "four": 4, "twelve": 12}
OWN_NAMES = (
    *("regression", "causal-lm", "seq2seq", "preference", "kto", "token-classification", "question-answering", "embedding"),
)
TASKS = dict(zip(OWN_NAMES, OWN_NAMES, strict=True)) | dict.fromkeys(("turns", "columns"), "causal-lm")
_WORDS = "the film was great and story fine a very dull book awful she is not one of red dogs in poor movie"
WORDS = tuple(_WORDS.split(" "))
ROWS = 36


def write_rows(folder: Path, kind: str) -> tuple[Path, list[dict[str, Any]]]:
    """A JSONL file of ``ROWS`` rows of 1 to 12 words, and the rows. Labels follow length and words, with exceptions.

    ``turns``, ``columns``: conversations with images, and prompts with images. ``images``: a folder of two class
    folders, of noise that is redder in the one than in the other.
    """
    if kind == "images":
        return folder / "images", write_images(folder / "images")
    if kind in ("turns", "columns"):
        return vision_language.write_rows(folder, turns=kind == "turns", with_texts=kind == "turns")
    generator = torch.Generator().manual_seed(3)
    lengths = [1 + index * 5 % 12 for index in range(ROWS)]
    texts = [" ".join(WORDS[int(i)] for i in torch.randint(0, len(WORDS), (length,), generator=generator)) for length in lengths]
    rows: list[dict[str, Any]] = []
    for index, (length, text) in enumerate(zip(lengths, texts, strict=True)):
        if kind in ("causal-lm", "seq2seq"):
            rows.append({"prompt": texts[index - 1], "completion": text})
        elif kind == "token-classification":
            words = text.split()
            rows.append(
                {"tokens": words, "ner_tags": ["O" if len(w) < 4 else f"B-{'XY'[(i + index) % 2]}" for i, w in enumerate(words)]}
            )
        elif kind == "question-answering":
            words = f"{text} {texts[index - 1]} {texts[index - 2]}".split()
            first = index % len(words)
            answer = " ".join(words[first : first + 1 + index % 3])
            found = {"text": [answer], "answer_start": [len(" ".join(words[:first])) + (first > 0)]}
            rows.append(
                {"question": texts[index - 3], "context": " ".join(words), "answers": found, "words": [first, 1 + index % 3]}
            )
        elif kind == "preference":
            rows.append({"prompt": texts[index - 1], "chosen": text, "rejected": f"{texts[index - 2]} {index % 3}"})
        elif kind == "kto":
            rows.append({"prompt": texts[index - 1], "completion": text, "label": index % 3 == 0})
        elif kind == "embedding":
            rows.append({"anchor": texts[index - 1], "positive": text, "negative": f"{texts[index - 2]} {index % 3}"})
        elif kind == "regression":
            score = len(text) / 30 + WORDS.index(texts[index - 1].split()[-1]) / 5 + index % 5 / 2
            rows.append({"sentence1": text, "sentence2": texts[index - 1], "score": score})
        else:
            label = (length - 1 + 6 * (index % 7 == 0)) % 12 * CLASSES[kind] // 12
            rows.append({"sentence": text, "label": f"c{label:02d}"})
    path = folder / f"{kind.replace('-', '_')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path, rows


def write_images(folder: Path, names: Sequence[str] = ("blue", "red"), count: int = ROWS) -> list[dict[str, Any]]:
    """``count`` PNG files of various sizes below one folder a class, and their paths and class ids in the order of names."""
    generator = np.random.default_rng(3)
    rows = []
    for index in range(count):
        label = index * len(names) // count
        height, width = generator.integers(12, 30, 2)
        pixels = generator.integers(0, 200, (height, width, 3))
        pixels[..., 0] += 10 * label
        path = folder / names[label] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        rows.append({"path": path, "label": label})
    return rows


def tokenised(tokenizer: Any, rows: Sequence[dict[str, Any]], kind: str) -> list[Text]:
    """The rows for :func:`reference`; scores standardised, tokens of the prompt not learned. Images: by an image processor."""
    if kind == "images":
        images = [Image.open(row["path"]) for row in rows]
        found = [tokenizer(image, return_tensors="pt")["pixel_values"][0] for image in images]
        return [Text((), row["label"], pixels=pixels) for row, pixels in zip(rows, found, strict=True)]
    if kind in ("turns", "columns"):
        return [Text(ids, labels, beside=beside) for ids, labels, beside in (vision_language.read(tokenizer, r) for r in rows)]
    texts = []
    scores = torch.tensor([row.get("score", 0.0) for row in rows], dtype=torch.float64)
    for index, row in enumerate(rows):
        if kind == "causal-lm":
            prompt = tokenizer(row["prompt"])["input_ids"]
            answer = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            texts.append(Text([*prompt, *answer], [*[-100] * len(prompt), *answer]))
            continue
        if kind == "token-classification":
            ids, tags = [], []
            for word, tag in zip(row["tokens"], row["ner_tags"], strict=True):
                pieces = tokenizer(word, add_special_tokens=False)["input_ids"]
                ids += pieces
                tags += [("B-X", "B-Y", "O").index(tag), *[-100] * (len(pieces) - 1)]
            whole = tokenizer(" ".join(row["tokens"]))["input_ids"]
            start = whole.index(ids[0]) if len(whole) > len(ids) else 0
            before, after = [-100] * start, [-100] * (len(whole) - len(ids) - start)
            types = [0] * len(whole) if "token_type_ids" in tokenizer.model_input_names else None
            texts.append(Text(whole, [*before, *tags, *after], types))
            continue
        if kind == "question-answering":
            encoded, (first, count) = tokenizer(row["question"], row["context"]), row["words"]
            pairs = list(zip(encoded.word_ids(), encoded.sequence_ids(), strict=True))
            inside = [i for i, (word, part) in enumerate(pairs) if part == 1 and first <= word < first + count]
            texts.append(Text(encoded["input_ids"], [inside[0], inside[-1]], encoded.get("token_type_ids")))
            continue
        if kind == "embedding":
            encoded = [tokenizer(row[key]) for key in ("anchor", "positive", "negative") if key in row]
            anchor, *others = (Text(e["input_ids"], 0, e.get("token_type_ids")) for e in encoded)
            texts.append(replace(anchor, others=others))
            continue
        if kind == "preference":
            prompt = tokenizer(row["prompt"])["input_ids"]
            answers = [tokenizer(row[key], add_special_tokens=False)["input_ids"] for key in ("chosen", "rejected")]
            ends = [[*answer, tokenizer.eos_token_id] for answer in answers]
            better, worse = (Text([*prompt, *end], [*[-100] * len(prompt), *end]) for end in ends)
            texts.append(replace(better, rejected=worse))
            continue
        if kind == "kto":
            prompt = tokenizer(row["prompt"])["input_ids"]
            answer = [*tokenizer(row["completion"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
            mark = 1 if row["label"] else -1
            texts.append(Text([*prompt, *answer], [mark, *[-100] * (len(prompt) - 1), *answer]))
            continue
        if kind == "seq2seq":
            target = tokenizer(row["completion"])["input_ids"]
            texts.append(Text(tokenizer(row["prompt"])["input_ids"], target, decoder=[tokenizer.pad_token_id, *target[:-1]]))
            continue
        if kind == "regression":
            encoded = tokenizer(row["sentence1"], row["sentence2"])
            label: float = float((scores[index] - scores.mean()) / scores.std(correction=0))
        else:
            encoded = tokenizer(row["sentence"])
            label = int(row["label"][1:])
        texts.append(Text(encoded["input_ids"], label, encoded.get("token_type_ids")))
    return texts


def scalars_of(kind: str, signs: torch.Tensor | None = None) -> tuple[Outputs, Outputs]:
    """Output and loss of a kind of task."""
    if TASKS.get(kind) == "causal-lm":
        return mean_odds, token_loss
    if kind in ("seq2seq", "token-classification"):
        return mean_target_odds, target_loss
    if kind == "question-answering":
        return mean_odds_of_ends, loss_of_ends
    if kind == "preference":
        return preferred, dpo_loss
    if kind == "kto":
        return reward, kto_loss
    if kind == "regression":
        return value, squared
    if signs is not None:
        return projected(signs), cross_entropy
    return (margin if kind in ("binary", "images") else centred), cross_entropy
