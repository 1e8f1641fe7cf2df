"""A mild grade of frames towards how light and colour lean with emotion in films.

EmoVid measured over 22,758 clips that positive valence is brighter and slightly more colourful,
high arousal darker but more colourful, each with under 1 % of the variance. So this is a garnish:
at strength 1 it moves brightness and saturation by what 1 % of the variance amounts to, and no
picture becomes sad by it. Colours keep their hue, black stays black and white stays white. It knows
no model and no time: a curve that is smooth gives a grade that is.

Sources: EmoVid (arXiv 2511.11002) for the signs and for the bound (its coefficients are in a
figure and were not read off); spreads of brightness and saturation from OASIS (Kurdi et al. 2017).
"""

from __future__ import annotations

import math

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from adapters.emotion import CORE, VAD

STRONGEST = 4.0
"""Most that may be asked for: beyond it the grade is an effect, not a prior."""

# One per cent of the variance is a correlation of .1: a standard deviation of an axis goes with a
# tenth of one of the picture. Over OASIS (900 pictures) mean HSV brightness has one of .15 and
# saturation one of .19, on a scale where valence and arousal at their extremes are about two away.
_BRIGHTNESS = 2 * 0.1 * 0.15
_SATURATION = 2 * 0.1 * 0.19
# Signs of EmoVid by valence and arousal; "slightly more colourful" is half.
BRIGHTER = (_BRIGHTNESS, -_BRIGHTNESS)
MORE_COLOURFUL = (0.5 * _SATURATION, _SATURATION)
# Usual mean saturation, that the change is a share of (OASIS).
_USUAL_SATURATION = 0.33


class GradeError(ValueError):
    """A grade that cannot be made; one line."""


def grade(frame: Tensor, state: ArrayLike, strength: float = 1.0) -> Tensor:
    """A frame (3, h, w) or frames (n, 3, h, w) in 0..1, graded for (12,) or (n, 12) intensities.

    strength: 0 (the very same values) to 4; 1 is what was measured. At full intensity and strength
    1 mid-grey moves by at most .03 + .03 and saturation by at most a sixth. Raises GradeError.
    """
    if not 0.0 <= strength <= STRONGEST:
        msg = f"grade: allowed 0 to {STRONGEST:g}, received {strength:g}; 1 is what was measured"
        raise GradeError(msg)
    a = torch.as_tensor(state, dtype=torch.float32)
    many = (frame.shape[0],) if frame.ndim == 4 else ()
    fits = a.shape in ((len(CORE),), (*many, len(CORE)))
    if frame.ndim not in (3, 4) or frame.shape[-3] != 3 or not fits:
        msg = (
            "grade: expected (3, h, w) with (12,) or (n, 3, h, w) with (n, 12), received "
            f"{tuple(frame.shape)} with {tuple(a.shape)}"
        )
        raise GradeError(msg)
    if strength == 0 or not a.any():
        return frame
    affect = a @ torch.from_numpy(VAD[:, :2].copy()).float()
    brighter, colourful = (
        (strength * (affect @ torch.tensor(weights)))[..., None, None, None].to(frame.device)
        for weights in (BRIGHTER, MORE_COLOURFUL)
    )
    x = frame.float().clamp(0.0, 1.0)
    # A power of the largest channel keeps both ends; at .5 its slope by the exponent is .5 ln .5.
    power = (1.0 + brighter / (0.5 * math.log(0.5))).clamp(0.5, 2.0)
    value = x.amax(dim=-3, keepdim=True).clamp(min=1e-6)
    x = x * value ** (power - 1.0)
    # Away from the largest channel, which keeps hue and brightness and multiplies HSV saturation.
    below = x.amax(dim=-3, keepdim=True) - x
    most = x.amax(dim=-3, keepdim=True) / below.amax(dim=-3, keepdim=True).clamp(min=1e-6)
    more = (1.0 + colourful / _USUAL_SATURATION).clamp(min=0.0).minimum(most)
    return (x + below * (1.0 - more)).clamp(0.0, 1.0).to(frame.dtype)
