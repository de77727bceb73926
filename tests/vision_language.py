"""Tiny random models of images and text, with the files of their processors; and rows of images and text."""

from __future__ import annotations

import inspect
import json
import string
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from architectures import DROPOUT, INNER, WIDTH, WORDS
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers.models.smolvlm import processing_smolvlm as smolvlm

LENGTH = 512
SIDE, PATCH = 16, 4  # pixels of an image as the processor makes it, and of a patch
SEES = {
    "hidden_size": 20,
    "intermediate_size": 28,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "attention_dropout": DROPOUT,
}
SEES |= {"image_size": SIDE, "patch_size": PATCH}
READS = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": 4}
READS |= {"num_key_value_heads": 2, "max_position_embeddings": LENGTH, "attention_dropout": DROPOUT}
GEMMA = {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]}
QWEN_SEES = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 28,
    "num_heads": 2,
    "patch_size": PATCH,
    "out_hidden_size": WIDTH,
}
QWEN_TOKENS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
QWEN_IDS = {"vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
QWEN_IDS |= {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_IMAGES = {"patch_size": PATCH, "merge_size": 2, "size": {"shortest_edge": 64, "longest_edge": 256}}
SQUARE = {"size": {"height": SIDE, "width": SIDE}}
TILES = {"size": {"longest_edge": 2 * SIDE}, "max_image_size": {"longest_edge": SIDE}}
TILE_TOKENS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
TILE_TOKENS += tuple(f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2))
SPECIALS = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}
# A turn is its role, its parts and an end token; MARK is how a family writes an image.
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}MARK{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<eos>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Family(NamedTuple):
    """How to build one family.

    Attributes:
        title: the name people know. model_type: of its config.
        text, vision: what the parts of its config are given. fields: what the whole is.
        tokens: special tokens of its own. ids: fields that are ids of tokens. named: tokens that its tokenizer has as attributes.
        mark: how its template writes an image; None: it has no template.
        processor: its class. images: its image processor's, and what that is given. own: what the processor is given.
    """

    title: str
    model_type: str
    text: dict[str, Any]
    vision: dict[str, Any]
    fields: dict[str, Any]
    tokens: tuple[str, ...]
    ids: dict[str, str]
    mark: str | None
    processor: str
    images: tuple[str, dict[str, Any]]
    own: Mapping[str, Any] = MappingProxyType({})
    named: Mapping[str, str] = MappingProxyType({})


FAMILIES = {
    "qwen2_5_vl": Family(
        "Qwen2.5-VL",
        "qwen2_5_vl",
        {**READS, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 1]}},
        {**QWEN_SEES, "window_size": 8, "fullatt_block_indexes": [1]},
        {},
        QWEN_TOKENS,
        QWEN_IDS,
        QWEN_MARK,
        "Qwen2_5_VLProcessor",
        ("Qwen2VLImageProcessor", QWEN_IMAGES),
    ),
    "qwen3_vl": Family(
        "Qwen3-VL",
        "qwen3_vl",
        {**READS, "head_dim": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}},
        {**QWEN_SEES, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        {},
        QWEN_TOKENS,
        QWEN_IDS,
        QWEN_MARK,
        "Qwen3VLProcessor",
        ("Qwen2VLImageProcessor", QWEN_IMAGES),
    ),
    "gemma3": Family(
        "Gemma 3",
        "gemma3",
        {**READS, **GEMMA},
        {**SEES, "vision_use_head": False},
        {"mm_tokens_per_image": 4},
        ("<start_of_image>", "<end_of_image>", "<image_soft_token>"),
        {"boi_token_index": "<start_of_image>", "eoi_token_index": "<end_of_image>", "image_token_index": "<image_soft_token>"},
        "<start_of_image>",
        "Gemma3Processor",
        ("Gemma3ImageProcessor", SQUARE),
        {"image_seq_length": 4},
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    ),
    "llava": Family(
        "LLaVA",
        "llava",
        {"model_type": "llama", **READS},
        {"model_type": "clip_vision_model", **SEES, "projection_dim": 20},
        {"vision_feature_layer": -2, "image_seq_length": 16},
        ("<image>",),
        {"image_token_index": "<image>"},
        "<image>",
        "LlavaProcessor",
        ("CLIPImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}),
        {"patch_size": PATCH, "num_additional_image_tokens": 1, "vision_feature_select_strategy": "default"},
    ),
    "idefics3": Family(
        "Idefics3",
        "idefics3",
        {"model_type": "llama", **READS},
        SEES,
        {"scale_factor": 2},
        TILE_TOKENS,
        {"image_token_id": "<image>"},
        "<image>",
        "Idefics3Processor",
        ("Idefics3ImageProcessor", TILES),
        {"image_seq_len": 4},
    ),
    "smolvlm": Family(
        "SmolVLM",
        "smolvlm",
        {"model_type": "llama", **READS},
        SEES,
        {"scale_factor": 2},
        TILE_TOKENS,
        {"image_token_id": "<image>"},
        "<image>",
        "SmolVLMProcessor",
        ("SmolVLMImageProcessor", TILES),
        {"image_seq_len": 4},
    ),
    "paligemma": Family(
        "PaliGemma",
        "paligemma",
        {"model_type": "gemma2", **READS, **GEMMA},
        {"model_type": "siglip_vision_model", **SEES, "vision_use_head": False, "projection_dim": WIDTH},
        {"projection_dim": WIDTH, "hidden_size": WIDTH},
        ("<image>",),
        {"image_token_index": "<image>"},
        None,
        "PaliGemmaProcessor",
        ("SiglipImageProcessor", {**SQUARE, "image_seq_length": 16}),
    ),
}


