"""Held-out figures of the image critics, their model cards and their folders.

Everything needed to distrust a number stands beside it: intervals, n, chance, the majority class,
what the labels are. Knows the rows and the heads, not how the models were trained.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torch import Tensor

from adapters import metrics
from adapters.assets import ASSETS
from adapters.critic import ImageCritic, ImageReader
from adapters.emotion import CORE
from pipelines.manifest import update
from training.labels import SETS, Row

Interval = tuple[float, float, float]
"""Value, low and high end of the 95 % interval."""


def probabilities(model: ImageCritic | ImageReader, heads: dict[str, Tensor]) -> np.ndarray:
    """Heads of n pictures -> temperature-scaled probabilities (n, 13), float64."""
    return metrics.softmax(heads["logits"].double().numpy(), float(model.temperature))


def _with_interval(figure: Callable[..., float], *columns: np.ndarray) -> Interval:
    low, high = metrics.bootstrap(figure, *columns, n=400)
    return float(figure(*columns)), low, high


def figures(p: np.ndarray, affect: np.ndarray, rows: list[Row], usual: np.ndarray) -> dict:
    """Figures of one set. p: (n, 13), affect: (n, 2), usual: mean training label (13,).

    Accuracy and F1 compare the strongest of the twelve emotions, neutral left out; ECE and JSD all
    thirteen. The majority baseline always answers with the strongest of `usual`.
    """
    soft = np.stack([r.soft for r in rows])
    want = np.array([[r.valence, r.arousal] for r in rows])
    top, said = soft[:, 1:].argmax(1), p[:, 1:].argmax(1)
    hits = int((top == said).sum())
    majority = int(usual[1:].argmax())
    flat = np.broadcast_to(usual, soft.shape)
    out: dict = {
        "n": len(rows),
        "accuracy": (hits / len(rows), *metrics.wilson(hits, len(rows))),
        "macro_f1": _with_interval(metrics.macro_f1, said, top),
        "majority_accuracy": float((top == majority).mean()),
        "majority_macro_f1": metrics.macro_f1(np.full(len(top), majority), top),
        "chance_accuracy": 1 / len(CORE),
        "ece": _with_interval(metrics.ece, p, soft),
        "ece_of_hard_label": metrics.ece(p, soft.argmax(1)),
        "jsd": _with_interval(lambda a, b: float(metrics.jsd(a, b).mean()), p, soft),
        "jsd_of_mean_label": float(metrics.jsd(flat, soft).mean()),
        "classes": len(set(top.tolist())),
    }
    for axis, name in enumerate(("valence", "arousal")):
        x, y = affect[:, axis], want[:, axis]
        out[f"{name}_ccc"] = _with_interval(metrics.ccc, x, y)
        out[f"{name}_pearson"] = _with_interval(metrics.pearson, x, y)
    return out


def agreement(pa: np.ndarray, pb: np.ndarray, va: np.ndarray, vb: np.ndarray) -> dict:
    """How far the two readers agree on the same pictures: a ceiling for what B can confirm."""
    each = {name: metrics.pearson(pa[:, k + 1], pb[:, k + 1]) for k, name in enumerate(CORE)}
    return {
        "n": len(pa),
        "same_top_emotion": float((pa[:, 1:].argmax(1) == pb[:, 1:].argmax(1)).mean()),
        "pearson_by_emotion": each,
        "valence_pearson": metrics.pearson(va[:, 0], vb[:, 0]),
        "arousal_pearson": metrics.pearson(va[:, 1], vb[:, 1]),
        "jsd": float(metrics.jsd(pa, pb).mean()),
    }


def by_set(rows: list[Row]) -> dict[str, list[int]]:
    """Indices of the reported slices: each set, its CC0 part, its scenes without people."""
    out = {name: [i for i, r in enumerate(rows) if r.set == name] for name in SETS}
    out["oasis, CC0 part"] = [i for i in out["oasis"] if rows[i].licence_ok_to_ship]
    out["paintings, scenes"] = [i for i in out["paintings"] if rows[i].painter_ok]
    return {name: out[name] for name in sorted(out) if out[name]}


def _cell(value: object) -> str:
    if isinstance(value, (tuple, list)):
        return f"{value[0]:.2f} [{value[1]:.2f}, {value[2]:.2f}]"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


SOURCE = (
    "trained from scratch on OASIS (CC0 part), BASS (CC BY 4.0), paintings in the public domain by "
    "age, TensorFlow flowers (CC BY 2.0), Noto (Apache-2.0, CC BY 4.0) and Fluent emoji (MIT)"
)
COLUMNS = {
    "n": "n",
    "accuracy": "top-1 of 12",
    "majority_accuracy": "majority",
    "macro_f1": "macro-F1",
    "majority_macro_f1": "majority",
    "valence_pearson": "r valence",
    "valence_ccc": "CCC valence",
    "arousal_pearson": "r arousal",
    "arousal_ccc": "CCC arousal",
    "ece": "ECE",
    "jsd": "JSD",
    "jsd_of_mean_label": "JSD of mean label",
}


def markdown(table: dict[str, dict]) -> str:
    """Slices -> a Markdown table."""
    lines = ["| held-out set | " + " | ".join(COLUMNS.values()) + " |"]
    lines.append("|" + " --- |" * (len(COLUMNS) + 1))
    for name, row in table.items():
        lines.append(f"| {name} | " + " | ".join(_cell(row[c]) for c in COLUMNS) + " |")
    return "\n".join(lines)


ABOUT = {
    "A": """# critic-image: critic A of Affect Studio

