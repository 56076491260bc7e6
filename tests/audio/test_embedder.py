"""AudioEmbedder as a whole: vectors, windows, faults, reports, changes meanwhile, modules."""

import pickle
import shutil
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from torch import nn

from skembed import AudioEmbedder, EmbeddingStore
from skembed.audio import _encoder
from skembed.audio._encoder import Windows
from skembed.exceptions import (
    InvalidParameterError,
    InvalidRowsError,
    InvalidRowsWarning,
    ModelWarning,
    QualityWarning,
    UnsupportedModelError,
)
from tests.audio.networks import RATE, TinyNetwork, clips, pairs, write_files

CLIPS = clips(6)


def tiny(**params):
    params = {"dtype": "float32", "cache": None, "sampling_rate": RATE, **params}
    return AudioEmbedder(params.pop("model", TinyNetwork()), **params)


@torch.inference_mode()
def frames_of(clip, network=None):
    return (network or TinyNetwork()).eval()(torch.from_numpy(clip)[None])[0].numpy()


POOLED = {
    "auto": lambda x: x.mean(0),
    "mean": lambda x: x.mean(0),
    "std": lambda x: x.std(0),
    "mean+std": lambda x: np.concatenate([x.mean(0), x.std(0)]),
    "max": lambda x: x.max(0),
    "cls": lambda x: x[0],
}


@pytest.mark.parametrize("pooling", POOLED)
def test_vectors_are_those_of_each_clip_alone(pooling):
    expected = [POOLED[pooling](frames_of(clip)) for clip in CLIPS]
    vectors = tiny(pooling=pooling).transform(CLIPS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert np.abs(vectors - vectors.mean(0)).max() > 0.01


def test_a_clip_as_file_and_as_waveform_has_one_vector(tmp_path):
    pcm = [(clip * 30000).astype(np.int16) for clip in clips(3, lengths=(4000, 2500))]
    paths = [tmp_path / f"{i}.wav" for i in range(3)]
    for path, each in zip(paths, pcm, strict=True):
        soundfile.write(path, each, 8000)
    embedder = tiny(sampling_rate=8000)
    np.testing.assert_array_equal(embedder.transform(paths), embedder.transform(pcm))


def test_clips_of_any_rate_are_brought_to_that_of_the_model():
    t = np.arange(RATE) / RATE
    at_16 = np.sin(2 * np.pi * 500 * t).astype(np.float32) / 2
    at_48 = np.sin(2 * np.pi * 500 * np.arange(48_000) / 48_000).astype(np.float32) / 2
    a, b = AudioEmbedder("logmel").transform([(at_16, RATE), (at_48, 48_000)])
    np.testing.assert_allclose(a[:80], b[:80], atol=0.1)
    (c,) = AudioEmbedder("logmel").transform([(at_16, 48_000)])  # the rate means something
    assert np.abs(a - c).max() > 1


def test_long_clips_are_the_mean_of_their_windows():
    clip = clips(1, lengths=(2500,))[0]
    window, hop = 1000 / RATE, 600 / RATE
    starts = [0, 600, 1200, 1500]  # the last one ends where the clip does
    expected = np.mean([frames_of(clip[s : s + 1000]).mean(0) for s in starts], 0)
    vectors = tiny(window=window, hop=hop).transform([clip, clip[:1000], clip[:900]])
    np.testing.assert_allclose(vectors[0], expected, atol=1e-5)
    np.testing.assert_allclose(vectors[1], frames_of(clip[:1000]).mean(0), atol=1e-5)
    np.testing.assert_allclose(vectors[2], frames_of(clip[:900]).mean(0), atol=1e-5)


def test_the_mean_of_windows_has_unit_length_if_rows_have():
    vectors = tiny(window=0.05, normalize=True).transform(CLIPS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "starts"),
    [(1, [0]), (100, [0]), (101, [0, 1]), (160, [0, 60]), (161, [0, 60, 61]), (220, [0, 60, 120])],
)
def test_windows_cover_the_whole_clip(n, starts):
    assert Windows(100, 60).starts(n) == starts