def build(name: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a random model of family ``name`` into ``folder``, all its weights perturbed, with the files of its processor."""
    family = FAMILIES[name]
    smolvlm.num2words = smolvlm.num2words or str  # of a package that it asks for, and only videos need
    tokenizer = _tokenizer(family)
    ids = {f"{part}_token_id": tokenizer.convert_tokens_to_ids(token) for part, token in SPECIALS.items() if part != "unk"}
    kind = type(transformers.AutoConfig.for_model(family.model_type))
    config = kind(
        text_config={**family.text, **ids, "vocab_size": len(tokenizer)},
        vision_config=family.vision,
        **family.fields,
        **{field: tokenizer.convert_tokens_to_ids(token) for field, token in family.ids.items()},
        pad_token_id=ids["pad_token_id"],
        **({"vocab_size": len(tokenizer)} if name == "paligemma" else {}),
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = transformers.AutoModelForImageTextToText.from_config(config)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images, given = family.images
    about = {"image_processor_type": images, "processor_class": family.processor, **given}
    (folder / "preprocessor_config.json").write_text(json.dumps(about))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": family.processor, **family.own}))
    return folder


def _tokenizer(family: Family) -> Any:
    """A WordPiece tokenizer with the family's special tokens that covers any plain English text."""
    characters = [*string.ascii_lowercase, *string.digits, *string.punctuation, "\n"]
    pieces = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    turns = [f"<|{role}|>" for role in ("system", "user", "assistant")] if family.mark else []
    special = [*SPECIALS.values(), *turns, *family.tokens]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*special, *WORDS.split(), *characters, *pieces]))}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIALS["unk"]))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    tokenizer = transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made,
        model_max_length=LENGTH,
        extra_special_tokens=dict(family.named) or [t for t in special if t not in SPECIALS.values()],
        chat_template=None if family.mark is None else TEMPLATE.replace("MARK", family.mark),
        **{f"{part}_token": token for part, token in SPECIALS.items()},
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [t for t in special if t not in SPECIALS.values()]})
    return tokenizer


def write_rows(
    folder: Path, count: int = 12, *, turns: bool = True, with_texts: bool = True
) -> tuple[Path, list[dict[str, Any]]]:
    """A JSONL file of rows of no, one or two images and a few words, with the images in a folder beside it; and the rows, each
    with ``images`` (paths), ``before`` (what is written before each of them), ``words`` and ``answer``.

    Args:
        turns: conversations in parts; else columns ``images``, ``prompt`` with marks, and ``completion``.
        with_texts: a third of the rows has no image.
    """
    generator = np.random.default_rng(5)
    words = WORDS.split()
    rows = []
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for index in range(count):
        names = []
        for number in range((index + 1) % 3 if with_texts else 1 + index % 2):
            height, width = (int(size) for size in generator.integers(12, 30, 2))
            name = f"pictures/{index:02d}-{number}.png"
            Image.fromarray(generator.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(folder / name)
            names.append(name)

        def some() -> str:
            return " ".join(generator.choice(words, int(generator.integers(1, 5))))

        rows.append({"folder": folder, "images": names, "before": [some() for _ in names], "words": some(), "answer": some()})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(_in_turns(row) if turns else _in_columns(row)) + "\n" for row in rows))
    return path, rows


def _in_turns(row: dict[str, Any]) -> dict[str, Any]:
    parts = []
    for before, name in zip(row["before"], row["images"], strict=True):
        parts += [{"type": "text", "text": before}, {"type": "image", "image": name}]
    said = [*parts, {"type": "text", "text": row["words"]}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": row["answer"]}]}
    return {"messages": [{"role": "user", "content": said}, answer]}


def _in_columns(row: dict[str, Any]) -> dict[str, Any]:
    prompt = "".join(f"{before}<image>" for before in row["before"]) + row["words"]
    return {"images": row["images"], "prompt": prompt, "completion": row["answer"]}


def read(processor: Any, row: dict[str, Any]) -> tuple[list[int], list[int], dict[str, torch.Tensor]]:
    """Ids, labels and all else that a model reads of a row of :func:`write_rows`, by its processor, not by ``advisor``."""
    tokenizer = processor.tokenizer
    images = [Image.open(row["folder"] / name) for name in row["images"]]
    suffix = "suffix" in inspect.signature(type(processor).__call__).parameters
    if suffix:
        text = "<image>" * len(images) + "".join(row["before"]) + row["words"]
        made = processor(text=[text], images=[images], suffix=[row["answer"]], return_tensors="pt")
        labels = made.pop("labels")[0].tolist()
    else:
        text = tokenizer.apply_chat_template(_in_turns(row)["messages"], tokenize=False)
        made = processor(text=[text], images=[images] if images else None, return_tensors="pt")
        answer = [*tokenizer(row["answer"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        labels = [*[-100] * (made["input_ids"].shape[1] - len(answer)), *answer]
    ids = made.pop("input_ids")[0].tolist()
    return ids, labels, {key: value for key, value in made.items() if key != "attention_mask"}
