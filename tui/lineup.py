"""The selections that Pareto and Compare show, what they are called and marked, and what is said of each (no Textual)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from advisor.core.choices import ALIKE, ALIKE_WITHIN, APART
from tui.cells import CHOSEN, DISTURBS, short_name
from tui.state import State

if TYPE_CHECKING:
    from advisor.advice.budget import Budget
    from advisor.advice.peer_picks import PeerPick
    from advisor.advice.recommend import Recommendation
    from advisor.core.candidate import Candidate
    from advisor.core.targets import Target
    from tui.engine import Figures, Opened

PICK, CURRENT, KEPT, ALL, TARGET_SET, PEER, FRONT, TRADE_OFF = (
    "pick",
    "current",
    "kept",
    "all",
    "target-set",
    "peer",
    "front",
    "trade-off",
)
# In this order a selection that is several of them is called and drawn.
MARKS = {CURRENT: "◉", PICK: "◆", KEPT: "◇", ALL: "■", TARGET_SET: "□", PEER: "△", FRONT: CHOSEN, TRADE_OFF: "▪"}
MEANINGS = {
    CURRENT: "current",
    PICK: "the pick",
    KEPT: "kept",
    ALL: "all-linear",
    TARGET_SET: "target set",
    PEER: "other method",
    FRONT: "front",
    TRADE_OFF: "keeps more",
}


def key(candidate: Candidate) -> Hashable:
    """What two candidates share exactly when they train the same."""
    ranks, alphas = (tuple(sorted(pattern.items())) for pattern in (candidate.ranks, candidate.alphas))
    return candidate.selection.targets, candidate.settings, ranks, alphas


@dataclass(frozen=True)
class Entry:
    """A selection that is shown once; ``kinds`` says what it is, in the order of ``MARKS``, ``names`` what it is called as
    each of them."""

    candidate: Candidate
    kinds: tuple[str, ...]
    names: tuple[str, ...]

    @property
    def id(self) -> str:
        """The same for the same selection, whatever it is called."""
        return str(hash(key(self.candidate)))

    @property
    def marks(self) -> str:
        """All its marks but those of fronts, of which the first is shown where there is no other."""
        marks = "".join(MARKS[kind] for kind in self.kinds if kind not in (FRONT, TRADE_OFF))
        return marks or MARKS[self.kinds[0]]

    @property
    def name(self) -> str:
        """The most telling of its names: that of the pick before the current one's."""
        return self.names[0]


class Lineup:
    """What was computed for one recommendation, or one probe that has none yet.

    Attributes:
        peers: other methods' picks, None until they are there.
        gave_up: asking failed, so nothing is asked again; what is missing stays missing.
    """

    def __init__(self) -> None:
        self.peers: Sequence[PeerPick] | None = None
        self.gave_up = False
        self._opened: Opened | None = None
        self._recommendation: Recommendation | None = None
        self._figures: dict[Hashable, Figures] = {}

    def follow(self, state: State) -> None:
        """Forget everything once it is of another probe or recommendation."""
        if state.opened is not self._opened or state.recommendation is not self._recommendation:
            self._opened, self._recommendation = state.opened, state.recommendation
            self.peers, self._figures, self.gave_up = None, {}, False

    def take(self, recommendation: Recommendation | None, found: Sequence[Figures]) -> None:
        """Keep figures that were computed beside this recommendation."""
        if recommendation is self._recommendation:
            self._figures |= {key(figures.candidate): figures for figures in found}

    def take_peers(self, recommendation: Recommendation, picks: Sequence[PeerPick]) -> None:
        """Keep the picks for this recommendation's budget."""
        if recommendation is self._recommendation:
            self.peers = picks

    def figures(self, entry: Entry) -> Figures | None:
        return self._figures.get(key(entry.candidate))

    def entries(self, state: State, with_front: bool) -> list[Entry]:
        """The pick, the current selection, kept ones, all-linear, the common target sets and the peers' picks at the budget, and
        if asked for the fronts; each selection once."""
        found: list[tuple[str, str, Candidate]] = []
        rec = state.recommendation
        if rec is not None:
            found.append((PICK, "the pick", rec.picked.candidate))
        if state.current is not None:
            found.append((CURRENT, _own_name(state.current), state.current))
        found += [(KEPT, name, candidate) for name, candidate in state.named.items()]
        if rec is not None:
            found.append((ALL, "all-linear", rec.all_linear.candidate))
            found += [(TARGET_SET, score.name, score.candidate) for score in list(rec.equal_budget)[1:]]
            found += [(PEER, pick.peer, pick.candidate) for pick in self.peers or () if pick.candidate is not None]
        if rec is not None and with_front:
            fronts = ((FRONT, rec.front), (TRADE_OFF, rec.trade_off or ()))
            found += [(kind, _own_name(score.candidate), score.candidate) for kind, front in fronts for score in front]
        return merged(found)

    def missing(self, entries: Sequence[Entry]) -> list[Candidate]:
        """Those of which nothing is known yet."""
        return [entry.candidate for entry in entries if key(entry.candidate) not in self._figures]


