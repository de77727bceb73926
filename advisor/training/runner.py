"""One real LoRA run, planned and done: what a worker is given, and the row that it hands back."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.core.errors import OutOfMemory
from advisor.core.events import Session
from advisor.core.recipe import TrainingRecipe
from advisor.core.targets import LoraSettings, Selection
from advisor.models.prepare import Prepared, Source, prepare, with_kept
from advisor.training import live

if TYPE_CHECKING:
    from advisor.training.frozen_prefix import PrefixStates

RUN_SCHEMA = 1


@dataclass(frozen=True)
class PlannedRun:
    """One fine-tune to do; ``ranks`` and ``alphas`` are those of single modules, where they differ from the settings'.

    ``measured``: selections whose loss the trained model is to show by switching all other adapters off (a pilot run).
    """

    selection: Selection
    settings: LoraSettings
    seed: int
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    measured: tuple[Selection, ...] = ()

    @property
    def own(self) -> dict[str, Any]:
        """What not every run has, as JSON: patterns of ranks and alphas, selections to measure."""
        patterns = {"ranks": dict(sorted(self.ranks.items())), "alphas": dict(sorted(self.alphas.items()))}
        measured = {"measured": [list(s.targets) for s in self.measured]} if self.measured else {}
        return (patterns if self.ranks or self.alphas else {}) | measured

    @property
    def key(self) -> str:
        """Identifies the run inside one calibration folder."""
        content = [self.selection.targets, asdict(self.settings), self.seed, *self.own.values()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def planned_row(run: PlannedRun, recipe: TrainingRecipe) -> dict[str, Any]:
    """What a row says of the run itself."""
    return {
        "key": run.key,
        "selection": asdict(run.selection),
        "settings": asdict(run.settings),
        **run.own,
        "recipe": recipe.as_dict(),
        "seed": run.seed,
    }


def short_name(path: str) -> str:
    """The last two parts of a path or hub id: enough to recognise it, without the rest of a machine's folders."""
    return "/".join(Path(path).parts[-2:])


class Runner:
    """Does planned runs in one worker; model, rows and the states of frozen blocks are made for the first and kept."""

    def __init__(
        self,
        source: Source,
        recipe: TrainingRecipe,
        eval_rows: int,
        live_folder: Path | None = None,
        keep: str | None = None,
    ) -> None:
        """``live_folder``: where runs say what they have reached, see :mod:`advisor.training.live`. ``keep``: where the rows
        lie of which runs say what they forgot."""
        self.source, self.recipe, self.eval_rows, self.live_folder, self.keep = source, recipe, eval_rows, live_folder, keep
        self._ready: tuple[Prepared, PrefixStates] | None = None

    def __call__(self, run: PlannedRun) -> dict[str, Any]:
        """The run's row.

        Raises:
            NotFinite: its loss became NaN or infinite, or it diverged.
            OutOfMemory: it does not fit.
        """
        import torch

        from advisor.core.errors import lacks_memory

        try:
            return self._row(run)
        except (MemoryError, RuntimeError) as error:
            if not lacks_memory(error):
                raise
            first_line = (str(error).splitlines() or ["out of memory"])[0]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # here, where the error no longer holds the run's tensors
        raise OutOfMemory(f"{run.selection.name}: {first_line}", "Lower --batch-size or --max-length.")

    def _prepare(self) -> tuple[Prepared, PrefixStates]:
        import torch

        from advisor.training.frozen_prefix import PrefixStates

        if self._ready is None:
            torch.set_num_threads(1)
            prepared = prepare(self.source, Session(), train_limit=self.recipe.train_rows, eval_limit=self.eval_rows)
            if self.keep is not None:
                prepared = with_kept(prepared, self.keep, Session())
            self._ready = prepared, PrefixStates(prepared.loaded)
        return self._ready

    def _row(self, run: PlannedRun) -> dict[str, Any]:
        import torch
        from torch import nn

        from advisor.models.encode import encode
        from advisor.training.divergence import require_sound
        from advisor.training.finetune import finetune
        from advisor.training.kept import change_of
        from advisor.training.pilot import switched_losses

        prepared, prefix = self._prepare()
        metric = prepared.train.schema.metric
        more: dict[str, Any] = {}
        told = None if self.live_folder is None else live.LiveFile(self.live_folder, run.key, run.selection.name)

        def measure(model: nn.Module, _: Mapping[str, torch.Tensor]) -> None:
            if prepared.kept is not None:
                kept = encode(prepared.kept.data, prepared.loaded, prepared.max_length)[0]
                more["kept"] = change_of(prepared.loaded, model, kept)
            if not run.measured:
                return
            start = time.monotonic()
            alive = Session() if told is None else Session(emit=told.at_work)
            rows = prepared.train_rows, prepared.eval_rows
            more["switched"] = switched_losses(model, prepared.loaded, run.measured, *rows, metric, alive)
            more["switched_s"] = round(time.monotonic() - start, 2)

        result = finetune(
            prepared.loaded,
            run.selection,
            run.settings,
            self.recipe,
            prepared.train_rows,
            prepared.eval_rows,
            metric,
            run.seed,
            ranks=run.ranks,
            alphas=run.alphas,
            prefix=prefix,
            inspect=measure if run.measured or prepared.kept is not None else None,
            tell=None if told is None else told.tell,
        )
        if told is not None:
            told.remove()
        require_sound(result, prepared.loaded.task, prepared.train_rows, run.selection.name)
        best = result.at_best
        epochs = [[e.train_loss if i else None, e.val_loss, e.metric] for i, e in enumerate(result.epochs)]
        return {
            "schema": RUN_SCHEMA,
            **planned_row(run, self.recipe),
            "result": {
                "train_loss": best.train_loss if result.best else None,
                "val_loss": best.val_loss,
                "metric": best.metric,
                "best_epoch": result.best,
                "epochs": epochs,
                "distances": [e.distance for e in result.epochs],
                "lora_params": result.lora_params,
                "wall_s": round(result.wall_s, 2),
                **more,
            },
            "provenance": _provenance(prepared),
        }


def _provenance(prepared: Prepared) -> dict[str, Any]:
    """What a row says of the model, the data and the machine."""
    import peft
    import torch
    import transformers

    from advisor.models.forward import autocasts

    loaded, schema = prepared.loaded, prepared.train.schema
    return {
        "model": short_name(loaded.name),
        "model_type": loaded.model.config.model_type,
        "data": short_name(prepared.train.source),
        **prepared.made_of,
        "task": schema.task,
        "classes": len(schema.class_names),
        "metric": schema.metric,
        "train_rows": len(prepared.train_rows),
        "eval_rows": len(prepared.eval_rows),
        "max_length": prepared.max_length,
        "autocast": "bfloat16" if autocasts(loaded) else "off",
        "device": loaded.device.type,
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
            "python": platform.python_version(),
        },
    }
