"""The content digest of modules, functions and settings: same vectors, same digest."""

import copy
import dataclasses
import enum
import functools
import os
import pickle
import re
import subprocess
import sys
import threading
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from joblib.externals.loky.backend.reduction import dumps
from torch import nn
from torch.nn.utils import prune

from skembed.exceptions import UnsupportedModelError
from skembed.weights import fingerprint

SCALE = 2.0


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Net(nn.Module):
    def __init__(self, bias=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        self.head = self.body[2]
        self.register_buffer("shift", torch.arange(4.0), persistent=False)
        self.bias, self.options = bias, {"names": {"a", "b", "c"}, "sizes": [1, (2, 3)]}

    def forward(self, x):
        return scaled(self.body(x)) + self.shift + self.bias


def scaled(x):
    return x * SCALE


def hook(module, inputs, output):
    return output + 1


def other_hook(module, inputs, output):
    return output + 2


def scripted(x: torch.Tensor):
    return x * 2


def changed(change):
    net = Net()
    with torch.no_grad():
        result = change(net)
    return net if result is None or not isinstance(result, nn.Module) else result


def tied(is_tied):
    first = nn.Linear(2, 2)
    return nn.ModuleList([first, first if is_tied else copy.deepcopy(first)])


def made(source, name="f"):
    """Return what source code defines, as a cell of a notebook would."""
    namespace = {"__name__": "__main__", "torch": torch, "nn": nn, "np": np}
    exec(compile(source, "<cell>", "exec"), namespace)
    return namespace[name]


def closed_over(k):
    return lambda x: x + k


class Slotted:
    __slots__ = ("a", "b")

    def __init__(self, a):
        self.a = a


class WithLock:
    def __init__(self, value):
        self.value, self.lock = value, threading.Lock()

    def __getstate__(self):
        return {"value": self.value}

    def __setstate__(self, state):
        self.__init__(**state)


def in_a_cycle(value):
    parent, child = types.SimpleNamespace(value=value), types.SimpleNamespace()
    parent.child, child.parent = child, parent
    return parent


def patched(body):
    """Return a transformed forward of one instance."""
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight.zero_()
        net.bias.zero_()
    net.forward = types.MethodType(made(f"def f(self, x):\n    return {body}"), net)
    return net


CHANGES = {
    "as it is": lambda net: None,
    "a weight": lambda net: net.body[0].weight[0, 0].add_(1e-3),
    "a dtype": lambda net: net.body[0].bfloat16(),
    "a buffer that is not saved": lambda net: net.shift.add_(1),
    "a number": lambda net: setattr(net, "bias", 1e-9),
    "a type of number": lambda net: setattr(net, "bias", 0),
    "a nested setting": lambda net: net.options["sizes"].append(3),
    "an element of a set": lambda net: net.options["names"].add("d"),
    "a submodule's name": lambda net: net.add_module("extra", nn.Identity()),
    "a library's class": lambda net: net.body.__setitem__(1, nn.GELU()),
    "an attribute of a library's module": lambda net: setattr(net.body[0], "extra", 1),
    "sharing": lambda net: setattr(net, "head", copy.deepcopy(net.head)),
    "a hook": lambda net: net.body.register_forward_hook(hook),
    "another hook": lambda net: net.body.register_forward_hook(other_hook),
    "a hook before": lambda net: net.body.register_forward_pre_hook(hook),
    "a shape": lambda net: net.register_buffer("shift", torch.arange(4.0)[None]),
    "None for a buffer": lambda net: net.register_buffer("shift", None),
    "forward of the instance": lambda net: setattr(net, "forward", net.body.forward),
    "an array": lambda net: setattr(net, "table", np.arange(3)),
    "another array": lambda net: setattr(net, "table", np.arange(3.0)),
}


def test_every_change_that_may_change_a_vector_changes_the_digest():
    digests = {name: fingerprint(changed(change)) for name, change in CHANGES.items()}
    assert len(set(digests.values())) == len(CHANGES), digests
    again = {name: fingerprint(changed(change)) for name, change in CHANGES.items()}
    assert digests == again


@pytest.mark.parametrize("name", CHANGES)
def test_a_copy_and_a_pickled_copy_have_the_digest(name):
    net = changed(CHANGES[name])
    digest = fingerprint(net)
    assert fingerprint(copy.deepcopy(net)) == digest
    assert fingerprint(pickle.loads(pickle.dumps(net))) == digest
    assert len(digest) == 16


DIFFERENT = {
    "numbers": (1, 1.0, True, "1", b"1", 1j, None, -1, 0.0, -0.0),
    "containers": ([1], (1,), {1}, {1: None}, [[1]], [1, 1], [], (), frozenset([2])),
    "dicts": ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}, OrderedDict(a=1, b=2)),
    "arrays": tuple(np.zeros(*each) for each in [(4,), ((2, 2),), (4, "f4"), (4, ">f8"), (0,)]),
    "array order": (np.arange(4).reshape(2, 2), np.arange(4).reshape(2, 2).T),
    "arrays of objects": (
        np.array([1, "a"], object),
        np.array([1, "b"], object),
        np.array([1, 2]),
    ),
    "tensors": tuple(torch.zeros(2, 2, dtype=each) for each in [torch.half, torch.bfloat16]),
    "tensors and parameters": (torch.zeros(2), nn.Parameter(torch.zeros(2)), np.zeros(2, "f4")),
    "torch's": (torch.float32, torch.float16, torch.device("cpu"), torch.Size([1]), (1,), "cpu"),
    "enums": (Colour.RED, Colour.BLUE, 1, Colour),
    "operators": (torch.relu, torch.sigmoid, nn.functional.relu, nn.ReLU, nn.ReLU()),
    "partials": tuple(functools.partial(torch.add, other=i) for i in range(2)),
    "slots": (Slotted(1), Slotted(2)),
    "locks that are not pickled": (WithLock(1), WithLock(2)),
    "cycles": (in_a_cycle(1), in_a_cycle(2), types.SimpleNamespace()),
    "patterns": (re.compile("a"), re.compile("b"), re.compile("a", re.IGNORECASE)),
    "paths": (Path("a"), Path("b"), "a"),
    "lambdas": (lambda x: x, lambda x: -x, lambda y: y + 1, lambda x: x + 2, lambda x, y=1: x),
    "closures": tuple(closed_over(k) for k in range(3)),
    "attributes called": (lambda x: x.sin(), lambda x: x.cos()),
    "tied modules": (tied(True), tied(False)),
    "forwards of instances": (patched("x"), patched("x + 1"), patched("self.weight @ x")),
    "sequences": (nn.Sequential(nn.ReLU(), nn.Tanh()), nn.Sequential(nn.Tanh(), nn.ReLU())),
    "bound methods": (nn.Tanh().forward, nn.ReLU().forward, torch.zeros(1).add, torch.ones(1).add),
    "bound to a value": ((1).__add__, (2).__add__, "a".join, "b".join, [1].append, [2].append),
    "bound to a class": tuple(
        made(f"class A(dict):\n    k = {k}\nf = A.fromkeys") for k in range(2)
    ),
    "functions in C": (np.sin, np.cos, abs, len, str.join, str.split),
    "sparse tensors": (torch.eye(2).to_sparse(), torch.eye(2), (2 * torch.eye(2)).to_sparse()),
    "code of a class": tuple(
        made(f"class f(nn.Module):\n    k = {k}\n    def forward(self, x): return {body}")()
        for k, body in [(1, "x"), (2, "x"), (1, "x + 1"), (1, "torch.relu(x)")]
    ),
    "code of a base class": tuple(
        made(f"class A:\n    def g(self): return {k}\nclass f(A): pass")() for k in range(2)
    ),
    "functions called": tuple(
        made(f"def h(x): return x + {k}\ndef g(x): return h(x)\ndef f(x): return g(x)")
        for k in range(2)
    ),
    "globals read": tuple(made(f"K = [{k}]\nf = lambda x: [K for _ in x]") for k in range(2)),
    "classes made": tuple(
        made(f"class A:\n    k = {k}\n    def g(self): return A\ndef f(x): return A()")
        for k in range(2)
    ),
    "properties": tuple(
        made(f"class f:\n    @property\n    def p(self): return {k}\n    q = 0")() for k in range(2)
    ),
    "cached": tuple(
        made(f"import functools\n@functools.lru_cache\ndef f(x): return {k}") for k in range(2)
    ),
    "mutual recursion": tuple(
        made(f"def f(x): return g(x)\ndef g(x): return f(x + {k})") for k in range(2)
    ),
    "defaults": tuple(made(f"def f(x, *, k={k}): return k") for k in range(2)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_things_have_different_digests(name):
    things = DIFFERENT[name]
    digests = [fingerprint(each) for each in things]
    assert len(set(digests)) == len(things)
    assert [fingerprint(each) for each in things] == digests


# Bound to what is not there yet while it is read, and found by no name: neither can be pickled.
@pytest.mark.parametrize("name", sorted(set(DIFFERENT) - {"forwards of instances", "cached"}))
def test_what_a_worker_unpickles_has_the_digest(name):
    for thing in DIFFERENT[name]:
        there = pickle.loads(dumps(thing))
        assert fingerprint(there) == fingerprint(thing)


def test_what_no_vector_depends_on_leaves_the_digest():
    digest = fingerprint(Net())
    net = Net().eval()
    net.requires_grad_(False)
    net.register_full_backward_hook(lambda *args: None)
    net.body[0].weight.data = net.body[0].weight.data.T.contiguous().T
    assert net.body[0].weight.stride() == (1, 4)
    assert fingerprint(net) == digest
    for _ in range(3):
        net.register_forward_hook(hook).remove()
    assert fingerprint(net) == digest


def test_a_channels_last_copy_has_the_digest():
    conv = nn.Conv2d(3, 4, 3)
    there = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    assert there.weight.stride() != conv.weight.stride()
    assert fingerprint(there) == fingerprint(conv)


def test_views_and_conjugates_are_read_by_value():
    base = torch.arange(12.0).reshape(3, 4)
    assert fingerprint(base[:, 1:3]) == fingerprint(base[:, 1:3].clone())
    z = torch.tensor([1 + 2j])
    assert fingerprint(z.conj()) == fingerprint(z.conj().resolve_conj()) != fingerprint(z)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda module: prune.l1_unstructured(module, "weight", 2),
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_a_module_with_normed_weights_is_the_same_before_and_after_it_ran(norm):
    module = norm(nn.Linear(3, 3)).eval()
    digest = fingerprint(module)
    with torch.no_grad():
        module(torch.ones(1, 3))
    assert fingerprint(module) == digest == fingerprint(copy.deepcopy(module))
    with torch.no_grad():
        next(iter(module.parameters())).mul_(2)
    assert fingerprint(module) != digest


@pytest.mark.parametrize("module", [nn.LSTM(4, 4), nn.TransformerEncoderLayer(8, 2)])
def test_a_librarys_module_has_the_digest_of_its_copies(module):
    digest = fingerprint(module)
    assert fingerprint(copy.deepcopy(module)) == digest
    assert fingerprint(pickle.loads(pickle.dumps(module))) == digest


def take_a_step(net):
    net.weight.grad = torch.ones_like(net.weight)
    torch.optim.SGD(net.parameters(), 0.1).step()


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.load_state_dict(nn.Linear(128, 128).state_dict()),
        lambda net: net.weight.data.add_(1),
        lambda net: setattr(net.weight, "data", torch.zeros(128, 128)),
        lambda net: net.weight.detach().numpy().fill(0),
        lambda net: nn.init.zeros_(net.weight),
        take_a_step,
    ],
)
def test_weights_that_were_read_before_and_change_are_read_again(change):
    net = nn.Linear(128, 128)
    digest = fingerprint(net)
    assert fingerprint(net) == digest
    change(net)
    assert fingerprint(net) != digest
    assert fingerprint(net) == fingerprint(copy.deepcopy(net))


