"""Checkpoints by step, a killed run that goes on, two processes that hold together."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator, debug_launcher
from accelerate.state import AcceleratorState
from torch import nn

from tests.test_training_batches import pictures
from tests.test_training_image_lora import SMALL, call_of, planned, tensors_of
from tests.tiny import tiny, tiny_folder
from training import cli
from training.checkpoints import CheckpointError, Checkpoints
from training.fit import draws
from training.folder import Dataset
from training.image_lora import prepare, train
from training.loop import Average, Log, stopping

Saved = tuple[Any, ...]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return pictures(tmp_path_factory.mktemp("pictures"))


def parts() -> Saved:
    module = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    averages = {"a": Average(module, 0.9)}
    return {"a": module}, averages, optimizer, torch.Generator().manual_seed(3)


# Checkpoints -------------------------------------------------------------------------------------


def test_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / ".checkpoint", keep=2)
    assert kept.find("latest") is None
    saved = parts()
    for step in (5, 10, 15, 20):
        kept.save(step, saved, {"facts": {"x": step}})
    assert kept.steps() == [15, 20]
    assert kept.find("latest") == kept.path(20)
    assert kept.find("15") == kept.path(15)
    assert kept.find(str(kept.path(15))) == kept.path(15)
    assert kept.meta(kept.path(15))["facts"] == {"x": 15}
    kept.clear()
    assert kept.steps() == []


def test_going_back_leaves_the_newer_ones_behind(tmp_path: Path) -> None:
    """Otherwise `latest` would be of the way that was left."""
    kept = Checkpoints(tmp_path, keep=3)
    saved = parts()
    for step in (10, 20, 30):
        kept.save(step, saved, {})
    kept.save(15, saved, {})
    assert kept.steps() == [10, 15]


@pytest.mark.parametrize("which", ["7", "/nowhere", "last"])
def test_a_checkpoint_that_is_not_there_is_one_line(which: str, tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / ".checkpoint")
    kept.save(5, parts(), {})
    with pytest.raises(CheckpointError, match="has steps 5: give latest") as told:
        kept.find(which)
    assert "\n" not in str(told.value)


def test_a_damaged_checkpoint_names_another(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, keep=2)
    saved = parts()
    kept.save(5, saved, {})
    kept.save(10, saved, {})
    (kept.path(10) / "a.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"cannot be read .*; pass --resume 5"):
        kept.load(kept.path(10), saved)
    assert kept.load(kept.path(5), saved) == 5


def test_a_run_killed_between_two_renames_has_the_one_before(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path)
    saved = parts()
    kept.save(5, saved, {"facts": 1})
    kept.path(5).rename(tmp_path / "step-000005.old")
    assert kept.steps() == [5]
    assert kept.meta(kept.path(5))["facts"] == 1
    assert kept.load(kept.path(5), saved) == 5


def test_averages_go_on_where_they_lie(tmp_path: Path) -> None:
    """Those of a model on another device were put on the CPU, and the next step failed."""
    kept, saved = Checkpoints(tmp_path), parts()
    kept.save(5, saved, {})
    average = saved[1]["a"]
    average.state = {name: value.to("meta") for name, value in average.state.items()}
    kept.load(kept.path(5), saved)
    assert {value.device.type for value in average.state.values()} == {"meta"}


class Packed(torch.optim.SGD):
    """Keeps state as 8-bit optimisers do: a plain count, a table that all share, hidden tensors."""

    def step(self, closure: Any = None) -> None:
        table = torch.ones(3)
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            state["step"] = state.get("step", 0) + 1
            state["hidden"] = {"codes": torch.arange(4, dtype=torch.uint8), "table": table}


def test_the_state_of_an_8_bit_optimiser_comes_back(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    first, second = (Packed(module.parameters(), lr=0.1) for _ in range(2))
    for _ in range(3):
        first.step()
    generator = torch.Generator()
    Checkpoints(tmp_path).save(5, ({"a": module}, {}, first, generator), {})
    Checkpoints(tmp_path).load(tmp_path / "step-000005", ({"a": module}, {}, second, generator))
    for parameter in module.parameters():
        state = second.state[parameter]
        assert state["step"] == 3
        assert isinstance(state["step"], int)
        assert state["hidden"]["codes"].tolist() == [0, 1, 2, 3]
        assert state["hidden"]["table"].tolist() == [1, 1, 1]


def test_a_step_of_a_million_is_not_taken_for_a_shorter_one(tmp_path: Path) -> None:
    kept, saved = Checkpoints(tmp_path, keep=1), parts()
    kept.save(1_000_000, saved, {})
    kept.save(100_000, saved, {})  # gone back to
    assert kept.steps() == [100_000]
    kept.save(1_000_000, saved, {})
    assert kept.steps() == [1_000_000]


def test_a_log_is_taken_back_to_a_step(tmp_path: Path) -> None:
    log = Log(tmp_path / "log.jsonl", 1, quiet=True)
    for step in range(1, 6):
        log.add(loss=1 / 3)
        log.report(step)
    with log.path.open("a") as file:
        file.write('{"step": 6, "lo')
    log.rewind(3)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["loss"] == 1 / 3


def test_a_launcher_that_passes_ctrl_c_on_does_not_end_a_run_at_once() -> None:
    with stopping(deaf=0.05) as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        time.sleep(0.06)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_batches_of_a_run_have_noise_of_their_own() -> None:
    one, again = draws(3, 7), draws(3, 7)
    assert torch.equal(torch.randn(4, generator=one), torch.randn(4, generator=again))
    others = {float(torch.randn(1, generator=draws(s, n))) for s in (3, 4) for n in range(20)}
    assert len(others) == 40


# Killed ------------------------------------------------------------------------------------------

STEPS, EVERY = 16, 3
LONG = {"steps": STEPS, "save_every": EVERY, "tracker": "none", "ema": 0.9, "sample_every": 0}


def trained(data: Dataset, out: Path) -> None:
    torch.set_num_threads(1)
    train(planned(tiny("sd15"), "sd15", data, out, **LONG), out, resume="latest")


def losses(out: Path) -> dict[int, float]:
    if not (out / "log.jsonl").is_file():
        return {}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {int(line["step"]): line["loss"] for line in lines if "loss" in line}


def test_a_run_that_is_killed_again_and_again_has_the_curve_of_one_that_was_not(
    data: Dataset, tmp_path: Path
) -> None:
    """SIGKILL at random moments; each time at most one interval is done again."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    trained(data, whole)
    processes, chance = multiprocessing.get_context("fork"), np.random.default_rng(0)
    kept, kills = Checkpoints(killed / ".checkpoint"), 0
    for _ in range(3):
        begun, before = len(losses(killed)), kept.steps()
        child = processes.Process(target=trained, args=(data, killed))
        child.start()
        until = begun - begun % EVERY + int(chance.integers(1, EVERY + 3))
        deadline = time.monotonic() + 30
        while child.is_alive() and time.monotonic() < deadline:
            if (killed / "log.jsonl").is_file():
                text = (killed / "log.jsonl").read_text()
                if text.count("\n") >= until:
                    break
            time.sleep(0.001)
        time.sleep(chance.random() * 0.05)
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
            kills += 1
        child.join()
        if (killed / "training.json").is_file():
            break
        reached = max(losses(killed), default=0)
        assert reached - max(kept.steps(), default=0) <= EVERY, "more than an interval is lost"
        assert max(kept.steps(), default=0) >= max(before, default=0)
    assert kills >= 2
    if not (killed / "training.json").is_file():
        trained(data, killed)
    one, two = losses(whole), losses(killed)
    assert one.keys() == two.keys()
    assert max(abs(one[step] - two[step]) for step in one) < 1e-5
    first, second = tensors_of(whole), tensors_of(killed)
    assert all(torch.allclose(first[key], second[key], atol=1e-5) for key in first)


