"""Writing bars with the transformer: sampling under a grammar, with guidance on the attributes.

Rows are pieces; each moves through its own bars while one token a row is fed at a time, so pieces
of different forms share a batch. A row is told everything that is planned (controls, chords, a
returning melody) and samples the rest among the tokens that the layout allows next, so every piece
parses. Guidance (Ho & Salimans 2022) runs a twin of each row whose attributes are unknown:
logits = unknown + scale * (known - unknown). It deliberately does not know what a plan is made
from: `bar_at` is asked for each bar as it begins, with the bars that were written before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

from adapters.piece import ACCOMPANIMENT, MELODY
from pipelines.music_layout import BAR_CONTROLS, PIECE_CONTROLS, Layout
from pipelines.music_sheet import HIGHEST, LOWEST

KEYS = HIGHEST - LOWEST + 1
MEMORY = 1400
"""Tokens a row may remember before its beginning is dropped; trained on 1,024, rotary positions
read a little further well."""
ROOM = 256  # tokens of room that a full cache is given
LEAP = 19
"""Semitones that a melody moves at most from note to note; real tunes hardly pass a twelfth."""
KEPT = 700  # tokens kept of a row when it is shortened, whole bars
CHORD_TEMPERATURE = 0.9  # chords steer everything after them: a little safer than notes


@dataclass(frozen=True, slots=True)
class BarPlan:
    """What is decided about a bar before it is written.

    whole: step of each of PIECE_CONTROLS. steps: step of each of BAR_CONTROLS. left: bars after
    this one when fewer than four, else None. chords: codes of both halves, None to be sampled.
    chord_bias: (CHORDS,) logits. pitch_bias: (88,) logits, by key. melody: tokens of a melody
    that is given, None to be sampled. sing: the melody may not be empty. cells: grid positions of
    the bar. closes: the last bar: one tonic chord.
    """

    whole: tuple[int, ...]
    steps: tuple[int, ...]
    left: int | None
    chords: tuple[int | None, int | None]
    chord_bias: NDArray[np.float32]
    pitch_bias: NDArray[np.float32]
    melody: tuple[int, ...] | None
    sing: bool
    cells: int
    closes: bool


Ask = Callable[[int, list[list[int]]], BarPlan]
"""bar number, tokens of the bars before it -> the plan of the bar."""


@dataclass(slots=True)
class Writing:
    """One piece being written.

    bars: how many to write. bar_at: asked as each begins. seed: of its own generator.
    lead: plans and note tokens (from the chords on) of bars that stand before it.
    written: what came out, the note tokens of every bar, `lead` included.
    """

    bars: int
    bar_at: Ask
    seed: int
    lead: Sequence[tuple[BarPlan, list[int]]] = ()
    written: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. guidance_scale 1 runs no twin; repetition is taken off a logit."""

    temperature: float = 1.0
    top_p: float = 0.95
    guidance_scale: float = 2.5
    repetition: float = 2.0


