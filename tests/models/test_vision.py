"""Models of images and text: parts, rows as their processors make them, what is cut, and what each tool is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import vision_language
import yaml
from vision_language import FAMILIES

from advisor.core.errors import BadInput
from advisor.core.events import Note, Session
from advisor.core.store import user_folder
from advisor.core.targets import LoraSettings, Selection
from advisor.export import FORMATS
from advisor.export.plan import Plan
from advisor.export.proof import prove_file
from advisor.models.encode import collate
from advisor.models.load import load_model, meta_model
from advisor.models.prepare import Prepared, Source, prepare
from advisor.probing.run import ProbeSettings, run_probe

Seeing = Callable[[str], Path]
QUICK = ("qwen3_vl", "llava", "paligemma")
EACH = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
GROUPS = {"language": {"attention", "mlp"}, "vision": {"vision", "connector"}, "all": {"attention", "mlp", "vision", "connector"}}


@pytest.fixture(scope="session")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Seeing:
    """``seeing(name)`` -> model folder, built once."""
    built: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in built:
            built[name] = vision_language.build(name, tmp_path_factory.mktemp(name) / "model")
        return built[name]

    return get


def prepared(model: Path, data: Path, **more: object) -> tuple[Prepared, list[str]]:
    notes: list[str] = []
    session = Session(lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    found = prepare(Source(str(model), str(data), eval_data=str(data), device="cpu", **more), session)  # type: ignore[arg-type]
    assert found.loaded.reads == "images and text"
    return found, notes


@pytest.mark.parametrize("turns", [True, False])
@pytest.mark.parametrize("name", EACH)
def test_rows_are_what_the_processor_makes_of_them(seeing: Seeing, tmp_path: Path, name: str, turns: bool) -> None:
    if turns and not FAMILIES[name].mark:
        pytest.skip("it has no chat template")
    data, rows = vision_language.write_rows(tmp_path, turns=turns, with_texts=bool(FAMILIES[name].mark))
    found, _ = prepared(seeing(name), data)
    loaded = found.loaded
    for row, made in zip(rows, found.train_rows, strict=True):
        ids, labels, beside = vision_language.read(loaded.processor, row)
        assert list(made.ids) == ids
        assert list(made.token_labels) == labels
        batch = collate([made], loaded)
        for key, value in beside.items():
            assert torch.equal(batch[key], value), key
    lengths = [row.length for row in found.train_rows]
    batch = collate(found.train_rows, loaded)
    batch.pop("labels")
    with torch.no_grad():  # together as alone
        together = loaded.model(**batch).logits
        for index, row in enumerate(found.train_rows):
            alone = collate([row], loaded)
            alone.pop("labels")
            assert torch.allclose(loaded.model(**alone).logits[0], together[index, : lengths[index]], atol=1e-4)


@pytest.mark.parametrize("adapt", GROUPS)
@pytest.mark.parametrize("name", EACH)
def test_only_the_parts_that_are_named_have_targets(seeing: Seeing, name: str, adapt: str) -> None:
    loaded = load_model(str(seeing(name)), "causal-lm", device="cpu", adapt=adapt)
    expected = GROUPS[adapt] - ({"connector"} if name == "gemma3" else set())  # a bare parameter
    assert {t.group for t in loaded.targets} == expected
    seen = [t for t in loaded.targets if t.group in ("vision", "connector")]
    assert all(("vision" in t.name or "visual" in t.name) == (t.group == "vision") or "merger" in t.name for t in seen)
    assert all(t.role.startswith(f"{t.group}.") for t in seen)
    assert {t.role for t in loaded.targets if t not in seen} <= {"query", "key", "value", "output", "gate", "up", "down"}
    numbers = [t.layer for t in loaded.targets if t.layer is not None]
    assert set(numbers) == set(range(4 if adapt == "all" else 2))
    said = [note for note in loaded.notes if "--adapt all adapts" in note]
    assert len(said) == (adapt != "all")
    if adapt == "language":
        assert said[0].startswith("The vision tower ")


@pytest.mark.parametrize(
    ("adapt", "never"), [("vision", ["vision_tower", "multi_modal_projector"]), ("language", ["language_model"])]
)
def test_a_profile_that_leaves_nothing_in_a_part_is_named(
    seeing: Seeing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapt: str, never: list[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    user_folder("models").mkdir(parents=True)
    profile = {"family": "mine", "model_types": ["llava"], "roles": {"q": "attention/query"}, "qv": ["query"], "never": never}
    (user_folder("models") / "own.yaml").write_text(yaml.safe_dump(profile))
    with pytest.raises(BadInput, match=f"--adapt {adapt}: .*: never: {', '.join(never)} of the profile for mine leaves none"):
        load_model(str(seeing("llava")), "causal-lm", device="cpu", adapt=adapt)


def test_parts_of_a_model_of_text(tiny_model: Callable[..., Path]) -> None:
    folder = str(tiny_model("llama", "causal-lm"))
    with pytest.raises(BadInput, match="--adapt vision"):
        load_model(folder, "causal-lm", device="cpu", adapt="vision")
    found = [load_model(folder, "causal-lm", device="cpu", adapt=adapt).targets for adapt in ("language", "all")]
    assert found[0] == found[1]


def test_what_stands_for_an_image_is_never_cut(seeing: Seeing, tmp_path: Path) -> None:
    data, _ = vision_language.write_rows(tmp_path)
    whole, _ = prepared(seeing("llava"), data)
    prompts = [sum(label == -100 for label in row.token_labels) for row in whole.train_rows]
    limit = sorted(prompts)[8] + 1
    found, notes = prepared(seeing("llava"), data, max_length=limit)
    image = found.loaded.model.config.image_token_id
    counts = {row.text: row.ids.count(image) for row in whole.train_rows}
    assert all(row.length <= limit and row.ids.count(image) == counts[row.text] for row in found.train_rows)
    assert 0 < len(found.train_rows) < len(whole.train_rows)
    assert any("rows had no target token left and were dropped" in note for note in notes)


def test_rows_whose_marks_and_images_do_not_agree_are_left_out(seeing: Seeing, tmp_path: Path) -> None:
    data, _ = vision_language.write_rows(tmp_path, 6)
    (tmp_path / "pictures" / "00-0.png").write_text("no image")
    row = {"messages": [{"role": "user", "content": "what is <image>"}, {"role": "assistant", "content": "a mark"}]}
    with data.open("a") as file:
        file.write(json.dumps(row) + "\n")
    found, notes = prepared(seeing("llava"), data)
    assert len(found.train_rows) == 5
    assert any("Left out: 2 rows. First: " in note and "00-0.png cannot be read: it is no image" in note for note in notes)


@pytest.mark.parametrize("adapt", GROUPS)
def test_every_tool_is_told_exact_names(seeing: Seeing, adapt: str) -> None:
    """A name that the vision tower has too, such as q_proj, is adapted where it was chosen only."""
    model = seeing("llava")
    loaded = load_model(str(model), "causal-lm", device="cpu", adapt=adapt)
    chosen = tuple(t.name for t in loaded.targets[::3])
    plan = Plan(
        Selection("some", chosen), LoraSettings(4, 8), loaded.targets, "causal-lm", (), str(model), "llava", reads=loaded.reads
    )
    empty = meta_model(str(model), "images-and-text")
    fidelities = {}
    for target in FORMATS.values():
        for file, rendered in target.render(plan).files.items():
            prove_file(target, file, rendered, plan, empty)
            fidelities[file] = rendered.fidelity
    assert fidelities.pop("unsloth_studio.yaml") == "impossible"
    assert set(fidelities.values()) == {"exact"}


def test_a_batch_without_images_and_one_row_of_text(seeing: Seeing, tmp_path: Path) -> None:
    data, _ = vision_language.write_rows(tmp_path)
    found, _ = prepared(seeing("qwen3_vl"), data)
    texts = [row for row in found.train_rows if not row.images]
    assert texts
    assert set(collate(texts, found.loaded)) == {"input_ids", "attention_mask", "labels", "mm_token_type_ids"}


@pytest.mark.slow
def test_a_probe_of_all_parts_recomputed_and_sketched(seeing: Seeing, tmp_path: Path) -> None:
    """Recomputed it is the same; a sketch comes near, though the vision tower sees the images of all rows at once."""
    data, _ = vision_language.write_rows(tmp_path)
    found, _ = prepared(seeing("qwen3_vl"), data, adapt="all")
    probes = {
        name: run_probe(found, ProbeSettings(**how), tmp_path / name, Session())  # type: ignore[arg-type]
        for name, how in {
            "plain": {"method": "materialise"},
            "recomputed": {"method": "materialise", "recompute": True},
            "sketched": {"method": "kronecker"},
        }.items()
    }
    blocks = {name: probe.weight_blocks for name, probe in probes.items()}
    assert np.array_equal(blocks["plain"], blocks["recomputed"])
    norms = np.linalg.norm(blocks["plain"], axis=(1, 2))
    apart = np.linalg.norm(blocks["plain"] - blocks["sketched"], axis=(1, 2)) / norms
    assert np.median(apart) < 0.4
    without = [index for index, row in enumerate(found.train_rows) if not row.images]
    seen = [index for index, t in enumerate(probes["plain"].targets) if t.group in ("vision", "connector")]
    assert without
    assert not blocks["plain"][seen][:, without].any()
