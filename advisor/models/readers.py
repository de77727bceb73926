"""What makes a model's input of rows: its tokenizer, its image processor, or the processor of both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from advisor.core.errors import BadInput, loading
from advisor.core.tasks import TOKENS
from advisor.core.text import printable
from advisor.data.hub import hub_hint
from advisor.data.images import blank_image, image_batch
from advisor.models.config import BOTH, loaded_as, of_images, quiet
from advisor.models.placement import device_of
from advisor.models.rows import IGNORED
from advisor.models.tables import input_table, output_table
from advisor.models.vision import load_processor, short_input


@dataclass(frozen=True)
class Readers:
    """Those of transformers: of images alone an image processor; of images and text a processor, and the tokenizer in it."""

    tokenizer: Any = None
    image_processor: Any = None
    processor: Any = None

    @property
    def first(self) -> Any:
        """The one that makes a whole row's input."""
        return self.processor or self.image_processor or self.tokenizer


def load_readers(name: str, task: str, config: Any, options: dict[str, Any]) -> Readers:
    """Those of a model folder or hub id; ``options`` are those of ``from_pretrained``.

    Raises:
        BadInput: one cannot be loaded; names it.
    """
    if of_images(config):
        return Readers(image_processor=_load_image_processor(name, options))
    processor = load_processor(name, config, options) if loaded_as(config, task) == BOTH else None
    tokenizer = getattr(processor, "tokenizer", None) or _load_tokenizer(name, options, words=task == TOKENS)
    _check_length(name, tokenizer.model_max_length)
    return Readers(tokenizer, processor=processor)


def _check_length(name: str, length: Any) -> None:
    """Raises:
    BadInput: the tokenizer's longest text is no number, or leaves no room for one.
    """
    if type(length) not in (int, float) or not length >= 2:
        raise BadInput(
            f"{name}: model_max_length in tokenizer_config.json is {printable(repr(length), 60)}, not a number of at least 2.",
            "Correct it, or remove the field.",
        )


def _load_tokenizer(name: str, options: dict[str, Any], words: bool) -> Any:
    """``words``: for rows that are split into words, before each of which some families need a blank (GPT-2, RoBERTa)."""
    hint = "Check the tokenizer's files." if Path(name).exists() else hub_hint
    with loading(f"{name}: its tokenizer cannot be loaded", hint), quiet():
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name, **options)
        if words and getattr(tokenizer, "add_prefix_space", None) is False:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, add_prefix_space=True, **options)
        if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up without any file
            raise BadInput(f"{name}: its tokenizer has no vocabulary.", "Add the tokenizer's files.")
    return tokenizer


def _load_image_processor(name: str, options: dict[str, Any]) -> Any:
    with loading(f"{name}: its image processor cannot be loaded", "Check its preprocessor_config.json."), quiet():
        return transformers.AutoImageProcessor.from_pretrained(name, **options)  # type: ignore[no-untyped-call]


def short_batch(model: Any, reader: Any) -> dict[str, torch.Tensor]:
    """A batch of one short text or blank image, or both, as its tokenizer or processor makes it."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    if isinstance(reader, transformers.ProcessorMixin):
        made = short_input(reader, blank_image(model.config))
        return {key: t.to(device_of(model), dtype if t.is_floating_point() else None) for key, t in made.items()}
    if not isinstance(reader, transformers.PreTrainedTokenizerBase):
        return {"pixel_values": image_batch([blank_image(model.config)], reader).to(device_of(model), dtype)}
    encoded = reader("a b c d", return_tensors="pt")  # CANINE reads four characters or more
    batch = {
        key: encoded[key].to(device_of(model)) for key in ("input_ids", "attention_mask", "token_type_ids") if key in encoded
    }
    if model.config.is_encoder_decoder and output_table(model) is not None:
        batch["decoder_input_ids"] = decoder_input(batch["input_ids"], model)
    return batch


def check_direction(name: str, model: Any, tokenizer: Any, task: str) -> None:
    """Raises:
    BadInput: a token changes what a causal language model predicts before it, as in encoders and XLNet.
    """
    batch = short_batch(model, tokenizer)
    ids = batch["input_ids"]
    other = torch.cat([ids[:, :-1], ids[:, :1] if ids[0, 0] != ids[0, -1] else ids[:, 1:2]], 1)
    with torch.no_grad():
        first, second = (model(**{**batch, "input_ids": each})[0][:, :-1].double() for each in (ids, other))
    if (first - second).abs().max() > beyond_rounding(model) * first.abs().max():
        raise BadInput(
            f"{name}: {model.config.model_type} reads a text from both sides, so it sees the words that {task} has it predict.",
            "Use a causal language model, or a task of classes.",
        )


def beyond_rounding(model: Any) -> float:
    """A relative difference of two passes over one text that is more than rounding."""
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return max(1e-3, 8 * torch.finfo(dtype).eps)


def decoder_input(labels: torch.Tensor, model: Any) -> torch.Tensor:
    """What a decoder reads to predict ``labels`` [B, T], as transformers' own data collator has it: a start token, then each but
    the last. Families that have no method for it (M2M100, Blenderbot) do the same within their model."""
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        shifted: torch.Tensor = model.prepare_decoder_input_ids_from_labels(labels)
        return shifted
    start = torch.full_like(labels[:, :1], model.config.decoder_start_token_id)
    return torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, model.config.pad_token_id)], 1)


def check_start(name: str, model: Any) -> None:
    """Raises:
    BadInput: the token that an encoder-decoder's targets start with is missing, or none that its decoder embeds.
    """
    if not model.config.is_encoder_decoder:
        return
    start = getattr(model.config, "decoder_start_token_id", None)
    what = f"{name}: config.json: decoder_start_token_id is {'missing' if start is None else printable(repr(start), 60)}"
    hint = "Give the token that the model was trained to start a target with."
    with loading(f"{what}, so no target can be started", hint):
        target = int(getattr(model.config, "pad_token_id", None) == 0)  # any token but padding, which mBART's targets start after
        first = int(decoder_input(torch.full((1, 1), target, device=device_of(model)), model))
        rows = embedded_tokens(model.get_decoder())
    if not 0 <= first < (first + 1 if rows is None else rows):
        raise BadInput(f"{what}, so targets start with token {first}, and the decoder embeds {rows:,} tokens.", hint)


def embedded_tokens(model: Any) -> int | None:
    """How many tokens the model embeds; None where it cannot be told."""
    weight = getattr(input_table(model), "weight", None)
    return None if weight is None else int(weight.shape[0])


def settle_padding(name: str, tokenizer: Any, model: Any) -> list[str]:
    """Let tokenizer and config agree on a padding token that the model embeds; a sentence where they did not.

    Raises:
        BadInput: the tokenizer has no token for it.
    """
    notes, config = [], model.config
    rows = embedded_tokens(model)
    if rows is not None and tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows:
        notes.append(f"The padding token {tokenizer.pad_token!r} is beyond the {rows:,} tokens that the model embeds: not used.")
        tokenizer.pad_token = None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            raise BadInput(f"{name}: the tokenizer has neither a padding nor an end token.", "Add one to its files.")
    if getattr(config, "pad_token_id", None) not in (None, tokenizer.pad_token_id):  # a classifier would read a row's padding
        notes.append(
            f"Padding is token {tokenizer.pad_token_id}, as the tokenizer has it, not {config.pad_token_id}, as the "
            "config has it. Train with the same."
        )
    config.pad_token_id = tokenizer.pad_token_id
    return notes
