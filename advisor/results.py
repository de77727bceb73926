"""What a script or notebook gets back: text, HTML, figures, and JSON for programs (no torch until PEFT is asked)."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advisor.advice.budget import parse_budget
from advisor.advice.peer_picks import comparison_json, peer_picks
from advisor.core import option_groups, options
from advisor.core.option import values
from advisor.core.probe import Probe, load_probe
from advisor.core.recipe import recipe_for
from advisor.core.targets import LoraSettings
from advisor.prediction.calibration_rows import load_rows
from advisor.prediction.payload import scores_json
from advisor.prediction.predictor import Predictor
from advisor.prediction.scorer import Scorer
from advisor.prediction.selection_file import Selections, parse_selections, read_selections
from advisor.report.payload import RecommendationFile
from advisor.report.tables import TextTable, peer_table, plain_text, score_table
from advisor.report.verdict import Answer
from advisor.report.words import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from peft import LoraConfig

    from advisor.advice.recommend import Recommendation


@dataclass(frozen=True, repr=False)
class Shown:
    """Sentences and tables, and the same for programs.

    Attributes:
        json: as the command's ``--json`` prints it.
        verdict: sentences, the most important first.
    """

    json: dict[str, Any]
    verdict: list[str]
    tables: list[TextTable]

    def __str__(self) -> str:
        return plain_text(self.verdict, self.tables)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {' '.join(self.verdict[:1]) or self.tables[0].title}>"

    def _repr_html_(self) -> str:
        """For a notebook: the first sentence stands out, the first table is open, the others unfold."""
        first, *rest = [escape(line) for line in self.verdict] or [""]
        items = "".join(f"<li>{line}</li>" for line in rest)
        folded = "".join(
            f"<details{'' if i else ' open'}><summary>{escape(table.title)}</summary>{table.html()}</details>"
            for i, table in enumerate(self.tables)
        )
        head = f"<p><b>{first}</b></p><ul>{items}</ul>" if first else ""
        return f"<div>{head}{folded}</div>"


@dataclass(frozen=True, repr=False)
class Recommended(Shown):
    """A recommendation and its folder.

    Attributes:
        folder, files: where it was written, and the names of what was.
        scorer, advice: what it rests on, for a look inside.
        payload: what ``json`` holds, typed.
        answer: the short answer, a list of sentences and one table; as text it fits one screen.
    """

    folder: Path
    files: tuple[str, ...]
    scorer: Scorer
    advice: Recommendation
    payload: RecommendationFile
    answer: Answer

    @property
    def target_modules(self) -> list[str]:
        """Full names of the modules to adapt, in model order, as PEFT's ``target_modules`` takes them."""
        return self._chosen(stacks=False)

    @property
    def target_parameters(self) -> list[str]:
        """Full names of the stacks of experts to adapt, as PEFT's ``target_parameters`` takes them."""
        return self._chosen(stacks=True)

    def _chosen(self, stacks: bool) -> list[str]:
        chosen = set(self.advice.picked.candidate.selection.targets)
        return [t.name for t in self.scorer.probe.targets if t.name in chosen and bool(t.experts) == stacks]

    def figures(self) -> dict[str, Figure]:
        """The figures of ``report.html`` by name, for a notebook or ``savefig``."""
        from advisor.report.html import drawings

        return {name: drawing.figure() for name, drawing in drawings(self.payload).items()}

    def lora_config(self, **changes: Any) -> LoraConfig:
        """A new ``peft.LoraConfig`` of what ``lora.yaml`` says; ``changes`` are arguments to add or replace, such as
        ``lora_dropout``."""
        from peft import LoraConfig

        return LoraConfig(**{**copy.deepcopy(self.json["peft"]), **changes})  # PEFT writes into the lists it is given


