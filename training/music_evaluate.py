"""Report: does music-tiny do what was asked, as read by judges that had no part in the making.

    python -m training.music_evaluate --data DATA --judge .work/music/judges --n 50 --out FOLDER

Pieces are made the way `affect make music` makes them (targets of every bar, composer, performance)
and read by three: the independent judge, a recurrent net trained on labelled clips that the making
never saw; the shipped reader, which hears the rendered sound; and the critic, which chooses among
candidates and is printed beside them only to show how far it flatters. What is asked:

* quadrants, as points of valence and arousal and as emotions, first candidate and best of four;
* nothing (intensity 0, attributes hidden), and, of the same pieces, the opposite quadrant;
* a grid of points, and five intensities of each of four emotions: rank correlations;
* all twelve emotions; courses of emotion over 45 seconds;
* musicality beside real pieces of the same length, and speed.

Chance is .25 for a quadrant and 0 for a correlation. Each stage is kept in the folder and not
made again, so a run that was stopped goes on. Figures are computed in training.music_report. It
deliberately does not know how music is made or read.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from adapters.emotion import CORE, VAD, Emotion, EmotionTimeline
from adapters.files import replacing
from adapters.music_attributes import ATTRIBUTES, measure
from adapters.music_critic import QUADRANTS, SIGNS, load_music_critic
from adapters.music_emotion import MusicDirections
from adapters.musicality import ENDINGS, musicality
from adapters.piece import Piece
from adapters.reading import soft_score
from pipelines.media_midi import encode_midi
from pipelines.music import job_of
from pipelines.music_composer import Composer, Composition
from pipelines.music_performance import perform
from pipelines.music_plan import asked_label, plan_of
from pipelines.piano import SAMPLE_RATE, render
from pipelines.request import Request
from pipelines.selection import candidate_seed
from training.music_report import markdown, summary

INTENSITY = 0.8
SECONDS = 30.0
COURSE_SECONDS = 45.0
CANDIDATES = 4
BATCH = 16  # pieces written at once
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
GRID = (-0.8, -0.4, 0.0, 0.4, 0.8)
WANTED = {
    "Q1": ("happiness", "excitement"),
    "Q2": ("anger", "fear"),
    "Q3": ("sadness", "boredom"),
    "Q4": ("contentment", "love"),
}
"""Emotions that ask for each quadrant. Love is as tender as contentment in music's literature,
though its words are rated as aroused: the per-emotion table shows both."""
COURSES = (
    "0s contentment .8; 15s fear .9; 30s contentment .8; 45s happiness .9",
    "0s sadness .8; 20s sadness .6; 30s excitement .9",
    "0s excitement .9; 15s excitement .7; 30s sadness .8",
    "0s anger .9; 15s contentment .8; 30s anger .9; 45s boredom .8",
)
# Seeds of other stages start elsewhere, so that no two share pieces.
FIRST_SEED = {"vad": 1000, "emotions": 2000, "neutral": 3000, "hidden": 4000, "grid": 5000,
              "levels": 6000, "each": 7000, "courses": 8000, "speed": 9000}  # fmt: skip


class Reads(Protocol):
    """The independent judge."""

    def read(self, pieces: Sequence[Piece]) -> np.ndarray:
        """(n, 4) probabilities of Q1 to Q4."""
        ...


@dataclass(frozen=True, slots=True)
class Panel:
    """Who reads: judge and reader report, the critic chooses."""

    judge: Reads
    critic: Any
    reader: Any


@dataclass(frozen=True, slots=True)
class Ask:
    """One piece to make. label: what it is called in the report. quadrant: which one it should
    fall into, "" for none. hidden: attributes are not told to the model."""

    label: str
    timeline: EmotionTimeline
    seed: int
    quadrant: str = ""
    seconds: float = SECONDS
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Studio:
    """A composer and its directions, ready to make what is asked."""

    composer: Composer
    directions: MusicDirections
    backbone: str

    @classmethod
    def open(cls, backbone: str, device: str | None = None) -> Studio:
        """Load by name or folder; directions beside the model, else the shipped ones."""
        from pipelines import resolve

        row = resolve(backbone, "music")
        own = row.folder is not None and (row.folder / "directions.safetensors").is_file()
        directions = MusicDirections.load(row.folder) if own else MusicDirections.load()
        return cls(Composer.load(row, device=device), directions, backbone)

    def make(
        self, asks: Sequence[Ask], candidates: int = 1, tell: Callable[[str], None] = print
    ) -> list[list[tuple[Piece, Piece, np.ndarray]]]:
        """For each ask its candidates as (page, performance, targets (bars, 16))."""
        wanted = [(ask, k) for ask in asks for k in range(candidates)]
        made: list[tuple[Piece, Piece, np.ndarray]] = []
        for first in range(0, len(wanted), BATCH):
            batch = [(self.composition(ask, k), ask, k) for ask, k in wanted[first : first + BATCH]]
            pages = self.composer.compose([one for one, _, _ in batch])
            for (one, ask, k), page in zip(batch, pages, strict=True):
                played = perform(page, one.targets, candidate_seed(ask.seed, k))
                made.append((page, played, one.targets))
            tell(f"  {len(made)} of {len(wanted)} pieces")
        return [made[i : i + candidates] for i in range(0, len(made), candidates)]

    def composition(self, ask: Ask, candidate: int) -> Composition:
        """What the composer is told, as the session of `affect make music` tells it."""
        params = {"seconds": ask.seconds}
        job = job_of(Request("music", "", ask.timeline, ask.seed, self.backbone, params))
        plan = plan_of(job, self.directions)
        targets = plan.targets
        seed = candidate_seed(ask.seed, candidate)
        if ask.hidden:
            # The mode has to be one of two: a coin; what the model can be left to choose, it is.
            targets = targets.copy()
            coin = float(np.random.default_rng(seed).choice([-1e-3, 1e-3]))
            targets[:, ATTRIBUTES.index("mode")] = coin
            free = ("note_density", "polyphony", "note_duration", "contour",
                    "rhythmic_variability", "melodic_variability", "pitch_range")  # fmt: skip
            targets[:, [ATTRIBUTES.index(name) for name in free]] = np.nan
        known = job.params
        return Composition(
            targets=targets, seconds=plan.seconds, seed=seed, tonic=plan.tonic,
            beats_per_bar=plan.beats_per_bar, temperature=known.temperature, top_p=known.top_p,
            guidance_scale=known.guidance_scale,
        )  # fmt: skip


# Reading -----------------------------------------------------------------------------------------


def read_piece(panel: Panel, ask: Ask, made: tuple[Piece, Piece, np.ndarray]) -> dict[str, Any]:
    """Everything the report needs of one piece, as plain numbers."""
    page, played, targets = made
    sound = render(played, seconds=ask.seconds)
    critic, reader = panel.critic.read([played])[0], panel.reader.read([sound])[0]
    timely = ask.timeline.at(0.0) if ask.timeline.is_constant else ask.timeline.peak
    measured = measure(played)
    return {
        "label": ask.label,
        "seed": ask.seed,
        "quadrant": ask.quadrant,
        "intensity": timely.intensity,
        # Equal points must be equal numbers, or ranks break their ties by rounding.
        "asked": [round(float(x), 4) for x in timely.vad[:2]],
        "judge": panel.judge.read([played])[0].tolist(),
        "critic": panel.critic.quadrants([played])[0].tolist(),
        "reader": panel.reader.quadrants([sound])[0].tolist(),
        "critic_vad": list(critic.vad_mean[:2]),
        "reader_vad": list(reader.vad_mean[:2]),
        "reader_intensities": list(reader.intensities),
        "targets": np.nanmean(targets, axis=0).tolist() if not ask.hidden else None,
        "measured": [measured[name] for name in ATTRIBUTES],
        "musicality": musicality(page),
        "notes": len(page),
    }


def best(panel: Panel, ask: Ask, candidates: Sequence[tuple[Piece, Piece, np.ndarray]]) -> int:
    """The candidate the critic prefers, scored as a session scores it."""
    label = asked_label(ask.timeline, ask.seconds)
    readings = panel.critic.read([played for _, played, _ in candidates])
    return int(np.argmax([float(soft_score(reading, label)) for reading in readings]))


def follow(panel: Panel, ask: Ask, played: Piece) -> dict[str, Any]:
    """Asked and read valence and arousal over time, the asked ones as the window sees them."""
    from adapters.music_critic import WINDOW

    sound = render(played, seconds=ask.seconds)
    found: dict[str, Any] = {"label": ask.label, "seed": ask.seed}
    for name, reads in (("critic", panel.critic), ("reader", panel.reader)):
        times, valence, arousal = reads.read_over_time(played if name == "critic" else sound)
        around = times[:, None] + np.linspace(-WINDOW / 2, WINDOW / 2, 13)
        around = np.clip(around, 0.0, ask.seconds).ravel()
        vad = ask.timeline.sample(around) @ VAD + ask.timeline.residuals(around)
        asked = vad.reshape(len(times), -1, 3).mean(axis=1)
        found[name] = {
            "times": times.tolist(),
            "asked": asked[:, :2].tolist(),
            "read": np.column_stack([valence, arousal]).tolist(),
        }
    return found


# What is asked -----------------------------------------------------------------------------------


def constant(emotion: Emotion) -> EmotionTimeline:
    """A timeline of one state."""
    return EmotionTimeline.constant(emotion)


def quadrant_asks(way: str, n: int) -> list[Ask]:
    """n asks for each quadrant: as points ("vad") or as emotions, in turn."""
    first = FIRST_SEED[way]
    # A quadrant's point: the mean |valence| and |arousal| of the twelve emotions at that intensity.
    point = SIGNS * np.abs(VAD[:, :2]).mean(axis=0) * INTENSITY
    asks = []
    for row, quadrant in enumerate(QUADRANTS):
        for i in range(n):
            name = WANTED[quadrant][i % 2]
            emotion = Emotion.of(name, INTENSITY)
            if way == "vad":
                name, emotion = quadrant, Emotion.from_vad(*(float(x) for x in point[row]))
            asks.append(Ask(name, constant(emotion), first + row * n + i, quadrant))
    return asks


def control_asks(way: str, n: int) -> list[Ask]:
    """Nothing asked, but each piece pretends to a quadrant in turn: chance, measured."""
    hidden = way == "hidden"
    nothing = constant(Emotion.neutral())
    return [
        Ask(way, nothing, FIRST_SEED[way] + i, QUADRANTS[i % 4], hidden=hidden)
        for i in range(4 * n)
    ]


def grid_asks(seeds: int) -> list[Ask]:
    """Points of valence and arousal over the whole plane."""
    points = [(v, a) for v in GRID for a in GRID]
    return [
        Ask("grid", constant(Emotion.from_vad(v, a)), FIRST_SEED["grid"] + i * seeds + s)
        for i, (v, a) in enumerate(points)
        for s in range(seeds)
    ]


def level_asks(seeds: int) -> list[Ask]:
    """Five intensities of one emotion of each quadrant; a seed is the same at every level."""
    return [
        Ask(names[0], constant(Emotion.of(names[0], level)), FIRST_SEED["levels"] + s, quadrant)
        for quadrant, names in WANTED.items()
        for level in LEVELS
        for s in range(seeds)
    ]


def each_asks(seeds: int) -> list[Ask]:
    """Every core emotion."""
    return [
        Ask(name, constant(Emotion.of(name, INTENSITY)), FIRST_SEED["each"] + k * seeds + s)
        for k, name in enumerate(CORE)
        for s in range(seeds)
    ]


def course_asks(seeds: int, courses: Sequence[str] = COURSES) -> list[Ask]:
    """Emotions that change."""
    return [
        Ask(text, EmotionTimeline.parse(text), FIRST_SEED["courses"] + k * seeds + s)
        for k, text in enumerate(courses)
        for s in range(seeds)
    ]


# Real music --------------------------------------------------------------------------------------


def real_pieces(sheets: Path, data: Path | None) -> dict[str, list[Piece]]:
    """Real songs and scores as pages in C: those that were kept, else POP909 from its archive."""
    from training.music_data import load_sheets, pop909

    if sheets.is_file():
        named = load_sheets(sheets)
    elif data is not None and (data / "pop909.tar.gz").is_file():
        import tarfile
        import tempfile

        with tempfile.TemporaryDirectory() as raw, tarfile.open(data / "pop909.tar.gz") as archive:
            archive.extractall(raw, filter="data")
            named = list(pop909(Path(raw)))
    else:
        return {}
    found: dict[str, list[Piece]] = {"songs": [], "scores": []}
    for name, sheet in named:
        found["scores" if "/" in name else "songs"].append(sheet.piece)
    return {kind: pieces for kind, pieces in found.items() if pieces}


def excerpts(pieces: Sequence[Piece], seconds: float, count: int) -> list[dict[str, float]]:
    """Musicality of stretches of real pieces as long as the generated ones.

    From a phrase line drawn at random; the endings are those of the last stretch of the same piece,
    because a stretch that was cut has no ending.
    """
    rng = np.random.default_rng(0)
    found = []
    for index in rng.permutation(len(pieces)):
        piece = pieces[index]
        bars = round(float(piece.beats_at(seconds)) / piece.beats_per_bar)
        if len(found) == count:
            break
        if not 1 <= bars <= piece.bars:
            continue
        first = 4 * int(rng.integers(0, (piece.bars - bars) // 4 + 1))
        part, end = piece.between(first, first + bars), piece.between(piece.bars - bars, piece.bars)
        if not len(part) or not len(end):
            continue
        values = musicality(part)
        ending = musicality(end)
        found.append({**values, **{name: ending[name] for name in ENDINGS}})
    return found


# The run -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluation: where it keeps its stages, and of what."""

    out: Path
    studio: Studio
    panel: Panel
    key: str

    def stage(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what a stage found, from its file when the same thing was evaluated before."""
        path = self.out / "stages" / f"{name}.json"
        if path.is_file():
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["key"] == self.key:
                return kept["found"]
        print(f"{name} ...", flush=True)
        began = time.monotonic()
        found = make()
        write_json(path, {"key": self.key, "found": found})
        print(f"{name}: {time.monotonic() - began:.0f} s", flush=True)
        return found

    def single(self, asks: Sequence[Ask]) -> list[dict[str, Any]]:
        """One piece for each ask, read."""
        made = self.studio.make(asks)
        return [read_piece(self.panel, a, m[0]) for a, m in zip(asks, made, strict=True)]

    def chosen(self, asks: Sequence[Ask], candidates: int) -> dict[str, list[dict[str, Any]]]:
        """The first candidate of each ask, and the one the critic chose; files of the latter."""
        found: dict[str, list[dict[str, Any]]] = {"first": [], "best": []}
        for ask, made in zip(asks, self.studio.make(asks, candidates), strict=True):
            first, choice = read_piece(self.panel, ask, made[0]), best(self.panel, ask, made)
            found["first"].append(first)
            found["best"].append(
                first if choice == 0 else read_piece(self.panel, ask, made[choice])
            )
            record = {"affect": {"emotion": ask.timeline.text, "seed": ask.seed}}
            path = self.out / "pieces" / f"{ask.quadrant}-{ask.label}-{ask.seed}.mid"
            with replacing(path) as fresh:
                Path(fresh).write_bytes(encode_midi(made[choice][1], record))
        return found

    def courses(self, asks: Sequence[Ask]) -> list[dict[str, Any]]:
        """Asked and read curves."""
        made = self.studio.make(asks)
        return [follow(self.panel, a, m[0][1]) for a, m in zip(asks, made, strict=True)]

    def speed(self, seconds: float) -> dict[str, float]:
        """Seconds of work for one piece, composed, played and rendered, and the most memory."""
        emotion = constant(Emotion.of("sadness", INTENSITY))
        ask = Ask("speed", emotion, FIRST_SEED["speed"], seconds=seconds)
        quiet: Callable[[str], None] = lambda _: None  # noqa: E731
        self.studio.make([ask], tell=quiet)  # the first call pays for lazy set-up
        began = time.perf_counter()
        made = self.studio.make([ask], tell=quiet)[0][0]
        composed = time.perf_counter()
        render(made[1], seconds=ask.seconds)
        rendered = time.perf_counter()
        four = time.perf_counter()
        self.studio.make([ask], CANDIDATES, tell=quiet)
        return {
            "compose_seconds": composed - began,
            "render_seconds": rendered - composed,
            "four_candidates_seconds": time.perf_counter() - four,
            "sample_rate": SAMPLE_RATE,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def evaluate(
    studio: Studio,
    panel: Panel,
    out: Path,
    n: int,
    *,
    candidates: int = CANDIDATES,
    real: dict[str, list[Piece]] | None = None,
    seconds: float = SECONDS,
    courses: Sequence[str] = COURSES,
    course_seconds: float = COURSE_SECONDS,
) -> dict[str, Any]:
    """Run every stage and write report.json, report.md; returns the report.

    Args:
        studio: what makes the pieces. panel: who reads them.
        out: folder; pieces of the quadrants are kept in `pieces`, readings in `stages`.
        n: pieces for each quadrant; a tenth of it at each point of the grid and in each
            course, a fifth at each intensity and of each emotion.
        candidates: of which the critic chooses the best.
        real: name of a set -> real pieces to lay the musicality beside.
        seconds, course_seconds: length of a piece, and of one whose emotion changes.
        courses: texts of timelines.
    """
    few, more = max(1, n // 10), max(1, n // 5)

    def long(asks: list[Ask], length: float = seconds) -> list[Ask]:
        return [replace(ask, seconds=length) for ask in asks]

    facts = {
        "backbone": Path(studio.composer.name).name,
        "weights": studio.composer.weights,
        "n": n,
        "candidates": candidates,
        "seconds": seconds,
        "intensity": INTENSITY,
        "critic": panel.critic.digest,
        "reader": panel.reader.digest,
        "making": made_by(studio, panel),
    }
    key = hashlib.sha256(json.dumps([facts, course_seconds, *courses]).encode()).hexdigest()[:16]
    run = Run(out, studio, panel, key)
    stages: dict[str, Any] = {}
    for way in ("vad", "emotions"):
        asks = long(quadrant_asks(way, n))
        stages[way] = run.stage(way, lambda asks=asks: run.chosen(asks, candidates))
    for way in ("neutral", "hidden"):
        asks = long(control_asks(way, max(1, n // 4)))
        stages[way] = run.stage(way, lambda asks=asks: run.single(asks))
    stages["grid"] = run.stage("grid", lambda: run.single(long(grid_asks(few))))
    stages["levels"] = run.stage("levels", lambda: run.single(long(level_asks(more))))
    stages["each"] = run.stage("each", lambda: run.single(long(each_asks(more))))
    stages["courses"] = run.stage(
        "courses", lambda: run.courses(long(course_asks(few, courses), course_seconds))
    )
    stages["speed"] = run.stage("speed", lambda: run.speed(seconds))
    stages["real"] = run.stage(
        "real",
        lambda: {kind: excerpts(pieces, seconds, 200) for kind, pieces in (real or {}).items()},
    )
    report = {**facts, **summary(stages)}
    write_json(out / "report.json", report)
    with replacing(out / "report.md") as fresh:
        Path(fresh).write_text(markdown(report), encoding="utf-8")
    return report


def made_by(studio: Studio, panel: Panel) -> str:
    """16 hex digits of all else that decides a figure: directions, judge, and the code itself."""
    seen = hashlib.sha256(studio.directions.targets(np.eye(len(CORE))).tobytes())
    seen.update(panel.judge.read([Piece.of(np.arange(24) / 2, 0.5, 60 + np.arange(24))]).tobytes())
    for path in sorted((Path(__file__).parents[1] / "pipelines").glob("*.py")):
        if path.name.startswith(("music_", "piano")):
            seen.update(path.read_bytes())
    return seen.hexdigest()[:16]


def write_json(path: Path, data: Any) -> None:
    """Write JSON that others can read: nan is null."""
    with replacing(path) as fresh:
        Path(fresh).write_text(json.dumps(_plain(data), indent=1) + "\n")


def _plain(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    if isinstance(data, float | np.floating):
        return float(data) if np.isfinite(data) else None
    return data


def main(argv: Sequence[str] | None = None) -> int:
    """Read the command line, run, print the report."""
    parser = argparse.ArgumentParser(
        prog="python -m training.music_evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--backbone", default="music-tiny", help="name or folder")
    parser.add_argument("--judge", type=Path, required=True, help="folder of the judge's members")
    parser.add_argument("--critic", default="critic-music", help="name or folder")
    parser.add_argument("--reader", default="reader-music", help="name or folder")
    parser.add_argument("--data", type=Path, help="folder with pop909.tar.gz, for real songs")
    parser.add_argument("--sheets", type=Path, default=Path(".work/music/sheets.npz"),
                        help="sheets that training.music_data kept")  # fmt: skip
    parser.add_argument("--n", type=int, default=50, help="pieces for each quadrant")
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--out", type=Path, default=Path(".work/music/evaluation"))
    parser.add_argument("--device", help="cpu, cuda; default: the best there is")
    given = parser.parse_args(argv)
    from training.music_judges import load_judge

    try:
        panel = Panel(
            load_judge(given.judge),
            load_music_critic(given.critic),
            load_music_critic(given.reader),
        )
        studio = Studio.open(given.backbone, given.device)
    except ValueError as error:
        parser.error(str(error))
    real = real_pieces(given.sheets, given.data)
    report = evaluate(studio, panel, given.out, given.n, candidates=given.candidates, real=real)
    print(markdown(report))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
