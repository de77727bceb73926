"""What is to be trained, and what a format makes of it: plain data (no torch)."""

from __future__ import annotations

import json
import pprint
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import yaml

from advisor.core.errors import BadInput
from advisor.core.recipe import HEADLESS
from advisor.core.targets import LoraSettings, Selection, Target
from advisor.core.tasks import BETA, EMBEDDING, KTO, PREFERENCE, SCALE, TASKS, outputs_of
from advisor.core.text import printable
from advisor.export.hints import Way

if TYPE_CHECKING:
    from advisor.core.candidate import Candidate
    from advisor.core.probe import Probe

Fidelity = Literal["exact", "lossy", "alternative", "impossible"]
FIDELITIES: tuple[Fidelity, ...] = ("exact", "lossy", "alternative", "impossible")


@dataclass(frozen=True)
class Plan:
    """A selection with everything a config must say of it.

    Attributes:
        settings: common rank, alpha and scaling rule.
        targets: every adaptable module of the model, chosen or not.
        task: one of ``recipe.TASKS``. reads: see :attr:`advisor.models.load.LoadedModel.reads`.
        head: modules trained in full.
        base_model, model_type: folder or hub id, and its config's ``model_type``.
        revision: commit of the hub model, where the user asked for a revision.
        outputs: of the head; 0 where there is none.
        ranks, alphas: by full name, of single modules, as PEFT's ``rank_pattern`` and ``alpha_pattern``.
        comments: the first lines of every file.
        stored: ``4bit`` or ``8bit`` where bitsandbytes quantises the base on loading (QLoRA), else the method of a base that is
            stored in few bits; None: plain numbers.
        pooling: of embeddings, as sentence-transformers calls it; None where that is not known.
    """

    selection: Selection
    settings: LoraSettings
    targets: tuple[Target, ...]
    task: str
    head: tuple[str, ...]
    base_model: str
    model_type: str = ""
    outputs: int = 0
    ranks: Mapping[str, int] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    comments: tuple[str, ...] = ()
    reads: str = "text"
    revision: str | None = None
    stored: str | None = None
    pooling: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The chosen modules."""
        return self.selection.targets

    @property
    def stacks(self) -> tuple[str, ...]:
        """The stacks of experts among them, which PEFT takes in ``target_parameters``."""
        stacks = {t.name for t in self.targets if t.experts}
        return tuple(name for name in self.names if name in stacks)

    @property
    def modules(self) -> tuple[str, ...]:
        """The others, which it takes in ``target_modules``."""
        stacks = set(self.stacks)
        return tuple(name for name in self.names if name not in stacks)

    @property
    def others(self) -> tuple[str, ...]:
        """The adaptable modules that are not chosen."""
        chosen = set(self.names)
        return tuple(t.name for t in self.targets if t.name not in chosen)

    @property
    def overlaps(self) -> bool:
        """A chosen name is a ``.``-suffix of one that is not chosen, so that a list of names takes both."""
        suffixes = tuple(f".{name}" for name in self.names)
        return any(other.endswith(suffixes) for other in self.others)

    @property
    def params(self) -> int:
        """LoRA parameters, the head excluded."""
        return self.selection.params(self.targets, self.settings.rank, self.ranks)

    @property
    def load_in(self) -> dict[str, bool]:
        """The argument that has the base quantised on loading, as most tools call it; empty where it is not."""
        return {f"load_in_{self.stored}": True} if self.stored in ("4bit", "8bit") else {}

    @property
    def about_base(self) -> tuple[str, ...]:
        """A sentence on how the base's weights are stored; none where they are plain."""
        if self.stored is None:
            return ()
        if self.load_in:
            return (
                f"The base was probed with {self.stored[0]}-bit weights: load it with {next(iter(self.load_in))} (bitsandbytes).",
            )
        said = f"The base is stored as {self.stored}; plain numbers were made of it for the probe, with the same module names"
        load = ": train it so too, quantization_config=Mxfp4Config(dequantize=True)" if self.stored == "mxfp4" else ""
        return (f"{said}{load}.",)

    @property
    def about_task(self) -> tuple[str, ...]:
        """A sentence on the trainer that the rows need; none where it is the usual one."""
        if self.task == EMBEDDING:
            pooling = f"{self.pooling} pooling, which" if self.pooling else "the pooling that"
            return (
                "Train with sentence-transformers: SentenceTransformer.add_adapter, MultipleNegativesRankingLoss "
                f"(cosines, scale {SCALE:g}), and {pooling} was probed.",
            )
        if (method := self.method) is None:
            return ()
        name = method.lower()
        beside = ", where it wants remove_unused_columns: false" if self.task == KTO else ""
        return (
            f"Train with {method}, beta {BETA}: TRL's {method}Trainer or trl {name}, stage: {name} in LLaMA-Factory, rl: {name} "
            f"in axolotl{beside}. Its reference is the base model without the adapter.",
        )

    @property
    def method(self) -> str | None:
        """By which answers are compared, as TRL's trainers are called; None where they are not."""
        return {PREFERENCE: "DPO", KTO: "KTO"}.get(self.task)

    def module_settings(self, name: str) -> LoraSettings:
        """Rank and alpha of one chosen module."""
        return replace(
            self.settings, rank=self.ranks.get(name, self.settings.rank), alpha=self.alphas.get(name, self.settings.alpha)
        )

    def flat(self) -> Plan:
        """The same with one rank and alpha for all: those that all share, or the rank of nearest size at the common scale."""
        shared = {self.module_settings(name) for name in self.names}
        if len(shared) == 1:
            return replace(self, settings=shared.pop(), ranks={}, alphas={})
        size = self.selection.params(self.targets, 1)
        rank = max(1, round(self.params / size))
        return replace(self, settings=self.settings.at_rank(rank), ranks={}, alphas={})

    def as_dict(self) -> dict[str, Any]:
        """What ``recommendation.json`` holds as ``plan``."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))  # lists, as a reader of the file gets them
        return plain

    @classmethod
    def from_dict(cls, content: Any, where: str) -> Plan:
        """The plan that :meth:`as_dict` gave.

        Raises:
            BadInput: a field is missing or of the wrong type, or a chosen module is not among the targets; names the field.
        """
        from advisor.core.checked import check  # here, so that a plan can be made without waiting for pydantic
        from advisor.export.plan_schema import PlanFields

        fields = check(PlanFields, content, f"{where}: plan", "Delete it and run `advisor recommend` again.")
        return cls(
            selection=Selection(fields.selection.name, tuple(fields.selection.targets)),
            settings=LoraSettings(**fields.settings.model_dump()),
            targets=tuple(Target(**target.model_dump()) for target in fields.targets),
            task=fields.task,
            head=tuple(fields.head),
            base_model=fields.base_model,
            model_type=fields.model_type,
            outputs=fields.outputs,
            ranks=fields.ranks,
            alphas=fields.alphas,
            comments=tuple(fields.comments),
            reads=fields.reads,
            revision=fields.revision,
            stored=fields.stored,
            pooling=fields.pooling,
        )


def plan_of(candidate: Candidate, probe: Probe, comments: Sequence[str] = ()) -> Plan:
    """The plan of a candidate on its probe."""
    info = probe.info
    return Plan(
        selection=candidate.selection,
        settings=candidate.settings,
        targets=tuple(probe.targets),
        task=probe.task,
        head=tuple(info["head"]),
        base_model=str(info["model"]),
        model_type=str(info["model_type"]),
        outputs=0 if probe.task in HEADLESS else outputs_of(probe.task, len(probe.class_names)),
        ranks=dict(candidate.ranks),
        alphas=dict(candidate.alphas),
        comments=tuple(comments),
        reads=str(info.get("reads", "text")),
        revision=info["revision"] if info.get("source", {}).get("revision") else None,
        stored=info.get("stored"),
        pooling=info.get("pooling"),
    )


@dataclass(frozen=True)
class RenderedFile:
    """One file. ``reasons`` say why it is not exact; an impossible one holds comments only, an alternative another selection."""

    text: str
    fidelity: Fidelity
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Rendered:
    """The files of one format by name, in the order to show them."""

    files: dict[str, RenderedFile]

    @property
    def fidelity(self) -> Fidelity:
        """That of the best file."""
        return min((file.fidelity for file in self.files.values()), key=FIDELITIES.index)

    @property
    def reasons(self) -> tuple[str, ...]:
        """All reasons, after the file's name where there are several files."""
        if len(self.files) == 1:
            return next(iter(self.files.values())).reasons
        return tuple(f"{name}: {reason}" for name, file in self.files.items() for reason in file.reasons)


