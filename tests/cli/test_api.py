"""``from advisor import probe, recommend``: the same options, answers and files as the command line, in scripts and notebooks."""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas
import pytest
import torch
import typer
import yaml
from command import advisor as command
from command import write_data
from exporting import trained
from matplotlib import image
from peft import LoraConfig, get_peft_model
from probes import same
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import advisor
from advisor import api, probe_cache
from advisor.cli.app import app
from advisor.core.errors import BadInput, Interrupted
from advisor.core.events import Event, Progress, Session, Warn
from advisor.data import in_memory as handed
from advisor.data.tables import read_table
from advisor.models.prepare import Source
from advisor.probing.settings import ProbeSettings
from advisor.probing.usual_torch import usual_torch
from advisor.report.tables import TextTable
from advisor.results import ProbeResult, Recommended

TinyModel = Callable[..., Path]
SAMPLES = 24

pytestmark = pytest.mark.usefixtures("own_folders")


@pytest.fixture(scope="module")
def bert(tiny_model: TinyModel) -> Path:
    return tiny_model("bert")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"), "classification")


@pytest.fixture(scope="module")
def recommended(bert: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recommended:
    out = tmp_path_factory.mktemp("api") / "recommendation"
    return advisor.recommend(bert, data, samples=SAMPLES, device="cpu", out=out, session=Session())


@pytest.fixture(scope="module")
def probed(bert: Path, data: Path) -> ProbeResult:
    return advisor.probe(bert, data, samples=SAMPLES, device="cpu", session=Session())


# --- the same as the commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["probe", "recommend"])
def test_arguments_are_the_options_with_their_defaults(name: str) -> None:
    taken = dict(inspect.signature(getattr(advisor, name)).parameters)
    assert taken.pop("session").default is None
    found: dict[str, Any] = {}
    for parameter in typer.main.get_command(app).commands[name].params:  # type: ignore[attr-defined]
        option = next((o for o in parameter.opts if o.startswith("--")), parameter.name)
        found[option.removeprefix("--").replace("-", "_")] = parameter.default
    for shown in ("json", "verbose", "tui", "help"):
        found.pop(shown, None)
    assert set(taken) == set(found)
    for argument, parameter in taken.items():
        if parameter.default is not inspect.Parameter.empty:
            assert str(parameter.default) == str(found[argument]), argument


def test_the_same_answer_and_files_as_the_command(recommended: Recommended, bert: Path, data: Path, tmp_path: Path) -> None:
    ran = command("recommend", bert, "--data", data, "--samples", SAMPLES, "--device", "cpu", "--out", tmp_path / "r", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == json.loads(json.dumps(recommended.json))
    for name in recommended.files:
        assert (recommended.folder / name).read_bytes() == (tmp_path / "r" / name).read_bytes(), name


def test_score_and_compare_say_what_the_commands_say(probed: ProbeResult, tmp_path: Path) -> None:
    selections = [{"name": "first", "targets": [probed.probe.targets[0].name]}]
    path = tmp_path / "selections.json"
    path.write_text(json.dumps(selections))
    options = ("--rank", 4, "--lr", 3e-4, "--json")
    scored = probed.score(selections, rank=4, lr=3e-4)
    assert probed.score(path, rank=4, lr=3e-4).json == scored.json
    assert json.loads(command("score", probed.folder, "--selections", path, *options).out) == scored.json
    compared = probed.compare("50%", granularity="role", rank=4, lr=3e-4)
    ran = command("compare", probed.folder, "--budget", "50%", "--granularity", "role", *options)
    assert json.loads(ran.out) == compared.json
    assert json.loads(command("probe", *probed_again(probed), "--json").out) == json.loads(json.dumps(probed.as_dict()))


def probed_again(result: ProbeResult) -> tuple[object, ...]:
    info = result.probe.info
    return info["model"], "--data", info["data"], "--samples", SAMPLES, "--device", "cpu", "--out", result.folder


def test_a_probe_in_the_cache_is_found_by_recommend(probed: ProbeResult, bert: Path, data: Path, tmp_path: Path) -> None:
    assert ProbeResult.open(probed.folder).as_dict() == json.loads(json.dumps(probed.as_dict()))
    events: list[Event] = []
    advisor.recommend(bert, data, samples=SAMPLES, device="cpu", out=tmp_path / "r", session=Session(emit=events.append))
    assert not [e for e in events if isinstance(e, Progress) and "passes" in e.stage]


# --- what comes back ----------------------------------------------------------------------------------------------


def test_lora_config_is_the_pick(recommended: Recommended, bert: Path) -> None:
    config = recommended.lora_config()
    assert isinstance(config, LoraConfig)
    arguments = yaml.safe_load((recommended.folder / "lora.yaml").read_text())
    assert config.to_dict() == LoraConfig(**arguments).to_dict()
    model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    pick = recommended.json["pick"]
    assert trained(model, config.to_dict()) == {
        name: (pick["rank"], pick["alpha"] / pick["rank"]) for name in recommended.target_modules
    }


def test_a_config_that_was_used_does_not_change_the_next(recommended: Recommended, bert: Path) -> None:
    before = recommended.lora_config().to_dict()
    used = recommended.lora_config(lora_dropout=0.25)
    assert used.lora_dropout == 0.25
    get_peft_model(AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2), used)
    assert recommended.lora_config().to_dict() == before


class Text(HTMLParser):
    """Collects text, and checks that every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_shows_every_sentence_and_cell(recommended: Recommended, probed: ProbeResult) -> None:
    for shown in (recommended, probed.compare(), probed):
        parser = Text()
        parser.feed(shown._repr_html_())
        assert parser.open == []
        assert "script" not in parser.tags
        if isinstance(shown, ProbeResult):
            assert str(shown.folder) in parser.text
            continue
        for line in shown.verdict:
            assert line in "".join(parser.text)
        for table in shown.tables:
            assert {cell for row in table.rows for cell in row if cell} <= set(parser.text)
        assert shown.tables[0].title in str(shown)


def test_figures_are_drawn_on_white(recommended: Recommended, tmp_path: Path) -> None:
    found = recommended.figures()
    assert set(found) == {"heat-map", "pareto", "spectra", "intervals-metric", "intervals-difference"}
    for name, figure in found.items():
        figure.savefig(tmp_path / f"{name}.png")
        pixels = image.imread(tmp_path / f"{name}.png")[..., :3]
        assert (pixels[0, 0] == 1).all(), name
        assert (pixels.max(-1) - pixels.min(-1)).max() > 0.3, name  # the pick has a colour
        assert pixels.min() < 0.3, name


def test_html_of_names_is_no_markup() -> None:
    html = TextTable("t", ("<b>name",), (("<script>alert(1)</script>",),)).html()
    assert "<script" not in html
    assert "<b>" not in html
    assert "&lt;script&gt;" in html


def test_repr_is_one_line(recommended: Recommended, probed: ProbeResult) -> None:
    for shown in (recommended, probed, probed.compare()):
        assert len(repr(shown)) < 300
        assert "\n" not in repr(shown)
    assert recommended.verdict[0] in repr(recommended)


# --- what the script has set --------------------------------------------------------------------------------------


@contextmanager
def torch_default(what: str, value: Any) -> Iterator[None]:
    """Torch's default ``dtype`` or ``device``."""
    setting, before = getattr(torch, f"set_default_{what}"), getattr(torch, f"get_default_{what}")()
    setting(value)
    try:
        yield
    finally:
        setting(None if what == "device" else before)


def torch_settings() -> tuple[Any, ...]:
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    nested = torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()
    autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), nested
    return grad, inference, autocast, torch.get_default_dtype(), torch.get_default_device()


