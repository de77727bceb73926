"""The YAML profiles shipped as package data: ``profiles/<kind>/*.yaml``."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from advisor.errors import BadInput


@cache
def load_profiles(kind: str) -> dict[str, dict[str, Any]]:
    """Every profile of one kind (``models`` or ``tasks``), keyed by file stem, in name order.

    The result is cached: treat it as read-only.

    Raises:
        BadInput: there is no such kind, or a file does not hold named fields; names the file and the field.
    """
    folder = files("profiles") / kind
    if not folder.is_dir():
        raise BadInput(f"There are no {kind!r} profiles.", "Reinstall lora-layer-advisor.")
    profiles = {}
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if not file.name.endswith(".yaml"):
            continue
        name = f"profiles/{kind}/{file.name}"
        hint = "Reinstall lora-layer-advisor, or repair the file."
        try:
            profile = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise BadInput(f"{name} is not readable YAML: {' '.join(str(error).split())}.", hint) from error
        if not isinstance(profile, dict):
            raise BadInput(f"{name}: the top level must be fields with values.", hint)
        bad_fields = [field for field in profile if not isinstance(field, str)]
        if bad_fields:
            raise BadInput(f"{name}: the field {bad_fields[0]!r} is not a name.", hint)
        profiles[file.name.removesuffix(".yaml")] = profile
    return profiles
