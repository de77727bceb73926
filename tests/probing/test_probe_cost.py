"""The estimate before a probe, against what the probe itself says once the model is loaded."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest

from advisor.core.events import Note, Session
from advisor.data.dataset import load_dataset
from advisor.models.prepare import Source
from advisor.probe_cache import prepare_for_probe
from advisor.probing.cost_estimate import estimate_probe
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings
from tui.real_preview import _characters

TEXT = "a film about {} that {} people liked"


@pytest.mark.parametrize(("labels", "backward"), [(("no", "yes"), 1), (("a", "b", "c"), 3)])
def test_passes_are_those_of_the_probe(
    tiny_model: Callable[..., Path], tmp_path: Path, labels: tuple[str, ...], backward: int
) -> None:
    model = tiny_model("bert", num_labels=len(labels))
    data = tmp_path / "d.csv"
    rows = "".join(f"{TEXT.format(i, 7 * i)},{labels[i % len(labels)]}\n" for i in range(60))
    data.write_text("text,label\n" + rows, encoding="utf-8")
    notes: list[str] = []
    session = Session(lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    run_probe(prepare_for_probe(Source(str(model), str(data)), session, 16), ProbeSettings(16), tmp_path / "p", session)
    said = next(note for note in notes if note.startswith("Probe: ") and "backward" in note)
    found = estimate_probe(model, "classification", len(labels), [len(TEXT)] * 60, samples=16)
    assert found is not None
    match = re.match(r"Probe: (\d+) rows, .* one forward and (\d+) backward", said)
    assert match is not None, said
    assert (str(found.rows), str(found.backward)) == match.groups()
    assert found.backward == backward
    assert found.flops > 0


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
    lengths = [_characters(example) for example in load_dataset(str(data)).examples]
    assert min(lengths) > 0
    found = estimate_probe(model, task, classes, lengths, samples=16)
    assert found is not None
    assert (found.rows, found.backward) == (16, backward)


def test_a_folder_without_safetensors_tells_nothing(tmp_path: Path) -> None:
    assert estimate_probe(tmp_path, "classification", 2, [10]) is None
    (tmp_path / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0[1, 2, 3")
    assert estimate_probe(tmp_path, "classification", 2, [10]) is None
