"""The cache of the hub as huggingface_hub lays it out, for tests without a network."""

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLD_COMMIT = "f" * 40


def lay_out(cache, model, commit=COMMIT, ref="main", is_undecided=False):
    """Let a cache know a model at a commit; returns the folder where its snapshot is to be.

    Unless `is_undecided`, it also knows that the repository has no modules.json.
    """
    store = cache / f"models--{model.replace('/', '--')}"
    if ref:
        (store / "refs").mkdir(parents=True, exist_ok=True)
        (store / "refs" / ref).write_text(commit)
    if not is_undecided:
        (store / ".no_exist" / commit).mkdir(parents=True)
        (store / ".no_exist" / commit / "modules.json").touch()
    return store / "snapshots" / commit
