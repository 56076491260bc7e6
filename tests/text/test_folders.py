"""Model folders that are damaged, incomplete, or bring code."""

import json
import pickle
import shutil
from importlib import import_module

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from skembed import EmbeddingStore, TextEmbedder, unload_models
from skembed.exceptions import (
    UnsafeModelError,
    UnsupportedModelError,
)
from tests.text.checkpoints import SHORT, write_checkpoint


class TestFaultsOfFolders:
    @pytest.fixture
    def copy(self, folder, tmp_path):
        return shutil.copytree(folder, tmp_path / "model")

    def test_a_folder_without_a_tokenizer_is_refused(self, copy):
        for path in copy.glob("token*"):
            path.unlink()
        with pytest.raises(UnsupportedModelError, match="has no tokenizer"):
            TextEmbedder(copy).fit(["a"])

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("tokenizer.json", "tokenizer in .* cannot be read"),
            ("config.json", "cannot read the configuration"),
            ("model.safetensors", "is damaged"),
        ],
    )
    def test_a_damaged_file_is_named(self, copy, name, message):
        (copy / name).write_text("{ not JSON")
        with pytest.raises(UnsupportedModelError, match=message):
            TextEmbedder(copy).transform(["a"])

    def test_a_module_without_a_type_is_named(self, copy):
        (copy / "modules.json").write_text('[{"idx": 0, "path": ""}]')
        with pytest.raises(UnsupportedModelError, match=r"modules\.json is damaged"):
            TextEmbedder(copy).fit(["a"])

    def test_a_vocabulary_of_another_kind_is_refused(self, copy):
        for path in copy.glob("token*"):
            path.unlink()
        (copy / "vocab.json").write_text('{"a": 1}')
        with pytest.raises(UnsupportedModelError, match=r"or an empty one|cannot be read"):
            TextEmbedder(copy).fit(["a"])

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("modules.json", "null"),
            ("1_Pooling/config.json", "[1]"),
            ("1_Pooling/config.json", '{"pooling_mode": 3}'),
            ("config_sentence_transformers.json", '{"prompts": ["a"]}'),
            ("config_sentence_transformers.json", '{"default_prompt_name": "zz"}'),
            ("sentence_bert_config.json", '{"max_seq_length": "x"}'),
            ("sentence_bert_config.json", "[1]"),
        ],
    )
    def test_settings_of_another_kind_are_named(self, copy, name, content):
        modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
        rows = [{"path": path, "type": f"sentence_transformers.{kind}"} for path, kind in modules]
        (copy / "modules.json").write_text(json.dumps(rows))
        (copy / "1_Pooling").mkdir()
        (copy / "1_Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
        TextEmbedder(copy).fit(["a"])
        (copy / name).write_text(content)
        with pytest.raises(UnsupportedModelError, match=r"is damaged|has unexpected values"):
            TextEmbedder(copy).fit(["a"])

    @pytest.mark.parametrize("content", [b"random bytes", pickle.dumps(print, protocol=2)])
    def test_a_pickle_of_more_than_tensors_is_refused(self, copy, content):
        (copy / "model.safetensors").unlink()
        (copy / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UnsupportedModelError, match=r"neither a zip .* pickle|names .*print"):
            TextEmbedder(copy).transform(["a"])

    def test_a_decoder_that_lacks_a_layer_is_refused(self, tmp_path):
        path = write_checkpoint(tmp_path / "opt", "opt")
        weights = load_file(path / "model.safetensors")
        kept = {name: weight for name, weight in weights.items() if "layers.1." not in name}
        assert len(kept) < len(weights)
        save_file(kept, path / "model.safetensors", {"format": "pt"})
        with pytest.raises(UnsupportedModelError, match=r"lacks \d+ weights"):
            TextEmbedder(path).transform(["a"])

    def test_weights_of_another_shape_are_named(self, copy):
        weights = load_file(copy / "model.safetensors")
        name = "encoder.layer.0.attention.self.query.weight"
        weights[name] = weights[name][:16].clone()
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
        with pytest.raises(UnsupportedModelError, match=r"query\.weight has shape \(16, 32\)"):
            TextEmbedder(copy).transform(["a"])

    def test_code_that_was_allowed_once_does_not_run_when_it_is_not(self, copy, monkeypatch):
        monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(copy.parent))
        expected = TextEmbedder(copy, cache=None, dtype="float32").transform(SHORT)
        config = json.loads((copy / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "shifted.ShiftedModel"}
        (copy / "config.json").write_text(json.dumps(config))
        (copy / "shifted.py").write_text(
            "from transformers import BertModel\n"
            "class ShiftedModel(BertModel):\n"
            "    def forward(self, *args, **kwargs):\n"
            "        out = super().forward(*args, **kwargs)\n"
            "        out.last_hidden_state = out.last_hidden_state + 100\n"
            "        return out\n"
        )
        store = EmbeddingStore()
        trusting = TextEmbedder(copy, trust_remote_code=True, cache=store, dtype="float32")
        assert trusting.transform(SHORT).mean() > 90
        wary = TextEmbedder(copy, cache=store, dtype="float32")
        np.testing.assert_allclose(wary.transform(SHORT), expected, atol=1e-5)

    def test_code_of_another_repository_is_refused(self, copy):
        config = json.loads((copy / "config.json").read_text())
        config["auto_map"] = {"AutoModel": "someone/else--shifted.ShiftedModel"}
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(UnsafeModelError, match="from another repository"):
            TextEmbedder(copy, trust_remote_code=True).fit(["a"])

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
    def test_code_of_another_repository_is_refused_before_any_runs(self, copy, monkeypatch, name):
        def fail(*args, **kwargs):
            raise AssertionError("asked for code")

        monkeypatch.setattr("transformers.dynamic_module_utils.get_cached_module_file", fail)
        place = ["someone/else--other.Slow", None] if name.startswith("token") else "a/b--other.C"
        kind = "AutoTokenizer" if name.startswith("token") else "AutoConfig"
        config = json.loads((copy / name).read_text())
        (copy / name).write_text(json.dumps({**config, "auto_map": {kind: place}}))
        with pytest.raises(UnsafeModelError, match=f"{name} takes code from another repository"):
            TextEmbedder(copy, trust_remote_code=True).fit(["a"])

    def test_quantised_weights_are_refused(self, copy):
        config = json.loads((copy / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(UnsupportedModelError, match="are quantised"):
            TextEmbedder(copy).fit(["a"])

    def test_fit_finds_that_weights_are_missing(self, copy):
        (copy / "model.safetensors").unlink()
        with pytest.raises(UnsupportedModelError, match="no weights that skembed reads"):
            TextEmbedder(copy).fit(["a"])

    def test_weights_that_change_after_they_were_digested_are_not_run(self, copy, tmp_path):
        unload_models()  # other tests' copies of the same weights
        embedder = TextEmbedder(copy, dtype="float32", cache=None).fit(["a"])
        other = load_file(copy / "model.safetensors")
        save_file(
            {name: weight + 1 for name, weight in other.items()},
            copy / "model.safetensors",
            {"format": "pt"},
        )
        encoder = embedder.encoder_  # as a call holds it that had begun before
        (prepared,) = encoder.prepare(["a"])
        with pytest.raises(UnsupportedModelError, match="changed while the model was in use"):
            encoder.encode(encoder.collate(prepared.parts))
        assert np.isfinite(embedder.transform(["a"])).all()

    @pytest.mark.parametrize("library", ["transformers", "tokenizers"])
    def test_another_release_of_a_library_has_other_keys(self, copy, monkeypatch, library):
        def digest(cls):
            return TextEmbedder(copy, pooling=cls).fit(["a"]).encoder_.digest

        release = import_module(library).__version__.split(".")
        before = digest("cls")
        monkeypatch.setattr(f"{library}.__version__", ".".join([*release[:2], "99"]))
        unload_models()
        assert digest("cls") == before
        monkeypatch.setattr(f"{library}.__version__", f"{release[0]}.99.0")
        unload_models()
        assert digest("cls") != before


def write_modules(folder, *kinds):
    rows = [
        {"path": "" if kind == "Transformer" else kind, "type": f"sentence_transformers.{kind}"}
        for kind in kinds
    ]
    (folder / "modules.json").write_text(json.dumps(rows))
    for kind in kinds[1:]:
        (folder / kind).mkdir()
    (folder / "Pooling" / "config.json").write_text('{"pooling_mode": "mean"}')
    return folder


class TestSettingsOfSentenceTransformers:
    @pytest.fixture
    def copy(self, folder, tmp_path):
        return write_modules(
            shutil.copytree(folder, tmp_path / "model"), "Transformer", "Pooling", "Normalize"
        )

    @pytest.mark.parametrize(
        "settings",
        [
            {"transformer_task": "fill-mask"},
            {"module_output_name": "scores"},
            {"query_length": 32},
            {"modality_config": {"message": {"method": "forward", "format": "flat"}}},
            {"modality_config": {"text": {"method": "get_text_features"}}},
            {"processing_kwargs": {"text": {"add_special_tokens": False}}},
            {"model_args": {"is_decoder": True}},
            {"processor_kwargs": {"model_max_length": 5}},
            {"config_kwargs": {"num_hidden_layers": 1}},
        ],
        ids=str,
    )
    def test_what_would_change_vectors_is_refused(self, copy, settings):
        TextEmbedder(copy).fit(["a"])
        (copy / "sentence_bert_config.json").write_text(json.dumps(settings))
        with pytest.raises(UnsupportedModelError, match="vectors"):
            TextEmbedder(copy).fit(["a"])

    def test_what_changes_none_is_accepted(self, copy):
        settings = {
            "transformer_task": "feature-extraction",
            "modality_config": {
                "text": {"method": "forward", "method_output_name": "last_hidden_state"}
            },
            "module_output_name": "token_embeddings",
            "max_seq_length": 128,
            "processing_kwargs": {"chat_template": {"x": 1}},
            "model_args": {"add_pooling_layer": False, "torch_dtype": "float32"},
            "unpad_inputs": True,
        }
        before = TextEmbedder(copy, dtype="float32").transform(SHORT)
        (copy / "sentence_bert_config.json").write_text(json.dumps(settings))
        np.testing.assert_array_equal(TextEmbedder(copy, dtype="float32").transform(SHORT), before)

    @pytest.mark.parametrize("place", ["../model", "/model", "onnx", ".hidden", "checkpoint-500"])
    def test_modules_outside_of_the_digest_are_refused(self, copy, place):
        rows = json.loads((copy / "modules.json").read_text())
        rows[0]["path"] = place
        (copy / "modules.json").write_text(json.dumps(rows))
        with pytest.raises(UnsupportedModelError, match="puts a module into"):
            TextEmbedder(copy).fit(["a"])

    def test_a_head_that_reads_something_else_is_refused(self, copy):
        (copy / "Normalize" / "config.json").write_text('{"module_input_name": "token_embeddings"}')
        with pytest.raises(UnsupportedModelError, match="module_input_name='token_embeddings'"):
            TextEmbedder(copy).fit(["a"])

    def test_fit_finds_that_a_heads_weights_are_missing(self, folder, tmp_path):
        copy = shutil.copytree(folder, tmp_path / "other")
        write_modules(copy, "Transformer", "Pooling", "Dense")
        dense = {"in_features": 32, "out_features": 8}
        (copy / "Dense" / "config.json").write_text(json.dumps(dense))
        with pytest.raises(UnsupportedModelError, match="Dense holds no weights"):
            TextEmbedder(copy).fit(["a"])
