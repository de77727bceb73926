"""Profiles of models and tasks: shipped ones, own ones, and checking them."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from architectures import ARCHITECTURES
from rowfiles import Write
from transformers.pytorch_utils import Conv1D

from advisor.cli import main as cli
from advisor.core.errors import BadInput
from advisor.core.profiles import KINDS, load_profiles, shipped_files
from advisor.core.recipe import METRICS, TASKS
from advisor.core.store import user_folder
from advisor.data.dataset import load_dataset
from advisor.models.load import load_model
from advisor.models.modules import family_profile
from advisor.models.profile_check import check_profile

TinyModel = Callable[..., Path]


def test_task_profiles_are_complete() -> None:
    profiles = load_profiles("tasks")
    expected = "alpaca amazon chat cola gsm8k imdb mnli mrpc qnli qqp rte sst2 stsb wnli yelp"
    assert sorted(profiles) == expected.split()
    words: list[str] = []
    for profile in profiles.values():
        assert profile["task"] in TASKS
        assert profile["metric"] in METRICS[profile["task"]]
        assert ("label_column" in profile) == (profile["task"] != "causal-lm")
        words += profile["match"]
    assert len(set(words)) == len(words)


def test_model_profiles_are_complete() -> None:
    profiles = load_profiles("models")
    assert set(ARCHITECTURES) <= set(profiles)  # the others: test_families.py
    types = [t for profile in profiles.values() for t in profile["model_types"]]
    assert len(set(types)) == len(types)
    with pytest.raises(BadInput, match="no 'nothing' profiles"):
        load_profiles("nothing")


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own profiles, empty."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for kind in KINDS:
        user_folder(kind).mkdir(parents=True)
    return user_folder("models").parent


def example(number: int) -> str:
    """The YAML examples of docs/profiles.md."""
    page = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text(encoding="utf-8")
    return re.findall(r"```yaml\n(.*?)```", page, re.S)[number]


MODEL = {"family": "F", "model_types": ["f"], "roles": {"q": "attention/query"}, "qv": ["query"]}
TASK = {"description": "d", "task": "classification", "text_columns": ["t"], "label_column": "l", "metric": "f1", "match": ["m"]}


PLAIN_TASK = {"description": "d", "match": ["clf"]}


def of_task(task: str, texts: int | list[str], label: str | None = None) -> dict[str, Any]:
    """The fields of a task profile that depend on the task."""
    columns = [f"t{i}" for i in range(texts)] if isinstance(texts, int) else texts
    return {"task": task, "text_columns": columns, "metric": METRICS[task][0]} | ({"label_column": label} if label else {})


BAD = [
    ("models", "a: [1", "own.yaml is not readable YAML"),
    ("models", "- 1", "the top level must be fields"),
    ("models", "1: x", "keys should be strings"),
    ("models", {**MODEL, "nevr": []}, "the field 'nevr' is unknown. Did you mean never"),
    ("models", {k: v for k, v in MODEL.items() if k != "qv"}, "the field qv is missing"),
    ("models", {**MODEL, "model_types": "f"}, "model_types is 'f': it should be a list"),
    ("models", {**MODEL, "model_types": []}, r"model_types is \[\]: it should have an entry"),
    ("models", {**MODEL, "family": 3}, "family is 3: it should be a text"),
    ("models", {**MODEL, "roles": ["q"]}, "roles is"),
    ("models", {**MODEL, "roles": {"q": "query"}}, "roles: 'q' is 'query', not one of attention/"),
    ("models", {**MODEL, "qv": ["value"]}, "qv: 'value' is none of the roles query"),
    ("tasks", {**TASK, "task": "ner"}, "task is 'ner': it should be 'classification'"),
    ("tasks", {**TASK, "metric": "spearman"}, "metric is 'spearman', not one of accuracy"),
    ("tasks", {**TASK, "task": "causal-lm", "metric": "token_accuracy"}, "label_column does not apply"),
    ("tasks", {k: v for k, v in TASK.items() if k != "label_column"}, "the field label_column is missing"),
    ("tasks", {**TASK, "match": []}, r"match is \[\]: it should have an entry"),
    ("tasks", {**TASK, "text_columns": list("tuv")}, "text_columns has 3 entries, and classification takes 1 or 2"),
    ("tasks", {**TASK, "text_columns": ["t", "t"]}, "text_columns has 't' twice"),
    ("tasks", {**TASK, "text_columns": ["t", "l"]}, "label_column 'l' is one of the text_columns"),
    ("tasks", {**PLAIN_TASK, **of_task("regression", 3, "l")}, "has 3 entries, and regression takes 1 or 2"),
    ("tasks", {**PLAIN_TASK, **of_task("token-classification", 2, "l")}, "has 2 entries, and token-classification takes 1"),
    ("tasks", {**PLAIN_TASK, **of_task("question-answering", 1, "l")}, "has 1 entry, and question-answering takes 2"),
    ("tasks", {**PLAIN_TASK, **of_task("question-answering", 3, "l")}, "has 3 entries, and question-answering takes 2"),
    ("tasks", {**PLAIN_TASK, **of_task("question-answering", 2)}, "the field label_column is missing"),
    ("tasks", {**PLAIN_TASK, **of_task("preference", 1)}, "has 1 entry, and preference takes 2 or more"),
    ("tasks", {**PLAIN_TASK, **of_task("preference", 2, "l")}, "label_column does not apply to preference"),
    ("tasks", {**PLAIN_TASK, **of_task("embedding", 1)}, "has 1 entry, and embedding takes 2 or more"),
    ("tasks", {**PLAIN_TASK, **of_task("kto", 2)}, "the field label_column is missing"),
]


@pytest.mark.parametrize(("kind", "content", "message"), BAD)
def test_a_bad_profile_is_named_with_its_field(own: Path, kind: str, content: Any, message: str) -> None:
    (own / kind / "own.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(BadInput, match=message) as caught:
        load_profiles(kind)
    assert str(own / kind / "own.yaml") in caught.value.what


CELLS: dict[str, Callable[[int], Any]] = {
    "a": lambda i: f"what is thing {i} called",
    "b": lambda i: f"people call it name {i} here",
    "c": lambda i: f"nobody calls it that, {i}",
    "words": lambda i: ["go", "home", str(i)],
    "tags": lambda i: ["B", "O", "I"],
    "answers": lambda i: {"text": [f"name {i}"], "answer_start": [15]},
    "good": lambda i: i % 2 == 0,
    "kind": lambda i: "xyz"[i % 3],
    "size": lambda i: i / 7,
}
FEWEST = {"preference": 2, "embedding": 2, "question-answering": 2}  # columns, by the definitions of these tasks
MOST = {"classification": 2, "regression": 2, "question-answering": 2, "token-classification": 1}
LABELS = {
    "classification": "kind",
    "regression": "size",
    "token-classification": "tags",
    "question-answering": "answers",
    "kto": "good",
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("texts", ["a", "ab", "abc", "words"])
def test_a_task_profile_is_refused_or_its_rows_are_read(own: Path, write: Write, task: str, labelled: bool, texts: str) -> None:
    """No profile that passes the check fails at the rows; those that fit the task pass."""
    columns = [texts] if texts == "words" else list(texts)
    label = LABELS.get(task, "kind") if labelled else None
    (own / "tasks" / "own.yaml").write_text(yaml.safe_dump({**PLAIN_TASK, **of_task(task, columns, label)}))
    rows = [{name: CELLS[name](i) for name in (*columns, *([label] if label else []))} for i in range(12)]
    fits = labelled == (task in LABELS) and FEWEST.get(task, 1) <= len(columns) <= MOST.get(task, 9)
    if not fits:
        with pytest.raises(BadInput, match=r"own\.yaml: (text_columns has|label_column does not|the field label_column)"):
            load_dataset(write("clf.jsonl", rows))
    elif (texts == "words") == (task == "token-classification"):
        schema = load_dataset(write("clf.jsonl", rows)).schema
        assert (schema.text_columns, schema.label_column) == (tuple(columns), label)
        assert schema.task == ("causal-lm" if task == "seq2seq" else task)  # of a model that is no encoder-decoder


@pytest.mark.parametrize(("task", "texts"), [("kto", ["a"]), ("question-answering", ["a", "b"]), ("token-classification", ["a"])])
def test_a_profile_is_used_only_where_its_label_column_is(own: Path, write: Write, task: str, texts: list[str]) -> None:
    (own / "tasks" / "own.yaml").write_text(yaml.safe_dump({**PLAIN_TASK, **of_task(task, texts, "gone")}))
    rows = [{name: CELLS[name](i) for name in (*texts, "kind")} for i in range(12)]
    assert load_dataset(write("clf.jsonl", rows)).schema.task == "classification"


def test_the_mark_of_a_profile_is_read_where_the_task_is_named_too(own: Path, write: Write) -> None:
    (own / "tasks" / "own.yaml").write_text(yaml.safe_dump({**PLAIN_TASK, **of_task("kto", 2, "good")}))
    rows = [{"t0": f"q {i}", "t1": f"a {i}", "good": i % 2 == 0} for i in range(12)]
    for task in ("auto", "kto"):
        schema = load_dataset(write("clf.jsonl", rows), task=task).schema
        assert (schema.text_columns, schema.label_column) == (("t0", "t1"), "good")


@pytest.mark.parametrize("task", ["preference", "embedding"])
def test_fewer_columns_than_a_profile_has_can_be_named(own: Path, write: Write, task: str) -> None:
    (own / "tasks" / "own.yaml").write_text(yaml.safe_dump({**PLAIN_TASK, **of_task(task, 2)}))
    rows = [{"t0": f"q {i}", "t1": f"a {i}"} for i in range(12)]
    with pytest.raises(BadInput, match=f"{task} takes 2 or more columns of text, not 1"):
        load_dataset(write("clf.jsonl", rows), text_columns=["t0"])


def test_own_profiles_come_first_and_replace(own: Path) -> None:
    (own / "models" / "mine.yaml").write_text(yaml.safe_dump({**MODEL, "model_types": ["bert"]}))
    (own / "models" / "gpt2.yaml").write_text(yaml.safe_dump({**MODEL, "family": "mine", "model_types": ["gpt2"]}))
    profiles = load_profiles("models")
    assert next(iter(profiles)) == "gpt2"
    assert family_profile("gpt2") == profiles["gpt2"] == {**MODEL, "family": "mine", "model_types": ["gpt2"], "never": []}
    assert family_profile("bert") == profiles["mine"]


def test_an_own_task_profile_is_used(own: Path, write: Write) -> None:
    rows = [{"subject": f"s {i}", "body": f"b {i}", "priority": i % 3, "team": "ab"[i % 2]} for i in range(12)]
    (own / "tasks" / "tickets.yaml").write_text(example(1))
    schema = load_dataset(write("helpdesk_2024.jsonl", rows)).schema
    assert (schema.text_columns, schema.label_column, schema.metric) == (("subject", "body"), "team", "matthews")


# --- check ---


@pytest.mark.parametrize("name", ["bert", "roberta", "gpt2", "gpt_neo", "opt", "llama"])
def test_shipped_profiles_name_every_module(tiny_model: TinyModel, name: str) -> None:
    model = str(tiny_model(name))
    report = check_profile(Path(str(shipped_files("models")[name])), model)
    assert report.surprises == ()
    assert report.exit_code == 0
    loaded = load_model(model, "classification", num_labels=2, device="cpu")
    assert sum(role.modules for role in report.roles) + len(report.outside) == len(loaded.targets)
    assert report.qv == sum(target.role in loaded.qv_roles() for target in loaded.targets)
    assert set(report.never).isdisjoint(target.name for target in loaded.targets)
    linear = {n for n, m in loaded.model.named_modules() if isinstance(m, torch.nn.Linear | Conv1D)}
    assert set(report.never) | {target.name for target in loaded.targets} == linear


def test_the_example_of_the_docs_fits_qwen2(tmp_path: Path) -> None:
    config = transformers.Qwen2Config(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    (tmp_path / "qwen2.yaml").write_text(example(0))
    for task in ("causal-lm", "classification"):
        report = check_profile(tmp_path / "qwen2.yaml", str(tmp_path / "model"), task=task)
        assert (report.surprises, report.blocks, report.qv) == ((), (0, 1, 2), 6)
        assert [role.modules for role in report.roles] == [3] * 7
    assert report.never == {"score": "the head, trained in full"}


def test_what_does_not_fit_is_said(tiny_model: TinyModel, tmp_path: Path) -> None:
    profile = {
        "family": "mine",
        "model_types": ["other"],
        "roles": {"attention.self.query": "attention/query", "attention.self.quary": "attention/key"},
        "qv": ["key"],
        "never": ["intermediate", "nothing"],
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(profile))
    report = check_profile(tmp_path / "mine.yaml", str(tiny_model("bert")))
    assert report.exit_code == 1
    assert report.idle == ("nothing",)
    assert report.never["bert.encoder.layer.0.intermediate.dense"] == "never: intermediate"
    assert report.never["bert.pooler.dense"] == "pooler, in no family"
    assert report.surprises == (
        "model_types lists other, not this model's bert: it would not be used for it.",
        "roles: attention.self.quary matches no module.",
        "2 modules attention.self.key have no role.",
        "2 modules attention.self.value have no role.",
        "2 modules attention.output.dense have no role.",
        "2 modules output.dense have no role.",
        "qv: no module has such a role, so there is no recipe q,v.",
    )


@pytest.mark.parametrize("never", [["self_attn", "nothing", "mlp"], ["layers"], ["model"]])
def test_a_profile_that_leaves_nothing_to_adapt_is_named_as_the_cause(own: Path, tiny_model: TinyModel, never: list[str]) -> None:
    profile = yaml.safe_load(shipped_files("models")["llama"].read_bytes())
    file = own / "models" / "mine.yaml"
    file.write_text(yaml.safe_dump({**profile, "family": "my Llama", "never": never}))
    named = ", ".join(entry for entry in never if entry != "nothing")
    message = (
        rf"no linear module that LoRA could adapt: never: {named} of the profile for my Llama leaves none\. Let never name less"
    )
    model = str(tiny_model("llama"))
    with pytest.raises(BadInput, match=message):
        check_profile(file, model)
    for task in ("classification", "causal-lm"):
        with pytest.raises(BadInput, match=message):
            load_model(model, task, num_labels=2, device="cpu")


# --- the commands ---


def advisor(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["advisor", "profiles", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
    return int(exit.value.code or 0), out.getvalue(), err.getvalue()


def test_list_and_show(own: Path) -> None:
    (own / "models" / "llama.yaml").write_text(yaml.safe_dump({**MODEL, "family": "[bold]mine"}))
    code, out, _ = advisor("list")
    assert code == 0
    assert "[bold]mine  [your own]" in out
    assert str(own / "tasks") in out
    listed = json.loads(advisor("list", "--json")[1])
    assert {"kind": "models", "name": "llama", "own": True, "what": "[bold]mine"} in listed["profiles"]
    assert sum(entry["name"] == "llama" for entry in listed["profiles"]) == 1
    assert listed["own_folders"] == {kind: str(own / kind) for kind in KINDS}
    assert yaml.safe_load(advisor("show", "llama")[1])["family"] == "[bold]mine"
    assert yaml.safe_load(advisor("show", "tasks/cola")[1])["metric"] == "matthews"
    for name in ("nothing", "models/cola", "../llama", "x/llama"):
        code, out, err = advisor("show", name)
        assert (code, out) == (2, "")
        assert f"There is no profile {name}." in err


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-be", "utf-32", "utf-8-sig", "utf-8"])
def test_profiles_are_read_as_utf8_wherever_they_are_read(own: Path, tiny_model: TinyModel, encoding: str) -> None:
    file = own / "models" / "own.yaml"
    text = (
        shipped_files("models")["bert"]
        .read_bytes()
        .decode()
        .replace("family: ", "family: " if encoding == "utf-16-be" else "family: Größe ")
    )
    file.write_bytes(text.encode(encoding))
    answers = [advisor("show", "own"), advisor("check", file, "--model", tiny_model("bert")), advisor("list")]
    if encoding.startswith("utf-8"):
        assert [code for code, _, _ in answers] == [0, 0, 0]
        assert answers[0][1] == text
        assert "Größe" in answers[2][1]
    else:
        assert [(code, out) for code, out, _ in answers] == [(2, "")] * 3
        assert len({err for _, _, err in answers}) == 1
        assert answers[0][2].startswith(f"Error: {file} is not UTF-8")


def test_show_refuses_what_is_no_file(own: Path) -> None:
    (own / "models" / "own.yaml").mkdir()
    code, _, err = advisor("show", "own")
    assert code == 2
    assert "own.yaml: this is not a regular file" in err


def test_check_command(tiny_model: TinyModel, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(advisor("show", "bert")[1])
    code, out, _ = advisor("check", file, "--model", tiny_model("bert"))
    assert code == 0
    assert "attention/query: 2 modules attention.self.query" in out
    code, out, _ = advisor("check", file, "--model", tiny_model("gpt2"), "--json")
    assert code == 1
    assert json.loads(out)["applies"] is False
    file.write_text("famly: x")
    code, out, err = advisor("check", file, "--model", tiny_model("bert"))
    assert (code, out) == (2, "")
    assert "own.yaml: the field 'famly' is unknown (4 more such errors). Did you mean family?" in err
    for arguments in ((tmp_path / "none.yaml", "--model", tiny_model("bert")), (file, "--model", tmp_path)):
        code, _, err = advisor("check", *arguments)
        assert code == 2
        assert "Traceback" not in err