@dataclass(frozen=True)
class Passed:
    """What a tool makes of a config file.

    Attributes:
        arguments: those it hands to ``LoraConfig``.
        surprises: what it does that the author of the file probably did not mean, one sentence each.
        keys: what the file calls an argument, where that is not its own name.
        way: how it may write ``target_modules``.
    """

    arguments: dict[str, Any]
    surprises: tuple[str, ...] = ()
    keys: Mapping[str, str] = field(default_factory=dict)
    way: Way = field(default_factory=Way)


@dataclass(frozen=True)
class Format:
    """One target of exports.

    Attributes:
        name, label: as in ``--format``, and as its makers write it.
        use: what to do with the files, one sentence.
        marks: top-level keys by which a file is known to be this format's.
        revision: top-level key of the base model's revision.
        render: the files for a plan. Raises BadInput when the plan has no modules.
        loads: from a file's content the task of the model that the tool loads, and its outputs; None where the file
            does not say.
        passed: what the tool hands to PEFT, from a file's content and that model (for names and classes only). Both raise
            BadInput where the tool refuses the file.
    """

    name: str
    label: str
    use: str
    marks: frozenset[str]
    revision: str
    render: Callable[[Plan], Rendered]
    loads: Callable[[Mapping[str, Any]], tuple[str | None, int | None]]
    passed: Callable[[Mapping[str, Any], Any], Passed]