SET: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: torch_default("dtype", torch.float64),
    "bfloat16": lambda: torch_default("dtype", torch.bfloat16),
    "meta": lambda: torch_default("device", "meta"),
}


@pytest.mark.parametrize("setting", SET)
def test_what_the_script_has_set_in_torch_changes_nothing(
    setting: str, recommended: Recommended, bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given: dict[str, Any] = {"samples": SAMPLES, "device": "cpu", "session": Session()}
    with SET[setting]():
        before = torch_settings()
        found = advisor.recommend(bert, data, out=tmp_path / "r", **given)
        probed = advisor.probe(bert, data, out=tmp_path / "p", **given)
        assert torch_settings() == before
    assert same(found.scorer.probe, recommended.scorer.probe)
    assert same(probed.probe, recommended.scorer.probe)
    assert found.json == recommended.json


@pytest.mark.parametrize("setting", SET)
def test_training_steps_are_as_outside_of_what_the_script_has_set(setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a caller's autocast, casts of the weights outlive a step of ours, which then would train nothing."""

    def trained() -> torch.Tensor:
        torch.manual_seed(0)
        layer, rows = torch.nn.Linear(4, 4), torch.randn(8, 4)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        for _ in range(3):
            with torch.autocast("cpu", torch.bfloat16):
                loss = layer(rows).float().square().mean()
            loss.backward()
            optimizer.step()
        return layer.weight.detach()

    wanted = trained()
    with SET[setting](), usual_torch():
        found = trained()
    assert (found.dtype, found.device) == (wanted.dtype, wanted.device)
    assert torch.equal(found, wanted)


def test_what_is_set_is_set_again_after_an_error() -> None:
    for setting in SET.values():
        with setting():
            before = torch_settings()
            with pytest.raises(BadInput, match="no-such"):
                advisor.probe("no-such", "no-such.csv", session=Session())
            assert torch_settings() == before


# --- rows in memory -----------------------------------------------------------------------------------------------


def test_rows_in_memory_are_the_rows_of_the_file(probed: ProbeResult, bert: Path, data: Path) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    places = set()
    for given in (rows, datasets.Dataset.from_list(rows), pandas.DataFrame(rows)):
        place = handed.data_place(given)
        assert list(read_table(place).rows) == rows
        places.add(place)
        again = advisor.probe(bert, given, samples=SAMPLES, device="cpu", session=Session())
        assert again.folder == probed.folder  # the cache goes by content
    assert len(places) == 3
    assert handed.data_place(rows) in places
    assert handed.data_place(data) == str(data)


def test_class_names_and_splits_of_a_data_set_survive(data: Path) -> None:
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    whole = datasets.Dataset.from_list(rows).class_encode_column("label")
    parts = whole.train_test_split(0.2, seed=0)
    place = handed.data_place(parts)
    assert handed.data_place(parts) == place
    assert [r["label"] for r in read_table(place, evaluation=True).rows] == [
        whole.features["label"].names[i] for i in parts["test"]["label"]
    ]
    assert not list(Path(place).parent.glob(".*.part"))


@pytest.mark.parametrize("wrong", [[], ["a", "b"], 3, object(), np.zeros(3), [{"text": object()}], {"text": ["a"]}])
def test_what_is_no_rows_is_refused(wrong: Any) -> None:
    with pytest.raises(BadInput, match=r"datasets\.Dataset|JSON"):
        handed.data_place(wrong)


@pytest.mark.parametrize(
    "empty",
    [
        [],
        pandas.DataFrame(),
        pandas.DataFrame({"text": [], "label": []}),
        datasets.Dataset.from_list([]),
        datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": []})}),
    ],
    ids=["list", "table", "table of no rows", "data set", "splits of no rows"],
)
def test_no_rows_are_refused_before_a_file_is_made_of_them(empty: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(BadInput, match=f"of type {type(empty).__name__}, and empty"):
        advisor.probe("m", empty, session=Session())
    assert not list(tmp_path.iterdir())


def test_a_stream_is_refused(data: Path) -> None:
    stream = datasets.load_dataset("json", data_files=str(data), split="train", streaming=True)
    with pytest.raises(BadInput, match="IterableDataset"):
        advisor.probe("m", stream, session=Session())


def test_a_loaded_model_is_refused_with_its_name(bert: Path, data: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=2)
    with pytest.raises(BadInput) as caught:
        advisor.recommend(model, data, session=Session())
    assert str(bert) in caught.value.hint
    assert "save_pretrained" in caught.value.hint
    assert "BertForSequenceClassification" in caught.value.what


def test_a_probe_in_place_of_its_folder_is_refused_with_the_folder(probed: ProbeResult) -> None:
    with pytest.raises(BadInput) as caught:
        advisor.recommend(probed, budget="10%")
    assert str(probed.folder) in caught.value.hint


def test_a_folder_whose_name_no_disk_takes_is_bad_input(probed: ProbeResult, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="aaa"):
        advisor.recommend(probed.folder, out=tmp_path / ("a" * 300))


def test_no_selections_are_bad_input(probed: ProbeResult) -> None:
    with pytest.raises(BadInput, match="NoneType"):
        probed.score(None)  # type: ignore[arg-type]


def test_a_saved_model_does_instead(bert: Path, data: Path, tmp_path: Path) -> None:
    """The hint of the refusal works."""
    from transformers import AutoModel

    AutoModel.from_pretrained(bert).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path)
    result = advisor.probe(tmp_path, data, samples=SAMPLES, device="cpu", session=Session())
    assert result.probe.info["head_kind"] == "probed"


# --- mistakes, progress, stopping ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": None}, "MODEL"),
        ({"data": None}, "--data"),
        ({"budget": "lots"}, "--budget"),
        ({"granularity": "head"}, "--granularity"),
        ({"strategy": "luck"}, "--strategy"),
        ({"rank": "many"}, "--rank"),
        ({"rank": 0}, "--rank"),
        ({"format": "toml"}, "--format"),
        ({"format": []}, "--format"),
        ({"confirm_rows": 5}, "--confirm"),
        ({"confirm": -1}, "--confirm"),
        ({"samples": 2}, "--samples"),
        ({"kernel": "ntk"}, "--kernel ntk"),
        ({"data": "no-such.csv"}, "no-such.csv"),
    ],
)
def test_mistakes_are_named(given: dict[str, Any], said: str, tmp_path: Path) -> None:
    options = {"model": "nowhere", "data": "x.csv", "out": tmp_path / "r", "session": Session(), **given}
    with pytest.raises(BadInput, match=said):
        advisor.recommend(**options)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: advisor.recommend("m", "d", bugdet="1%"), r"recommend\(\): .*'bugdet'; is 'bugdet' meant to be 'budget'\?"),
        (lambda: advisor.probe(modle="m"), r"probe\(\): .*'model'; is 'modle' meant to be 'model'\?"),
        (lambda: advisor.probe("m", "d", "e"), r"^probe\(\): too many positional arguments$"),
    ],
)
def test_a_misspelt_argument_is_told_of_the_function_that_was_called(call: Callable[[], object], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        call()


@pytest.mark.parametrize("function", [advisor.probe, advisor.recommend])
@pytest.mark.parametrize(
    ("given", "quantised"),
    [({}, None), ({"load_in_4bit": True}, "4bit"), ({"load_in_8bit": True}, "8bit"), ({"recompute": True}, None)],
)
def test_how_to_hold_the_model_reaches_loader_and_probe(
    function: Callable[..., Any], given: dict[str, Any], quantised: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def prepared(source: Source, *_: Any) -> Any:
        seen["quantised"] = source.quantised
        schema = SimpleNamespace(task="classification", text_columns=("text",), label_column="label", metric="accuracy")
        return SimpleNamespace(loaded=SimpleNamespace(task=schema.task), train=SimpleNamespace(schema=schema))

    def stop(_: Any, settings: ProbeSettings, *__: Any) -> Any:
        seen["recompute"] = settings.recompute
        raise Interrupted("far enough")

    monkeypatch.setattr(probe_cache, "prepare_for_probe", prepared)
    monkeypatch.setattr(probe_cache, "cache_folder", stop)
    monkeypatch.setattr(probe_cache, "probe_cached", stop)
    with pytest.raises(Interrupted, match="far enough"):
        function("m", "d", session=Session(), **given)
    assert seen == {"quantised": quantised, "recompute": given.get("recompute", False)}


def test_real_runs_of_weights_on_the_disk_are_refused_before_the_probe(
    bert: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_cache, "probe_cached", lambda *_: pytest.fail("it was probed"))
    with pytest.raises(BadInput, match="real runs need"):
        advisor.recommend(bert, data, device="disk", confirm=2, samples=SAMPLES, session=Session())


def test_a_probe_folder_takes_the_place_of_model_and_data(
    bert: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "probe"
    advisor.probe(bert, data, samples=SAMPLES, out=folder, session=Session())
    monkeypatch.setattr("advisor.probing.run._probe", lambda *_: pytest.fail("it was probed again"))
    found = advisor.recommend(folder, budget="50%", out=tmp_path / "from-probe", session=Session())
    monkeypatch.undo()
    wanted = advisor.recommend(bert, data, samples=SAMPLES, budget="50%", out=tmp_path / "from-model", session=Session())
    assert found.json == wanted.json


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"data": "rows.csv"}, "--data"),
        ({"samples": 8, "dtype": "bfloat16"}, "--dtype, --samples"),
        ({"load_in_4bit": True}, "--load-in-4bit"),
    ],
)
def test_what_the_probe_decided_is_refused_by_name(given: dict[str, Any], named: str, tmp_path: Path) -> None:
    (tmp_path / "probe.json").write_text("{}")
    with pytest.raises(BadInput, match=f"made with its own {named}\\."):
        advisor.recommend(tmp_path, session=Session(), **given)


