"""Commands that look at a probe, without the model: ``score``, ``explain``, ``compare``."""

from __future__ import annotations

from advisor.cli import groups
from advisor.cli.show import say_json, say_report
from advisor.core import option_groups, options
from advisor.core.option import values


def score(given: groups.Score, printed: groups.Printed) -> None:
    """Predict the result, bounds and cost of given selections, in their order."""
    from advisor.results import ProbeResult

    shown = ProbeResult.open(given.probe_path).score(given.selections, **values(given, option_groups.Scoring))
    if printed.as_json:
        say_json(shown.json)
    else:
        say_report([], shown.tables, shown.verdict)


def compare(given: groups.Compare, printed: groups.Printed) -> None:
    """Compare common target sets and the picks of other methods at an equal budget; ranks are lowered where needed."""
    from advisor.results import ProbeResult

    shown = ProbeResult.open(given.probe_path).compare(**values(given, options.Comparison))
    if printed.as_json:
        say_json(shown.json)
    else:
        say_report([], shown.tables, [])


def explain(given: groups.Explain, printed: groups.Printed) -> None:
    """Explain selections: what each module contributes and changes, spectrum, bounds, linearity."""
    from advisor.advice.budget import parse_budget
    from advisor.advice.explain import explain as explain_candidates
    from advisor.advice.explain import explanations_json
    from advisor.core.candidate import Candidate
    from advisor.core.selections import ALL_LINEAR, QV, target_sets
    from advisor.prediction.selection_file import parse_selections, read_selections
    from advisor.report.explanation import blocks, show
    from advisor.results import ProbeResult

    budget = None if given.budget is None else parse_budget(given.budget)
    scorer = ProbeResult.open(given.probe_path).scorer(**values(given, option_groups.Scoring))
    if given.selections is None:
        usual = [s for s in target_sets(scorer.probe.targets, scorer.probe.info["qv_roles"]) if s.name in (ALL_LINEAR, QV)]
        candidates = [Candidate(selection, scorer.settings) for selection in usual]
    else:
        entries, where = read_selections(given.selections)
        candidates = parse_selections(entries, scorer.probe, scorer.settings, where)
    measured = None
    if given.model is not None:
        from advisor import workflow  # loads torch, which nothing else here needs
        from advisor.report.console import console_session

        with console_session() as session:
            measured = workflow.measure_candidates(scorer.probe, given.model, candidates, session, given.trust_remote_code)
    explanations = explain_candidates(scorer, candidates, budget, measured)
    if printed.as_json:
        say_json(explanations_json(explanations, scorer))
    else:
        show(blocks(explanations, scorer))
