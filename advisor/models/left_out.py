"""What loading left out of a checkpoint's files, or drew anew: harmless, worth a warning, or a reason to refuse."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import BadInput
from advisor.core.targets import block_of
from advisor.models.checkpoint import NOT_TEXT, index_misfit
from advisor.models.tables import input_table, output_table

if TYPE_CHECKING:
    from torch import nn


def new_weights(model: nn.Module, missing: Collection[str]) -> list[str]:
    """Of the tensors that the checkpoint lacks, those with values of their own: the others share one that it has."""
    tensors = dict(model.named_parameters(remove_duplicate=False))
    had = {id(tensor) for key, tensor in tensors.items() if key not in missing}
    return [key for key in missing if id(tensors.get(key)) not in had]


def check_tokens(name: str, model: Any, missing: Collection[str]) -> None:
    """Raises:
    BadInput: what embeds the tokens, or predicts them, has no weights in the checkpoint.
    """
    tables = (input_table(model), output_table(model))
    weights = {id(getattr(table, "weight", None)) for table in tables}
    found = [key for key, tensor in model.named_parameters() if key in missing and id(tensor) in weights]
    if found:
        tied = getattr(model.config.get_text_config(), "tie_word_embeddings", True)
        raise BadInput(
            f"{name}: {found[0]} is not in the *.safetensors files, so it would start from random values.",
            f"Copy all files of the model{'' if tied else ', or set tie_word_embeddings to true in config.json'}.",
        )


def check_left_out(name: str, model: nn.Module, missing: Collection[str], unused: Collection[str]) -> list[str]:
    """A sentence on weights of the files that belong to blocks of the model and are not used; empty where there are none.

    Lists of blocks that the model does not have are parts that the task does not need, such as a decoder of an encoder.

    Args:
        missing, unused: names of the model's tensors that the files do not have, and of the files' that the model does not.

    Raises:
        BadInput: whole blocks are not used, whose tensors are named as those of the model's are.
    """
    base = f"{getattr(model, 'base_model_prefix', '')}."
    had = {key for key, _ in model.named_parameters(remove_duplicate=False) if key not in missing}
    own = _blocks(had)
    known = {start.removeprefix(base): start for start in own}
    left = _blocks(unused)
    extra: set[str] = set()
    for start, blocks in left.items():
        if (place := known.get(start.removeprefix(base))) is None:
            continue
        new = {i: ends for i, ends in blocks.items() if i not in own[place] and len(ends) > 1}
        like = [i for i, ends in new.items() if any(ends <= there for there in own[place].values())]
        if like and not NOT_TEXT.search(start):
            raise BadInput(
                f"{name}: the *.safetensors files hold more blocks {start} than the {len(own[place])} of config.json (first: "
                f"{start}.{min(like, key=int)}).",
                "Give the config.json that belongs to these weights.",
            )
        for i, ends in blocks.items():
            beside = ends | own[place].get(i, set())
            extra |= {f"{start}.{i}.{end}" for end in ends if not _mask(end, beside)}
    if not extra:
        return []
    return [
        f"{len(extra)} tensors of the *.safetensors files belong to blocks of the model, and config.json has no place for them: "
        f"they are not used (first: {min(extra)})."
    ]


def _mask(end: str, beside: set[str]) -> bool:
    """Whether it is a mask that old checkpoints have as an attention's ``bias``: the module has no weight."""
    return end.endswith(".bias") and f"{end.removesuffix('.bias')}.weight" not in beside


def _blocks(keys: Collection[str]) -> dict[str, dict[str, set[str]]]:
    """Lists of blocks by name: of each block, by its index there, the names of its weights and biases."""
    lists: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for key in keys:
        if key.endswith((".weight", ".bias")):
            parts = key.split(".")
            for i in (i for i, part in enumerate(parts) if part.isdigit()):
                lists[".".join(parts[:i])][parts[i]].add(".".join(parts[i + 1 :]))
    return lists


def check_blocks(name: str, model: nn.Module, missing: list[str]) -> None:
    """Raises:
    BadInput: whole blocks have no weights in the checkpoint, or the class of the task calls them by another name; the index
        of the shards is why weights are missing.
    """
    if missing and Path(name).exists() and (found := index_misfit(Path(name))):
        raise BadInput(f"{name}: {found}, so {missing[0]} has no weights.", "Copy the index and all shards of one model.")
    weights: dict[str, list[str]] = {}
    for key, _ in model.named_parameters():
        if place := block_of(key):
            weights.setdefault(f"{place[0]}.{place[1]}", []).append(key)
    without = [block for block, keys in weights.items() if set(keys) <= set(missing)]
    import transformers  # here, as reading headers takes none of it

    whole: Any = model
    writes: Any = transformers.AutoModelForCausalLM._model_mapping.get(type(whole.config), None)
    if without and len(without) == len(weights) and writes and writes.base_model_prefix != whole.base_model_prefix:
        raise BadInput(
            f"{name}: {type(model).__name__} calls its blocks {without[0].rpartition('.')[0]}, {writes.__name__} by "
            "another name, so it would start from random weights.",
            "Save the model without its head and give that folder: AutoModel.from_pretrained(…).save_pretrained(…).",
        )
    if without:
        raise BadInput(
            f"{name}: {len(without)} of the {len(weights)} blocks in config.json have no weights in the *.safetensors files "
            f"(first: {without[0]}).",
            "Give the config.json that belongs to these weights, or all files of them.",
        )
