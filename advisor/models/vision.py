"""Models of images and text: the parts they are made of, their processor, and what it makes of a row."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from advisor.core.choices import CONNECTOR, LANGUAGE, VISION
from advisor.core.errors import BadInput, loading
from advisor.data.hub import hub_hint
from advisor.data.turns import MARK
from advisor.models.config import quiet
from advisor.models.tables import output_table

if TYPE_CHECKING:
    from PIL.Image import Image

BETWEEN = re.compile(r"(^|[._])(merger|projector|connector|aligner)")  # the connector, where it lies within the vision tower
VIDEOS = "video_processor"
BY_TOKEN = ("input_ids", "attention_mask")


def text_part(model: Any) -> tuple[str, ...]:
    """The modules that hold the language model of a model that also reads images or sound; empty for one of text alone."""
    config = model.config
    text = config.get_text_config()
    return () if type(text) is type(config) else _parts(model, text)


def part_of(model: Any) -> Callable[[str], str]:
    """Which part of a model of images and text a module of some name belongs to: ``language``, ``vision`` or ``connector``;
    of any other model always ``language``."""
    seeing = getattr(getattr(model, "config", None), "vision_config", None)
    language = tuple(f"{name}." for name in text_part(model)) if seeing is not None else ()
    if not language:
        return lambda name: LANGUAGE
    vision, output = tuple(f"{name}." for name in _parts(model, seeing)), output_table(model)
    outside = {name for name, module in model.named_modules() if module is output}

    def part(name: str) -> str:
        if name in outside or name.startswith(language):
            return LANGUAGE
        return VISION if name.startswith(vision) and not BETWEEN.search(name) else CONNECTOR

    return part


def _parts(model: Any, config: Any) -> tuple[str, ...]:
    """The models within ``model`` that have a config of the class of ``config``."""
    inner = ((name, m) for name, m in model.named_modules() if name and isinstance(m, transformers.PreTrainedModel))
    return tuple(name for name, module in inner if type(module.config) is type(config))


def load_processor(name: str, config: Any, options: dict[str, Any]) -> Any:
    """transformers' processor of texts and images; without its part for videos where that cannot be loaded, as it needs
    torchvision.

    Raises:
        BadInput: there is none, or a package that it needs is missing.
    """
    hint = "Check its preprocessor_config.json and the tokenizer's files." if Path(name).exists() else hub_hint
    with loading(f"{name}: its processor of images and texts cannot be loaded", hint), quiet():
        kind: Any = PROCESSOR_MAPPING.get(type(config), None)
        if kind is None or VIDEOS not in kind.get_attributes():
            return transformers.AutoProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]
        try:
            return transformers.AutoProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]
        except ImportError:
            return _without_videos(kind, name, options)


def _without_videos(kind: Any, name: str, options: dict[str, Any]) -> Any:
    class ForImages(kind):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(None) if argument_name == VIDEOS else super().check_argument_for_proper_class(argument_name, argument)

    made: dict[str, Any] = {
        "image_processor": transformers.AutoImageProcessor.from_pretrained(name, **options),  # type: ignore[no-untyped-call]
        "tokenizer": transformers.AutoTokenizer.from_pretrained(name, **options),
    }
    about, _ = kind.get_processor_dict(name, **{key: options[key] for key in ("revision",) if options.get(key)})
    return ForImages.from_args_and_dict([made.get(part) for part in kind.get_attributes()], about)


def parts_of_turn(content: str) -> list[dict[str, str]]:
    """A turn's content, with ``MARK`` for images, as chat templates of such models take it."""
    pieces = re.split(f"({MARK})", content)
    return [{"type": "image"} if piece == MARK else {"type": "text", "text": piece} for piece in pieces if piece]


def takes_suffix(processor: Any) -> bool:
    """Whether it is told the answer apart from the prompt (PaliGemma)."""
    return "suffix" in inspect.signature(type(processor).__call__).parameters


def image_token(processor: Any) -> str:
    """What stands in a text for an image."""
    return str(getattr(processor, "image_token", "<image>"))


def processed(processor: Any, texts: Sequence[str], images: Sequence[Sequence[Image]], **more: Any) -> dict[str, torch.Tensor]:
    """What the model reads of some texts and the images of each, padded on the right.

    Raises:
        BadInput: marks and images do not agree, or an image cannot be used.
    """
    start = processor.tokenizer.bos_token
    given = {
        "text": list(texts),
        "images": [list(some) for some in images] if any(images) else None,
        "padding": len(texts) > 1,
        "padding_side": "right",
        "add_special_tokens": not (start and texts[0].startswith(start)),
        "return_tensors": "pt",
        **more,
    }
    try:
        return dict(processor(**given))
    except (ValueError, IndexError, StopIteration, RuntimeError, TypeError) as error:
        raise BadInput(f"The processor refuses a row: {' '.join(str(error).split())[:200]}", "Check the row's images.") from error


def by_token(made: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of what :func:`processed` gives for one text, what has a value for each token, besides ids and mask."""
    shape = made["input_ids"].shape
    return {key: value for key, value in made.items() if key not in (*BY_TOKEN, "labels") and value.shape == shape}


def short_input(processor: Any, image: Image) -> dict[str, torch.Tensor]:
    """A batch of one image and few words."""
    template = processor.tokenizer.chat_template
    turn = [{"role": "user", "content": parts_of_turn(f"{MARK}a b")}]
    text = processor.tokenizer.apply_chat_template(turn, tokenize=False) if template else f"{image_token(processor)}a b"
    made = processed(processor, [text], [[image]])
    return {key: value for key, value in made.items() if key != "labels"}
