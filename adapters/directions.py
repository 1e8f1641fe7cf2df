"""Emotion directions in a pipeline's own text conditioning: fitted in seconds, no training.

From prompts that say the same thing with and without an emotion,

    d_k = mean over pairs of h(emotional) - h(neutral),   nuisances projected out
    D = M W + R  (ridge),      h' = h + strength * (a D + r W)

with M (12, 3) the valence, arousal and dominance of the core emotions, `a` the intensities and `r`
what is left of a VAD point. Categories, VAD sliders and unseen words so share one pair (W, R). One
direction is kept for each part of the text (words, end, padding: see conditioning.py) and one for
the pooled vector. Sources: text embedding interpolation (arXiv 2603.17998) for differences of
means; the factorisation is this project's own.

It does not know how a good strength is found (calibration.py), nor where emotions come from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from adapters.basis import factorise, nuisance_axes, project_out
from adapters.conditioning import POOLED, Encoded, encode, intercept, part_means, part_names
from adapters.emotion import CORE, VAD
from adapters.families import model_digest, require
from adapters.files import replacing

__all__ = ["DirectionBank", "DirectionError", "encode"]

Pairs = Mapping[str, Sequence[tuple[str, str]]]

FORMAT = 1
"""Version of the file layout and of the fitting rule; a cached bank of another one is refitted."""
RIDGE = 0.1
"""Weight of |W|^2. The squared singular values of M are 6.1, 2.4 and .71, so only the weakest of
the three axes, mostly dominance, is held back at all (by an eighth)."""
COMPONENTS = 2
"""Principal components of the spread between scenes that are taken out of every direction."""
TOKENS = "tokens"


class DirectionError(ValueError):
    """Directions cannot be fitted, read or applied as asked; the message says what to do."""


@dataclass(frozen=True, slots=True)
class DirectionBank:
    """The directions of one model.

    vectors: name -> (12, D) float32, rows in the order of CORE, at full intensity. Names are the
        parts of the text ("clip.words", "t5.pad", ...), "pooled" where the family has a pooled
        vector, and "tokens", their mean weighted by how often each part occurs (for reports).
    W: name -> (3, D) float32, from valence, arousal, dominance.
    r_squared: name -> share of |D|^2 that M W explains. Directions at random would give 3/12.
    kept: name -> share of the norm of each direction (12) that the nuisance projection left.
    """

    digest: str
    family: str
    vectors: dict[str, Tensor]
    W: dict[str, Tensor]
    r_squared: dict[str, float]
    kept: dict[str, list[float]]
    pairs: int
    names: tuple[str, ...] = CORE

    @property
    def R(self) -> dict[str, Tensor]:
        """Name -> (12, D): what the category adds beyond its VAD point, D - M W."""
        M = torch.from_numpy(VAD.astype(np.float32))
        return {name: vectors - M @ self.W[name] for name, vectors in self.vectors.items()}

    @classmethod
    def fit(
        cls,
        pipe: Any,
        pairs: Pairs | None = None,
        *,
        vocabulary: str = "rich",
        nuisances: Sequence[tuple[str, str]] = (),
        components: int = COMPONENTS,
        ridge: float = RIDGE,
        batch_size: int = 8,
        **options: Any,
    ) -> DirectionBank:
        """Fit the directions of `pipe` from same-content prompt pairs.

        Args:
            pairs: core emotion -> [(neutral, emotional), ...]; None takes this project's own
                scenes in `vocabulary` ("rich", or "image-tiny" for the embedded painter).
            nuisances: prompt pairs that differ in something no direction should carry, such as
                ("a young woman", "a young man"); their mean difference is projected out.
            components: principal components of the spread between pairs to project out.
            ridge: weight of |W|^2, at least 0.
            options: further arguments of the pipeline's encode_prompt.

        Raises:
            DirectionError: an emotion without pairs, or a number out of range.
            FamilyError: a pipeline without text conditioning.
        """
        row = require(pipe, "directions")
        pairs = _checked(pairs, vocabulary)
        if components < 0 or ridge < 0:
            msg = f"components, ridge: must be 0 or more, got {components} and {ridge}"
            raise DirectionError(msg)
        texts = [text for name in CORE for pair in pairs[name] for text in pair]
        texts = list(dict.fromkeys([*texts, *(text for pair in nuisances for text in pair)]))
        means, counts = part_means(pipe, texts, batch_size, **options)
        vectors, kept = {}, {}
        for name, mean in means.items():
            differences = [_differences(mean, texts, pairs[emotion]) for emotion in CORE]
            if any(len(rows) == 0 for rows in differences):
                continue  # a part that the prompts of this model never have
            D = torch.stack([rows.mean(dim=0) for rows in differences])
            N = nuisance_axes(differences, _differences(mean, texts, nuisances), components)
            clean = project_out(D, N)
            kept[name] = (clean.norm(dim=1) / D.norm(dim=1).clamp_min(1e-12)).tolist()
            vectors[name] = clean
        shares = {name: counts[name] for name in part_names(row) if name in vectors}
        vectors[TOKENS] = sum(vectors[name] * share for name, share in shares.items()) / sum(
            shares.values()
        )
        factors = {name: factorise(D, ridge) for name, D in vectors.items()}
        return cls(
            digest=model_digest(pipe),
            family=row.name,
            vectors={name: D.float() for name, D in vectors.items()},
            W={name: W.float() for name, (W, _) in factors.items()},
            r_squared={name: share for name, (_, share) in factors.items()},
            kept=kept,
            pairs=sum(len(pairs[name]) for name in CORE),
        )

    @classmethod
    def cached(
        cls, pipe: Any, cache_dir: Path | str, pairs: Pairs | None = None, **fit: Any
    ) -> DirectionBank:
        """The bank of this model and these pairs from `cache_dir`, fitted and kept there if new.

        The file is named by the model digest and the fitting data, so a changed model or changed
        pairs are refitted; an unreadable file is replaced. Arguments as in `fit`.
        """
        used = _checked(pairs, fit.get("vocabulary", "rich"))
        recipe = {key: value for key, value in sorted(fit.items()) if key != "batch_size"}
        key = json.dumps([FORMAT, {name: list(used[name]) for name in CORE}, recipe], default=str)
        digest = model_digest(pipe)
        mark = hashlib.sha256(key.encode()).hexdigest()[:8]
        path = Path(cache_dir) / f"directions-{digest}-{mark}.safetensors"
        if path.is_file():
            try:
                found = cls.load(path)
            except DirectionError:
                path.unlink(missing_ok=True)
            else:
                if found.digest == digest:
                    return found
        bank = cls.fit(pipe, used, **fit)
        bank.save(path)
        return bank

    def save(self, path: Path | str) -> Path:
        """Write one safetensors file (atomically) with the facts as JSON in its metadata."""
        tensors = {f"D.{name}": D.contiguous() for name, D in self.vectors.items()}
        tensors |= {f"W.{name}": W.contiguous() for name, W in self.W.items()}
        facts = {"format": FORMAT, "names": list(self.names), **self.report()}
        with replacing(path) as fresh:
            save_file(tensors, fresh, metadata={"affect": json.dumps(facts, sort_keys=True)})
        return Path(path)

    @classmethod
    def load(cls, path: Path | str) -> DirectionBank:
        """Read a file that `save` wrote. Raises DirectionError for any other."""
        try:
            with safe_open(str(path), framework="pt") as file:
                facts = json.loads((file.metadata() or {})["affect"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            if facts["format"] != FORMAT or tuple(facts["names"]) != CORE:
                msg = f"directions: {path} is of another format or emotion list; fit it again"
                raise DirectionError(msg)
            return cls(
                digest=facts["digest"],
                family=facts["family"],
                vectors={key[2:]: value for key, value in tensors.items() if key[:2] == "D."},
                W={key[2:]: value for key, value in tensors.items() if key[:2] == "W."},
                r_squared=facts["r_squared"],
                kept=facts["kept"],
                pairs=facts["pairs"],
            )
        except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
            msg = f"directions: {path} is not a direction file ({type(error).__name__}); fit again"
            raise DirectionError(msg) from error

    def report(self) -> dict[str, Any]:
        """JSON facts: model digest, pairs used, R^2 of M W per part (chance .25), norms kept."""
        return {
            "digest": self.digest,
            "family": self.family,
            "pairs": self.pairs,
            "r_squared": self.r_squared,
            "r_squared_chance": VAD.shape[1] / VAD.shape[0],
            "kept": self.kept,
        }

    def offsets(
        self, track: ArrayLike, strength: float = 1.0, residuals: ArrayLike | None = None
    ) -> dict[str, Tensor]:
        """What to add: name -> (B, D) = strength * (track D + residuals W).

        track: (B, 12) intensities in the order of CORE (already calibrated; negative is allowed and
        points the other way). residuals: (B, 3) VAD left unexplained.
        """
        a, r = _rows(track, residuals)
        return {name: strength * (a @ D + r @ self.W[name]) for name, D in self.vectors.items()}

    def shift(
        self,
        pipe: Any,
        encoded: Encoded,
        track: ArrayLike,
        strength: float = 1.0,
        residuals: ArrayLike | None = None,
    ) -> Encoded:
        """`encoded` moved along the directions; rows of `track` as in `steer`."""
        offsets = self.offsets(track, strength, residuals)
        names = part_names(require(pipe, "directions"))
        batch = len(encoded.tokens)
        rows = _assign(len(offsets[TOKENS]), batch, encoded.prompts)
        first = encoded.tokens[0]
        width = self.vectors[TOKENS].shape[1]
        if first.shape[-1] != width:
            msg = (
                f"directions: fitted on {self.family} ({width} features), but this pipeline has "
                f"{first.shape[-1]}; fit them on it"
            )
            raise DirectionError(msg)
        # One more row than parts: UNTOUCHED (-1) picks the last, which is zero.
        table = torch.zeros(batch, len(names) + 1, width)
        for index, name in enumerate(names):
            if name in offsets:
                table[:, index] = offsets[name][rows]
        table = table.to(first.device)
        tokens: Tensor | list[Tensor]
        if isinstance(encoded.tokens, list):
            tokens = [
                _added(token, table[index, part])
                for index, (token, part) in enumerate(
                    zip(encoded.tokens, encoded.parts, strict=True)
                )
            ]
        else:
            chosen = torch.arange(batch, device=first.device)[:, None]
            tokens = _added(encoded.tokens, table[chosen, encoded.parts])
        pooled = encoded.pooled
        if pooled is not None and POOLED in offsets:
            pooled = _added(pooled, offsets[POOLED][rows].to(pooled.device))
        return replace(encoded, tokens=tokens, pooled=pooled)

    @contextmanager
    def steer(
        self,
        pipe: Any,
        track: ArrayLike,
        strength: float = 1.0,
        residuals: ArrayLike | None = None,
    ) -> Iterator[None]:
        """While open, every run of `pipe` is conditioned on `track`; nothing is left behind.

        Args:
            track: (B, 12) intensities, one row for all pictures, one per prompt, or one per
                picture (prompts x num_images_per_prompt, the pictures of a prompt in a row).
                Z-Image repeats its prompts itself: there, one row per prompt.
            strength: 0 leaves the pipeline untouched (bit-equal); 1 adds the natural length of
                the directions; any finite number is allowed.
            residuals: (B, 3) VAD that the intensities leave unexplained.

        The conditional branch only. `prompt_embeds=` passed by the caller is not moved: use
        `shift` on what `encode` returns.

        Raises:
            DirectionError: wrong shapes or numbers (at once), a number of rows that does not fit
                the pictures, or a pipeline of another width (at the first run).
            FamilyError: a pipeline without text conditioning.
        """
        require(pipe, "directions")
        a, r = _rows(track, residuals)
        if not np.isfinite(strength):
            msg = f"strength: must be a finite number, got {strength}; 0 is off, 1 is natural"
            raise DirectionError(msg)
        if strength == 0 or not (a.any() or r.any()):
            yield
            return
        with intercept(pipe, lambda encoded: self.shift(pipe, encoded, a, strength, r)):
            yield


def _checked(pairs: Pairs | None, vocabulary: str) -> dict[str, list[tuple[str, str]]]:
    """Pairs for each core emotion, at least one each."""
    if pairs is None:
        from adapters.content import pairs as own_pairs

        return {name: own_pairs(name, vocabulary) for name in CORE}
    missing = [name for name in CORE if not pairs.get(name)]
    if missing:
        msg = (
            f"pairs: none for {', '.join(missing)}; give (neutral, emotional) prompts for each of "
            "the 12 core emotions, or None for the built-in ones"
        )
        raise DirectionError(msg)
    return {name: [(str(a), str(b)) for a, b in pairs[name]] for name in CORE}


def _differences(mean: Tensor, texts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Tensor:
    """(n, D) emotional minus neutral, leaving out pairs in which the part is absent."""
    place = {text: index for index, text in enumerate(texts)}
    rows = [mean[place[second]] - mean[place[first]] for first, second in pairs]
    stacked = torch.stack(rows) if rows else mean.new_zeros(0, mean.shape[1])
    return stacked[torch.isfinite(stacked).all(dim=1)]


def _rows(track: ArrayLike, residuals: ArrayLike | None) -> tuple[Tensor, Tensor]:
    """Float32 (B, 12) and (B, 3), checked; a single row may be given flat."""
    a = torch.as_tensor(np.atleast_2d(np.asarray(track, dtype=np.float32)))
    r = torch.zeros(len(a), VAD.shape[1])
    if residuals is not None:
        r = torch.as_tensor(np.atleast_2d(np.asarray(residuals, dtype=np.float32)))
    if a.ndim != 2 or a.shape[1] != len(CORE) or r.shape != (len(a), VAD.shape[1]):
        msg = (
            f"track, residuals: need shapes (B, {len(CORE)}) and (B, 3), got {tuple(a.shape)} and "
            f"{tuple(r.shape)}; give one row per picture"
        )
        raise DirectionError(msg)
    if not (torch.isfinite(a).all() and torch.isfinite(r).all()):
        msg = "track, residuals: must be finite numbers; check the emotion they were made from"
        raise DirectionError(msg)
    return a, r


def _assign(rows: int, batch: int, prompts: int) -> Tensor:
    """(batch,) which row of the track each picture takes."""
    if rows == 1:
        return torch.zeros(batch, dtype=torch.int64)
    if rows == batch:
        return torch.arange(batch)
    if rows == prompts:
        return torch.arange(prompts).repeat_interleave(batch // prompts)
    msg = (
        f"track: {rows} rows do not fit {prompts} prompts and {batch} pictures; give one row, one "
        "per prompt or one per picture (Z-Image: repeat the prompt, not num_images_per_prompt)"
    )
    raise DirectionError(msg)


def _added(base: Tensor, offset: Tensor) -> Tensor:
    """Sum in float32, returned in the dtype of `base`; exact where the offset is zero."""
    return (base.float() + offset).to(base.dtype)