class _Row:
    """Where one piece stands: what it is told next, what it may say next, what it has said."""

    def __init__(self, writing: Writing, layout: Layout, repetition: float) -> None:
        self.writing, self.layout, self.repetition = writing, layout, repetition
        self.generator = torch.Generator().manual_seed(writing.seed)
        self.blocks: list[tuple[list[int], list[int]]] = []  # a bar's tokens, for row and twin
        for plan, notes in writing.lead:
            known, blank = self._controls(plan)
            self.blocks.append(([*known, *notes], [*blank, *notes]))
            writing.written.append(list(notes))
            self.plan = plan
        self.total = len(writing.lead) + writing.bars
        self.done = False
        self.tune: int | None = None  # the melody's last key
        self.begin()

    def head(self) -> tuple[list[int], list[int]]:
        """Attributes of the piece, for the row and for its twin."""
        pairs = zip(PIECE_CONTROLS, self.plan.whole, strict=True)
        known = [int(self.layout.control[name][step]) for name, step in pairs]
        blank = [int(self.layout.control[name][-1]) for name in PIECE_CONTROLS]
        return known, [known[0], *blank[1:]]  # the manner was never hidden in training

    def _controls(self, plan: BarPlan) -> tuple[list[int], list[int]]:
        left = [] if plan.left is None else [int(self.layout.left[plan.left])]
        pairs = zip(BAR_CONTROLS, plan.steps, strict=True)
        known = [int(self.layout.control[name][step]) for name, step in pairs]
        blank = [int(self.layout.control[name][-1]) for name in BAR_CONTROLS]
        return [self.layout.bar, *left, *known], [self.layout.bar, *left, *blank]

    def begin(self) -> bool:
        """Start the next bar; True when the attributes of the piece change with it."""
        bar = len(self.writing.written)
        if bar >= self.total:
            self.done = True
            return False
        before = self.plan.whole if bar else None
        self.plan = self.writing.bar_at(bar, self.writing.written)
        self.controls = list(zip(*self._controls(self.plan), strict=True))
        self.given: list[int] = []
        self.notes: list[int] = []
        self.phase, self.voice = "chord", MELODY
        self.at, self.key, self.count = -1, LOWEST - 1, 0
        self.tops: list[int] = []  # melody keys of this bar
        self.blocks.append(([], []))
        return before is not None and before != self.plan.whole

    # What comes next --------------------------------------------------------------------------

    def told(self) -> tuple[int, int] | None:
        """The next token of the row and of its twin where it is planned, None to sample one."""
        if self.controls:
            return self.controls[0]
        if self.phase == "chord" and (code := self.plan.chords[len(self.notes)]) is not None:
            token = int(self.layout.chord[code])
            return token, token
        return (self.given[0], self.given[0]) if self.given else None

    def allow(self, bias: NDArray[np.float32]) -> None:
        """Write logit offsets into `bias` (vocabulary,), which comes filled with -inf."""
        layout, plan = self.layout, self.plan
        if self.phase == "chord":
            bias[layout.chord] = plan.chord_bias
        elif self.phase == "pitch":
            self._pitches(bias, LOWEST)
        elif self.phase == "duration":
            bias[layout.duration_ids[layout.durations <= 2 * plan.cells]] = 0.0
        else:  # a later position, another key of the same chord, or the end of the voice
            # The last bar is one note of the melody over one chord, rolled at most over its half.
            last, more = plan.cells, self.at >= 0 and self.key < HIGHEST
            if plan.closes:
                last = 1 if self.voice == MELODY else plan.cells // 2
                more = more and self.voice != MELODY
            bias[layout.position[self.at + 1 : last]] = 0.0
            if more:
                self._pitches(bias, self.key + 1)
            if self.count or not (plan.sing if self.voice == MELODY else True):
                bias[layout.accompaniment if self.voice == MELODY else layout.bar] = 0.0
        self._repetition(bias)

    def _pitches(self, bias: NDArray[np.float32], lowest: int) -> None:
        keys = slice(lowest - LOWEST, KEYS)
        bias[self.layout.pitch[keys]] = self.plan.pitch_bias[keys]
        if self.voice == MELODY and self.tune is not None:
            far = np.abs(np.arange(lowest, HIGHEST + 1) - self.tune) > LEAP
            bias[self.layout.pitch[np.flatnonzero(far) + lowest - LOWEST]] = -np.inf
        if self.plan.closes:
            minor = self.plan.whole[1] == 1
            keys_left = np.arange(lowest, HIGHEST + 1)
            if self.voice == MELODY:
                # It comes home to the tonic that is nearest to where it was.
                home = np.abs(keys_left - (self.tune or 72)) <= 6
                strange = keys_left[(keys_left % 12 != 0) | ~home]
            else:
                # Nothing of the chord lies above the last note of the tune.
                top = max(self.tops, default=HIGHEST)
                chord = np.isin(keys_left % 12, (0, 3 if minor else 4, 7))
                strange = keys_left[~chord | (keys_left > top)]
            bias[self.layout.pitch[strange - LOWEST]] = -np.inf

    def _repetition(self, bias: NDArray[np.float32]) -> None:
        """Make a bar dear that was said twice already (three times, under the melody)."""
        so_far = len(self.notes)
        before = self.writing.written[-2 if self.voice == MELODY else -3 :]
        if so_far < 5 or len(before) < 2 or any(row[:so_far] != self.notes for row in before):
            return
        follow = {row[so_far] for row in before if len(row) > so_far}
        if len(follow) == 1:
            bias[follow.pop()] -= self.repetition

    def advance(self, token: int, twin: int) -> bool:
        """Take a token that is fed now; True when the attributes of the piece changed."""
        if self.controls:
            self.controls.pop(0)
            self._keep(token, twin)
            return False
        if token == self.layout.bar:
            self.writing.written.append(self.notes)
            changed = self.begin()
            if not self.done:
                self.controls.pop(0)  # the bar line that was just written
                self._keep(token, twin)
            return changed
        self.notes.append(token)
        self._keep(token, twin)
        if self.given:
            self.given.pop(0)
        if self.phase == "chord":
            if len(self.notes) == 2:
                self.phase = "position"
                self.given = [self.layout.melody]
                if self.plan.melody is not None:
                    self.given += [*self.plan.melody, self.layout.accompaniment]
        elif token == self.layout.accompaniment:
            # A bar must sound: where the melody rests, something else does not.
            self.voice, self.phase, self.at, self.key = ACCOMPANIMENT, "position", -1, LOWEST - 1
            self.count = 0 if self.count == 0 or self.plan.closes else self.count
        elif token != self.layout.melody:
            kind, value = self.layout.kind[token]
            if kind == "position":
                self.at, self.key, self.phase = value, LOWEST - 1, "pitch"
            elif kind == "pitch":
                self.key, self.phase = value, "duration"
                if self.voice == MELODY:
                    self.tops.append(value)
                    self.tune = value
            else:
                self.phase, self.count = "next", self.count + 1
        return False

    def _keep(self, token: int, twin: int) -> None:
        known, blank = self.blocks[-1]
        known.append(token)
        blank.append(twin)


