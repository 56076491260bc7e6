"""Model folders that are damaged, incomplete, or bring code."""

import json
import pickle
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from skembed import EmbeddingStore, TextEmbedder
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
        with pytest.raises(UnsupportedModelError, match=r"knows no words|cannot be read"):
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
        with pytest.raises(UnsupportedModelError, match="damaged"):
            TextEmbedder(copy).fit(["a"])

    @pytest.mark.parametrize("content", [b"random bytes", pickle.dumps(print, protocol=2)])
    def test_a_pickle_of_more_than_tensors_is_refused(self, copy, content):
        (copy / "model.safetensors").unlink()
        (copy / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UnsupportedModelError, match=r"pickle|damaged|weights") as caught:
            TextEmbedder(copy).transform(["a"])
        assert "weights_only=False" not in str(caught.value)

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
