"""The command: its options, its process, its end."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx
import joblib
import pytest
import skops.io
import uvicorn
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from skembed import FunctionEmbedder, TextEmbedder
from skembed.__main__ import main
from skembed.exceptions import MissingDependencyError
from skembed.serving import is_loopback, run_server
from tests.serving.servers import ask, embed_slowly, until

ROOT = Path(__file__).parents[2]


@contextmanager
def started(*arguments, **environment):
    """Start the command; give the process, whose standard error is a list of lines that grows."""
    process = subprocess.Popen(
        [sys.executable, "-m", "skembed", "serve", *map(str, arguments), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    process.said = []
    reader = threading.Thread(target=lambda: process.said.extend(iter(process.stderr.readline, "")))
    reader.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stderr.close()


def address_of(process):
    """Return the address, once the model is loaded."""
    until(lambda: process.poll() is not None or "at http" in "".join(process.said), 200)
    said = "".join(process.said)
    assert process.poll() is None, said
    return re.search(r"serving \S+ \(.*\) at (http://\S+)/v1\n", said)[1]


@pytest.fixture
def saved(tmp_path):
    embedder = FunctionEmbedder(embed_slowly, version="slow")
    joblib.dump(embedder, tmp_path / "letters.joblib")
    return tmp_path / "letters.joblib"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_requests_end_and_the_exit_code_is_0(number, saved, tmp_path):
    mark = tmp_path / "mark"
    with started(saved, "--allow-pickle", TESTS_MARK=str(mark)) as process:
        client = httpx.Client(base_url=address_of(process), timeout=60)
        found = []
        thread = threading.Thread(target=lambda: found.append(ask(client, "slow")))
        thread.start()
        until(mark.exists)
        process.send_signal(number)
        until(lambda: is_refused(client.base_url))
        assert process.poll() is None
        mark.unlink()
        thread.join()
        assert found[0].status_code == 200
        assert process.wait(60) == 0
        client.close()
    assert "Traceback" not in "".join(process.said)


def is_refused(url):
    try:
        httpx.get(f"{url}/health")
    except httpx.TransportError:
        return True
    return False


def test_a_folder_is_served_with_the_parameters_and_the_key(folder):
    arguments = (folder, "--name", "mine", "--dtype", "float32", "--set", "n_components=8")
    with started(*arguments, "--max-batch", 2, SKEMBED_API_KEY="a key") as process:
        with httpx.Client(base_url=address_of(process), timeout=60) as client:
            assert ask(client, "a", "mine").status_code == 401
            client.headers["authorization"] = "Bearer a key"
            response = ask(client, ["a", "\ud800"], "mine")
            assert (response.status_code, response.json()["error"]["param"]) == (400, "input[1]")
            response = ask(client, ["a", "b"], "mine")
            assert [len(each["embedding"]) for each in response.json()["data"]] == [8, 8]
            assert ask(client, ["a"] * 3, "mine").status_code == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    said = "".join(process.said)
    assert "(8 features, float32 on cpu)" in said
    assert "a key" not in said
    assert len(process.said) == 2


def test_a_model_that_cannot_be_loaded_ends_the_server_with_1(tmp_path):
    with started(tmp_path, "--host", "0.0.0.0") as process:
        assert process.wait(200) == 1
    said = "".join(process.said)
    assert "warning: 0.0.0.0 can be reached from other machines, and there is no API key" in said
    assert "error: " in process.said[-1]
    assert str(tmp_path) in process.said[-1]
    assert "Traceback" not in said


def test_a_pipeline_that_was_not_fitted_is_an_error_not_a_traceback(folder, tmp_path):
    skops.io.dump(make_pipeline(TextEmbedder(folder.as_posix()), PCA(2)), tmp_path / "new.skops")
    with started(tmp_path / "new.skops") as process:
        assert process.wait(200) == 1
    said = "".join(process.said)
    assert "skembed: error: " in process.said[-1]
    assert "not fitted" in process.said[-1]
    assert "Traceback" not in said


def test_what_may_not_be_loaded_is_said_before_anything_listens(saved, capsys):
    assert main(["serve", str(saved)]) == 1
    assert "error: " in (said := capsys.readouterr().err)
    assert "is a pickle" in said
    assert "http" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["serve"], "the following arguments are required: model"),
        (["serve", "m", "--port", "x"], "expected an integer from 0 to 65535, got x"),
        (["serve", "m", "--port", "65536"], "expected an integer from 0 to 65535, got 65536"),
        (["serve", "m", "--max-queue", "0"], "expected an integer of at least 1, got 0"),
        (["serve", "m", "--set", "prompt"], "expected NAME=VALUE, got prompt"),
    ],
)
def test_wrong_options_are_named(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(options)
    assert message in capsys.readouterr().err


def test_without_the_extra_the_command_that_installs_it_is_named(monkeypatch, capsys):
    for name in [each for each in sys.modules if each.startswith("skembed.serving")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["serve", "m"]) == 1
    expected = "Serving vectors needs starlette, which is not installed: pip install skembed[serve]"
    assert expected in capsys.readouterr().err
    assert issubclass(MissingDependencyError, ImportError)


def test_the_help_of_the_command_imports_no_server_and_no_torch():
    code = (
        "import sys; from skembed.__main__ import main\n"
        "try: main(['serve', '--help'])\n"
        "except SystemExit: print(sorted({'torch', 'starlette', 'uvicorn'} & {*sys.modules}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
    assert "--max-queue" in out.stdout


def test_addresses_of_this_machine_alone_are_known():
    assert all(map(is_loopback, ["127.0.0.1", "127.9.9.9", "::1", "localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "192.168.0.1", "a-name", ""]))


def test_no_part_of_an_answer_waits_for_the_clients_word_on_another(monkeypatch):
    found = []

    def accept(server, sockets):
        (listening,) = sockets
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            found.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        listening.close()

    monkeypatch.setattr(uvicorn.Server, "run", accept)
    model = FunctionEmbedder(embed_slowly)
    run_server(model, "slow", port=0, say=lambda line: None)
    assert found and all(found)
