"""Checkpoints that several files of tests read."""

import pytest

from tests.audio.checkpoints import write_checkpoint


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return what gives the folder of a family, written when it is first asked for."""
    made = {}

    def of(family):
        if family not in made:
            made[family] = write_checkpoint(tmp_path_factory.mktemp("audio") / family, family)
        return made[family]

    return of
