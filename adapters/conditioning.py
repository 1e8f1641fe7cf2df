"""What a pipeline tells its denoiser about the prompt: token embeddings, and what each stands for.

`encode` asks any pipeline for the embeddings of some prompts; `intercept` hands over the
conditional embeddings of a running pipeline for change. Both say which part of the text each
position belongs to, because one offset does not fit all of them:

* the start token (CLIP) and the head of a chat template are the same vector whatever the prompt,
  since attention is causal there: never touched;
* "words" are the prompt's own tokens;
* "end" is CLIP's and T5's end token, or the tail of a chat template: in causal encoders these have
  read the whole sentence;
* "pad" is padding that the denoiser does see (SD, SDXL, SD3, Flux, Flux2-klein pass no mask): it
  has read the sentence too, and outnumbers the words. Padding that is masked out is never touched.

It knows nothing of emotions. Positions follow the source of diffusers 0.42.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adapters.families import Family, FamilyError, Text, require

UNTOUCHED = -1
POOLED = "pooled"
_PARTS = ("words", "end", "pad")
_UNPADDED = ("chat-list", "template")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Conditional embeddings of B pictures.

    tokens: (B, L, D), or B tensors (L_b, D) where the family passes lists.
    parts: (B, L) or B tensors (L_b,), int64 indices into `part_names`, UNTOUCHED (-1) for positions
        that no offset may change. On the device of `tokens`.
    pooled: (B, P) sentence vector, or None.
    prompts: how many prompts the B pictures come from; each has B / prompts pictures in a row.
    """

    tokens: Tensor | list[Tensor]
    parts: Tensor | list[Tensor]
    pooled: Tensor | None
    prompts: int


def part_names(row: Family) -> tuple[str, ...]:
    """The parts that positions of this family can belong to, such as "clip.words"."""
    names: list[str] = []
    for text in row.texts:
        if text.kind == "any":
            names.append("any.tokens")
        else:
            kinds = _PARTS[:2] if text.kind in _UNPADDED else _PARTS
            names.extend(f"{text.name}.{kind}" for kind in kinds)
    return tuple(names)


def encode(pipe: Any, prompts: Sequence[str], **options: Any) -> Encoded:
    """Embeddings of `prompts`, one picture each, with the pipeline's own `encode_prompt`.

    options: further arguments of `encode_prompt`, such as max_sequence_length. No gradients.
    Raises FamilyError for a pipeline without text conditioning.
    """
    row = require(pipe, "directions")
    known: dict[str, Any] = {
        "prompt": list(prompts),  # a copy: Z-Image writes its chat template into the list
        "num_images_per_prompt": 1,
        "do_classifier_free_guidance": False,
        "device": pipe._execution_device,
    }
    parameters = inspect.signature(pipe.encode_prompt).parameters
    arguments = {key: value for key, value in known.items() if key in parameters}
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in arguments:
            arguments[key] = None
    with torch.no_grad():
        output = pipe.encode_prompt(**{**arguments, **options})
    return _encoded(pipe, row, {"prompt": list(prompts)}, output)


