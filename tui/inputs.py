"""What the user asks for, as plain values: the options of ``advisor recommend``, filled in on Setup or on the command line.

Nothing here imports the engine, so that Setup is on screen before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Inputs:
    """Options of ``advisor recommend`` by their names there; None: the engine's default."""

    model: str | None = None
    data: str | None = None
    eval_data: str | None = None
    task: str = "auto"
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    metric: str | None = None
    max_length: int | None = None
    budget: str = "25%"
    granularity: str = "module"
    strategy: str = "predicted"
    rank: int = 8
    alpha: float = 16
    rslora: bool = False
    train_rows: int | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    samples: int | None = None
    head: str = "probed"
    method: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    kernel: str = "adam"
    sigma: float | None = None
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "text_columns": list(self.text_columns)}

    @classmethod
    def from_dict(cls, fields_: Mapping[str, Any]) -> Inputs:
        """The inverse, for what an older or newer program wrote: unknown fields and wrong types fall back to defaults."""
        allowed: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
        found: dict[str, Any] = {}
        for field in fields(cls):
            value = fields_.get(field.name)
            if field.name == "text_columns":
                if isinstance(value, list) and all(isinstance(v, str) for v in value):
                    found[field.name] = tuple(value)
            elif type(value) in allowed[str(field.type).split(" |")[0]]:
                found[field.name] = value
        return cls(**found)
