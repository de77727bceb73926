"""What a model is made of: the hash of every file that decides what it computes and which tokens it sees (no weights loaded)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from advisor.core.errors import BadInput
from advisor.core.file_hash import file_hash

# Config, weights, tokenizer with chat template, image processor, and a model's own code; as transformers names them.
PATTERNS = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "adapter_config.json",
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "*.bpe",
    "vocab*",
    "merges.txt",
    "bpe.codes",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "additional_chat_templates/*",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor*",
    "modules.json",  # of sentence-transformers: how texts are pooled
    "*_Pooling/config.json",
    "*.py",
)


def model_files(folder: Path) -> list[Path]:
    """The files of a model's folder that identify it, in the order of their names."""
    found = {path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not path.name.startswith("."))


def model_fingerprint(name: str, revision: str | None, quantised: str | None) -> str:
    """SHA-256 over names and contents of the model's files, and how its weights are quantised on loading.

    Args:
        name: folder, or hub id whose files are in the hub's cache. revision: commit of the hub model.

    Raises:
        BadInput: a file cannot be read, or there is none: the name is neither a model's folder nor a hub id in the cache.
    """
    folder = Path(name)
    made_of: list[object] = [quantised]
    if not folder.is_dir():
        try:
            config = try_to_load_from_cache(name, "config.json", revision=revision)
        except HFValidationError:
            raise BadInput(f"{name}: no such folder.", "Give a model folder or a hub id such as org/name.") from None
        folder = Path(config).parent if isinstance(config, str) else folder
        if not any(folder.glob("*.safetensors")):  # converted by the hub, and kept in a snapshot of its own
            made_of += [name, revision]
    files = model_files(folder)
    if not files:
        raise BadInput(f"{name}: no file of a model is there.", "Give a model folder or a hub id such as org/name.")
    made_of += [[path.relative_to(folder).as_posix(), file_hash(path)] for path in files]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
