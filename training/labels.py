"""Soft emotion labels for the picture sets: what each picture is expected to evoke.

No picture set with open licence carries votes over our twelve emotions. What exists are human
valence and arousal means (OASIS, Kurdi, Lozano and Banaji 2017; BASS silhouettes, Kawai, Lukacs and
Ansorge 2021), theme names, and emotion names given by hand to drawn faces. This file joins them:

    p(k, i | picture) ~ prior_k(theme, light words) * N((v, a); i * M_k, sigma^2),  i in {.2 .. 1}

with M the Russell and Mehrabian means (`adapters.emotion.VAD`) and the editorial prior table
`assets/emotions/image_labels.json`. The soft label is the expected intensity of each emotion, so it
has the shape of `Emotion.soft_label()`: index 0 is neutral, then `CORE`, sum 1. The mixture over
scaled anchors follows B-AffectNet (arXiv 2602.06778).

Deliberately does not know: pixels, models, how a label becomes a caption. Splits are fixed by a
hash of the path, so they never move when rows are added. Dominance is not rated in any set.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from adapters.assets import ASSETS
from adapters.emotion import CORE, VAD

LABELS = ("neutral", *CORE)
SETS = ("oasis", "bass", "paintings", "flowers", "emoji", "stickers")
SPLITS = ("train_A", "train_B", "test")
FOLDERS = {
    "oasis": "oasis",
    "bass": "bass_silhouettes",
    "paintings": "paintings",
    "flowers": "tf_flowers",
    "emoji": "emoji_faces",
    "stickers": "noto_animated_stickers",
}
# Share of each set that is held out. Small sets give more so that their test split says something.
HELD_OUT = {
    "oasis": 0.10,
    "bass": 0.20,
    "paintings": 0.10,
    "flowers": 0.10,
    "emoji": 0.20,
    "stickers": 0.20,
}
LEVELS = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
TABLE = ASSETS / "emotions" / "image_labels.json"


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled picture.

    soft: (13,) float64, sums to 1, index 0 neutral then CORE: expected intensity of each emotion.
    valence, arousal: on the scale of the Russell and Mehrabian means (see `ratings` in the table).
    human: valence and arousal are means of human raters. Otherwise hand-given or from a probe.
    licence_ok_to_ship: weights trained on the picture may be published with this project.
    painter_ok: fit for training the painter (no portraits, no people, no drawings).
    """

    path: Path
    set: str
    split: str
    caption: str
    soft: np.ndarray
    valence: float
    arousal: float
    human: bool
    licence_ok_to_ship: bool
    theme: str = ""
    painter_ok: bool = False

    @property
    def intensity(self) -> float:
        """Sum over the twelve emotions, 0..1."""
        return float(1.0 - self.soft[0])

    @property
    def top(self) -> str:
        """The strongest emotion; never "neutral"."""
        return CORE[int(np.argmax(self.soft[1:]))]


@dataclass(slots=True)
class _Draft:
    """A row before its label: prior over 13, ratings and how far they can be trusted."""

    key: str
    path: Path
    caption: str
    theme: str
    prior: np.ndarray
    valence: float
    arousal: float
    sigma: tuple[float, float]
    human: bool = False
    ok: bool = True
    painter: bool = False
    force_test: bool = False


@cache
def table() -> dict:
    """The editorial table, read once.

    Raises ValueError when it names an emotion outside CORE and neutral.
    """
    data = json.loads(TABLE.read_text(encoding="utf-8"))
    for part in ("oasis", "paintings", "flowers", "silhouettes", "drawn", "light"):
        for name, weights in data[part].items():
            unknown = set(weights) - set(LABELS)
            if unknown:
                msg = f"image_labels.json: {part} / {name} names {sorted(unknown)}; use {LABELS}"
                raise ValueError(msg)
    return data


def prior(weights: Mapping[str, float]) -> np.ndarray:
    """Weights by name -> (13,), normalised, with a floor of .01 so that ratings can overrule."""
    out = np.array([float(weights.get(name, 0.0)) for name in LABELS])
    out = out / max(out.sum(), 1e-9) + 0.01
    return out / out.sum()


