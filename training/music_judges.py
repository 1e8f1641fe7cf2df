"""Judges of music trained on labelled clips: for measuring only, never shipped.

EMOPIA may not be used commercially, so nothing trained on it leaves the folder it is measured in.
Two judges: logistic regression on the thirty-nine features, and a recurrent net over notes that
shares nothing with the critic but the key finder. The net sees pitches relative to the tonic:
without that, valence is mode and mode stays hidden (absolute pitch classes: valence .66, relative
.71). It is an ensemble of the members of a cross-validation by song, so that every clip also has a
reading by a member that never heard its song.

    judge = load_judge(Path(".work/music/judges"))
    judge.read(pieces)      # (n, 4) probabilities of Q1 to Q4

The net follows the bidirectional LSTM with attention of Hung et al. (EMOPIA, 2021), smaller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from adapters.files import replacing
from adapters.piece import Piece
from adapters.tonality import find_key
from training.loop import Average, Log, cosine, load_checkpoint, save_checkpoint

Rows = np.ndarray

NOTES = 128
"""Notes read at once: about twenty seconds of piano."""
COLUMNS = (
    6  # pitch class from the tonic, pitch, velocity, seconds held, since the last onset, chord
)
CONFIG = "config.json"


def notes_of(piece: Piece) -> Rows:
    """(n, COLUMNS) float32 of a piece; n 0 without notes."""
    if not len(piece):
        return np.zeros((0, COLUMNS), np.float32)
    start = piece.seconds_at(piece.onset)
    held = piece.seconds_at(piece.onset + piece.sounding()) - start
    gap = np.diff(start, prepend=start[:1])
    return np.column_stack([
        (piece.pitch - find_key(piece).tonic) % 12,
        (piece.pitch - 60) / 12,
        (piece.velocity - 64) / 16,
        np.log2(np.clip(held, 0.03, 8)),
        np.log2(np.clip(gap, 0.02, 4)) + 2,
        gap < 0.035,
    ]).astype(np.float32)  # fmt: skip


class NoteJudge(nn.Module):
    """Notes (b, NOTES, COLUMNS) and mask (b, NOTES) -> logits (b, 4) of the quadrants."""

    def __init__(self, width: int = 64, tones: int = 16) -> None:
        super().__init__()
        self.tone = nn.Embedding(12, tones)
        self.enter = nn.Linear(tones + COLUMNS - 1, 48)
        self.recur = nn.GRU(48, width, batch_first=True, bidirectional=True)
        self.attend = nn.Linear(2 * width, 1)
        self.drop = nn.Dropout(0.3)
        self.leave = nn.Linear(2 * width, 4)

    def forward(self, notes: Tensor, mask: Tensor) -> Tensor:
        """Return logits."""
        x = torch.cat([self.tone(notes[..., 0].long()), notes[..., 1:]], dim=-1)
        x = self.drop(F.silu(self.enter(x)))
        h, _ = self.recur(x)
        weight = self.attend(h)[..., 0].masked_fill(~mask, -1e4).softmax(1)
        return self.leave(self.drop((h * weight[..., None]).sum(1)))


class Judge:
    """An ensemble of `NoteJudge`; reads pieces in windows and averages."""

    def __init__(self, members: Sequence[NoteJudge]) -> None:
        self.members = [member.eval() for member in members]

    @torch.no_grad()
    def read(self, pieces: Sequence[Piece]) -> Rows:
        """(n, 4) probabilities of Q1 to Q4; a piece without notes reads as anything, .25 each."""
        return np.array([self._of([notes_of(piece)], self.members)[0] for piece in pieces])

    @torch.no_grad()
    def _of(self, clips: Sequence[Rows], members: Sequence[NoteJudge]) -> Rows:
        out = np.full((len(clips), 4), 0.25)
        for i, notes in enumerate(clips):
            if len(notes):
                x, mask = _padded(_windows(notes))
                each = [member(x, mask).softmax(1).mean(0) for member in members]
                out[i] = torch.stack(each).mean(0).double().numpy()
        return out


def read_notes(members: Sequence[NoteJudge], clips: Sequence[Rows]) -> Rows:
    """(n, 4) probabilities of clips given as `notes_of`."""
    return Judge(members)._of(clips, members)


def _windows(notes: Rows) -> list[Rows]:
    """Windows of NOTES that overlap by a quarter and cover all notes."""
    if len(notes) <= NOTES:
        return [notes]
    count = 1 + int(np.ceil((len(notes) - NOTES) / (NOTES * 0.75)))
    starts = np.linspace(0, len(notes) - NOTES, count).astype(int)
    return [notes[s : s + NOTES] for s in starts]


def _padded(windows: Sequence[Rows]) -> tuple[Tensor, Tensor]:
    x = torch.zeros(len(windows), NOTES, COLUMNS)
    mask = torch.zeros(len(windows), NOTES, dtype=torch.bool)
    for i, w in enumerate(windows):
        x[i, : len(w)], mask[i, : len(w)] = torch.from_numpy(w), True
    return x, mask


def folds(groups: Sequence[str], count: int = 5) -> Rows:
    """(n,) fold 0..count-1 of each clip; all clips of a song are in one fold."""
    names = np.random.default_rng(0).permutation(np.unique(groups))
    place = {name: i % count for i, name in enumerate(names)}
    return np.array([place[name] for name in groups])


def train_judge(
    clips: Sequence[Rows],
    quadrants: Rows,
    work: Path,
    *,
    epochs: int = 12,
    batch: int = 32,
    seed: int = 0,
) -> NoteJudge:
    """One member from clips (`notes_of`) and their quadrants 0..3; resumes from `work`.

    Level and tempo are shaken and notes are shortened at random: how loud a recording is and how
    long its transcriber held notes are habits of the set.
    """
    torch.manual_seed(seed)  # initial weights and dropout
    model = NoteJudge()
    average = Average(model, 0.995)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    g = torch.Generator().manual_seed(seed)
    target = torch.from_numpy(quadrants.astype(np.int64))
    steps = epochs * len(clips) // batch
    start = load_checkpoint(work, {"model": model}, {"average": average}, optimizer, g)
    log = Log(work.with_suffix(".jsonl"), batch)
    model.train()
    for step in range(start, steps):
        drawn = torch.randint(len(clips), (batch,), generator=g).tolist()
        windows = []
        for index in drawn:
            first = torch.randint(max(1, len(clips[index]) - NOTES + 1), (1,), generator=g).item()
            windows.append(clips[index][int(first) : int(first) + NOTES])
        x, mask = _padded(windows)
        shift = torch.randn(batch, 4, generator=g)
        x[..., 2] += 0.35 * shift[:, :1]
        x[..., 3] += 0.25 * shift[:, 1:2] - torch.rand(batch, 1, generator=g)
        x[..., 3:5] += 0.15 * shift[:, 2:3, None]
        x[..., 1] += 0.15 * shift[:, 3:]
        loss = F.cross_entropy(model(x, mask), target[drawn], label_smoothing=0.1)
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, 3e-3, 40)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step)
        log.add(loss=loss)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            log.report(step + 1)
            save_checkpoint(work, step + 1, {"model": model}, {"average": average}, optimizer, g)
    model.load_state_dict(average.state)
    return model.eval()


def save_judge(judge: Judge, folder: Path, about: dict[str, object]) -> None:
    """Write the members and what they were trained on. Not for assets: see above."""
    for k, member in enumerate(judge.members):
        with replacing(folder / f"member-{k}.safetensors") as path:
            save_file(member.state_dict(), path)
    with replacing(folder / CONFIG) as path:
        path.write_text(json.dumps({"members": len(judge.members), **about}, indent=1) + "\n")


def load_judge(folder: Path) -> Judge:
    """Load what `save_judge` wrote.

    Raises:
        ValueError: there is none.
    """
    if not (folder / CONFIG).is_file():
        msg = f"judge: none in {folder}; train it with python -m training.music_critic --judges"
        raise ValueError(msg)
    members = []
    for k in range(int(json.loads((folder / CONFIG).read_text())["members"])):
        member = NoteJudge()
        member.load_state_dict(load_file(folder / f"member-{k}.safetensors"))
        members.append(member)
    return Judge(members)


def logistic_regression(
    x: Rows, y: Rows, strength: float = 3e-3, classes: int = 4
) -> Callable[[Rows], Rows]:
    """Multinomial regression on standardised features (m, n) with an L2 penalty; nan is average.

    Returns a function (k, n) -> probabilities (k, classes).
    """
    centre, scale = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
    scale = np.where(scale > 1e-9, scale, 1.0)

    def standard(rows: Rows) -> Tensor:
        z = np.nan_to_num((rows - centre) / scale).clip(-5, 5)
        return torch.from_numpy(z)

    z, label = standard(x), torch.from_numpy(y.astype(np.int64))
    weight = torch.zeros(z.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(z @ weight + bias, label) + strength * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        w, b = weight.detach().clone(), bias.detach().clone()
    return lambda rows: (standard(rows) @ w + b).softmax(1).numpy()