def test_a_probe_cannot_ask_for_the_models_own_code(bert: Path, data: Path, tmp_path: Path) -> None:
    found = advisor.probe(bert, data, samples=SAMPLES, out=tmp_path, session=Session()).probe
    found.info["source"]["trust_remote_code"] = True
    assert not probe_cache.made_from(found, False)[0].trust_remote_code
    assert probe_cache.made_from(found, True)[0].trust_remote_code


def test_a_damaged_probe_in_the_cache_is_made_anew(bert: Path, data: Path) -> None:
    given: dict[str, Any] = {"samples": SAMPLES, "device": "cpu", "seed": 9, "session": Session()}
    whole = advisor.probe(bert, data, **given)
    file = whole.folder / "blocks.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    warned: list[str] = []
    given["session"] = Session(lambda event: warned.append(event.text) if isinstance(event, Warn) else None)
    again = advisor.probe(bert, data, **given)
    assert again.folder == whole.folder
    assert same(again.probe, whole.probe)
    assert same(ProbeResult.open(whole.folder).probe, whole.probe)
    assert any("made anew" in text for text in warned)


def test_what_a_damaged_recommendation_says_to_do_mends_it(bert: Path, data: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"samples": SAMPLES, "device": "cpu", "out": tmp_path / "r", "session": Session()}
    wanted = advisor.recommend(bert, data, **given).json
    file = tmp_path / "r" / "recommendation.json"
    file.write_bytes(file.read_bytes()[:1000])
    refused = command("export", tmp_path / "r", "--out", tmp_path / "e")
    assert refused.code == 2
    assert "Delete it and run again the command that wrote it." in refused.err
    file.unlink()
    assert advisor.recommend(bert, data, **given).json == wanted
    assert command("export", tmp_path / "r", "--out", tmp_path / "e").code == 0


