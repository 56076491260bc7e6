"""Torch modules: built, filled with weights, cut at a layer, run with care.

Knows modules and state dicts; must not know rows, modalities or estimators.
"""

from __future__ import annotations

from skembed.modules._building import build_empty, build_random, is_empty
from skembed.modules._dropout import Dropout, DroppedReLU, attend, drop_out, speed_up_dropout
from skembed.modules._elmo import N_BOUNDARIES, BiLM, BiLMSizes, WordBatch
from skembed.modules._hidden import (
    drop_unused,
    find_layer,
    find_unused,
    first_tensor,
    has_weights,
)
from skembed.modules._joint import JOINT_MODELS, Joint, JointModel, LanguageModel
from skembed.modules._layers import (
    CutAt,
    Reached,
    check_layer,
    first_that_runs,
    run_apart,
    stop_after,
)
from skembed.modules._own import FEATURES, Features, ModuleSource, OneAtATime, try_out
from skembed.modules._pooling import POOLINGS, pool, pool_rows, pooled_width
from skembed.modules._preprocess import Preprocess, make_preprocess
from skembed.modules._rows import Rows, TokenBatch
from skembed.modules._speech import SpeechModel
from skembed.modules._stacks import Stacks
from skembed.modules._state_dicts import fill, fill_part, plain_names, write_state
from skembed.modules._states import States, make_states
from skembed.modules._tokens import TokenModule, TokenTransformer
from skembed.modules._tracing import of_this_thread

__all__ = [
    "FEATURES",
    "JOINT_MODELS",
    "N_BOUNDARIES",
    "POOLINGS",
    "BiLM",
    "BiLMSizes",
    "CutAt",
    "Dropout",
    "DroppedReLU",
    "Features",
    "Joint",
    "JointModel",
    "LanguageModel",
    "ModuleSource",
    "OneAtATime",
    "Preprocess",
    "Reached",
    "Rows",
    "SpeechModel",
    "Stacks",
    "States",
    "TokenBatch",
    "TokenModule",
    "TokenTransformer",
    "WordBatch",
    "attend",
    "build_empty",
    "build_random",
    "check_layer",
    "drop_out",
    "drop_unused",
    "fill",
    "fill_part",
    "find_layer",
    "find_unused",
    "first_tensor",
    "first_that_runs",
    "has_weights",
    "is_empty",
    "make_preprocess",
    "make_states",
    "of_this_thread",
    "plain_names",
    "pool",
    "pool_rows",
    "pooled_width",
    "run_apart",
    "speed_up_dropout",
    "stop_after",
    "try_out",
    "write_state",
]
