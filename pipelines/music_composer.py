"""From attribute targets to written pieces: form, chords, returning melodies, and the transformer.

A `Composition` says how every bar should measure; the `Composer` decides the form
(`music_form`), turns targets into steps of the controls, fixes the chords of cadences, gives a
returning phrase its melody back with changes, and lets the model write all else
(`music_model.write`). What comes out is a page: on the grid, in tempo, not yet played
(`music_performance`). It deliberately does not know emotions or files of music.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapters.music_attributes import ATTRIBUTES
from adapters.piece import MELODY, Piece
from pipelines.music_form import BarForm, cadence_chords, form_of
from pipelines.music_layout import BAR_CONTROLS, LEFT, PIECE_CONTROLS, Edges, Layout
from pipelines.music_model import KEYS, BarPlan, Sampling, Writing, write
from pipelines.music_sheet import (
    CHORD_QUALITIES,
    HIGHEST,
    LOWEST,
    REPEATS,
    SOURCES,
    STEPS,
    Sheet,
    bar_attributes,
    chord_code,
    found_sheet,
    on_page,
    repeats,
)

COLUMN = {name: index for index, name in enumerate(ATTRIBUTES)}
NUMERALS = {
    "I": (0, "maj"), "i": (0, "min"), "IV": (5, "maj"), "iv": (5, "min"), "V": (7, "maj"),
}  # fmt: skip
# Chords that belong to a key, its common borrowings with it; others cost BORROWED.
MAJOR_CHORDS = {
    (0, "maj"), (0, "maj7"), (0, "sus"), (2, "min"), (2, "min7"), (2, "sus"), (4, "min"),
    (4, "min7"), (5, "maj"), (5, "maj7"), (5, "sus"), (7, "maj"), (7, "7"), (7, "sus"),
    (9, "min"), (9, "min7"),
}  # fmt: skip
MINOR_CHORDS = {
    (0, "min"), (0, "min7"), (0, "sus"), (2, "dim"), (3, "maj"), (3, "maj7"), (5, "min"),
    (5, "min7"), (5, "sus"), (7, "maj"), (7, "7"), (7, "min"), (7, "sus"), (8, "maj"),
    (8, "maj7"), (10, "maj"), (10, "sus"),
}  # fmt: skip
BORROWED = 2.5  # logits off a chord that is strange to the key, at ordinary dissonance
STRANGE = 3.0  # logits off a note that is strange to key and chord, at ordinary dissonance
SWEET, SOUR = 0.06, 0.22
"""Dissonance targets at which strange notes and tense chords cost most and least; ordinary pieces
have .12, nearly all lie between."""
TENSE = 4.0
"""Logits between a plain triad and the tensest chord at the sourest target."""
BRIGHT = 3.0
"""Logits that a fully major target (+.5) adds to major chords and takes off minor ones: the share
of major chords tells valence as well as the mode does (AUC .78 both, notes on EMOPIA)."""
RETURNS = 0.75  # how often a bar of a returning melody is given as it was; else it is written anew
MODE_BARS, MODE_CLEAR = 2, 0.02
"""Bars that a mode is kept at least, and how far from neither the next one must be asked for."""
LEAD_BARS = 8  # of a file that is continued, as the model's memory of it
FAR = 7  # semitones of register from which a returning melody moves by an octave


@dataclass(frozen=True, slots=True)
class Composition:
    """One piece to write.

    targets: (bars, 16) attribute targets, columns as ATTRIBUTES; the tempo column holds exactly.
    seconds: their length. seed: of everything drawn. tonic: 0..11, None: chosen by the seed.
    lead: a piece to continue; it is not part of what is returned. manner: one of SOURCES.
    """

    targets: NDArray[np.float64]
    seconds: float
    seed: int
    tonic: int | None = None
    beats_per_bar: float = 4.0
    lead: Piece | None = None
    temperature: float = 1.0
    top_p: float = 0.95
    guidance_scale: float = 2.5
    form: str = "auto"
    manner: str = "pop"


class Composer:
    """The transformer with its tokenizer and controls; stateless between calls."""

    def __init__(
        self, model: Any, tokenizer: Any, edges: Edges, *, name: str, weights: str
    ) -> None:
        self.model, self.layout, self.edges = model.eval(), Layout(tokenizer), edges
        self.name, self.weights = name, weights

    @classmethod
    def load(
        cls, row: Any, device: str | None = None, dtype: Any = None, offline: bool | None = None
    ) -> Composer:
        """Load a folder (or a row of BACKBONES) with transformer/, tokenizer/ and controls.json."""
        from miditok import REMI
        from transformers import AutoModelForCausalLM

        folder = Path(row) if isinstance(row, str | Path) else row.folder
        if folder is None or not (folder / "controls.json").is_file():
            msg = (
                f"backbone: {folder or row} holds no controls.json; give a folder that "
                "`python -m training.music --out` wrote"
            )
            raise ValueError(msg)
        kind = dtype or torch.float32
        kind = getattr(torch, kind) if isinstance(kind, str) else kind
        model = AutoModelForCausalLM.from_pretrained(folder / "transformer", dtype=kind)
        place = device or ("cuda" if torch.cuda.is_available() else "cpu")
        name = folder.name if isinstance(row, str | Path) else row.name
        # From the file itself: from_pretrained on the folder would look for the model's config.
        tokenizer = REMI(params=folder / "tokenizer" / "tokenizer.json")
        edges = Edges.load(folder / "controls.json")
        return cls(model.to(place), tokenizer, edges, name=name, weights=digest(folder))

    @contextmanager
    def adapted(self, folder: Path, weight: float = 1.0) -> Iterator[None]:
        """While open, a LoRA (a peft folder) is added with `weight`; afterwards nothing is left."""
        from adapters.music_adapter import adapted

        with adapted(self.model, folder, weight):
            yield

    def compose(
        self,
        compositions: Sequence[Composition],
        on_bar: Callable[[int, int], None] = lambda done, total: None,
    ) -> list[Piece]:
        """Write all pieces, those that sample alike in one batch; in their order.

        on_bar(done, total) is called as bars are done; what it raises ends the work.
        """
        total = sum(len(one.targets) for one in compositions)
        found: dict[int, Piece] = {}
        groups: dict[tuple[float, ...], list[int]] = {}
        for index, one in enumerate(compositions):
            key = (one.temperature, one.top_p, one.guidance_scale)
            groups.setdefault(key, []).append(index)
        before = 0
        for (temperature, top_p, guidance_scale), members in groups.items():
            pages = [_Page(self.layout, self.edges, compositions[i]) for i in members]
            writings = [page.writing() for page in pages]
            done = functools.partial(_report, on_bar, before, total)
            write(
                self.model, self.layout, writings,
                Sampling(temperature, top_p, guidance_scale), done,
            )  # fmt: skip
            before += sum(writing.bars for writing in writings)
            for index, page, writing in zip(members, pages, writings, strict=True):
                found[index] = page.piece(writing)
        return [found[index] for index in range(len(compositions))]


def _report(on_bar: Callable[[int, int], None], before: int, total: int, done: int, _: int) -> None:
    on_bar(before + done, total)


def digest(folder: Path) -> str:
    """16 hex digits of all that decides what a folder writes."""
    seen = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors" or path.name in ("tokenizer.json", "controls.json"):
            seen.update(path.relative_to(folder).as_posix().encode())
            seen.update(path.read_bytes())
    return seen.hexdigest()[:16]


class _Page:
    """One composition on its way to bar plans and back to notes."""

    def __init__(self, layout: Layout, edges: Edges, one: Composition) -> None:
        self.layout, self.edges, self.one = layout, edges, one
        self.rng = np.random.default_rng(one.seed)
        drawn = int(self.rng.integers(12))
        self.lead: Sheet | None = None
        self.lead_bars = 0
        tonic = drawn if one.tonic is None else one.tonic
        if one.lead is not None:
            whole = found_sheet(one.lead)
            first = max(0, whole.piece.bars - LEAD_BARS)
            self.lead = replace(
                whole,
                piece=whole.piece.between(first, whole.piece.bars),
                chords=whole.chords[first:],
            )
            self.lead_bars = self.lead.piece.bars
        # Up or down by at most six semitones, so that registers stay what they are.
        self.shift = (tonic + 5) % 12 - 5
        self.bars = len(one.targets)
        self.form = form_of(self.bars, form=one.form, lead=self.lead_bars)
        self.cells = round(one.beats_per_bar * STEPS)
        self.minor = self._modes()

    def _modes(self) -> list[bool]:
        """Minor or major for each bar: a change needs two bars of ground and a clear wish."""
        mode = self.one.targets[:, COLUMN["mode"]]
        minor, since = bool(mode[0] < 0), MODE_BARS
        found = []
        for level in mode:
            if since >= MODE_BARS and bool(level < 0) != minor and abs(level) > MODE_CLEAR:
                minor, since = not minor, 0
            found.append(minor)
            since += 1
        return found

    # Plans ------------------------------------------------------------------------------------

    def writing(self) -> Writing:
        """What the model is asked to write."""
        lead = [] if self.lead is None else self._lead_plans(self.lead)
        return Writing(self.bars, self.plan, self.one.seed, lead)

    def plan(self, bar: int, written: list[list[int]]) -> BarPlan:
        """The plan of a bar, from the bars before it; numbers count the lead."""
        index = bar - self.lead_bars
        form, minor = self.form[index], self.minor[index]
        row = self.one.targets[index]
        source = form.source
        chords = self._chords(form, minor, written)
        melody: tuple[int, ...] | None = None
        steps = self._steps(row, bar)
        if source is not None:
            back = bar - source
            steps[list(BAR_CONTROLS).index("Repeat")] = (
                REPEATS.index(back) if back in REPEATS else len(REPEATS)
            )
            if self.rng.random() < RETURNS:
                melody = self._returning(written[source], source, row, minor)
        elif form.place == 0 and self.one.form != "through":
            steps[list(BAR_CONTROLS).index("Repeat")] = 0  # a new theme says something new
        left = self.bars - 1 - index
        chord_bias, pitch_bias = biases(row, minor)
        return BarPlan(
            whole=self._whole(row, minor),
            steps=tuple(steps),
            left=left if left < LEFT else None,
            chords=chords,
            chord_bias=chord_bias,
            pitch_bias=pitch_bias,
            melody=melody,
            # A theme is sung; within a phrase one bar may rest, not two.
            sing=form.place == 0 or form.cadence == "final" or _silent(written, self.layout),
            cells=self.cells,
            closes=form.cadence == "final",
        )

    def _whole(self, row: NDArray[np.float64], minor: bool) -> tuple[int, ...]:
        values = {
            "Tempo": row[COLUMN["tempo"]],
            "Rhythm": row[COLUMN["rhythmic_variability"]],
            "Interval": row[COLUMN["melodic_variability"]],
            "Range": row[COLUMN["pitch_range"]],
            "Dissonance": row[COLUMN["dissonance"]],
        }
        steps = {name: self.edges.step(name, float(value)) for name, value in values.items()}
        steps |= {"Source": SOURCES.index(self.one.manner), "Mode": int(minor)}
        return tuple(steps[name] for name in PIECE_CONTROLS)

    def _steps(self, row: NDArray[np.float64], bar: int) -> list[int]:
        beat = 60.0 / row[COLUMN["tempo"]]
        contour = row[COLUMN["contour"]]
        values = {
            "Density": row[COLUMN["note_density"]] * beat * self.one.beats_per_bar,
            "Polyphony": row[COLUMN["polyphony"]],
            # Targets are heard pitches, pages stand in C.
            "Register": row[COLUMN["mean_pitch"]] - self.shift,
            "Length": row[COLUMN["note_duration"]] / beat,
            # A wish for a contour is a share of bars that rise or fall; others are free to turn.
            "Contour": np.sign(contour) * 12 if self.rng.random() < abs(contour) else np.nan,
            "Repeat": np.nan,
        }
        return [
            BAR_CONTROLS[name] if name == "Repeat" else self.edges.step(name, float(values[name]))
            for name in BAR_CONTROLS
        ]

    def _chords(
        self, form: BarForm, minor: bool, written: list[list[int]]
    ) -> tuple[int | None, int | None]:
        """Codes that the form fixes: a cadence's, or those of the bar that returns."""
        named = cadence_chords(form, minor, self.one.beats_per_bar)
        fixed: list[int | None] = [None if n is None else chord_code(*NUMERALS[n]) for n in named]
        if form.source is not None:
            known = {int(token): code for code, token in enumerate(self.layout.chord)}
            then = [known.get(token, 0) for token in written[form.source][:2]]
            fixed = [recast(code, minor) for code in then]
        return fixed[0], fixed[1]

    def _returning(
        self, tokens: list[int], source: int, row: NDArray[np.float64], minor: bool
    ) -> tuple[int, ...] | None:
        """The melody of an earlier bar as it should be now: in this mode and register."""
        notes = [note for note in self.layout.notes(tokens) if note[3] == MELODY]
        if not notes:
            return None
        pitches = np.array([recast_pitch(note[1], minor) for note in notes])
        then = self._register(source)
        now = row[COLUMN["mean_pitch"]]
        if abs(now - then) >= FAR:
            pitches = pitches + (12 if now > then else -12)
        if pitches.min() < LOWEST or pitches.max() > HIGHEST:
            return None
        piece = Piece.of(
            [note[0] / STEPS for note in notes], [note[2] / STEPS for note in notes], pitches
        )
        return tuple(self.layout.voice_tokens(piece))

    def _register(self, bar: int) -> float:
        """Mean pitch that was wanted of an earlier bar, or that the lead had."""
        if bar >= self.lead_bars:
            return float(self.one.targets[bar - self.lead_bars, COLUMN["mean_pitch"]])
        heard = self.lead.piece.pitch if self.lead is not None else np.zeros(0)
        return float(heard.mean()) + self.shift if len(heard) else 60.0

    def _lead_plans(self, lead: Sheet) -> list[tuple[BarPlan, list[int]]]:
        """The bars before, described as training music is."""
        values, again = bar_attributes(lead.piece), repeats(lead.piece)
        row = self.one.targets[0]
        chord_bias, pitch_bias = biases(row, lead.minor)
        plans = []
        for bar in range(lead.piece.bars):
            steps = [
                int(again[bar]) if name == "Repeat" else self.edges.step(name, values[name][bar])
                for name in BAR_CONTROLS
            ]
            plan = BarPlan(
                self._whole(row, lead.minor), tuple(steps), None, (None, None), chord_bias,
                pitch_bias, None, False, self.cells, False,
            )  # fmt: skip
            notes = self.layout.bar_tokens(
                lead.piece.between(bar, bar + 1), [], lead.chords[bar].tolist()
            )[1:]
            plans.append((plan, notes))
        return plans

    # And back ---------------------------------------------------------------------------------

    def piece(self, writing: Writing) -> Piece:
        """The notes of all bars that were written, in the tonic and tempo that were asked for."""
        beats = self.one.beats_per_bar
        rows: list[tuple[float, float, int, int]] = []
        for bar, tokens in enumerate(writing.written[self.lead_bars :]):
            closes = bar == self.bars - 1
            held: set[int] = set()
            for at, pitch, steps, voice in self.layout.notes(tokens):
                # The last chord is held to the end of its bar, so no key is struck twice in it.
                if closes and pitch in held:
                    continue
                held.add(pitch)
                length = beats - at / STEPS if closes else steps / STEPS
                rows.append((bar * beats + at / STEPS, length, pitch, voice))
        tempo = self.one.targets[:, COLUMN["tempo"]]
        starts = np.arange(self.bars) * beats
        if not rows:  # a model that was never trained may say nothing
            rows = [(0.0, beats * self.bars, 60, MELODY)]
        onset, length, pitch, voice = (np.array(column) for column in zip(*rows, strict=True))
        length = np.minimum(length, self.bars * beats - onset)
        page = Piece.of(onset, length, pitch, 64, voice, beats_per_bar=beats, bars=self.bars)
        # on_page ends a note where its key is struck again and keeps all keys on the piano.
        page = on_page(page.transposed(self.shift))
        return replace(page, tempo=np.stack([starts, tempo], axis=1))


