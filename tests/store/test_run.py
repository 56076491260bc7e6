import os
import re
import signal
import stat

import pytest

from tests.store._processes import finish, run, start

posix = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="modes and owners are POSIX")

USE = """
    import os, sys
    from skembed.store import announce_run, resolve_store
    announce_run()
    store = resolve_store("run")
    store.put_many([b"k"], [b"v"])
    print(store.path, flush=True)
    sys.stdin.readline()
"""


def runs_in(folder):
    return sorted(folder.glob("skembed-run-*"))


def test_announcing_a_run_creates_nothing(tmp_path):
    code = """
        import os
        from skembed.store import announce_run
        announce_run()
        first = os.environ["SKEMBED_RUN"]
        announce_run()
        assert os.environ["SKEMBED_RUN"] == first
        print(os.path.exists(first), first)
    """
    exists, path = run(code, TMPDIR=str(tmp_path)).split()
    assert exists == "False"
    assert path.startswith(str(tmp_path / "skembed-run-"))
    assert runs_in(tmp_path) == []


@posix
def test_the_folder_is_private_and_gone_at_exit(tmp_path):
    process = start(USE, TMPDIR=str(tmp_path))
    path = process.stdout.readline().strip()
    (folder,) = runs_in(tmp_path)
    assert str(folder) == path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finish(process)
    assert runs_in(tmp_path) == []


def test_the_folder_of_a_killed_run_is_swept_by_the_next_and_a_living_one_is_not(tmp_path):
    killed, living = start(USE, TMPDIR=str(tmp_path)), start(USE, TMPDIR=str(tmp_path))
    dead_path, living_path = killed.stdout.readline().strip(), living.stdout.readline().strip()
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(runs_in(tmp_path)) == 2
    next_run = start(USE, TMPDIR=str(tmp_path))
    next_path = next_run.stdout.readline().strip()
    assert {str(path) for path in runs_in(tmp_path)} == {living_path, next_path}
    assert dead_path not in {living_path, next_path}
    finish(next_run)
    finish(living)
    assert runs_in(tmp_path) == []


WITH_CHILD = """
    import os, subprocess, sys
    from skembed.store import announce_run, resolve_store
    announce_run()
    child = [
        "from skembed.store import announce_run, resolve_store",
        "announce_run()",
        "store = resolve_store('run')",
        "print(store.get_many([b'parent']), store.claim([b'claimed']))",
        "store.put_many([b'child'], [b'from the child'])",
    ]
    if "first" in sys.argv:
        store = resolve_store("run")
        store.put_many([b"parent"], [b"from the parent"])
        store.claim([b"claimed"])
    command = [sys.executable, "-c", "\\n".join(child)]
    print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    store = resolve_store("run")
    print(store.get_many([b"child"]), os.listdir(os.path.dirname(store.path)) != [])
"""


def test_a_worker_shares_the_run_of_its_parent_and_leaves_the_folder(tmp_path):
    out = run(WITH_CHILD, "first", TMPDIR=str(tmp_path))
    assert "[b'from the parent'] [False]" in out
    assert "[b'from the child'] True" in out
    assert runs_in(tmp_path) == []


def test_a_parent_that_never_embedded_shares_and_removes_the_run_of_its_workers(tmp_path):
    out = run(WITH_CHILD, TMPDIR=str(tmp_path))
    assert "[None] [True]" in out
    assert "[b'from the child'] True" in out
    assert runs_in(tmp_path) == []


def test_loky_workers_share_the_run(tmp_path):
    code = """
        from skembed.store import announce_run, resolve_store
        announce_run()
        import os
        from joblib import Parallel, delayed

        def work(number):
            from skembed.store import resolve_store
            store = resolve_store("run")
            keys = [bytes([i]) * 16 for i in range(50)]
            ours = [k for k, is_ours in zip(keys, store.claim(keys)) if is_ours]
            store.put_many(ours, [b"value"] * len(ours))
            while None in store.get_many(keys):
                store.wait(keys, 1.0)
            return os.getpid(), len(ours)

        taken = Parallel(n_jobs=2)(delayed(work)(i) for i in range(6))
        assert sum(n for _, n in taken) == 50, taken
        assert resolve_store("run").get_many([bytes([7]) * 16]) == [b"value"]
        print(os.getpid() in {pid for pid, _ in taken})
    """
    assert run(code, TMPDIR=str(tmp_path), LOKY_MAX_CPU_COUNT="2") == "False"
    assert runs_in(tmp_path) == []


