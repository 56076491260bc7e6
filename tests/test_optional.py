"""A missing optional dependency is one clear error."""

import sys

import pytest

from skembed._optional import import_optional
from skembed.exceptions import MissingDependencyError


def test_a_module_that_is_there_is_imported():
    assert import_optional("json", extra="x", purpose="A test") is sys.modules["json"]


def test_a_missing_module_names_the_extra_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    message = r"A model needs timm, which is not installed: pip install skembed\[timm\]"
    with pytest.raises(MissingDependencyError, match=message) as caught:
        import_optional("timm", extra="timm", purpose="A model")
    assert isinstance(caught.value, ImportError)


def test_what_a_module_lacks_itself_is_not_hidden(monkeypatch, tmp_path):
    (tmp_path / "needs_more.py").write_text("import what_nobody_has")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_nobody_has"):
        import_optional("needs_more", extra="x", purpose="A test")
