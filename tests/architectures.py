"""Tiny random models of every family, written to a folder as real checkpoints with a tokenizer.

Every parameter is perturbed, so that no weight, bias or LayerNorm is zero, one or equal to another; widths
differ, so that a transposed matrix does not fit; dropout is on in every config, so that a forgotten
``eval()`` shows.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WIDTH, INNER, HEADS, POSITIONS, DROPOUT = 24, 40, 4, 64, 0.1
WORDS = """the a this that it is was not very and or but of in to i we you he she film movie story book good
great fine nice bad poor dull awful yes no one two three red blue cat dog"""


class Family(NamedTuple):
    """How to build one family.

    Attributes:
        title: the name people know.
        config: the config class in transformers.
        fields: what the config is given.
        specials: special tokens by the part they play, in the order of their ids.
        single: what the tokenizer puts around one text (None: nothing).
        pair: the same around two texts.
        types: its tokenizer tells the two texts apart (``token_type_ids``).
        tokens: the longest text its tokenizer allows.
        processor: what the image processor of a model of images is given, in place of a tokenizer.
    """

    title: str
    config: str
    fields: dict[str, Any]
    specials: dict[str, str]
    single: str | None = None
    pair: str | None = None
    types: bool = False
    tokens: int = POSITIONS
    processor: dict[str, Any] | None = None


_SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "max_position_embeddings": POSITIONS,
}
_BERT_LIKE = {**_SIZES, "hidden_dropout_prob": DROPOUT, "attention_probs_dropout_prob": DROPOUT}
_DECODER = {**_SIZES, "attention_dropout": DROPOUT, "num_key_value_heads": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_BERT_SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_BERT_FORM = ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1")
_GPT2_SPECIALS = {"bos": "<|endoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>"}
_LLAMA_SPECIALS = {"unk": "<unk>", "bos": "<s>", "eos": "</s>"}
_LLAMA_FORM = ("<s> $A", "<s> $A $B")
_QWEN_SPECIALS = {"unk": "<|endoftext|>", "pad": "<|endoftext|>", "eos": "<|im_end|>"}
_GEMMA_SPECIALS = {"pad": "<pad>", "eos": "<eos>", "bos": "<bos>", "unk": "<unk>"}
_GEMMA = {**_DECODER, "head_dim": 8}

# GPT-2, GPT-Neo, GPT-J and Llama have no padding token, as the real ones. Llama's 21 targets make PEFT rewrite them.
FAMILIES = {
    "bert": Family(
        "BERT",
        "BertConfig",
        _BERT_LIKE,
        _BERT_SPECIALS,
        *_BERT_FORM,
        types=True,
    ),
    "roberta": Family(
        "RoBERTa",
        "RobertaConfig",
        {**_BERT_LIKE, "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1},
        {
            "bos": "<s>",
            "cls": "<s>",
            "pad": "<pad>",
            "eos": "</s>",
            "sep": "</s>",
            "unk": "<unk>",
            "mask": "<mask>",
        },
        "<s> $A </s>",
        "<s> $A </s> </s> $B </s>",
    ),
    "gpt2": Family(
        "GPT-2",
        "GPT2Config",
        {
            "n_embd": WIDTH,
            "n_inner": INNER,
            "n_layer": 2,
            "n_head": HEADS,
            "n_positions": POSITIONS,
            "resid_pdrop": DROPOUT,
            "embd_pdrop": DROPOUT,
            "attn_pdrop": DROPOUT,
        },
        _GPT2_SPECIALS,
    ),
    "gpt_neo": Family(
        "GPT-Neo",
        "GPTNeoConfig",
        {
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_layers": 2,
            "num_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "resid_dropout": DROPOUT,
            "embed_dropout": DROPOUT,
            "attention_dropout": DROPOUT,
        },
        _GPT2_SPECIALS,
    ),
    "opt": Family(
        "OPT",
        "OPTConfig",
        {
            "hidden_size": WIDTH,
            "word_embed_proj_dim": WIDTH,
            "ffn_dim": INNER,
            "num_hidden_layers": 2,
            "num_attention_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "dropout": DROPOUT,
            "attention_dropout": DROPOUT,
        },
        {"cls": "<s>", "pad": "<pad>", "bos": "</s>", "eos": "</s>", "unk": "<unk>"},
        "</s> $A",
        "</s> $A </s> $B",
    ),
    "llama": Family(
        "Llama",
        "LlamaConfig",
        {**_SIZES, "num_hidden_layers": 3, "num_key_value_heads": 2, "attention_dropout": DROPOUT},
        _LLAMA_SPECIALS,
        *_LLAMA_FORM,
    ),
    "distilbert": Family(
        "DistilBERT",
        "DistilBertConfig",
        {
            "dim": WIDTH,
            "hidden_dim": INNER,
            "n_layers": 2,
            "n_heads": HEADS,
            "max_position_embeddings": POSITIONS,
            "dropout": DROPOUT,
            "attention_dropout": DROPOUT,
        },
        _BERT_SPECIALS,
        *_BERT_FORM,
    ),
    "deberta_v2": Family(
        "DeBERTa-v2 and v3",
        "DebertaV2Config",
        {
            **_BERT_LIKE,
            "type_vocab_size": 0,
            "pooler_hidden_size": WIDTH,
            "pooler_dropout": DROPOUT,
            "relative_attention": True,
            "position_buckets": 8,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "max_relative_positions": -1,
        },
        _BERT_SPECIALS,
        *_BERT_FORM,
        types=True,
    ),
    "modernbert": Family(
        "ModernBERT",
        "ModernBertConfig",
        {
            **_SIZES,
            "num_hidden_layers": 3,
            "global_attn_every_n_layers": 2,
            "local_attention": 4,
            "attention_dropout": DROPOUT,
            "mlp_dropout": DROPOUT,
            "classifier_dropout": DROPOUT,
            **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
        },
        _BERT_SPECIALS,
        *_BERT_FORM,
    ),
    "gptj": Family(
        "GPT-J",
        "GPTJConfig",
        {
            "n_embd": WIDTH,
            "n_inner": INNER,
            "n_layer": 2,
            "n_head": HEADS,
            "n_positions": POSITIONS,
            "rotary_dim": 4,
            "resid_pdrop": DROPOUT,
            "embd_pdrop": DROPOUT,
            "attn_pdrop": DROPOUT,
        },
        _GPT2_SPECIALS,
    ),
    "gpt_neox": Family(
        "GPT-NeoX",
        "GPTNeoXConfig",
        {**_SIZES, "num_attention_heads": 3, "hidden_dropout": DROPOUT, "attention_dropout": DROPOUT},
        {**_GPT2_SPECIALS, "pad": "<|padding|>"},
    ),
    "mistral": Family("Mistral", "MistralConfig", {**_DECODER, "sliding_window": 6}, _LLAMA_SPECIALS, *_LLAMA_FORM),
    "qwen2": Family(  # transformers loads any tokenizer of it as byte pairs, so texts get longer
        "Qwen2", "Qwen2Config", {**_DECODER, "max_position_embeddings": 2 * POSITIONS}, _QWEN_SPECIALS, tokens=2 * POSITIONS
    ),
    "qwen3": Family("Qwen3", "Qwen3Config", {**_DECODER, "head_dim": 8}, _QWEN_SPECIALS),
    "gemma2": Family(
        "Gemma 2",
        "Gemma2Config",
        {**_GEMMA, "sliding_window": 6, "query_pre_attn_scalar": 8},
        _GEMMA_SPECIALS,
        "<bos> $A",
        "<bos> $A $B",
    ),
    "gemma3_text": Family(
        "Gemma 3 (text)",
        "Gemma3TextConfig",
        {**_GEMMA, "sliding_window": 6, "query_pre_attn_scalar": 8, "layer_types": ["sliding_attention", "full_attention"]},
        _GEMMA_SPECIALS,
        "<bos> $A",
        "<bos> $A $B",
    ),
    "phi3": Family(
        "Phi-3",
        "Phi3Config",
        {**_DECODER, "resid_pdrop": DROPOUT, "embd_pdrop": DROPOUT},
        {"unk": "<unk>", "bos": "<s>", "eos": "<|endoftext|>", "pad": "<|endoftext|>"},
    ),
    "mixtral": Family("Mixtral", "MixtralConfig", {**_DECODER, "num_local_experts": 4}, _LLAMA_SPECIALS, *_LLAMA_FORM),
    "qwen2_moe": Family(
        "Qwen2-MoE",
        "Qwen2MoeConfig",
        {**_DECODER, **_EXPERTS, "shared_expert_intermediate_size": 20},
        _QWEN_SPECIALS,
    ),
    "qwen3_moe": Family("Qwen3-MoE", "Qwen3MoeConfig", {**_DECODER, **_EXPERTS, "head_dim": 8}, _QWEN_SPECIALS),
    "olmoe": Family("OLMoE", "OlmoeConfig", {**_DECODER, "num_experts": 4, "num_experts_per_tok": 2}, _QWEN_SPECIALS),
    "granitemoe": Family(
        "Granite-MoE",
        "GraniteMoeConfig",
        {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 1.0, "embedding_multiplier": 1.5},
        _QWEN_SPECIALS,
    ),
    "gpt_oss": Family(
        "GPT-OSS",
        "GptOssConfig",
        {**_DECODER, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
        _QWEN_SPECIALS,
    ),
    "deepseek_v3": Family(
        "DeepSeek-V3",
        "DeepseekV3Config",
        {
            **_DECODER,
            "num_key_value_heads": HEADS,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 0,
            "q_lora_rank": 10,
            "kv_lora_rank": 12,
            "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 6,
            "v_head_dim": 5,
        },
        _LLAMA_SPECIALS,
        *_LLAMA_FORM,
    ),
    "t5": Family(
        "T5",
        "T5Config",
        {
            "d_model": WIDTH,
            "d_kv": 5,
            "d_ff": INNER,
            "num_layers": 2,
            "num_decoder_layers": 3,
            "num_heads": HEADS,
            "feed_forward_proj": "gated-gelu",
            "relative_attention_num_buckets": 8,
            "relative_attention_max_distance": 16,
            "dropout_rate": DROPOUT,
            "decoder_start_token_id": 0,
        },
        {"pad": "<pad>", "eos": "</s>", "unk": "<unk>"},
        "$A </s>",
        "$A </s> $B </s>",
    ),
    "vit": Family(
        "ViT",
        "ViTConfig",
        {
            **{key: size for key, size in _BERT_LIKE.items() if key != "max_position_embeddings"},
            "image_size": 16,
            "patch_size": 4,
        },
        {},
        processor={"size": {"height": 16, "width": 16}},
    ),
}
_STATES = {"mamba_n_heads": 4, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_d_conv": 3, "mamba_chunk_size": 8}


def _hybrid(title: str, config: str, **fields: Any) -> Family:
    return Family(title, config, fields, _QWEN_SPECIALS)


# Families with recurrent parts, without profiles: written texts only.
HYBRIDS = {
    "mamba": _hybrid(
        "Mamba", "MambaConfig", hidden_size=WIDTH, num_hidden_layers=2, state_size=4, conv_kernel=3, time_step_rank=3
    ),
    "mamba2": _hybrid(
        "Mamba-2",
        "Mamba2Config",
        hidden_size=WIDTH,
        num_hidden_layers=2,
        state_size=8,
        num_heads=HEADS,
        head_dim=12,
        n_groups=2,
        chunk_size=8,
    ),
    "jamba": _hybrid(
        "Jamba",
        "JambaConfig",
        **{**_DECODER, "num_hidden_layers": 4},
        num_experts=4,
        num_experts_per_tok=2,
        expert_layer_period=2,
        expert_layer_offset=1,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=4,
        mamba_d_conv=3,
        mamba_dt_rank=3,
    ),
    "falcon_h1": _hybrid("Falcon-H1", "FalconH1Config", **_DECODER, **_STATES, head_dim=8, mamba_d_ssm=24, mamba_d_head=6),
    "granitemoehybrid": _hybrid(
        "Granite-4 hybrid",
        "GraniteMoeHybridConfig",
        **_DECODER,
        **_STATES,
        mamba_d_head=12,
        num_local_experts=4,
        num_experts_per_tok=2,
        shared_intermediate_size=20,
        layer_types=["mamba", "attention"],
        logits_scaling=1.0,
    ),
    "zamba2": _hybrid(
        "Zamba2",
        "Zamba2Config",
        **{**_SIZES, "num_hidden_layers": 4},
        num_key_value_heads=HEADS,
        n_mamba_heads=4,
        mamba_ngroups=1,
        mamba_d_state=8,
        mamba_d_conv=3,
        chunk_size=8,
        num_mem_blocks=1,
        adapter_rank=4,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
    ),
    "qwen3_next": _hybrid(
        "Qwen3-Next",
        "Qwen3NextConfig",
        **_DECODER,
        **_EXPERTS,
        head_dim=8,
        shared_expert_intermediate_size=20,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=6,
        linear_value_head_dim=5,
        linear_conv_kernel_dim=3,
    ),
    "lfm2": _hybrid("LFM2", "Lfm2Config", **_DECODER, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "lfm2_moe": _hybrid(
        "LFM2-MoE",
        "Lfm2MoeConfig",
        **_SIZES,
        **_EXPERTS,
        num_key_value_heads=2,
        num_dense_layers=1,
        layer_types=["conv", "full_attention"],
    ),
    "nemotron_h": _hybrid(
        "Nemotron-H",
        "NemotronHConfig",
        **{name: size for name, size in _DECODER.items() if name != "num_hidden_layers"},
        head_dim=8,
        layers_block_type=["mamba", "moe", "full_attention", "mlp"],
        ssm_state_size=8,
        mamba_num_heads=4,
        mamba_head_dim=12,
        n_groups=2,
        chunk_size=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16,
    ),
    "rwkv": _hybrid(
        "RWKV",
        "RwkvConfig",
        hidden_size=WIDTH,
        attention_hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=2,
        context_length=POSITIONS,
    ),
}
# These go through every module's tests; all of FAMILIES through test_models.py and test_families.py.
ARCHITECTURES = ("bert", "roberta", "gpt2", "gpt_neo", "opt", "llama")
LANGUAGE_MODELS = ("gpt2", "gpt_neo", "opt", "llama")
ENCODERS = ("bert", "roberta", "distilbert", "deberta_v2", "modernbert", "vit")
ENCODER_DECODERS = ("t5",)
DECODERS = tuple(name for name in FAMILIES if name not in (*ENCODERS, *ENCODER_DECODERS))
WRITERS = ("olmoe", "granitemoe")  # transformers has no classifier of these
CLASSIFIERS = tuple(name for name in FAMILIES if name not in (*ENCODER_DECODERS, *WRITERS))
TOKEN_HEADS = {"token-classification": "TokenClassification", "question-answering": "QuestionAnswering"}
LANGUAGE_HEADS = {"causal-lm": "CausalLM", "seq2seq": "Seq2SeqLM", "preference": "CausalLM", "kto": "CausalLM"}


def build(
    name: str,
    folder: Path,
    *,
    task: str = "classification",
    num_labels: int = 2,
    seed: int = 0,
    with_head: bool = False,
) -> Path:
    """Write a random model of family ``name`` into ``folder`` and return it.

    Args:
        task: ``classification``, ``regression`` (then give ``num_labels=1``), ``causal-lm`` (only
            ``DECODERS``) or ``seq2seq`` (only ``ENCODER_DECODERS``; a language model's head is always saved).
        num_labels: outputs of the classifier's head.
        with_head: save the classifier's head too; without it the checkpoint is the bare base model, so that
            loading draws a new head.
    """
    family = (FAMILIES | HYBRIDS)[name]
    reader = _tokenizer(name) if family.processor is None else transformers.ViTImageProcessor(**family.processor)
    ids = {
        f"{part}_token_id": reader.convert_tokens_to_ids(token)
        for part, token in family.specials.items()
        if part in ("pad", "bos", "eos")
    }
    if family.processor is None:
        ids["vocab_size"] = len(reader)
    config_class = getattr(transformers, family.config)
    config = config_class(num_labels=num_labels, **family.fields, **ids)
    classifier = "SequenceClassification" if family.processor is None else "ImageClassification"
    head = LANGUAGE_HEADS.get(task, TOKEN_HEADS.get(task, classifier))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = getattr(transformers, f"AutoModelFor{head}").from_config(config)
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    saved = model if with_head or task in LANGUAGE_HEADS else model.base_model
    saved.save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder


def _tokenizer(name: str) -> Any:
    """A WordPiece tokenizer with the family's special tokens that covers any plain English text."""
    family = (FAMILIES | HYBRIDS)[name]
    characters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pieces = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    tokens = dict.fromkeys([*family.specials.values(), *WORDS.split(), *characters, *pieces])
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=family.specials["unk"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    if family.single:
        specials = [(token, vocabulary[token]) for token in dict.fromkeys(family.specials.values())]
        tokenizer.post_processor = processors.TemplateProcessing(single=family.single, pair=family.pair, special_tokens=specials)
    types = ["token_type_ids"] if family.types else []
    return transformers.PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        model_max_length=family.tokens,
        model_input_names=["input_ids", *types, "attention_mask"],
        **{f"{part}_token": token for part, token in family.specials.items()},
    )
