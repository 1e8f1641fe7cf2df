"""How each modality's critic is fitted to a folder and asked about what it has not seen.

Four small classes around the recipes that made the embedded critics (`training.critic`,
`voice_critic`, `music_reader`, `portrait_critic`): same features, same networks, same losses. Each
has the same six methods, which `training.critic_folder` calls:

    fit(at, of)          a critic from samples `at`, the k-th with the label of sample of[k]
    raw(critic, at)      arrays (n, ...) that the critic says of samples, before any temperature
    tune(raw)            take up what makes them fit their labels; True: fit and ask again
    told(raw)            (n, 13) probabilities, neutral first, and (n, 2) valence and arousal
    finish(critic)       put what was tuned into the shipped critic
    save(critic, folder) write it as its sisters are

Knows no groups, folds or figures.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adapters import metrics
from adapters.assets import ASSETS
from adapters.critic import ImageCritic
from adapters.emotion import CORE, VAD
from adapters.face_motion import read_csv
from adapters.face_reading import CONTEMPT_VAD, told
from adapters.files import replacing
from adapters.motion_critic import DEGREES, FPS, KINDS, MotionCritic, rows_of, statistics
from adapters.music_attributes import FEATURES, features
from adapters.music_critic import SIGNS, UNIT, MusicCritic, save_music_critic
from adapters.voice_critic import VoiceCritic
from adapters.voice_reading import CLASSES
from pipelines.media_midi import load_midi
from training import critic, music_reader, portrait_critic, voice_critic
from training.config_critic import Critic
from training.data import open_cache
from training.folder import DataError, Dataset, Sample
from training.labels import Row
from training.voice_critic_data import Clip, Measured, measured

Floats = NDArray[np.float64]
Raw = dict[str, NDArray[Any]]
Tell = Callable[[str], None]

PASSES, LEAST_SEEN, MOST_SEEN = 20, 6_400, 180_000
"""Pictures: times each is seen, and the fewest and most crops of a fit (the recipe's own: most)."""
WINDOWS = 9_000
"""Windows of motion a fit sees, at most: the recipe's own number."""


def affect_of(samples: Sequence[Sample]) -> Floats:
    """(n, 2) valence and arousal as rated, else those of the labelled emotions."""
    said = np.stack([sample.state for sample in samples]) @ VAD[:, :2]
    for row, sample in zip(said, samples, strict=True):
        if sample.vad is not None:
            row[:] = sample.vad[:2]
    return np.asarray(said)


def soft_of(samples: Sequence[Sample]) -> Floats:
    """(n, 13) soft labels."""
    return np.stack([sample.label for sample in samples])


class Pictures:
    """ImageCritic by training.critic.train_critic."""

    name = "critic-image"

    def __init__(self, data: Dataset, given: Critic, work: Path, tell: Tell) -> None:
        self.samples, self.given, self.work = list(data), given, work
        self.warm = _weights_of(given.begin)
        self.cache = open_cache(work / "cache", [s.path for s in data], critic.SHORT_SIDE)
        soft, affect = soft_of(self.samples), affect_of(self.samples)
        rated = any(s.vad is not None for s in data)
        self.rows = [
            Row(
                path=s.path, set="folder", split="train", caption=s.caption, soft=soft[k],
                valence=float(affect[k, 0]), arousal=float(affect[k, 1]),
                human=s.vad is not None or not rated, licence_ok_to_ship=False,
            )
            for k, s in enumerate(data)
        ]  # fmt: skip
        self.heads: dict[str, torch.Tensor] = {}

    def fit(self, at: Sequence[int], of: Sequence[int]) -> ImageCritic:
        """The convolutional critic; labels are those of `of`, captions stay with the pictures."""
        rows = [
            replace(
                self.rows[i], soft=self.rows[j].soft, valence=self.rows[j].valence,
                arousal=self.rows[j].arousal, human=self.rows[j].human,
            )
            for i, j in zip(at, of, strict=True)
        ]  # fmt: skip
        seen = min(MOST_SEEN, max(LEAST_SEEN, PASSES * len(at))) * self.given.effort
        key = hashlib.sha256(repr((list(at), list(of))).encode()).hexdigest()[:12]
        return critic.train_critic(
            rows, self.cache, list(at), self.work / f"fit-{key}", samples=int(seen),
            seed=self.given.seed, warm=self.warm, aside=lambda row: False, quiet=True,
        )  # fmt: skip

    def raw(self, model: ImageCritic, at: Sequence[int]) -> Raw:
        """Heads of pictures as they are."""
        return {k: v.numpy() for k, v in critic.predict(model, self.cache, list(at)).items()}

    def tune(self, raw: Raw) -> bool:
        """The heads themselves are what the scales are taken from."""
        self.heads = {key: torch.from_numpy(value) for key, value in raw.items()}
        return False

    def told(self, raw: Raw) -> tuple[Floats, Floats]:
        """Probabilities at the temperature that fits these pictures' soft labels."""
        logits = raw["logits"].astype(np.float64)
        heat = metrics.fit_temperature(logits, soft_of(self.samples))
        return metrics.softmax(logits, heat), raw["affect"].astype(np.float64)

    def finish(self, model: ImageCritic) -> None:
        """Temperature, intensity scale, variances and domain, from what folds had not seen."""
        affect = torch.tensor([[row.valence, row.arousal] for row in self.rows])
        human = np.array([row.human for row in self.rows])
        critic.settle(model, self.heads, soft_of(self.samples), affect, human)
        cloud = critic.predict(model, self.cache, range(len(self.rows)))["embedding"]
        critic.set_domain(model, cloud, cloud)

    def save(self, model: ImageCritic, folder: Path) -> None:
        """For `adapters.critic.load_critic`."""
        _named(model, self.given, folder)


def _weights_of(begin: str) -> Path | None:
    if begin in ("", "none"):
        return None
    folder = ASSETS / "models" / begin
    folder = folder if folder.is_dir() else Path(begin).expanduser()
    path = folder / "diffusion_pytorch_model.safetensors"
    if not path.is_file():
        msg = f'begin: {begin} is no critic of pictures; give its folder, critic-image, or "none"'
        raise DataError(msg)
    return path


def _named(model: Any, given: Critic, folder: Path) -> None:
    """Save a diffusers model under the name of its folder."""
    model.register_to_config(label=Path(given.out).name or model.name)
    model.save_pretrained(folder, safe_serialization=True)


class Voices:
    """VoiceCritic by training.voice_critic.fit_critic."""

    name = "critic-voice"

    def __init__(self, data: Dataset, given: Critic, work: Path, tell: Tell) -> None:
        self.samples, self.given = list(data), given
        self.epochs = max(1, round(voice_critic.EPOCHS * given.effort))
        clips = [
            Clip(
                path=s.name, dataset="folder", emotion=s.emotion, sex="", sentence=s.sentence,
                speaker=hashlib.sha256((s.origin or s.name).encode()).hexdigest()[:12],
                split="train",
            )
            for s in data
        ]  # fmt: skip
        rows: list[Measured] = []
        place = {clip.path: k for k, clip in enumerate(clips)}
        for session in range(given.sessions + 1):
            tell(f"voices: what {len(clips)} clips sound like, room {session} of {given.sessions}")
            found = {m.clip.path: m for m in measured(clips, session, data.root, work)}
            rows += [found[clip.path] for clip in clips]
        self.count = len(place)
        self.corpus = voice_critic.Corpus.of(rows)
        self.heat = {False: 1.0, True: 1.0}

    def _every(self, at: Sequence[int]) -> list[int]:
        """Rows of samples in all sessions."""
        return [k * self.count + i for k in range(self.given.sessions + 1) for i in at]

    def fit(self, at: Sequence[int], of: Sequence[int]) -> VoiceCritic:
        """The networks; with shuffled labels nobody's neutral speech is known to be neutral."""
        label = dict(zip(at, [self.samples[j].emotion for j in of], strict=True))
        rows = [
            replace(row, clip=replace(row.clip, emotion=label[k % self.count]))
            for k, row in zip(
                self._every(at), [self.corpus.rows[k] for k in self._every(at)], strict=True
            )
        ]
        corpus = voice_critic.Corpus.of(rows)
        return voice_critic.fit_critic(corpus, epochs=self.epochs, seed=self.given.seed, say=False)

    def raw(self, model: VoiceCritic, at: Sequence[int]) -> Raw:
        """Logits alone and against the speaker's other neutral clips (nan: there are none)."""
        alone = voice_critic.logits_of(model, self.corpus, at, known=False)
        against = voice_critic.logits_of(model, self.corpus, at, known=True)
        lacking = [not len(self.corpus.of_speaker(i)) for i in at]
        against[lacking] = np.nan
        readings = [
            model.read_frames(
                [self.corpus.rows[i].frames.astype(np.float32)],
                None if no else self.corpus.base(i, self.corpus.statistics).astype(np.float64),
            )[0]
            for i, no in zip(at, lacking, strict=True)
        ]
        affect = np.array([reading.vad_mean[:2] for reading in readings])
        return {"alone": alone, "against": against, "affect": affect}

    def tune(self, raw: Raw) -> bool:
        """Temperatures without and with a reference."""
        y = np.array([CLASSES.index(s.emotion) for s in self.samples])
        self.heat[False] = voice_critic.temperature(raw["alone"], y)
        known = np.isfinite(raw["against"][:, 0])
        self.heat[True] = self.heat[False]
        if known.any():
            self.heat[True] = voice_critic.temperature(raw["against"][known], y[known])
        return False

    def told(self, raw: Raw) -> tuple[Floats, Floats]:
        """What the clip was acted as, of the seven classes, set against neutral where known."""
        known = np.isfinite(raw["against"][:, 0])
        classes = metrics.softmax(raw["alone"], self.heat[False])
        if known.any():
            classes[known] = metrics.softmax(raw["against"][known], self.heat[True])
        p = np.zeros((len(classes), 1 + len(CORE)))
        for k, name in enumerate(CLASSES):
            p[:, 0 if name == "neutral" else 1 + CORE.index(name)] = classes[:, k]
        return p, raw["affect"]

    def finish(self, model: VoiceCritic) -> None:
        """Both temperatures."""
        model.temperature.copy_(torch.tensor([self.heat[False], self.heat[True]]))

    def save(self, model: VoiceCritic, folder: Path) -> None:
        """For `adapters.voice_critic.load_voice_critic`."""
        _named(model, self.given, folder)


class Pieces:
    """MusicCritic by training.music_reader, from the folder's own figures."""

    name = "critic-music"

    def __init__(self, data: Dataset, given: Critic, work: Path, tell: Tell) -> None:
        self.samples, self.given, self.heat = list(data), given, 1.0
        path = work / "features.npy"
        if not path.is_file():
            tell(f"music: what {len(data)} pieces are like")
            found = np.array([features(load_midi(s.path)) for s in data])
            with replacing(path) as fresh:
                np.save(fresh, found)
        self.x: Floats = np.load(path)
        self.affect = affect_of(self.samples)
        if float(self.affect.std(axis=0).min()) < 0.02:
            axis = ("valence", "arousal")[int(self.affect.std(axis=0).argmin())]
            msg = f"data: all pieces have the same {axis}; a critic of music needs both to differ"
            raise DataError(msg)

    def fit(self, at: Sequence[int], of: Sequence[int]) -> MusicCritic:
        """In closed form, from figures measured as the published ones were."""
        x = self.x[list(at)]
        known = np.flatnonzero(np.isfinite(x).mean(axis=0) > 0.5)
        varied = {FEATURES[j] for j in known if np.nanstd(x[:, j]) > 1e-6}
        names = [name for name in music_reader.CRITIC_FEATURES if name in varied]
        columns = [FEATURES.index(name) for name in names]
        figures = music_reader.measure_anchors(x[:, columns], self.affect[list(of)], names)
        found = music_reader.fit_critic({"folder": figures}, x, names=names, heat=self.heat)
        return MusicCritic(found.model, names, Path(self.given.out).name or self.name)

    def raw(self, model: MusicCritic, at: Sequence[int]) -> Raw:
        """Probabilities, affect, and logits of the quadrants."""
        x = self.x[list(at)][:, model._columns]
        found = model.model.readings(x, self.name)
        z = model.model.deviations(x)
        return {
            "p": np.array([reading.probabilities for reading in found]),
            "affect": np.array([reading.vad_mean[:2] for reading in found]),
            "quadrants": np.log(model.model.quadrants(z).clip(1e-12)),
        }

    def tune(self, raw: Raw) -> bool:
        """The noise that makes the quadrants' probabilities fit; emotions follow from a new fit."""
        middle = self.affect - self.affect.mean(axis=0)
        near = ((middle / UNIT)[:, None] * SIGNS[None]).sum(axis=2).argmax(axis=1)
        heat = metrics.fit_temperature(raw["quadrants"], np.eye(len(SIGNS))[near])
        changed = self.heat == 1.0 and abs(np.log(heat)) > 0.02
        if changed:
            self.heat = heat
        return changed

    def told(self, raw: Raw) -> tuple[Floats, Floats]:
        """As the critic reads them."""
        return raw["p"], raw["affect"]

    def finish(self, model: MusicCritic) -> None:
        """The temperature is in the noise already."""

    def save(self, model: MusicCritic, folder: Path) -> None:
        """For `adapters.music_critic.load_music_critic`."""
        save_music_critic(model, folder)


class Motions:
    """MotionCritic by training.portrait_critic.fit_critic, on windows of recordings."""

    name = "critic-portrait"

    def __init__(self, data: Dataset, given: Critic, work: Path, tell: Tell) -> None:
        self.samples, self.given, self.heat = list(data), given, 1.0
        self.motions = [read_csv(s.path).resampled(FPS) for s in data]
        self.labels = torch.zeros(len(self.samples), len(KINDS))
        self.labels[:, : 1 + len(CORE)] = torch.from_numpy(soft_of(self.samples)).float()

    def fit(self, at: Sequence[int], of: Sequence[int]) -> MotionCritic:
        """The networks on windows of .8 to 3.2 s, as many of a second in every recording."""
        rng = np.random.default_rng(self.given.seed)
        seconds = np.array([self.motions[i].seconds for i in at])
        each = np.maximum(8, WINDOWS * seconds / max(float(seconds.sum()), WINDOWS / 4)).astype(int)
        found, labels = [], []
        for i, j, count in zip(at, of, each, strict=True):
            rows = rows_of(self.motions[i])
            for _ in range(int(count)):
                size = int(rng.integers(portrait_critic.SHORTEST, portrait_critic.FRAMES + 1))
                first = int(rng.integers(0, max(1, len(rows) - size + 1)))
                part = self._window(rows[first : first + size], rng)
                found.append(statistics(part[None], torch.ones(1, len(part)))[0])
                labels.append(self.labels[j])
        steps = max(1, round(portrait_critic.STEPS * self.given.effort))
        return portrait_critic.fit_critic(
            torch.stack(found), torch.stack(labels), steps=steps, seed=self.given.seed
        )

    def _window(self, rows: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Half of the windows with left and right exchanged."""
        if rng.random() < 0.5:
            return rows
        curves, pose = portrait_critic.mirrored(
            rows[:, :-3].numpy(), (rows[:, -3:] * DEGREES).numpy()
        )
        return torch.from_numpy(np.concatenate([curves, pose / DEGREES], axis=1))

    def raw(self, model: MotionCritic, at: Sequence[int]) -> Raw:
        """Mean logits of whole recordings."""
        with torch.no_grad():
            rows = [rows_of(self.motions[i])[None] for i in at]
            logits = [model.logits(r, torch.ones(r.shape[:2])).mean(0)[0] for r in rows]
        return {"logits": torch.stack(logits).double().numpy()}

    def tune(self, raw: Raw) -> bool:
        """A temperature that makes recordings fit their soft labels."""
        self.heat = metrics.fit_temperature(raw["logits"], self.labels.double().numpy())
        return False

    def told(self, raw: Raw) -> tuple[Floats, Floats]:
        """Shares of the thirteen; contempt is told among them as the critic tells it."""
        p = metrics.softmax(raw["logits"], self.heat)
        points = np.concatenate([np.zeros((1, 3)), VAD, [CONTEMPT_VAD]])
        return told(p), (p @ points)[:, :2]

    def finish(self, model: MotionCritic) -> None:
        """The temperature."""
        model.temperature.fill_(self.heat)

    def save(self, model: MotionCritic, folder: Path) -> None:
        """For `adapters.motion_critic.load_portrait_critic`."""
        _named(model, self.given, folder)


LEARNERS: Mapping[str, Callable[[Dataset, Critic, Path, Tell], Any]] = {
    "image": Pictures, "voice": Voices, "music": Pieces, "motion": Motions
}  # fmt: skip
