"""What a model profile says of a real architecture: which modules its roles name, and what it leaves unnamed."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from advisor.core.profiles import read_profile
from advisor.core.recipe import HEADLESS
from advisor.core.targets import block_of
from advisor.models.adaptable import NEVER_ADAPTED
from advisor.models.config import trained_as
from advisor.models.load import meta_model
from advisor.models.modules import find_head, find_targets
from advisor.models.tables import output_table


@dataclass(frozen=True)
class Role:
    """One line of ``roles``: ``modules`` of the model have a name that ends in ``tail``, after their block's index."""

    tail: str
    group: str
    role: str
    modules: int


@dataclass(frozen=True)
class ProfileReport:
    """A profile against a model.

    Attributes:
        file: the profile. model: folder or hub id. model_type: of the model's config.
        applies: the profile lists that type, so it would be used for this model.
        blocks: indices of the blocks that hold adaptable modules.
        roles: as in the profile.
        qv: modules that stand for the usual recipe q,v.
        unnamed: adaptable modules inside blocks that no role names, by what follows the index: they keep that as role.
        outside: adaptable modules outside any block.
        never: linear modules that are not adapted, with the reason.
        idle: entries of ``never`` that no linear module has in its name.
        surprises: what the author probably did not mean, one sentence each.
    """

    file: str
    model: str
    model_type: str
    applies: bool
    blocks: tuple[int, ...]
    roles: tuple[Role, ...]
    qv: int
    unnamed: dict[str, int]
    outside: tuple[str, ...]
    never: dict[str, str]
    idle: tuple[str, ...]
    surprises: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0: as intended; 1: there are surprises."""
        return 1 if self.surprises else 0

    def as_dict(self) -> dict[str, Any]:
        """The report as plain data for ``--json``."""
        return asdict(self)


def check_profile(file: Path, model_name: str, *, task: str = "classification", trust_remote_code: bool = False) -> ProfileReport:
    """Match the model profile in ``file`` against a model's architecture; no weights are loaded.

    Raises:
        BadInput: the profile or the model cannot be used.
    """
    profile = read_profile("models", file, str(file))
    loaded_as = trained_as(model_name, task, trust_remote_code=trust_remote_code)[0]
    model: Any = meta_model(model_name, loaded_as, num_labels=None, trust_remote_code=trust_remote_code)
    head = find_head(model) if task not in HEADLESS else ()
    targets = find_targets(model, head, profile)
    tails = Counter(place[2] for t in targets if (place := block_of(t.name)))
    roles = tuple(
        Role(tail, *place.split("/", 1), modules=tails[tail])  # type: ignore[misc]
        for tail, place in profile["roles"].items()
    )
    never = _left_out(model, head, profile["never"], {t.name for t in targets})
    idle = tuple(e for e in profile["never"] if not any(e in name.split(".") for name, m in model.named_modules()))
    report = ProfileReport(
        file=str(file),
        model=model_name,
        model_type=model.config.model_type,
        applies=model.config.model_type in profile["model_types"],
        blocks=tuple(sorted({t.layer for t in targets if t.layer is not None})),
        roles=roles,
        qv=sum(r.modules for r in roles if r.role in profile["qv"]),
        unnamed={tail: count for tail, count in tails.items() if tail not in profile["roles"]},
        outside=tuple(t.name for t in targets if t.layer is None),
        never=never,
        idle=idle,
        surprises=(),
    )
    return _with_surprises(report, profile)


def _left_out(model: Any, head: tuple[str, ...], never: list[str], adapted: set[str]) -> dict[str, str]:
    """Linear modules that are not adapted, with the reason."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D) or name in adapted:
            continue
        parts = name.split(".")
        entry = next((part for part in parts if part in never), None)
        if any(name == h or name.startswith(h + ".") for h in head):
            found[name] = "the head, trained in full"
        elif module is output_table(model):
            found[name] = "the output embeddings"
        elif entry:
            found[name] = f"never: {entry}"
        else:
            barred = next((part for part in parts if part in NEVER_ADAPTED), None)
            found[name] = f"{barred}, in no family" if barred else "PEFT does not take it by this name"
    return found


def _with_surprises(report: ProfileReport, profile: dict[str, Any]) -> ProfileReport:
    surprises = []
    if not report.applies:
        listed = ", ".join(profile["model_types"])
        surprises.append(f"model_types lists {listed}, not this model's {report.model_type}: it would not be used for it.")
    surprises += [f"roles: {role.tail} matches no module." for role in report.roles if not role.modules]
    surprises += [f"{count} modules {tail} have no role." for tail, count in report.unnamed.items()]
    if not report.qv:
        surprises.append("qv: no module has such a role, so there is no recipe q,v.")
    return ProfileReport(**{**vars(report), "surprises": tuple(surprises)})
