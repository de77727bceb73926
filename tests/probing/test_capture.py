"""Hooks: what they see, that they go away, and that nothing of the model changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import ARCHITECTURES
from torch import nn

from advisor.core.errors import NotFinite
from advisor.core.events import Event, Note, Session
from advisor.models.load import load_model
from advisor.models.modules import input_embeddings
from advisor.probing.capture import SharedCall, capturing, fewer_rows

TinyModel = Callable[..., Path]


def hook_count(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


class Toy(nn.Module):
    """Embeddings, a layer called twice, a layer that is not read, and a layer behind an in-place change."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 6)
        self.shared = nn.Linear(6, 6, bias=False)
        self.unread = nn.Linear(6, 6, bias=False)
        self.last = nn.Linear(6, 3, bias=False)
        self.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        self.unread(x)
        h = torch.tanh(self.shared(torch.tanh(self.shared(x))))
        return self.last(h)


class Flattening(Toy):
    """As OPT's MLP: the layer sees [examples · tokens, features]."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids)
        h = torch.tanh(self.shared(x.reshape(-1, 6)))
        return self.last(h).view(*ids.shape, 3)


IN_PLACE: dict[str, Callable[[torch.Tensor], Any]] = {
    "divided": lambda y: y.div_(2),
    "added to": lambda y: y.add_(y.detach().cos()),
    "masked": lambda y: y.masked_fill_(y.detach() > 0.1, 0.5),
    "a slice of it set": lambda y: y[:, 1:, :2].copy_(y.detach()[:, :-1, :2] * 3),
    "a slice of it divided": lambda y: y[..., 2:].div_(3),
    "reshaped and divided": lambda y: y.view(-1, 2, 3)[:, 1].div_(3),
    "transposed and multiplied": lambda y: y.transpose(0, 1)[1:].mul_(3),
}


class ChangedInPlace(nn.Module):
    """Biased layers, whose outputs are views of a product, and one without a bias, each changed in place in some way."""

    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.change = change
        self.embed = nn.Embedding(20, 6)
        self.first, self.middle, self.plain = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.last = nn.Linear(6, 3)
        self.double().requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = self.embed(ids)
        for layer in (self.first, self.middle, self.plain):
            y = layer(torch.tanh(h))
            self.change(y)
            h = h + y
        return self.last(h)


def weight_gradients(model: nn.Module, name: str, ids: torch.Tensor) -> torch.Tensor:
    """Autograd's own, an example at a time."""
    weight = model.get_submodule(name).weight
    weight.requires_grad_(True)
    found = [torch.autograd.grad(model(row[None])[..., 1].sum(), weight)[0] for row in ids]
    weight.requires_grad_(False)
    return torch.stack(found)


@pytest.mark.parametrize("toy", [Toy, Flattening])
@pytest.mark.parametrize("name", ["shared", "last"])
def test_calls_are_summed_and_flattened_tokens_sorted(toy: type[Toy], name: str) -> None:
    torch.manual_seed(0)
    model = toy()
    ids = torch.randint(0, 20, (4, 5))
    with capturing(model, ["shared", "last"]) as capture:
        out = model(ids)
        x, g = capture.pairs(out[..., 1].sum(), 4, keep_graph=False)[name]
    assert x.shape[:2] == g.shape[:2] == (4, 10 if toy is Toy and name == "shared" else 5)
    found = torch.einsum("itb,ita->iba", g, x)
    torch.testing.assert_close(found, weight_gradients(model, name, ids))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("change", IN_PLACE)
def test_outputs_may_be_changed_in_place(change: str, recompute: bool) -> None:
    torch.manual_seed(0)
    model = ChangedInPlace(IN_PLACE[change])
    ids = torch.randint(0, 20, (4, 5))
    names = ["first", "middle", "plain", "last"]
    wanted = {name: weight_gradients(model, name, ids) for name in names}
    with capturing(model, names, [""], recompute) as capture:
        pairs = capture.pairs(model(ids)[..., 1].sum(), 4, keep_graph=False)
    for name in names:
        torch.testing.assert_close(torch.einsum("itb,ita->iba", pairs[name][1], pairs[name][0]), wanted[name])
        assert float(wanted[name].abs().max()) > 0