@torch.inference_mode()
def write(
    model: Any,
    layout: Layout,
    writings: Sequence[Writing],
    sampling: Sampling,
    on_bar: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write all pieces; each `Writing.written` is filled with the note tokens of its bars.

    on_bar(done, total) is called after every bar of any piece; what it raises ends the writing.
    """
    rows = [_Row(writing, layout, sampling.repetition) for writing in writings]
    total = sum(writing.bars for writing in writings)
    context = _Context(model, layout, rows, twins=sampling.guidance_scale != 1.0)
    bias = np.empty((len(rows), layout.size), dtype=np.float32)
    done = 0
    while not all(row.done for row in rows):
        told = [(layout.pad, layout.pad) if row.done else row.told() for row in rows]
        if None in told:
            bias.fill(-np.inf)
            for index, row in enumerate(rows):
                if told[index] is None:
                    row.allow(bias[index])
            logits = context.logits(sampling.guidance_scale) + torch.from_numpy(bias)
        changed, fed = False, []
        for index, row in enumerate(rows):
            pair = told[index]
            if pair is None:
                heat = CHORD_TEMPERATURE if row.phase == "chord" else 1.0
                token = draw_token(logits[index], sampling, row.generator, heat)
                pair = (token, token)
            fed.append(pair)
            if not row.done:
                changed |= row.advance(*pair)
        if (
            finished := sum(len(row.writing.written) - len(row.writing.lead) for row in rows)
        ) > done:
            done = finished
            on_bar(done, total)
        if changed or context.length >= MEMORY:
            context.rebuild()
        else:
            context.feed(*zip(*fed, strict=True))


def draw_token(
    logits: Tensor, sampling: Sampling, generator: torch.Generator, heat: float = 1.0
) -> int:
    """One token by temperature and nucleus (Holtzman et al. 2020)."""
    if sampling.temperature <= 0:
        return int(logits.argmax())
    chances = torch.softmax(logits.double() / (sampling.temperature * heat), dim=-1)
    ordered, order = chances.sort(descending=True, stable=True)
    keep = ordered.cumsum(0) - ordered < sampling.top_p
    ordered = ordered * keep
    pick = torch.multinomial(ordered / ordered.sum(), 1, generator=generator)
    return int(order[pick])


class _RoomyLayer(DynamicLayer):
    """A cache layer with room ahead: the library's copies all it holds for every token, which was
    a fifth of the time of writing."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append; `keys` and `values` stay views of what is filled."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room: tuple[Tensor, Tensor] | None = None
            self.filled = 0
        end = self.filled + key_states.shape[-2]
        if self.room is None or end > self.room[0].shape[-2]:
            shape = list(key_states.shape)
            shape[-2] = end + ROOM
            fresh = (key_states.new_empty(shape), value_states.new_empty(shape))
            if self.room is not None:
                for new, old in zip(fresh, self.room, strict=True):
                    new[..., : self.filled, :] = old[..., : self.filled, :]
            self.room = fresh
        for whole, states in zip(self.room, (key_states, value_states), strict=True):
            whole[..., self.filled : end, :] = states
        self.filled = end
        self.keys, self.values = self.room[0][..., :end, :], self.room[1][..., :end, :]
        return self.keys, self.values


class _Context:
    """What the transformer has read of every row (and its twin): the key-value cache."""

    def __init__(self, model: Any, layout: Layout, rows: Sequence[_Row], *, twins: bool) -> None:
        self.model, self.layout, self.rows, self.twins = model, layout, rows, twins
        self.device = next(model.parameters()).device
        self.rebuild()

    def rebuild(self) -> None:
        """Read every row anew: its attributes as they are now, and its last bars."""
        texts: list[list[int]] = []
        for which in range(2 if self.twins else 1):
            for row in self.rows:
                head = row.head()[which]
                tail: list[int] = []
                for block in reversed(row.blocks):
                    if tail and len(tail) + len(block[which]) > KEPT:
                        break
                    tail = block[which] + tail
                texts.append(head + tail)
        self.length = max(len(text) for text in texts)
        padded = torch.full((len(texts), self.length), self.layout.pad)
        self.mask = torch.zeros(len(texts), self.length, dtype=torch.int64)
        for index, text in enumerate(texts):
            padded[index, self.length - len(text) :] = torch.tensor(text)
            self.mask[index, self.length - len(text) :] = 1
        self.at = torch.tensor([len(text) for text in texts])
        self.cache = Cache(layer_class_to_replicate=_RoomyLayer)
        positions = (self.mask.cumsum(1) - 1).clamp_min(0)
        self._run(padded, positions)

    def feed(self, tokens: Sequence[int], twins: Sequence[int]) -> None:
        """Read one more token a row."""
        fed = torch.tensor([*tokens, *twins] if self.twins else [*tokens])[:, None]
        self.mask = torch.cat([self.mask, torch.ones(len(fed), 1, dtype=torch.int64)], dim=1)
        positions = self.at[:, None]
        self.at = self.at + 1
        self.length += 1
        self._run(fed, positions)

    def _run(self, tokens: Tensor, positions: Tensor) -> None:
        out = self.model(
            input_ids=tokens.to(self.device),
            attention_mask=None if bool(self.mask.all()) else self.mask.to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.last = out.logits[:, -1].float().cpu()

    def logits(self, scale: float) -> Tensor:
        """(rows, vocabulary) of the next token, guided."""
        if not self.twins:
            return self.last
        known, unknown = self.last.chunk(2)
        return unknown + scale * (known - unknown)
