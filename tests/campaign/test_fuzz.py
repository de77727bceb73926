"""A short part of the fuzz campaign, the same inputs each time; `make fuzz` runs thousands."""

from __future__ import annotations

from pathlib import Path

from campaign.fuzz import campaign

INPUTS = 200


def test_odd_data_and_models_end_in_a_result_or_one_line(own_folders: Path, tmp_path: Path) -> None:
    ended = campaign(INPUTS, 10_000, ["data", "adapter", "profile"], tmp_path / "kept", tmp_path / "ground", quiet=True)
    wrong = [f"{e.kind}:{e.seed}: {e.outcome}: {e.detail[-500:]}" for e in ended if not e.right]
    assert not wrong, "\n".join(wrong)
    assert {"ok", "exit 2"} <= {e.outcome for e in ended}