def _silent(written: Sequence[Sequence[int]], layout: Layout) -> bool:
    """Whether the bar before had no melody."""
    return bool(written) and not any(note[3] == MELODY for note in layout.notes(written[-1]))


@functools.cache
def _belongs(minor: bool) -> NDArray[np.bool_]:
    chords = MINOR_CHORDS if minor else MAJOR_CHORDS
    return np.array([False] + [(r, q) in chords for r in range(12) for q in CHORD_QUALITIES])


@functools.cache
def _brightness() -> NDArray[np.float32]:
    """(CHORDS,) +1 for major qualities, -1 for minor ones."""
    value = {"maj": 1, "maj7": 1, "7": 1, "min": -1, "min7": -1, "dim": -1, "sus": 0, "aug": 0}
    return np.array([0.0] + [value[q] for _ in range(12) for q in CHORD_QUALITIES], np.float32)


@functools.cache
def _tension() -> NDArray[np.float32]:
    """(CHORDS,) 0 for triads to 1 for diminished and augmented chords."""
    value = {"maj": 0, "min": 0, "sus": 0.5, "7": 0.7, "min7": 0.6, "maj7": 0.8, "dim": 1, "aug": 1}
    return np.array([0.0] + [value[q] for _ in range(12) for q in CHORD_QUALITIES], np.float32)


