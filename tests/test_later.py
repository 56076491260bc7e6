"""torch is imported when it is needed, with threads that sleep between products."""

import os
import sys

import pytest

from skembed import _later


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_torch_is_imported_with_the_users_policy_else_with_sleeping_threads(monkeypatch, chosen):
    for name in _later._POLICIES:
        monkeypatch.delenv(name, raising=False)
    if chosen is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", chosen)
    seen = []
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(
        _later, "import_module", lambda name: seen.append((name, os.environ["OMP_WAIT_POLICY"]))
    )
    _later.import_torch()
    assert seen == [("torch", chosen or "PASSIVE")]
    assert os.environ.get("OMP_WAIT_POLICY") == chosen


def test_what_is_called_later_is_imported_once():
    function = _later.later("json", "dumps")
    assert function([1]) == function([1]) == "[1]"
    assert function.__name__ == "dumps"