A small convolutional net (1.1 M parameters, trained from scratch, no pretrained encoder) that reads
which emotions a picture is expected to evoke. It may guide, rerank and calibrate, so it must not be
the one that reports: `reader-image` does that.""",
    "B": """# reader-image: reader B of Affect Studio

Reads which emotions a picture is expected to evoke from 365 handmade statistics (CIELAB moments and
histograms, hue, colourfulness, orientation histograms, local binary patterns, layout, spectrum) by
five small nets side by side. Trained on other pictures than `critic-image` and with other features.
It only reports: it never enters a loss or a ranking, and refuses to give a gradient.""",
}

CARD = """{about}

* Data (this reader's half only, {n_train} pictures; {counts}): OASIS photographs from Pixabay (CC0
  when collected; Kurdi, Lozano and Banaji 2017) and BASS silhouettes (CC BY 4.0; Kawai, Lukacs and
  Ansorge 2021) with human valence and arousal; paintings of WikiArt's Impressionist, Romantic,
  Symbolist, Baroque, Art Nouveau and Post-Impressionist periods (mostly public domain by age, not
  verified per work); TensorFlow flower photos (CC BY 2.0); Noto emoji (Apache-2.0), Fluent emoji
  (MIT) and Noto animated stickers (CC BY 4.0), first frames. OASIS pictures under other licences
  (Wikimedia, Flickr) were used to measure only.
* Labels: soft labels over neutral and twelve emotions from `training/labels.py`: an editorial prior
  by theme times the likelihood of the valence and arousal. Only OASIS and BASS carry ratings by
  people, and those are valence and arousal; **no picture has emotion votes**. On the other sets the
  figures say how well the reader recognises the theme, light and colour that we tied to an emotion.
* Recipe: `python -m training.critic --data DATA --out assets/models` ({recipe}, seed {seed}).
* Licence: Apache-2.0, with the attributions above.

## Held-out figures

95 % intervals (Wilson for accuracy, bootstrap over pictures otherwise). Chance top-1 is
{chance:.2f}. Majority answers the commonest training emotion. ECE counts an answer as right
by its share in the soft label. JSD in bits against the soft label. For both, lower is better.
Valence and arousal are on the scale of the Russell and Mehrabian means (an affine map of the
published ratings, in `assets/emotions/image_labels.json`).

{table}

