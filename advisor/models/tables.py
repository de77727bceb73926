"""What embeds a model's tokens and what predicts them, of families that say so and of those that do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def input_table(model: Any) -> Any:
    """The module that embeds what a model reads; None where the family does not say, as CANINE, which hashes characters, or names
    something else, as Perceiver its latents."""
    said = _said(model.get_input_embeddings)
    return said if callable(said) else None


def output_table(model: Any) -> Any:
    """The module that predicts tokens; None where there is none, or the family does not say."""
    return _said(model.get_output_embeddings)


def _said(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except NotImplementedError:
        return None
