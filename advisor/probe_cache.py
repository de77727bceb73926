"""Where a command's probe comes from: a folder, the user's cache, or a new pass over model and data."""

from __future__ import annotations

from pathlib import Path

import platformdirs

from advisor.core.errors import BadInput
from advisor.core.events import Session
from advisor.core.folders import locked
from advisor.core.probe import BLOCKS_FILE, PROBE_AGAIN, Probe
from advisor.core.store import APP, PROBE_FILE, is_probe, writing
from advisor.data.demo import demo_dataset_file, demo_model_folder
from advisor.data.schema import Schema
from advisor.models.prepare import Prepared, Source, prepare
from advisor.probing.run import cache_key, run_probe
from advisor.probing.settings import HEAD_ROWS, ProbeSettings, probe_samples


def demo_inputs() -> tuple[str, str]:
    """The embedded model's folder and a freshly made data file, in the user's cache."""
    folder = Path(platformdirs.user_cache_dir(APP)) / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    return str(demo_model_folder()), str(demo_dataset_file(folder))


def prepare_for_probe(source: Source, session: Session, samples: int | None) -> Prepared:
    """Data and, once it is asked for, the model; as many training rows as the head's linear probe and the sample need."""
    settings = ProbeSettings(samples=samples)

    def rows_needed(schema: Schema) -> int:
        return max(HEAD_ROWS, 2 * probe_samples(settings, len(schema.class_names)))

    return prepare(source, session, train_limit=rows_needed, eval_limit=0)


def prepare_again(source: Source, session: Session, samples: int | None) -> Prepared:
    """What :func:`made_from` says that a probe was made with, as :func:`prepare_for_probe` reads it.

    Raises:
        BadInput: it is no longer there or cannot be read; says how the probe learns where it lies now.
    """
    try:
        return prepare_for_probe(source, session, samples)
    except BadInput as error:
        raise BadInput(
            f"What the probe was made from cannot be read again: {error.what}",
            "If model or data moved, run `advisor probe MODEL --data DATA --out PROBE` with the probe's options: it notes where "
            "they lie now and computes nothing. `advisor score`, `compare` and `explain` need neither.",
        ) from error


def cache_folder(prepared: Prepared, settings: ProbeSettings) -> Path:
    """Where the user's cache keeps this probe, keyed by weights, data and settings; the model need not be loaded."""
    return Path(platformdirs.user_cache_dir(APP)) / "probes" / cache_key(prepared, settings)


def probe_cached(prepared: Prepared, settings: ProbeSettings, session: Session) -> Probe:
    """The probe from the user's cache, for which no model is loaded, or a new one put there; a damaged one is made anew."""
    folder = cache_folder(prepared, settings)
    try:
        return run_probe(prepared, settings, folder, session)
    except BadInput as error:
        if not is_probe(folder):  # it was not for a probe that was there
            raise
        session.warn(f"{error.what} This cached probe is made anew.")
        with locked(folder, session), writing(folder):
            for name in (PROBE_FILE, BLOCKS_FILE):
                (folder / name).unlink(missing_ok=True)
        return run_probe(prepared, settings, folder, session)


def made_from(probe: Probe, trust_remote_code: bool) -> tuple[Source, ProbeSettings]:
    """Model, data and settings that a probe says it was made with; but whether to run a model's own code is not for a file
    to say, which may come from anybody.

    Raises:
        BadInput: it does not say.
    """
    try:
        source, settings = probe.info["source"], probe.info["identity"]["settings"]
        asked = {"text_columns": tuple(source["text_columns"]), "trust_remote_code": trust_remote_code}
        places = {key: probe.path_now(place) for key in ("model", "data", "eval_data") if (place := source[key]) is not None}
        return Source(**{**source, **asked, **places}), ProbeSettings(**settings)
    except (KeyError, TypeError) as error:
        raise BadInput(f"The probe does not say how it was made ({error}).", PROBE_AGAIN) from error
