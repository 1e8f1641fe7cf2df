"""The emotion suite's report as Markdown: what a person reads, and in which order.

First what was evaluated and what the words mean, then all emotions together beside their controls
and goals, each emotion, where it leaks, what becomes of the subject, and the subjects that suggest
something else. The guiding critic stands beside the reader and is marked: it may have chosen or
calibrated, so its figures are shown for the gap alone. It computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapters.emotion import CORE

GUIDED = "guided, does not report"
# Pass marks of the project's design (measures of a dial), on the independent reader.
GOALS = {
    "spearman_within": (0.9, "at least"),
    "intensity_error": (0.08, "at most"),
    "leakage": (0.35, "at most"),
}
FEW = 6
"""Subjects under which a bootstrap over them is told to be too narrow."""
DIVERSITY_GOAL = 0.8
CONTENT_GOAL = 0.95  # of what neutral pictures are found again by
MEASURES = {
    "accuracy": "top emotion is the one asked, dial at 1",
    "accuracy_at_0": "... dial at 0",
    "accuracy_word": "... the emotion as a word, nothing of ours on",
    "accuracy_opposite": "... the opposite asked",
    "moved_most": "of twelve, the asked one rose most from 0 to 1",
    "moved_most_word": "... the emotion as a word",
    "ec_a": "emotion and content right (EC-A), dial at 1",
    "ec_a_at_0": "... dial at 0",
    "ec_a_word": "... the emotion as a word",
    "spearman": "Spearman, all pictures",
    "spearman_within": "Spearman within a prompt and seed",
    "tau_b_within": "Kendall's tau-b within a prompt and seed",
    "rise": "intensity read, from 0 to 1",
    "rise_word": "... the emotion as a word",
    "rise_opposite": "... the opposite asked",
    "over_opposite": "read when asked, less when the opposite is",
    "intensity_error": "intensity error, median emotion",
    "leakage": "leakage, median emotion",
}


def markdown(report: Mapping[str, Any]) -> str:
    """The whole report as text."""
    about = report["about"]
    levels = ", ".join(f"{level:g}" for level in (0, *about["levels"]))
    lines = [
        f"# {about['backbone']}: does the emotion dial do what it says?",
        "",
        f"{about['pictures']} pictures: {len(about['emotions'])} emotions at {levels} on "
        f"{len(about['prompts'])} subjects with {about['seeds']} seeds, and their controls. "
        f"Weights `{about['weights']}`, {'' if about['calibrated'] else 'not '}calibrated, "
        f"params {about['params'] or 'as everybody has them'}, {about['date']}; "
        f"{about['seconds_per_picture']:.2f} s a picture.",
        "",
        "A score says how a reader reads a picture, not what anyone feels. Intervals are 95 %, by",
        "bootstrap over subjects. Intensities are 0..1 on the readers' own scales.",
        *_few(len(about["prompts"])),
        "",
        "* Intensity error: mean distance of the read level from the asked one, on a scale whose",
        "  ends are the stored calibration's for the critic that made it, else this run's own dial",
        "  at 0 and 1.",
        "* Leakage: what rises in other emotions, as a multiple of what rises in the one asked.",
        "* Content: of all subjects of the run, a picture is nearest to what its own looks like in",
        "  neutral pictures of other seeds, by handmade statistics; what an emotion does to all",
        "  subjects alike is taken out first. Nothing here recognises things.",
        "",
    ]
    lines += _together(report)
    lines += _each(report)
    lines += _leaks(report)
    lines += _content(report)
    lines += _traps(report)
    return "\n".join(lines).rstrip() + "\n"


def _few(subjects: int) -> list[str]:
    """A warning where subjects are so few that intervals over them come out too narrow."""
    if subjects >= FEW:
        return []
    what = f"{subjects} subject{'s' if subjects > 1 else ''}"
    return ["", f"**{what} are too few for intervals: those below are too narrow. Give {FEW} or "
            "more.**"]  # fmt: skip


def _together(report: Mapping[str, Any]) -> list[str]:
    about, reader, critic = report["about"], report["reader"], report["critic"]
    chance = report["chance"]
    by_chance = {key: f"{chance['accuracy']:.2f}" for key in MEASURES if "accuracy" in key}
    by_chance |= {key: f"{chance['accuracy']:.2f}" for key in MEASURES if "moved" in key}
    both = chance["accuracy"] * chance["content"]
    by_chance |= {key: f"{both:.2f}" for key in MEASURES if "ec_a" in key}
    by_chance |= dict.fromkeys(("spearman", "spearman_within", "tau_b_within"), "0")
    shuffled = {"accuracy": "accuracy", "spearman": "spearman"}
    lines = [
        "## All emotions",
        "",
        f"| | {about['reader'].split()[0]}, independent | {about['critic'].split()[0]}, {GUIDED} "
        "| chance | shuffled reader | goal |",
        "|---|---|---|---|---|---|",
    ]
    for key, name in MEASURES.items():
        shown = shuffled.get(key)
        lines.append(
            f"| {name} | {said(reader['all'][key])} | {said(critic['all'][key])} "
            f"| {by_chance.get(key, '-')} "
            f"| {said(reader['shuffled'][shown]) if shown else '-'} | {_goal(key, reader)} |"
        )
    return [*lines, ""]


def _goal(key: str, reader: Mapping[str, Any]) -> str:
    if key not in GOALS:
        return "-"
    mark, side = GOALS[key]
    value = reader["all"][key][0]
    met = value is not None and (value >= mark if side == "at least" else value <= mark)
    return f"{side} {mark:g}: {'met' if met else 'not met'}"


def _each(report: Mapping[str, Any]) -> list[str]:
    columns = {
        "accuracy": "accuracy",
        "accuracy_at_0": "at 0",
        "accuracy_word": "as a word",
        "accuracy_opposite": "opposite",
        "ec_a": "EC-A",
        "spearman": "Spearman",
        "tau_b_within": "tau-b within",
        "over_opposite": "over opposite",
        "intensity_error": "error",
        "leakage": "leakage",
    }
    rows = report["reader"]["emotions"]
    guided = report["critic"]["emotions"]
    lines = [
        "## Each emotion, by the independent reader",
        "",
        f"| emotion | {' | '.join(columns.values())} | Spearman, critic ({GUIDED}) |",
        f"|---|{'---|' * (len(columns) + 1)}",
    ]
    for name, row in rows.items():
        cells = [said(row[key]) for key in columns]
        lines.append(f"| {name} | {' | '.join(cells)} | {said(guided[name]['spearman'])} |")
    return [*lines, ""]


def _leaks(report: Mapping[str, Any]) -> list[str]:
    matrix = report["reader"]["leakage_matrix"]
    lines = [
        "## Where it leaks, by the independent reader",
        "",
        "What rises (columns) when the dial of a row goes from 0 to 1; in bold what was asked.",
        "",
        f"| asked | {' | '.join(CORE)} |",
        f"|---|{'---|' * len(CORE)}",
    ]
    for name, row in matrix.items():
        cells = [
            f"**{value:+.2f}**" if other == name else f"{value:+.2f}"
            for other, value in zip(CORE, row, strict=True)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    largest = sum(max(zip(row, CORE, strict=True))[1] == name for name, row in matrix.items())
    return [*lines, "", f"Largest where asked: {largest} of {len(matrix)}.", ""]


def _content(report: Mapping[str, Any]) -> list[str]:
    found = report["content"]
    again = found["neutral found again"]
    lines = [
        "## What becomes of the subject",
        "",
        f"Neutral pictures are found again among {report['n']['prompts']} subjects in "
        f"{said(again)} (chance {report['chance']['content']:.2f}): no picture can score more. "
        "Likeness: 1 as the neutral picture of the same seed, 0 as another subject's. Diversity: "
        "how far seeds lie apart, as a share of the same without emotion.",
        "",
        "| dial | content right | look left in | likeness | diversity |",
        "|---|---|---|---|---|",
    ]
    rows = [*found["levels"].items(), ("as a word", found["word"])]
    for level, row in rows:
        lines.append(f"| {level} | {_content_cells(row)} |")
    last = found["levels"][max(found["levels"], key=float)]
    kept = (last["right"][0] or 0.0) >= CONTENT_GOAL * (again[0] or 1.0)
    varied = last.get("diversity", [None])[0]
    diverse = "not measured with one seed"
    if varied is not None:
        diverse = "met" if varied >= DIVERSITY_GOAL else "not met"
    lines += [
        "",
        f"Goals at 1: content within {1 - CONTENT_GOAL:.0%} of neutral pictures: "
        f"{'met' if kept else 'not met'}; diversity at least {DIVERSITY_GOAL:g}: {diverse}.",
        "",
        "| emotion at 1 | content right | likeness | diversity |",
        "|---|---|---|---|",
    ]
    for name, row in found["emotions"].items():
        cells = [said(row["right"]), said(row["similarity"]), said(row["diversity"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _content_cells(row: Mapping[str, Any]) -> str:
    keys = ("right", "right_raw", "similarity", "diversity")
    return " | ".join(said(row.get(key)) for key in keys)


def _traps(report: Mapping[str, Any]) -> list[str]:
    found = report["traps"]
    if not found:
        return []
    lines = [
        "## Subjects that suggest something else",
        "",
        f"{found['n']} subjects such as a garden asked for fear: is the emotion there, and the "
        f"subject still? Stock motifs added to prompts: {found['shortcuts added']}. Chance: "
        f"emotion {found['chance']['accuracy']:.2f}, content {found['chance']['content']:.2f}.",
        "",
        "| | emotion right | both right | intensity, rise from 0 | content right |",
        "|---|---|---|---|---|",
    ]
    for arm, name in (("neutral", "dial at 0"), ("dial", "dial at 1"), ("word", "as a word")):
        row = found[arm]["reader"]
        cells = [said(row[key]) for key in ("accuracy", "ec_a", "rise")]
        lines.append(f"| {name} | {' | '.join(cells)} | {said(found[arm]['content'])} |")
    guided = found["dial"]["critic"]
    lines.append(
        f"| dial at 1, critic ({GUIDED}) | {said(guided['accuracy'])} | {said(guided['ec_a'])} "
        f"| {said(guided['rise'])} | |"
    )
    return [*lines, ""]


def said(figure: Sequence[float | None] | None) -> str:
    """A value with its interval, or a dash."""
    if figure is None or figure[0] is None:
        return "-"
    if figure[1] is None or figure[2] is None:
        return f"{figure[0]:.2f}"
    return f"{figure[0]:.2f} [{figure[1]:.2f}, {figure[2]:.2f}]"