def test_windows_run_the_model_again_on_longer_clips_only():
    store = EmbeddingStore()
    short, long = clips(3, lengths=(1500,)), clips(2, lengths=(8000,))
    for params in ({}, {"window": 0.3}, {"window": 0.2}, {"window": 0.3, "hop": 0.1}):
        embedder = tiny(cache=store, **params)
        vectors = embedder.transform([*short, *long])
        assert embedder.report_.n_encoded == len(long) + (0 if params else len(short))
        np.testing.assert_allclose(
            vectors, tiny(cache=None, **params).transform([*short, *long]), atol=1e-6
        )


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"window": 0}, "window: expected a number of seconds above 0"),
        ({"window": float("nan")}, "window: expected a number of seconds above 0"),
        ({"hop": -1.0}, "hop: expected a number of seconds above 0"),
        ({"window": 1.0, "hop": 2.0}, "would skip parts of clips"),
        ({"window": None, "hop": 2.0}, "clips are left whole"),
        ({"window": "long"}, "window"),
        ({"layer": True}, "layer=True"),
        ({"layer": 1}, "expected the name of a submodule"),
        ({"layer": "scond"}, "Did you mean 'second'"),
        ({"weights": None}, "are in it"),
        ({"revision": "main"}, "only models on the hub"),
        ({"n_components": 7}, "gives 6 features"),
        ({"sampling_rate": 16}, "in Hz, not in kHz"),
        ({"model_sampling_rate": 16}, "model_sampling_rate"),
        ({"model": "WAV2VEC2_BSE"}, "Did you mean .*'WAV2VEC2_BASE'"),
        ({"model": "wav2vec2_base"}, "Did you mean .*'WAV2VEC2_BASE'"),
        ({"model": ""}, "expected the name of a model"),
        ({"model": "logmel", "layer": 3}, "layer=3: 'logmel' has no weights"),
        ({"model": "logmel", "model_sampling_rate": 8000}, "takes 16,000 Hz"),
        ({"model": "logmel", "preprocess": abs}, "for your own torch.nn.Module"),
        ({"preprocess": lambda x: x.numpy()}, "Make it return a torch tensor"),
        ({"preprocess": lambda x: x + torch.rand(())}, "is random"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(params, reason):
    with pytest.raises(InvalidParameterError, match=reason):
        tiny(**params).fit(CLIPS)


def test_all_faults_of_parameters_are_told_at_once():
    with pytest.raises(InvalidParameterError, match=r"(?s)hop.*sampling_rate.*window"):
        tiny(window=-1.0, hop=0, sampling_rate="x").fit(CLIPS)


def test_bad_rows_become_nan_and_are_named(tmp_path):
    good = write_files(tmp_path, CLIPS[:2])
    silent, cut = tmp_path / "silent.wav", tmp_path / "cut.wav"
    soundfile.write(silent, np.zeros(900), RATE)
    cut.write_bytes((tmp_path / "0.wav").read_bytes()[:-100])
    rows = [good[0], silent, cut, None, "none.flac", good[1]]
    embedder = tiny(on_error="nan")
    with pytest.warns(InvalidRowsWarning, match="4 of 6 rows"):
        vectors = embedder.transform(rows)
    assert np.isnan(vectors).all(1).tolist() == [False, True, True, True, True, False]
    assert "silent" in embedder.report_.faults[1]
    assert repr(str(silent)) in embedder.report_.faults[1]
    with pytest.raises(InvalidRowsError, match="2 of 6 rows") as error:
        tiny().transform(rows)
    assert sorted(error.value.faults) == [3, 4]  # what needs no decoding comes first
    np.testing.assert_array_equal(vectors[[0, 5]], tiny().transform(good))


def poor_clips():
    silent, clipped = np.zeros(900, np.float32), np.clip(3 * CLIPS[0], -1, 1)
    clipped[:300] = 1
    return [CLIPS[0], silent, clipped, silent.copy()]


def test_poor_clips_are_faults_unless_the_user_wants_them():
    embedder = tiny(on_error="nan")
    with pytest.warns(InvalidRowsWarning, match=r"3 of 4 rows(?s:.)*silent"):
        vectors = embedder.transform(poor_clips())
    assert np.isnan(vectors).all(1).tolist() == [False, True, True, True]
    assert embedder.report_.quality == {}
    embedder = tiny(on_quality="warn")
    with pytest.warns(QualityWarning, match=r"3 of 4 clips(?s:.)*row 2(?s:.)*clipped"):
        vectors = embedder.transform(poor_clips())
    expected = [frames_of(clip).mean(0) for clip in poor_clips()]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert sorted(embedder.report_.quality) == [1, 2, 3]
    assert "silent" in embedder.report_.quality[3]
    assert not embedder.report_.faults


def test_vectors_of_poor_clips_are_not_served_where_they_are_faults(tmp_path):
    kept = tiny(on_quality="ignore", cache=tmp_path)
    kept.transform(poor_clips())
    assert sorted(kept.report_.quality) == [1, 2, 3]
    with pytest.raises(InvalidRowsError, match="3 of 4 rows"):
        tiny(cache=tmp_path).transform(poor_clips())
    kept.transform(poor_clips())
    assert kept.report_.n_encoded == 0
    assert sorted(kept.report_.quality) == [1, 2, 3]  # kept with the vectors


@pytest.mark.usefixtures("small_bundle")
def test_clips_shorter_than_the_model_takes_are_named():
    embedder = AudioEmbedder(
        "WAV2VEC2_BASE", weights=None, cache=None, on_error="nan", sampling_rate=RATE, layer=0
    )
    with pytest.warns(
        InvalidRowsWarning,
        match=r"399 samples at 16,000 Hz; .* takes at least 400",
    ):
        vectors = embedder.transform([CLIPS[0][:399], CLIPS[0][:400]])
    assert np.isnan(vectors).all(1).tolist() == [True, False]


def test_a_clip_on_which_alone_the_module_fails_is_a_fault_of_its_row():
    class Picky(TinyNetwork):
        def forward(self, samples):
            if samples.shape[1] == 1000:
                raise RuntimeError("not of a thousand")
            return super().forward(samples)

    with pytest.warns(InvalidRowsWarning, match="not of a thousand"):
        vectors = tiny(model=Picky(), on_error="nan").transform(CLIPS)
    assert np.isnan(vectors).any(1).tolist() == [len(clip) == 1000 for clip in CLIPS]


def test_the_report_tells_seconds_of_clips():
    embedder = tiny()
    embedder.transform([*CLIPS, CLIPS[0]])
    report = embedder.report_
    assert (report.n_rows, report.n_distinct, report.n_encoded) == (7, 6, 6)
    np.testing.assert_allclose(report.durations, [len(c) / RATE for c in [*CLIPS, CLIPS[0]]])
    assert report.sampling_rate == RATE


def test_a_frame_s_index_is_kept(tmp_path):
    paths = pd.Series(write_files(tmp_path, CLIPS), index=[3, 3, "x", 0, -1, 2])
    frame = tiny().set_output(transform="pandas").fit_transform(paths)
    assert frame.index.tolist() == paths.index.tolist()
    assert list(frame.columns) == [f"audioembedder{i}" for i in range(6)]


def test_no_rows_give_no_vectors():
    assert tiny().transform([]).shape == (0, 6)


def test_a_file_that_changes_meanwhile_is_a_fault_not_another_clip(tmp_path, monkeypatch):
    paths = write_files(tmp_path, CLIPS[:3])
    check = _encoder.AudioEncoder.prepare

    def change_first(self, items):
        shutil.copyfile(paths[2], paths[0])
        return check(self, items)

    monkeypatch.setattr(_encoder.AudioEncoder, "prepare", change_first)
    with pytest.warns(InvalidRowsWarning, match="it changed while it was being embedded"):
        vectors = tiny(on_error="nan").transform(paths)
    assert np.isnan(vectors).all(1).tolist() == [True, False, False]


def test_a_waveform_that_is_overwritten_meanwhile_is_a_fault(monkeypatch):
    rows = clips(3, seed=77)  # which no other test has left in the run's store
    prepare = _encoder.AudioEncoder.prepare

    def overwrite(self, items):
        rows[1][:] = rows[1][::-1].copy()
        return prepare(self, items)

    monkeypatch.setattr(_encoder.AudioEncoder, "prepare", overwrite)
    embedder = tiny(on_error="nan", cache="run")
    with pytest.warns(InvalidRowsWarning, match="changed"):
        vectors = embedder.transform(rows)
    assert np.isnan(vectors).all(1).tolist() == [False, True, False]
    monkeypatch.undo()
    np.testing.assert_allclose(
        tiny(cache="run").transform([rows[1]])[0], frames_of(rows[1]).mean(0), atol=1e-5
    )


def test_an_hour_of_sound_fits_in_memory(tmp_path):
    path = tmp_path / "hour.wav"
    minute = clips(1, lengths=(60 * 8000,))[0]
    with soundfile.SoundFile(path, "w", 8000, 1, subtype="PCM_16") as file:
        for _ in range(60):
            file.write(minute)
    embedder = AudioEmbedder("logmel", cache=None)
    tracemalloc.start()
    vectors = embedder.transform([path])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert embedder.report_.durations.tolist() == [3600]
    # 230 MB of samples at 16 kHz and the file's 58 MB, not some of them again and again.
    assert peak < 420e6
    (of_a_minute,) = embedder.transform([(minute, 8000)])
    # Above 4 kHz there is nothing but the resampled clip's ends, of which a minute has more.
    is_below = np.tile(np.arange(80) < 60, 2)
    np.testing.assert_allclose(vectors[0][is_below], of_a_minute[is_below], atol=0.02)


def test_prepared_clips_are_bounded_by_bytes(monkeypatch):
    monkeypatch.setattr(_encoder, "_MOST_BYTES", 3 * 4 * 1000)
    seen = []
    prepare = _encoder.AudioEncoder.prepare

    def record(self, items):
        found = prepare(self, items)
        seen.append((len(items), len(found)))
        return found

    monkeypatch.setattr(_encoder.AudioEncoder, "prepare", record)
    many = clips(20, seed=4)
    vectors = tiny().transform(many)
    assert max(n for _, n in seen) < 8
    np.testing.assert_allclose(vectors, [frames_of(c).mean(0) for c in many], atol=1e-5)


class ChannelsFirst(TinyNetwork):
    def forward(self, samples):
        return super().forward(samples).transpose(1, 2)


class Vector(TinyNetwork):
    def forward(self, samples):
        return {"embeddings": super().forward(samples).mean(1)}


@pytest.mark.parametrize("kind", [ChannelsFirst, Vector])
def test_modules_may_give_frames_either_way_or_vectors(kind):
    vectors = tiny(model=kind()).transform(CLIPS)
    np.testing.assert_allclose(vectors, [frames_of(c).mean(0) for c in CLIPS], atol=1e-5)


def test_maps_are_pooled_over_height_and_width():
    network = nn.Sequential(nn.Unflatten(1, (1, 2, -1)), nn.Conv2d(1, 5, (1, 9)))
    rows = clips(4, lengths=(800, 1200))
    with torch.inference_mode():
        expected = [network(torch.from_numpy(c)[None]).mean((2, 3))[0].numpy() for c in rows]
    np.testing.assert_allclose(tiny(model=network).transform(rows), expected, atol=1e-5)


class Pooled(TinyNetwork):
    def forward(self, samples):
        return nn.functional.adaptive_avg_pool1d(super().forward(samples).transpose(1, 2), 5)


def test_frames_that_no_one_can_tell_from_features_are_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"shape \(1, 6, 5\) .* frames and features cannot be told"
    ):
        tiny(model=Pooled()).fit(CLIPS)


