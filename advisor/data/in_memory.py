"""Rows that a script holds in memory, written where the readers of files find them: real runs in worker processes, a
later resume and the probe's provenance then know one kind of data only."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import platformdirs

from advisor.core.errors import BadInput
from advisor.core.store import APP, part_of, write_text
from advisor.data.hub import quiet
from advisor.data.values import plain_row

TAKEN = "a file, folder or hub id, a datasets.Dataset or DatasetDict, a pandas DataFrame, or a list of dictionaries"


def data_place(data: Any) -> str:
    """Path or hub id of ``data``; rows in memory are first written to the user's cache, each content once.

    Raises:
        BadInput: an object that is not rows or has none, or rows that cannot be written.
    """
    if isinstance(data, str | os.PathLike):
        return os.fspath(data)
    from datasets import Dataset, DatasetDict
    from pandas import DataFrame

    given = type(data).__name__
    try:
        if isinstance(data, DataFrame):
            data = Dataset.from_pandas(data, preserve_index=False)
        empty = isinstance(data, Dataset | DatasetDict | list | tuple) and not any(map(len, _parts(data)))
        if isinstance(data, Dataset | DatasetDict) and not empty:
            return str(_save(data))
    except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's errors are ValueErrors
        raise BadInput(f"The data cannot be saved: {' '.join(str(error).split())}", f"Give {TAKEN}.") from error
    if isinstance(data, list | tuple) and not empty and all(isinstance(row, dict) for row in data):
        return str(_write(data))
    raise BadInput(f"The data are of type {given}{', and empty' if empty else ''}.", f"Give {TAKEN}.")


def _parts(data: Any) -> list[Any]:
    """The splits of a ``DatasetDict``; other rows are one."""
    return [data[key] for key in sorted(data)] if isinstance(data, dict) else [data]


def _save(data: Any) -> Path:
    """What ``save_to_disk`` writes, at the data set's fingerprint."""
    name = hashlib.sha256(" ".join(part._fingerprint for part in _parts(data)).encode()).hexdigest()[:24]
    folder = _folder() / name
    if not folder.exists():
        part = part_of(folder)
        try:
            with quiet():
                data.save_to_disk(str(part))
            part.rename(folder)
        except OSError as error:
            if not folder.exists():  # else another process was faster
                raise BadInput(f"{folder}: cannot be written: {error.strerror or error}.", "Make room there.") from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return folder


def _write(rows: Any) -> Path:
    """JSON lines, at their hash."""
    try:
        text = "".join(json.dumps(plain_row(row), ensure_ascii=False) + "\n" for row in rows)
    except (TypeError, ValueError) as error:
        raise BadInput(f"A row cannot be written as JSON: {error}.", "Keep texts, numbers and lists of them.") from error
    path = _folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:24]}.jsonl"
    if not path.exists():
        write_text(path, text)
    return path


def _folder() -> Path:
    folder = Path(platformdirs.user_cache_dir(APP)) / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
