"""Digests follow content, and remembered ones are trusted only while the file is the same."""

import hashlib
import os
import shutil
import time

import pytest

from skembed import _files
from skembed.weights import _digest, _remember, file_sha256, folder_digest

MIB = 1 << 20


@pytest.fixture
def n_read(monkeypatch):
    """Count the files that are read through."""
    count = []
    true_hash = _digest._hash
    monkeypatch.setattr(_digest, "_hash", lambda path: count.append(path) or true_hash(path))
    return lambda: len(count)


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * 8192)
    return path


@pytest.mark.parametrize("n_bytes", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
def test_the_digest_of_a_file_is_its_sha256(tmp_path, n_bytes):
    content = os.urandom(n_bytes)
    (tmp_path / "f").write_bytes(content)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(content).hexdigest()


def test_a_large_file_is_read_once(large, n_read, later):
    assert file_sha256(large) == file_sha256(str(large))
    assert n_read() == 1


def test_a_link_shares_the_digest_of_its_file(large, n_read, later):
    (large.parent / "link").symlink_to(large)
    assert file_sha256(large) == file_sha256(large.parent / "link")
    assert n_read() == 1


def test_another_process_reads_no_file_that_is_known(large, n_read, later, monkeypatch):
    first = file_sha256(large)
    monkeypatch.setattr(_remember, "_facts", {})
    _files._remembered.clear()
    assert file_sha256(large) == first
    assert n_read() == 1


def test_a_small_file_is_read_once_until_it_changes(tmp_path, n_read, later):
    path = tmp_path / "config.json"
    path.write_text("{}")
    before = file_sha256(path)
    assert file_sha256(path) == before
    assert n_read() == 1
    path.write_text("[]")
    assert file_sha256(path) == hashlib.sha256(b"[]").hexdigest() != before


def test_a_changed_file_is_read_again(large, later):
    before = file_sha256(large)
    large.write_bytes(large.read_bytes()[::-1])
    assert file_sha256(large) != before


def test_a_file_changed_with_its_times_kept_is_read_again(large, later):
    before, stat = file_sha256(large), large.stat()
    large.write_bytes(large.read_bytes()[::-1])
    os.utime(large, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert file_sha256(large) != before


def test_the_digest_of_a_file_written_just_now_is_not_remembered(large, n_read):
    file_sha256(large)
    file_sha256(large)
    assert n_read() == 2


def test_a_file_that_changes_while_it_is_read_is_not_remembered(large, monkeypatch, later):
    true_hash = _digest._hash

    def hash_slowly(path):
        digest = true_hash(path)
        path.write_bytes(path.read_bytes()[::-1] + b"x")
        return digest

    monkeypatch.setattr(_digest, "_hash", hash_slowly)
    file_sha256(large)
    monkeypatch.setattr(_digest, "_hash", true_hash)
    assert file_sha256(large) == true_hash(large).hex()


def test_a_damaged_record_is_not_believed(large, n_read, later, monkeypatch, tmp_path):
    expected = file_sha256(large)
    [record] = (tmp_path / "home" / "remembered" / "sha256").iterdir()
    whole = record.read_text()
    for content in ("", "{", "[]", whole[:-5], "[1, 2]", "\0" * len(whole)):
        record.write_text(content)
        monkeypatch.setattr(_remember, "_facts", {})
        _files._remembered.clear()
        assert file_sha256(large) == expected
        assert record.read_text() == whole


def test_an_absent_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        file_sha256(tmp_path / "absent")


def test_the_digest_of_a_folder_does_not_depend_on_where_it_stands(tmp_path, write_model):
    folder = write_model(tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b" / "c")
    digest = folder_digest(folder)
    assert len(digest) == 16
    assert folder_digest(tmp_path / "b" / "c") == digest


def test_files_that_no_model_is_read_from_do_not_change_the_digest(tmp_path, write_model):
    folder = write_model(tmp_path)
    digest = folder_digest(folder)
    (folder / "README.md").write_text("text")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "config.json").write_text("{}")
    assert folder_digest(folder) == digest


@pytest.mark.parametrize("change", ["content", "name", "new", "moved"])
def test_every_change_of_a_model_changes_the_digest(tmp_path, write_model, change):
    folder = write_model(tmp_path)
    (folder / "vocab.txt").write_text("a b")
    digest = folder_digest(folder)
    if change == "content":
        (folder / "vocab.txt").write_text("a c")
    elif change == "name":
        (folder / "vocab.txt").rename(folder / "merges.txt")
    elif change == "new":
        (folder / "added_tokens.json").write_text("")
    else:
        (folder / "sub").mkdir()
        (folder / "vocab.txt").rename(folder / "sub" / "vocab.txt")
    assert folder_digest(folder) != digest


def test_the_digest_of_a_folder_is_of_names_and_contents(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "vocab.txt").write_bytes(b"a")
    (tmp_path / "config.json").write_bytes(b"{}")
    lines = [
        f'["{name}", "{hashlib.sha256(content).hexdigest()}"]\n'
        for name, content in (("config.json", b"{}"), ("sub/vocab.txt", b"a"))
    ]
    expected = hashlib.blake2b(
        "".join(lines).encode(), digest_size=16, person=b"skembed.folder"
    ).digest()
    assert folder_digest(tmp_path) == expected


def test_a_folder_that_has_not_changed_is_only_looked_at(tmp_path, write_model, later, n_read):
    folder = write_model(tmp_path)
    digest = folder_digest(folder)
    assert n_read() == 2
    assert folder_digest(folder) == digest
    assert n_read() == 2


@pytest.mark.parametrize("change", ["content", "times kept", "other link", "new", "gone"])
def test_a_remembered_folder_is_read_again_after_every_change(tmp_path, write_model, later, change):
    folder = write_model(tmp_path / "model")
    blobs = [tmp_path / name for name in "ab"]
    for blob in blobs:
        blob.write_text(f"a file {blob.name}")
    (folder / "vocab.txt").symlink_to(blobs[0])
    digest, stat = folder_digest(folder), blobs[0].stat()
    time.sleep(0.05)  # file systems' clocks tick every few milliseconds
    if change == "new":
        (folder / "sub").mkdir()
        (folder / "sub" / "vocab.txt").write_text("a")
    elif change == "other link":
        (folder / "vocab.txt").unlink()
        (folder / "vocab.txt").symlink_to(blobs[1])
    elif change == "gone":
        (folder / "vocab.txt").unlink()
    else:
        blobs[0].write_text("b file a")
        if change == "times kept":
            os.utime(blobs[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert folder_digest(folder) != digest
