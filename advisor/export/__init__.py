"""One file per export format; nothing here loads torch until a config is resolved on a model."""

from __future__ import annotations

from advisor.export import axolotl, llama_factory, peft, trl, unsloth
from advisor.export.plan import Format

FORMATS: dict[str, Format] = {module.FORMAT.name: module.FORMAT for module in (peft, axolotl, llama_factory, unsloth, trl)}
