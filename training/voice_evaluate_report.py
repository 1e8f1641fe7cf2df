"""Figures of an evaluation of converted voices, and the page that shows them.

Takes what `training.voice_evaluate` noted of every take, plain numbers. Intervals are bootstrapped
over the recordings that were converted, since takes of one recording are not independent. It
deliberately knows no sound, no model and no reader.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from adapters.emotion import CORE
from adapters.metrics import spearman
from adapters.voice_expected import expected
from adapters.voice_reading import CLASSES

Row = Mapping[str, Any]
Figure = tuple[float, float, float]

DRAWS = 1000
HELD: Mapping[str, float] = {
    "pitch_mean": 0.3,
    "pitch_sd": 0.15,
    "rate": 0.1,
    "alpha_ratio": 0.5,
    "level": 0.5,
    "level_sd": 0.5,
    "breath": 0.5,
}
"""Cues that conversions are held to, and how much of one an emotion must ask for at intensity 1:
semitones, syllables a second, dB. The rate is told by the time a take lasts: a count of syllables
is a whole number that hardly moves in two seconds."""
MAIN = ("pitch_mean", "pitch_sd", "rate", "alpha_ratio", "level")
"""The cues of the protocol: pitch, its range, rate, tilt, level."""
ACTED = CLASSES[1:]
JUDGES = ("reader", "reader_alone", "critic", "critic_alone")


def grouped(values: Sequence[float], clips: Sequence[str], seed: int = 0) -> Figure:
    """Mean and its 95 % interval with whole recordings resampled."""
    x, names = np.asarray(values, dtype=float), np.asarray(clips)
    keep = np.isfinite(x)
    x, names = x[keep], names[keep]
    if not len(x):
        return (float("nan"),) * 3
    _, which = np.unique(names, return_inverse=True)
    total, count = np.bincount(which, weights=x), np.bincount(which)
    at = np.random.default_rng(seed).integers(0, len(count), (DRAWS, len(count)))
    means = total[at].sum(axis=1) / count[at].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(x.mean()), float(low), float(high)


def of(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


# Cues --------------------------------------------------------------------------------------------


def asked_signs(emotion: str) -> dict[str, float]:
    """Cue -> -1 or 1, for what an emotion clearly asks of a voice."""
    unit = np.zeros(len(CORE))
    unit[CORE.index(emotion)] = 1.0
    sizes = expected(unit)
    sizes["rate"] = sizes.get("syllable_rate", 0.0)
    return {
        cue: float(np.sign(sizes[cue]))
        for cue, least in HELD.items()
        if abs(sizes.get(cue, 0.0)) >= least
    }


def cue_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Spearman of intensity with each cue of the rendered sound, signed by what is expected."""
    by_cue: dict[str, list[tuple[float, str]]] = {}
    by_emotion: dict[str, list[tuple[float, str]]] = {}
    ends: dict[str, list[tuple[float, str]]] = {}
    zero = {row["clip"]: row for row in of(rows, way="model", level=0.0)}
    for name in ACTED:
        signs = asked_signs(name)
        for clip, start in zero.items():
            steps = [start, *of(rows, way="model", emotion=name, clip=clip, seed=0)]
            levels = [step["level"] for step in steps]
            for cue, sign in signs.items():
                values = [cue_of(step, cue) for step in steps]
                if not np.isfinite(values).all():
                    continue
                rho = (spearman(levels, values) * sign, clip)
                by_cue.setdefault(cue, []).append(rho)
                if cue in MAIN:
                    by_emotion.setdefault(name, []).append(rho)
                moved = float((values[-1] - values[0]) * sign > 0)
                ends.setdefault(cue, []).append((moved, clip))
    everything = [one for cue in MAIN for one in by_cue.get(cue, [])]
    return {
        "all": _grouped(everything),
        "cues": {cue: _grouped(found) for cue, found in by_cue.items()},
        "emotions": {name: _grouped(found) for name, found in by_emotion.items()},
        "right at the end": {cue: _grouped(found) for cue, found in ends.items()},
        "n": len(everything),
        "clips": len(zero),
    }


def cue_of(row: Row, cue: str) -> float:
    """A cue of a noted take; nan where it could not be told."""
    if cue == "rate":
        return -float(np.log(row["seconds"]))
    value = row["cues"][cue]
    return float("nan") if value is None else float(value)


