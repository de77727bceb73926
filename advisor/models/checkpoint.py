"""A model's folder and its config.json, looked at before anything is built from them.

A wrong field can make other libraries take memory without end, or fail far from the cause; here it is named.
"""

from __future__ import annotations

import json
import math
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from advisor.core.errors import BadInput, loading

if TYPE_CHECKING:
    from torch import nn

MIB = 2**20
MOST_BYTES = {".json": 512 * MIB, ".jinja": 4 * MIB}  # a tokenizer's vocabulary may be large
CONFIG_BYTES = 16 * MIB
MOST_LAYERS = 2_000
MOST_EXPERTS = 100_000  # over all layers
MOST_POSITIONS = 2**27
MOST_LABELS = 1_000_000
LFS = b"version https://git-lfs"  # what stands in place of a file that was not fetched
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
SHARD = re.compile(r".+-\d+-of-\d+\.safetensors")
OBJECTS = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
MOST_TIMES, SLACK = 4, 2**24  # how many more weights than are stored a config may describe: packed ones, a new head
PACKED = 8  # weights that one stored value may hold (4 bits in 32)
UNKNOWN_LARGEST = 2**34  # values of a tensor, where the weights are not at hand
COUNTS = re.compile(r"(num_(hidden_|decoder_|encoder_)?layers|n_layers?|(encoder|decoder)_layers|depth)")
SIZES = re.compile(
    r"(?!.*(window|chunk|cache|batch|image|patch))((.*_)?(size|dim|width|channels|embd|inner|ff|dims|rank|experts|heads?)|d_\w+|(num|n)_\w*(experts|heads?))"
)
POSITIONS = re.compile(r"(max_position_embeddings|n_positions|max_sequence_length|max_seq_len|n_ctx)")
POSITIVE = re.compile(
    r"hidden_size|d_model|n_embd|vocab_size|intermediate_size|num_hidden_layers|n_layers?|num_layers|(num_attention|n)_heads?"
    r"|num_key_value_heads|(encoder|decoder)_(layers|attention_heads)"
)
ABOVE_ZERO = re.compile(
    r"(\w+_)?rope_theta|rotary_(emb_)?base|rope_\w*base\w*|partial_rotary_factor"
    r"|(\w+\.)*rope_(parameters|scaling)\.(\w+\.)*(factor|\w+_factor|beta_\w+|original_max_position_embeddings)"
)  # the last line: dotted paths
NOT_NEGATIVE = re.compile(r"\w*(norm|ln)\w*_(eps|epsilon)")
NOT_TEXT = re.compile(r"vision|visual|image|audio|speech")
SHARES = re.compile(r"(\w*_)?(dropout|pdrop|drop_path_rate|drop_rate)(_(rate|prob))?")
DTYPES = ("auto", "float64", "float32", "float16", "bfloat16")  # that weights are trained in
KINDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(
        ("id2label", "label2id", "quantization_config", "auto_map", "rope_parameters", "rope_scaling"), (dict, "an object")
    ),
    **dict.fromkeys(("text_config", "vision_config", "audio_config"), (dict, "an object")),
    **dict.fromkeys(("model_type", "hidden_act", "dtype", "torch_dtype"), (str, "a text")),
    "architectures": (list, "a list"),
}


def check_folder(folder: Path) -> None:
    """Raises:
    BadInput: no model folder, or a file in it that is a device, pipe or folder, or far too large.
    """
    names = set()
    with loading(f"{folder}: cannot be read", "Check its permissions."):
        if not folder.is_dir():
            raise BadInput(f"{folder}: a file, not a model folder.", "Give the model's folder.")
        for entry in folder.iterdir():
            if not entry.exists():  # a link to nothing
                continue
            found = entry.stat()
            names.add(entry.name)
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                raise BadInput(f"{entry}: a pipe, socket or device, not a file.", "Remove it from the model's folder.")
            if stat.S_ISDIR(found.st_mode) and entry.suffix in (*MOST_BYTES, ".safetensors"):
                raise BadInput(f"{entry}: a folder where a file is expected.", "Remove it from the model's folder.")
            most = CONFIG_BYTES if entry.name == "config.json" else MOST_BYTES.get(entry.suffix)
            if most is not None and found.st_size > most:
                raise BadInput(f"{entry}: {found.st_size // MIB} MiB are too large for such a file.", "Check the file.")
    if "config.json" not in names:
        if "adapter_config.json" in names:
            raise BadInput(f"{folder}: this folder holds an adapter, not a model.", "Give the folder of its base model.")
        raise BadInput(f"{folder}: no config.json there, so it is not a model folder.", "Give the model's folder.")
    if not any(name.endswith(".safetensors") and not name.startswith("adapter_model") for name in names):
        raise BadInput(f"{folder}: no *.safetensors file there.", "Save the model with safe_serialization=True (safetensors).")


