"""No shell reads what was put together: commands are lists of words, and scripts stand as they are."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT

MODULES = [
    path for folder in ("testbed", "tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]
MEASURED = {"benchmarks/load.py", "benchmarks/named.py"}
"""What these measure is a shell's script: `ip` and bpftool commands, one after the other."""
SHELLS = {"sh", "bash", "dash", "ash", "ksh", "zsh", "/bin/sh", "/bin/bash", "/usr/bin/sh", "/usr/bin/bash"}
_CALLS = {
    ("os", "system"),
    ("os", "popen"),
    ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"),
    ("asyncio", "create_subprocess_shell"),
    ("commands", "getoutput"),
    ("pty", "spawn"),
}


def problems(text: str) -> Iterator[tuple[int, str]]:
    """(line, what it does) of each place where a shell would read a text that was put together."""
    tree = ast.parse(text)
    scripts = _constants(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from _of_call(node, scripts)
        elif isinstance(node, ast.List | ast.Tuple):
            yield from _of_words(node.elts, scripts)


def _of_call(call: ast.Call, scripts: set[str]) -> Iterator[tuple[int, str]]:
    function = call.func
    if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
        name = (function.value.id, function.attr)
        if name in _CALLS:
            yield call.lineno, ".".join(name)
    for keyword in call.keywords:
        is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg == "shell" and not is_off:
            yield call.lineno, "shell="
    yield from _of_words(call.args, scripts)


def _of_words(words: list[ast.expr], scripts: set[str]) -> Iterator[tuple[int, str]]:
    """``sh -c`` followed by what is no text of the source: neither a literal nor a constant of the module."""
    for shell, option, *rest in zip(words, words[1:], [*words[2:], None], strict=False):
        if _text(shell) not in SHELLS or not _text(option).startswith("-") or "c" not in _text(option):
            continue
        (script,) = rest
        if script is None or not (
            isinstance(script, ast.Constant) or (isinstance(script, ast.Name) and script.id in scripts)
        ):
            yield shell.lineno, f"{_text(shell)} {_text(option)} with a text that was put together"


def _text(node: ast.expr) -> str:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _constants(tree: ast.Module) -> set[str]:
    """Names that are only ever bound to a literal text, or to one of several."""
    bound: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    bound.setdefault(target.id, []).append(node.value)
    literal = {
        name for name, values in bound.items() if all(isinstance(each, ast.Constant) for each in values)
    }
    return literal | set(_parametrized(tree))


def _parametrized(tree: ast.Module) -> Iterator[str]:
    """What the rows of a test's table give to its function: they stand in the source."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(
            "parametrize" in ast.unparse(each) for each in node.decorator_list
        ):
            yield from (argument.arg for argument in node.args.args)


def test_no_shell_reads_what_was_put_together() -> None:
    others = [path for path in MODULES if str(path.relative_to(ROOT)) not in MEASURED]
    assert len(others) > 500
    found = [
        f"{path}:{line}: {what}"
        for path in others
        for line, what in problems(path.read_text(encoding="utf-8"))
    ]
    assert not found


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run('ls', shell=True)",
        "subprocess.run(words, shell=yes)",
        "os.system('ls')",
        "os.popen(x)",
        "subprocess.getoutput('ls')",
        "run(['sh', '-c', f'ls {x}'])",
        "run(['bash', '-ec', 'ls ' + x])",
        "run(('sh', '-c', x))",
        "run(['sh', '-c', 'ls %s' % x])",
        "run(['sh', '-c', 'ls {}'.format(x)])",
        "x = 'ls'\nx = x + y\nrun(['sh', '-c', x])",
        "HIDE = ('unshare', 'sh', '-c')",
        "os.execlp('sh', 'sh', '-c', f'ls {x}')",
    ],
)
def test_each_way_to_a_shell_is_found(text: str) -> None:
    assert list(problems(text))


@pytest.mark.parametrize(
    "text",
    [
        "subprocess.run(['ls', x])",
        "run(['sh', '-c', 'exec \"$@\"', 'sh', *words])",
        "SCRIPT = 'exec $0'\nrun(['sh', '-c', SCRIPT, x])",
        "run(['python3', '-c', code])",
        "run('ls', shell=False)",
    ],
)
def test_what_is_no_shell_is_let_be(text: str) -> None:
    assert not list(problems(text))
