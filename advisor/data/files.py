"""From a path to lines of text: the files of a split, shards, compression, encoding."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from advisor.core.errors import BadInput

JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")
TEXT_SUFFIXES = (*JSON_SUFFIXES, ".csv", ".tsv", ".txt")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")
OTHER_SUFFIXES = (*(".arrow", ".feather", ".xlsx", ".xls", ".pkl", ".npz"), *(".zip", ".bz2", ".xz", ".zst"))
FORMATS = "JSONL, JSON, CSV, TSV, plain text (each also as .gz) and Parquet are read"
TRAIN_STEMS = ("train",)
EVALUATION_STEMS = ("validation", "valid", "val", "dev", "eval", "validation_matched", "dev_matched", "test")
SHARD = re.compile(r"-(\d+)-of-(\d+)(-[0-9a-f]+)?")
MAX_DOCUMENT = 512 * 2**20  # bytes of a JSON document on one line
MAX_LINE = 16 * 2**20  # bytes (UTF-16: characters) of one row; what is longer is no row of text
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's, which is its beginning
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

Rows = Iterator[tuple[str, dict[str, Any]]]  # (where it stands, cells by column)


def suffix_of(file: Path) -> str:
    """The lower-case suffix of the format, without ``.gz``."""
    name = file.name.lower().removesuffix(".gz")
    return Path(name).suffix


def split_files(folder: Path, stems: Sequence[str]) -> list[Path]:
    """The file, or the shards in their order, of the first split of ``stems`` in ``folder`` or its ``data``; else [].

    Raises:
        BadInput: a shard is missing or there twice, or the folder cannot be read.
    """
    try:
        names = [file for place in (folder, folder / "data") if place.is_dir() for file in sorted(place.iterdir())]
    except OSError as error:
        raise BadInput(f"The folder {folder} cannot be read: {error.strerror}.", "Check its permissions.") from error
    for stem in stems:
        for suffix in SUFFIXES:
            shards: dict[tuple[Path, int], list[tuple[int, Path]]] = {}
            for file in names:
                rest = file.name.lower().removesuffix(".gz")
                if not (rest.startswith(stem) and rest.endswith(suffix) and file.is_file()):
                    continue
                middle = rest[len(stem) : -len(suffix)]
                if not middle:
                    return [file]
                if match := SHARD.fullmatch(middle):
                    shards.setdefault((file.parent, int(match[2])), []).append((int(match[1]), file))
            for (_, count), numbered in shards.items():
                return _all_shards(numbered, count, f"{folder}: of {count} shards of {stem}{suffix}")
    return []


def _all_shards(numbered: Sequence[tuple[int, Path]], count: int, which: str) -> list[Path]:
    """The files in the order of their numbers, which are 0 to ``count`` - 1, or 1 to ``count``.

    Raises:
        BadInput: one is missing, or there twice.
    """
    files: dict[int, Path] = {}
    for number, file in numbered:
        if number in files:
            raise BadInput(
                f"{which} number {number} is there twice: {files[number].name} and {file.name}.", "Remove one of them."
            )
        files[number] = file
    first = int(0 not in files and count in files)
    there = sorted(files.keys() & set(range(first, first + count)))
    if len(there) < count:
        lacking = next(number for number in range(first, first + count) if number not in files)
        raise BadInput(
            f"{which} only {len(there)} are there; number {lacking} is not.", "Add the missing ones, or name one file."
        )
    if len(files) > count:
        beyond = next(file for number, file in sorted(files.items()) if number not in there)
        raise BadInput(f"{which} {len(files)} are there: {beyond.name} is beyond them.", "Remove it, or name one file.")
    return [files[number] for number in there]


class TextFile:
    """A text file, read line by line as often as needed; never held in memory as a whole.

    UTF-8 (with or without byte-order mark), UTF-16 and UTF-32 with one; a line that is not UTF-8 is read as cp1252
    (Latin-1 where that has no such character).

    Attributes:
        source: the file as the user named it.
        start: the first non-blank character.
        tabbed: whether every non-blank line holds a tab.
        count: non-blank lines.
        notes: what was inferred about the encoding.

    Raises:
        BadInput: unreadable, empty, not text, or a line above ``MAX_LINE`` (a JSON document: ``MAX_DOCUMENT``).
    """

    def __init__(self, file: Path) -> None:
        self.file, self.source = file, str(file)
        self.start, self.tabbed, self.count = "", True, 0
        self.notes: list[str] = []
        self._fallbacks: list[int] = []
        self._look()
        for line in self._decoded(count_fallbacks=True):
            if text := line.strip():
                self.start = self.start or text[0]
                self.count += 1
                self.tabbed = self.tabbed and "\t" in line
        if not self.start:
            raise BadInput(f"{self.source} is empty.", "Give a file with one example a row.")
        if self._encoding is not None:
            self.notes.append(f"Read as {self._encoding.upper()}, as its byte-order mark says.")
        if self._fallbacks:
            count = "1 line is" if len(self._fallbacks) == 1 else f"{len(self._fallbacks)} lines are"
            self.notes.append(f"{count} not UTF-8 (first: line {self._fallbacks[0]}): read as cp1252.")

    def lines(self) -> Iterator[str]:
        """Every line with its end, as it stands.

        Raises:
            BadInput: it cannot be read, is no text, or a line is far too long.
        """
        return self._decoded(count_fallbacks=False)

    def _look(self) -> None:
        """Encoding by the byte-order mark, and whether this is a JSON list, which may stand on one line."""
        with self._open() as stream:
            start = self._read(stream, 4096)
        assert isinstance(start, bytes)
        self._encoding = next((encoding for mark, encoding in BYTE_ORDER_MARKS if start.startswith(mark)), None)
        is_list = start.decode(self._encoding or "utf-8-sig", "ignore").lstrip().startswith("[")
        whole = suffix_of(self.file) == ".json" or (is_list and suffix_of(self.file) not in (".csv", ".tsv", ".txt"))
        self._limit = MAX_DOCUMENT if whole else MAX_LINE

    def _decoded(self, count_fallbacks: bool) -> Iterator[str]:
        with self._open() as binary:
            stream = binary if self._encoding is None else io.TextIOWrapper(binary, self._encoding, newline="\n")
            number = 0
            while raw := self._read(stream, self._limit + 1, line=True):
                number += 1
                if len(raw) > self._limit:
                    raise BadInput(
                        f"{self.source}, line {number} is longer than {self._limit // 2**20} MiB: no row of text.",
                        "Give one example a row.",
                    )
                if isinstance(raw, str):
                    yield raw
                    continue
                if b"\0" in raw:
                    raise BadInput(
                        f"{self.source}, line {number} holds NUL bytes: no UTF-8 text file.", f"{FORMATS}; save it as UTF-8."
                    )
                try:
                    text = raw.decode("utf-8")
                except UnicodeDecodeError:
                    text = _single_byte(raw)
                    if count_fallbacks:
                        self._fallbacks.append(number)
                yield text.removeprefix("\ufeff") if number == 1 else text

    def _open(self) -> IO[bytes] | gzip.GzipFile:
        try:
            return gzip.open(self.file) if self.file.name.lower().endswith(".gz") else self.file.open("rb")
        except OSError as error:
            raise self._unreadable(error) from error

    def _read(self, stream: IO[bytes] | gzip.GzipFile | io.TextIOWrapper, size: int, line: bool = False) -> bytes | str:
        try:
            return stream.readline(size) if line else stream.read(size)
        except UnicodeError as error:
            raise BadInput(f"{self.source} is not valid {self._encoding}.", "Save it as UTF-8.") from error
        except (OSError, EOFError, zlib.error) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> BadInput:
        reason = getattr(error, "strerror", None) or str(error)
        return BadInput(f"{self.source} cannot be read: {reason.rstrip('.')}.", "Check the file and its permissions.")


def _single_byte(raw: bytes) -> str:
    try:
        return raw.decode("cp1252")
    except UnicodeDecodeError:  # five bytes are no character of it
        return raw.decode("latin-1")
