"""The command line: `python -m skembed COMMAND`.

Knows options, not what commands do: a command's modules are imported when it runs.
"""

from __future__ import annotations

import argparse
import ast
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from skembed.exceptions import InvalidRowsWarning, SkembedError

__all__ = ["main"]

_IN_MEMORY = 256 << 20


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m skembed", description="Embeddings for scikit-learn."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    options = parser.parse_args(argv)
    try:
        code: int = options.run(options)
    except SkembedError as error:
        sys.stderr.write(f"skembed: error: {error}\n")
        return 1
    return code


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve vectors of texts by OpenAI's protocol",
        description="Serve vectors of texts by OpenAI's protocol: POST /v1/embeddings, GET "
        "/v1/models, GET /health.",
        epilog="If the environment variable SKEMBED_API_KEY is set, clients have to send it as a "
        "bearer token.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = serve.add_argument
    add("model", help="a model's folder or hub id, or a .skops file of an embedder or pipeline")
    add("--name", help="what clients call the model", default=argparse.SUPPRESS)
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=_count(0, 65_535), default=8000, help="port to listen on; 0 is any free one")
    add("--device", help="where the model runs, such as cuda:1", default=argparse.SUPPRESS)
    add("--dtype", help="number format it computes in", default=argparse.SUPPRESS)
    add("--cache", default="memory", help="vectors kept: memory (256 MiB), none, or a folder")
    add(
        "--set",
        action="append",
        type=_assignment,
        metavar="NAME=VALUE",
        help="set another parameter of the embedder or pipeline; may be repeated",
        default=argparse.SUPPRESS,
    )
    add("--max-body", type=_count(1), default=8 << 20, help="most bytes of a request")
    add("--max-batch", type=_count(1), default=2048, help="most texts of a request")
    add("--max-queue", type=_count(1), default=4096, help="most texts that wait for the model")
    add("--allow-pickle", action="store_true", help="load .joblib and .pkl files, which run code")
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    serving = import_module("skembed.serving")
    given = vars(options)
    params: dict[str, Any] = dict(given.get("set", []))
    of_embedders: dict[str, Any] = {"cache": _store_of(options.cache)}
    of_embedders.update((name, given[name]) for name in ("device", "dtype") if name in given)
    model = serving.load_model(
        options.model,
        params,
        of_embedders=of_embedders,
        allow_pickle=options.allow_pickle,
    )
    # The client that sent the text is told.
    warnings.simplefilter("ignore", InvalidRowsWarning)
    code: int = serving.run_server(
        model,
        given.get("name") or serving.name_of(options.model),
        host=options.host,
        port=options.port,
        max_body=options.max_body,
        max_batch=options.max_batch,
        max_queue=options.max_queue,
    )
    return code


def _store_of(cache: str) -> Any:
    """Return the value of an embedder's parameter `cache`."""
    if cache == "none":
        return None
    if cache == "memory":
        return import_module("skembed.store").EmbeddingStore(max_bytes=_IN_MEMORY)
    return cache


def _count(least: int, most: int | None = None) -> Any:
    """Return what reads an option that is a number of at least `least`, at most `most`."""
    expected = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least or (most is not None and int(text) > most):
            raise argparse.ArgumentTypeError(f"expected an integer {expected}, got {text}")
        return int(text)

    return read


def _assignment(text: str) -> tuple[str, Any]:
    """Return the name and value of a parameter; what is not a literal of Python is a str."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text}")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


if __name__ == "__main__":
    sys.exit(main())