def light(p: np.ndarray, caption: str, phrase: str) -> np.ndarray:
    """Multiply a prior (13,) by what the measured colour and light words of a caption suggest.

    `phrase` (the scene) is cut from the caption first: "a dark stormy landscape" is content.
    """
    words = caption.replace(phrase, " ")
    factors = table()["light"]
    dark = "very dark" if "very dark" in words else "dark"
    out = p.copy()
    for name, multipliers in factors.items():
        if (name in ("dark", "very dark")) and name != dark:
            continue
        if re.search(rf"\b{re.escape(name)}\b", words):
            out *= np.array([float(multipliers.get(k, 1.0)) for k in LABELS])
    return out / out.sum()


def soft_label(
    p: np.ndarray, valence: float, arousal: float, sigma: tuple[float, float]
) -> np.ndarray:
    """Prior (13,) and ratings in [-1,1] -> soft label (13,): expected intensities, neutral first.

    `sharpen` in the table is the exponent on the posterior: theme lists are broad by habit, and a
    label spread over five emotions teaches nothing.
    """
    anchors = VAD[:, :2]
    points = LEVELS[:, None, None] * anchors[None]  # (levels, 12, 2)
    width = np.array(sigma, dtype=float)
    miss = (((points - np.array([valence, arousal])) / width) ** 2).sum(-1) / 2
    post = p[None, 1:] / len(LEVELS) * np.exp(-miss)
    none = p[0] * np.exp(-((np.array([valence, arousal]) / width) ** 2).sum() / 2)
    power = float(table()["sharpen"])
    post, none = post**power, none**power
    # A level grid of five hypotheses each must not lose to neutral because the power shrinks 1/5.
    post = post * len(LEVELS) ** (power - 1)
    total = post.sum() + none
    a = (LEVELS[:, None] * post / total).sum(0)
    return np.concatenate([[1.0 - a.sum()], a])


def split_of(set_name: str, key: str) -> str:
    """Split of a picture from the hash of its set and key alone: "train_A", "train_B" or "test".

    Pictures that belong together (the two drawings of one emoji) share a key.
    """
    digest = hashlib.sha256(f"{set_name}/{key}".encode()).digest()
    u = int.from_bytes(digest[:6], "big") / 2**48
    held = HELD_OUT[set_name]
    if u < held:
        return "test"
    return "train_A" if (u - held) / (1 - held) < 0.5 else "train_B"


def ranks(values: np.ndarray, groups: Iterable[str]) -> np.ndarray:
    """Rank of each value inside its group, mapped to -1..1 (0 for a group of one)."""
    groups = np.array(list(groups))
    out = np.zeros(len(values))
    for group in np.unique(groups):
        at = np.flatnonzero(groups == group)
        if len(at) > 1:
            order = np.argsort(np.argsort(values[at], kind="stable"), kind="stable")
            out[at] = 2.0 * order / (len(at) - 1) - 1.0
    return out


def _rated(name: str, valence: float, arousal: float) -> tuple[float, float]:
    maps = table()["ratings"][name]
    pair = [
        (x + maps[axis][0]) * maps[axis][1]
        for x, axis in ((valence, "valence"), (arousal, "arousal"))
    ]
    return float(np.clip(pair[0], -1, 1)), float(np.clip(pair[1], -1, 1))


def _pseudo(rows: list[dict[str, str]], priors: list[np.ndarray]) -> list[tuple[float, float]]:
    """Valence and arousal for unrated pictures.

    The content says where the group sits (prior mean of the anchors at .7 of full intensity); a
    photo-trained probe, which is shifted on paintings, only ranks pictures inside their label.
    """
    spread = float(table()["ratings"]["pseudo_spread"])
    kinds = [r["label"] for r in rows]
    ranked = np.stack(
        [
            ranks(np.array([float(r[f"pseudo_{axis}"]) for r in rows]), kinds)
            for axis in ("valence", "arousal")
        ],
        axis=1,
    )
    base = np.stack([0.7 * p[1:] @ VAD[:, :2] for p in priors])
    both = np.clip(base + spread * ranked, -1, 1)
    return [(float(v), float(a)) for v, a in both]


def _oasis(folder: Path, rows: list[dict[str, str]]) -> list[_Draft]:
    out = []
    for r in rows:
        theme = re.sub(r"\s*\d+$", "", r["theme"])
        v, a = _rated("oasis", float(r["valence"]), float(r["arousal"]))
        p = prior(table()["oasis"].get(theme, table()["default"]))
        cc0 = r["licence"].startswith("Pixabay")
        paint = cc0 and r["category"] != "Person"
        out.append(
            _Draft(
                r["path"], folder / r["path"], r["caption"], theme, p, v, a,
                table()["sigma"]["human"], human=True, ok=cc0, painter=paint, force_test=not cc0,
            )
        )  # fmt: skip
    return out


