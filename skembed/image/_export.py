"""Code for model cards: how vectors are made of pictures without skembed.

Knows plans and the names of variables in that code, not models.
"""

from __future__ import annotations

from skembed.image._features import Plan

__all__ = ["pixels_code", "pooling_code"]


def pixels_code(prepare: str, has_own: bool) -> str:
    """Return lines that make `pixels` of pictures; `has_own` is for a function of the user's."""
    prepare = "preprocess  # the embedder's own" if has_own else prepare
    return f"""
prepare = {prepare}
# images: a list of PIL images in mode RGB
pixels = torch.stack([prepare(image) for image in images])
"""


def pooling_code(features: str, plan: Plan, layer: object = None) -> str:
    """Return lines that make `vectors` of what a model gives for `pixels`.

    `features` is the expression for it; with the name of a `layer`, it is run for that submodule.
    """
    lines = []
    if isinstance(layer, str):
        lines = [
            "kept = []",
            f'layer = model.get_submodule("{layer}")',
            "layer.register_forward_hook(lambda module, inputs, output: kept.append(output))",
        ]
    lines.append("with torch.inference_mode():")
    if isinstance(layer, str):
        lines.append(f"    {features}")
        features = "kept[0][0] if isinstance(kept[0], tuple) else kept[0]"
    if plan.pooling is None:
        return "\n".join([*lines, f"    vectors = {features}"])
    lines.append(f"    features = {features}")
    pooled = [_pooled(name, plan) for name in plan.pooling.split("+")]
    found = pooled[0] if len(pooled) == 1 else f"torch.cat([{', '.join(pooled)}], 1)"
    return "\n".join([*lines, f"    vectors = {found}"])


def _pooled(name: str, plan: Plan) -> str:
    if name == "cls":
        return "features[:, 0]"
    dims = "1"
    if plan.is_map:
        dims = "(1, 2)" if plan.is_channels_last else "(2, 3)"
    part = f"features[:, {plan.n_prefix}:]" if plan.n_prefix else "features"
    return f"{part}.{'amax' if name == 'max' else 'mean'}({dims})"
