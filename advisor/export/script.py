"""The one call in a training script that makes the adapter: it is parsed, and never run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterator
from typing import Any

from advisor.core.reading import check_once

CALLS = {"get_peft_model": "unsloth", "LoraConfig": "trl"}  # what a script calls, and whose format its arguments are
HANDED_OVER = {"peft_config", "model", "adapter_name", "mixed", "autocast_adapter_dtype", "low_cpu_mem_usage", "revision"}
LOADING = ("num_labels", "revision")  # arguments of from_pretrained that matter here
MOST_DIGITS = 12  # of a number that is computed
CHANGING = {"append", "extend", "insert", "remove", "pop", "clear", "update", "setdefault", "add", "discard", "reverse", "sort"}
_OPERATIONS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}


def read_script(data: bytes) -> tuple[str, dict[str, Any]]:
    """The format, and the keyword arguments of the one call that makes the adapter, with some of ``from_pretrained``'s.

    Values may be literals, names that are bound once and not changed in place, numbers, texts and lists computed from these,
    and members of ``TaskType``.

    Raises:
        SyntaxError: it is no Python.
        ValueError: there is not one such call, it has arguments without names, the config is changed after it, or a value is
            something else.
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
    known = _bound(tree)
    if len(maker.args) > (name == "get_peft_model"):
        raise ValueError(f"{name} gets arguments without names, such as {ast.unparse(maker.args[-1])[:60]!r}: name them")
    for variable in (variable for variable, values in known.items() if name == "LoraConfig" and maker in values):
        if changed := next(_attributes_set(tree, variable), None):
            raise ValueError(f"{variable}.{changed} is set after {name}: write its value into the call")
    loaded = [k for called, other in named if called == "from_pretrained" for k in other.keywords if k.arg in LOADING]
    content: dict[str, Any] = {}
    for keyword in maker.keywords:
        if keyword.arg == "model":
            continue
        found = _value(keyword.value, known, keyword.arg)
        arguments = found if keyword.arg is None else {keyword.arg: found}
        if not isinstance(arguments, dict) or not all(isinstance(key, str) for key in arguments):
            raise ValueError("** is given something that is no dict of arguments: write the arguments themselves")
        if twice := next((key for key in arguments if key in content), None):
            raise ValueError(f"{name} gets {twice} twice")
        content |= arguments
    return CALLS[name], content | {str(k.arg): _value(k.value, known, k.arg) for k in loaded}


def _makes(name: str, node: ast.Call) -> bool:
    """Whether the call itself gives LoRA's arguments."""
    return name == "LoraConfig" or any(keyword.arg not in HANDED_OVER for keyword in node.keywords)


def _of_unsloth(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and getattr(node.func.value, "id", "").startswith("Fast")


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def _attributes_set(tree: ast.AST, name: str) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=found), ctx=ast.Store(), attr=attr) if found == name:
                yield attr
            case ast.Call(func=ast.Name(id="setattr"), args=[ast.Name(id=found), *_]) if found == name:
                yield "…"


def _bound(tree: ast.AST) -> dict[str, list[ast.expr | None]]:
    """What each name is bound to, anywhere: an expression, or None for all else, as by a loop, an argument, a change in place."""
    found: dict[str, list[ast.expr | None]] = {}
    assigned: set[int] = set()

    def bind(target: ast.expr, value: ast.expr | None) -> None:
        if isinstance(target, ast.Name):
            assigned.add(id(target))
            found.setdefault(target.id, []).append(value)
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            parts = [*target.elts, *value.elts]
            if len(target.elts) == len(value.elts) and not any(isinstance(part, ast.Starred) for part in parts):
                for part, given in zip(target.elts, value.elts, strict=True):
                    bind(part, given)

    for node in ast.walk(tree):  # a statement comes before its parts
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    bind(target, value)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                bind(target, value)
            case ast.AnnAssign(target=target):
                assigned.add(id(target))
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()) if id(node) not in assigned:
                found.setdefault(name, []).append(None)
            case ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.setdefault(name, []).append(None)
            case ast.alias(name=name, asname=other):
                found.setdefault(other or name.split(".")[0], []).append(None)
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()):
                found.setdefault(name, []).append(None)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr=attr)) if attr in CHANGING:
                found.setdefault(name, []).append(None)
    return found


def _value(node: ast.expr, known: dict[str, list[ast.expr | None]], key: str | None, depth: int = 0) -> Any:
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
        case ast.Name(id=name) if values := known.get(name, []):
            if len(values) == 1 and values[0] is not None:
                return inner(values[0])
            why = "assigned more than once, or changed" if len(values) > 1 else "no plain value"
            raise ValueError(f"{key or '**'} is {name}, which is {why}: write its value there")
        case ast.Attribute(attr=attr) if ast.unparse(node.value).split(".")[-1] in ("TaskType", "PeftType"):
            return attr
        case ast.List() | ast.Tuple():
            parts = [inner(p.value) if isinstance(p, ast.Starred) else [inner(p)] for p in node.elts]
            if all(isinstance(part, list) for part in parts):
                return [each for part in parts for each in part]
        case ast.Set():
            return sorted(map(str, map(inner, node.elts)))
        case ast.Dict():
            check_once([str(inner(k)) for k in node.keys if k is not None])
            pairs = [inner(v) if k is None else {inner(k): inner(v)} for k, v in zip(node.keys, node.values, strict=True)]
            if all(isinstance(pair, dict) for pair in pairs):
                return {key: value for pair in pairs for key, value in pair.items()}
        case ast.Call(func=ast.Name(id="dict"), args=[]) if all(k.arg is not None for k in node.keywords):
            check_once([str(k.arg) for k in node.keywords])
            return {str(k.arg): inner(k.value) for k in node.keywords}
        case ast.Call(func=ast.Attribute(value=text, attr="split"), args=separators, keywords=[]) if len(separators) < 2:
            text, by = inner(text), [inner(each) for each in separators]
            if isinstance(text, str) and all(isinstance(each, str) and each for each in by):
                return text.split(*by)
        case ast.UnaryOp(op=ast.USub()) if isinstance(number := inner(node.operand), int | float):
            return -number
        case ast.BinOp() if type(node.op) in _OPERATIONS:
            left, right = inner(node.left), inner(node.right)
            if all(isinstance(side, int | float) and len(str(side)) <= MOST_DIGITS for side in (left, right)):
                try:
                    return _OPERATIONS[type(node.op)](left, right)
                except ArithmeticError as error:
                    raise ValueError(refusal) from error
            if isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, list | str):
                return left + right
    raise ValueError(refusal)
