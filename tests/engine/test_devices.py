"""Devices and precision."""

from types import SimpleNamespace

import pytest
import torch

from skembed.acceleration import _processor
from skembed.engine import _devices, _own_device, resolve_device, resolve_devices, resolve_dtype
from skembed.engine._devices import is_out_of_memory
from skembed.exceptions import InvalidParameterError
from tests.store._processes import finish, start

CPU = torch.device("cpu")


def test_a_device_that_torch_does_not_know_is_named():
    with pytest.raises(InvalidParameterError, match="'abacus' is not a device"):
        resolve_device("abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_named():
    assert resolve_device("auto").type in ("cpu", "mps")
    with pytest.raises(InvalidParameterError, match="no CUDA device here"):
        resolve_device("cuda")


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


@pytest.mark.parametrize(
    ("device", "names"),
    [
        ("cuda:1", ["cuda:1"]),
        (["cuda"], ["cuda:0"]),
        (["cuda", "cuda:1"], ["cuda:0", "cuda:1"]),
        (("cuda:1", "cuda:0"), ["cuda:1", "cuda:0"]),
        (["cpu", "cpu"], ["cpu", "cpu"]),
    ],
)
def test_one_name_or_a_list_of_names_is_resolved_in_order(two_gpus, device, names):
    assert [str(each) for each in resolve_devices(device)] == names


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ([], r"device=\[\]: expected a device's name or a list .*, got an empty list"),
        (["cuda:0", 1, None], "expected .* a list of such names, got int 1, NoneType None"),
        (["cpu", "cuda:0"], "expected devices of one kind, got cpu and cuda"),
        (["cuda", "cuda:1", "cuda:0"], "expected each device once, got cuda:0 more than once"),
        (["cuda:0", "abacus"], "'abacus' is not a device"),
        (["cuda:0", "cuda:2"], r"has 2 CUDA device\(s\)"),
    ],
)
def test_a_list_that_cannot_share_the_work_is_refused(two_gpus, device, message):
    with pytest.raises(InvalidParameterError, match=message):
        resolve_devices(device)


def set_clock(monkeypatch, gain):
    """Let a layer take `gain` seconds in float32, and then one second in bfloat16."""
    ticks = [tick for seconds in (gain, 1.0) for _ in range(6) for tick in (0.0, seconds)]
    monkeypatch.setattr(_processor, "time", SimpleNamespace(perf_counter=iter(ticks).__next__))


@pytest.mark.parametrize(("gain", "dtype"), [(1.4, torch.bfloat16), (1.2, torch.float32)])
def test_bfloat16_is_chosen_where_the_probe_finds_it_faster(monkeypatch, tmp_path, gain, dtype):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    set_clock(monkeypatch, gain)
    assert resolve_dtype("auto", CPU) is dtype
    # The machine's answer holds: another process, or a noisy second probe, gives the same.
    set_clock(monkeypatch, 1 / gain)
    assert resolve_dtype("auto", CPU) is dtype


@pytest.mark.parametrize(
    "place", ["torch.__version__", "torch.backends.cpu.get_cpu_capability", "platform.node"]
)
def test_another_torch_or_machine_is_probed_anew(monkeypatch, tmp_path, place):
    monkeypatch.setenv("SKEMBED_HOME", str(tmp_path))
    set_clock(monkeypatch, 2.0)
    assert resolve_dtype("auto", CPU) is torch.bfloat16
    set_clock(monkeypatch, 0.5)
    monkeypatch.setattr(place, "other" if place.endswith("version__") else lambda: "other")
    assert resolve_dtype("auto", CPU) is torch.float32


def test_the_probe_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    assert _processor._probe_bfloat16() in ("faster", "slower")
    assert torch.get_num_threads() == before


def test_a_dtype_that_is_asked_for_is_used():
    assert resolve_dtype("float16", CPU) is torch.float16
    with pytest.raises(InvalidParameterError, match="dtype='int2' is not one of"):
        resolve_dtype("int2", CPU)


def test_int8_is_refused_where_nothing_computes_in_it(monkeypatch):
    with pytest.raises(InvalidParameterError, match=r"dtype='int8' needs a CUDA GPU .* 'mps:0'"):
        resolve_dtype("int8", torch.device("mps", 0))
    monkeypatch.setattr(_devices, "has_int8", lambda: False)
    with pytest.raises(InvalidParameterError, match=r"dtype='int8' needs a CUDA GPU .* 'cpu'"):
        resolve_dtype("int8", CPU)
    monkeypatch.setattr(_devices, "has_int8", lambda: True)
    assert resolve_dtype("int8", CPU) is torch.int8


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_memory_errors_are_told_from_others(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_cpu_is_one_device_by_any_number():
    assert resolve_device("cpu:7") == resolve_device("cpu") == torch.device("cpu")


class TestWorkers:
    """Devices of the processes of a run, on a machine that says it has three."""

    CODE = """
        import sys
        from skembed.engine._own_device import own_cuda_device
        print(own_cuda_device(3, int(sys.argv[1])), flush=True)
        sys.stdin.readline()
    """

    def start(self, chosen=0, **changes):
        process = start(self.CODE, chosen, **changes)
        return process, int(process.stdout.readline())

    @pytest.fixture
    def of_a_run(self, tmp_path):
        return {"SKEMBED_RUN": str(tmp_path / "run")}

    def test_each_takes_its_own_until_there_is_none_left(self, of_a_run):
        started = [self.start(**of_a_run) for _ in range(5)]
        assert [device for _, device in started] == [0, 1, 2, 0, 1]
        finish(started[1][0])
        again, device = self.start(**of_a_run)  # what a worker leaves is free
        assert device == 1
        for process in [again, *(p for i, (p, _) in enumerate(started) if i != 1)]:
            finish(process)

    def test_who_has_chosen_keeps_that_device(self, of_a_run):
        process, device = self.start(2, **of_a_run)
        finish(process)
        assert device == 2

    def test_the_process_that_began_the_run_takes_torchs(self):
        first, second = self.start(), self.start()
        assert first[1] == second[1] == 0
        finish(first[0]), finish(second[0])

    def test_auto_is_the_workers_own(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        monkeypatch.setattr(_own_device, "is_worker", lambda: True)
        monkeypatch.setattr(_own_device, "_own", [4])
        assert resolve_device("auto") == torch.device("cuda:1")
