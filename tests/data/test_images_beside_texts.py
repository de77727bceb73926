"""Rows of texts that name images: in parts of turns, in a column of their own, by path, bytes or address."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rowfiles import Write

from advisor.data.dataset import Dataset, load_dataset, overlap
from advisor.data.turns import MARK


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, bytes]:
    """``red.png`` and ``blue.png`` in ``pictures`` beside the data; their bytes."""
    found = {}
    for name in ("red", "blue"):
        held = io.BytesIO()
        Image.new("RGB", (6, 5), name).save(held, "PNG")
        found[name] = held.getvalue()
        path = tmp_path / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(found[name])
    return found


def turns(*parts: Any, answer: Any = "yes") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}]}


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def image(**source: Any) -> dict[str, Any]:
    return {"type": "image", **source}


def seen(dataset: Dataset) -> list[str]:
    """The colours of the images of all rows, as they lie on the disk or in the rows."""
    files = [file for example in dataset.examples for file in example.images]
    return ["red" if file.load("RGB").getpixel((0, 0)) == (255, 0, 0) else "blue" for file in files]


def test_parts_of_turns(write: Write, tmp_path: Path, pictures: dict[str, bytes]) -> None:
    address = "data:image/png;base64," + base64.b64encode(pictures["blue"]).decode()
    rows = [
        turns(text("look"), image(image="pictures/red.png"), text("well"), text("?")),
        turns(image(path=str(tmp_path / "pictures" / "blue.png"), text=None), text("this")),
        turns({"type": "image_url", "image_url": {"url": address}}, text("that")),
        turns({"type": "input_image", "image_url": "file://pictures/red.png"}, text("those")),
        turns(text("no image")),
    ]
    dataset = load_dataset(write("a.jsonl", rows), sees=True)
    told = [example.messages[0][1] for example in dataset.examples]
    assert told == [f"look{MARK}well\n?", f"{MARK}this", f"{MARK}that", f"{MARK}those", "no image"]
    assert seen(dataset) == ["red", "blue", "blue", "red"]


@pytest.mark.usefixtures("pictures")
def test_a_column_of_images_fills_the_marks_and_else_comes_first(write: Write) -> None:
    red, blue = "pictures/red.png", "pictures/blue.png"
    say = [{"from": "human", "value": "one <image> and <image>"}, {"from": "gpt", "value": "yes"}]
    unmarked = [{"from": "system", "value": "be short"}, {"from": "human", "value": "which"}, {"from": "gpt", "value": "yes"}]
    rows = [{"conversations": say, "images": [red, blue]}, {"conversations": unmarked, "images": [blue]}]
    dataset = load_dataset(write("a.jsonl", rows), sees=True)
    assert dataset.schema.text_columns == ("images", "conversations")
    assert dataset.examples[0].messages[0] == ("user", f"one {MARK} and {MARK}")
    assert dataset.examples[1].messages[:2] == (("system", "be short"), ("user", f"{MARK}which"))
    assert seen(dataset) == ["red", "blue", "blue"]
    asked = [
        {"image": red, "question": "which colour?", "answer": "red"},
        {"image": {"path": blue}, "question": "<image>?", "answer": "b"},
    ]
    dataset = load_dataset(write("b.jsonl", asked), sees=True)
    assert dataset.schema.text_columns == ("image", "question", "answer")
    assert [(e.prompt, e.completion) for e in dataset.examples] == [(f"{MARK}which colour?", "red"), (f"{MARK}?", "b")]
    assert seen(dataset) == ["red", "blue"]


@pytest.mark.usefixtures("pictures")
def test_what_cannot_be_read_is_left_out_with_the_reason(write: Write) -> None:
    red = "pictures/red.png"
    rows = [
        turns(image(image=red), text("good")),
        turns(image(image="https://example.org/a.png"), text("far")),
        turns(image(), text("none")),
        turns(text("said"), answer=[text("here"), image(image=red)]),
        turns({"type": "video", "video": "a.mp4"}, text("moving")),
        turns(image(image=7), text("odd")),
        turns(image(image="data:image/png;base64,§"), text("broken")),
    ]
    dataset = load_dataset(write("a.jsonl", rows), sees=True)
    assert [example.messages[0][1] for example in dataset.examples] == [f"{MARK}good"]
    notes = " ".join(dataset.notes)
    for reason in (
        "an image at a web address (only files are read)",
        "more marks of images than images",
        "an image in the answer",
        "a video in a turn",
        "an image that no path names",
        "a damaged data: address",
    ):
        assert f"Left out: 1 row with {reason}" in notes


@pytest.mark.usefixtures("pictures")
def test_a_model_of_text_does_not_read_them(write: Write) -> None:
    rows = [turns(image(image="pictures/red.png"), text("one")), turns(text("two"))]
    dataset = load_dataset(write("a.jsonl", rows))
    assert [example.messages[0][1] for example in dataset.examples] == ["two"]
    assert any("with an image in a turn (only text is read)" in note for note in dataset.notes)


@pytest.mark.usefixtures("pictures")
def test_rows_that_differ_in_an_image_only_are_not_the_same(write: Write) -> None:
    first = load_dataset(write("a.jsonl", [turns(image(image="pictures/red.png"), text("one"))]), sees=True)
    second = load_dataset(write("b.jsonl", [turns(image(image="pictures/blue.png"), text("one"))]), sees=True)
    assert overlap(first, second) == 0
    assert first.fingerprint != second.fingerprint
    same = load_dataset(write("c/d.jsonl", [turns(image(image="../pictures/red.png"), text("one"))]), sees=True)
    assert same.fingerprint == first.fingerprint
