"""The engine of :mod:`tui.engine` over :mod:`advisor`, which it imports only inside its methods: loading this module loads
neither NumPy nor torch, and looking at an existing probe never loads torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tui.engine import Confirmed, Effects, Exported, Figures, Headline, Opened, Preview, Recent, Seen, Standing
from tui.inputs import Inputs
from tui.state import entry

if TYPE_CHECKING:
    from advisor.advice.confirm import Confirmation
    from advisor.advice.peer_picks import PeerPick
    from advisor.advice.recommend import Recommendation
    from advisor.core.candidate import Candidate
    from advisor.core.events import Session
    from advisor.core.probe import Probe
    from advisor.export.plan import Plan, Rendered
    from advisor.models.peft import Resolved

SELECTIONS_FILE = "selections.json"


def write_selections(path: Path, candidates: Sequence[Candidate]) -> None:
    """A selection file, atomically.

    Raises:
        BadInput: it cannot be written.
    """
    from advisor.core.store import write_text

    write_text(path, json.dumps([entry(c) for c in candidates], indent=1, allow_nan=False) + "\n")


class RealEngine:
    """:class:`Engine` over :mod:`advisor`."""

    _pool: tuple[Recommendation, list[Candidate]] | None = None  # of :meth:`_sayable`

    def recent(self, folders: Iterable[str]) -> list[Recent]:
        import platformdirs

        from advisor.core.errors import AdvisorError
        from advisor.core.store import APP, PROBE_FILE, read_json

        cache = Path(platformdirs.user_cache_dir(APP)) / "probes"
        found = []
        for folder in dict.fromkeys([*map(Path, folders), *(cache.glob("*") if cache.is_dir() else ())]):
            path = folder / PROBE_FILE
            try:
                info = read_json(path, "probe")
                texts = str(info["model"]), str(info["data"])
                found.append(Recent(folder, *texts, len(info["targets"]), path.stat().st_mtime))
            except (AdvisorError, OSError, KeyError, TypeError):
                continue  # gone, unfinished or not a probe: it is merely not offered
        return sorted(found, key=lambda probe: -probe.when)

    def demo(self) -> tuple[str, str]:
        from advisor import probe_cache

        return probe_cache.demo_inputs()

    def preview(self, inputs: Inputs) -> Preview:
        from tui.real_preview import preview

        return preview(inputs)

    def model_problem(self, inputs: Inputs) -> str:
        from tui.real_preview import model_problem

        return model_problem(inputs)

    def probe(self, inputs: Inputs, session: Session) -> Opened:
        from advisor import api, probe_cache

        source, settings = api.source_of(inputs), api.probe_settings(inputs)
        prepared = api.with_kept_rows(probe_cache.prepare_for_probe(source, session, inputs.samples), inputs, session)
        probe = probe_cache.probe_cached(prepared, settings, session)
        return self._opened(probe_cache.cache_folder(prepared, settings), probe, inputs)

    def open(self, folder: Path, inputs: Inputs) -> Opened:
        from advisor.core.probe import load_probe

        return self._opened(folder, load_probe(folder), inputs)

    def _opened(self, folder: Path, probe: Probe, inputs: Inputs) -> Opened:
        import numpy as np

        from advisor.advice.explain import agreements, block_ranks
        from advisor.advice.peer_picks import module_scores
        from advisor.advice.recommend import module_shares
        from advisor.core import option_groups
        from advisor.core.option import values
        from advisor.core.recipe import recipe_for
        from advisor.core.targets import LoraSettings
        from advisor.prediction.calibration_rows import load_rows
        from advisor.prediction.predictor import Predictor
        from advisor.prediction.scorer import Scorer

        recipe = recipe_for(probe.task, **values(inputs, option_groups.Recipe))
        settings = LoraSettings(**values(inputs, option_groups.Lora))
        predictor = Predictor().fit(load_rows(), probe.task)
        scorer = Scorer(probe, settings, recipe, predictor, **values(inputs, option_groups.Kernel))
        shares = module_shares(scorer, [t.name for t in probe.targets])
        return Opened(
            folder,
            scorer,
            np.array(list(shares.values())),
            agreements(scorer),
            block_ranks(scorer),
            module_scores(probe, inputs.rank),
            inputs,
        )

    def rescored(self, opened: Opened, inputs: Inputs) -> Opened:
        return self._opened(opened.folder, opened.probe, inputs)

    def target_sets(self, opened: Opened) -> list[Candidate]:
        from advisor.core.candidate import Candidate
        from advisor.core.selections import target_sets

        usual = target_sets(opened.targets, opened.probe.info["qv_roles"])
        return [Candidate(selection, opened.scorer.settings) for selection in usual]

    def kept(self, opened: Opened) -> list[Candidate]:
        from advisor.prediction.selection_file import read_selections

        path = opened.folder / SELECTIONS_FILE
        if not path.exists():
            return []
        entries, _ = read_selections(path)
        return self.read(opened, entries, str(path)) if entries else []

    def keep(self, opened: Opened, candidates: Sequence[Candidate]) -> Path:
        path = opened.folder / SELECTIONS_FILE
        write_selections(path, candidates)
        return path

    def read(self, opened: Opened, entries: Any, where: str) -> list[Candidate]:
        from advisor.prediction.selection_file import parse_selections

        return parse_selections(entries, opened.probe, opened.scorer.settings, where)

    def recommend(self, opened: Opened, inputs: Inputs, session: Session) -> Recommendation:
        from advisor.advice.budget import parse_budget
        from advisor.advice.recommend import recommend

        return recommend(
            opened.scorer,
            parse_budget(inputs.budget),
            session,
            granularity=inputs.granularity,
            strategy=inputs.strategy,
            seed=inputs.seed,
            max_forgetting=inputs.max_forgetting,
        )

    def there(self, out: Path) -> tuple[Path, ...]:
        from advisor.workflow import FILES

        return _there(out, FILES)

    def write(
        self,
        opened: Opened,
        recommendation: Recommendation,
        confirmation: Confirmation | None,
        inputs: Inputs,
        out: Path,
        overwrite: bool,
        session: Session,
    ) -> tuple[Path, ...]:
        from advisor import workflow

        scorer = opened.scorer
        asked = workflow.Question(
            scorer.settings,
            scorer.recipe,
            recommendation.budget,
            granularity=recommendation.granularity,
            seed=inputs.seed,
            trust_remote_code=inputs.trust_remote_code,
        )
        decision = workflow.Decision(scorer, recommendation, confirmation)
        written = workflow.write_decision(decision, asked, session, out, overwrite=overwrite)
        return tuple(written.folder / name for name in written.files)

    def headline(self, opened: Opened, recommendation: Recommendation, confirmation: Confirmation | None) -> Headline:
        from tui.wording import headline

        return headline(opened.scorer, recommendation, confirmation)

    def confirm(
        self,
        opened: Opened,
        recommendation: Recommendation,
        inputs: Inputs,
        asked: int,
        folder: Path,
        session: Session,
        tell: Callable[[Standing], None],
    ) -> Confirmed:
        from tui.real_confirm import confirm

        return confirm(opened, recommendation, inputs, asked, folder, session, tell)

    def calibrate(self, opened: Opened, inputs: Inputs, asked: int, folder: Path, session: Session) -> tuple[Opened, int]:
        from tui.real_confirm import calibrate

        rows = calibrate(opened, inputs, asked, folder, session)
        return self.rescored(opened, opened.inputs), rows

    def watch(self, opened: Opened, folder: Path) -> Seen:
        from advisor.training.live import finished_runs, made_of, runs_under_way

        there, probed = made_of(folder), opened.probe.info.get("identity", {})
        if any(there[name] != probed[name] for name in there.keys() & probed.keys()):
            return Seen(is_other=True)
        return Seen(tuple(runs_under_way(folder)), tuple(finished_runs(folder)))

    def figures(self, opened: Opened, candidate: Candidate, reference: Candidate | None = None) -> Figures:
        from advisor.prediction.scorer import share_of_loss
        from advisor.theory.spectrum import Spectrum

        scorer = opened.scorer
        predictions = scorer.predict([candidate] if reference is None else [candidate, reference])
        weights = scorer.block_weights([candidate], scorer.kernels.kind)
        spectrum = Spectrum.of(scorer.kernels.of(weights)[0])
        metric, loss, against = (
            (float(e.value[0]), float(e.low[0]), float(e.high[0]))
            for e in (predictions.score, predictions.loss, predictions.against_all())
        )
        return Figures(
            candidate=candidate,
            metric=metric,
            loss=loss,
            vs_all=share_of_loss(against),
            beside=None if reference is None else predictions.beside(0, 1),
            cost=scorer.cost(candidate),
            condition=spectrum.condition_number(scorer.sigma),
            effective_rank=spectrum.effective_rank(),
            spectrum=spectrum.values[::-1],
            certificate=scorer.certificate(weights[0], spectrum),
            far=predictions.far,
            disturbs=next(iter(scorer.disturbances([candidate])), None),
        )

    def effects(self, opened: Opened, candidate: Candidate, reference: Candidate | None) -> Effects:
        import numpy as np

        from advisor.advice.explain import module_rows
        from advisor.prediction.scorer import share_of_loss

        chosen = set(candidate.selection.targets)
        toggled = []
        for name in (t.name for t in opened.targets):
            kept = chosen ^ {name}
            targets = tuple(t.name for t in opened.targets if t.name in kept)
            toggled.append(replace(candidate, selection=replace(candidate.selection, targets=targets)))
        found = opened.scorer.predict([candidate, *toggled, *([] if reference is None else [reference])])
        change = found.deviation[1 : 1 + len(toggled)] - found.deviation[0]
        inside = np.array([t.name in chosen for t in opened.targets])
        sizes = np.array([each.size for each in opened.scorer.disturbances([candidate, *toggled])])
        moved = sizes[1:] - sizes[:1]
        return Effects(
            candidate,
            reference,
            tuple(module_rows(opened.scorer, candidate)),
            np.asarray(np.where(inside, change, -change)),
            float(found.seed_sd),
            None if reference is None else share_of_loss(found.difference(0, 1 + len(toggled))),
            None if reference is None else found.beside(0, 1 + len(toggled)),
            np.asarray(np.where(inside, -moved, moved)) if len(moved) else None,
        )

    def compare(self, opened: Opened, candidates: Sequence[Candidate], reference: Candidate | None) -> list[Figures]:
        return [self.figures(opened, candidate, reference) for candidate in candidates]

    def peers(self, opened: Opened, recommendation: Recommendation, inputs: Inputs) -> list[PeerPick]:
        from advisor.advice.peer_picks import peer_picks

        return peer_picks(opened.scorer, recommendation.budget, granularity=recommendation.granularity, seed=inputs.seed)

    def plan(self, opened: Opened, candidate: Candidate, recommendation: Recommendation | None) -> Plan:
        from advisor.export.plan import plan_of
        from advisor.report.verdict import kept, level, short_verdict

        if recommendation is None:
            return plan_of(candidate, opened.probe)
        scorer, pick = opened.scorer, recommendation.picked
        named = replace(candidate, selection=replace(candidate.selection, name=pick.name))
        if named == pick.candidate:
            return plan_of(candidate, opened.probe, [*short_verdict(scorer, recommendation)[:2], *kept(recommendation)])
        score = scorer.score([candidate])[0]
        return plan_of(candidate, opened.probe, [level(scorer, score), *kept(recommendation, score)])

    def resolve(self, opened: Opened, plan: Plan, format_name: str, inputs: Inputs) -> Resolved | None:
        from advisor.export import FORMATS
        from advisor.export.baseline import empty_model
        from advisor.export.proof import prove_file

        target = FORMATS[format_name]
        name, file = next(iter(target.render(plan).files.items()))
        return prove_file(target, name, file, plan, empty_model(opened.probe, inputs.trust_remote_code))

    def cost(self, opened: Opened, plan: Plan, resolved: Resolved) -> str:
        from advisor.core.candidate import Candidate
        from advisor.export.alternatives import cost_of_file

        chosen = Candidate(plan.selection, plan.settings, plan.ranks, plan.alphas)
        return cost_of_file(opened.scorer, chosen, resolved)

    def files(
        self, opened: Opened, plan: Plan, format_name: str, recommendation: Recommendation | None, inputs: Inputs
    ) -> Rendered:
        from advisor.export import FORMATS
        from advisor.export.alternatives import alternatives, with_alternatives
        from advisor.export.baseline import empty_model

        rendered = FORMATS[format_name].render(plan)
        if recommendation is None or all(file.fidelity == "exact" for file in rendered.files.values()):
            return rendered
        found = alternatives(
            {format_name: rendered},
            plan,
            empty_model(opened.probe, inputs.trust_remote_code),
            opened.scorer,
            recommendation,
            lambda: self._sayable(opened, recommendation, inputs),
        )
        return with_alternatives(rendered, FORMATS[format_name], found[format_name])

    def _sayable(self, opened: Opened, recommendation: Recommendation, inputs: Inputs) -> list[Candidate]:
        """What to choose alternatives from, searched once a recommendation."""
        from advisor.core.events import Session
        from advisor.export.alternatives import sayable

        if self._pool is None or self._pool[0] is not recommendation:
            self._pool = recommendation, sayable(opened.scorer, recommendation, inputs.seed, Session())
        return self._pool[1]

    def export(self, rendered: Rendered, folder: Path, overwrite: bool) -> Exported:
        from advisor import workflow
        from advisor.core.events import Session

        existing = _there(folder, rendered.files)
        if existing and not overwrite:
            return Exported(existing=existing)
        return Exported(tuple(workflow.write_rendered([rendered], folder, Session(), overwrite)))


def _there(folder: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Those of the files that are there already.

    Raises:
        BadInput: the folder cannot be looked into.
    """
    from advisor.core.errors import BadInput

    try:
        return tuple(folder / name for name in names if (folder / name).exists())
    except OSError as error:
        raise BadInput(f"{folder}: cannot be used as a folder: {error.strerror}.", "Choose another folder.") from error
