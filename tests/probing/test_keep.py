"""Rows to keep: targets that the model draws itself, and blocks between reference and training rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from probes import Stop, same

from advisor.core.errors import BadInput, Interrupted, NotFinite, OutOfMemory
from advisor.core.events import Session
from advisor.core.probe import BLOCKS_FILE, KeepBlocks, load_probe, save_probe
from advisor.models.encode import IGNORED, EncodedRow, encode
from advisor.models.prepare import Prepared, with_kept
from advisor.prediction.probe_view import subsample
from advisor.probing.keep import target_tokens, with_sampled_targets
from advisor.probing.run import run_probe
from advisor.probing.settings import ProbeSettings

SETTINGS = ProbeSettings(method="materialise")
PICKED = [30, 4, 17, 8, 22]  # rows of the training file that are also to be kept, in this order


def test_only_targets_change_and_a_seed_repeats_them(encoded: Callable[..., Any]) -> None:
    prepared, rows = encoded("llama", "causal-lm")
    drawn = with_sampled_targets(prepared.loaded, rows, 0, Session())
    assert drawn == with_sampled_targets(prepared.loaded, rows, 0, Session())
    assert drawn != with_sampled_targets(prepared.loaded, rows, 1, Session())
    for row, other in zip(rows, drawn, strict=True):
        assert other.ids == row.ids
        assert target_tokens(other) == target_tokens(row) > 0
        places = [t for t, label in enumerate(row.token_labels) if t and label != IGNORED]
        assert places == [t for t, label in enumerate(other.token_labels) if label != IGNORED]


def test_targets_are_drawn_from_the_models_own_prediction(encoded: Callable[..., Any]) -> None:
    """Of many copies of one row, against its probabilities."""
    prepared, rows = encoded("llama", "causal-lm")
    loaded, count = prepared.loaded, 500
    with torch.no_grad():
        loaded.model.lm_head.weight.mul_(20)  # else an untrained model likes all tokens alike
    ids = rows[0].ids[:5]
    drawn = with_sampled_targets(loaded, [EncodedRow(ids, token_labels=(IGNORED, *ids[1:]))] * count, 0, Session())
    with torch.no_grad():
        p = torch.softmax(loaded.model(input_ids=torch.tensor([ids])).logits[0].double(), -1).numpy()
    for t in range(1, 5):
        counts = np.bincount([other.token_labels[t] for other in drawn], minlength=p.shape[1])
        expected = p[t - 1] * count
        large = expected > 5
        assert large.any()
        assert (np.abs(counts - expected)[large] < 5 * np.sqrt(expected[large])).all()


# --- blocks -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(ready: Callable[..., Prepared], tmp_path: Path) -> Callable[[], Prepared]:
    """A tiny language model, its training rows, and some of these in another order as rows to keep."""
    _, rows = oracle.write_rows(tmp_path, "causal-lm")
    path = tmp_path / "keep.jsonl"
    path.write_text("".join(json.dumps(rows[i]) + "\n" for i in PICKED))
    return lambda: with_kept(ready("llama", "causal-lm"), str(path), Session())


def keep_of(probe: Any) -> KeepBlocks:
    assert probe.keep is not None
    return probe.keep


def test_cross_blocks_are_those_of_the_rows(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    """Rows that are both trained on and kept have the entries of G; the probe is otherwise the same as without."""
    prepared = kept()
    probe = run_probe(prepared, SETTINGS, tmp_path / "with", Session())
    keep = keep_of(probe)
    plain = run_probe(replace(prepared, kept=None), SETTINGS, tmp_path / "without", Session())
    assert plain.keep is None
    for name in ("weight_blocks", "gradient_blocks", "losses", "f0"):
        np.testing.assert_allclose(getattr(probe, name), getattr(plain, name), rtol=1e-3, atol=1e-6)
    scale = np.abs(plain.gradient_blocks).max()
    np.testing.assert_allclose(keep.loss / scale, plain.gradient_blocks[:, PICKED] / scale, atol=1e-5)
    np.testing.assert_allclose(keep.losses, plain.losses[PICKED], rtol=1e-5)
    assert probe.info["mean_tokens"] == plain.info["mean_tokens"]
    assert probe.info["footprint"] == plain.info["footprint"]


def test_score_blocks_equal_float64_autograd(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    prepared = kept()
    keep = keep_of(run_probe(prepared, SETTINGS, tmp_path / "p", Session()))
    assert prepared.kept is not None
    loaded, (rows, _) = prepared.loaded, encode(prepared.kept.data, prepared.loaded, prepared.max_length)
    drawn = with_sampled_targets(loaded, rows, SETTINGS.seed, Session())
    rows = [*drawn, *prepared.train_rows]
    texts = [oracle.Text(row.ids, row.token_labels) for row in rows]
    names = [f"{t.name}.weight" for t in loaded.targets]
    wanted = oracle.reference(loaded.model, names, texts, *oracle.scalars_of("causal-lm"))
    for m, name in enumerate(names):
        gradients = wanted.gradients[name]
        scores, train = gradients[: len(drawn)], gradients[len(drawn) :]
        assert oracle.relative(keep.score[m], scores @ train.T) < 1e-4
        assert oracle.relative(keep.energies[m], (scores**2).sum(1)) < 1e-4
    assert keep.tokens.tolist() == [target_tokens(row) for row in drawn]


def test_a_model_that_is_not_finite_is_named_and_lack_of_memory_said(
    kept: Callable[[], Prepared], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = kept()
    name = broken.loaded.targets[3].name
    with torch.no_grad():
        broken.loaded.model.get_submodule(name).weight.fill_(torch.nan)
    with pytest.raises(NotFinite, match=name):
        run_probe(broken, SETTINGS, tmp_path / "p", Session())

    def no_room(*_: Any, **__: Any) -> None:
        raise MemoryError

    prepared = kept()
    monkeypatch.setattr(prepared.loaded.model, "forward", no_room)
    with pytest.raises(OutOfMemory, match="One row of"):
        run_probe(prepared, SETTINGS, tmp_path / "q", Session())


def test_a_sketch_has_them_too(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    exact = keep_of(run_probe(kept(), SETTINGS, tmp_path / "exact", Session()))
    sketched = keep_of(run_probe(kept(), ProbeSettings(method="kronecker", sketch_size=256), tmp_path / "s", Session()))
    assert oracle.relative(sketched.loss, torch.as_tensor(exact.loss, dtype=torch.float64)) < 0.2


# --- the folder ---------------------------------------------------------------------------------------------------------


def alike(first: KeepBlocks, second: KeepBlocks) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


def test_they_are_stored_checked_and_found_again(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    probe = run_probe(kept(), SETTINGS, tmp_path / "p", Session())
    again = load_probe(tmp_path / "p")
    assert same(again, probe)
    assert alike(keep_of(again), keep_of(probe))
    assert again.info["keep"] == {"data": probe.info["keep"]["data"], "rows": len(PICKED)}
    assert alike(keep_of(run_probe(replace(kept(), kept=None), SETTINGS, tmp_path / "p", Session())), keep_of(probe))
    path = tmp_path / "p" / BLOCKS_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BadInput, match="SHA-256"):
        load_probe(tmp_path / "p")


@pytest.mark.parametrize("name", ["loss", "score", "energies", "losses", "tokens"])
def test_an_array_of_another_shape_is_refused(kept: Callable[[], Prepared], tmp_path: Path, name: str) -> None:
    probe = run_probe(kept(), SETTINGS, tmp_path / "p", Session())
    keep = keep_of(probe)
    save_probe(replace(probe, keep=replace(keep, **{name: getattr(keep, name)[..., :-1]})), tmp_path / "q")
    with pytest.raises(BadInput, match=f"keep_{name}"):
        load_probe(tmp_path / "q")


def test_other_rows_to_keep_are_another_probe(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    """Finished or not; without any an interrupted probe is not gone on with either."""
    prepared = kept()
    assert prepared.kept is not None
    other = replace(prepared, kept=replace(prepared.kept, fingerprint="other"))
    run_probe(prepared, SETTINGS, tmp_path / "p", Session())
    with pytest.raises(BadInput, match="another keep fingerprint"):
        run_probe(other, SETTINGS, tmp_path / "p", Session())
    with pytest.raises(Interrupted):
        run_probe(prepared, SETTINGS, tmp_path / "q", Stop("Kernel", 1).session)
    for asked in (other, replace(prepared, kept=None)):
        with pytest.raises(BadInput, match="another keep fingerprint"):
            run_probe(asked, SETTINGS, tmp_path / "q", Session())
    resumed = run_probe(kept(), SETTINGS, tmp_path / "q", Session())
    assert alike(keep_of(resumed), keep_of(load_probe(tmp_path / "p")))


def test_a_subsample_cuts_training_rows_only(kept: Callable[[], Prepared], tmp_path: Path) -> None:
    probe = run_probe(kept(), SETTINGS, tmp_path / "p", Session())
    some = np.array([1, 5, 6])
    cut = keep_of(subsample(probe, some))
    np.testing.assert_array_equal(cut.loss, keep_of(probe).loss[:, :, some])
    np.testing.assert_array_equal(cut.score, keep_of(probe).score[:, :, some])
    assert len(cut.losses) == len(cut.tokens) == len(PICKED)


def test_what_cannot_be_kept_is_said_of_keep(ready: Callable[..., Prepared], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="causal language models only"):
        with_kept(ready("bert", "binary"), "keep.jsonl", Session())
    with pytest.raises(BadInput, match="Rows to keep: There is no file") as caught:
        with_kept(ready("llama", "causal-lm"), str(tmp_path / "none.jsonl"), Session())
    assert "--keep" in caught.value.hint
    assert "--data" not in str(caught.value)
