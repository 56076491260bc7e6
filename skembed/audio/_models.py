"""The table of audio models that skembed knows by name.

Other hub ids and folders of the same kinds work too; all torchaudio bundles are here.
"""

from __future__ import annotations

from skembed._models import ModelInfo

__all__ = ["DEFAULT_MODEL", "MODELS"]

DEFAULT_MODEL = "WAV2VEC2_BASE"

_W2V, _HUBERT, _WAVLM = "arXiv:2006.11477", "arXiv:2106.07447", "arXiv:2110.13900"

MODELS: dict[str, ModelInfo] = {
    each.name: each
    for each in (
        ModelInfo("logmel", 160, "", "doi:10.1109/TASSP.1980.1163420", "baseline, nothing trained"),
        ModelInfo("mfcc", 40, "", "doi:10.1109/TASSP.1980.1163420", "baseline, nothing trained"),
        ModelInfo("deepspeech", 2048, "", "arXiv:1412.5567", "an architecture; weights are yours"),
        ModelInfo("WAV2VEC2_BASE", 768, "MIT", _W2V, "speech; the default"),
        ModelInfo("WAV2VEC2_LARGE", 1024, "MIT", _W2V, "speech, larger"),
        ModelInfo("WAV2VEC2_LARGE_LV60K", 1024, "MIT", _W2V, "speech, more of it"),
        ModelInfo("WAV2VEC2_XLSR53", 1024, "MIT", "arXiv:2006.13979", "speech, 53 languages"),
        ModelInfo("WAV2VEC2_XLSR_300M", 1024, "Apache-2.0", "arXiv:2111.09296", "128 languages"),
        ModelInfo("WAV2VEC2_XLSR_1B", 1280, "Apache-2.0", "arXiv:2111.09296", "128 languages"),
        ModelInfo("WAV2VEC2_XLSR_2B", 1920, "Apache-2.0", "arXiv:2111.09296", "128 languages"),
        ModelInfo("HUBERT_BASE", 768, "MIT", _HUBERT, "speech: words and sounds"),
        ModelInfo("HUBERT_LARGE", 1024, "MIT", _HUBERT, "speech, larger"),
        ModelInfo("HUBERT_XLARGE", 1280, "MIT", _HUBERT, "speech, 4 GB"),
        ModelInfo("WAVLM_BASE", 768, "CC-BY-SA-3.0", _WAVLM, "speech and speakers"),
        ModelInfo("WAVLM_BASE_PLUS", 768, "CC-BY-SA-3.0", _WAVLM, "speech and speakers, more data"),
        ModelInfo("WAVLM_LARGE", 1024, "CC-BY-SA-3.0", _WAVLM, "speech and speakers, larger"),
        ModelInfo("facebook/wav2vec2-base", 768, "Apache-2.0", _W2V, "speech"),
        ModelInfo("facebook/hubert-base-ls960", 768, "Apache-2.0", _HUBERT, "speech"),
        ModelInfo("microsoft/wavlm-base-plus", 768, "CC-BY-SA-3.0", _WAVLM, "speech and speakers"),
        ModelInfo(
            "openai/whisper-base", 512, "Apache-2.0", "arXiv:2212.04356", "words, 99 languages"
        ),
        ModelInfo(
            "google/embeddinggemma-2",
            768,
            "Apache-2.0",
            "arXiv:2509.20354",
            "shares a space with texts and pictures",
        ),
        ModelInfo(
            "laion/clap-htsat-unfused",
            512,
            "Apache-2.0",
            "arXiv:2211.06687",
            "sounds of all kinds; shares a space with texts",
        ),
        ModelInfo(
            "MIT/ast-finetuned-audioset-10-10-0.4593",
            768,
            "BSD-3-Clause",
            "arXiv:2104.01778",
            "sounds of AudioSet's classes",
        ),
    )
}