OASIS held-out is mostly ({non_cc0} of {n_oasis}) its Wikimedia and Flickr part, which has other
themes (war, disasters, sport) than the part trained on: a test across a shift.

## Agreement of the two readers on the same {n_agree} held-out pictures

Same top emotion {same:.2f}; valence r {va:.2f}, arousal r {ar:.2f}; mean JSD {jsd:.2f} bits.
Pearson of the probabilities: {each}.

## Limits

* Valence and arousal of photographs by people are read weakly; content carries them, and a few
  hundred rated pictures do not teach content. Trust orderings within one prompt, not single values.
* Disgust is nearly absent from the paintings; surprise and amusement lean on few kinds of scene.
* Faces are not read: expression on a photographed face moves the reading little.
* Emoji of the held-out split resemble stickers of the training split (same artist).
* `in_domain` below .01 means: unlike the pictures above, abstain.
* A score says how this model reads a picture, not what a person feels. Do not score people.
"""


def card(kind: str, table: dict, agree: dict, rows: list[Row], train: list[Row], **recipe) -> str:
    """Model card of one reader as Markdown."""
    counts = Counter(r.set for r in train)
    oasis = [r for r in rows if r.set == "oasis"]
    each = ", ".join(f"{k} {v:.2f}" for k, v in agree["pearson_by_emotion"].items())
    passes = (
        f"{recipe['samples']:,} drawn pictures, AdamW 2e-3, batch 64, 64 px crops, CPU"
        f"{recipe['note']}"
        if kind == "A"
        else "40 passes, AdamW 1.5e-3, batch 256, CPU"
    )
    return CARD.format(
        about=ABOUT[kind], n_train=len(train), table=markdown(table), recipe=passes,
        counts=", ".join(f"{name} {counts[name]}" for name in SETS if counts[name]),
        seed=recipe["seed"], chance=1 / len(CORE), n_oasis=len(oasis),
        non_cc0=sum(not r.licence_ok_to_ship for r in oasis), n_agree=agree["n"],
        same=agree["same_top_emotion"], va=agree["valence_pearson"],
        ar=agree["arousal_pearson"], jsd=agree["jsd"], each=each,
    )  # fmt: skip


def publish(
    critic: ImageCritic,
    reader: ImageReader,
    out: Path,
    *,
    rows: list[Row],
    a: dict[str, Tensor],
    b: dict[str, Tensor],
    train: dict[str, list[Row]],
    samples: int,
    seed: int,
    note: str = "",
) -> dict[str, dict]:
    """Write out/critic-image and out/reader-image: config, weights, figures and card.

    rows: held-out rows; a, b: the readers' heads on them; note: what the recipe line
    should add about critic A. Returns the figures by reader.
    """
    p = {"A": probabilities(critic, a), "B": probabilities(reader, b)}
    affect = {"A": a["affect"].numpy(), "B": b["affect"].numpy()}
    agree = agreement(p["A"], p["B"], affect["A"], affect["B"])
    result = {}
    for kind, model in (("A", critic), ("B", reader)):
        usual = np.mean([r.soft for r in train[kind]], axis=0)
        table = {
            name: figures(p[kind][at], affect[kind][at], [rows[i] for i in at], usual)
            for name, at in by_set(rows).items()
        }
        folder = out / model.name
        model.save_pretrained(folder, safe_serialization=True)
        text = card(kind, table, agree, rows, train[kind], samples=samples, seed=seed, note=note)
        (folder / "README.md").write_text(text, encoding="utf-8")
        report = {"reader": model.name, "digest": model.digest, "held_out": table, "pair": agree}
        (folder / "figures.json").write_text(json.dumps(report, indent=1) + "\n")
        for path in folder.iterdir():
            path.chmod(0o644)
        result[kind] = report
        if out.resolve() == (ASSETS / "models").resolve():
            update(
                model.name,
                licence="Apache-2.0",
                source=SOURCE,
                recipe="python -m training.critic --data DATA --out assets/models",
                trained_on="cpu",
            )
    return result
