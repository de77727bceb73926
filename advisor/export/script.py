"""The one call in a training script that makes the adapter: it is parsed, and never run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

CALLS = {"get_peft_model": "unsloth", "LoraConfig": "trl"}  # what a script calls, and whose format its arguments are
HANDED_OVER = {"peft_config", "model", "adapter_name", "mixed", "autocast_adapter_dtype", "low_cpu_mem_usage", "revision"}
LOADING = ("num_labels", "revision")  # arguments of from_pretrained that matter here
MOST_DIGITS = 12  # of a number that is computed
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def read_script(data: bytes) -> tuple[str, dict[str, Any]]:
    """The format, and the keyword arguments of the one call that makes the adapter, with some of ``from_pretrained``'s.

    Values may be literals, names that are assigned once, numbers computed from these, and members of ``TaskType``.

    Raises:
        SyntaxError: it is no Python.
        ValueError: there is not one such call, or a value is something else.
    """
    tree = ast.parse(data)
    named = [(_called(node), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    makers = [(name, node) for name, node in named if name in CALLS and _makes(name, node)]
    if any(name == "LoraConfig" for name, _ in makers):  # PEFT's own get_peft_model only takes the config
        makers = [(name, node) for name, node in makers if name == "LoraConfig" or _of_unsloth(node)]
    if len(makers) != 1:
        hint = "; keep one, and give the other scripts by themselves" if makers else ", which make the adapter"
        raise ValueError(f"{len(makers)} calls of {' or '.join(CALLS)}, not one{hint}")
    name, maker = makers[0]
    known = _assigned(tree)
    loaded = [k for called, other in named if called == "from_pretrained" for k in other.keywords if k.arg in LOADING]
    content: dict[str, Any] = {}
    for keyword in [*maker.keywords, *loaded]:
        found = _value(keyword.value, known, keyword.arg)
        if keyword.arg is not None:
            content[keyword.arg] = found
        elif isinstance(found, dict) and all(isinstance(key, str) for key in found):
            content |= found
        else:
            raise ValueError("** is given something that is no dict of arguments: write the arguments themselves")
    return CALLS[name], content


def _makes(name: str, node: ast.Call) -> bool:
    """Whether the call itself gives LoRA's arguments."""
    return name == "LoraConfig" or any(keyword.arg not in HANDED_OVER for keyword in node.keywords)


def _of_unsloth(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "").startswith("Fast")


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _assigned(tree: ast.AST) -> dict[str, list[ast.expr]]:
    """What is assigned to each name, anywhere."""
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        for target in targets:
            if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                found.setdefault(target.id, []).append(node.value)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            found.setdefault(node.target.id, []).extend((node.value, node.value))
    return found


def _value(node: ast.expr, known: dict[str, list[ast.expr]], key: str | None, depth: int = 0) -> Any:
    """The value of an expression.

    Raises:
        ValueError: it cannot be told without running the script.
    """

    def inner(part: ast.expr) -> Any:
        return _value(part, known, key, depth + 1)

    refusal = f"{key or '**'} is no literal but {ast.unparse(node)[:60]!r}: write its value there"
    if depth > 50:
        raise ValueError(refusal)
    match node:
        case ast.Constant():
            return node.value
        case ast.Name(id=name) if len(values := known.get(name, [])) == 1:
            return inner(values[0])
        case ast.Name(id=name) if known.get(name):
            raise ValueError(f"{key or '**'} is {name}, which is assigned more than once: write its value there")
        case ast.Attribute(attr=attr) if ast.unparse(node.value).split(".")[-1] in ("TaskType", "PeftType"):
            return attr
        case ast.List() | ast.Tuple():
            return [inner(part) for part in node.elts]
        case ast.Set():
            return sorted(map(str, map(inner, node.elts)))
        case ast.Dict() if all(part is not None for part in node.keys):
            return {inner(k): inner(v) for k, v in zip(node.keys, node.values, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id="dict"), args=[]) if all(k.arg is not None for k in node.keywords):
            return {str(k.arg): inner(k.value) for k in node.keywords}
        case ast.UnaryOp(op=ast.USub()) if isinstance(number := inner(node.operand), int | float):
            return -number
        case ast.BinOp() if type(node.op) in _OPERATIONS:
            left, right = inner(node.left), inner(node.right)
            if all(isinstance(side, int | float) and len(str(side)) <= MOST_DIGITS for side in (left, right)):
                try:
                    return _OPERATIONS[type(node.op)](left, right)
                except ArithmeticError as error:
                    raise ValueError(refusal) from error
            if isinstance(node.op, ast.Add) and isinstance(left, list) and isinstance(right, list):
                return left + right
    raise ValueError(refusal)