def test_missing_files_are_named_by_their_option(bert: Path, data: Path) -> None:
    for given, option in (({"data": "no.jsonl"}, "--data"), ({"data": data, "eval_data": "no.jsonl"}, "--eval-data")):
        with pytest.raises(BadInput, match=r"no file or folder no\.jsonl") as found:
            advisor.recommend(bert, **given, session=Session())
        assert found.value.hint.endswith(f" {option}.")


def test_the_demo_beside_a_model_is_refused() -> None:
    with pytest.raises(BadInput, match="its own model and data"):
        advisor.recommend("my/model", demo=True, session=Session())


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        advisor.nothing  # noqa: B018
    assert {"probe", "recommend"} <= set(advisor.__all__)


def test_cancelling_keeps_what_is_done_and_the_next_call_resumes(bert: Path, data: Path, tmp_path: Path) -> None:
    session = Session()
    session.emit = lambda event: session.cancel.set() if isinstance(event, Progress) and "passes" in event.stage else None
    with pytest.raises(Interrupted):
        advisor.probe(bert, data, samples=SAMPLES, device="cpu", seed=5, out=tmp_path / "p", session=session)
    assert (tmp_path / "p" / ".advisor-partial").is_dir()
    whole = advisor.probe(bert, data, samples=SAMPLES, device="cpu", seed=5, out=tmp_path / "p", session=Session())
    assert len(whole.probe.targets) == 12
    assert not (tmp_path / "p" / ".advisor-partial").exists()