def test_modules_with_spectra_of_their_own_run_as_installed():
    class Spectra(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(33, 4)

        def forward(self, samples):
            spectrum = torch.stft(samples, 64, window=torch.ones(64), return_complex=True)
            return self.head(spectrum.abs().transpose(1, 2))

    embedder = tiny(model=Spectra(), dtype="auto")
    assert embedder.fit(CLIPS).dtype_ == "float32"
    assert np.isfinite(embedder.transform(CLIPS)).all()


def test_windows_that_fill_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(_encoder, "_MOST_BYTES_OF_A_CLIP", 100_000)

    def repeat(samples):
        return samples.repeat(20)

    embedder = tiny(preprocess=repeat, window=0.05, hop=0.001, on_error="nan")
    with pytest.warns(
        InvalidRowsWarning, match="GiB of memory; split the clip, or choose a longer"
    ):
        vectors = embedder.transform([CLIPS[0][:800], clips(1, lengths=(4000,))[0]])
    assert np.isnan(vectors).all(1).tolist() == [False, True]


def test_a_vector_cannot_be_pooled():
    with pytest.raises(InvalidParameterError, match="gives one vector per clip"):
        tiny(model=Vector(), pooling="max").fit(CLIPS)


def test_a_layer_ends_the_pass():
    class Ends(TinyNetwork):
        def forward(self, samples):
            super().forward(samples)
            raise RuntimeError("went on")

    vectors = tiny(model=Ends(), layer="second").transform(CLIPS)
    network = TinyNetwork()
    with torch.inference_mode():
        expected = [
            network.second(torch.relu(network.norm(network.first(torch.from_numpy(c)[None, None]))))
            for c in CLIPS
        ]
    np.testing.assert_allclose(vectors, [e.mean(2)[0].numpy() for e in expected], atol=1e-5)


def to_energies(samples):
    return samples[: len(samples) // 100 * 100].view(-1, 100).square().mean(1, keepdim=True)


def test_preprocess_makes_what_the_module_takes():
    network = nn.Linear(1, 3)
    vectors = tiny(model=network, preprocess=to_energies).transform(CLIPS)
    with torch.inference_mode():
        expected = [network(to_energies(torch.from_numpy(c))).mean(0).numpy() for c in CLIPS]
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_preprocess_may_change_what_it_is_given():
    def halve(samples):
        return samples.mul_(0.5)

    clip = clips(1, lengths=(2000,))[0]
    params = {"window": 1000 / RATE, "hop": 500 / RATE}
    given = clip.copy()
    vectors = tiny(preprocess=halve, **params).transform([given])
    np.testing.assert_array_equal(given, clip)
    np.testing.assert_allclose(vectors, tiny(**params).transform([clip * 0.5]), atol=1e-6)


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda self, x: torch.dropout(TinyNetwork.forward(self, x), 0.5, True), "is random"),
        (lambda self, x: x.sum(), "for a batch of one clip"),
        (lambda self, x: x[:, :5].long(), "for a batch of one clip"),
        (lambda self, x: TinyNetwork.forward(self, x - x.mean(0)), "mixes the clips|random"),
        (lambda self, x: self.missing(x), "has no attribute 'missing'"),
    ],
)
def test_modules_that_cannot_be_right_are_refused(forward, reason):
    kind = type("Odd", (TinyNetwork,), {"forward": forward})
    with pytest.raises(UnsupportedModelError, match=reason):
        tiny(model=kind()).fit(CLIPS)


