"""How layers are numbered where a model has several lists of blocks, or several lists of parts of the same blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from architectures import FAMILIES, build
from torch import nn

from advisor.core.targets import Target
from advisor.models.load import load_model
from advisor.models.modules import _first_layers, stacks_notes

SIZES = {"emb_dim": 24, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 64}


@pytest.mark.parametrize("config", ["XLMConfig", "FlaubertConfig"])
def test_lists_of_parts_of_the_same_blocks_are_the_same_layers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str
) -> None:
    monkeypatch.setitem(FAMILIES, "xlm", FAMILIES["roberta"]._replace(config=config, fields=SIZES))
    loaded = load_model(str(build("xlm", tmp_path / "model")), "classification", num_labels=2, device="cpu")
    for layer in range(3):
        here = [t for t in loaded.targets if t.layer == layer]
        assert {t.role for t in here if t.group == "attention"} == {"q_lin", "k_lin", "v_lin", "out_lin"}
        assert {t.role for t in here if t.group == "mlp"} == {"lin1", "lin2"}
        assert all(f".{layer}." in t.name for t in here)
    assert {t.layer for t in loaded.targets} == {0, 1, 2}
    assert not any(note.startswith("Layers ") for note in loaded.notes)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(2, 2)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mixer = Attention()
        self.up = nn.Linear(2, 2)


class Stacks(nn.Module):
    """Lists of blocks under one parent."""

    def __init__(self, **lists: tuple[Any, int]) -> None:
        super().__init__()
        self.top = nn.Module()
        for name, (kind, count) in lists.items():
            setattr(self.top, name, nn.ModuleList([kind() for _ in range(count)]))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("lists", "starts"),
    [
        ({"mixers": (Attention, 2), "mlps": (mlp, 2)}, [0, 0]),
        ({"mixers": (Attention, 2), "cross": (Attention, 2), "mlps": (mlp, 2)}, [0, 0, 0]),
        ({"first": (Block, 2), "second": (Block, 2)}, [0, 2]),  # encoder and decoder
        ({"mixers": (Attention, 2), "mlps": (mlp, 3)}, [0, 2]),
        ({"first": (mlp, 2), "second": (mlp, 2)}, [0, 2]),  # not parts of one block
        ({"whole": (Block, 2), "mixers": (Attention, 2), "mlps": (mlp, 2), "last": (Block, 1)}, [0, 2, 2, 4]),
    ],
)
def test_lists_of_whole_blocks_follow_one_another(lists: dict[str, tuple[Any, int]], starts: list[int]) -> None:
    model = Stacks(**lists)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert list(_first_layers(model, names).values()) == starts


def test_the_sentence_on_stacks_names_lists_of_parts_together() -> None:
    places = [("top.mixers.0.q", 0), ("top.mlps.0.up", 0), ("top.mlps.1.up", 1), ("dec.blocks.0.up", 2)]
    targets = [Target(name, layer, "up", "mlp", 2, 2) for name, layer in places]
    assert stacks_notes(targets) == ["Layers 0 to 1 are top.mixers and top.mlps, 2 to 2 are dec.blocks."]
    assert stacks_notes(targets[:3]) == []