def _bass(folder: Path, rows: list[dict[str, str]]) -> list[_Draft]:
    out = []
    for r in rows:
        v, a = _rated("bass", float(r["valence"]), float(r["arousal"]))
        p = prior(table()["silhouettes"].get(r["theme"], table()["default"]))
        out.append(
            _Draft(
                r["path"], folder / r["path"], r["caption"], r["theme"], p, v, a,
                table()["sigma"]["human"], human=True,
            )
        )  # fmt: skip
    return out


def _paintings(folder: Path, rows: list[dict[str, str]]) -> list[_Draft]:
    phrases = [r["caption_short"].split("painting of ", 1)[-1] for r in rows]
    priors = [
        light(prior(table()["paintings"].get(ph, table()["default"])), r["caption"], ph)
        for ph, r in zip(phrases, rows, strict=True)
    ]
    return [
        _Draft(
            r["path"], folder / r["path"], r["caption"], ph, p, v, a,
            table()["sigma"]["pseudo"], painter=r["label"] not in ("portrait", "people"),
        )
        for r, ph, p, (v, a) in zip(rows, phrases, priors, _pseudo(rows, priors), strict=True)
    ]  # fmt: skip


def _flowers(folder: Path, rows: list[dict[str, str]]) -> list[_Draft]:
    priors = [
        light(prior(table()["flowers"][r["label"]]), r["caption"], r["caption_short"]) for r in rows
    ]
    return [
        _Draft(
            r["path"], folder / r["path"], r["caption"], r["label"], p, v, a,
            table()["sigma"]["pseudo"], painter=True,
        )
        for r, p, (v, a) in zip(rows, priors, _pseudo(rows, priors), strict=True)
    ]  # fmt: skip


def _drawn(folder: Path, rows: list[dict[str, str]]) -> list[_Draft]:
    out = []
    for r in rows:
        v, a = _rated("drawn", float(r["valence"]), float(r["arousal"]))
        out.append(
            _Draft(
                r["name"], folder / r["path"], r["caption"], r["emotion"],
                prior(table()["drawn"].get(r["emotion"], table()["default"])), v, a,
                table()["sigma"]["drawn"],
            )
        )  # fmt: skip
    return out


_READERS: dict[str, Callable[[Path, list[dict[str, str]]], list[_Draft]]] = {
    "oasis": _oasis,
    "bass": _bass,
    "paintings": _paintings,
    "flowers": _flowers,
    "emoji": _drawn,
    "stickers": _drawn,
}


def load_rows(data: Path | str, sets: Iterable[str] = SETS) -> list[Row]:
    """All labelled pictures of the named sets under `data` (one folder per set, with labels.csv).

    Rows come in the order of the files. OASIS pictures that are not CC0 are only ever in "test".
    Raises ValueError for an unknown set, a folder without labels.csv, or a missing column.
    """
    out: list[Row] = []
    for name in sets:
        if name not in FOLDERS:
            msg = f"sets: {name!r} is not a picture set; use any of {', '.join(SETS)}"
            raise ValueError(msg)
        folder = Path(data) / FOLDERS[name]
        source = folder / "labels.csv"
        if not source.is_file():
            msg = f"data: {source} is missing; give the folder that holds {FOLDERS[name]}/"
            raise ValueError(msg)
        with source.open(encoding="utf-8", newline="") as f:
            raw = list(csv.DictReader(f))
        try:
            drafts = _READERS[name](folder, raw)
        except KeyError as error:
            msg = f"data: {source} has no usable column or class {error}; see training/labels.py"
            raise ValueError(msg) from error
        for d in drafts:
            soft = soft_label(d.prior, d.valence, d.arousal, d.sigma)
            soft.setflags(write=False)
            out.append(
                Row(
                    path=d.path, set=name,
                    split="test" if d.force_test else split_of(name, d.key),
                    caption=d.caption, soft=soft, valence=d.valence, arousal=d.arousal,
                    human=d.human, licence_ok_to_ship=d.ok, theme=d.theme, painter_ok=d.painter,
                )
            )  # fmt: skip
    return out
