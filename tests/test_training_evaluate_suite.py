"""The emotion suite: figures of planted worlds, real tiny painters, resuming, and the command."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from adapters.content import opposite
from adapters.directions import DirectionBank
from adapters.emotion import CORE
from adapters.features import COUNT
from pipelines import Step
from pipelines.media import read_metadata
from pipelines.painter import Painter
from studio.cli import run
from studio.evaluate import sliders_of
from tests.contracts import EXTRA, critic, few_pairs, random_sliders, reader
from tests.tiny import tiny, tiny_folder
from training.evaluate_prompts import SuiteError, from_file, incongruent, said, scenes
from training.evaluate_suite import ROWS, Plan, asked, evaluate, plan_of
from training.evaluate_suite_report import figures
from training.evaluate_suite_text import markdown

EMOTIONS = ("fear", "love")
SCENES = tuple(f"subject {letter}" for letter in "abcdef")
TRAPS = incongruent("image-tiny", EMOTIONS)
LEVELS = (0.5, 1.0)
SMALL = {"width": 32, "height": 32, "steps": 1}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AFFECT_CACHE", str(tmp_path / "cache"))


# Planted worlds ----------------------------------------------------------------------------------


def world(*, gain=1.0, leak=0.0, keep=1.0, look=0.0, word=0.0, noise=0.01, seed=0):
    """Rows of a painter whose answers are known.

    gain: what full dial does to the asked reading. leak: what it does to awe. keep: share of the
    subject that is left at full dial. look: what an emotion does to every subject alike. word: what
    the emotion as a word does to the reading.
    """
    rng = np.random.default_rng(seed)
    plan = Plan(EMOTIONS, SCENES, TRAPS, LEVELS, 2)
    names = [*SCENES, *(trap.prompt for trap in TRAPS)]
    subjects = {name: rng.normal(0, 1, COUNT) for name in names}
    looks = {name: rng.normal(0, 1, COUNT) for name in CORE}
    rows = []
    for one in asked(plan, "image-tiny"):
        at = one.level if one.arm == "dial" else 0.0
        reads = rng.normal(0.3, noise, len(CORE))
        if one.emotion is not None:
            reads[CORE.index(one.emotion)] += gain * at + word * (one.arm == "word")
            reads[CORE.index("awe")] += leak * at
        shape = subjects[one.prompt] * (1 - (1 - keep) * at) + rng.normal(0, 0.3, COUNT)
        if one.emotion is not None:
            shape = shape + look * at * looks[one.emotion]
        p = np.exp(4 * reads)
        reading = {"p": [0.0, *(p / p.sum())], "a": list(reads)}
        row = {**asdict(one), "seen": one.text, "seconds": 1.0, "statistics": list(shape)}
        rows.append({**row, "reader": reading, "critic": reading})
    return rows


def measured(rows, draws=200, **more):
    return figures(
        rows, emotions=EMOTIONS, levels=LEVELS, scenes=SCENES,
        traps=[asdict(trap) for trap in TRAPS],
        opposites={name: opposite(name) for name in EMOTIONS}, draws=draws, **more,
    )  # fmt: skip


def test_a_dial_that_works_is_measured_as_planted():
    found = measured(world(gain=0.6, leak=0.15))
    whole = found["reader"]["all"]
    assert whole["accuracy"] == whole["moved_most"] == whole["ec_a"] == [1.0, 1.0, 1.0]
    assert whole["spearman_within"][0] == 1.0
    assert whole["spearman"][0] > 0.9
    assert whole["rise"][0] == pytest.approx(0.6, abs=0.02)
    assert whole["leakage"][0] == pytest.approx(0.25, abs=0.08)
    assert whole["intensity_error"][0] < 0.02
    assert found["reader"]["leakage_matrix"]["fear"][CORE.index("awe")] == pytest.approx(0.15, abs=0.02)  # fmt: skip  # noqa: E501
    assert whole["rise_opposite"][0] == pytest.approx(0, abs=0.02)
    low, high = found["reader"]["shuffled"]["spearman"][1:]
    assert low < 0 < high < whole["spearman"][1]
    assert found["reader"]["shuffled"]["accuracy"][2] < whole["accuracy"][0]
    assert found["content"]["neutral found again"][0] == 1.0
    assert found["content"]["levels"]["1"]["similarity"][0] > 0.5


def test_a_dial_that_does_nothing_scores_nothing():
    found = measured(world(gain=0.0, word=0.5))
    whole = found["reader"]["all"]
    assert whole["accuracy"][0] < 0.4  # 1 / 12 and the noise of 12 pictures
    low, high = found["reader"]["shuffled"]["spearman"][1:]
    assert 2 * low < whole["spearman"][0] < 2 * high
    assert whole["accuracy_word"] == [1.0, 1.0, 1.0]
    assert abs(whole["rise"][0]) < 0.02
    assert found["traps"]["dial"]["reader"]["rise"][0] < 0.05
    assert found["traps"]["word"]["reader"]["accuracy"][0] == 1.0


def test_content_is_told_apart_from_look():
    tinted = measured(world(look=3.0))
    assert tinted["traps"]["dial"]["content"][0] == 1.0
    kept = tinted["content"]["levels"]["1"]
    assert kept["right"][0] == 1.0  # every subject is tinted alike, and still itself
    lost = measured(world(keep=0.0, look=3.0))
    gone = lost["content"]["levels"]["1"]
    assert gone["right"][0] < 0.5
    assert gone["similarity"][0] < kept["similarity"][0]
    half = lost["content"]["levels"]["0.5"]["right"][0]
    assert gone["right"][0] < half
    whole = lost["reader"]["all"]
    assert whole["accuracy"][0] == 1.0  # the emotion is there,
    assert whole["ec_a"][0] < 0.5  # on something else


def test_intervals_are_over_prompts():
    rows = world(gain=0.6)
    for row in rows:  # half of the subjects do not answer, in all of their pictures
        if row["prompt"] in SCENES[:3] and row["arm"] == "dial":
            reads = np.full(len(CORE), 0.3)
            reads[0] = 0.4
            row["reader"] = {"p": [0.0, *(reads / reads.sum())], "a": list(reads)}
    low, high = measured(rows)["reader"]["all"]["accuracy"][1:]
    assert low <= 0.17
    assert high >= 0.83


def test_one_seed_has_no_diversity_and_says_so():
    rows = [row for row in world() if row["seed"] != 20_001]
    found = measured(rows)
    assert "diversity" not in found["content"]["levels"]["1"]
    about = {
        "pictures": 1, "emotions": EMOTIONS, "levels": LEVELS, "prompts": SCENES, "seeds": 1,
        "backbone": "x", "weights": "w", "calibrated": False, "params": {}, "date": "d",
        "seconds_per_picture": 1.0, "reader": "reader-image 1", "critic": "critic-image 2",
    }  # fmt: skip
    text = markdown({"about": about, **found})
    assert "not measured with one seed" in text
    assert "guided, does not report" in text
    few = markdown({"about": {**about, "prompts": SCENES[:2]}, **found})
    assert "**2 subjects are too few for intervals" in few
    assert "too few for intervals" not in markdown(
        {"about": {**about, "prompts": "abcdef"}, **found}
    )


# Prompts -----------------------------------------------------------------------------------------


def test_small_painters_are_asked_in_their_own_words():
    from adapters.content import painter_words

    texts = [*scenes("image-tiny", 16)]
    for trap in incongruent("image-tiny", CORE):
        texts += [trap.prompt, trap.said]
    strange = {word for text in texts for word in text.replace(",", "").split()} - painter_words()
    assert not strange
    assert said("the sea", "sadness", "image-tiny") == "the sea, very sad"
    assert said("the sea", "sadness", "rich").startswith("the sea, ")


def test_every_emotion_has_a_trap_in_both_vocabularies():
    for vocabulary in ("rich", "image-tiny"):
        found = incongruent(vocabulary, CORE)
        assert {trap.emotion for trap in found} == set(CORE)
        assert all(trap.shortcut and trap.said != trap.prompt for trap in found)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Plan(("fear",), ("a", "b"), levels=(0.5,)), "the last 1"),
        (lambda: Plan(("fear",), ("a", "b"), levels=(1.0, 0.5)), "rising"),
        (lambda: Plan(("fear",), ("a", "b"), levels=(float("nan"), 1.0)), "rising"),
        (lambda: Plan(("fera",), ("a", "b")), "received fera"),
        (lambda: scenes("rich", 1), "allowed 2 to"),
    ],
)
def test_plans_out_of_range_are_one_line(make, says):
    with pytest.raises(SuiteError, match=says) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_prompts_from_a_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("# mine\n a cat \n\na dog\na cat\n")
    assert from_file(path) == ("a cat", "a dog")
    path.write_text("a cat\n")
    with pytest.raises(SuiteError, match="has 1"):
        from_file(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="UTF-8"):
        from_file(path)


# Real painters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["sdxl", "flux"])
def test_any_family_is_evaluated(tmp_path, family):
    painter = Painter(tiny(family), "tiny", call=EXTRA[family], cache=tmp_path / "cache")
    options = {k: v for k, v in painter.call.items() if k == "max_sequence_length"}
    painter.directions = DirectionBank.fit(painter.pipe, few_pairs(), **options)
    plan = plan_of(painter, ("sadness",), prompts=2, levels=(0.5, 1.0), seeds=1, params=SMALL)
    *_, report = evaluate(painter, plan, tmp_path / "out", critic=critic(), reader=reader())
    assert report["about"]["pictures"] == len(report["rows"]) == len(asked(plan, "rich"))
    assert report["reader"]["all"]["spearman_within"][0] is not None
    moved = {row["key"]: row["statistics"] for row in report["rows"] if row["arm"] == "dial"}
    assert len({json.dumps(x) for x in moved.values()}) == len(moved)  # the dial acts here
    assert "sadness" in markdown(report)


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    made = Painter(tiny("sd15"), "tiny", call=EXTRA["sd15"], cache=tmp_path_factory.mktemp("cache"))
    made.directions = DirectionBank.fit(made.pipe, few_pairs())
    return made


def test_a_stopped_run_goes_on_at_the_next_picture(painter, tmp_path):
    out = tmp_path / "out"
    plan = Plan(("fear",), scenes("rich", 2), (), (0.5, 1.0), 1, SMALL)
    options = {"critic": critic(), "reader": reader(), "batch_size": 5}
    total = len(asked(plan, painter.words))

    running = evaluate(painter, plan, out, **options)
    for event in running:
        assert isinstance(event, Step)
        if (out / ROWS).is_file():
            break
    running.close()
    kept = len((out / ROWS).read_text().splitlines())
    assert 0 < kept < total
    with (out / ROWS).open("ab") as file:  # killed while it wrote
        file.write(b'{"key": "cut')

    with pytest.raises(SuiteError, match="--resume"):
        next(evaluate(painter, plan, out, **options))
    *steps, report = evaluate(painter, plan, out, resume=True, **options)
    assert steps[-1].total == total - kept
    assert len(report["rows"]) == total

    *steps, again = evaluate(painter, plan, out, resume=True, **options)
    assert not steps
    *_, uninterrupted = evaluate(painter, plan, tmp_path / "whole", **options)
    for name in ("reader", "critic", "content", "traps"):
        assert again[name] == report[name]
    ours, theirs = (
        [row["reader"]["a"] for row in sorted(x["rows"], key=lambda row: row["key"])]
        for x in (again, uninterrupted)
    )
    np.testing.assert_allclose(ours, theirs, atol=0.02)  # batches of other sizes


def test_pictures_of_other_readers_are_not_used(painter, tmp_path):
    out = tmp_path / "out"
    plan = Plan(("fear",), scenes("rich", 2), (), (0.5, 1.0), 1, SMALL)
    *_, first = evaluate(painter, plan, out, critic=critic(), reader=reader())
    other = reader().__class__(width=8, members=2).eval()
    *steps, second = evaluate(painter, plan, out, critic=critic(), reader=other, resume=True)
    assert steps[-1].total == len(second["rows"])
    assert not {row["key"] for row in first["rows"]} & {row["key"] for row in second["rows"]}


def test_the_command_writes_a_report_with_sheets(tmp_path, capsys):
    folder, out = tiny_folder("sd15", tmp_path / "weights"), tmp_path / "out"
    words = [
        "evaluate", "--backbone", str(folder), "--emotions", "fear", "--levels", "0.5,1",
        "--seeds", "1", "--prompts", "2", "--out", str(out), "--device", "cpu", "--offline",
        "--width", "32", "--height", "32", "--steps", "1", "--no-directions", "--content", "0.6",
    ]  # fmt: skip
    assert run(words) == 0
    paths = capsys.readouterr().out.split()
    assert [path.rpartition("/")[2] for path in paths] == [
        "REPORT.md", "report.json", "levels.png", "subjects.png", "traps.png",
    ]  # fmt: skip
    assert "does the emotion dial do what it says" in (out / "REPORT.md").read_text()
    report = json.loads((out / "report.json").read_text())
    assert report["about"]["emotions"] == ["fear"]
    for path in paths[2:]:
        assert Image.open(path).width > 200
        assert "trainedAlgorithmicMedia" in json.dumps(read_metadata(path))
    assert run(words) == 2
    assert "--resume" in capsys.readouterr().err
    assert run([*words, "--resume", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["reader"] == report["reader"]


def test_sliders_of_a_folder_decide_what_is_asked(tmp_path, capsys):
    folder = random_sliders(tiny("sd15"), tmp_path / "sliders", ("sadness", "awe"))
    assert sliders_of(str(folder), list(CORE), asked="all") == ["awe", "sadness"]
    out = tmp_path / "out"
    words = ["--emotions", "sadness,fear", "--sliders", str(folder), "--out", str(out)]
    assert run(["evaluate", *words]) == 2
    assert "no slider for fear; it has awe, sadness" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--suite", "faces"], "suite: allowed emotions"),
        (["--levels", "half"], "levels: numbers"),
        (["--levels", "0.5"], "levels: two or more"),
        (["--backbone", "music-tiny"], "backbone: music-tiny"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--reader", "critic-image"], "guiding critic itself"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, words, says):
    assert run(["evaluate", "--out", str(tmp_path / "out"), *words]) == 2
    told = capsys.readouterr().err.strip()
    assert says in told
    assert "\n" not in told
    assert not (tmp_path / "out").exists()