def test_a_module_takes_the_rate_it_was_made_for():
    clip = clips(1, lengths=(4000,))[0]
    embedder = tiny(model_sampling_rate=8000, sampling_rate=8000)
    np.testing.assert_allclose(embedder.transform([clip])[0], frames_of(clip).mean(0), atol=1e-5)
    assert embedder.encoder_.rate == 8000


def test_the_module_handed_in_is_not_changed():
    network = TinyNetwork().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    tiny(model=network, dtype="bfloat16").transform(CLIPS)
    assert network.training
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("params", [{"model": "logmel"}, {"model": "deepspeech", "weights": None}])
def test_the_format_is_the_one_that_is_computed_in(params):
    embedder = tiny(**params, dtype="bfloat16", device="cpu").fit(CLIPS)
    assert embedder.dtype_ == "float32"


def test_pickles_hold_no_vectors_and_give_the_same():
    embedder = AudioEmbedder("mfcc", pooling="max", cache=None)
    vectors = embedder.fit_transform(pairs(4))
    copied = pickle.loads(pickle.dumps(embedder))
    assert len(pickle.dumps(embedder)) < 5000
    np.testing.assert_array_equal(copied.transform(pairs(4)), vectors)


@pytest.mark.usefixtures("small_bundle")
def test_bfloat16_is_near_float32():
    a, b = (
        AudioEmbedder("WAV2VEC2_BASE", weights=None, layer=2, dtype=dtype, cache=None).transform(
            [(clip, RATE) for clip in clips(3, lengths=(6000, 4000))]
        )
        for dtype in ("float32", "bfloat16")
    )
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.999


class Declaring(TinyNetwork):
    sample_rate = 22_050


class Bands(nn.Module):
    sampling_rate = 8_000

    def forward(self, samples):
        return samples


@pytest.mark.parametrize(
    ("params", "declared"),
    [
        ({"model": Declaring()}, "Declaring declares sample_rate=22,050"),
        ({"model": nn.Sequential(Declaring())}, r"Sequential declares .*\(Declaring\)"),
        (
            {"model": TinyNetwork(), "preprocess": Bands()},
            "preprocess declares sampling_rate=8,000",
        ),
    ],
)
def test_a_module_that_declares_another_rate_is_warned_of(params, declared):
    rate = 22_050 if "preprocess" not in params else 8_000
    with pytest.warns(ModelWarning, match=f"{declared}.*clips at 16,000 Hz.*rate={rate}"):
        AudioEmbedder(**params).fit(pairs(1))
    AudioEmbedder(**params, model_sampling_rate=rate).fit(pairs(1))
