"""LoRA layer advisor: which modules should LoRA adapt, on this model and this data?

``from advisor import probe, recommend`` is the whole Python interface, see docs/api.md. Importing this package loads
neither torch nor transformers.
"""

from typing import TYPE_CHECKING, Any

from advisor.core.version import __version__

if TYPE_CHECKING:
    from advisor.api import probe, recommend


__all__ = ["__version__", "probe", "recommend"]


def __getattr__(name: str) -> Any:
    if name in ("probe", "recommend"):
        from advisor import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