def _own_name(candidate: Candidate) -> str:
    """Empty where only the search has named it."""
    return "" if candidate.selection.is_searched else candidate.selection.name


def merged(found: Sequence[tuple[str, str, Candidate]]) -> list[Entry]:
    """(kind, name, candidate) as entries in the order in which each selection first comes; one without any name is called
    by its size."""
    groups: dict[Hashable, list[tuple[str, str, Candidate]]] = {}
    for kind, name, candidate in found:
        groups.setdefault(key(candidate), []).append((kind, name, candidate))
    order = list(MARKS)
    entries = []
    for group in groups.values():
        kinds = tuple(sorted({kind for kind, _, _ in group}, key=order.index))
        names = tuple(dict.fromkeys(name for _, name, _ in group if name))
        current = next((candidate for kind, _, candidate in group if kind == CURRENT), group[0][2])
        entries.append(Entry(current, kinds, names or (_size(current),)))
    return entries


def _size(candidate: Candidate) -> str:
    many = len(candidate.selection.targets)
    return f"{many} module{'' if many == 1 else 's'}"


def legend(entries: Sequence[Entry]) -> str:
    """The marks that are in use, each bound to its meaning by a space at which no line breaks."""
    used = {kind for entry in entries for kind in entry.kinds}
    return "  ".join(f"{mark} {MEANINGS[kind]}".replace(" ", "\xa0") for kind, mark in MARKS.items() if kind in used)


def apart(entry: Entry, figures: Figures | None, pick: Figures | None) -> str:
    """Whether a selection can be told apart from the pick, in words."""
    if PICK in entry.kinds:
        return "is the pick"
    if figures is None or pick is None or figures.beside is None:
        return "…"
    if figures.beside != APART:
        return f"within {ALIKE_WITHIN:.0%}" if figures.beside == ALIKE else "not known"
    return "yes, better" if figures.vs_all[0] < pick.vs_all[0] else "yes, worse"


def details(state: State, entry: Entry, figures: Figures | None, pick: Figures | None, budget: Budget | None) -> list[str]:
    """What is said of one entry, line by line; the first is its name."""
    from advisor.report.words import change_span, count, disturbs_words, gigabytes, loss_span, metric_span

    candidate, opened = entry.candidate, state.opened
    assert opened is not None
    params, everything = state.params_of(candidate), sum(t.lora_params(opened.scorer.settings.rank) for t in state.targets)
    many = len(candidate.selection.targets)
    lines = [
        f"{entry.marks} {' = '.join(entry.names)}",
        f"{many} of {len(state.targets)} modules, {_ranks(candidate)}",
        f"params   {count(params)}, {params / everything:.0%} of all at rank {opened.scorer.settings.rank}",
    ]
    if figures is None:
        return [*lines, "being computed…"]
    lines += [
        f"{short_name(opened.metric):<8} {metric_span(figures.metric, opened.metric)}",
        f"loss     {loss_span(figures.loss)}",
        f"vs all   {change_span(figures.vs_all)}",
        f"memory   {gigabytes(figures.cost.memory_bytes)}, step {figures.cost.time_vs_all_linear:.0%} of all",
    ]
    if figures.disturbs is not None:
        lines.append(f"disturbs {disturbs_words(figures.disturbs)}")
    told = apart(entry, figures, pick)
    if told == "not known":
        lines.append("≈ not known to differ from the pick")
    elif told.startswith("within"):
        lines.append(f"≈ {told} of the pick's loss")
    elif told.startswith("yes"):
        lines.append(f"≠ told apart from the pick: {told.split(', ')[1]}")
    if figures.certificate.low is not None:
        lines.append(f"certificate: V at most {1 - figures.certificate.low:.1%} lower")
    if budget is not None and not budget.allows(figures.cost, many, opened.targets, opened.scorer.settings.rank):
        lines.append(f"▲ over the budget of {budget.text}")
    return lines


def _ranks(candidate: Candidate) -> str:
    ranks = {candidate.ranks.get(name, candidate.settings.rank) for name in candidate.selection.targets}
    if len(ranks) > 1:
        return f"ranks {min(ranks)} to {max(ranks)}"
    return f"rank {next(iter(ranks), candidate.settings.rank)}"


def differences(targets: Sequence[Target], current: Candidate, other: Candidate) -> list[str]:
    """What ``other`` adapts that ``current`` does not, and the reverse, by role; and where ranks differ."""
    here, there = set(current.selection.targets), set(other.selection.targets)
    lines = []
    for what, names in (("adds", there - here), ("leaves out", here - there)):
        if names:
            lines.append(f"{what} {len(names)}:")
            lines += [f"  {line}" for line in _by_role([t for t in targets if t.name in names])]
    shared = [t for t in targets if t.name in here & there]
    changed = _grouped(shared, lambda t: (current.module_settings(t.name).rank, other.module_settings(t.name).rank))
    for (before, after), members in changed.items():
        if before != after:
            which = "all it shares" if len(members) == len(shared) else f"{len(members)} modules"
            lines.append(f"rank {before} → {after} for {which}")
    return lines or ["the same modules at the same ranks"]


