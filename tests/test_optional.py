"""Optional dependencies: there, missing, or broken."""

import math
import sys

import pytest

from skembed._optional import import_optional
from skembed.exceptions import MissingDependencyError


def test_a_module_that_is_there_is_returned():
    assert import_optional("math", "any") is math


@pytest.mark.parametrize("name", ["nowhere_to_be_found", "nowhere_to_be_found.part"])
def test_a_missing_module_is_named_with_what_installs_it(name):
    with pytest.raises(MissingDependencyError, match=r"not installed.*pip install skembed\[maps\]"):
        import_optional(name, "maps")


def test_a_hidden_module_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"This needs timm.*pip install skembed\[timm\]"):
        import_optional("timm", "timm")


def test_a_module_that_lacks_a_part_of_its_own_is_not_called_missing(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"cannot be imported.*nowhere_to_be_found"):
        import_optional("half_installed", "maps")
