"""Work shared among threads."""

import pytest
import torch

from skembed.engine import map_in_threads
from skembed.exceptions import SkembedWarning, warn_user


@pytest.mark.parametrize("n_threads", [1, 2])
def test_warnings_point_at_the_caller_whichever_thread_they_come_from(monkeypatch, n_threads):
    def square(n):
        warn_user("a number", SkembedWarning)
        return n * n

    monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
    with pytest.warns(SkembedWarning, match="a number") as caught:
        assert map_in_threads(square, [1, 2, 3], name="test") == [1, 4, 9]
    assert {each.filename for each in caught} == {__file__}
