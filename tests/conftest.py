"""What every test starts from: no hub, an own cache folder, no test of what the machine lacks."""

import os
import tempfile

import pytest

# Before skembed or transformers is imported, and inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SKEMBED_HOME"] = tempfile.mkdtemp(prefix="skembed-tests-")


def pytest_collection_modifyitems(config, items):
    import torch

    from skembed.engine._devices import has_int8

    missing = {
        "gpu": None if torch.cuda.is_available() else "needs a CUDA device",
        "int8": None if has_int8() else "needs a processor with int8 products",
    }
    for item in items:
        for marker, reason in missing.items():
            if reason is not None and marker in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_unconfigure(config):
    import shutil

    shutil.rmtree(os.environ["SKEMBED_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def nothing_is_told_yet(monkeypatch):
    """Let each test see the warnings that come once in a process."""
    from skembed import exceptions

    monkeypatch.setattr(exceptions, "_told", set())
    # The processes of a test run share a store, which knows what any of them has told.
    monkeypatch.setattr(exceptions, "_is_told_in_run", None)


def pytest_collection_finish(session):
    import gc

    # What is imported stays: collections, of which models ask for many, needn't look at it again.
    gc.collect()
    gc.freeze()