@pytest.mark.parametrize("family", ["longformer", "led"])
def test_models_that_change_their_queries_in_place(family: str) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "attention_window": 4}
    if family == "longformer":
        more = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 2}
        made: Any = transformers.LongformerForSequenceClassification(transformers.LongformerConfig(**sizes, **more))
    else:
        more = {"d_model": 8, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "encoder_layers": 2, "decoder_layers": 1}
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        made = transformers.LEDForConditionalGeneration(transformers.LEDConfig(**sizes, **more, **heads))
    model = made.double().eval().requires_grad_(False)
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not model.get_output_embeddings()]
    ids = torch.randint(5, 40, (1, 8))

    def scalar() -> torch.Tensor:
        given = {"decoder_input_ids": ids[:, :3]} if family == "led" else {}
        return model(input_ids=ids, use_cache=False, **given).logits[..., -1].sum()

    with capturing(model, names) as capture:
        pairs = capture.pairs(scalar(), 1, keep_graph=False)
    weights = [model.get_submodule(name).weight.requires_grad_(True) for name in names]
    wanted = torch.autograd.grad(scalar(), weights, allow_unused=True)
    for name, gradient in zip(names, wanted, strict=True):
        if name in pairs:
            found = torch.einsum("itb,ita->ba", pairs[name][1], pairs[name][0])
            torch.testing.assert_close(found, torch.zeros_like(found) if gradient is None else gradient)
        else:
            assert gradient is None
    assert any(float(pairs[name][1].abs().max()) > 0 for name in names if name.endswith(".query"))


def test_a_gradient_that_autograd_gives_as_none_is_zero() -> None:
    class Ignored(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, used: torch.Tensor, ignored: torch.Tensor) -> torch.Tensor:
            return used + ignored

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
            return gradients[0], None

    model = Toy()
    ids = torch.tensor([[1, 2]])
    with capturing(model, ["shared", "unread"]) as capture:
        h = model.shared(model.embed(ids))
        _, g = capture.pairs(Ignored.apply(h, model.unread(h)).sum(), 1, keep_graph=False)["unread"]
    assert g.shape == (1, 2, 6)
    assert float(g.abs().max()) == 0


def test_a_module_whose_output_is_not_read_has_zero_gradients() -> None:
    model = Toy()
    with capturing(model, ["unread"]) as capture:
        out = model(torch.tensor([[1, 2]]))
        _, g = capture.pairs(out.sum(), 1, keep_graph=False)["unread"]
    assert g.shape == (1, 2, 6)
    assert float(g.abs().max()) == 0


def test_several_scalars_of_one_pass() -> None:
    model = Toy()
    ids = torch.randint(0, 20, (3, 4))
    with capturing(model, ["shared"]) as capture:
        out = model(ids)
        _, first = capture.pairs(out[..., 0].sum(), 3, keep_graph=True)["shared"]
        _, second = capture.pairs(out[..., 1].sum(), 3, keep_graph=True)["shared"]
        _, both = capture.pairs(out[..., :2].sum(), 3, keep_graph=False)["shared"]
    assert not torch.equal(first, second)
    torch.testing.assert_close(both, first + second)