class Findings:
    """Collects what a format cannot say; the worst finding decides."""

    def __init__(self, plan: Plan, label: str) -> None:
        if not plan.names:
            raise BadInput(f"{plan.selection.name}: it has no modules, so there is no LoRA config.", "Select some.")
        self.plan, self.label = plan, label
        self.reasons: list[str] = []
        self.fidelity: Fidelity = "exact"

    def add(self, fidelity: Fidelity, reason: str) -> None:
        self.reasons.append(reason)
        self.fidelity = max(self.fidelity, fidelity, key=FIDELITIES.index)

    def language_models_only(self) -> None:
        """The tool knows causal language models only."""
        if self.plan.task == "seq2seq":
            self.add("impossible", f"{self.label} trains decoders, no encoder-decoder; use format peft.")
        elif TASKS[self.plan.task].task_type != "CAUSAL_LM":
            head = f"neither the head ({', '.join(self.plan.head)}) nor" if self.plan.head else "not"
            self.add(
                "impossible",
                f"{self.label} trains language models: it knows {head} the loss of {self.plan.task} runs; use format peft.",
            )

    def no_comparison(self) -> None:
        """The tool learns answers, and compares none."""
        if method := self.plan.method:
            known = f"{self.label} is known to learn answers only, not to compare them ({method}); use another format."
            self.add("impossible", known)

    def flat(self) -> LoraSettings:
        """One rank and alpha, for a tool that has no patterns."""
        flat = self.plan.flat()
        if any(flat.module_settings(name) != self.plan.module_settings(name) for name in self.plan.names):
            self.add(
                "lossy",
                f"{self.label} has no rank or alpha pattern: every module gets rank {flat.settings.rank} "
                f"({flat.params:,} LoRA parameters instead of {self.plan.params:,}).",
            )
        return flat.settings

    def whole(self, alpha: float, what: str = "alpha") -> int:
        """``alpha`` as a whole number, for a tool that takes no other."""
        rounded = max(1, round(alpha))
        if rounded != alpha:
            self.add("lossy", f"{self.label} takes whole numbers only: {what} {alpha:g} is written as {rounded}.")
        return rounded

    def file(self, body: str, use: str) -> RenderedFile:
        """The header, then ``body`` unless this is impossible."""
        plan, many = self.plan, len(self.plan.names)
        verdict = {
            "exact": f"Exact: trains the {many} selected modules at their ranks and scales"
            + (f", and {', '.join(plan.head)} in full." if plan.head else "."),
            "lossy": f"Lossy: trains the {many} selected modules, but not quite as chosen.",
            "impossible": "Impossible: this tool cannot train what was chosen, so no config follows.",
        }[self.fidelity]
        lines = [
            f"LoRA config by lora-layer-advisor, for {self.label}",
            *plan.comments,
            *plan.about_base,
            *plan.about_task,
            verdict,
            *self.reasons,
        ]
        if self.fidelity != "impossible":
            lines.append(use)
        header = comment_lines(lines)
        return RenderedFile(header if self.fidelity == "impossible" else header + body, self.fidelity, tuple(self.reasons))


def comment_lines(lines: Sequence[str]) -> str:
    """One ``#`` line each; line breaks and control characters are escaped, so that no comment can become content."""
    return "".join(f"# {printable(line)}\n" for line in lines)


def yaml_body(content: Mapping[str, Any]) -> str:
    """``content`` as YAML in its own order; escaped beyond ASCII, as PyYAML loses U+0085 otherwise."""
    return yaml.safe_dump(dict(content), sort_keys=False)


def call(name: str, positional: Sequence[str], arguments: Mapping[str, Any]) -> str:
    """A Python call with literal keyword arguments, one a line."""
    lines = [f"    {argument},\n" for argument in positional]
    for key, value in arguments.items():
        literal = pprint.pformat(value, width=100, sort_dicts=False).replace("\n", "\n    " + " " * (len(key) + 1))
        lines.append(f"    {key}={literal},\n")
    return f"{name}(\n{''.join(lines)})\n"
