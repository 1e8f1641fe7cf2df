"""The rules of the house that a linter does not know: who may import what."""

from __future__ import annotations

import ast
import functools
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ("adapters", "pipelines", "training", "studio")
SOURCES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TORCH_FREE = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in PYPROJECT["tool"]["mypy"]["files"]
    for path in ROOT.glob(pattern)
)
HEAVY = ("torch", "torchvision", "torchaudio", "diffusers", "transformers", "peft", "accelerate")
CODECS = ("PIL.Image.open", "soundfile", "av", "imageio", "cv2", "tifffile")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported name as (line, dotted path); relative imports start with a dot."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every call as (line, text of what is called)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ast.unparse(node.func)


def run_at_import(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements a module runs when imported: no function bodies, no TYPE_CHECKING blocks."""
    todo: list[ast.stmt] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo.extend(node.orelse)
            continue
        yield node
        for field in ("body", "orelse", "finalbody"):
            todo.extend(getattr(node, field, []))
        for handler in getattr(node, "handlers", []):
            todo.extend(handler.body)


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def faults_of_layers(layer: str, tree: ast.Module) -> list[str]:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    return [
        f"line {line}: {layer} imports {name}"
        for line, name in imports(tree)
        if name.split(".")[0] in (*above, "tests")
    ]


def default_parts_not_declared(tree: ast.Module) -> list[str]:
    """Parts of a pipeline with a default that are missing from `_optional_components`.

    diffusers' save_pretrained leaves such a part out without a word and from_pretrained then
    fails, so every default of an `__init__` that registers modules has to be declared.
    """
    faults = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        if not any(ast.unparse(base).endswith("Pipeline") for base in node.bases):
            continue
        init = next(
            (f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None
        )
        if init is None:
            continue
        parts = {
            keyword.arg
            for call in ast.walk(init)
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("register_modules")
            for keyword in call.keywords
        }
        positional = [*init.args.posonlyargs, *init.args.args]
        defaulted = {a.arg for a in positional[len(positional) - len(init.args.defaults) :]}
        defaulted |= {
            a.arg
            for a, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
            if default is not None
        }
        declared = {
            ast.literal_eval(element)
            for statement in node.body
            if isinstance(statement, (ast.Assign, ast.AnnAssign))
            and "_optional_components" in ast.unparse(statement).split("=")[0]
            and isinstance(statement.value, (ast.List, ast.Tuple))
            for element in statement.value.elts
        }
        faults += [f"{node.name}.{name}" for name in sorted((parts & defaulted) - declared)]
    return faults


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    assert faults_of_layers(path.relative_to(ROOT).parts[0], parse(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_media_touches_codecs_and_only_studio_the_browser(path: Path) -> None:
    tree = parse(path)
    name = path.relative_to(ROOT).as_posix()
    if not fnmatch(name, "pipelines/media*.py"):
        found = [
            f"line {line}: {what}"
            for line, what in imports(tree)
            if any(what == codec or what.startswith(f"{codec}.") for codec in CODECS)
        ]
        found += [f"line {line}: {what}" for line, what in calls(tree) if what == "Image.open"]
        assert found == [], "read and write files through pipelines/media*.py"
    if not name.startswith("studio/"):
        assert [n for _, n in imports(tree) if n.split(".")[0] == "gradio"] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_unpickles_or_runs_foreign_code(path: Path) -> None:
    tree = parse(path)
    assert [n for _, n in imports(tree) if n.split(".")[0] in ("pickle", "dill", "yaml")] == []
    assert [n for _, n in calls(tree) if n in ("torch.load", "eval", "exec")] == []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            given = {k.arg for k in node.keywords if ast.unparse(k.value) not in ("False", "None")}
            assert not given & {"trust_remote_code", "custom_pipeline"}, f"line {node.lineno}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_parts_with_a_default_are_declared_optional(path: Path) -> None:
    assert default_parts_not_declared(parse(path)) == []


def test_torch_free_files_import_no_torch() -> None:
    """In one fresh process, because what they import counts as well; the first culprit is named."""
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in TORCH_FREE
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "    if loaded: sys.exit(f'{name} imports {loaded}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", TORCH_FREE)
def test_torch_free_files_name_no_torch_at_the_top(name: str) -> None:
    for statement in run_at_import(parse(ROOT / name)):
        if isinstance(statement, (ast.Import, ast.ImportFrom)):
            assert not [n for _, n in imports(statement) if n.split(".")[0] in HEAVY]


def test_files_are_one_idea_each() -> None:
    """600 lines is the alarm of the house style; nothing is called utils or common."""
    long = {
        str(p.relative_to(ROOT)): n
        for p in SOURCES
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 600
    }
    assert long == {}
    assert [p for p in SOURCES if p.stem in ("utils", "util", "common", "helpers", "misc")] == []
    assert [p for p in SOURCES if len(p.relative_to(ROOT).parts) != 2] == [], "folders are flat"


def test_the_rules_catch_what_they_are_for() -> None:
    """Each checker must fail on the fault it was written against."""
    assert faults_of_layers("adapters", ast.parse("def f():\n    from pipelines.take import Take"))
    assert faults_of_layers("training", ast.parse("import studio.cli"))
    assert not faults_of_layers("studio", ast.parse("import adapters.emotion, training.loop"))
    bad = """
class ToyPipeline(DiffusionPipeline):
    def __init__(self, unet, critic=None, *, bank=None):
        self.register_modules(unet=unet, critic=critic, bank=bank)
"""
    assert default_parts_not_declared(ast.parse(bad)) == ["ToyPipeline.bank", "ToyPipeline.critic"]
    good = bad.replace("    def", '    _optional_components = ["critic", "bank"]\n\n    def', 1)
    assert default_parts_not_declared(ast.parse(good)) == []
    lazy = ast.parse("if TYPE_CHECKING:\n    import torch\ndef f():\n    import torch")
    assert not [s for s in run_at_import(lazy) if isinstance(s, ast.Import)]