def test_a_cleared_capture_forgets_the_pass_before() -> None:
    model = Toy()
    with capturing(model, ["last"]) as capture:
        for tokens in (7, 2):
            capture.clear()
            out = model(torch.zeros(1, tokens, dtype=torch.long))
        x, _ = capture.pairs(out.sum(), 1, keep_graph=False)["last"]
        assert x.shape == (1, 2, 6)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_hooks_are_removed_and_the_model_is_as_it_was(tiny_model: TinyModel, name: str) -> None:
    loaded = load_model(str(tiny_model(name)), "classification", num_labels=2, device="cpu")
    model: Any = loaded.model
    names = [t.name for t in loaded.targets]
    before = {n: p.clone() for n, p in model.named_parameters()}
    ids = torch.tensor([[10, 11, 12, 13]])
    plain = model(ids).logits
    hooks = hook_count(model)
    with capturing(model, names) as capture:
        assert hook_count(model) == hooks + len(names) + 1
        logits = model(ids).logits
        pairs = capture.pairs(logits.sum(), 1, keep_graph=False)
    assert all(float(g.abs().max()) > 0 for _, g in pairs.values())
    assert hook_count(model) == hooks
    assert torch.equal(logits, plain)
    after = model(ids).logits
    assert not after.requires_grad
    assert torch.equal(after, plain)
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad
        assert torch.equal(parameter, before[parameter_name])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_hooks_are_removed_after_an_error(error: type[BaseException]) -> None:
    model = Toy()
    with pytest.raises(error), capturing(model, ["shared", "last"]) as capture:  # noqa: PT012
        model(torch.tensor([[1]]))
        raise error
    assert hook_count(model) == 0
    assert not any(capture._calls.values())


def test_an_unknown_module_leaves_no_hook_behind() -> None:
    model = Toy()
    with pytest.raises(AttributeError), capturing(model, ["shared", "nothing"]):
        pass
    assert hook_count(model) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("index", [0, 5, -1])
def test_the_module_where_a_nan_starts_is_named(tiny_model: TinyModel, index: int, bad: float) -> None:
    loaded = load_model(str(tiny_model("gpt2")), "classification", num_labels=2, device="cpu")
    names = [t.name for t in loaded.targets]
    with torch.no_grad():
        loaded.model.get_submodule(names[index]).weight.fill_(bad)
    with capturing(loaded.model, names) as capture:
        logits = loaded.model(torch.tensor([[10, 11, 12]])).logits
        with pytest.raises(NotFinite, match=rf"starts at module {names[index]}\."):
            capture.require_finite(logits)


def test_a_nan_after_every_captured_module_is_said() -> None:
    model = Toy()
    with torch.no_grad():
        model.last.weight[0, 0] = float("nan")
    with capturing(model, ["shared"]) as capture:
        with pytest.raises(NotFinite, match="output layer"):
            capture.require_finite(model(torch.tensor([[1]])))
        capture.require_finite(torch.ones(2))


class InPlace(Toy):
    """Changes what a layer wrote, as ``nn.ReLU(inplace=True)`` does."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        h = torch.relu_(self.shared(self.embed(ids)))
        return self.last(torch.relu_(self.shared(h)))


@pytest.mark.parametrize("name", ["shared", "last"])
def test_outputs_changed_in_place_keep_their_own_gradient(name: str) -> None:
    torch.manual_seed(0)
    model = InPlace()
    ids = torch.randint(0, 20, (4, 5))
    with capturing(model, ["shared", "last"]) as capture:
        out = model(ids)
        x, g = capture.pairs(out[..., 1].sum(), 4, keep_graph=False)[name]
    torch.testing.assert_close(torch.einsum("itb,ita->iba", g, x), weight_gradients(model, name, ids))


class Positions(Toy):
    """Calls a layer besides on something frozen that is no input embedding."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        positions = self.shared(torch.ones(len(ids), 2, 6))
        return self.last(torch.tanh(self.shared(self.embed(ids)) + positions.sum(1, keepdim=True)))


def test_calls_beside_the_input_embeddings_count() -> None:
    torch.manual_seed(0)
    model = Positions()
    ids = torch.randint(0, 20, (4, 5))
    with capturing(model, ["shared"]) as capture:
        out = model(ids)
        x, g = capture.pairs(out[..., 1].sum(), 4, keep_graph=False)["shared"]
    torch.testing.assert_close(torch.einsum("itb,ita->iba", g, x), weight_gradients(model, "shared", ids))