def biases(
    row: NDArray[np.float64], minor: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logit offsets of chords (CHORDS,) and of the keys of the piano (88,) for a bar's targets."""
    sourness = float(np.clip((row[COLUMN["dissonance"]] - SWEET) / (SOUR - SWEET), 0.0, 1.0))
    clarity = 1.0 - 0.7 * sourness
    chords = np.where(_belongs(minor), 0.0, -BORROWED * clarity).astype(np.float32)
    chords += np.float32(BRIGHT * np.clip(row[COLUMN["mode"]], -0.5, 0.5)) * _brightness()
    # Ordinary music (sourness .4) is as the model likes it.
    chords += np.float32(TENSE * (sourness - 0.4)) * _tension()
    chords[0] = -BORROWED  # "no chord" is how silence is annotated
    scale = {0, 2, 3, 5, 7, 8, 10, 11} if minor else {0, 2, 4, 5, 7, 9, 11}
    strange = np.array([(LOWEST + key) % 12 not in scale for key in range(KEYS)])
    pitches = np.where(strange, -STRANGE * clarity, 0.0).astype(np.float32)
    return chords, pitches


def recast(code: int, minor: bool) -> int:
    """A chord of the parallel mode as it is in this one; the same where it belongs already."""
    if code == 0 or bool(_belongs(minor)[code]):
        return code
    root, quality = divmod(code - 1, len(CHORD_QUALITIES))
    root = recast_pitch(root, minor) % 12
    for choice in (CHORD_QUALITIES[quality], "min" if minor else "maj", "maj", "min", "dim"):
        fresh = chord_code(root, choice)
        if bool(_belongs(minor)[fresh]):
            return fresh
    return code


def recast_pitch(pitch: int, minor: bool) -> int:
    """A degree of C major as C minor has it, or the reverse; others stay."""
    change = {4: -1, 9: -1, 11: -1} if minor else {3: 1, 8: 1, 10: 1}
    return pitch + change.get(pitch % 12, 0)
