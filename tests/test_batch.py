"""Batches end to end: whatever ends one, nothing finished is lost and nothing is made twice."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pipelines import ledger, session
from pipelines.media import read_metadata
from pipelines.take import Take
from studio.batch import Run
from studio.batch_plan import read_plan
from studio.cli import run
from studio.run import Options
from tests.tiny import tiny_folder

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of real Stable Diffusion parts, tiny and random."""
    return Path(tiny_folder("sd15", tmp_path_factory.mktemp("weights") / "sd15"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fitted directions go to a folder of this test run; children inherit it."""
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def jobs(folder: Path, weights: Path, *lines: dict[str, Any]) -> Path:
    """A manifest; each line is of the tiny painter at two steps unless it says otherwise."""
    usual = {
        "prompt": "a lake",
        "backbone": str(weights),
        "params": {"steps": 2, "width": 32, "height": 32, "directions": False},
    }
    path = folder / "jobs.jsonl"
    path.write_text("".join(json.dumps({**usual, **line}) + "\n" for line in lines))
    return path


def batch(*arguments: object) -> int:
    return run(["batch", *map(str, arguments), "--offline"])


def child(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "studio.cli", "batch", *map(str, arguments), "--offline"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def counted(out: Path) -> Counter[str]:
    """How often each seed is done in the ledger, every line of which must be whole."""
    for text in (out / ledger.LEDGER).read_bytes().splitlines():
        json.loads(text)
    lines = [line for line in ledger.read(out) if line["status"] == "done"]
    for line in lines:
        assert Take.read(out / line["path"]).sha256 == line["sha256"], "a torn file"
    return Counter(line["request"]["seed"] for line in lines)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "summary.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_batch_and_what_it_leaves(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jobs(
        tmp_path,
        weights,
        {"emotion": ["fear .2", "fear .8"], "seed": "0..1", "id": "=1+1"},
        {"prompt": "@home", "emotion": "joy .5", "seed": 9},
        {"emotion": "fear .8", "seed": 1},
    )
    out = tmp_path / "out"
    assert batch(path, "--out", out) == 0
    said = capsys.readouterr()
    assert "1 asked for twice are made once" in said.err
    files = [Path(line) for line in said.out.splitlines()]
    assert len(files) == 5
    for file in files:
        assert read_metadata(file)["affect"]["request"]["params"]["steps"] == 2
    table = rows(out)
    assert [row["line"] for row in table] == ["1", "1", "1", "1", "2"]
    assert {row["status"] for row in table} == {"done"}
    assert table[0]["id"] == "'=1+1", "no spreadsheet runs it"
    assert table[4]["prompt"] == "'@home"
    assert all(0 <= float(row["critic"]) <= 1 for row in table)
    assert {str(out / row["path"]) for row in table} == {str(file) for file in files}
    page = (out / "batch.html").read_text(encoding="utf-8")
    assert page.count("<article") == 5

    before = {file: file.stat().st_mtime_ns for file in files}
    files[0].write_bytes(files[0].read_bytes() + b"x")  # somebody changed it
    files[1].unlink()
    assert batch(path, "--out", out, "--resume", "--json") == 0
    said = capsys.readouterr()
    assert "3 finished before" in said.err
    again = {json.loads(line)["path"] for line in said.out.splitlines()}
    assert again == {str(files[0]), str(files[1])}
    assert all(file.stat().st_mtime_ns == before[file] for file in files[2:])
    assert Counter(row["status"] for row in rows(out)) == {"done": 2, "skipped": 3}
    assert batch(path, "--out", out, "--resume", "--dry-run") == 0
    assert "5 finished before" in capsys.readouterr().err


def test_the_best_of_several_seeds_is_kept_once(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jobs(tmp_path, weights, {"emotion": ["joy .5", "fear .5"], "seed": [0, 3]})
    out = tmp_path / "out"
    assert batch(path, "--out", out, "--best-of", 3) == 0
    lines = [line for line in ledger.read(out) if line["status"] == "done"]
    assert len(lines) == 4
    assert all((line["chosen"]["of"], line["chosen"]["rank"]) == (3, 1) for line in lines)
    for name in ("happiness", "fear"):
        first, second = sorted(
            line["request"]["seed"] for line in lines if name in line["request"]["emotion"]
        )
        assert first in range(3)
        assert second in range(3, 6)
    kept = {(line["request"]["emotion"], line["request"]["seed"]) for line in lines}
    assert {(row["emotion"], int(row["seed"])) for row in rows(out)} == kept
    capsys.readouterr()
    assert batch(path, "--out", out, "--best-of", 3, "--resume") == 0
    said = capsys.readouterr()
    assert "4 finished before" in said.err
    assert said.out == ""
    assert batch(path, "--out", out, "--best-of", 2, "--resume", "--dry-run") == 0
    assert "finished before" not in capsys.readouterr().err, "of two is another job"
    assert batch(path, "--out", out, "--best-of", 4) == 2
    assert "seeds 0 and 3 would try the same" in capsys.readouterr().err


def test_a_mistake_starts_nothing(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = jobs(tmp_path, weights, {}, {"emotion": "feer 1"}, {"seed": -1})
    assert batch(path, "--out", tmp_path / "out") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "line 2" in said.err
    assert "line 3" in said.err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def made(tmp_path: Path, weights: Path) -> Iterator[tuple[Run, Any]]:
    """A batch of six pictures and one re-rendered photo, planned, and the painter it will use."""
    from PIL import Image

    Image.new("RGB", (32, 32), "teal").save(tmp_path / "photo.png")
    photo = {"inputs": {"init": "photo.png"}, "emotion": "awe .5"}
    path = jobs(tmp_path, weights, photo, {"emotion": "joy .5", "seed": "0..5"})
    out = ledger.prepare_out(tmp_path / "out")
    plan = read_plan(path, out, offline=True)
    row = __import__("pipelines").resolve(plan.jobs[0].request.backbone)
    painter = session.loaded(row, device=None, dtype=None, offline=True)
    yield Run(plan.jobs, Options(out, offline=True)), painter
    session._LAST.clear()


def refusing(most: int, error: type[Exception]) -> Any:
    """A forward pre-hook that fails when more than `most` pictures come at once."""

    def hook(module: Any, args: Any, kwargs: Any) -> None:
        sample = args[0] if args else kwargs["sample"]
        if len(sample) > 2 * most:  # guidance doubles the batch
            raise error("CUDA out of memory. Tried to allocate 20.00 GiB")

    return hook


def test_full_memory_halves_the_batch(made: tuple[Run, Any]) -> None:
    import torch

    job, painter = made
    hook = refusing(2, torch.OutOfMemoryError)
    handle = painter.pipe.unet.register_forward_pre_hook(hook, with_kwargs=True)
    job.make([], "local", None)
    handle.remove()
    assert job.counts == {"done": 7}
    assert counted(job.options.out) == {0: 2, **dict.fromkeys(range(1, 6), 1)}
    assert all(line["status"] == "done" for line in ledger.read(job.options.out))


def test_a_failing_job_is_recorded_and_the_rest_goes_on(made: tuple[Run, Any]) -> None:
    """Its photo is gone when its turn comes; then a whole batch fails and is made one by one."""
    job, painter = made
    job.jobs[0].request.inputs["init"].unlink()
    hook = refusing(1, RuntimeError)
    handle = painter.pipe.unet.register_forward_pre_hook(hook, with_kwargs=True)
    job.make([], "local", None)
    handle.remove()
    assert job.counts == {"done": 6, "failed": 1}
    assert "photo.png" in job.outcomes[0].error
    assert counted(job.options.out) == dict.fromkeys(range(6), 1)
    failed = [line for line in ledger.read(job.options.out) if line["status"] == "failed"]
    assert [line["key"] for line in failed].count(job.jobs[0].request.key) == 1
    job.report("", "jobs.jsonl")
    assert [row["status"] for row in rows(job.options.out)] == ["failed"] + ["done"] * 6


def test_a_summary_that_cannot_be_written_hides_nothing(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = jobs(tmp_path, weights, {"emotion": "joy .5", "seed": 1}), tmp_path / "out"
    (out / "summary.csv").mkdir(parents=True)
    assert batch(path, "--out", out) == 0
    said = capsys.readouterr().err
    assert "no summary: " in said
    assert "1 made of 1" in said


def test_a_full_disk_ends_the_batch(made: tuple[Run, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = made
    monkeypatch.setattr(ledger, "MIN_FREE", 2**62)
    with pytest.raises(ledger.TakeError, match="free some space"):
        job.make([], "local", None)
    assert job.counts == {}


def test_a_rate_is_kept(made: tuple[Run, Any]) -> None:
    job, _ = made
    start = time.monotonic()
    job.make([], "local", 2.0)
    assert job.counts == {"done": 7}
    assert time.monotonic() - start >= 5 / 2, "the seventh begins when six have had their time"


@pytest.mark.slow
def test_workers_pull_and_one_that_is_killed_is_replaced(tmp_path: Path, weights: Path) -> None:
    path = jobs(tmp_path, weights, {"emotion": "joy .5", "seed": "0..199"})
    out = tmp_path / "out"
    process = child(path, "--out", out, "--device", "cpu", "--workers", 2)
    assert process.stdout is not None
    assert process.stdout.readline(), process.communicate()[1]  # the first take: both work
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    workers = [int(line.split()[0]) for line in found if "spawn_main" in line]
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=170)
    assert process.returncode == 0, said
    assert "killed by signal 9" in said
    assert set(counted(out)) == set(range(200))


@pytest.mark.parametrize(
    "how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_what_was_finished_survives(how: signal.Signals, tmp_path: Path, weights: Path) -> None:
    path = jobs(tmp_path, weights, {"emotion": "joy .5", "seed": "0..23"})
    out = tmp_path / "out"
    process = child(path, "--out", out)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(random.random() / 4)  # noqa: S311 - any moment will do
    process.send_signal(how)
    process.communicate(timeout=60)
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    finished = counted(out)
    assert finished
    assert batch(path, "--out", out, "--resume") == 0
    assert counted(out) == dict.fromkeys(range(24), 1), "none missing, none made twice"
    assert not list(out.rglob(f"{ledger.TEMPORARY}*")), "and nothing half-written is left"


@pytest.mark.slow
def test_two_batches_in_one_folder_share_the_work(tmp_path: Path, weights: Path) -> None:
    path = jobs(tmp_path, weights, {"emotion": "joy .5", "seed": "0..79"})
    out = tmp_path / "out"
    both = [child(path, "--out", out) for _ in range(2)]
    said = [process.communicate(timeout=170) for process in both]
    assert [process.returncode for process in both].count(0) >= 1, said
    assert counted(out) == dict.fromkeys(range(80), 1), "no double work"


@pytest.mark.slow
def test_ray_makes_the_same(tmp_path: Path, weights: Path) -> None:
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: the cluster engine is not tested here")
    path = jobs(tmp_path, weights, {"emotion": "joy .5", "seed": "0..4"}, {"emotion": "awe .5"})
    out = tmp_path / "out"
    assert batch(path, "--out", out, "--engine", "ray") == 0
    assert counted(out) == {0: 2, **dict.fromkeys(range(1, 5), 1)}
    assert {row["status"] for row in rows(out)} == {"done"}
    assert not __import__("ray").is_initialized(), "what was started here is ended here"


def test_no_ray_is_one_line(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if find_spec("ray") is not None:
        pytest.skip("ray is installed")
    assert batch(jobs(tmp_path, weights, {}), "--out", tmp_path / "o", "--engine", "ray") == 2
    assert "affect-studio[ray]" in capsys.readouterr().err