@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals reach the main thread only")
def test_ctrl_c_is_a_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(*given: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        given[-1].check()

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr("advisor.probe_cache.prepare_for_probe", lambda source, session, samples: engine(session))
    with pytest.raises(KeyboardInterrupt, match="finished work is kept"):
        advisor.probe("m", "d.csv")
    assert signal.getsignal(signal.SIGINT) is before


def test_importing_the_functions_loads_nothing_heavy() -> None:
    light = "import sys; from advisor import probe; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", light], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_modules_of_the_same_names_do_not_hide_the_functions() -> None:
    for module in ("advisor.probing.run", "advisor.core.probe", "advisor.advice.recommend"):
        importlib.import_module(module)
    assert advisor.probe is api.probe
    assert advisor.recommend is api.recommend


# --- in a notebook ------------------------------------------------------------------------------------------------


def test_a_notebook_shows_progress_and_html(bert: Path, data: Path, tmp_path: Path) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    cells = [
        f"from advisor import recommend\nrec = recommend({str(bert)!r}, {str(data)!r}, samples={SAMPLES}, seed=3,\n"
        f"                device='cpu', out={str(tmp_path / 'r')!r})",
        "rec",
        "rec.figures()['pareto']",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "python3"}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    run, shown, figure = (cell["outputs"] for cell in notebook.cells)
    said = "".join(str(output.get("text", "")) + str(output.get("data", "")) for output in run)
    assert "Search: " in said  # a bar that is drawn at most ten times a second need not reach 100%
    modules = yaml.safe_load((tmp_path / "r" / "lora.yaml").read_text())["target_modules"]
    chosen = f"{len(modules)} chosen modules" if len(modules) > 1 else "one chosen module"
    assert f"PEFT applies the config to exactly the {chosen}." in said
    assert not [output for output in run if output["output_type"] == "error"]
    assert "<table>" in shown[0]["data"]["text/html"]
    assert len(base64.b64decode(figure[0]["data"]["image/png"])) > 5_000
    assert (tmp_path / "r" / "lora.yaml").is_file()
