"""What ``probe.json`` holds: fields and their types."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from advisor.core.checked import Count, Name, Names, NotNegative, Number, Own, Text
from advisor.core.records import Positive, TargetFields
from advisor.core.tasks import CLASSES, TaskName

Growth = Annotated[list[Number], Field(min_length=4, max_length=4)]
PerTarget = list[Number | None]


class HeadFields(Own):
    """The head's part, see :class:`advisor.core.probe.HeadBlock`; its block is in the other file."""

    fresh_gradient_norm: NotNegative
    fresh_gradient_energy: NotNegative
    fresh_gradient_params: Count


class HeadScore(Own):
    """The linear probe on frozen features, by cross-validation."""

    loss: NotNegative
    score: Number
    penalty: NotNegative


class HeadRunFields(Own):
    """A run that trained the head alone, see :class:`advisor.probing.head_alone.HeadRun`."""

    travel: Annotated[float, Field(allow_inf_nan=False, gt=0)]
    loss: NotNegative


class FootprintFields(Own):
    """What training leaves in memory, see :class:`advisor.theory.training_cost.TrainingFootprint`."""

    weight_bytes: Count
    weight_itemsize: Positive
    autocast: bool
    targets: Names
    saved: list[Growth]
    spared_alone: list[Growth]
    head_saved: Growth
    head_saved_alone: Growth
    inputs: list[Count]
    input_kept_by: list[Annotated[int, Field(ge=-1)]]
    logits: Growth
    other_macs: NotNegative
    measured_on: list[Annotated[list[Positive], Field(min_length=2, max_length=2)]]
    seen: list[NotNegative] = Field(default_factory=list)


class LinearityFields(Own):
    """A selection's model beside its tangent, see :class:`advisor.theory.linearity.Linearity`."""

    selection: Text
    targets: Names
    rows: Positive
    sigma: Number | None
    residual: Number | None
    distance: Number | None
    lora_distance: Number | None
    steps: Annotated[list[Number], Field(min_length=1)]
    gaps: Annotated[list[Number | None], Field(min_length=1)]
    lora_gap: Number | None
    lipschitz: Number | None
    gradient_lipschitz: Number | None
    input_lipschitz: Number | None
    input_gradient_lipschitz: Number | None


class EvaFields(Own):
    """Shares of the inputs' variance, [64] for each target, and the tokens that they come from."""

    ratios: list[list[Number] | None]
    tokens: Count


class PeerFields(Own):
    """What other methods look at, for each target."""

    spectrum: PerTarget
    kappatune: PerTarget
    plop: PerTarget
    eva: EvaFields


class KeepFields(Own):
    """The rows that the model should keep doing well; their blocks are in the other file.

    Attributes:
        expected: mean loss of a language model on its own draws in the place of the targets, nats per token: what it would be if
            the rows were as the model predicts.
    """

    data: Text
    rows: Positive
    expected: NotNegative | None = None


class IdentityFields(Own):
    """What must agree for one probe to stand for another."""

    model_fingerprint: Text
    data_fingerprint: Text
    keep_fingerprint: Text | None = None
    max_length: Positive | None = None
    dtype: Text | None = None
    settings: dict[Name, Any] = Field(default_factory=dict)


class SaidFields(Own):
    """A note or warning on the model and its rows, which a command that finds the probe repeats."""

    text: Text
    warning: bool
    brief: bool


class ProbeFile(Own):
    """``probe.json``: what was probed and how; the kernel blocks are in ``blocks.safetensors``."""

    schema_: Literal[2] = Field(alias="schema")
    task: TaskName
    reads: Literal["text", "images", "images and text"] = "text"
    stored: Text | None = Field(default=None, description="How the weights are quantised; null where they are plain.")
    pooling: Name | None = Field(default=None, description="Of embeddings, as sentence-transformers calls it.")
    metric: Name
    class_names: list[Text]
    class_shares: list[NotNegative] | None = Field(
        default=None, description="Of the tags of all words, for classes of words; of the texts of a batch, for embeddings."
    )
    model: Text
    model_type: Text
    model_parameters: Count
    revision: Text | None
    qv_roles: list[Name]
    head: list[Name]
    head_parameters: Count
    head_kind: Literal["none", "probed", "fresh", "trained"]
    head_layers: Count = Field(1, description="Linear modules of the head that is trained in full; an older probe does not say.")
    head_cv: HeadScore | None
    head_alone: list[HeadRunFields] = Field(
        default_factory=list,
        description="Of a head with linear layers before its last, by rising travel; an older probe has none.",
    )
    head_block: HeadFields | None = None
    data: Text
    train_rows: Positive
    device: Text
    mean_tokens: Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
    max_tokens: Positive
    footprint: FootprintFields
    methods: dict[Name, Text]
    estimate_error: NotNegative | None
    start_loss: NotNegative | None = Field(
        default=None,
        description="Before training, nats a token to be learned; null where no next token is, or of an older probe.",
    )
    counted_loss: NotNegative | None = Field(
        description="Of a count of word pairs on the texts to be learned, nats a token; null where no next token is."
    )
    linearity: list[LinearityFields] = Field(default_factory=list)
    peers: PeerFields | None = None
    keep: KeepFields | None = None
    identity: IdentityFields
    source: dict[Name, Any] = Field(default_factory=dict)
    made_in: Text = Field(default="", description="The folder that relative paths are of; empty where there are none.")
    said: list[SaidFields] = Field(default_factory=list)
    advisor: Text
    torch: Text
    targets: Annotated[list[TargetFields], Field(min_length=1)]
    files: dict[Name, Text] = Field(default_factory=dict, description="SHA-256 of each other file of the folder.")
    checksum: Text | None = Field(default=None, description="SHA-256 of the other fields.")

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        names = [target.name for target in self.targets]
        known, count, print_ = set(names), len(names), self.footprint
        if len(known) != count:
            raise ValueError("targets: a module is named twice")
        if not known.issuperset(print_.targets):
            raise ValueError("footprint.targets: a module is not among the targets")
        lists: list[tuple[str, list[Any], int]] = [
            (f"footprint.{name}", getattr(print_, name), len(print_.targets))
            for name in ("saved", "spared_alone", "inputs", "input_kept_by", "seen")
            if name != "seen" or print_.seen
        ]
        if self.peers is not None:
            measured = [(name, getattr(self.peers, name)) for name in PeerFields.model_fields if name != "eva"]
            lists += [(f"peers.{name}", values, count) for name, values in measured if values is not None]
            lists.append(("peers.eva.ratios", self.peers.eva.ratios, count))
        for name, values, wanted in lists:
            if len(values) != wanted:
                raise ValueError(f"{name} has {len(values)} entries, not {wanted}")
        for found in self.linearity:
            if not known.issuperset(found.targets) or len(found.gaps) != len(found.steps):
                raise ValueError("linearity: it does not fit the targets")
        if (self.task in CLASSES) != bool(self.class_names) or len(self.class_names) == 1:
            raise ValueError(f"class_names has {len(self.class_names)} entries, which does not fit the task {self.task}")
        return self