# Two processes -----------------------------------------------------------------------------------


def one_of_two(data: Dataset, out: Path, knobs: dict[str, Any], stop_at: int) -> None:
    """A process of a run of two; the second one gets Ctrl-C at a step."""
    torch.set_num_threads(1)
    AcceleratorState._reset_state(reset_partial_state=True)  # what the forked parent knew
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    settings = SMALL.parse({**SMALL.to_json(), **knobs})
    plan = prepare(tiny("sd15"), data, settings, out=out, call=call_of("sd15"),
                   accelerator=accelerator)  # fmt: skip
    if stop_at and accelerator.process_index == 1:
        whole, count = plan.batches._batch, [0]

        def pressed(*given: Any) -> Any:
            count[0] += 1
            if count[0] == stop_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return whole(*given)

        plan.batches._batch = pressed  # type: ignore[method-assign]
    try:
        train(plan, out, resume="latest")
    except KeyboardInterrupt:
        assert stop_at


def test_two_processes_end_where_one_with_both_batches_does(data: Dataset, tmp_path: Path) -> None:
    """Also when one of them is stopped half way and both go on."""
    knobs = {"steps": 6, "ema": 0.9, "tracker": "none"}
    alone, pair = tmp_path / "alone", tmp_path / "pair"
    train(planned(tiny("sd15"), "sd15", data, alone, accumulate=2, **knobs), alone)
    debug_launcher(one_of_two, (data, pair, knobs, 4), 2)
    assert Checkpoints(pair / ".checkpoint").steps() == [2, 4]
    assert not (pair / "training.json").is_file()
    debug_launcher(one_of_two, (data, pair, knobs, 0), 2)
    assert sorted(losses(pair)) == sorted(losses(alone))
    assert losses(pair)[6] == pytest.approx(losses(alone)[6], abs=1e-5)
    one, two = tensors_of(alone), tensors_of(pair)
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-4, rtol=0)


def launched(arguments: list[str]) -> subprocess.Popen[str]:
    """Two processes under the real launcher, on the CPU, in a group of their own."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
               "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
               "--dynamo_backend", "no", "--main_process_port", "0",
               "-m", "training.cli", *arguments]  # fmt: skip
    given = {**os.environ, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo",
             "OMP_NUM_THREADS": "1"}  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=given, start_new_session=True)  # fmt: skip


@pytest.mark.slow
def test_the_real_launcher_trains_is_stopped_by_ctrl_c_and_goes_on(
    data: Dataset, tmp_path: Path
) -> None:
    painter, pair, alone = tiny_folder("sd15", tmp_path / "tiny"), tmp_path / "2", tmp_path / "1"
    common = ["lora", "--modality", "image", "--data", str(data.root), "--backbone", str(painter),
              "--steps", "40", "--batch", "2", "--rank", "2", "--resolution", "32", "--rate",
              "1e-3", "--save-every", "5", "--tracker", "none", "--device", "cpu"]  # fmt: skip
    child = launched([*common, "--out", str(pair)])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(losses(pair)) < 7:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does
    _, said = child.communicate(timeout=60)
    assert "pass --resume latest to go on" in said
    stopped = Checkpoints(pair / ".checkpoint").steps()
    assert stopped[-1] >= 7
    _, said = (child := launched([*common, "--out", str(pair), "--resume", "latest"])).communicate(
        timeout=120
    )
    assert child.returncode == 0, said
    assert f"resumed at step {stopped[-1]}" in said
    assert cli.main([*common, "--out", str(alone), "--accumulate", "2"]) == 0
    one, two = tensors_of(alone), tensors_of(pair)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-4, rtol=0)
