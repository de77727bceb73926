"""Texts to be embedded: kernel blocks of InfoNCE's gradient against autograd through its definition, and real runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from peft import LoraConfig, get_peft_model
from tangents import SETTINGS

from advisor.core.errors import BadInput
from advisor.core.events import Note, Session
from advisor.core.recipe import TrainingRecipe, recipe_for
from advisor.core.selections import all_linear
from advisor.models import embedding, forward
from advisor.models.embedding import TOGETHER, Embedder, batches_of, contrast_losses, embedder_of, leads
from advisor.models.encode import collate
from advisor.models.forward import batch_loss, logits_of
from advisor.models.peft import lora_arguments
from advisor.models.prepare import Prepared, Source, prepare
from advisor.probing.contrast import with_pulls
from advisor.probing.outputs import make_outputs
from advisor.probing.run import cache_key, run_probe
from advisor.probing.settings import ProbeSettings
from advisor.probing.tangent import Tangent
from advisor.training.finetune import evaluate, finetune

TinyModel = Callable[..., Path]


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "bf16_autocast", lambda device: False)


def prepared_of(model: Path, folder: Path, negatives: bool = True) -> tuple[Prepared, list[dict[str, Any]]]:
    path, rows = oracle.write_rows(folder, "embedding")
    if not negatives:
        rows = [{key: row[key] for key in ("anchor", "positive")} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare(Source(str(model), str(path), eval_data=str(path), device="cpu"), Session()), rows


def pooled_by(mode: str, plain: Path, folder: Path) -> Path:
    """The model with what sentence-transformers says of it in its folder."""
    model = Path(shutil.copytree(plain, folder / "pooled"))
    (model / "1_Pooling").mkdir()
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(parts)
    ]
    (model / "modules.json").write_text(json.dumps(modules))
    flags = {f"pooling_mode_{name}": name == mode for name in ("cls_token", "mean_tokens", "max_tokens", "lasttoken")}
    (model / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, **flags}))
    return model


@pytest.mark.parametrize(
    ("name", "negatives", "mode", "micro_batch"),
    [("bert", True, "", 5), ("bert", False, "cls_token", 7), ("llama", True, "lasttoken", 1), ("gpt2", False, "", 5)],
)
def test_blocks_are_those_of_what_a_row_adds_to_the_gradient_of_its_batch(
    tiny_model: TinyModel, tmp_path: Path, name: str, negatives: bool, mode: str, micro_batch: int
) -> None:
    model = tiny_model(name, "embedding")
    if mode:
        model = pooled_by(mode, model, tmp_path)
    prepared, rows = prepared_of(model, tmp_path, negatives)
    settings = ProbeSettings(method="materialise", micro_batch=micro_batch, seed=4)
    probe = run_probe(prepared, settings, tmp_path / "probe", Session())
    loaded = prepared.loaded
    assert loaded.embedder.pooling == (mode.removesuffix("_token") or "mean")
    weights = [f"{t.name}.weight" for t in loaded.targets]
    texts, batches = oracle.tokenised(loaded.tokenizer, rows, "embedding"), batches_of(len(rows), 4)
    wanted = oracle.contrasted_reference(loaded.model, weights, texts, batches, loaded.embedder.pooling)
    for block, own, weight in zip(probe.weight_blocks, probe.gradient_blocks, weights, strict=True):
        assert oracle.relative(block, wanted.weight_block([weight])) < 1e-5
        assert oracle.relative(own, wanted.gradient_block([weight])) < 1e-5
    assert torch.allclose(torch.from_numpy(probe.losses), wanted.losses, rtol=1e-5)
    assert (probe.f0 == 0).all()
    assert (probe.z == 0.5).all()
    assert probe.head is None
    candidates = 18 * (1 + negatives)
    assert probe.info["class_shares"] == [1 / candidates] * candidates


def test_what_rows_add_is_the_gradient_of_the_loss(tiny_model: TinyModel, tmp_path: Path) -> None:
    prepared, rows = prepared_of(tiny_model("bert", "embedding"), tmp_path)
    loaded = prepared.loaded
    loaded.model.double()
    made = with_pulls(loaded, prepared.train_rows, 0, Session())
    parameter = loaded.model.get_parameter("encoder.layer.1.output.dense.weight").requires_grad_(True)

    def embeddings(some: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        batch = collate(some, loaded)
        pulls = batch.pop("labels").double()
        return logits_of(loaded, loaded.model(**batch), batch).view(*pulls.shape[:2], -1), pulls

    of_rows, losses = [], []
    for batch in batches_of(len(rows), 0):
        each, pulls = embeddings([made[i] for i in batch])
        of_rows += [
            torch.autograd.grad((e * p[:, :-1]).sum(), parameter, retain_graph=True)[0] for e, p in zip(each, pulls, strict=True)
        ]
        losses.append(contrast_losses(each).sum())
        assert torch.allclose(contrast_losses(each), pulls[:, 0, -1], rtol=1e-6)
    whole = torch.autograd.grad(sum(losses), parameter)[0]
    assert oracle.relative(sum(of_rows), whole) < 1e-6
    assert [len(batch) for batch in batches_of(len(rows), 0)] == [18, 18]
    assert TOGETHER == 32


def test_jacobian_in_lora_space_is_that_of_autograd(tiny_model: TinyModel, tmp_path: Path) -> None:
    prepared, _ = prepared_of(tiny_model("bert", "embedding"), tmp_path)
    loaded = prepared.loaded
    loaded.model.double()
    rows = with_pulls(loaded, prepared.train_rows[:10], 0, Session())
    tangent = Tangent.of(loaded, rows, make_outputs("embedding", 0, 0), SETTINGS, seed=3)
    assert float(tangent.values().abs().max()) < 1e-5  # cosines do not see how long an embedding is
    names = list(tangent.movable)
    jacobian = tangent.jacobian(names)
    for row in (0, 5):
        unit = torch.zeros(len(rows), 1, dtype=torch.float64)
        unit[row] = 1
        for name, gradient in tangent.pull_back(unit, names).items():
            assert torch.allclose(jacobian[name][row], gradient.flatten(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("mode", ["mean_tokens", "cls_token", "lasttoken"])
def test_the_loss_is_that_of_sentence_transformers(tiny_model: TinyModel, tmp_path: Path, mode: str) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    model = pooled_by(mode, tiny_model("bert", "embedding"), tmp_path)
    prepared, rows = prepared_of(model, tmp_path)
    loaded = prepared.loaded
    theirs = SentenceTransformer(str(model), device="cpu").eval()
    columns = [theirs.preprocess([row[key] for row in rows[:9]]) for key in ("anchor", "positive", "negative")]
    with torch.no_grad():
        wanted = MultipleNegativesRankingLoss(theirs)(columns, torch.empty(0))
        found, count = batch_loss(loaded.model, loaded, collate(prepared.train_rows[:9], loaded))
    assert count == 9
    assert torch.allclose(found, wanted, rtol=1e-5)


def test_another_pooling_is_refused_and_other_modules_are_said(tiny_model: TinyModel, tmp_path: Path) -> None:
    assert embedder_of(str(tiny_model("bert", "embedding")), {}) == Embedder("mean", None, ())
    model = pooled_by("max_tokens", tiny_model("bert", "embedding"), tmp_path)
    with pytest.raises(BadInput, match="pools it by max_tokens"):
        embedder_of(str(model), {})
    (model / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": ["mean", "cls"]}))
    with pytest.raises(BadInput, match="pools it by mean and cls"):
        embedder_of(str(model), {})
    (model / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": "lasttoken"}))
    parts = [{"path": "1_Pooling", "type": "sentence_transformers.sentence_transformer.modules.pooling.Pooling"}]
    (model / "modules.json").write_text(json.dumps([*parts, {"path": "2_Dense", "type": "x.Dense"}]))
    found = embedder_of(str(model), {})
    assert found.pooling == "lasttoken"
    assert ["Dense" in note for note in found.notes] == [True]


def test_a_run_lowers_the_loss_and_finds_more(tiny_model: TinyModel, tmp_path: Path) -> None:
    words = [*dict.fromkeys(oracle.WORDS)]
    path = tmp_path / "words.jsonl"
    pairs = zip(words[:10], words[10:20], strict=True)  # no anchor is another's positive
    path.write_text("".join(json.dumps({"query": one, "positive": other}) + "\n" for one, other in pairs))
    source = Source(str(tiny_model("llama", "embedding")), str(path), eval_data=str(path), device="cpu")
    prepared = prepare(source, Session())
    rows, loaded = prepared.train_rows, prepared.loaded
    recipe = TrainingRecipe(epochs=10, lr=1e-2, batch_size=5)
    found = finetune(loaded, all_linear(loaded.targets), SETTINGS, recipe, rows, rows, "retrieval_accuracy", 0)
    assert found.epochs[-1].val_loss < 0.7 * found.epochs[0].val_loss
    assert found.epochs[-1].metric > found.epochs[0].metric + 0.2


def test_an_evaluation_is_of_the_definition(tiny_model: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "TOGETHER", 10)
    prepared, rows = prepared_of(tiny_model("bert", "embedding"), tmp_path)
    loaded = prepared.loaded
    loss, accuracy = evaluate(loaded.model, loaded, prepared.train_rows, "retrieval_accuracy", lambda some: collate(some, loaded))
    texts = oracle.tokenised(loaded.tokenizer, rows, "embedding")
    with torch.no_grad():
        each = [[loaded.model(**t.inputs()).last_hidden_state[0].mean(0) for t in (text, *text.others)] for text in texts]
    batches = batches_of(len(rows), 0)
    assert [len(batch) for batch in batches] == [9, 9, 9, 9]
    assert sorted(np.concatenate(batches)) == list(range(36))
    losses = torch.cat([oracle.contrasted([each[i] for i in batch]) for batch in batches])
    assert loss == pytest.approx(float(losses.mean()), rel=1e-4)
    firsts = []
    for batch in batches:
        others = torch.stack([t for i in batch for t in each[i][1:]])
        for place, i in enumerate(batch):
            nearest = torch.nn.functional.cosine_similarity(each[i][0][None], others).argmax()
            firsts.append(int(nearest) == 2 * place)
    assert accuracy == pytest.approx(np.mean(firsts), abs=0.02)
    same = torch.ones(3, 2, 4)
    assert (leads(same) == 0).all()  # all texts alike: nothing is found


def test_a_config_for_peft_wraps_exactly_what_is_chosen_and_a_step_lowers_the_loss(tiny_model: TinyModel, tmp_path: Path) -> None:
    prepared, _ = prepared_of(tiny_model("llama", "embedding"), tmp_path, negatives=False)
    loaded = prepared.loaded
    chosen = replace(all_linear(loaded.targets), targets=tuple(t.name for t in loaded.targets[::3]))
    arguments = lora_arguments(chosen, SETTINGS, task="embedding", head=(), targets=loaded.targets, base_model="x")
    assert arguments["task_type"] == "FEATURE_EXTRACTION"
    model: Any = get_peft_model(loaded.model, LoraConfig(**arguments))
    assert set(model.base_model.targeted_module_names) == set(chosen.targets)
    trained = [p for p in model.parameters() if p.requires_grad]
    before, _ = batch_loss(model, loaded, collate(prepared.train_rows[:8], loaded))
    before.backward()
    with torch.no_grad():
        for p in trained:
            p -= 1e-2 * p.grad
        after, _ = batch_loss(model, loaded, collate(prepared.train_rows[:8], loaded))
    assert after < before


def test_one_row_or_a_batch_of_one_is_refused(tiny_model: TinyModel, tmp_path: Path) -> None:
    path, rows = oracle.write_rows(tmp_path, "embedding")
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps(rows[0]) + "\n")
    said: list[str] = []
    session = Session(lambda event: said.append(event.text) if isinstance(event, Note) else None)
    prepared = prepare(Source(str(tiny_model("bert", "embedding")), str(path), eval_data=str(one), device="cpu"), session)
    with pytest.raises(BadInput, match=r"one.jsonl: 1 usable row of 1; each row's texts are contrasted"):
        prepared.with_model  # noqa: B018
    assert "A text's embedding is the mean of its tokens (mean pooling); train with the same." in said
    with pytest.raises(BadInput, match="--batch-size 1"):
        recipe_for("embedding", batch_size=1)
    assert recipe_for("embedding").batch_size == 32


def test_sentence_transformers_wraps_exactly_what_is_chosen(tiny_model: TinyModel, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    model = pooled_by("cls_token", tiny_model("bert", "embedding"), tmp_path)
    loaded = prepared_of(model, tmp_path)[0].loaded
    chosen = replace(all_linear(loaded.targets), targets=tuple(t.name for t in loaded.targets[1::3]))
    arguments = lora_arguments(chosen, SETTINGS, task="embedding", head=(), targets=loaded.targets, base_model=str(model))
    theirs = SentenceTransformer(str(model), device="cpu")
    theirs.add_adapter(LoraConfig(**arguments))
    inner: Any = theirs[0].auto_model
    wrapped = {name.removesuffix(".lora_A.default") for name, _ in inner.named_modules() if name.endswith(".lora_A.default")}
    assert wrapped == set(chosen.targets)


@pytest.mark.parametrize("folder", ["../secret_Pooling", "/etc", "a/b_Pooling", "..", "\x1b[31m1_Pooling"])
def test_the_poolings_folder_lies_within_the_models(tmp_path: Path, folder: str) -> None:
    modules = [{"idx": 0, "name": "0", "path": folder, "type": "sentence_transformers.models.Pooling"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(BadInput, match="for the pooling") as raised:
        embedder_of(str(tmp_path), {})
    assert "\x1b" not in str(raised.value)


def test_texts_are_cut_where_sentence_transformers_cuts_them(tiny_model: TinyModel, tmp_path: Path) -> None:
    made = pytest.importorskip("sentence_transformers").SentenceTransformer
    model = pooled_by("mean_tokens", tiny_model("bert", "embedding"), tmp_path)
    rows = [{"anchor": "the film was great " * (1 + i % 9), "positive": f"a story {'very ' * i}dull"} for i in range(20)]
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def read(max_length: int | None = None) -> Prepared:
        return prepare(Source(str(model), str(path), eval_data=str(path), device="cpu", max_length=max_length), Session())

    assert read().max_length == 64  # 128 by default, 64 by its table of positions
    (model / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9, "do_lower_case": False}))
    prepared, theirs = read(), made(str(model), device="cpu")
    assert prepared.max_length == theirs.max_seq_length == 9
    for row, texts in zip(prepared.train_rows, rows, strict=True):
        for sequence, text in zip(row.sequences, texts.values(), strict=True):
            assert list(sequence.ids) == theirs.tokenizer(text, truncation=True)["input_ids"]
    assert read(5).max_length == 5
    settings = ProbeSettings(method="materialise", samples=16, linearity=False)
    keys = {cache_key(read(), settings), cache_key(read(9), settings)}
    probe = run_probe(prepared, settings, tmp_path / "probe", Session())
    assert probe.info["pooling"] == "mean"
    (model / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 7}))
    assert cache_key(read(), settings) not in keys
    with pytest.raises(BadInput, match="usual length"):
        run_probe(read(), settings, tmp_path / "probe", Session())
    (model / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": "7"}))
    with pytest.raises(BadInput, match=r"max_seq_length of sentence_bert_config.json is '7'"):
        _ = read().loaded


def test_prompts_are_named_and_not_put_before_texts(tiny_model: TinyModel, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    from datasets import Dataset

    model = pooled_by("mean_tokens", tiny_model("bert", "embedding"), tmp_path)
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    (model / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    (model / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    (said, lower) = embedder_of(str(model), {}).notes
    assert "(query: 'query: ' by default)" in said
    assert "lower-cases texts" in lower
    prepared, rows = prepared_of(model, tmp_path)
    theirs = library.SentenceTransformer(str(model), device="cpu")
    assert (theirs.prompts["query"], theirs.default_prompt_name) == ("query: ", "query")
    collator = library.SentenceTransformerTrainer(theirs, train_dataset=Dataset.from_list(rows)).data_collator
    features = collator(rows[:3])
    for i, row in enumerate(prepared.train_rows[:3]):
        for name, sequence in zip(("anchor", "positive", "negative"), row.sequences, strict=True):
            kept = features[f"{name}_attention_mask"][i].bool()
            assert features[f"{name}_input_ids"][i][kept].tolist() == list(sequence.ids)
