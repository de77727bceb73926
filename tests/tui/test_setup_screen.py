"""Setup: the form, the data as it would be read, recent probes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from textual.events import Paste
from textual.widgets import Input, OptionList
from tui_helpers import settled, shown_text, until

from advisor.core.errors import BadInput
from advisor.probing.cost_estimate import ProbeCost
from tui.app import AdvisorApp
from tui.engine import Recent
from tui.inputs import Inputs
from tui.paths import completions, meant
from tui.real_engine import RealEngine
from tui.real_preview import language_of, model_problem
from tui.setup import preview_text, recent_line

MakeApp = Callable[..., AdvisorApp]


async def test_what_is_typed_is_in_the_inputs_at_once_and_the_data_is_read(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press(*"[m]", "enter", *"d.csv")
        assert (app.state.inputs.model, app.state.inputs.data) == ("[m]", "d.csv")
        await pilot.pause(0.05)
        await settled(pilot)
        text = shown_text(app, "#preview")
        assert "classification (2: c0, c1), metric accuracy" in text
        assert "· a first [row] of text → c0" in text


async def test_data_that_cannot_be_read_is_said_below_it_not_in_a_dialog(make_app: MakeApp, engine) -> None:
    engine.fails["preview"] = BadInput("d.csv: no such file [x].", "Check the path.")
    app = make_app(Inputs(data="d.csv"))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.pause(0.05)
        await settled(pilot)
        assert shown_text(app, "#problem-data") == "d.csv: no such file [x]. Check the path."


async def test_a_wrong_number_is_said_and_keeps_the_probe_from_starting(make_app: MakeApp, engine) -> None:
    app = make_app(Inputs(model="m", data="d"))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        app.screen.query_one("#rank", Input).value = "eight"
        await pilot.pause()
        assert "Rank must be a whole number from 1 to 65536, got eight." in shown_text(app, "#problem-rank")
        await pilot.press("f5")
        await settled(pilot)
        assert "probe" not in engine.asked
        assert app.screen.focused.id == "rank"


async def test_four_fields_are_asked_first_and_what_is_wrong_unfolds(make_app: MakeApp) -> None:
    app = make_app(Inputs(model="m", data="d"))
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        shown = [field.id for field in app.screen.query(Input) if field.is_on_screen and field.region.area]
        assert shown == ["model", "data", "budget", "rank"]
        app.screen.query_one("#epochs", Input).value = "none"
        await pilot.pause()
        assert app.screen.query_one("#more").has_class("-unfolded")
        assert "Epochs" in shown_text(app, "#problem-epochs")
        app.screen.query_one("#epochs", Input).value = ""
        await pilot.press("f3")
        await pilot.pause()
        assert not app.screen.query_one("#more").has_class("-unfolded")


async def test_a_path_is_completed(make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "rows [x].csv").write_text("")
    (tmp_path / "rows.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert completions("row", folders_only=False) == ["rows [x].csv"]
    assert completions("row", folders_only=True) == []
    assert completions(f"{tmp_path}/mod", folders_only=True) == [f"{tmp_path}/models/"]
    assert completions("", folders_only=False) == completions("no/such/", folders_only=False) == completions("a\0b", False) == []
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press(*"mod")
        await pilot.pause(0.3)
        await pilot.press("right", "tab", *"row")
        await pilot.pause(0.3)
        await pilot.press("right")
        assert (app.state.inputs.model, app.state.inputs.data) == ("models/", "rows [x].csv")


@pytest.mark.parametrize("pasted", ["{}", "'{}' ", '"{}"', "{escaped}", "\n{}\nmore", "\r\n'{}'\r\n"])
async def test_a_path_may_be_pasted_as_a_shell_would_take_it(make_app: MakeApp, tmp_path: Path, pasted: str) -> None:
    path = tmp_path / "with space.jsonl"
    path.write_text("")
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("tab")
        app.post_message(Paste(pasted.format(path, escaped=str(path).replace(" ", "\\ "))))
        await settled(pilot)
        assert app.state.inputs.data == str(path)


@pytest.mark.parametrize("name", ["'rows.csv'", "'it's", "a b.csv", "a\\b", "~\0x", "\\", "''", "'a' b"])
def test_other_names_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert meant(name) == name
    if "\0" not in name and "rows" not in name:
        (tmp_path / name).write_text("")
        (tmp_path / "ab").write_text("")  # what a shell would read in one of them
        assert meant(name) == name


async def test_a_hub_id_is_looked_up_once_the_field_is_left(make_app: MakeApp, engine) -> None:
    app = make_app()
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("tab", *"glue/sst2")
        await pilot.pause(0.1)
        assert "preview" not in engine.asked
        await pilot.press("tab")
        await pilot.pause(0.1)
        await settled(pilot)
        assert engine.asked.count("preview") == 1


async def test_the_probe_needs_model_and_data(make_app: MakeApp, engine) -> None:
    app = make_app(Inputs(data="d"))
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("f5")
        assert shown_text(app, "#message") == "Model is missing."
        assert app.screen.focused.id == "model"
        assert "probe" not in engine.asked


async def test_the_demo_fills_in_the_form_and_nothing_of_another_question_stays(make_app: MakeApp, engine) -> None:
    other = Inputs("m", "d", eval_data="e", keep="k", label_column="old", max_length=9, adapt="all", samples=9, rank=4, lr=0.5)
    app = make_app(other)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.click("#demo")
        await settled(pilot)
        assert app.state.inputs == Inputs("demo-model", "demo.jsonl")
        assert app.screen.query_one("#model", Input).value == "demo-model"
        assert app.screen.query_one("#label_column", Input).value == app.screen.query_one("#eval_data", Input).value == ""
        assert "probe" not in engine.asked
        await pilot.press("f5")
        await settled(pilot)
        assert app.state.opened.inputs == Inputs("demo-model", "demo.jsonl")


async def test_the_command_lines_demo_keeps_what_is_asked_beside_it_and_begins_once(make_app: MakeApp, engine) -> None:
    app = make_app(Inputs(rank=4, budget="5%"), demo=True, start=True)
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        assert app.state.opened.inputs == Inputs("demo-model", "demo.jsonl", rank=4, budget="5%")
        await pilot.press("1", "f2")
        await settled(pilot)
        assert app.state.inputs == Inputs("demo-model", "demo.jsonl")
        assert (app.current_mode, engine.asked.count("probe")) == ("setup", 1)


async def test_recent_probes_are_listed_and_open(make_app: MakeApp, engine, tmp_path: Path) -> None:
    app = make_app()
    app.recent = [str(engine.folder)]
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        listed = app.screen.query_one("#recent", OptionList)
        assert str(listed.get_option_at_index(0).prompt) == "fake/bert on fake.jsonl, 24 modules, 2 h ago"
        listed.focus()
        await pilot.press("enter")
        await settled(pilot)
        assert app.current_mode == "explore"


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("/models/mini/", "/data/trec/train.jsonl", "models/mini on trec/train.jsonl"),
        ("gpt2", "glue/sst2", "gpt2 on glue/sst2"),
        ("[m]", "d.csv", "[m] on d.csv"),
    ],
)
def test_a_recent_probe_is_named_by_where_its_data_lies(model: str, data: str, said: str) -> None:
    assert str(recent_line(Recent(Path("p"), model, data, 24, 0.0), 30.0)) == f"{said}, 24 modules, just now"


async def test_a_probe_is_not_started_while_the_demo_is_made(make_app: MakeApp, engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made = threading.Event()
    monkeypatch.setattr(engine, "demo", lambda: ("demo-model", "demo.jsonl") if made.wait(10) else None)
    app = make_app(Inputs(model="other", data="d"), demo=True)
    async with app.run_test(size=(120, 40)) as pilot:
        while not app.has_begun:
            await pilot.pause()
        assert "The demo: an embedded MiniLM" in shown_text(app, "#message")
        await pilot.press("f5")
        assert shown_text(app, "#message") == "The demo is not filled in yet."
        made.set()
        await settled(pilot)
        assert (app.state.inputs.model, app.current_mode) == ("demo-model", "setup")
        assert shown_text(app, "#message") == ""
        assert "probe" not in engine.asked
        await pilot.press("f5")
        await settled(pilot)
        assert "probe" in engine.asked


async def test_digits_are_typed_into_fields_and_go_elsewhere_outside_them(make_app: MakeApp) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        await pilot.press("2")
        assert app.state.inputs.model == "2"
        await pilot.press("escape", "2")
        assert app.current_mode == "probe"
        await pilot.press("3")
        assert app.current_mode == "probe"  # there is no probe to explore yet
        await pilot.press("ctrl+pageup")
        assert app.current_mode == "setup"


def test_a_real_file_is_previewed_as_the_engine_would_read_it(tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    rows = "".join(f"text number {i},{'yes' if i % 2 else 'no'}\n" for i in range(30))
    data.write_text("text,label\n" + rows, encoding="utf-8")
    found = RealEngine().preview(Inputs(data=str(data)))
    assert (found.task, found.text_columns, found.label_column, found.total) == ("classification", ("text",), "label", 30)
    assert found.rows[0] == ("text number 0", "no")


def test_conversations_are_previewed_as_the_model_will_see_them(tmp_path: Path) -> None:
    data = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is a test."}]
    data.write_text((json.dumps({"messages": turns}) + "\n") * 30, encoding="utf-8")
    found = RealEngine().preview(Inputs(data=str(data)))
    assert found.rows[0] == ("user: What is it?", "It is a test.")
    assert "· user: What is it? → It is a test." in str(preview_text(found))
    two = {"chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "No."}]}
    data.write_text((json.dumps(two) + "\n") * 30, encoding="utf-8")
    assert RealEngine().preview(Inputs(data=str(data))).rows[0] == ("user: What is it?", "It is a test.", "No.")


@pytest.mark.parametrize(
    ("backward", "said"), [(1, "one forward and 1 backward pass ("), (6, "one forward and 6 backward passes (")]
)
def test_the_cost_of_a_probe_is_about_what_it_is_and_counts_roles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backward: int, said: str
) -> None:
    seen: list[Sequence[Sequence[str]]] = []

    def estimate(folder: Path, task: str, classes: int, rows: int, texts: Sequence[Sequence[str]], *_: object) -> ProbeCost:
        seen.append(texts)
        return ProbeCost(16, 500, backward, 1e12, 4e8)

    monkeypatch.setattr("advisor.probing.cost_estimate.estimate_probe", estimate)
    data = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "That."}]
    data.write_text((json.dumps({"messages": turns}) + "\n") * 30, encoding="utf-8")
    cost = RealEngine().preview(Inputs(model=str(tmp_path), data=str(data))).cost
    assert said in cost
    assert cost.endswith("about 0.4 GB of disk while it runs.")
    assert [text for text in seen[0][0] if text] == ["user\nWhat?\n", "assistant\nThat.\n"]


def test_words_with_tags_and_answers_in_a_text_are_previewed_in_words(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    tagged = {"tokens": ["Anna", "sleeps"], "ner_tags": ["PER", "O"]}
    data.write_text((json.dumps(tagged) + "\n") * 30, encoding="utf-8")
    assert RealEngine().preview(Inputs(data=str(data))).rows[0] == ("Anna sleeps", "PER O")
    asked = {"question": "Who?", "context": "Anna sleeps.", "answers": {"text": ["Anna"], "answer_start": [0]}}
    none = {**asked, "answers": {"text": [], "answer_start": []}}
    data.write_text("".join(json.dumps(row) + "\n" for row in [asked, none] * 15), encoding="utf-8")
    rows = RealEngine().preview(Inputs(data=str(data))).rows
    assert rows[:2] == (("Who?", "Anna sleeps.", "Anna"), ("Who?", "Anna sleeps.", "no answer"))


async def test_while_the_data_is_read_setup_says_so(make_app: MakeApp, engine, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, preview = threading.Event(), engine.preview
    monkeypatch.setattr(engine, "preview", lambda inputs: preview(inputs) if gate.wait(10) else None)
    app = make_app(Inputs(model="m", data="d.csv"))
    async with app.run_test(size=(120, 40)) as pilot:
        await until(pilot, lambda: app.has_begun and shown_text(app, "#preview") == "… reading the data")
        gate.set()
        await settled(pilot)
        assert "metric accuracy" in shown_text(app, "#preview")


def test_pairs_for_embeddings_are_previewed(tmp_path: Path) -> None:
    data = tmp_path / "pairs.csv"
    data.write_text("anchor,positive\n" + "".join(f"question {i},answer {i}\n" for i in range(30)), encoding="utf-8")
    found = RealEngine().preview(Inputs(data=str(data)))
    assert (found.task, found.text_columns, found.label_column) == ("embedding", ("anchor", "positive"), None)
    assert found.rows[0] == ("question 0", "answer 0")
    named = RealEngine().preview(Inputs(data=str(data), task="embedding", text_column=("positive", "anchor")))
    assert named.rows[0] == ("answer 0", "question 0")


@pytest.mark.parametrize(
    ("config", "task"), [('{"is_encoder_decoder": true}', "seq2seq"), ("{}", "causal-lm"), ("[", "causal-lm")]
)
def test_answers_are_read_as_the_models_config_says(tmp_path: Path, config: str, task: str) -> None:
    data = tmp_path / "d.jsonl"
    rows = "".join(f'{{"prompt": "what is {i}?", "completion": "it is {i}"}}\n' for i in range(20))
    data.write_text(rows, encoding="utf-8")
    (tmp_path / "config.json").write_text(config, encoding="utf-8")
    assert RealEngine().preview(Inputs(model=str(tmp_path), data=str(data))).task == task


@pytest.mark.parametrize(("model", "revision"), [(None, None), ("no [such] model", None), ("owner/name", "v1"), ("a\0b", None)])
def test_a_model_that_is_not_here_is_taken_for_a_decoder(model: str | None, revision: str | None) -> None:
    assert language_of(model, revision) == "causal-lm"


def test_recent_probes_are_those_that_still_are_there(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder, text in ((whole, '{"model": "m", "data": "d", "targets": [1, 2]}'), (broken, '{"model": 1')):
        folder.mkdir()
        (folder / "probe.json").write_text(text, encoding="utf-8")
    found = RealEngine().recent([str(tmp_path / "gone"), str(broken), str(whole)])
    assert [(probe.folder, probe.modules) for probe in found] == [(whole, 2)]


@pytest.mark.parametrize("name", ["x" * 300, "x" * 100 + "/" + "x" * 300, "x\0y"])
async def test_a_name_that_no_disk_has_is_only_a_wrong_name(make_app: MakeApp, name: str) -> None:
    app = make_app()
    async with app.run_test(size=(120, 40)) as pilot:
        await settled(pilot)
        for field in ("model", "data"):
            app.screen.query_one(f"#{field}", Input).focus()
            await pilot.pause()
            app.screen.query_one(f"#{field}", Input).value = name
            await settled(pilot)
        assert app._exception is None
    assert language_of(name, None) == "causal-lm"
    if "\0" not in name:
        assert model_problem(Inputs(model=name)) == ""  # as a hub id would be
