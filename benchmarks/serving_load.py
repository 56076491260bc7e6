"""How many requests a second does the server answer, and how long do they take?

Each request is one short text, all distinct, nothing cached, over connections that stay open, from
1, 16 and 64 clients that each send the next request when they have the answer to the last. MiniLM
in float32 on all sides; the vectors are compared first. The servers are processes that take turns;
the clients are one more process, which shares the machine with them.

    python benchmarks/serving_load.py --out benchmarks/results/serving_load.json
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
from _common import least_cosine, make_parser, minilm_folder, summarize, write_results
from _data import cut_texts, short_lengths

REFERENCE = "sentence-transformers behind FastAPI"
OURS = "skembed serve"
N_CLIENTS = (1, 16, 64)
N_TEXTS = 4000
LEAST_COSINE = 0.99999

HERE = Path(__file__).parent
Cell = dict[str, float]


class Server(NamedTuple):
    """A server's process and port."""

    name: str
    process: subprocess.Popen
    port: int


def start_servers() -> list[Server]:
    """Start the servers, and wait until their models are loaded."""
    peer = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "_serving_peer:app"]
    peer += ["--log-level", "warning", "--timeout-keep-alive", "75"]  # as ours has it
    ours = [sys.executable, "-m", "skembed", "serve", str(minilm_folder()), "--name", "minilm"]
    ours += ["--dtype", "float32", "--cache", "none"]
    commands = {
        REFERENCE: (peer, {}),
        f"{REFERENCE}, one request at a time": (peer, {"SERVING_LOCK": "1"}),
        OURS: (ours, {}),
    }
    servers = []
    for name, (command, variables) in commands.items():
        port = free_port()
        process = subprocess.Popen(
            [*command, "--port", str(port)], env={**os.environ, **variables}, stderr=subprocess.PIPE
        )
        servers.append(Server(name, process, port))
        wait_for(servers[-1])
    return servers


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_for(server: Server) -> None:
    """Wait until a server is ready."""
    while server.process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health"):
                return
        except OSError:
            time.sleep(0.2)
    assert server.process.stderr is not None
    sys.exit(f"{server.name} did not start:\n{server.process.stderr.read().decode()}")


def request_for(texts: str | list[str]) -> bytes:
    """Return a request as bytes, as the official client would send it."""
    body = json.dumps({"input": texts, "model": "minilm", "encoding_format": "base64"}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    """Send a request; return status and body of the answer."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return int(head.split()[1]), await reader.readexactly(length)


async def drive(server: Server, texts: list[str], n_clients: int, seconds: float) -> Cell:
    """Send requests from so many clients for a time; return what the answers took."""
    requests = itertools.cycle([request_for(text) for text in texts])
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    streams = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(n_clients)]
    await asyncio.gather(*(ask(*stream, next(requests)) for stream in streams))

    async def be_a_client(stream: Any, end: float) -> None:
        while (started := loop.time()) < end:
            status, body = await ask(*stream, next(requests))
            if status != 200:
                sys.exit(f"{server.name}: status {status}: {body.decode()}")
            latencies.append(loop.time() - started)

    started, used = loop.time(), cpu_seconds(server)
    await asyncio.gather(*(be_a_client(stream, started + seconds) for stream in streams))
    elapsed, used = loop.time() - started, cpu_seconds(server) - used
    for _, writer in streams:
        writer.close()
    p50, p99 = np.percentile(latencies, (50, 99))
    return {
        "requests_per_second": len(latencies) / elapsed,
        "p50_milliseconds": 1e3 * float(p50),
        "p99_milliseconds": 1e3 * float(p99),
        "cpu_milliseconds_per_request": 1e3 * used / len(latencies),
    }


def cpu_seconds(server: Server) -> float:
    """Return the processor time that a server has used, which other programs change least."""
    status = Path(f"/proc/{server.process.pid}/stat").read_text(encoding="utf-8")
    user, system = status.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


async def fetch(port: int, texts: list[str]) -> np.ndarray:
    """Return the vectors that a server gives texts: half in one request, half one by one."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    half = len(texts) // 2
    vectors = []
    for some in (texts[:half], *texts[half:]):
        _, body = await ask(reader, writer, request_for(some))
        for each in json.loads(body)["data"]:
            vectors.append(np.frombuffer(base64.b64decode(each["embedding"]), "<f4"))
    writer.close()
    return np.array(vectors)


def compare(servers: list[Server], texts: list[str]) -> dict[str, float]:
    """Return the least cosine of each server's vectors to the first one's; end if one differs."""
    vectors = {server.name: asyncio.run(fetch(server.port, texts)) for server in servers}
    cosines = {name: least_cosine(each, vectors[REFERENCE]) for name, each in vectors.items()}
    for name, cosine in cosines.items():
        if cosine < LEAST_COSINE:
            sys.exit(f"{name}: the vectors differ (cosine {cosine:.6f}), nothing is timed")
    return cosines


def measure(servers: list[Server], texts: list[str], n_rounds: int, seconds: float) -> Any:
    """Load the servers in turn; return what was found by number of clients and server."""
    cells: dict[str, dict[str, list[Cell]]] = {
        str(n): {server.name: [] for server in servers} for n in N_CLIENTS
    }
    for _ in range(n_rounds):
        for n in N_CLIENTS:
            for server in servers:
                found = asyncio.run(drive(server, texts, n, seconds))
                cells[str(n)][server.name].append(found)
    return {
        n: {name: sum_up(rounds, of_n[REFERENCE]) for name, rounds in of_n.items()}
        for n, of_n in cells.items()
    }


def sum_up(rounds: list[Cell], reference: list[Cell]) -> dict[str, Any]:
    """Return medians, and ratios to the reference within each round."""

    def ratios(field: str) -> Iterator[float]:
        return (a[field] / b[field] for a, b in zip(rounds, reference, strict=True))

    return {
        field: {
            **summarize([each[field] for each in rounds]),
            "times_reference": summarize(list(ratios(field))),
        }
        for field in rounds[0]
    }


def show(found: dict[str, Any]) -> None:
    """Print the medians, and in brackets the ratios to the reference (least-most)."""
    for n, of_n in found.items():
        print(f"\n{n} client{'s' * (n != '1')}")
        for name, line in of_n.items():
            print(f"  {name}")
            for field, values in line.items():
                t = values["times_reference"]
                times = f"{t['median']:.2f}: {t['min']:.2f}-{t['max']:.2f}"
                print(f"    {field.replace('_', ' '):<30} {values['median']:8.1f} ({times})")


def main() -> None:
    """Run the benchmark."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of each cell")
    args = parser.parse_args()
    texts = cut_texts(short_lengths(N_TEXTS), minilm_folder())
    servers = start_servers()
    try:
        cosines = compare(servers, texts[:64])
        found = measure(servers, texts, args.rounds or 5, args.seconds)
    finally:
        for server in servers:
            server.process.terminate()
            server.process.wait()
    show(found)
    results = {"rounds": args.rounds or 5, "seconds": args.seconds, "least_cosine": cosines}
    threads = os.environ.get("OMP_NUM_THREADS")
    write_results(args.out, {**results, "omp_num_threads": threads, "clients": found})


if __name__ == "__main__":
    main()
