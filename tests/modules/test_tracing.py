"""Tracing while other threads run modules."""

import threading

import torch
from torch import fx, nn

from skembed.modules import of_this_thread


def test_what_other_threads_run_is_left_alone():
    begun, done = threading.Event(), threading.Event()
    found = []

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            begun.set()
            done.wait(10)
            return self.layer(x)

    other = nn.Sequential(nn.Linear(3, 1))

    def run():
        begun.wait(10)
        found.append(other(torch.ones(1, 3)))
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    module = Slow()
    graph = of_this_thread(fx.Tracer)().trace(module)
    thread.join()
    assert [node.op for node in graph.nodes] == ["placeholder", "call_module", "output"]
    torch.testing.assert_close(found[0], other(torch.ones(1, 3)))
