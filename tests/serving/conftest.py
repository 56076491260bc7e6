"""A tiny model that the tests of the server share."""

import pytest

from tests.text.checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("served") / "tiny")