def part_means(
    pipe: Any, texts: Sequence[str], batch_size: int = 8, **options: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Mean embedding of each part of each text, and how many positions the part has on average.

    The means are (texts, D) in float64 on the CPU, NaN where a text lacks the part; "pooled" is
    the sentence vector itself and has no count. options: as in `encode`.
    """
    names = part_names(require(pipe, "directions"))
    means: dict[str, list[Tensor]] = {name: [] for name in names}
    counts = dict.fromkeys(names, 0.0)
    for start in range(0, len(texts), batch_size):
        encoded = encode(pipe, texts[start : start + batch_size], **options)
        for index in range(len(encoded.tokens)):
            tokens = encoded.tokens[index].cpu().double()
            parts = encoded.parts[index].cpu()
            for number, name in enumerate(names):
                chosen = tokens[parts == number]
                counts[name] += len(chosen) / len(texts)
                means[name].append(chosen.mean(dim=0))  # NaN when empty, by design
        if encoded.pooled is not None:
            means.setdefault(POOLED, []).extend(encoded.pooled.cpu().double())
    return {name: torch.stack(rows) for name, rows in means.items()}, counts


@contextmanager
def intercept(pipe: Any, change: Callable[[Encoded], Encoded]) -> Iterator[None]:
    """While open, `change` gets the conditional embeddings of every run and returns the new ones.

    The unconditional branch is left alone. Embeddings that the caller computed and passed as
    `prompt_embeds=` are left alone as well: who passes them has decided. Restores the pipeline on
    exit, on errors and when a generator that holds it open is closed; contexts may be nested.
    """
    row = require(pipe, "directions")
    plain = pipe.encode_prompt
    signature = inspect.signature(plain)
    turn = {"running": False, "calls": 0}

    @functools.wraps(plain)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        prompts = {
            key: [value] if isinstance(value, str) else list(value)
            for key, value in arguments.items()
            if key.startswith("prompt") and isinstance(value, str | list | tuple) and value
        }
        output = plain(*args, **kwargs)
        turn["calls"] += 1
        if row.cfg == "two-calls" and turn["running"] and turn["calls"] > 1:
            return output  # the second call of a run encodes the negative prompt
        if arguments.get("prompt_embeds") is not None:
            return output
        before = _encoded(pipe, row, prompts or {"prompt": [""]}, output)
        after = change(before)
        places = list(output) if isinstance(output, tuple | list) else [output]
        places[row.tokens] = after.tokens
        if row.pooled is not None:
            places[row.pooled] = after.pooled
        return tuple(places) if isinstance(output, tuple | list) else places[0]

    def bracket(method: Callable[..., Any], running: bool) -> Callable[..., Any]:
        """Every two-call pipeline checks its inputs, encodes twice, then prepares latents."""

        @functools.wraps(method)
        def bracketed(*args: Any, **kwargs: Any) -> Any:
            turn.update(running=running, calls=0)
            return method(*args, **kwargs)

        return bracketed

    patches: dict[str, Callable[..., Any]] = {"encode_prompt": encode_prompt}
    if row.cfg == "two-calls":
        for name, running in (("check_inputs", True), ("prepare_latents", False)):
            if hasattr(pipe, name):
                patches[name] = bracket(getattr(pipe, name), running)
    own = {name: vars(pipe)[name] for name in patches if name in vars(pipe)}
    vars(pipe).update(patches)
    try:
        yield
    finally:
        for name in patches:
            vars(pipe).pop(name, None)
        vars(pipe).update(own)


def _encoded(pipe: Any, row: Family, prompts: Mapping[str, list[str]], output: Any) -> Encoded:
    """Label what `encode_prompt` returned for `prompts` (argument name -> texts)."""
    places = output if isinstance(output, tuple | list) else (output,)
    tokens = places[row.tokens]
    if not isinstance(tokens, list) and not (isinstance(tokens, Tensor) and tokens.ndim == 3):
        msg = (
            f"backbone: encode_prompt of {row.name} does not begin with token embeddings "
            "(pictures, tokens, features), so directions do not fit it; use another backbone"
        )
        raise FamilyError(msg)
    pooled = places[row.pooled] if row.pooled is not None else None
    count = len(next(iter(prompts.values())))
    lengths = [len(item) for item in tokens][:: max(1, len(tokens) // count)]
    labels = [
        torch.cat(
            [
                _label(pipe, row, text, prompts, index, size)
                for text, size in _stretches(pipe, row, length)
            ]
        )
        for index, length in enumerate(lengths)
    ]
    device = tokens[0].device
    repeats = len(tokens) // count
    parts: Tensor | list[Tensor]
    if isinstance(tokens, list):
        parts = [label.to(device) for label in labels for _ in range(repeats)]
    else:
        parts = torch.stack(labels).to(device).repeat_interleave(repeats, dim=0)
        parts = _without_masked(parts, places, row)
    return Encoded(tokens, parts, pooled, count)


def _without_masked(parts: Tensor, places: Sequence[Any], row: Family) -> Tensor:
    """What the family's mask hides stays untouched; an unknown class may return one second."""
    place = row.mask
    if place is None and row.texts[0].kind == "any":
        place = 1
    if place is None or len(places) <= place:
        return parts
    mask = places[place]
    if isinstance(mask, Tensor) and mask.shape == parts.shape:
        return parts.masked_fill(mask == 0, UNTOUCHED)
    return parts


def _stretches(pipe: Any, row: Family, length: int) -> list[tuple[Text, int]]:
    """Cut a sequence of `length` tokens between the row's texts (SD3: CLIP's 77, then T5's)."""
    if len(row.texts) == 1:
        return [(row.texts[0], length)]
    first = int(pipe.tokenizer_max_length)
    return [(row.texts[0], first), (row.texts[1], length - first)]


def _label(
    pipe: Any, row: Family, text: Text, prompts: Mapping[str, list[str]], index: int, length: int
) -> Tensor:
    """(length,) part of each position of prompt number `index` in this stretch."""
    label = torch.full((length,), UNTOUCHED)
    tokenizer = getattr(pipe, text.tokenizer, None)
    if text.kind == "any":
        label[:] = 0
        if tokenizer is not None and _starts_with_bos(tokenizer):
            label[0] = UNTOUCHED
        return label
    if tokenizer is None or getattr(pipe, text.encoder, None) is None:
        return label  # SD3 without T5 passes zeros there
    argument = next(name for name in text.arguments if name in prompts)
    start, end, stop = _bounds(pipe, text, tokenizer, prompts[argument][index], length)
    names = part_names(row)
    label[start:end] = names.index(f"{text.name}.words")
    label[end:stop] = names.index(f"{text.name}.end")
    if text.kind not in _UNPADDED:
        if tokenizer.padding_side == "left":  # nothing stands before it to be read: no sentence
            return label.roll(length - stop)
        label[stop:] = names.index(f"{text.name}.pad")
    return label


def _bounds(
    pipe: Any, text: Text, tokenizer: Any, prompt: str, length: int
) -> tuple[int, int, int]:
    """Where the words start, where the end part starts, and where it stops."""
    if text.kind in ("clip", "t5"):
        if hasattr(pipe, "maybe_convert_prompt"):  # textual inversion: one word, several tokens
            prompt = pipe.maybe_convert_prompt(prompt, tokenizer)
        ids = tokenizer(prompt, truncation=True, max_length=length).input_ids
        return int(_starts_with_bos(tokenizer)), len(ids) - 1, len(ids)
    if text.kind == "template":
        head, tail = pipe.prompt_template_encode.split("{}")
        dropped = int(pipe.prompt_template_encode_start_idx)
    else:
        head, tail = _chat(tokenizer, text, "\0").split("\0")
        dropped = 0
    ids = tokenizer(head + prompt + tail).input_ids
    before = _common(ids, tokenizer(head).input_ids)
    after = _common(ids[::-1], tokenizer(tail).input_ids[::-1])
    start, end, stop = (
        min(max(place - dropped, 0), length) for place in (before, len(ids) - after, len(ids))
    )
    return start, end, stop


def _chat(tokenizer: Any, text: Text, prompt: str) -> str:
    return tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=text.thinking,
    )


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common beginning."""
    count = 0
    for a, b in zip(left, right, strict=False):
        if a != b:
            break
        count += 1
    return count


def _starts_with_bos(tokenizer: Any) -> bool:
    bos = getattr(tokenizer, "bos_token_id", None)
    return bos is not None and tokenizer("a").input_ids[0] == bos
