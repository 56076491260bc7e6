"""What README.md and docs/ show runs, in the order of the page, and prints what it says."""

import ast
import builtins
import inspect
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

IMPORTS = (ast.Import, ast.ImportFrom)

# A comment in front of a snippet says that it needs what the tests do not have, such as a hub;
# it is then looked at, not run, as is one that begins with an import of what is not installed.
SNIPPET = re.compile(r"(<!-- needs [^>]* -->\n)?^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def snippets(page):
    """Yield (code, whether it can run here); errors show the line of the page."""
    text = page.read_text(encoding="utf-8")
    for found in SNIPPET.finditer(text):
        code = "\n" * text[: found.start(2)].count("\n") + found[2]
        imports = [each for each in ast.parse(code).body if isinstance(each, IMPORTS)]
        yield code, found[1] is None and all(map(is_installed, imports))


def is_installed(statement):
    names = [getattr(statement, "module", None) or each.name for each in statement.names]
    try:
        return all(map(find_spec, names))
    except ModuleNotFoundError:  # the package that a module would be in
        return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # As in a notebook: what is defined there can be pickled, and workers get it by value.
    module = ModuleType("snippets")
    monkeypatch.setitem(sys.modules, "snippets", module)
    cloudpickle.register_pickle_by_value(module)
    try:
        for code, can_run in snippets(page):
            if can_run:
                exec(compile(code, page, "exec"), vars(module))
                check_prints(code, capsys.readouterr().out)
            else:
                check_names(ast.parse(code, page), vars(module))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def check_prints(code, out):
    """Assert that each line printed is what stands beside its `print(...)  # `."""
    said = [line.partition("  # ")[2] for line in code.splitlines() if line.startswith("print(")]
    assert len(out.splitlines()) == len(said)
    for line, promise in zip(out.splitlines(), said, strict=True):
        assert line.startswith(promise.removesuffix("...")), (line, promise)


def check_names(tree, namespace):
    """Import what code imports; assert that its names are known and its calls have such options."""
    known = vars(builtins) | namespace
    for statement in ast.walk(tree):
        if not isinstance(statement, IMPORTS):
            continue
        if is_installed(statement):
            exec(compile(ast.Module([statement], []), "imports", "exec"), known)
        else:
            known |= {each.asname or each.name: None for each in statement.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            known[node.arg] = None
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            known[node.name] = None
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known[node.id] = None
    unknown = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - known.keys()
    assert not unknown
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        function = known[call.func.id]
        if getattr(function, "__module__", "").partition(".")[0] in ("skembed", "sklearn"):
            given = {each.arg: None for each in call.keywords if each.arg is not None}
            inspect.signature(function).bind_partial(*call.args, **given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_files_that_a_page_names_are_there(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)#]+)[^)]*\)|`((?:examples|tests|benchmarks)/\w*\S*?)`", text)
    named = [link or path for link, path in named]
    missing = [each for each in named if "://" not in each and not (page.parent / each).exists()]
    assert not missing, missing


def test_two_commands_do_the_setting_up():
    text = PAGES[0].read_text(encoding="utf-8")
    block = re.search(r"<!-- commands -->\n```bash\n(.*?)```", text, re.DOTALL).group(1)
    install_and_run, install_and_test = block.strip().splitlines()
    assert install_and_run.endswith("python examples/search_docstrings.py")
    assert install_and_test.endswith("python -m pytest")