@pytest.mark.parametrize("shape", [(3000, 16), (2, 40_000), (64, 3, 9, 9)])
@pytest.mark.parametrize("row", [0, 1, -1, slice(0, 0)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_row_or_column_that_changes_uncounted_is_seen(shape, row, layout):
    weight = nn.Parameter(torch.zeros(shape))
    if weight.ndim == 4:
        weight = nn.Parameter(weight.detach().contiguous(memory_format=layout))
    digest = fingerprint(weight)
    if isinstance(row, int):
        weight.data[row] = 1
    else:
        weight.data[:, 1] = 1
    assert weight._version == 0
    assert fingerprint(weight) != digest


def test_a_traced_module_is_its_graph_in_either_mode():
    from torchvision.models import resnet18
    from torchvision.models.feature_extraction import create_feature_extractor

    net = resnet18()
    first, second = (create_feature_extractor(net, [layer]) for layer in ("layer1", "relu"))
    digest = fingerprint(first)
    assert fingerprint(copy.deepcopy(first)) == digest != fingerprint(second)
    assert fingerprint(first.eval()) == digest


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 4


def test_a_dataclass_of_the_user_counts_by_what_it_holds():
    def with_config(width):
        return changed(lambda net: setattr(net, "config", Config(width)))

    digest = fingerprint(with_config(4))
    assert fingerprint(copy.deepcopy(with_config(4))) == digest != fingerprint(with_config(5))
    assert fingerprint(types.MappingProxyType({"a": 1})) != fingerprint({"a": 1})


def test_line_numbers_and_names_of_files_do_not_count():
    source = "def f(x):\n    return [each + 1 for each in x]"
    here, there = made(source), made("\n\n# A comment.\n" + source)
    assert here.__code__.co_firstlineno != there.__code__.co_firstlineno
    assert fingerprint(here) == fingerprint(there)


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning")
@pytest.mark.parametrize(
    ("thing", "message"),
    [
        (lambda: changed(lambda net: setattr(net, "lock", threading.Lock())), r"^Net\.lock is a"),
        (lambda: {"a": [sys.stdout.buffer]}, r"dict\['a'\]\[0\] is a _io\.\w+, which cannot"),
        (lambda: nn.LazyLinear(3), r"^LazyLinear\.weight has no values yet"),
        (lambda: nn.Linear(2, 2, device="meta"), r"^Linear\.weight is on the device 'meta'"),
        (
            lambda: made("import threading\nLOCK = threading.Lock()\nf = lambda: LOCK"),
            r"<lambda> \(uses LOCK\) is",
        ),
        (
            lambda: torch.quantize_per_tensor(torch.ones(1), 1.0, 0, torch.qint8),
            "is quantised",
        ),
        (lambda: (each for each in []), "generator, which cannot be pickled"),
        (
            lambda: [torch.jit.script(nn.ReLU())],
            r"list\[0\] is a program of torch\.jit or torch\.export; pass",
        ),
        (
            lambda: torch.export.unflatten(torch.export.export(nn.ReLU(), (torch.ones(2),))),
            "^UnflattenedModule is a program of torch.jit or torch.export; pass",
        ),
        (
            lambda: changed(lambda net: setattr(net, "act", torch.jit.script(scripted))),
            r"^Net\.act uses a function of torch\.jit; use the Python function",
        ),
    ],
)
def test_what_cannot_be_pickled_is_named_by_its_path(thing, message):
    with pytest.raises(UnsupportedModelError, match=message):
        fingerprint(thing())


SCRIPT = """
import multiprocessing, sys
import torch
from torch import nn
from torch.nn.utils import prune
from skembed.weights import fingerprint
import layers

NAMES = {"alpha", "beta", "gamma", "delta"}

def transform(x):
    return x if x in NAMES else layers.scale(x)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.names = nn.Linear(3, 3), {"x", "y", "z", "w"}
        self.linear.register_forward_hook(layers.hook)

    def forward(self, x):
        return self.linear(x)

def of_both(net):
    return fingerprint(net).hex(), fingerprint(transform).hex()

if __name__ == "__main__":
    net = Net()
    here = of_both(net)
    print(*here)
    if len(sys.argv) > 1:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(of_both, (net,)) == here
"""
LAYERS = """
K = 1

def scale(x):
    return x * K

def hook(module, inputs, output):
    return output"""


def write_script(folder, before="", layers=LAYERS):
    folder.mkdir()
    (folder / "script.py").write_text(before + SCRIPT)
    (folder / "layers.py").write_text(layers)


def run(arguments, seed):
    """Run Python in a process of its own; return the words of each line that it prints."""
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root}
    command = [sys.executable, *arguments]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return [line.split() for line in out.stdout.splitlines()]


# In one process, which takes seconds to start, each script with a `layers` of its own.
RUN_EACH = """
import runpy, sys
for folder in sys.argv[1:]:
    sys.path.insert(0, folder)
    sys.modules.pop("layers", None)
    sys.argv[1:] = []
    runpy.run_path(folder + "/script.py", run_name="__main__")
"""


def test_other_processes_and_folders_agree_and_an_edited_import_does_not(tmp_path):
    write_script(tmp_path / "a")
    [first] = run([str(tmp_path / "a" / "script.py"), "spawn"], "1")
    write_script(tmp_path / "b", before="\n# Moved down.\n")
    write_script(tmp_path / "c", layers=LAYERS.replace("K = 1", "K = 2"))
    write_script(tmp_path / "d", layers=LAYERS + " + 1")
    folders = [str(tmp_path / name) for name in "bcd"]
    moved, other_constant, other_hook = run(["-c", RUN_EACH, *folders], "2")
    assert moved == first
    assert (other_constant[0], other_constant[1] != first[1]) == (first[0], True)
    assert (other_hook[0] != first[0], other_hook[1]) == (True, first[1])