def real_signs(rows: Sequence[Row]) -> dict[str, Figure]:
    """Cue -> share of real acted takes that differ from neutral ones as expected."""
    calm: dict[str, list[Row]] = {}
    for row in of(rows, emotion="neutral"):
        calm.setdefault(row["person"], []).append(row)
    found: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        if row["emotion"] == "neutral":
            continue
        for cue, sign in asked_signs(row["emotion"]).items():
            if cue == "level":  # recording levels were adjusted
                continue
            if cue == "rate":  # other sentences last otherwise
                continue
            base = [cue_of(one, cue) for one in calm[row["person"]]]
            right = (cue_of(row, cue) - np.mean(base)) * sign > 0
            found.setdefault(cue, []).append((float(right), row["clip"]))
    return {cue: _grouped(values) for cue, values in found.items()}


def _grouped(pairs: Sequence[tuple[float, str]]) -> Figure:
    return grouped([value for value, _ in pairs], [clip for _, clip in pairs])


# Emotions ----------------------------------------------------------------------------------------


def recognised(rows: Sequence[Row], judge: str) -> dict[str, Any]:
    """Share of takes read as what was asked: mean over emotions, each one, confusions."""
    asked = [row for row in rows if row["emotion"] != "neutral"]
    said = [CLASSES[int(np.argmax(row[judge]))] for row in asked]
    right = [float(s == row["emotion"]) for s, row in zip(said, asked, strict=True)]
    names = [row["emotion"] for row in asked]
    counts = {name: names.count(name) for name in ACTED if name in names}
    # Every emotion counts the same, however many takes real people recorded of it.
    even = [r * len(names) / (len(counts) * counts[n]) for r, n in zip(right, names, strict=True)]
    clips = [row["clip"] for row in asked]
    confusion = np.zeros((len(ACTED), len(CLASSES)), dtype=int)
    for name, word in zip(names, said, strict=True):
        confusion[ACTED.index(name), CLASSES.index(word)] += 1
    return {
        "all": grouped(even, clips),
        "emotions": {
            name: grouped(
                [r for r, n in zip(right, names, strict=True) if n == name],
                [c for c, n in zip(clips, names, strict=True) if n == name],
            )
            for name in counts
        },
        "confusion": confusion.tolist(),
        "n": len(asked),
        "clips": len(set(clips)),
    }


def best_of_two(rows: Sequence[Row]) -> list[Row]:
    """Of seeds 0 and 1 the take that the critic prefers."""
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row["seed"] < 2:
            pairs.setdefault((row["clip"], row["emotion"]), []).append(row)
    return [
        max(some, key=lambda row: row["scores"][CORE.index(row["emotion"])])
        for some in pairs.values()
    ]


def false_alarms(rows: Sequence[Row], judge: str) -> Figure:
    """Control: conversions to another emotion that are read as a given one, mean over emotions."""
    values, clips = [], []
    for row in rows:
        said = CLASSES[int(np.argmax(row[judge]))]
        wrong = said not in ("neutral", row["emotion"])
        values.append(float(wrong) / (len(ACTED) - 1))
        clips.append(row["clip"])
    return grouped(values, clips)


# Sound -------------------------------------------------------------------------------------------


def sound_figures(rows: Sequence[Row]) -> dict[str, Any]:
    """Level, harmonics to noise, clipping, clicks, person and words of conversions."""
    clips = [row["clip"] for row in rows]

    def mean(figure: Callable[[Row], float]) -> Figure:
        return grouped([figure(row) for row in rows], clips)

    return {
        "n": len(rows),
        "drift": mean(lambda row: abs(row["level_db"] - row["asked_db"])),
        "most_drift": max(abs(row["level_db"] - row["asked_db"]) for row in rows),
        "level": mean(lambda row: row["level_db"]),
        "asked_level": mean(lambda row: row["asked_db"]),
        "hnr": mean(lambda row: row["cues"]["hnr"] - row["before"]["hnr"]),
        "over_full_scale": sum(row["peak"] > 1.0 for row in rows),
        "clicks": mean(lambda row: row["clicks"]),
        "clicks_before": mean(lambda row: row["clicks_before"]),
        "similarity": mean(lambda row: row["similarity"]),
        "similarity_others": mean(lambda row: row["similarity_others"]),
        "content": mean(lambda row: row["content"]),
    }


