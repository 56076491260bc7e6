"""The snippets of docs/ run, in the order in which they stand on their page."""

import re
import sys
from pathlib import Path
from types import ModuleType

import cloudpickle
import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_snippets_of_a_page_run(page, monkeypatch):
    module = ModuleType("snippets")
    monkeypatch.setitem(sys.modules, "snippets", module)
    cloudpickle.register_pickle_by_value(module)  # as what is defined in a notebook
    try:
        for source in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            exec(compile(source, page, "exec"), vars(module))
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert module.DnaEmbedder(k=1).fit_transform(["GATTACA"]).tolist() == [[3, 1, 1, 2]]
