"""Recipe and report of the critics of music: critic-music and reader-music.

    python -m training.music_critic --data DATA --out assets/models

Both are fitted without labelled music (`training.music_reader`): published figures, cues of the
literature, and music that may be shipped. The labelled sets only measure. The report compares them
with judges that did learn from EMOPIA (`training.music_judges`, written to --judges, never to
assets) and with a rule of five cues, on EMOPIA by song and on VGMIDI, which nothing was trained on.
Intervals are bootstrapped over songs: clips of one song are not independent.

Rendering takes most of the time (1.5 s a clip); what was measured or trained is kept under --work.
"""

from __future__ import annotations

import argparse
import csv
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np

from adapters.audio_features import Hearing, functionals, hear
from adapters.files import replacing
from adapters.music_attributes import FEATURES, features
from adapters.music_critic import QUADRANTS
from adapters.piece import Piece
from pipelines.media_midi import load_midi
from pipelines.piano import render
from training import music_reader as fit
from training.music_critic_report import Clips, markdown, publish, report

Rows = np.ndarray

SETS = {"EMOPIA 1.0": "emopia", "VGMIDI": "vgmidi"}
SECONDS = 24.0  # of each clip that are rendered and heard
BARS = 16  # of each stretch of free music: as long as the clips


# Data --------------------------------------------------------------------------------------------


def unpacked(data: Path, name: str, work: Path) -> Path:
    """The folder of an archive of `data`, unpacked once under work/raw/name."""
    folder = work / "raw" / name
    if not folder.is_dir():
        with tarfile.open(data / f"{name}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return folder


def labelled(data: Path, work: Path) -> dict[str, Clips]:
    """EMOPIA and VGMIDI by the name of their set."""
    with (data / "labels.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    out = {}
    for title, name in SETS.items():
        rows = [row for row in table if row["dataset"] == title]
        folder = unpacked(data, name, work)
        pairs = [(row["valence_mean"] or "nan", row["arousal_mean"] or "nan") for row in rows]
        out[name] = Clips(
            names=[row["path"].replace("/", "_") for row in rows],
            quadrants=np.array([QUADRANTS.index(row["quadrant"]) for row in rows]),
            songs=[row["group"] for row in rows],
            ratings=np.array(pairs, dtype=float),
            pieces=[load_midi(folder / row["path"]) for row in rows],
        )
    return out


def pop909(data: Path, work: Path) -> Iterator[tuple[str, Piece]]:
    """Two stretches of `BARS` bars of each song: after the introduction and later."""
    for path in sorted(unpacked(data, "pop909", work).rglob("*.mid")):
        song = load_midi(path)
        for first in (8, 32):
            if song.bars >= first + BARS and len(part := song.between(first, first + BARS)) >= 40:
                yield f"{path.stem}-{first}", part


def scores(each: int = 8) -> Iterator[tuple[str, Piece]]:
    """Some scores of music21 by each composer; their velocities are no playing."""
    from music21 import corpus

    from training.music_data import COMPOSERS, score_piece

    for composer in COMPOSERS:
        paths = sorted(corpus.getComposer(composer), key=str)
        for path in paths[:: max(1, len(paths) // each)][:each]:
            try:
                piece = score_piece(path)
            except Exception as error:  # a few files of the corpus do not parse
                print(f"{path}: {type(error).__name__}")
                continue
            if piece is not None and piece.bars >= BARS:
                yield f"{composer}/{Path(str(path)).stem}", piece.between(0, BARS)


def corpus_features(data: Path, work: Path) -> Rows:
    """(m, len(FEATURES)) of POP909 and scores; kept in work/corpus.npz."""
    path = work / "corpus.npz"
    if not path.is_file():
        played = np.array([features(piece) for _, piece in pop909(data, work)])
        written = np.array([features(piece) for _, piece in scores()])
        silent = [j for j, name in enumerate(FEATURES) if name.startswith("velocity")]
        written[:, silent] = np.nan
        with replacing(path) as fresh:
            np.savez(fresh, x=np.concatenate([played, written]))
    return np.asarray(np.load(path)["x"])


def heard(name: str, piece: Piece, work: Path) -> Hearing:
    """What is heard of the middle of a rendered piece; kept in work/hear."""
    path = work / "hear" / f"{name}.npz"
    if not path.is_file():
        count = min(piece.bars, max(1, round(SECONDS * piece.bars / piece.seconds)))
        first = (piece.bars - count) // 2
        found = hear(render(piece.between(first, first + count)))
        with replacing(path) as fresh:
            np.savez(fresh, **{f.name: getattr(found, f.name) for f in fields(Hearing)})
    kept = np.load(path)
    rows = {f.name: kept[f.name].astype(np.float64) for f in fields(Hearing)}
    return Hearing(**rows | {"seconds": float(rows["seconds"])})


def widened(data: Path, work: Path) -> Rows:
    """(m, len(HEARD)) of every third song of POP909, as loud and as fast as played piano may be.

    POP909 is one style at one level. Velocities of a song move onto EMOPIA's published mean and
    spread, and tempo by a factor whose spread makes up what onset density lacks of EMOPIA's.
    """
    anchors = fit.load_anchors()["emopia"]
    goal = anchors["velocity_mean"]
    rng = np.random.default_rng(909)
    rows = []
    for path in sorted(unpacked(data, "pop909", work).rglob("*.mid"))[::3]:
        factor, name = float(np.exp(rng.normal(0, 0.3))), f"pw_{path.stem}"
        song = load_midi(path)
        mean = song.velocity.mean()
        # 82.65 and 10.2: mean and spread of the mean velocities of POP909's songs.
        shift = goal["mean"] + (mean - 82.65) * goal["sd"] / 10.2 - mean
        loud = np.clip(np.rint(song.velocity + shift), 10, 127).astype(np.int16)
        tempo = song.tempo * [1.0, factor]
        rows.append(functionals(heard(name, replace(song, velocity=loud, tempo=tempo), work)))
    return np.array(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit, write and report."""
    parser = argparse.ArgumentParser(description="Fit and measure the critics of music.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--out", type=Path, default=None, help="write the two models here")
    parser.add_argument("--work", type=Path, default=Path(".work/music"), help="what is kept")
    parser.add_argument("--judges", type=Path, default=Path(".work/music/judges"))
    parser.add_argument("--heard", type=int, default=390, help="clips that are rendered")
    chosen = parser.parse_args(arguments)
    corpus = corpus_features(chosen.data, chosen.work)
    critic = fit.fit_critic(fit.load_anchors(), corpus)
    reader = fit.fit_reader(widened(chosen.data, chosen.work))

    def listen(name: str, piece: Piece) -> Hearing:
        return heard(name, piece, chosen.work)

    sets = labelled(chosen.data, chosen.work)
    found = report(sets, corpus, listen, chosen.judges, chosen.heard, critic, reader)
    text = markdown(found)
    print(text)
    print(json.dumps(found, indent=1))
    if chosen.out is not None:
        for model in (critic, reader):
            publish(model, chosen.out, found, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
