"""The estimate before a probe, against what the probe itself says once the model is loaded."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest

from advisor.core.events import Note, Session
from advisor.data.dataset import load_dataset
from advisor.models.prepare import Source
from advisor.probe_cache import prepare_for_probe
from advisor.probing.cost_estimate import CHARACTERS_PER_TOKEN, estimate_probe
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from tui.inputs import Inputs
from tui.real_engine import RealEngine
from tui.real_preview import _texts

TEXT = "a film about {} that {} people liked"


@pytest.mark.parametrize(
    ("labels", "samples", "of_its_own", "rows", "backward"),
    [
        (("no", "yes"), 16, False, 16, 1),
        (("a", "b", "c"), 16, False, 16, 3),
        (("no", "yes"), None, False, 54, 1),  # six are split off to evaluate on
        (("no", "yes"), 59, True, 59, 1),
        (("no", "yes"), 100, True, 60, 1),
    ],
)
def test_setup_says_what_the_probe_does(
    tiny_model: Callable[..., Path],
    tmp_path: Path,
    labels: tuple[str, ...],
    samples: int | None,
    of_its_own: bool,
    rows: int,
    backward: int,
) -> None:
    """``of_its_own``: there is a file to evaluate on."""
    model = tiny_model("bert", num_labels=len(labels))
    data = tmp_path / "d.csv"
    lines = "".join(f"{TEXT.format(i, 7 * i)},{labels[i % len(labels)]}\n" for i in range(60))
    data.write_text("text,label\n" + lines, encoding="utf-8")
    evaluation = str(data) if of_its_own else None
    notes: list[str] = []
    session = Session(lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    source = Source(str(model), str(data), eval_data=evaluation)
    run_probe(prepare_for_probe(source, session, samples), ProbeSettings(samples), tmp_path / "p", session)
    said = next(note for note in notes if note.startswith("Probe: ") and "backward" in note)
    found = re.match(r"Probe: (\d+) rows, (\d+) tokens, .* one forward and (\d+) backward", said)
    assert found is not None, said
    cost = RealEngine().preview(Inputs(str(model), str(data), samples=samples, eval_data=evaluation)).cost
    told = re.match(r"Probing takes (\d+) rows, about ([\d,]+) tokens, one forward and (\d+) backward", cost)
    assert told is not None, cost
    assert (told[1], told[3]) == (found[1], found[3]) == (str(rows), str(backward))
    assert int(told[2].replace(",", "")) == pytest.approx(int(found[2]), rel=0.05)


def test_a_large_tokenizer_is_not_read_and_a_damaged_one_not_minded(
    tiny_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(tiny_model("bert", num_labels=2), tmp_path / "model"))
    counted, guessed = estimate_probe(model, "classification", 2, 9, [["a film"]]), 9 * (2 + 6 / CHARACTERS_PER_TOKEN)
    assert counted is not None
    assert counted.tokens != round(guessed)
    monkeypatch.setattr("advisor.probing.cost_estimate.QUICK_TO_READ", 10)
    large = estimate_probe(model, "classification", 2, 9, [["a film"]])
    monkeypatch.undo()
    (model / "tokenizer.json").write_text("{", encoding="utf-8")
    damaged = estimate_probe(model, "classification", 2, 9, [["a film"]])
    assert large is not None
    assert large == damaged
    assert large.tokens == round(guessed)


@pytest.mark.parametrize(
    ("name", "task", "classes", "backward"),
    [
        ("gpt2", "preference", 0, 1),
        ("gpt2", "kto", 0, 1),
        ("bert", "embedding", 0, 1),
        ("bert", "token-classification", 3, 2),
        ("bert", "question-answering", 0, 2),
    ],
)
def test_so_they_are_of_tasks_with_one_output_a_row(
    tiny_model: Callable[..., Path], tmp_path: Path, name: str, task: str, classes: int, backward: int
) -> None:
    model = tiny_model(name, task, classes or 2)
    data, _ = oracle.write_rows(tmp_path, task)
    notes: list[str] = []
    session = Session(lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    source = Source(str(model), str(data), eval_data=str(data))
    run_probe(prepare_for_probe(source, session, 16), ProbeSettings(16), tmp_path / "p", session)
    assert any("Probe: 16 rows, " in note and f"one forward and {backward} backward" in note for note in notes), notes
    texts = [_texts(example) for example in load_dataset(str(data)).examples]
    assert all(map(any, texts))
    found = estimate_probe(model, task, classes, len(texts), texts, samples=16)
    assert found is not None
    assert (found.rows, found.backward) == (16, backward)


def test_a_folder_without_safetensors_tells_nothing(tmp_path: Path) -> None:
    assert estimate_probe(tmp_path, "classification", 2, 9, [["text"]]) is None
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0[1, 2, 3")
    assert estimate_probe(tmp_path, "classification", 2, 9, [["text"]]) is None
