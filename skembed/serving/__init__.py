"""A server of vectors that speaks OpenAI's protocol; `python -m skembed serve` starts it.

Stands above the rooms. `import skembed` does not load it.
"""

from __future__ import annotations

from skembed._optional import import_optional

# Before the modules that import them: one clear error.
for _name in ("starlette", "uvicorn"):
    import_optional(_name, extra="serve", purpose="Serving vectors")

from skembed.serving._app import make_app  # noqa: E402
from skembed.serving._load import load_model, name_of  # noqa: E402
from skembed.serving._server import is_loopback, run_server  # noqa: E402

__all__ = ["is_loopback", "load_model", "make_app", "name_of", "run_server"]
