"""torch is imported when it is needed, with threads that soon sleep between products."""

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
        _later,
        "import_module",
        lambda name: seen.append((name, {k: os.environ.get(k) for k in _later._CHOSEN})),
    )
    _later.import_torch()
    users = {"OMP_WAIT_POLICY": chosen, "GOMP_SPINCOUNT": None}
    assert seen == [("torch", users if chosen else _later._CHOSEN)]
    assert {k: os.environ.get(k) for k in _later._CHOSEN} == users


def test_what_is_called_later_is_imported_once():
    function = _later.later("json", "dumps")
    assert function([1]) == function([1]) == "[1]"
    assert function.__name__ == "dumps"