def test_a_forked_child_does_not_remove_the_folder(tmp_path):
    code = """
        import os, sys, warnings
        from skembed.store import announce_run, resolve_store
        announce_run()
        store = resolve_store("run")
        store.put_many([b"k"], [b"v"])
        child = os.fork()
        if not child:
            store.put_many([b"child"], [b"v"])
            sys.exit(0)
        os.waitpid(child, 0)
        store._memory.clear()
        print(store.get_many([b"k", b"child"]))
    """
    assert run(code, TMPDIR=str(tmp_path)) == "[b'v', b'v']"
    assert runs_in(tmp_path) == []


def test_a_process_that_outlives_its_run_goes_on_in_memory_without_a_word(tmp_path):
    code = """
        import shutil, sys
        from skembed.store import resolve_store
        store = resolve_store("run")
        store.put_many([b"k"], [b"v"])
        shutil.rmtree(store.path)
        store.put_many([b"l"], [b"w"])
        print(store.get_many([b"k", b"l", b"m"]), store.claim([b"k", b"m"]))
        print(store.path.exists())
    """
    out = run(code, TMPDIR=str(tmp_path))
    assert out.splitlines() == ["[b'v', b'w', None] [False, True]", "False"]


def test_a_process_whose_dead_parent_named_a_run_makes_it_and_a_later_run_sweeps_it(tmp_path):
    name = tmp_path / "skembed-run-0123456789abcdef"
    finish(start(USE, TMPDIR=str(tmp_path), SKEMBED_RUN=str(name)))
    assert runs_in(tmp_path) == [name]
    run(USE, TMPDIR=str(tmp_path))
    assert runs_in(tmp_path) == []


WARN = """
    import warnings
    from skembed.store import resolve_store
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        store = resolve_store("run")
        store.put_many([b"k"], [b"v"])
        print(store.get_many([b"k", b"l"]), store.claim([b"k", b"l"]))
    print(*[warning.message for warning in caught])
"""


@posix
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: path.mkdir(mode=0o755), "is open to other users"),
        (lambda path: path.symlink_to(path.parent), "is not a folder of this user"),
        (lambda path: path.write_text(""), "is not a folder of this user"),
    ],
)
def test_a_folder_that_others_could_have_made_is_not_used(tmp_path, make, reason):
    name = tmp_path / "skembed-run-0"
    make(name)
    out = run(WARN, TMPDIR=str(tmp_path), SKEMBED_RUN=str(name)).splitlines()
    assert out[0] == "[b'v', None] [False, True]"
    assert re.search(f"may not be used by this user .*{reason}", out[1])


def test_a_run_that_can_have_no_folder_works_in_memory(tmp_path):
    out = run(WARN, SKEMBED_RUN=str(tmp_path / "missing" / "run")).splitlines()
    assert out[0] == "[b'v', None] [False, True]"
    assert "cannot be used" in out[1]


def test_the_run_is_bounded_by_the_free_disk(tmp_path):
    code = """
        import shutil
        from collections import namedtuple
        shutil.disk_usage = lambda path: namedtuple("Usage", "free")(2000)
        from skembed.store import resolve_store
        store = resolve_store("run")
        for i in range(20):
            store.put_many([bytes([i])], [b"x" * 100])
        print(store.info().n_bytes, store.max_bytes)
    """
    assert run(code, TMPDIR=str(tmp_path)) == "1000 1000"


def test_folders_of_other_programs_are_left_alone(tmp_path):
    (tmp_path / "skembed-run-notes.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    young = tmp_path / "skembed-run-young"
    young.mkdir(mode=0o700)
    old = tmp_path / "skembed-run-old"
    old.mkdir(mode=0o700)
    os.utime(old, (1, 1))
    run(USE, TMPDIR=str(tmp_path))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"skembed-run-notes.txt", "other", "skembed-run-young"}
