"""ELMo in plain NumPy, one word and one row at a time, and small files in its published layout.

Equations: arXiv:1802.05365 (mix), arXiv:1505.00387 (highway), arXiv:1402.1128 (projected LSTM), in
the order of TensorFlow's gates: i, j, f, o, with 1 added to the forget gate.
"""

import json

import h5py
import numpy as np

N_CHARACTERS = 261
BEGIN_TEXT, END_TEXT, BEGIN_WORD, END_WORD, PADDING = 256, 257, 258, 259, 260


def make_options(**changes):
    """Return options of a tiny model; `changes` are of its LSTM, or `char_cnn`, or more."""
    cnn = {
        "activation": "relu",
        "embedding": {"dim": 4},
        "filters": [[1, 3], [2, 4], [5, 6]],
        "max_characters_per_token": 50,
        "n_characters": 262,
        "n_highway": 2,
        **changes.pop("char_cnn", {}),
    }
    more = changes.pop("more", {})
    lstm = {
        "use_skip_connections": True,
        "projection_dim": 8,
        "cell_clip": 3,
        "proj_clip": 3,
        "dim": 24,
        "n_layers": 2,
        **changes,
    }
    return {"lstm": lstm, "char_cnn": cnn, **more}


def make_weights(options, seed=0):
    """Return random datasets by name, large enough that clipping and every gate matter."""
    rng = np.random.default_rng(seed)
    cnn, lstm = options["char_cnn"], options["lstm"]
    n, d, cells = sum(n for _, n in cnn["filters"]), lstm["projection_dim"], lstm["dim"]
    shapes = {"char_embed": (N_CHARACTERS, cnn["embedding"]["dim"])}
    for i, (width, count) in enumerate(cnn["filters"]):
        shapes[f"CNN/W_cnn_{i}"] = (1, width, cnn["embedding"]["dim"], count)
        shapes[f"CNN/b_cnn_{i}"] = (count,)
    for i in range(cnn["n_highway"]):
        shapes |= {f"CNN_high_{i}/W_carry": (n, n), f"CNN_high_{i}/W_transform": (n, n)}
        shapes |= {f"CNN_high_{i}/b_carry": (n,), f"CNN_high_{i}/b_transform": (n,)}
    shapes |= {"CNN_proj/W_proj": (n, d), "CNN_proj/b_proj": (d,)}
    for direction in (0, 1):
        for layer in range(lstm["n_layers"]):
            cell = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            shapes |= {
                f"{cell}/W_0": (2 * d, 4 * cells),
                f"{cell}/B": (4 * cells,),
                f"{cell}/W_P_0": (cells, d),
            }
    return {
        name: rng.normal(scale=0.7, size=shape).astype(np.float32) for name, shape in shapes.items()
    }


def write_elmo(folder, options, weights, prefix=""):
    """Write both files of a model; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}options.json").write_text(json.dumps(options))
    with h5py.File(folder / f"{prefix}weights.hdf5", "w") as file:
        for name, value in weights.items():
            file[name] = value
    return folder


def characters_of(word, n_most=50):
    """Return the characters of a word: its bytes between two of its own, padded."""
    ids = [BEGIN_WORD, *list(word.encode())[: n_most - 2], END_WORD]
    return ids + [PADDING] * (n_most - len(ids))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def word_vector(characters, options, weights):
    """Return the vector of one word."""
    cnn = options["char_cnn"]
    embedded = weights["char_embed"].astype(float)[characters]
    found = []
    for i, (width, _) in enumerate(cnn["filters"]):
        kernel = weights[f"CNN/W_cnn_{i}"][0].astype(float)
        windows = [embedded[at : at + width] for at in range(len(embedded) - width + 1)]
        mapped = [np.einsum("wd,wdn->n", window, kernel) for window in windows]
        found.append(np.max(mapped, 0) + weights[f"CNN/b_cnn_{i}"])
    x = np.concatenate(found)
    x = np.tanh(x) if cnn["activation"] == "tanh" else np.maximum(x, 0)
    for i in range(cnn["n_highway"]):
        layer = {name: weights[f"CNN_high_{i}/{name}"].astype(float) for name in _HIGHWAY}
        gate = sigmoid(x @ layer["W_carry"] + layer["b_carry"])
        new = np.maximum(x @ layer["W_transform"] + layer["b_transform"], 0)
        x = gate * new + (1 - gate) * x
    return x @ weights["CNN_proj/W_proj"].astype(float) + weights["CNN_proj/b_proj"]


_HIGHWAY = ("W_carry", "b_carry", "W_transform", "b_transform")


def run_lstm(inputs, cell_name, options, weights):
    """Return the states of one direction of a layer."""
    lstm = options["lstm"]
    w, b, projection = (weights[f"{cell_name}/{n}"].astype(float) for n in ("W_0", "B", "W_P_0"))
    state, cell, states = np.zeros(lstm["projection_dim"]), np.zeros(lstm["dim"]), []
    for x in inputs:
        i, j, f, o = np.split(np.concatenate([x, state]) @ w + b, 4)
        cell = sigmoid(i) * np.tanh(j) + sigmoid(f + 1) * cell
        if lstm["cell_clip"]:
            cell = np.clip(cell, -lstm["cell_clip"], lstm["cell_clip"])
        state = (sigmoid(o) * np.tanh(cell)) @ projection
        if lstm["proj_clip"]:
            state = np.clip(state, -lstm["proj_clip"], lstm["proj_clip"])
        states.append(state)
    return np.array(states)


def layers_of(words, options, weights):
    """Return the states of one text in every layer, (layers, words, 2 d), without boundaries."""
    n_most = options["char_cnn"]["max_characters_per_token"]
    row = [characters_of(word, n_most) for word in words]
    begin, end = ([BEGIN_WORD, each, END_WORD] for each in (BEGIN_TEXT, END_TEXT))
    row = [ids + [PADDING] * (n_most - len(ids)) for ids in (begin, *row, end)]
    vectors = np.array([word_vector(ids, options, weights) for ids in row])
    layers = [np.concatenate([vectors, vectors], 1)]
    both = [vectors, vectors]
    for layer in range(options["lstm"]["n_layers"]):
        for direction, order in ((0, slice(None)), (1, slice(None, None, -1))):
            name = f"RNN_{direction}/RNN/MultiRNNCell/Cell{layer}/LSTMCell"
            states = run_lstm(both[direction][order], name, options, weights)[order]
            both[direction] = states + both[direction] if layer else states
        layers.append(np.concatenate(both, 1))
    return np.array(layers)[:, 1:-1]


def states_of(words, options, weights):
    """Return the mix of the layers for one text, (words, 2 d)."""
    equal = [0.0] * (options["lstm"]["n_layers"] + 1)
    mix = np.array(options.get("scalar_mix_parameters") or equal)
    shares = np.exp(mix - mix.max())
    return np.einsum("l,lwd->wd", shares / shares.sum(), layers_of(words, options, weights))
