"""Weight files known by their URL: torch.hub's folder first, then the network."""

import hashlib
import os
import random
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants

from skembed.exceptions import InvalidParameterError, ModelNotFoundError
from skembed.weights import find_checkpoint

BODY = random.Random(0).randbytes(100_000)
NAME = f"net-{hashlib.sha256(BODY).hexdigest()[:8]}.pth"


class Site:
    """What a server serves by name, how much of it it leaves out, and what was asked of it."""

    def __init__(self, url):
        self.url = url
        self.files = {NAME: BODY, "plain.pth": BODY, "net-00000000.pth": BODY}
        self.n_cut = 0
        self.asked = []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
    return tmp_path / "torch" / "checkpoints"


@pytest.fixture
def site(monkeypatch, folder):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            name = self.path.strip("/")
            served.asked.append(name)
            if name not in served.files:
                self.send_error(404)
                return
            body = served.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) - served.n_cut])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Site(f"http://127.0.0.1:{server.server_port}/")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield served
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_is_downloaded_once_into_the_folder_of_torch_hub(site, folder):
    assert find_checkpoint(site.url + NAME) == folder / NAME
    assert (folder / NAME).read_bytes() == BODY
    assert find_checkpoint(site.url + NAME) == folder / NAME
    assert site.asked == [NAME]
    assert [path.name for path in folder.iterdir()] == [NAME]


@pytest.mark.skipif(os.name != "posix", reason="rights of POSIX")
def test_a_downloaded_file_has_the_rights_of_any_new_file(site, folder, tmp_path):
    (tmp_path / "new").touch()
    expected = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert stat.S_IMODE(find_checkpoint(site.url + NAME).stat().st_mode) == expected


def test_threads_that_ask_at_once_download_once(site):
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(find_checkpoint, [site.url + NAME] * 8))
    assert len(found) == 1
    assert site.asked == [NAME]


def test_a_file_in_the_folder_is_used_offline(folder):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(BODY)
    assert find_checkpoint("https://example.org/" + NAME) == folder / NAME


def test_offline_mode_asks_no_one_and_says_where_to_put_the_file(site, folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="offline mode is on") as caught:
        find_checkpoint(site.url + NAME)
    assert f"1. the file {folder / NAME}: not there" in str(caught.value)
    assert f"2. {site.url}{NAME}: not asked" in str(caught.value)
    assert f"put the file at {folder / NAME}" in str(caught.value)
    assert site.asked == []


@pytest.mark.parametrize("body", [BODY[:-1], b"", BODY[:-1] + b"?"])
def test_a_damaged_file_in_the_folder_is_replaced(site, folder, body):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(body)
    assert find_checkpoint(site.url + NAME).read_bytes() == BODY


def test_a_damaged_file_in_the_folder_is_not_used_offline(folder):
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(BODY[:-1])
    with pytest.raises(ModelNotFoundError, match=f"{NAME}: damaged: its SHA-256 begins with"):
        find_checkpoint("https://example.org/" + NAME)
    assert (folder / NAME).read_bytes() == BODY[:-1]


def test_a_download_with_another_hash_is_not_kept(site, folder):
    with pytest.raises(ModelNotFoundError, match=r"damaged: .* its name says 00000000"):
        find_checkpoint(site.url + "net-00000000.pth")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", [NAME, "plain.pth"])
def test_a_download_that_is_cut_short_is_not_kept(site, folder, name):
    site.n_cut = 10
    with pytest.raises(ModelNotFoundError, match="cut short: 99990 bytes came of 100000"):
        find_checkpoint(site.url + name)
    assert list(folder.iterdir()) == []
    site.n_cut = 0
    assert find_checkpoint(site.url + name).read_bytes() == BODY


def test_a_name_without_a_hash_is_taken_as_it_is(folder):
    folder.mkdir(parents=True)
    (folder / "plain.pth").write_bytes(b"anything")
    assert find_checkpoint("https://example.org/plain.pth") == folder / "plain.pth"


def test_what_a_server_refuses_is_said(site):
    with pytest.raises(ModelNotFoundError, match=r"none\.pth: HTTPError: HTTP Error 404"):
        find_checkpoint(site.url + "none.pth")


def test_a_server_that_is_not_there_is_said(folder, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(ModelNotFoundError, match=r"127\.0\.0\.1:9/a\.pth: URLError"):
        find_checkpoint("http://127.0.0.1:9/a.pth")


def test_a_folder_that_cannot_be_written_is_said(site, folder):
    folder.parent.write_text("a file where the folder should be")
    with pytest.raises(ModelNotFoundError, match=r"NotADirectoryError|FileExistsError"):
        find_checkpoint(site.url + NAME)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "net.pth", "https://example.org/"])
def test_what_is_no_url_of_a_file_is_refused(url):
    with pytest.raises(InvalidParameterError, match="expected the http or https URL of a file"):
        find_checkpoint(url)
