"""One command that works, for the end of every verb's `--help`.

What a person types first is copied, so each of these is parsed by a test. This file is text only:
it knows the names of verbs and loads none of them.
"""

from __future__ import annotations

from typing import Any

EXAMPLES: dict[str, str] = {
    "make": 'affect make image "a mountain lake" --emotion "sadness .8"',
    "make image": 'affect make image "a forest" -e "fear .6 + awe .2" --best-of 8',
    "make music": 'affect make music -e "0s contentment .5; 15s fear .9" --seconds 30',
    "make voice": 'affect make voice --audio speech.wav -e "anger .7" --source neutral',
    "make portrait": "affect make portrait --image me.png --audio me.wav -e from-audio",
    "make video": 'affect make video "a forest" -e "fear .9" --curve escalate',
    "make film": "affect make film assets/samples/storm.toml --draft",
    "batch": "affect batch jobs.jsonl --dry-run",
    "grid": 'affect grid image "a city street" --emotions awe,fear --levels 5',
    "grid image": 'affect grid image "a city street" --emotions awe,fear --levels 5',
    "grid music": "affect grid music --emotions love,sadness --levels 3",
    "grid voice": "affect grid voice --audio my.wav --emotions anger,fear --levels 3",
    "grid portrait": "affect grid portrait --image me.png --emotions anger,fear",
    "grid video": 'affect grid video "a forest" --emotions fear,awe --levels 2',
    "remake": 'affect remake out/x.png --emotion "sadness .4" --seed 8',
    "show": "affect show out/x.png --json",
    "verify": "affect verify out/x.png",
    "sign": "affect sign out/x.png --certificate chain.pem --key key.pem",
    "score": "affect score out/x.png --json",
    "page": "affect page out",
    "library": 'affect library search night city --emotion "fear .5"',
    "library list": 'affect library list --near "v=-.7 a=.3" --modality image',
    "library search": 'affect library search night city --emotion "fear .5"',
    "library favourite": "affect library favourite 5c05df31",
    "library delete": "affect library delete 5c05df31",
    "library undo": "affect library undo",
    "library export": "affect library export picked --favourites",
    "library rebuild": "affect library rebuild --out out",
    "serve": "affect serve --out out --port 7860",
    "models": "affect models list",
    "models list": "affect models list",
    "models verify": "affect models verify",
    "models pull": "affect models pull sdxl",
    "train": "affect train slider --emotion sadness --no-data",
    "train lora": "affect train lora --modality music --data my_midi --out styles/mine",
    "train slider": "affect train slider --emotion sadness --no-data",
    "train directions": "affect train directions --backbone image-tiny",
    "train critic": "affect train critic --modality image --data photos --out my_critic",
    "train distill": "affect train distill --backbone image-tiny --emotion sadness",
    "evaluate": "affect evaluate --suite emotions --emotions sadness,awe --seeds 4",
    "calibrate": "affect calibrate image --emotion all --backbone sdxl",
    "calibrate image": "affect calibrate image --emotion all --backbone sdxl",
    "export": "affect export sad.safetensors --format kohya --out comfy.safetensors",
    "demo": "affect demo --out out",
}
"""Words after `affect` -> a command line."""


def taught(command: Any, words: str) -> Any:
    """The same click command with its example at the end of `--help`, and so all below it.

    What a verb says itself stays.
    """
    if words in EXAMPLES and not command.epilog and "Example:" not in (command.help or ""):
        command.epilog = f"Example: {EXAMPLES[words]}"
    for name, below in getattr(command, "commands", {}).items():
        taught(below, f"{words} {name}")
    return command
