"""Lines for people who wait: how far, how fast, how long still."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from training.loop import Log
from training.progress import counted, span, step_line


def test_times_are_said_as_people_say_them() -> None:
    assert [span(s) for s in (0.4, 89, 90, 600, 7200)] == ["0 s", "89 s", "2 min", "10 min",
                                                          "2.0 h"]  # fmt: skip


def test_a_long_loop_is_heard_of_and_a_short_one_is_not() -> None:
    told: list[str] = []
    assert list(counted([3, 1, 2], "samples painted", told.append, each=8, every=0.0)) == [3, 1, 2]
    assert told == ["samples painted: 8 done, 0 s left", "samples painted: 16 done, 0 s left"]
    told.clear()
    assert list(counted([3, 1, 2], "samples painted", told.append)) == [3, 1, 2]
    assert told == []


def test_a_step_is_told_in_words() -> None:
    line = {"step": 25, "anchor_loss": 0.29784, "seconds": 1.3, "samples_per_second": 16.02}
    assert step_line(line, 150, 61.2) == (
        "step 25 of 150: anchor loss 0.2978, 16 samples/s, 61 s left"
    )
    assert step_line({"step": 150, "loss": 1.0, "samples_per_second": 0.0}, 150, 0.0) == (
        "step 150 of 150: loss 1.0000"
    )


def test_a_log_with_a_length_speaks_to_people_and_keeps_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(tmp_path / "log.jsonl", 4, total=40)
    log.add(loss=0.5)
    log.report(20, left=33.0)
    assert capsys.readouterr().out == "step 20 of 40: loss 0.5000, 33 s left\n"
    kept = json.loads((tmp_path / "log.jsonl").read_text())
    assert kept == {"step": 20, "loss": 0.5, "samples_per_second": 0.0}
