"""The table of audio models that skembed knows by name.

Any other hub id or folder of the same kinds works too; of torchaudio's bundles all are here.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["AUDIO_MODELS", "DEFAULT_MODEL", "AudioModel"]

DEFAULT_MODEL = "WAV2VEC2_BASE"


@dataclass(frozen=True, slots=True)
class AudioModel:
    """One row of the table.

    Parameters
    ----------
    width : int
        Number of features with the default pooling.
    licence : str
        SPDX name of the licence of the weights.
    source : str
        Paper or model card.
    note : str
        What it is good for.
    """

    width: int
    licence: str
    source: str
    note: str


_W2V, _HUBERT, _WAVLM = "arXiv:2006.11477", "arXiv:2106.07447", "arXiv:2110.13900"

AUDIO_MODELS: dict[str, AudioModel] = {
    "logmel": AudioModel(160, "", "doi:10.1109/TASSP.1980.1163420", "baseline, nothing trained"),
    "mfcc": AudioModel(40, "", "doi:10.1109/TASSP.1980.1163420", "baseline, nothing trained"),
    "deepspeech": AudioModel(2048, "", "arXiv:1412.5567", "an architecture; weights are yours"),
    "WAV2VEC2_BASE": AudioModel(768, "MIT", _W2V, "speech; the default"),
    "WAV2VEC2_LARGE": AudioModel(1024, "MIT", _W2V, "speech, larger"),
    "WAV2VEC2_LARGE_LV60K": AudioModel(1024, "MIT", _W2V, "speech, more of it"),
    "WAV2VEC2_XLSR53": AudioModel(1024, "MIT", "arXiv:2006.13979", "speech, 53 languages"),
    "WAV2VEC2_XLSR_300M": AudioModel(1024, "Apache-2.0", "arXiv:2111.09296", "128 languages"),
    "WAV2VEC2_XLSR_1B": AudioModel(1280, "Apache-2.0", "arXiv:2111.09296", "128 languages"),
    "WAV2VEC2_XLSR_2B": AudioModel(1920, "Apache-2.0", "arXiv:2111.09296", "128 languages"),
    "HUBERT_BASE": AudioModel(768, "MIT", _HUBERT, "speech: words and sounds"),
    "HUBERT_LARGE": AudioModel(1024, "MIT", _HUBERT, "speech, larger"),
    "HUBERT_XLARGE": AudioModel(1280, "MIT", _HUBERT, "speech, 4 GB"),
    "WAVLM_BASE": AudioModel(768, "CC-BY-SA-3.0", _WAVLM, "speech and speakers"),
    "WAVLM_BASE_PLUS": AudioModel(768, "CC-BY-SA-3.0", _WAVLM, "speech and speakers, more data"),
    "WAVLM_LARGE": AudioModel(1024, "CC-BY-SA-3.0", _WAVLM, "speech and speakers, larger"),
    "facebook/wav2vec2-base": AudioModel(768, "Apache-2.0", _W2V, "speech"),
    "facebook/hubert-base-ls960": AudioModel(768, "Apache-2.0", _HUBERT, "speech"),
    "microsoft/wavlm-base-plus": AudioModel(768, "CC-BY-SA-3.0", _WAVLM, "speech and speakers"),
    "openai/whisper-base": AudioModel(512, "Apache-2.0", "arXiv:2212.04356", "words, 99 languages"),
    "laion/clap-htsat-unfused": AudioModel(
        512, "Apache-2.0", "arXiv:2211.06687", "sounds of all kinds"
    ),
    "MIT/ast-finetuned-audioset-10-10-0.4593": AudioModel(
        768, "BSD-3-Clause", "arXiv:2104.01778", "sounds of AudioSet's classes"
    ),
}