def read_raw_config(folder: Path) -> dict[str, Any]:
    """The content of config.json, its fields of the right kind and in bounds that the weights set.

    Raises:
        BadInput: not a JSON object, or a field that cannot be right; names it.
    """
    file = folder / "config.json"
    with loading(f"{file} cannot be read", "Copy the model's config.json anew."):
        content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise BadInput(f"{file}: its content is {json.dumps(content)[:40]}, not an object.", "Copy the model's config.json anew.")
    check_fields(content, str(file), largest_tensor(folder))
    for name in OBJECTS:
        _check_object(folder / name)
    return content


def _check_object(file: Path) -> None:
    """Raises:
    BadInput: a file of JSON holds something else than an object. What is no JSON is left to transformers.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    if not isinstance(content, dict):
        raise BadInput(f"{file}: its content is {json.dumps(content)[:40]}, not an object.", "Copy the file anew.")


def check_fields(content: Mapping[str, Any], where: str, largest: int = UNKNOWN_LARGEST) -> None:
    """``largest``: what the largest tensor of the weights holds at most.

    Raises:
        BadInput: a field of config.json has the wrong kind, or a number that no model has.
    """
    hint = "Correct config.json, or copy the model's own."
    experts = 1
    for path, value in fields(content):
        field = path.rpartition(".")[2]
        kind = KINDS.get(field)
        if kind and value is not None and not isinstance(value, kind[0]):
            raise BadInput(f"{where}: {path} is {_shown(value)}, not {kind[1]}.", hint)
        if field in ("dtype", "torch_dtype") and "quantization" not in path and value not in (None, *DTYPES):
            raise BadInput(f"{where}: {path} is {_shown(value)}, which is none of {', '.join(DTYPES)}.", hint)
        if field == "architectures" and not all(isinstance(name, str) for name in value or ()):
            raise BadInput(f"{where}: {path} is {_shown(value)}, not a list of class names.", hint)
        if SHARES.fullmatch(field) and type(value) in (int, float) and not 0 <= value <= 1:
            raise BadInput(f"{where}: {path} is {_shown(value)}; it must be from 0 to 1.", hint)
        _check_sign(where, path, value, hint)
        positive = POSITIVE.fullmatch(field) is not None
        if positive and value is not None and not isinstance(value, list) and type(value) is not int:
            raise BadInput(f"{where}: {path} is {_shown(value)}, not a whole number.", hint)
        if type(value) is not int:
            continue
        if positive and value < 1:
            raise BadInput(f"{where}: {path} is {value}; it must be at least 1.", hint)
        if POSITIONS.fullmatch(field) and value < 2 and not NOT_TEXT.search(path):
            raise BadInput(f"{where}: {path} is {_shown(value)}; a text needs room for 2 tokens or more.", hint)
        if re.fullmatch(r"(num|n)_\w*experts", field):
            experts = max(experts, value)
        most = MOST_POSITIONS if POSITIONS.fullmatch(field) else MOST_LAYERS if COUNTS.fullmatch(field) else None
        most = MOST_LABELS if field == "num_labels" else most  # transformers makes up a name for each
        if most is not None and value > most:
            raise BadInput(f"{where}: {path} is {_shown(value)}; more than {most:,} are not read.", hint)
        if SIZES.fullmatch(field) and value > largest:
            raise BadInput(
                f"{where}: {path} is {_shown(value)}, and the largest tensor of the weights has at most {largest:,} values.", hint
            )
    layers = max((v for p, v in fields(content) if COUNTS.fullmatch(p.rpartition(".")[2]) and type(v) is int), default=1)
    if layers * experts > MOST_EXPERTS:
        raise BadInput(f"{where}: {layers:,} layers of {experts:,} experts are more than are read.", hint)


def _check_sign(where: str, path: str, value: Any, hint: str) -> None:
    """Raises:
    BadInput: a number, or one of a list, that is divided by or has a root taken of, is too small for it.
    """
    field = path.rpartition(".")[2]
    above = ABOVE_ZERO.fullmatch(field) or ABOVE_ZERO.fullmatch(path)
    if value is None or isinstance(value, Mapping) or not (above or NOT_NEGATIVE.fullmatch(field)):
        return
    for number in value if isinstance(value, list) else [value]:
        if type(number) not in (int, float) or number != number or abs(number) == math.inf:
            raise BadInput(f"{where}: {path} is {_shown(number)}, not a finite number.", hint)
        if not (number > 0 if above else number >= 0):
            raise BadInput(f"{where}: {path} is {_shown(number)}; it must be {'above' if above else 'at least'} 0.", hint)


def check_index(folder: Path) -> None:
    """Raises:
    BadInput: the index of a model's shards is missing or damaged, or does not agree with the files beside it.
    """
    file = folder / INDEX
    if (folder / WEIGHTS).exists():
        return
    if not file.exists():
        found = sorted(path.name for path in folder.glob("*.safetensors") if SHARD.fullmatch(path.name))
        if found:
            raise BadInput(
                f"{folder}: {INDEX} is missing, which says what is in the {len(found)} shards there (first: {found[0]}).",
                "Copy all files of the model.",
            )
        return
    with loading(f"{file} cannot be read", "Copy the file anew."):
        content = json.loads(file.read_text(encoding="utf-8"))
    shards = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise BadInput(f"{file}: weight_map is no object that names a file for each tensor.", "Copy the file anew.")
    if not shards:
        raise BadInput(f"{file}: weight_map is empty.", "Copy the file anew.")
    if not isinstance(content.get("metadata"), dict):
        raise BadInput(f"{file}: metadata is missing, or no object.", 'Add "metadata": {}, or copy the file anew.')
    for name in sorted(set(shards.values())):
        if Path(name).name != name:
            raise BadInput(f"{file}: weight_map names {name!r}, which is not beside it.", "Copy the file anew.")
        if not (folder / name).is_file():
            raise BadInput(f"{folder}: {name} is missing, which {INDEX} names.", "Copy all files of the model.")
    _check_shards(folder, shards)


def _check_shards(folder: Path, named: Mapping[str, str]) -> None:
    """``named``: the shard of each tensor, by the index. A tensor that no file holds passes here: it may be one that is tied.

    Raises:
        BadInput: another shard holds the tensor, or the index leaves it out.
    """
    shards = set(named.values())
    files = [file for file in sorted(folder.glob("*.safetensors")) if file.name in shards or SHARD.fullmatch(file.name)]
    held = {file.name: set(_shapes(file)) for file in files}
    hint = f"Copy {INDEX} and all shards anew, from the same model."
    for tensor, shard in named.items():
        if tensor not in held[shard]:
            there = next((file for file, tensors in held.items() if tensor in tensors), None)
            if there is not None:
                raise BadInput(f"{folder / INDEX}: {tensor} is said to be in {shard}, and is in {there}.", hint)
    for shard in sorted(shards):
        if left := sorted(held[shard].difference(named)):
            raise BadInput(f"{folder / INDEX}: weight_map leaves out {left[0]}, which {shard} holds.", hint)


def index_misfit(folder: Path) -> str | None:
    """Of a model that lacks weights, the first tensor that its index and its shards do not agree on, in a sentence."""
    if (folder / WEIGHTS).exists() or not (folder / INDEX).exists():
        return None
    named = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
    for file in sorted(folder.glob("*.safetensors")):
        tensors = _shapes(file)
        if file.name not in named.values() and (left := sorted(tensors.keys() - named)):
            return f"weight_map of {INDEX} leaves out {left[0]}, which {file.name} holds"
        if absent := [tensor for tensor, shard in named.items() if shard == file.name and tensor not in tensors]:
            return f"{INDEX} says that {absent[0]} is in {file.name}, which does not hold it"
    return None


def misfit(folder: Path, empty: nn.Module) -> str | None:
    """The first tensor of the weights that has another shape than the model of ``config.json`` gives it, in a sentence."""
    own, start = dict(empty.named_parameters()), f"{getattr(empty, 'base_model_prefix', '')}."
    for name, shape in tensor_shapes(folder).items():
        wanted = own.get(name, own.get(start + name))
        if wanted is not None and tuple(wanted.shape) != shape:
            there, here = (" x ".join(map(str, each)) for each in (shape, wanted.shape))
            return f"{name} is {there} in the *.safetensors files, and {here} by config.json"
    return None


def check_size(name: str, empty: nn.Module) -> None:
    """Raises:
    BadInput: config.json describes a far larger model than the weights beside it.
    """
    if Path(name).exists():
        described, stored = sum(p.numel() for p in empty.parameters()), stored_weights(Path(name))
        if described > MOST_TIMES * stored + SLACK:
            raise BadInput(
                f"{name}: config.json describes {described:,} weights, and the *.safetensors files hold {stored:,}.",
                "Give the config.json that belongs to these weights.",
            )


def largest_tensor(folder: Path) -> int:
    """Weights that the largest tensor of a model's folder may hold."""
    return PACKED * max((_size(shape) for shape in tensor_shapes(folder).values()), default=0)


def stored_weights(folder: Path) -> int:
    """Weights that all tensors of a model's folder may hold together."""
    return sum(map(_size, tensor_shapes(folder).values()))


def tensor_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by name, from the headers of the folder's safetensors files; adapters' are left aside.

    Raises:
        BadInput: a file is damaged or cut off; names it.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        if not file.name.startswith("adapter_model"):
            shapes |= _shapes(file)
    return shapes


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with file.open("rb") as opened:
        is_pointer = opened.read(len(LFS)) == LFS
    hint = "It is a pointer of Git LFS: run `git lfs pull`." if is_pointer else "Copy the file anew."
    with loading(f"{file} cannot be read as safetensors", hint), safe_open(file, "pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def fields(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field by its dotted path, those of nested objects too."""
    for key, value in content.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from fields(value, f"{prefix}{key}.")


def _shown(value: Any) -> str:
    text = f"{value:,}" if type(value) is int and abs(value) < 10**15 else f"{value!r}" if type(value) is not int else "huge"
    return text if len(text) <= 60 else f"{text[:60]}…"
