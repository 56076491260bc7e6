"""Training that is cut short goes on from its folder, as if nothing had happened."""

import numpy as np
import pytest
import safetensors.numpy
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from skembed import Contrastive, FineTune
from skembed.exceptions import InvalidParameterError, TrainingWarning
from skembed.store import write_whole
from skembed.training import _learn
from skembed.training._checkpoint import Checkpoint
from tests.store._processes import start
from tests.training.conftest import X, Y

METHODS = ["head", "lora", "full"]


def strategy(method, folder=None, **parameters):
    defaults = {"n_epochs": 4, "validation_fraction": 0.25, "learning_rate": 3e-3, "batch_size": 8}
    dropout = {"lora_dropout": 0.2} if method == "lora" else {}
    return FineTune(method, **{**defaults, **dropout, "checkpoint": folder, **parameters})


class Cut(Exception):
    """Stands for whatever ends a process."""


@pytest.fixture
def cut_after(monkeypatch):
    """Let training end with an error after an epoch was saved; or never."""
    save = Checkpoint.save

    def cut(epoch):
        def save_and_end(self, loop):
            save(self, loop)
            if loop.history["epoch"][-1] == epoch:
                raise Cut

        monkeypatch.setattr(Checkpoint, "save", save if epoch is None else save_and_end)

    return cut


@pytest.fixture
def epochs_run(monkeypatch):
    """The epochs that were trained in this test."""
    seen, run_epoch = [], _learn.Loop._run_epoch

    def watched(self, epoch):
        seen.append(epoch)
        return run_epoch(self, epoch)

    monkeypatch.setattr(_learn.Loop, "_run_epoch", watched)
    return seen


def same(state, other):
    """Say whether two states have learned the same, and by the same way."""
    histories = [{k: v for k, v in s.history.items() if k != "seconds"} for s in (state, other)]
    return (
        state.start_digest == other.start_digest
        and repr(histories[0]) == repr(histories[1])
        and set(state.arrays) == set(other.arrays)
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("epoch", [0, 2])
def test_what_was_cut_short_ends_bit_by_bit_as_if_it_had_not(
    embedder, tmp_path, cut_after, epochs_run, method, epoch
):
    whole = embedder(strategy(method)).fit(X, Y).trained_
    epochs_run.clear()
    cut_after(epoch)
    with pytest.raises(Cut):
        embedder(strategy(method, tmp_path)).fit(X, Y)
    cut_after(None)
    resumed = embedder(strategy(method, tmp_path)).fit(X, Y).trained_
    assert epochs_run == [1, 2, 3, 4]  # none of them twice
    assert same(resumed, whole)


def test_pairs_go_on_too(embedder, tmp_path, cut_after):
    def contrastive(folder=None):
        return Contrastive(method="lora", n_epochs=3, batch_size=8, checkpoint=folder)

    whole = embedder(contrastive()).fit(X, Y).trained_
    cut_after(1)
    with pytest.raises(Cut):
        embedder(contrastive(tmp_path)).fit(X, Y)
    cut_after(None)
    assert same(embedder(contrastive(tmp_path)).fit(X, Y).trained_, whole)


def test_patience_goes_on_too(embedder, tmp_path, cut_after, epochs_run):
    parameters = {"patience": 2, "learning_rate": 1e-15, "n_epochs": 9, "scoring": "accuracy"}
    cut_after(1)
    with pytest.raises(Cut):
        embedder(strategy("full", tmp_path, **parameters)).fit(X, Y)
    cut_after(None)
    embedder(strategy("full", tmp_path, **parameters)).fit(X, Y)
    assert epochs_run == [1, 2]  # no better one after two


def test_a_process_that_was_killed_is_gone_on_from(embedder, tmp_path, epochs_run):
    kill(embedder(None).model, tmp_path)
    (left,) = tmp_path.iterdir()
    before = left.read_bytes()
    with pytest.warns(TrainingWarning, match=r"1 unfinished training.* starts at the first epoch"):
        other = embedder(strategy("full", tmp_path)).fit(X, Y[::-1]).trained_
    assert epochs_run == [1, 2, 3, 4]
    assert left.read_bytes() == before  # nothing was lost by other targets
    resumed = embedder(strategy("full", tmp_path)).fit(X, Y).trained_
    assert epochs_run[4:] == [3, 4]
    assert same(resumed, embedder(strategy("full")).fit(X, Y).trained_)
    assert same(other, embedder(strategy("full")).fit(X, Y[::-1]).trained_)


def kill(model, folder):
    """Start a process that trains and is killed after two epochs."""
    code = """
        import os, signal, sys
        from skembed import TextEmbedder
        from skembed.training._checkpoint import Checkpoint
        from tests.training.conftest import X, Y
        from tests.training.test_checkpoint import strategy
        save = Checkpoint.save
        def save_and_die(self, loop):
            save(self, loop)
            if loop.history["epoch"][-1] == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        Checkpoint.save = save_and_die
        made = TextEmbedder(
            sys.argv[1], training=strategy("full", sys.argv[2]), dtype="float32", cache=None
        )
        made.fit(X, Y)
    """
    threads = str(torch.get_num_threads())
    process = start(code, model, folder, OMP_NUM_THREADS=threads)
    _, err = process.communicate(timeout=60)
    assert process.returncode == -9, err


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.fit(X[::-1], Y),
        lambda made: made.fit(X, Y[::-1]),
        lambda made: made.fit(X, Y, sample_weight=np.arange(1, len(X) + 1)),
        lambda made: made.set_params(training__learning_rate=1e-3).fit(X, Y),
        lambda made: made.set_params(normalize=True).fit(X, Y),
    ],
    ids=["rows", "targets", "weights", "parameters", "settings"],
)
def test_another_training_is_never_gone_on_from(embedder, tmp_path, cut_after, change):
    cut_after(2)
    with pytest.raises(Cut):
        embedder(strategy("full", tmp_path)).fit(X, Y)
    cut_after(None)
    found = change(embedder(strategy("full", tmp_path))).trained_
    assert same(found, change(embedder(strategy("full"))).trained_)


