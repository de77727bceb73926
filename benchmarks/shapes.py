"""Random Llamas and mixtures of experts of a given shape, without checkpoint or tokenizer, and rows of random tokens."""

from __future__ import annotations

import importlib
import sys
import time
from types import SimpleNamespace
from typing import Any

import torch
import transformers

from advisor.core.events import Session
from advisor.models.encode import EncodedRow
from advisor.models.experts import open_experts
from advisor.models.load import LoadedModel
from advisor.models.modules import find_targets
from advisor.probing.method import probed_layers
from advisor.probing.outputs import forward_outputs, make_outputs
from advisor.probing.spool import Spool

VOCABULARY = 32000


def llama(
    layers: int,
    width: int,
    *,
    inner: int | None = None,
    heads: int | None = None,
    vocabulary: int = VOCABULARY,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quantised: str | None = None,
) -> LoadedModel:
    """A causal language model, weights normal with standard deviation 0.02."""
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner or (width * 8 // 3 + 63) // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=heads or max(1, width // 64),
        max_position_embeddings=4096,
        use_cache=False,
    )
    with torch.device("meta"):
        model: Any = transformers.LlamaForCausalLM(config)
    if quantised == "4bit":
        quantise(model, torch.device(device), dtype)
    return filled(model.to(dtype) if quantised is None else model, device, dtype)


def olmoe(
    layers: int, width: int, inner: int, experts: int, active: int, *, vocabulary: int, device: str, dtype: torch.dtype
) -> LoadedModel:
    """The same of a mixture of experts, whose stacks are targets."""
    config = transformers.OlmoeConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_experts=experts,
        num_experts_per_tok=active,
        max_position_embeddings=4096,
        use_cache=False,
    )
    with torch.device("meta"):
        model: Any = transformers.OlmoeForCausalLM(config)
    open_experts(model)
    return filled(model.to(dtype), device, dtype)


def filled(model: Any, device: str, dtype: torch.dtype) -> LoadedModel:
    """A model of the meta device with random weights where it runs."""
    fill(model, torch.device(device), dtype)
    model.requires_grad_(False).eval()
    tokenizer = SimpleNamespace(pad_token_id=0, model_max_length=4096)
    return LoadedModel(model, tokenizer, "causal-lm", find_targets(model, ()), (), False, "random", None, "random")


def quantise(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Replace the linear modules of the blocks by NF4 ones with random weights, one at a time."""
    nn4: Any = importlib.import_module("bitsandbytes.nn")

    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and ".layers." in name:
            parent, _, own = name.rpartition(".")
            new = nn4.Linear4bit(module.in_features, module.out_features, bias=False, compute_dtype=dtype, quant_type="nf4")
            weight = 0.02 * torch.randn(module.out_features, module.in_features, dtype=dtype)
            new.weight = nn4.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
            setattr(model.get_submodule(parent), own, new.to(device))  # which quantises
    model.is_loaded_in_4bit = True


@torch.no_grad()
def fill(model: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Give everything that is still on the meta device memory and values."""
    generator = torch.Generator(device).manual_seed(0)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = torch.empty(parameter.shape, device=device, dtype=dtype)
                value = value.normal_(0, 0.02, generator=generator) if value.dim() > 1 else value.fill_(1.0)
                setattr(module, name, torch.nn.Parameter(value, requires_grad=False))
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)


def rows_of(count: int, tokens: int, vocabulary: int = VOCABULARY) -> list[EncodedRow]:
    """Rows of equal length, all tokens learned."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, vocabulary, (count, tokens), generator=generator).tolist()
    return [EncodedRow(tuple(row), None, 0.0, tuple(row)) for row in ids]


def spool_of(loaded: LoadedModel, rows: list[EncodedRow], folder: Any, sketch: int | None, **options: Any) -> Spool:
    micro_batch, recompute = options.get("micro_batch"), options.get("recompute", False)
    outputs = make_outputs("causal-lm", 0, 0)
    return Spool(folder, rows, probed_layers(loaded, 0), outputs, 0.0, 1.0, sketch, micro_batch, recompute)


def bare_passes(loaded: LoadedModel, spool: Spool) -> None:
    """Forward and backward passes of the same micro-batches, nothing captured; as many scalars."""
    from advisor.models.encode import collate

    first: list[torch.Tensor] = []

    def start(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        first.append(output.requires_grad_(True))
        return output

    handle = loaded.model.get_submodule(loaded.targets[0].name).register_forward_hook(start)
    try:
        at = 0
        for count, _ in spool.micro_batches(loaded):
            batch = collate(spool.rows[at : at + count], loaded)
            labels = batch.pop("labels")
            first.clear()
            values, _, losses = forward_outputs(spool.outputs, loaded.model(**batch).logits, labels)
            torch.autograd.grad(values.sum(), first[:1], retain_graph=True)
            torch.autograd.grad(losses.sum(), first[:1])
            at += count
    finally:
        handle.remove()


def full_probe(loaded: LoadedModel, spool: Spool) -> None:
    """Passes and contraction, as ``advisor probe`` does them."""
    spool.fill(loaded, Session())
    spool.contract(None, "auto", loaded.device, Session())


def processor_seconds(do: Any, *arguments: Any) -> float:
    """Of this process: other work on the machine counts little."""
    start = time.process_time()
    do(*arguments)
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit("Used by scaling.py and gpu/.")
