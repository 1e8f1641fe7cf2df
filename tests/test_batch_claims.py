"""Who makes which job when several processes are at one batch, without making any."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from adapters.emotion import EmotionTimeline
from pipelines import ledger
from pipelines.take import Request, write_take
from studio.batch_claims import CLAIMS, Done, Source

ROOT = Path(__file__).resolve().parent.parent
JOBS = 6


def job(seed: int) -> Request:
    return Request("image", "a lake", EmotionTimeline.parse("fear .5"), seed, "image-tiny")


def source(out: Path) -> Source:
    """The batch of six jobs, two in a chunk."""
    return Source([[(n, job(n)), (n + 1, job(n + 1))] for n in range(0, JOBS, 2)], out)


def numbers(chunk: object) -> list[int]:
    return [number for number, _ in chunk]  # type: ignore[attr-defined]


def finish(out: Path, seed: int) -> None:
    """What a maker leaves: the take and its line, under the weights that it loaded."""
    write_take(job(seed).changed(weights="abc"), Image.new("RGB", (8, 8)), out)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return ledger.prepare_out(tmp_path / "out")


def test_two_processes_never_have_the_same_job(out: Path) -> None:
    one, other = source(out), source(out)
    assert numbers(one.take()) == [0, 1]
    assert numbers(other.take()) == [2, 3]
    assert numbers(one.take()) == [4, 5]
    assert other.take() == []
    assert [numbers(chunk) for chunk in other.held] == [[0, 1], [4, 5]]
    finish(out, 0)
    one.close()  # it was stopped: 0 is made, the rest is not
    assert numbers(other.take()) == [1]
    assert numbers(other.take()) == [4, 5]
    assert set(other.elsewhere) == {0}
    assert other.elsewhere[0]["request"]["seed"] == 0
    other.close()
    assert not list(out.glob(f"*{CLAIMS}"))


def test_the_jobs_of_the_dead_are_free_at_once(out: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tests.test_batch_claims import source;"
        " source(Path(sys.argv[1])).take(); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(out)], cwd=ROOT)
    assert done.returncode == 9
    assert len(list(out.glob(f"{ledger.TEMPORARY}*{CLAIMS}"))) == 1, "its claim outlived it"
    one = source(out)
    assert [numbers(one.take()) for _ in range(3)] == [[0, 1], [2, 3], [4, 5]]
    assert len(list(out.glob(f"{ledger.TEMPORARY}*{CLAIMS}"))) == 1, "only its own"


def test_a_job_that_came_back_is_handed_out_again(out: Path) -> None:
    one = source(out)
    chunk = one.take()
    one.back(chunk[1:])
    assert numbers(one.take()) == [1]
    assert numbers(one.take()) == [2, 3]


def test_a_torn_line_is_read_when_it_is_whole(out: Path) -> None:
    finish(out, 0)
    finish(out, 1)
    path = out / ledger.LEDGER
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    done = Done(out)
    done.update()
    assert done.find(job(0)) is not None
    assert done.find(job(1)) is None
    path.write_bytes(whole + b"[nonsense]\n{}\n")
    done.update()
    assert done.find(job(1)) is not None
    entry = done.whole(job(1))
    assert entry is not None
    Path(entry["path"]).write_bytes(b"changed")
    assert done.whole(job(1)) is None, "a file that was changed is made again"
