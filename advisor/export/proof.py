"""A rendered file is read as its tool reads it, and PEFT says what that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from advisor.core.errors import AdvisorError, BadInput
from advisor.export.plan import Format, Plan, RenderedFile
from advisor.export.read import parse
from advisor.models.peft import Resolved, resolve

if TYPE_CHECKING:
    from torch import nn


def prove_file(target: Format, name: str, file: RenderedFile, plan: Plan, model: nn.Module) -> Resolved | None:
    """What ``target``'s tool trains of a meta-device ``model`` with ``file``: the plan's modules.

    An exact file must also give every module its rank and scale.

    Returns:
        None for an impossible file, which says nothing.

    Raises:
        AdvisorError: it does something else, which is a fault of the advisor's.
    """
    if file.fidelity == "impossible":
        return None
    try:
        content, _ = parse(file.text.encode(), name)
        passed = target.passed(content, model)
        resolved = resolve(model, passed.arguments)
    except BadInput as error:
        raise _fault(target, name, error.what) from error
    if differing := sorted(set(resolved.adapted) ^ set(plan.names)):
        counts = f"{len(resolved.adapted)} modules, not {len(plan.names)}"
        raise _fault(target, name, f"it adapts {counts} (first that differs: {differing[0]})")
    if differing := sorted(set(resolved.saved) ^ set(plan.head)):
        raise _fault(target, name, f"other modules are trained in full (first that differs: {differing[0]})")
    if resolved.other_params:
        raise _fault(target, name, f"{resolved.other_params:,} parameters outside LoRA and the head are trained")
    if file.fidelity == "exact":
        wanted = {name: plan.module_settings(name) for name in plan.names}
        wrong = [n for n, own in wanted.items() if (resolved.ranks[n], resolved.alphas[n]) != (own.rank, own.alpha)]
        if wrong or resolved.rslora != plan.settings.rslora:
            raise _fault(target, name, f"{(wrong or plan.names)[0]} gets another rank or scale")
        if resolved.lora_params != plan.params:
            raise _fault(target, name, f"{resolved.lora_params:,} LoRA parameters are trained, not {plan.params:,}")
    return resolved


def _fault(target: Format, name: str, what: str) -> AdvisorError:
    return AdvisorError(
        f"{name}: with it {target.label} does not do what was selected: {what}.",
        "This is a bug in the advisor: please report it with the model's name.",
    )