def summary(stages: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of all stages."""
    steps = stages["ladder"]
    full = of(steps, way="model", level=1.0)
    acted = [row for row in stages["real"] if row["emotion"] != "neutral"]
    calm = of(stages["real"], emotion="neutral")
    still = of(steps, level=0.0)
    ways = {
        "conversions, intensity 1": full,
        "of two the critic's choice": best_of_two(full),
        "mean change alone": of(stages["variants"], way="mean"),
        "from full scale": stages["full"],
        "real acted takes": acted,
    }
    levels = sorted({row["level"] for row in steps if row["level"] > 0})
    found: dict[str, Any] = {
        "cues": cue_figures(steps),
        "real_signs": real_signs(stages["real"]),
        "recognised": {
            name: {judge: recognised(rows, judge) for judge in JUDGES}
            for name, rows in ways.items()
        },
        "levels": {
            str(level): {j: recognised(of(steps, level=level), j)["all"] for j in JUDGES}
            for level in levels
        },
        "read intensity": {
            str(level): {
                j: _grouped(
                    [
                        (row[f"{j}_intensities"][CORE.index(row["emotion"])], row["clip"])
                        for row in of(steps, level=level)
                    ]
                )
                for j in ("reader", "critic")
            }
            for level in levels
        },
        "neutral": {
            name: {j: grouped([float(np.argmax(r[j]) == 0) for r in rows], _clips(rows))
                   for j in JUDGES}
            for name, rows in (("intensity 0", still), ("real neutral takes", calm))
        },
        "false_alarms": {j: false_alarms(full, j) for j in JUDGES},
        "gap": recognised(full, "critic")["all"][0] - recognised(full, "reader")["all"][0],
        "sound": sound_figures(full),
        "locked": sound_figures(of(stages["variants"], way="locked")),
        "full_scale": sound_figures(stages["full"]),
        "exact": sum(row["similarity"] > 1 - 1e-9 and row["level_db"] == 0 for row in still),
        "still": len(still),
        "person": {
            "real, other mood": grouped([r["similarity_others"] for r in acted], _clips(acted)),
            "real, both neutral": grouped([r["similarity_others"] for r in calm], _clips(calm)),
            "two people": _plain(stages["people"]),
        },
        "words": {name: _plain(values) for name, values in stages["words"].items()},
        "pesq": None if stages["pesq"] is None
        else {name: _plain(values) for name, values in stages["pesq"].items()},
        "unseen": _unseen(stages["unseen"]),
        "speed": stages["speed"],
    }  # fmt: skip
    return found


def _unseen(rows: Sequence[Row]) -> dict[str, Any]:
    found = {}
    for person in sorted({row["person"] for row in rows}):
        mine = of(rows, person=person)
        asked = [row for row in mine if row["emotion"] != "neutral"]
        still = of(mine, emotion="neutral")
        found[person] = {
            **{j: recognised(asked, j)["all"] for j in ("reader", "critic")},
            "emotions": {
                name: value[0] for name, value in recognised(asked, "reader")["emotions"].items()
            },
            "neutral": grouped([float(np.argmax(r["reader"]) == 0) for r in still], _clips(still)),
            "similarity_others": grouped([r["similarity_others"] for r in asked], _clips(asked)),
            "similarity_still": grouped([r["similarity_others"] for r in still], _clips(still)),
            "n": len(asked),
        }
    return found


def _clips(rows: Sequence[Row]) -> list[str]:
    return [row["clip"] for row in rows]


def _plain(values: Sequence[float]) -> Figure:
    return grouped(values, [str(i) for i in range(len(values))])


# Page --------------------------------------------------------------------------------------------


def _f(figure: Sequence[float], digits: int = 2) -> str:
    mean, low, high = (f"{x:.{digits}f}" for x in figure)
    return f"{mean} ({low}..{high})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def markdown(found: Mapping[str, Any]) -> str:
    """The page."""
    ways, cues = found["recognised"], found["cues"]
    main = ways["conversions, intensity 1"]["reader"]
    recognised_table = table(
        ["", "reader, against", "reader, alone", "critic, against", "takes"],
        [
            [name, *(_f(row[j]["all"]) for j in ("reader", "reader_alone", "critic")),
             str(row["reader"]["n"])]
            for name, row in ways.items()
        ],
    )  # fmt: skip
    names = list(main["emotions"])
    each = table(
        ["reader, against", *names],
        [[name, *(_f(row["reader"]["emotions"][n]) for n in names)] for name, row in ways.items()],
    )
    levels = table(
        ["intensity", *found["levels"]],
        [["read as asked, reader", *(_f(row["reader"]) for row in found["levels"].values())],
         ["read as asked, critic", *(_f(row["critic"]) for row in found["levels"].values())],
         ["intensity read, reader",
          *(_f(row["reader"]) for row in found["read intensity"].values())]],
    )  # fmt: skip
    confusion = table(
        ["asked \\ read", *CLASSES],
        [[name, *map(str, counts)] for name, counts in zip(ACTED, main["confusion"], strict=True)],
    )
    cue_table = table(
        ["cue", "Spearman", "right at intensity 1", "real takes"],
        [
            [cue, _f(value), _f(cues["right at the end"][cue]),
             _f(found["real_signs"][cue]) if cue in found["real_signs"] else "-"]
            for cue, value in cues["cues"].items()
        ],
    )  # fmt: skip
    sound, locked, loud = found["sound"], found["locked"], found["full_scale"]
    person = found["person"]
    pesq = found["pesq"]
    heard = "not measured" if pesq is None else "; ".join(f"{k} {_f(v)}" for k, v in pesq.items())
    unseen = table(
        ["", "reader", "critic", "intensity 0 is neutral", "same person", "untouched", "takes"],
        [
            [name, _f(row["reader"]), _f(row["critic"]), _f(row["neutral"]),
             _f(row["similarity_others"]), _f(row["similarity_still"]), str(row["n"])]
            for name, row in found["unseen"].items()
        ],
    )  # fmt: skip
    speed = table(
        ["processor seconds a second", *next(iter(found["speed"].values()))],
        [[name, *(f"{x:.3f}" for x in row.values())] for name, row in found["speed"].items()],
    )
    return f"""## How it is read

{cues["clips"]} neutral takes of the two people that nothing was trained on, EmoDB's 12 and 16, with
12 dB of headroom, made into {main["n"]} takes at intensity 1 (six emotions, two seeds). Nobody
listened: the reader had no part in any choice, the critic stands beside it. "Against": with the
person's other neutral takes; chance .14. Intervals: 95 %, over recordings.

{recognised_table}

{each}

Asked (rows) and read by the reader (columns), conversions at intensity 1:

{confusion}

{levels}

The critic's column is {found["gap"]:+.2f} beside the reader's. Conversions that ask for another
emotion are read as a given one in {_f(found["false_alarms"]["reader"])} of cases; intensity 0 is
read as neutral in {_f(found["neutral"]["intensity 0"]["reader"])}, real neutral takes in
{_f(found["neutral"]["real neutral takes"]["reader"])}.

## What is heard

Spearman of intensity (0 to 1 in six steps) with each expected cue of the rendered sound, signed:
{_f(cues["all"])} over {cues["n"]} courses of pitch, range, rate, tilt and level;
{", ".join(f"{n} {_f(v)}" for n, v in cues["emotions"].items())}.

{cue_table}

* Level: locked, it moves by {_f(locked["drift"])} dB (at most {locked["most_drift"]:.1f});
  else it is off what was asked by {_f(sound["drift"])} dB. From full scale, where there is no room,
  by {_f(loud["drift"])} dB.
* Harmonics to noise {_f(sound["hnr"])} dB beside the source. Takes over full scale:
  {sound["over_full_scale"]} of {sound["n"]}. Clicks a second {_f(sound["clicks"])}, in the sources
  {_f(sound["clicks_before"])}.
* PESQ against the source: {heard}. Intensity 0 is the source bit by bit ({found["exact"]} of
  {found["still"]}).
* The person: cosine with other neutral takes {_f(sound["similarity_others"])}; of real takes in
  another mood {_f(person["real, other mood"])}, of neutral ones
  {_f(person["real, both neutral"])}, of two people {_f(person["two people"])}.
* The words: distance to the source {_f(sound["content"])}; between real takes of one sentence
  {_f(found["words"]["repeated"])}, of different sentences {_f(found["words"]["unrelated"])}.

Voices of other languages and rooms, reading neutrally (VCTK's p226, LJSpeech):

{unseen}

{speed}
"""