def _grouped(targets: Sequence[Target], of: Callable[[Target], tuple[int, int]]) -> Mapping[tuple[int, int], list[Target]]:
    groups: dict[tuple[int, int], list[Target]] = {}
    for target in targets:
        groups.setdefault(of(target), []).append(target)
    return groups


def _by_role(targets: Sequence[Target]) -> list[str]:
    """``query: layers 0–3, 5``; modules outside any layer by their full names."""
    from advisor.report.words import ranges

    roles: dict[str, set[int]] = {}
    for target in targets:
        if target.layer is not None:
            roles.setdefault(target.role, set()).add(target.layer)
    lines = [f"{role}: {'layers' if len(layers) > 1 else 'layer'} {ranges(layers)}" for role, layers in roles.items()]
    return [*lines, *(t.name for t in targets if t.layer is None)]


@dataclass(frozen=True)
class Column:
    """A column of a table of selections.

    Attributes:
        cell: text of an entry whose figures are known. order: what to sort by. help: one sentence.
    """

    id: str
    label: str
    help: str
    cell: Callable[[Entry, Figures], str]
    order: Callable[[Entry, Figures], float | str] = field(repr=False)


def columns(metric: str, pick: Figures | None, keeps: bool = False) -> list[Column]:
    """All columns; the first, the selection's name and marks, is known without figures. ``keeps``: there are rows to keep."""
    from advisor.report.words import change_span, count, disturbs_words, gigabytes, loss_span, metric_name, metric_span

    def share(figures: Figures) -> float:
        return 1.0 if figures.certificate.low is None else 1 - figures.certificate.low

    disturbs = Column(
        DISTURBS,
        DISTURBS,
        "What the selection is predicted to do to the rows to keep: of a language model change of their loss and KL divergence, "
        "in nats per token, the former with a 90 % interval; else squared change of what the head reads of them, as a share of "
        "its variance.",
        lambda e, f: "–" if f.disturbs is None else disturbs_words(f.disturbs),
        lambda e, f: math.inf if f.disturbs is None else f.disturbs.size,
    )
    return [
        Column(
            "params",
            "params",
            "Trainable LoRA parameters, the head not counted.",
            lambda e, f: count(f.cost.params),
            lambda e, f: f.cost.params,
        ),
        Column(
            "metric",
            short_name(metric),
            f"Predicted {metric_name(metric)} of one real LoRA run with your recipe, with a 90 % interval.",
            lambda e, f: metric_span(f.metric, metric, 2),
            lambda e, f: -f.metric[0],
        ),
        Column(
            "apart",
            "differs?",
            "Whether the difference to the pick is larger than its 90 % interval. “Not known” means "
            "that these predictions cannot tell them apart, not that they are the same.",
            lambda e, f: apart(e, f, pick),
            lambda e, f: apart(e, f, pick),
        ),
        Column(
            "loss",
            "loss",
            "Predicted validation loss of one run, with a 90 % interval.",
            lambda e, f: loss_span(f.loss, 2),
            lambda e, f: f.loss[0],
        ),
        Column(
            "vs_all",
            "loss vs all",
            "Expected validation loss against adapting every module: so much higher (+) or lower (-), with a 90 % interval.",
            lambda e, f: change_span(f.vs_all),
            lambda e, f: f.vs_all[0],
        ),
        *([disturbs] if keeps else []),
        Column(
            "memory",
            "memory",
            "Estimated peak memory of training.",
            lambda e, f: gigabytes(f.cost.memory_bytes),
            lambda e, f: f.cost.memory_bytes,
        ),
        Column(
            "time",
            "time",
            "Time of a training step, as a share of what adapting every module takes.",
            lambda e, f: f"{f.cost.time_vs_all_linear:.0%}",
            lambda e, f: f.cost.time_vs_all_linear,
        ),
        Column(
            "certificate",
            "cert.",
            "Certificate, bound C: adding all other modules can lower the objective V of the linearised problem by at most this.",
            lambda e, f: f"≤ {share(f):.1%}" if f.certificate.low is not None else "–",
            lambda e, f: share(f),
        ),
    ]


SELECTION_HELP = (
    "The selection, with its marks: " + ", ".join(f"{mark} {MEANINGS[kind]}" for kind, mark in MARKS.items()) + ". "
    "Recipes have their rank lowered until they fit into the budget; other methods pick what they like best within it."
)


def shortened(text: str, most: int) -> str:
    """The first ``most`` characters, the last one … where something is missing."""
    return text if len(text) <= most else text[: max(most - 1, 0)] + "…"
