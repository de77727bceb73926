"""Folders of images: classes, parts, what is left out, and what a model of images is fed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import oracle
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from advisor.core.errors import BadInput
from advisor.core.events import Note, Session
from advisor.data.dataset import load_dataset, overlap
from advisor.data.schema import Schema
from advisor.models.encode import collate, encode, resolve_max_length
from advisor.models.load import load_model
from advisor.models.prepare import Source, prepare, read_data

TinyModel = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """24 images, half of them in ``blue``, half in ``red``."""
    oracle.write_images(tmp_path / "images", count=24)
    return tmp_path / "images"


def test_subfolders_are_classes(folder: Path) -> None:
    found = load_dataset(str(folder))
    assert found.schema == Schema("classification", ("image",), "label", ("blue", "red"), "accuracy")
    assert [e.label for e in found.examples] == [0] * 12 + [1] * 12
    assert [e.image.path for e in found.examples if e.image] == sorted(folder.rglob("*.png"))
    assert found.notes == (
        f"The images of {folder}; each subfolder is a class.",
        "The task is classification.",
        "There are 2 classes: blue, red.",
        "The metric is accuracy.",
    )


def test_images_may_lie_deeper_and_be_of_any_kind(folder: Path) -> None:
    (folder / "red" / "more").mkdir()
    Image.new("L", (9, 5)).save(folder / "red" / "more" / "GREY.JPEG")
    Image.new("RGBA", (9, 5)).save(folder / "red" / "clear.webp")
    found = load_dataset(str(folder))
    assert sum(e.label == 1 for e in found.examples) == 14
    assert {e.image.load("RGB").mode for e in found.examples if e.image} == {"RGB"}


def test_parts_are_read_apart(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("validation", 8), ("test", 4)):
        oracle.write_images(tmp_path / part, count=count)
        (tmp_path / part / "red" / "own.png").write_bytes(part.encode())  # told apart by its content, not its name
    train, evaluation = read_data(Source("", str(tmp_path)), Session())
    assert (len(train.examples), len(evaluation.examples)) == (21, 9)
    assert evaluation.source == str(tmp_path / "validation")
    assert overlap(train, evaluation) == 4  # the blue ones: of one seed, while the red ones come later there


def test_a_folder_of_classes_may_be_the_evaluation_data(folder: Path, tmp_path: Path) -> None:
    oracle.write_images(tmp_path / "held out", count=6)
    _, evaluation = read_data(Source("", str(folder), eval_data=str(tmp_path / "held out")), Session())
    assert len(evaluation.examples) == 6
    train, split = read_data(Source("", str(folder)), Session())
    assert (len(train.examples), len(split.examples)) == (22, 2)
    assert {e.label for e in split.examples} == {0, 1}


def test_what_is_left_out_is_said(folder: Path) -> None:
    (folder / "green").mkdir()
    (folder / "blue" / "notes.txt").write_text("no image")
    (folder / "blue" / ".DS_Store").write_bytes(b"hidden")
    (folder / "README.md").write_text("beside the classes")
    found = load_dataset(str(folder))
    assert len(found.examples) == 24
    assert found.notes[1:3] == (
        "Left out: subfolders without an image: green.",
        "Left out: 1 file of another kind: blue/notes.txt.",
    )


def test_twice_the_same_image_is_counted(folder: Path) -> None:
    shutil.copy(folder / "blue" / "000.png", folder / "blue" / "copy.png")
    shutil.copy(folder / "blue" / "001.png", folder / "red" / "liar.png")
    assert load_dataset(str(folder)).notes[-2:] == (
        "1 row repeats an earlier row exactly.",
        "1 image stands with different labels: 'liar.png'.",
    )


def test_the_fingerprint_is_of_the_images_wherever_they_lie(folder: Path, tmp_path: Path) -> None:
    first = load_dataset(str(folder)).fingerprint
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert load_dataset(str(moved)).fingerprint == first
    Image.new("RGB", (9, 5)).save(moved / "red" / "012.png")
    assert load_dataset(str(moved)).fingerprint != first


def test_errors(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none" / "cat").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"no train\.jsonl"):
        load_dataset(str(tmp_path / "none"))
    with pytest.raises(BadInput, match=r"holds images but no class folders.*one subfolder a class"):
        load_dataset(str(folder / "red"))
    with pytest.raises(BadInput, match="which column holds the text"):
        load_dataset(str(folder), task="causal-lm")
    shutil.rmtree(folder / "red")
    with pytest.raises(BadInput, match="every label in column label is 'blue'"):
        load_dataset(str(folder))


def test_an_unknown_class_in_the_evaluation_images(folder: Path, tmp_path: Path) -> None:
    oracle.write_images(tmp_path / "other", ("blue", "green"), 4)
    with pytest.raises(BadInput, match=r"green/002.png: the class 'green' is not among the training classes"):
        read_data(Source("", str(folder), eval_data=str(tmp_path / "other")), Session())


# --- what a model is fed ----------------------------------------------------------------------------------------------


def test_pixels_are_the_image_processors(tiny_model: TinyModel, folder: Path) -> None:
    loaded = load_model(str(tiny_model("vit")), "classification", num_labels=2, device="cpu")
    data = load_dataset(str(folder))
    rows, notes = encode(data, loaded, resolve_max_length(None, loaded))
    batch = collate(rows[10:14], loaded)
    assert notes == []
    assert [row.length for row in rows] == [17] * 24
    assert batch["labels"].tolist() == [0, 0, 1, 1]
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(folder.rglob("*.png"))[10:14]]
    wanted = ViTImageProcessor(size={"height": 16, "width": 16})(images=pictures, return_tensors="pt")["pixel_values"]
    assert torch.equal(batch["pixel_values"], wanted)
    assert set(batch) == {"pixel_values", "labels"}


def test_damaged_images_are_left_out_and_said(tiny_model: TinyModel, folder: Path) -> None:
    good = (folder / "blue" / "000.png").read_bytes()
    (folder / "blue" / "000.png").write_bytes(good[: len(good) // 2])
    (folder / "red" / "020.png").write_text("not an image at all")
    said: list[str] = []
    session = Session(lambda event: said.append(event.text) if isinstance(event, Note) else None)
    prepared = prepare(Source(str(tiny_model("vit")), str(folder), eval_data=str(folder), device="cpu"), session)
    assert len(prepared.train_rows) == len(prepared.eval_rows) == 22
    (note,) = [text for text in said if text.startswith("Training data: ")]
    assert note.startswith("Training data: Left out: 2 images that cannot be read. First: ")
    assert "blue/000.png cannot be read: " in note
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"000.png cannot be read: it is no image.*Remove or replace it"):
        prepare(Source(str(tiny_model("vit")), str(folder), eval_data=str(folder), device="cpu"), Session()).load()


def test_images_and_texts_are_not_taken_for_each_other(tiny_model: TinyModel, folder: Path, tmp_path: Path) -> None:
    texts, _ = oracle.write_rows(tmp_path, "binary")
    with pytest.raises(BadInput, match=r"holds images, and .* reads text"):
        prepare(Source(str(tiny_model("bert")), str(folder), device="cpu"), Session()).load()
    with pytest.raises(BadInput, match=r"holds text, and .* reads images"):
        prepare(Source(str(tiny_model("vit")), str(texts), device="cpu"), Session()).load()


def test_a_model_of_images_without_its_processor(tiny_model: TinyModel, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model("vit"), tmp_path / "model")
    for path in (model / "preprocessor_config.json", model / "processor_config.json"):
        path.unlink(missing_ok=True)
    with pytest.raises(BadInput, match=r"image processor cannot be loaded.*preprocessor_config\.json"):
        load_model(str(model), "classification", num_labels=2, device="cpu")
