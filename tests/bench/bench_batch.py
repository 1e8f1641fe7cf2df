"""What batches hold: plan, throughput, kills. Run by hand, one thread each:

    OMP_NUM_THREADS=1 python tests/bench/bench_batch.py [plan] [throughput] [kills]

The contract: 10,000 lines are planned within 2 s and 100 MB; a batch of image-tiny makes at least
1.5 times the pictures that single calls make in the same time; a batch of 200 that is killed
(kill -9) at 40 random moments loses nothing that was finished, tears nothing and makes nothing
twice. Wall time means little on a busy machine, so the processor's own time is printed beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

ROOT = Path(__file__).resolve().parents[2]
KILLS, ITEMS = 40, 200
PICTURES, ROUNDS = 16, 3
QUIET = {"prompt": "a lake", "emotion": "joy .5"}
PLAN = """
import resource, sys, time
from pathlib import Path
from studio.batch_plan import read_plan
kb = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
base, wall, busy = kb(), time.perf_counter(), time.process_time()
plan = read_plan(Path(sys.argv[1]), Path(sys.argv[1]).parent / "out")
wall, busy = time.perf_counter() - wall, time.process_time() - busy
print(f"{len(plan.jobs)} jobs: {wall:.2f} s, processor {busy:.2f} s, {(kb() - base) / 1024:.0f} MB")
"""
TINY = "import sys; from tests.tiny import tiny_folder; tiny_folder('sd15', sys.argv[1])"


def main() -> None:
    """Print one line a figure."""
    wanted = sys.argv[1:] or ["plan", "throughput", "kills"]
    for name in wanted:
        with tempfile.TemporaryDirectory() as folder:
            {"plan": plan, "throughput": throughput, "kills": kills}[name](Path(folder))


def write(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """A manifest."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plan(folder: Path) -> None:
    """10,000 lines: of 60 emotions, each of its own point, and one sweep that makes as many."""
    names = ("fear", "joy", "awe", "sadness", "anger", "love")
    emotions = [f"{name} {level / 10}" for name in names for level in range(1, 11)]
    lines = [
        {"prompt": f"place {n}", "emotion": emotions[n % 60], "seed": n, "params": {"steps": 4}}
        for n in range(10_000)
    ]
    rng = random.Random(0)  # noqa: S311 - points
    axes = [[f"{axis}={rng.uniform(-1, 1):.3f}" for axis in "vad"] for _ in lines]
    points = [{**line, "emotion": " ".join(at)} for line, at in zip(lines, axes, strict=True)]
    sweep = {"prompt": "a lake", "emotion": emotions[:20], "seed": "0..499"}
    for name, told in (("lines", lines), ("points", points), ("sweep", [sweep])):
        path = write(folder / f"{name}.jsonl", told)
        code = [sys.executable, "-c", PLAN, str(path)]
        done = subprocess.run(code, cwd=ROOT, check=True, capture_output=True, text=True)
        print(f"plan {path.stem}: {done.stdout.strip()}", flush=True)


def throughput(folder: Path) -> None:
    """Pictures of image-tiny together, and one call each, in turns; the model is loaded."""
    from studio.batch_plan import read_plan
    from studio.batch_run import Finished, make_chunk
    from studio.run import Options

    names = ("fear", "joy", "awe", "sadness")
    lines = [
        {"prompt": f"a lake {n}", "emotion": f"{names[n % 4]} .5", "seed": n}
        for n in range(PICTURES)
    ]
    planned = read_plan(write(folder / "jobs.jsonl", lines), folder / "out", offline=True)
    jobs = [(number, job.request) for number, job in enumerate(planned.jobs)]
    list(make_chunk(jobs[:1], Options(folder / "warm")))
    gains: dict[str, list[float]] = {"wall": [], "processor": []}
    for turn in range(ROUNDS):
        spent = {}
        for name, chunks in (("single", [[job] for job in jobs]), ("batch", [jobs])):
            wall, busy = time.perf_counter(), time.process_time()
            for chunk in chunks:
                events = list(make_chunk(chunk, Options(folder / f"{name}{turn}")))
                assert sum(isinstance(event, Finished) for event in events) == len(chunk), events
            spent[name] = (time.perf_counter() - wall, time.process_time() - busy)
        for index, kind in enumerate(gains):
            gains[kind].append(spent["single"][index] / spent["batch"][index])
        print(
            f"{PICTURES} pictures: single {spent['single'][0]:.1f} s "
            f"(processor {spent['single'][1]:.1f}), batch {spent['batch'][0]:.1f} s "
            f"(processor {spent['batch'][1]:.1f})",
            flush=True,
        )
    for kind, found in gains.items():
        print(f"gain by {kind}: median {statistics.median(found):.2f} of {ROUNDS}")


def kills(folder: Path) -> None:
    """Kill a batch wherever it is, look at what it left, go on; forks save the import of torch."""
    import diffusers
    import peft  # noqa: F401 - imported once for all forks
    import torch
    import transformers  # noqa: F401

    del diffusers
    torch.set_num_threads(1)
    os.environ["AFFECT_CACHE"] = str(folder / "cache")
    subprocess.run([sys.executable, "-c", TINY, str(folder / "sd15")], cwd=ROOT, check=True)
    params = {"steps": 2, "width": 32, "height": 32, "directions": False}
    line = {**QUIET, "backbone": str(folder / "sd15"), "params": params, "seed": f"0..{ITEMS - 1}"}
    path = write(folder / "jobs.jsonl", [line])
    rng = random.Random(1)  # noqa: S311 - moments
    killed = batches = leftovers = 0
    while killed < KILLS:
        out = folder / f"out{batches}"
        batches += 1
        while True:
            spare = rng.randint(0, 2 * ITEMS // KILLS) if killed < KILLS else None
            code = forked(path, out, spare, rng.random() / 4)
            found = checked(out)
            leftovers += len(list(out.rglob(".tmp-*")))
            if code == -signal.SIGKILL:
                killed += 1
                print(f"kill {killed}: {len(found)} of {ITEMS} whole", flush=True)
                continue
            assert code == 0, code
            assert found == dict.fromkeys(range(ITEMS), 1), found
            assert not list(out.rglob(".tmp-*"))
            break
        print(f"batch of {ITEMS} whole after {killed} kills in all", flush=True)
    print(f"{killed} kills: nothing lost, torn or doubled; {leftovers} temporary files swept")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"processor {used.ru_utime + used.ru_stime:.0f} s")


def forked(path: Path, out: Path, spare: int | None, pause: float) -> int:
    """Run a batch in a fork and kill it `pause` s after `spare` more takes; its exit code."""
    before = takes(out)
    pid = os.fork()
    if pid == 0:
        from studio.cli import run

        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            code = run(["batch", str(path), "--out", str(out), "--resume", "--device", "cpu"])
        os._exit(code)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if spare is not None and takes(out) >= before + spare:
            time.sleep(pause)
            os.kill(pid, signal.SIGKILL)
            spare = None
        time.sleep(0.005)


def takes(out: Path) -> int:
    """Lines of the ledger."""
    path = out / "takes.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def checked(out: Path) -> Counter[int]:
    """How often each seed is done; every line and every file must be whole."""
    found: Counter[int] = Counter()
    path = out / "takes.jsonl"
    for text in path.read_bytes().splitlines() if path.exists() else ():
        line = json.loads(text)
        data = (out / line["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["sha256"], line["path"]
        found[line["request"]["seed"]] += 1
    return found


if __name__ == "__main__":
    main()