@dataclass(frozen=True, repr=False)
class ProbeResult:
    """A probe and its folder; answers what ``advisor score`` and ``advisor compare`` do.

    What is ``given`` below are options by name: of LoRA, recipe and kernel, see :meth:`scorer`.
    """

    folder: Path
    probe: Probe

    @classmethod
    def open(cls, folder: str | Path) -> ProbeResult:
        """The probe in ``folder``.

        Raises:
            BadInput: there is none, or it is damaged.
        """
        return cls(Path(folder), load_probe(Path(folder)))

    def as_dict(self) -> dict[str, Any]:
        """What ``advisor probe --json`` prints."""
        keys = ("task", "metric", "model", "data", "head_kind", "head_cv", "device", "estimate_error", "train_rows", "linearity")
        return {
            "probe": str(self.folder),
            "modules": len(self.probe.targets),
            "samples": self.probe.samples,
            **{key: self.probe.info[key] for key in keys},
            "targets": [asdict(t) for t in self.probe.targets],
        }

    def scorer(self, **given: Any) -> Scorer:
        """Scores any selection at these LoRA settings and this recipe; the arguments are those of
        :class:`advisor.core.option_groups.Scoring`.

        Raises:
            BadInput: an option has a value that it does not take.
        """
        scoring = option_groups.Scoring(**given)
        recipe = recipe_for(self.probe.task, **values(scoring, option_groups.Recipe))
        predictor, settings = Predictor().fit(load_rows(), self.probe.task), LoraSettings(**values(scoring, option_groups.Lora))
        return Scorer(self.probe, settings, recipe, predictor, **values(scoring, option_groups.Kernel))

    def score(self, selections: Selections, **given: Any) -> Shown:
        """Predictions, bounds and cost of given selections, in their order.

        Args:
            selections: a selection file or its content, see docs/commands.md.
            given: as :meth:`scorer` takes them.
        """
        scorer = self.scorer(**given)
        entries, where = read_selections(selections)
        scores = scorer.score(parse_selections(entries, self.probe, scorer.settings, where))
        table = score_table("Scores", list(scores), str(self.probe.info["metric"]))
        return Shown(scores_json(scores, scorer), sorted({w for s in scores for w in s.warnings}), [table])

    def compare(self, budget: str = "25%", **given: Any) -> Shown:
        """Common target sets, rank lowered where needed, and what other methods would pick, side by side at equal budget.

        Args:
            given: those of :class:`advisor.core.options.Comparison`.
        """
        from advisor.advice.recommend import compare

        asked = options.Comparison(budget=budget, **given)
        parsed, scorer, own = parse_budget(asked.budget), self.scorer(**values(asked, option_groups.Scoring)), None
        if asked.baseline is not None:
            from advisor.export.baseline import read_baseline

            own = read_baseline(Path(asked.baseline), self.probe, False)
        scores, index = compare(scorer, parsed, own)
        before = [s.candidate for s in scores]
        picks = peer_picks(scorer, parsed, before, granularity=asked.granularity, seed=asked.seed)
        title, metric = f"Common target sets at the budget of {parsed.text}", str(self.probe.info["metric"])
        marked = [] if index is None else [index]
        shown = [score_table(title, list(scores), metric, marked), peer_table(picks, parsed, metric)]
        return Shown(comparison_json(scores, picks, scorer), [], shown)

    def __repr__(self) -> str:
        info = self.probe.info
        return f"<ProbeResult: {len(self.probe.targets)} modules on {self.probe.samples} examples of {info['data']}>"

    def _repr_html_(self) -> str:
        """For a notebook: what was probed."""
        info, targets = self.probe.info, self.probe.targets
        params = sum(t.lora_params(LoraSettings().rank) for t in targets)
        facts = (
            ("model", str(info["model"])),
            ("data", f"{info['data']}, {info['train_rows']} training rows"),
            ("task", f"{info['task']}, {info['metric']}"),
            ("examples", str(self.probe.samples)),
            ("modules", f"{len(targets)}, {count(params)} LoRA parameters at rank {LoraSettings().rank}"),
            ("head", str(info["head_kind"])),
            ("folder", str(self.folder)),
        )
        return TextTable("", ("probe", ""), facts, text_columns=2).html()
