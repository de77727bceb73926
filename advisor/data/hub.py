"""Data sets of the hub, of its local cache, and those ``save_to_disk`` wrote, through ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advisor.core.errors import BadInput, loading

HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){0,2})(:(?P<config>[\w.+-]+))?(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class HubData:
    """One split; iterating gives its rows as plain values, class ids as class names.

    Attributes:
        data: a ``datasets.Dataset``, memory-mapped.
        split: its name; empty for a data set without splits.
    """

    data: Any
    split: str

    def __iter__(self) -> Iterator[dict[str, Any]]:
        from datasets import ClassLabel, Image

        data = self.data
        for name, feature in self.data.features.items():  # images as the bytes of their files
            if isinstance(feature, Image):
                data = data.cast_column(name, Image(decode=False))
            elif isinstance(getattr(feature, "feature", None), Image):
                data = data.cast_column(name, type(feature)(Image(decode=False)))
        kinds = {
            name: getattr(feature, "feature", feature) for name, feature in self.data.features.items()
        }  # lists: of their items
        names = {name: kind.names for name, kind in kinds.items() if isinstance(kind, ClassLabel)}
        with loading(f"The data set{f' split {self.split}' if self.split else ''} cannot be read", "Save or download it again."):
            for row in data:
                yield with_class_names(row, names)


def with_class_names(row: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """The row with class names for ids, also in lists; -1 (GLUE's hidden test labels) and ids without a name become None."""

    def named(value: Any, known: list[str]) -> Any:
        if isinstance(value, list):
            return [named(each, known) for each in value]
        return known[value] if isinstance(value, int) and 0 <= value < len(known) else None

    return {**row, **{column: named(row.get(column), known) for column, known in names.items()}}


def read_hub(name: str, stems: Sequence[str]) -> HubData | None:
    """The first split of ``stems`` (else the first one) of ``owner/name``, ``name/config``, ``name:config``, ``…@revision``.

    None: it has none of ``stems`` and they do not include ``train``.

    Raises:
        BadInput: it cannot be read, or, offline, the cached copy is not the revision asked for.
    """
    import datasets

    match = HUB_ID.fullmatch(name)
    assert match is not None
    repository, config, revision = match["name"], match["config"], match["revision"]
    base, _, last = repository.rpartition("/")
    attempts: list[tuple[str, str | None]] = []
    if config or repository.count("/") < 2:
        attempts.append((repository, config))
    if base and not config:
        attempts.append((base, last))
    failures = []
    for at, chosen in attempts:
        try:
            with quiet():
                _check_revision(name, at, chosen, revision)
                splits = datasets.get_dataset_split_names(at, chosen, revision=revision)
                split = next((stem for stem in stems if stem in splits), None)
                if split is None and "train" not in stems:
                    return None
                data = datasets.load_dataset(at, chosen, split=split or splits[0], revision=revision)
        except BadInput:
            raise
        except Exception as error:  # whatever the hub client raises, the name could not be read
            failures.append(error)
            continue
        return HubData(data, split or splits[0])
    reason = " ".join(str(failures[0]).split()) or type(failures[0]).__name__
    raise BadInput(
        f"There is no file or folder {name}, and no hub data set could be read: {reason.rstrip('.')}.",
        hub_hint(failures[0]),
    ) from failures[0]


def hub_hint(error: BaseException) -> str:
    """What to do about an error of the hub's client, whatever it is wrapped in."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    if any(isinstance(e, GatedRepoError) or "is a gated dataset" in str(e) for e in chain):  # datasets only says so
        return "It is gated: accept its terms on its page, then log in with `hf auth login` or set HF_TOKEN."
    if any(isinstance(e, RevisionNotFoundError) for e in chain):
        return "It has no such revision: check --revision (of data what follows @)."
    if any(isinstance(e, RepositoryNotFoundError) for e in chain):
        return "Check the name; if it is private, log in with `hf auth login` or set HF_TOKEN."
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set, so only what is cached can be read: unset it, or get it with `hf download` first."
    return "Check the name and the network, or download it and name the file or folder."


def _check_revision(name: str, repository: str, config: str | None, revision: str | None) -> None:
    """Without the hub, ``datasets`` takes any cached copy, whatever revision was asked for; its hash is the commit.

    Raises:
        BadInput: the copy is another one.
    """
    import datasets

    if revision is None:
        return
    builder = datasets.load_dataset_builder(repository, config, revision=revision)
    commit = str(builder.hash)
    if "packaged_modules.cache" in type(builder).__module__ and not commit.startswith(revision):
        raise BadInput(
            f"{name}: the hub is out of reach, and the cached copy is commit {commit}, not {revision}.",
            "Name that commit, leave the revision out, or go online.",
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what ``datasets`` says on loading: the notes say what was read."""
    import datasets

    level, bars = datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def read_saved(folder: Path, stems: Sequence[str]) -> HubData | None:
    """A split of what ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` left in ``folder``; None: nothing of the kind.

    Raises:
        BadInput: it is damaged.
    """
    if not (folder / "dataset_dict.json").is_file() and not (folder / "state.json").is_file():
        return None
    import datasets

    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # any of json, pyarrow and datasets
        reason = " ".join(str(error).split())
        raise BadInput(f"The data set saved in {folder} cannot be read: {reason}.", "Save it again.") from error
    if isinstance(saved, datasets.Dataset):
        return HubData(saved, "") if "train" in stems else None
    split = next((stem for stem in stems if stem in saved), None)
    return HubData(saved[split], split) if split else None
