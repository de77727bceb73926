"""The recommendation in sentences, and the short answer that fits one screen."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO

from rich.console import Console

from advisor.advice.confirm import Confirmation, short_recipe
from advisor.advice.effort import measuring_steps, most_to_win, run_steps
from advisor.advice.recommend import STABLE, Recommendation
from advisor.core.choices import ALIKE_WITHIN, EFFORTS, LEVEL, PREDICTED, SOME_RUNS, STRATEGIES
from advisor.core.probe import KeepBlocks
from advisor.core.targets import Target
from advisor.core.text import printable
from advisor.prediction.disturbance import is_surprised
from advisor.prediction.gain import log_base
from advisor.prediction.scorer import Score, Scorer, share_of_loss
from advisor.report.tables import ALL, TextTable, answer_table
from advisor.report.words import NOT_KNOWN, Triple, change_known, change_words, count, loss_span, metric_name, metric_span, ranges
from advisor.theory.linearity import Linearity

WIDTH, HEIGHT = 80, 24
MOST_ROWS, LEAST_ROWS = 6, 3  # of the short answer's table
FEWEST_SENTENCES = 2  # what to adapt, what to expect
LONGEST_PLACES = 130  # characters; scattered modules are named in the report
NOTHING_LEARNED = 0.01  # log loss that a linear probe on frozen features wins over guessing
WON_BY_GUESSING = 0.05  # log loss that every set of modules wins over the head alone where a class is rare
LITTLE_TO_WIN = (
    "Little may be won here: a linear probe on the frozen model does not beat guessing. On seven of eight such data sets no "
    "target set lowered the loss by more than 7% in real runs; on the eighth one did by 45%."
)
MOST_REASONS = 2  # why real runs failed
LITTLE = 0.005  # share of the loss that is not worth a run
CONFIRM_CAVEAT = (
    "On data kept back it ranked better by it in six of ten tests; in the last its 90% intervals held 92% of losses (68% with "
    "new models)."
)
UNLIKE_CAVEAT = "Nothing is known of what such a run adds on a task unlike the calibration runs."
BY_OPTIONS = {
    "samples": "add --samples {}",
    "pilot": "add --effort pilot",
    "runs": "add --effort runs",
    "confirm": "add --confirm {}",
    "train": "train with lora.yaml",
}


@dataclass(frozen=True)
class Answer:
    """What a person needs first: ``sentences``, one table, and where to go from here; as text it fits one screen of 80×24."""

    sentences: tuple[str, ...]
    table: TextTable
    after: tuple[str, ...]

    def __str__(self) -> str:
        console = Console(file=StringIO(), width=WIDTH, highlight=False, force_jupyter=False, color_system=None)
        with console.capture() as captured:
            for line in self.sentences:
                console.print(_wrapped(line), markup=False)
            console.print(self.table.rich(WIDTH, compact=True))
            for line in self.after:
                console.print(_wrapped(line), markup=False)
        return "\n".join(line.rstrip() for line in captured.get().rstrip("\n").split("\n"))


def _wrapped(line: str) -> str:
    return textwrap.fill(printable(line), WIDTH, break_on_hyphens=False)


def answer(scorer: Scorer, rec: Recommendation, confirmation: Confirmation | None, folder: str, files: Sequence[str]) -> Answer:
    """The short answer; ``folder``, ``files``: where the recommendation is written, and the names of its files."""
    sentences = short_verdict(scorer, rec)
    if confirmation is not None:
        sentences.insert(2, checked(confirmation))
    written = f"Written to {folder}: {', '.join(files)}. Everything else stands in report.html, or add --verbose."
    after = (written, next_step(scorer, rec, confirmation))
    rows = MOST_ROWS
    while True:
        found = Answer(tuple(sentences), answer_table(scorer, rec, rows), after)
        if len(str(found).splitlines()) < HEIGHT or len(sentences) <= FEWEST_SENTENCES:  # one line is left for the prompt
            return found
        if rows > LEAST_ROWS:
            rows -= 1
        else:
            sentences.pop()


def short_verdict(scorer: Scorer, rec: Recommendation) -> list[str]:
    """What to adapt; what that costs or wins against all modules and q,v; whether it can be told from common target sets; the
    level, which is known less well."""
    lines = [what_to_adapt(scorer, rec), what_to_expect(scorer, rec)]
    if little := little_to_win(scorer):
        lines.append(little)
    if unknown := only_ranked(scorer, rec.front.predictions.far):
        lines.append(unknown)
    if told := told_apart(rec):
        lines.append(told)
    if unknown:
        return lines
    if far := unlike(rec):
        lines.append(far)
    return [*lines, level(scorer, rec.picked)]


def only_ranked(scorer: Scorer, far: Sequence[str]) -> str:
    """That the level is not known, as no run was of this kind of task or input; empty where one was, here or in calibration."""
    reason = next((reason for reason in far if reason.startswith("no calibration run")), None)
    if reason is None or scorer.runs:
        return ""
    return f"{reason[0].upper()}{reason[1:]}: selections are only ranked, and the level of loss and metric is {NOT_KNOWN}."


def little_to_win(scorer: Scorer) -> str:
    """That most likely no target set helps much; empty where one may well."""
    context = scorer.context
    by_guessing = float(context["log_start"]) - log_base(context)
    return LITTLE_TO_WIN if context["head_gain"] <= NOTHING_LEARNED and by_guessing < WON_BY_GUESSING else ""


def unlike(rec: Recommendation) -> str:
    """That the task is outside what predictions were calibrated on, and why; empty where it is not."""
    far = rec.front.predictions.far
    return (
        f"This task is unlike the calibration runs ({'; '.join(far)}), so trust its figures and its ranking less." if far else ""
    )


def what_to_adapt(scorer: Scorer, rec: Recommendation) -> str:
    candidate, targets = rec.picked.candidate, scorer.probe.targets
    chosen = candidate.selection.targets
    where = _places([t for t in targets if t.name in set(chosen)])
    return (
        f"Adapt {len(chosen)} of {len(targets)} modules: {where} "
        f"({count(rec.picked.cost.params)} LoRA parameters, {candidate.ranks_text}, budget {rec.budget.text})."
    )


def _places(chosen: Sequence[Target]) -> str:
    """``value in layers 2–5; query, key in layer 5``; only how many where that is long."""
    layers: dict[str, set[int]] = {}
    outside = [printable(t.role) for t in chosen if t.layer is None]
    for target in chosen:
        if target.layer is not None:
            layers.setdefault(printable(target.role), set()).add(target.layer)
    if not layers:
        return ", ".join(dict.fromkeys(outside)) if outside else "none"
    by_layers: dict[str, list[str]] = {}
    for role, found in layers.items():
        by_layers.setdefault(_layers(found), []).append(role)
    parts = [f"{', '.join(roles)} in {where}" for where, roles in by_layers.items()] + list(dict.fromkeys(outside))
    if len(text := "; ".join(parts)) <= LONGEST_PLACES:
        return text
    return f"{len(layers)} kinds of module in {_layers(set().union(*layers.values()))}"


def _layers(layers: set[int]) -> str:
    return f"layer{'s' * (len(layers) > 1)} {ranges(layers)}"


def what_to_expect(scorer: Scorer, rec: Recommendation) -> str:
    """The difference to all modules and to q,v, each with its interval."""
    pick, full, lines = rec.picked, rec.all_linear, []
    if pick.cost.params >= full.cost.params:
        lines.append("These are all modules that LoRA can adapt.")
    else:
        size = f"{full.cost.params / pick.cost.params:.1f}× the parameters"
        lines.append(
            f"{_expected(pick.vs_all, ALL)}, which have {size} and take {1 / pick.cost.time_vs_all_linear:.2f}× the time."
        )
    if (index := qv_index(scorer, rec)) is not None:
        change = share_of_loss(rec.equal_budget.predictions.difference(0, index))
        lines.append(f"{_expected(change, printable(rec.equal_budget[index].name))}.")
    return " ".join(lines)


def _expected(change: Triple, other: str) -> str:
    if change_known(change):
        return f"Expect {change_words(change, other)}"
    return f"It is {NOT_KNOWN} what the pick wins or loses against {other}"


def qv_index(scorer: Scorer, rec: Recommendation) -> int | None:
    """Index of q,v among the target sets at equal budget; None where it is the pick, or not there."""
    roles = set(scorer.probe.info["qv_roles"])
    qv = tuple(t.name for t in scorer.probe.targets if t.role in roles)
    found = (i for i, score in enumerate(rec.equal_budget) if score.candidate.selection.targets == qv)
    return next((i for i in found if i not in (0, rec.baseline)), None)


def told_apart(rec: Recommendation) -> str:
    """How many of the common target sets cannot be told from the pick; empty where there are none."""
    others = len(rec.equal_budget) - 1
    if not others:
        return ""
    if not rec.untold:
        return f"All {others} common target sets at this budget can be told apart from it."
    if rec.untold == others:
        text = f"None of the {others} common target sets at this budget can be told apart from it"
        text += "; it is the cheapest of those expected to be as good" if rec.strategy == PREDICTED else ""
    else:
        text = f"{rec.untold} of {others} common target sets at this budget cannot be told apart from it"
    if rec.alike:
        many = "All" if rec.alike == rec.untold > 1 else str(rec.alike)
        text += f". {many} of these end{'s' * (rec.alike == 1)} within {ALIKE_WITHIN:.0%} of its loss"
    return f"{text}."


def checked(found: Confirmation) -> str:
    """What real runs said, in one sentence."""
    if not found.runs:
        reasons = dict.fromkeys(reason.removeprefix(f"{name}: ") for name, reason in found.failed)
        why = " ".join(f"{reason[0].upper()}{reason[1:]}" for reason in list(reasons)[:MOST_REASONS])
        return f"All real runs failed, so the pick is as predicted. {why}"
    before, after = found.pick_before.selection.name, found.picked.selection.name
    return (
        f"{len(found.runs)} real run{'s' * (len(found.runs) > 1)} {'kept' if before == after else 'changed'} the pick; it is as "
        f"good as the best of {len(found.finalists)} finalists with a probability of {found.sure:.0%}."
    )


def kept(rec: Recommendation, other: Score | None = None) -> list[str]:
    """What the pick, or another selection, does to the rows to keep, beside all modules; nothing where there are none."""
    found, full = (other or rec.picked).disturbs, rec.all_linear.disturbs
    if found is None or full is None:
        return []
    name = "the pick" if other is None else "this selection"
    ceiling = "" if rec.max_forgetting is None else f"; at most {rec.max_forgetting:+g} was allowed for the pick"
    part = "that change" if found.loss is None else "that divergence"
    cap = ""
    if found.cap is not None:
        cap = (
            f" Of the linearised model, and of it only, it is certain that the part of {part} along the training rows' gradients "
            f"cannot exceed {found.cap:.2g} with {name}, however these rows share the same pull."
        )
    if found.loss is None or full.loss is None:
        return [
            f"Rows to keep: with {name} what the head reads of them is predicted to move by {found.size:.2g} of its variance "
            f"between the rows (squared), with {ALL} by {full.size:.2g}{ceiling}.{cap}"
        ]
    if not found.is_known:
        return [
            f"Rows to keep: with {name} the weights move so far that what becomes of them is {NOT_KNOWN}; no real run has shown "
            f"a change as large as is predicted (KL divergence {found.kl:.2g}). Lower the learning rate, or take fewer steps."
        ]
    beyond = "" if full.is_known else f", more than any real run has shown, so for {ALL} neither is known"
    span = "" if found.loss_interval is None else " ({:.0%} interval: {:+.2g} to {:+.2g})".format(LEVEL, *found.loss_interval)
    return [
        f"Rows to keep: with {name} their loss is predicted to change by {found.loss:+.2g} nats per token{span}, with {ALL} by "
        f"{full.loss:+.2g}{ceiling}. KL divergence from the model before: {found.kl:.2g} and {full.kl:.2g}{beyond}.{cap}"
    ]


def surprising_rows(scorer: Scorer) -> list[str]:
    """That the model does the rows to keep far worse than it expects, if it does: so there is little to keep."""
    keep = scorer.probe.keep
    if not isinstance(keep, KeepBlocks) or not is_surprised(scorer.probe):
        return []
    loss, expected = keep.losses.mean(), scorer.probe.info["keep"]["expected"]
    return [
        f"The model does the rows to keep badly now: its loss is {loss:.1f} nats per token, and {expected:.1f} on answers that "
        "it draws itself. So there is little to keep. The change of their loss is predicted to first order alone, without an "
        "interval (docs/keep.md)."
    ]


def level(scorer: Scorer, score: Score) -> str:
    """Metric and loss of one run, where they are known."""
    metric = str(scorer.probe.info["metric"])
    spans = {metric_name(metric): metric_span(score.metric, metric), "validation loss": loss_span(score.loss)}
    known = ", ".join(f"{name} {text}" for name, text in spans.items() if text != NOT_KNOWN)
    unknown = " and ".join(name for name, text in spans.items() if text == NOT_KNOWN)
    lines = [f"Expected of one run: {known} ({LEVEL:.0%} interval in brackets)."] if known else []
    return " ".join([*lines, *([f"The level of {unknown} is {NOT_KNOWN}."] if unknown else [])])


def next_step(
    scorer: Scorer, rec: Recommendation, confirmation: Confirmation | None, ways: Mapping[str, str] = BY_OPTIONS
) -> str:
    """The one thing that would make the answer surer, with its cost.

    Args:
        ways: how one probes more rows, makes real runs, takes the answer as it is; ``{}`` stands for how many.
    """
    if confirmation is not None and not confirmation.runs:
        return "Next: mend what made the real runs fail, and ask again into another folder. More runs alike would fail too."
    samples, unsure = scorer.probe.samples, confirmation is None and bool(little_to_win(scorer))
    if not unsure and rec.stability.mean < STABLE and 2 * samples <= int(scorer.probe.info["train_rows"]):
        return (
            f"Next: {ways['samples'].format(2 * samples)}. The pick changes with the sample: its modules stay picked in "
            f"{rec.stability.mean:.0%} of subsamples. The probe takes twice as long."
        )
    if rec.strategy != PREDICTED or (confirmation is not None and confirmation.settled):
        return f"Next: {ways['train']}."
    recipe = short_recipe(scorer, None) if confirmation is None else confirmation.recipe
    steps = run_steps(scorer, recipe)
    if confirmation is not None:
        more = max(EFFORTS[SOME_RUNS], 2 * confirmation.asked)
        option = ways["runs"] if more == EFFORTS[SOME_RUNS] else ways["confirm"].format(more)
        return f"Next: {option} for up to {more} real runs of {steps} steps each. Finished ones are kept."
    won = most_to_win(scorer, rec)
    if won < LITTLE and not unsure:
        return f"Next: {ways['train']}. Real runs could be expected to win less than {LITTLE:.1%} of the loss."
    measuring = measuring_steps(scorer, len(rec.finalists), recipe)
    caveat = UNLIKE_CAVEAT if rec.picked.warnings else CONFIRM_CAVEAT
    worth = "It tells whether anything can be won." if unsure else f"It can be expected to win at most {won:.0%} of the loss."
    return (
        f"Next: {ways['pilot']}: one real run of all modules ({steps} steps), which also measures {len(rec.finalists)} "
        f"candidates (at most {measuring} steps more). {worth} {caveat}"
    )


def verdict(scorer: Scorer, rec: Recommendation, linearity: Linearity | None) -> list[str]:
    """The recommendation in sentences, the most important first: the short answer's, then what it rests on."""
    lines = short_verdict(scorer, rec)
    if rec.strategy != PREDICTED:
        lines.append(f"Chosen by --strategy {rec.strategy} ({STRATEGIES[rec.strategy]}), not by the predicted loss.")
    for bound in rec.picked.bounds:
        if bound.id != "C" or bound.low is None:
            continue
        with_head = "with the head" if bound.head else "without the head"
        lines.append(
            f"Certificate C ({with_head}, {bound.kernel} kernel, σ = {bound.sigma:.3g}): adding any other modules can lower the "
            f"objective of the linearised, regularised problem by at most {1 - bound.low:.1%}."
        )
    lines.append("Linearity was not measured; --linearity does." if linearity is None else linearity.sentence("the pick"))
    lines += [*kept(rec), *surprising_rows(scorer)]
    stable = rec.stability.mean
    lines.append(
        f"Stability: its modules stay picked in {stable:.0%} of {rec.stability.draws} subsamples of the probe examples."
        + ("" if stable >= STABLE else f" That is below {STABLE:.0%}: raise --samples.")
    )
    return lines
