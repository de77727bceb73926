"""What comes from outside is shown as one line of characters that can be seen."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advisor.core.errors import AdvisorError, BadInput
from advisor.core.events import Note, Progress, Warn
from advisor.core.text import markdown, printable
from advisor.report.tables import TextTable

UNSEEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
HOSTILE = "a\x1b[31m\nError: b\u202e\u200b\ufeff\ud800\x85\u2028[bold]"


def seen(text: str) -> bool:
    return not any(unicodedata.category(c) in UNSEEN for c in text)


def test_every_code_point_comes_out_visible() -> None:
    for code in range(sys.maxunicode + 1):
        shown = printable(chr(code))
        assert seen(shown)
        assert shown
        if unicodedata.category(chr(code)) not in {*UNSEEN, "Zs"}:
            assert shown == chr(code)


@given(st.text(), st.integers(1, 60))
def test_a_limit_keeps_both_ends(text: str, limit: int) -> None:
    whole, cut = printable(text), printable(text, limit)
    assert len(cut) <= limit
    assert cut == whole if len(whole) <= limit else cut[0] == whole[0] or limit < 4


def test_errors_notes_and_progress_are_clean_single_lines() -> None:
    error = BadInput(f"{HOSTILE * 300}: cannot be read.", f"Do {HOSTILE} next.")
    assert seen(str(error))
    assert len(str(error)) <= 500
    assert str(error).endswith("next.")
    assert seen(error.what + error.hint)
    for event in (Note(HOSTILE * 3000), Warn(HOSTILE)):
        assert seen(event.text)
        assert len(event.text) <= 2000
    progress = Progress(HOSTILE, 0, 1, HOSTILE)
    assert seen(progress.stage + progress.detail)


@pytest.mark.parametrize("made", [AdvisorError("What."), BadInput("What.", "Next.")])
def test_short_texts_stay_as_they_are(made: AdvisorError) -> None:
    assert str(made) == f"{made.what} {made.hint}".strip() == f"What.{' Next.' if made.hint else ''}"


def test_a_name_is_no_markdown_and_no_table_cell_of_another_line() -> None:
    assert markdown("*x* `y` <b> [z](http://a) _q_ q_proj 1 < 2 [0.1, 0.2]") == (
        r"\*x\* \`y\` \<b> [z\](http://a) \_q\_ q_proj 1 \< 2 [0.1, 0.2]"
    )
    table = TextTable("T\n", ("a", "b"), ((HOSTILE, "x|y"),))
    assert len(table.markdown().splitlines()) == 5
    assert seen(table.markdown().replace("\n", ""))
    assert r"x\|y" in table.markdown()
