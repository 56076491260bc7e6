"""What every test starts from: no hub, a cache folder of its own, and GPU tests only on a GPU."""

import os
import tempfile

import pytest

# Before skembed or transformers is imported, and inherited by the processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SKEMBED_HOME"] = tempfile.mkdtemp(prefix="skembed-tests-")


def pytest_collection_modifyitems(config, items):
    import torch

    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_unconfigure(config):
    import shutil

    shutil.rmtree(os.environ["SKEMBED_HOME"], ignore_errors=True)