class Table(Toy):
    """Reads a table once for all rows, as DeBERTa does with its relative positions."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        table = self.shared(torch.linspace(-1, 1, 18).view(1, 3, 6))
        return self.last(torch.tanh(self.shared(self.embed(ids))) * table.sum(1, keepdim=True))


def test_a_call_for_all_rows_at_once_is_refused_and_exact_for_one_row() -> None:
    torch.manual_seed(0)
    model = Table()
    ids = torch.randint(0, 20, (4, 5))
    found = []
    with capturing(model, ["shared"]) as capture:
        with pytest.raises(SharedCall):
            capture.pairs(model(ids)[..., 1].sum(), 4, keep_graph=False)
        for row in ids:
            capture.clear()
            out = model(row[None])
            x, g = capture.pairs(out[..., 1].sum(), 1, keep_graph=False)["shared"]
            found.append(torch.einsum("itb,ita->iba", g, x)[0])
    torch.testing.assert_close(torch.stack(found), weight_gradients(model, "shared", ids))


def test_after_such_a_call_rows_are_taken_one_by_one_and_it_is_said() -> None:
    events: list[Event] = []
    assert fewer_rows(SharedCall(), 32, 7, Session(events.append)) == 1
    assert [type(event) for event in events] == [Note]
    assert fewer_rows(MemoryError(), 32, 7, Session()) == 16


_PATCHES = {"image_size": 16, "num_channels": 3, "num_labels": 3}
UNUSUAL_EMBEDDINGS: dict[str, Any] = {  # a tuple, nothing, and a parameter
    "SwinConfig": {**_PATCHES, "patch_size": 2, "window_size": 2, "embed_dim": 12, "depths": [1, 1], "num_heads": [2, 2]},
    "PvtConfig": {
        **_PATCHES,
        **{"num_encoder_blocks": 2, "hidden_sizes": [8, 12], "depths": [1, 1], "num_attention_heads": [1, 2]},
        **{"patch_sizes": [4, 2], "strides": [4, 2], "sequence_reduction_ratios": [2, 1], "mlp_ratios": [2, 2]},
    },
    "PerceiverConfig": {
        **{"d_model": 24, "d_latents": 24, "num_latents": 4, "num_self_attends_per_block": 1, "num_labels": 3},
        **{"num_self_attention_heads": 2, "num_cross_attention_heads": 2, "vocab_size": 20, "max_position_embeddings": 16},
    },
}


@pytest.mark.parametrize("name", UNUSUAL_EMBEDDINGS)
def test_whatever_a_family_calls_its_input_embeddings_is_a_module_that_gives_one_tensor(name: str) -> None:
    """Gradients of all linear modules are autograd's."""
    torch.manual_seed(0)
    auto: Any = transformers.AutoModelForImageClassification
    given = {"pixel_values": torch.randn(1, 3, 16, 16).double()}
    if name == "PerceiverConfig":
        auto, given = transformers.AutoModelForSequenceClassification, {"input_ids": torch.tensor([[1, 7, 3, 9]])}
    model: Any = auto.from_config(getattr(transformers, name)(**UNUSUAL_EMBEDDINGS[name])).double().eval().requires_grad_(False)
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    seen: list[Any] = []
    handles = [m.register_forward_hook(lambda m, i, output: seen.append(output)) for m in input_embeddings(model)]
    with capturing(model, linear) as capture:
        found = capture.pairs(model(**given).logits[:, 1].sum(), 1, False)
    for handle in handles:
        handle.remove()
    assert seen
    assert all(isinstance(output, torch.Tensor) for output in seen)
    weights = [model.get_submodule(n).weight.requires_grad_() for n in linear]
    wanted = torch.autograd.grad(model(**given).logits[:, 1].sum(), weights, materialize_grads=True)
    for n, gradient in zip(linear, wanted, strict=True):
        x, g = found[n]
        torch.testing.assert_close(torch.einsum("ntb,nta->ba", g, x), gradient)
