"""The `affect` command: verbs, exit codes, and one clear line for every mistake.

Exit codes: 0 all done; 1 some takes failed; 2 bad input, nothing started; 130 interrupted. stdout
carries results only (`studio.console`). The verbs live in files of their own and are imported when
they are asked for, so that `affect --help` answers at once: no torch, no numpy, no rich table is
loaded to print it. This file does not know what a verb does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from studio.examples import taught

BAD_INPUT, SOME_FAILED, INTERRUPTED = 2, 1, 130

# verb: (module:function of that file that returns a typer app, one line of help, help panel)
VERBS: dict[str, tuple[str, str, str]] = {
    "make": (
        "studio.make:app",
        "Make an image, music, voice, portrait, video or film.",
        "Make",
    ),
    "batch": ("studio.batch:app", "Many takes from a manifest (JSONL, CSV); --resume.", "Make"),
    "grid": ("studio.grid:app", "Emotions by levels in one batch, as a contact sheet.", "Make"),
    "remake": ("studio.remake:app", "Make a finished file again; any option overrides.", "Make"),
    "show": ("studio.show:app", "Everything a finished file says about itself.", "Look"),
    "verify": ("studio.verify:app", "What a file says of its making, and if it holds.", "Look"),
    "sign": ("studio.verify:sign_app", "A copy with content credentials (C2PA) of yours.", "Look"),
    "score": (
        "studio.score:app",
        "Let both readers read the emotion of a file.",
        "Look",
    ),
    "page": ("studio.demo:page_app", "Write a contact page of the takes in a folder.", "Look"),
    "library": ("studio.library:app", "Find, like, delete and copy takes of a folder.", "Look"),
    "serve": ("studio.serve:app", "The studio as a page in a browser.", "Make"),
    "models": ("studio.models:app", "List, verify and pull model weights.", "Set up"),
    "train": ("studio.train:app", "Teach a model a style from files of your own.", "Set up"),
    "calibrate": ("studio.calibrate:app", "Measure and store how a model answers.", "Set up"),
    "evaluate": ("studio.evaluate:app", "A report: does the dial do what it says?", "Set up"),
    "export": ("studio.export:app", "A LoRA for diffusers, ComfyUI or WebUI.", "Set up"),
    "demo": ("studio.demo:app", "Make a few takes offline and a page that shows them.", "Set up"),
}


class LazyGroup(TyperGroup):
    """A group that shows its verbs from a table and imports one only when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All verbs, in the order of the table."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A stand-in that knows the verb's one line: enough to print help."""
        if cmd_name not in VERBS:
            return None
        _, text, panel = VERBS[cmd_name]
        stand_in = typer.Typer(add_completion=False)
        stand_in.command(cmd_name, help=text, rich_help_panel=panel)(lambda: None)
        return typer.main.get_command(stand_in)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that was called, imported now."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in VERBS:
            module, attribute = VERBS[name][0].split(":")
            command = typer.main.get_command(getattr(import_module(module), attribute)())
            command.name = name
            command = taught(command, name)
        return name, command, rest


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("affect-studio")
        except PackageNotFoundError:
            found = "unknown (not installed)"
        typer.echo(f"affect-studio {found}")
        raise typer.Exit


app = typer.Typer(
    name="affect",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Say an emotion, get media that a critic agrees with.",
    epilog='Start with: affect make image "a mountain lake" --emotion "sadness .8"\n\n'
    "Then with --help after any verb: what it takes, and a line to copy.\n\n"
    "An emotion is one of happiness, excitement, amusement, contentment, love, awe, surprise, "
    "anger, disgust, fear, sadness, boredom with 0 to 1; a mixture (joy .6 + fear .2); a point "
    "(v=-.7 a=.3); a course (0s calm .5; 8s fear .9); or a quoted sentence.",
)


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and leave."
    ),
) -> None:
    """Take the options that come before a verb."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every known error becomes one line."""
    # Read when numpy is imported. Its matrices here are too small to share: beside another process
    # two waiting threads made the rendering of 30 s of music take 82 s instead of 2.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from studio.console import note, one_line

    try:
        code = app(
            args=None if arguments is None else list(arguments),
            prog_name="affect",
            standalone_mode=False,
        )
    except KeyboardInterrupt:
        note("interrupted")
        return INTERRUPTED
    except (typer.Abort, EOFError):
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our results has left (`affect ... | head -1`): nothing to tell anyone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return SOME_FAILED
    except Exception as error:
        if os.environ.get("AFFECT_TRACEBACK"):
            raise
        wrong_usage = getattr(error, "format_message", None)
        if wrong_usage is not None:  # every usage error of typer
            text = one_line(wrong_usage())
            if text:
                where = getattr(getattr(error, "ctx", None), "command_path", "affect")
                note(f"{text.rstrip('.')} (`{where} --help` shows what there is)")
            return BAD_INPUT
        if isinstance(error, ValueError | OSError):
            note(_line_of(error))
            return BAD_INPUT
        if isinstance(error, MemoryError):
            note(str(error) or "memory: there is not enough; close other programs")
            return SOME_FAILED
        raise
    return code if isinstance(code, int) else 0


def _line_of(error: Exception) -> str:
    """The one line of an error; the operating system's are given the file they are about."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}"
    return str(error) or type(error).__name__


def main() -> NoReturn:
    """Entry point of the `affect` command."""
    sys.exit(run())


if __name__ == "__main__":
    main()