def test_what_is_done_is_not_trained_again(embedder, tmp_path, epochs_run):
    first = embedder(strategy("full", tmp_path)).fit(X, Y).trained_
    again = embedder(strategy("full", tmp_path)).fit(X, Y).trained_
    assert epochs_run == [1, 2, 3, 4]
    assert same(again, first)


def test_the_trainings_of_a_search_share_a_folder(embedder, tmp_path):
    pipe = make_pipeline(embedder(strategy("head", tmp_path)), LogisticRegression())
    GridSearchCV(pipe, {"textembedder__training__learning_rate": [1e-4, 1e-3]}, cv=2).fit(X, Y)
    assert len(list(tmp_path.iterdir())) == 2 * 2 + 1


def test_files_hold_arrays_and_no_code(embedder, tmp_path):
    embedder(strategy("lora", tmp_path)).fit(X, Y)
    (path,) = tmp_path.iterdir()
    kinds = {name.split(":")[0] for name in safetensors.numpy.load_file(path)}
    assert kinds == {"now", "best", "head", "best head", "optimizer"}


@pytest.mark.parametrize("n_bytes", [0, 7, 500, -1])
def test_a_damaged_file_is_trained_over(embedder, tmp_path, n_bytes):
    first = embedder(strategy("head", tmp_path)).fit(X, Y).trained_
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.warns(TrainingWarning, match=r"is damaged: .*\. Training starts at the first"):
        again = embedder(strategy("head", tmp_path)).fit(X, Y).trained_
    assert same(again, first)


def test_a_flipped_bit_is_seen(embedder, tmp_path):
    embedder(strategy("head", tmp_path)).fit(X, Y)
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.warns(TrainingWarning, match="its checksum is another one"):
        embedder(strategy("head", tmp_path)).fit(X, Y)


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    write_whole(path, [b"old"])

    def pieces():
        yield b"n"
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        write_whole(path, pieces())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_seed_is_needed(embedder, tmp_path):
    with pytest.raises(InvalidParameterError, match="Set random_state to a number"):
        embedder(strategy("head", tmp_path, random_state=None)).fit(X, Y)
