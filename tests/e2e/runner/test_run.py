"""tests/run.sh, unit.sh, e2e_sum.py and long.sh: a test that leaves no result has failed, and so has a run that leaves
files.

Each test here runs the runner in a small tree of its own, on programs and tests made up for it."""

import os
import pathlib
import re
import shutil
import subprocess
import textwrap

import pytest

from conftest import ROOT, until

PASSES = "def test_passes():\n    pass\n"
# Removes the result just before pytest ends, or leaves it cut off, and ends as if all was well.
LOSES = """\
#!/usr/bin/python3
import sys
import pytest
status = pytest.main(sys.argv[1:])
path = next(a.split("=")[1] for a in sys.argv if a.startswith("--junitxml="))
{loss}
sys.exit({status})
"""


class Tree:
    """A tree with the runner, and a build folder."""

    def __init__(self, path):
        self.path, self.build, self.env = path, path / "build", {}
        for folder in ("tests/unit/x", "tests/e2e", "build/unit/x", "tmp"):
            (path / folder).mkdir(parents=True)
        for name in ("run.sh", "unit.sh", "long.sh", "threads.py", "e2e_sum.py", "hostkind.sh", "e2e/conftest.py", "e2e/sharelib.py", "e2e/guestlib.py",
                     "e2e/schemalib.py"):
            shutil.copy(os.path.join(ROOT, "tests", name), path / "tests" / name)

    def unit(self, name, script, folder="x"):
        (self.path / f"tests/unit/x/{name}.c").touch()
        program = self.build / "unit" / folder / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)

    def e2e(self, name, text):
        (self.path / f"tests/e2e/{name}.py").write_text(textwrap.dedent(text))

    def pytest(self, text):
        program = self.path / "pytest"
        program.write_text(text)
        program.chmod(0o755)
        self.env["PYTEST"] = str(program)

    def run(self, what, within=()):
        return self.script([*within, self.path / "tests/run.sh", self.build, what])

    def script(self, argv):
        """(exit status, passed, failed, skipped, output)"""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TEST_", "E2E_", "UNIT_", "CAIRN_", "LONG_"))}
        done = subprocess.run(argv, text=True, timeout=100,
                              env=env | {"TMPDIR": str(self.path / "tmp"), "TEST_JOBS": "2"} | self.env, capture_output=True)
        sums = re.fullmatch(r"(\d+) passed, (\d+) failed, (\d+) skipped", done.stdout.splitlines()[-1])
        assert sums, done.stdout + done.stderr
        return done.returncode, *map(int, sums.groups()), done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


# ---- unit programs ----

def test_unit_program_passes(tree):
    tree.unit("test_a", "echo 1..2; echo ok 1 - a; echo ok 2 - b")
    assert tree.run("unit")[:4] == (0, 2, 0, 0)


@pytest.mark.parametrize("script,says", [
    ("echo 1..3; echo ok 1 - a; echo ok 2 - b", "2 results of 3 tests"), ("echo ok 1 - a; exit 3", "exit status 3"),
    ("echo ok 1 - a", "1 results of 0 tests"), ("exit 0", "ran no test"), ("kill -SEGV $$", "exit status 139")])
def test_unit_program_fails_that_says_less_than_planned(tree, script, says):
    tree.unit("test_a", script)
    tree.unit("test_b", "echo 1..1; echo ok 1 - a")
    status, passed, failed, _, out = tree.run("unit")
    assert status == 1 and passed >= 1 and failed == 1 and says in out, out


def test_late_unit_program_fails_and_the_run_says_what_its_processes_wait_for(tree):
    tree.unit("test_a", "echo 1..2; echo ok 1 - a; sleep 1000 | cat")
    tree.env["UNIT_SECONDS"] = "1"
    status, passed, failed, _, out = tree.run("unit")
    assert (status, passed, failed) == (1, 1, 1) and "no end within 1 s" in out, out
    assert re.search(r"process \d+: sleep 1000\n.* system call \d", out) and re.search(r"process \d+: cat\n.*pipe_read", out), out


def test_late_end_to_end_test_fails_and_the_run_says_what_its_processes_wait_for(tree):
    tree.e2e("test_x", """
        import pytest, subprocess
        @pytest.fixture
        def process():
            with subprocess.Popen(["sleep", "1000"]) as p:
                yield p
                p.kill()
        def test_waits(process):
            process.wait(0.1)
        """)
    status, _, failed, _, out = tree.run("e2e")
    assert (status, failed) == (1, 1) and re.search(r"process \d+: sleep 1000\n.* system call \d", out), out


def test_time_limit_that_passes_during_the_report_does_not_end_the_run(tree):
    tree.e2e("test_x", """
        import pytest, signal, time
        class Slow(Exception):
            def __str__(self):
                left = float("inf")
                while 0 < (now := signal.getitimer(signal.ITIMER_REAL)[0]) < left:  # when the limit has passed, the timer begins anew
                    left = now
                    time.sleep(0.01)
                return "slow"
        @pytest.mark.seconds(1)
        def test_fails():
            raise Slow
        def test_passes():
            pass
        """)
    status, passed, failed, _, out = tree.run("e2e")
    assert (status, passed, failed) == (1, 1, 1) and "INTERNALERROR" not in out, out


def test_failure_beside_a_build_names_the_programs_that_it_replaced(tree):
    (tree.build / "cairn").write_bytes(b"")
    (tree.build / "cairn").chmod(0o755)
    tree.e2e("test_x", """
        import os, conftest
        def test_fails():
            assert False, "as it is"
        def test_fails_beside_a_build():
            os.remove(os.path.join(conftest.BUILD, "cairn"))
            assert False
        """)
    status, _, failed, _, out = tree.run("e2e")
    assert (status, failed, out.count("since the tests began, which may be why: cairn\n")) == (1, 2, 1), out


def test_killed_run_leaves_no_process(tree):
    """Only the program of the test ends later."""
    begun, go = tree.path / "begun", tree.path / "go"
    tree.unit("test_a", f"echo $TEST_SHM >{begun}.new; mv {begun}.new {begun}; until [ -e {go} ]; do sleep 0.1; done")
    with subprocess.Popen([tree.path / "tests/run.sh", tree.build, "unit"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          start_new_session=True, env={**os.environ, "TMPDIR": str(tree.path / "tmp")}) as p:
        until(begun.exists)
        p.kill()
    go.touch()
    shutil.rmtree(begun.read_text().strip())
    until(lambda: subprocess.run(["pgrep", "-s", str(p.pid)], stdout=subprocess.DEVNULL).returncode == 1)


def test_unit_program_fails_that_is_not_built(tree):
    (tree.path / "tests/unit/x/test_a.c").touch()
    assert tree.run("unit")[:4] == (1, 0, 1, 0)


def test_failures_are_named_once_more_at_the_end(tree):
    tree.unit("test_a", "echo 1..2; echo not ok 1 - a_is_b; echo ok 2 - b")
    tree.e2e("test_x", """
        def test_sum():
            print("a long log")
            assert 1 + 1 == 3, "they differ"
        def test_right(): pass
        """)
    status, _, failed, _, out = tree.run("all")
    end = out[out.index("\nFailed:\n"):]
    assert status == 1 and failed >= 2 and "not ok 1 - a_is_b" in end and "test_x::test_sum: " in end and "test_right" not in end, out


def test_run_fails_when_a_unit_program_leaves_files(tree):
    tree.unit("test_a", 'echo 1..1; echo ok 1 - a; touch "$TMPDIR/forgotten"')
    status, passed, failed, _, out = tree.run("unit")
    assert (status, passed, failed) == (1, 1, 1) and "forgotten" in out


def test_run_fails_when_a_test_leaves_a_process(tree):
    pid = tree.path / "pid"
    tree.unit("test_a", f'echo 1..1; echo ok 1 - a; setsid sleep 1000 >/dev/null 2>&1 & echo $! >"{pid}"')
    status, passed, failed, _, out = tree.run("unit")
    assert (status, passed, failed) == (1, 1, 1) and "sleep 1000" in out
    until(lambda: not alive(pid.read_text().strip()))


def alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes() != b""  # empty: it waits to be reaped
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---- QEMU's tests of its image tool ----


def test_sum_of_qemus_tests_is_counted(tree):
    program = tree.path / "tests/iotests/run.py"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho '  001: FAILED'\necho '5 passed, 1 failed, 2 skipped'\nexit 1\n")
    program.chmod(0o755)
    assert tree.run("iotests")[:4] == (1, 5, 1, 2)
    program.write_text("#!/bin/sh\necho '5 passed, 0 failed, 0 skipped'\necho Traceback\nexit 1\n")
    status, *sums, output = tree.run("iotests")
    assert (status, *sums) == (1, 0, 1, 0) and "no sum" in output


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is missing")
def test_qemus_tests_without_their_source_are_one_skip(tmp_path):
    (tmp_path / "iotests-none").touch()  # a fetch has just failed
    done = subprocess.run([os.path.join(ROOT, "tests/iotests/run.py"), tmp_path / "build", "short"], capture_output=True, text=True,
                          env=os.environ | {"CAIRN_CACHE": str(tmp_path)}, timeout=50)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "0 passed, 0 failed, 1 skipped"
    assert "could not be fetched within the last hour" in done.stdout or "the installed QEMU is not Debian's" in done.stdout


# ---- all kinds of tests, side by side ----

@pytest.mark.parametrize("bad", [None, "style", "unit", "iotests", "e2e"])
def test_each_kind_counts_in_run_of_all(tree, bad):
    (tree.path / "tests/iotests").mkdir()
    for name, text in (("style.sh", f"exit {int(bad == 'style')}"),
                       ("iotests/run.py", f"echo 5 passed, {int(bad == 'iotests')} failed, 2 skipped; exit {int(bad == 'iotests')}")):
        (tree.path / "tests" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tree.path / "tests" / name).chmod(0o755)
    tree.unit("test_a", "echo 1..2; echo ok 1 - a; echo ok 2 - b" + ("; exit 1" if bad == "unit" else ""))
    tree.e2e("test_a", PASSES + ("def test_fails():\n    assert False\n" if bad == "e2e" else ""))
    status, passed, failed, skipped, out = tree.run("all")
    assert (status, passed, failed, skipped) == (int(bool(bad)), 9 - (bad == "style"), int(bool(bad)), 2), out


# ---- end-to-end tests ----

def test_two_processes_share_the_tests(tree):
    for name in ("test_a", "test_b", "test_c"):
        tree.e2e(name, PASSES)
    tree.e2e("test_d", """\
        import pytest
        def test_fails(tmp_path):
            (tmp_path / "trace").write_text("x")
            assert False
        def test_skips():
            pytest.skip("not here")
        """)
    status, passed, failed, skipped, out = tree.run("e2e")
    assert (status, passed, failed, skipped) == (1, 3, 1, 1), out
    assert [p.name for p in (tree.build / "failed").rglob("*") if p.is_file()] == ["trace"]
    assert not list((tree.path / "tmp").iterdir())


def test_sample_of_variants_is_the_same_in_each_process_and_long_tests_run_all(tree):
    tree.e2e("test_x", """
        import pytest
        @pytest.mark.sample(3)
        @pytest.mark.parametrize("a", range(4))
        @pytest.mark.parametrize("b", range(5))
        def test_variant(a, b):
            pass
        @pytest.mark.parametrize("a", range(4))
        def test_other(a):
            pass
        """)
    tree.e2e("test_y", PASSES)
    assert tree.run("e2e")[:4] == (0, 3 + 4 + 1, 0, 0)
    tree.env["E2E_ARGS"] = "tests/e2e/test_x.py::test_variant[4-3]"
    assert tree.run("e2e")[:4] == (0, 1, 0, 0)
    del tree.env["E2E_ARGS"]
    tree.env["CAIRN_TESTS_ALL"] = "1"
    assert tree.run("e2e")[:4] == (0, 20 + 4 + 1, 0, 0)


def test_longest_file_comes_first(tree):
    for name in ("test_a", "test_b", "test_c"):
        tree.e2e(name, PASSES)
    (tree.path / "tests/e2e/durations").write_text("# Seconds\n7 test_b.py\n40 test_c.py\n")
    tree.env["TEST_JOBS"] = "1"
    status, *_, out = tree.run("e2e")
    assert status == 0 and re.findall(r"^  (test_.)\.py", out, re.M) == ["test_c", "test_b", "test_a"], out


def test_test_that_came_near_its_time_limit_is_named(tree):
    tree.e2e("test_a", """\
        import time, pytest
        @pytest.mark.seconds(100)
        @pytest.mark.parametrize("seconds", [60, 0])
        def test_takes(seconds):
            real = time.monotonic
            time.monotonic = lambda: real() + seconds  # as if they had passed
        """)
    status, passed, _, _, out = tree.run("e2e")
    said = "\n".join(re.findall(r".*of at most.*", out))
    assert (status, passed) == (0, 2) and re.fullmatch(r"    test_takes\[60\]: [6-9]\d s of at most 100", said), out


def test_part_on_epoll_keeps_folders_of_failed_tests(tree):
    """The part that runs on epoll has folders of its own, so it does not begin in those that failed tests left."""
    for path in re.search(r'EPOLL_E2E="([^"]*)"', (tree.path / "tests/run.sh").read_text()).group(1).split():
        file = tree.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix:
            file.write_text("")
        else:
            file.mkdir()
    tree.e2e("block/test_a", """\
        import os
        def test_fails(tmp_path):
            (tmp_path / os.environ.get("CAIRN_LOOP", "uring")).touch()
            assert False
        """)
    status, passed, failed, _, out = tree.run("e2e")
    assert (status, passed, failed) == (1, 0, 2), out
    assert re.search(r"^  block/test_a.py@epoll +0 passed, 1 FAILED$", out, re.M), out
    assert {p.name for p in (tree.build / "failed").rglob("*") if p.is_file()} == {"uring", "epoll"}


def test_emulated_hosts_come_first(tree):
    """Nothing runs beside them, and their tests are counted once."""
    (tree.path / "tests/e2e/svmhost").mkdir()
    tree.e2e("svmhost/test_a", f"""\
        import pathlib, time
        def test_ends():
            time.sleep(1)
            pathlib.Path({str(tree.build / "ended")!r}).touch()
        """)
    tree.e2e("test_b", f"""\
        import pathlib
        def test_begins_afterwards():
            assert pathlib.Path({str(tree.build / "ended")!r}).exists()
        """)
    status, passed, failed, skipped, out = tree.run("e2e")
    assert (status, passed, failed, skipped) == (0, 2, 0, 0), out
    assert "svmhost/test_a.py  " in out and "End-to-end tests, hosts" in out, out


@pytest.mark.parametrize("loss", ["import os; os.unlink(path)", "open(path, 'w').close()",
                                  "text = open(path).read(); open(path, 'w').write(text[:-20])"],
                         ids=["missing", "empty", "cut off"])
def test_run_fails_when_a_result_file_is(tree, loss):
    """As when the disk was full, and although pytest says that all passed."""
    tree.e2e("test_a", PASSES)
    tree.pytest(LOSES.format(loss=loss, status=0))
    status, passed, failed, _, out = tree.run("e2e")
    assert status == 1 and passed == 0 and failed >= 1 and "test_a::test_passes" in out, out


def test_run_fails_when_a_result_has_fewer_tests_than_were_collected(tree):
    tree.e2e("test_a", PASSES + "def test_vanishes():\n    pass\n")
    tree.pytest(LOSES.format(status=0, loss="""
import re
text = open(path).read()
open(path, "w").write(re.sub(r'<testcase [^>]*name="test_vanishes"[^>]*/>', "", text))"""))
    status, passed, failed, _, out = tree.run("e2e")
    assert (status, passed, failed) == (1, 1, 1) and "test_a::test_vanishes" in out, out


def test_run_fails_when_pytest_dies_amid_the_tests(tree):
    tree.e2e("test_a", PASSES)
    tree.e2e("test_b", "import os\ndef test_dies():\n    os._exit(0)\n")
    status, _, failed, _, out = tree.run("e2e")
    assert status == 1 and failed >= 1 and "test_b::test_dies" in out, out


def test_run_fails_when_nothing_was_collected(tree):
    assert tree.run("e2e")[:3] == (1, 0, 1)


def test_run_fails_when_a_test_file_cannot_be_imported(tree):
    tree.e2e("test_a", PASSES)
    tree.e2e("test_b", "import no_such_module\n")
    status, _, failed, _, out = tree.run("e2e")
    assert status == 1 and failed >= 1 and "no_such_module" in out


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")
def test_run_fails_when_the_temporary_folder_is_full(tree):
    tree.e2e("test_a", """\
        import tempfile
        def test_fills():
            f = open(tempfile.gettempdir() + "/fill", "wb", 0)
            try:
                while True:
                    f.write(bytes(4096))
            except OSError:
                pass
        """)
    tree.e2e("test_b", PASSES)
    mount = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size=2m none {tree.path}/tmp && exec "$@"', "sh"]
    status, _, failed, _, out = tree.run("e2e", within=mount)
    assert status == 1 and failed >= 1, out


# ---- temporary files ----

def test_folder_of_a_test_goes_when_it_has_passed(tree):
    tree.e2e("test_a", """\
        def test_writes(tmp_path):
            (tmp_path / "big").write_bytes(bytes(2 << 20))
        def test_the_folder_is_gone(tmp_path):
            assert [p.name for p in tmp_path.parent.iterdir()] == [tmp_path.name]
        """)
    assert tree.run("e2e")[:4] == (0, 2, 0, 0)


def test_folder_of_a_file_of_tests_goes_with_the_last(tree):
    tree.e2e("test_a", """\
        import pytest
        @pytest.fixture(scope="module")
        def folder(tmp_path_factory):
            return tmp_path_factory.mktemp("common")
        def test_writes(folder):
            (folder / "file").touch()
        def test_reads(folder):
            assert (folder / "file").exists()
        """)
    assert tree.run("e2e")[:4] == (0, 2, 0, 0)


def test_run_fails_when_tests_leave_files(tree):
    tree.e2e("test_a", "import tempfile\ndef test_forgets():\n    tempfile.mkdtemp(prefix='forgotten')\n")
    status, passed, failed, _, out = tree.run("e2e")
    assert (status, passed, failed) == (1, 1, 1) and "forgotten" in out


def test_run_fails_when_tests_write_too_much(tree):
    tree.env["TEST_TMP_MIB"] = "3"
    tree.e2e("test_a", """\
        import os, pathlib, time
        def test_writes(tmp_path):
            (tmp_path / "big").write_bytes(bytes(4 << 20))
            sizes = pathlib.Path(os.environ["TMPDIR"]).parent.parent / "results/sizes"
            while not sizes.exists() or max(map(int, sizes.read_text().split()), default=0) < 4 << 10:
                time.sleep(0.1)  # until the runner has noticed
        """)
    status, passed, failed, _, out = tree.run("e2e")
    assert (status, passed, failed) == (1, 1, 1) and "more than 3 MiB" in out


# ---- long tests ----

def long_run(tree, cuts, storm, **env):
    """Run two parts of long.sh, each with one test."""
    tree.unit("test_oracle", "exit 0", folder="block/qcow2")
    tree.unit("test_snapshot_set", cuts, folder="vmm/snapshot")
    (tree.path / "tests/e2e/vmm/snapshot").mkdir(parents=True, exist_ok=True)
    tree.e2e("vmm/snapshot/test_storm", storm)
    tree.env = {"LONG_PARTS": "disk-set-cuts storm", **env}
    return tree.script([tree.path / "tests/long.sh", tree.build])


OK = "echo 1..1; echo ok 1 - a"


def test_long_tests_sum_their_parts(tree):
    status, passed, failed, skipped, out = long_run(tree, OK, PASSES + "def test_skips():\n    import pytest\n    pytest.skip('why')\n")
    assert (status, passed, failed, skipped) == (0, 2, 0, 1), out
    assert re.search(r"^  disk-set-cuts: passed in \d+ s: 1 passed, 0 failed, 0 skipped$", out, re.M), out
    assert re.search(r"^  storm: passed in \d+ s: 1 passed, 0 failed, 1 skipped$", out, re.M), out
    assert "why" in out


FAILS = "def test_fails(tmp_path):\n    (tmp_path / 'trace').touch()\n    assert False\n"


@pytest.mark.parametrize("cuts, storm, bad, says", [
    (OK, FAILS, "storm", "FAILED"), ("echo 1..1; echo not ok 1 - a; exit 1", PASSES, "disk-set-cuts", "FAILED"),
    ("exec sleep 1000", PASSES, "disk-set-cuts", "no end within 1 s"), (OK, "", "storm", "FAILED")])
def test_long_tests_fail_when_a_part_fails(tree, cuts, storm, bad, says):
    # pytest may take longer than a second
    env = {"LONG_SECONDS": "1", "LONG_PARTS": "disk-set-cuts"} if "sleep" in cuts else {}
    status, _, failed, _, out = long_run(tree, cuts, storm, **env)
    assert status == 1 and failed == 1, out
    assert re.search(rf"^  {bad}: FAILED in \d+ s: ", out, re.M) and says in out, out
    assert len(re.findall(r": passed in", out)) == (0 if env else 1), out
    assert (tree.build / "failed-storm").exists() == (storm == FAILS)


def test_unknown_part_of_long_tests_is_refused(tree):
    assert long_run(tree, OK, PASSES, LONG_PARTS="storms")[:4] == (1, 0, 0, 0)


FRESH = """if True:
    import os, pathlib, sys, types
    place = sys.argv[1]
    sys.path[:0] = sys.argv[2:]
    import freshfs
    bench = types.SimpleNamespace(on="")
    with freshfs.folder(bench, 64, place) as at:
        (at / "file").write_text("x")
        print(os.stat(at).st_dev != os.stat(place).st_dev, bench.on, sep=";")
        print(place in pathlib.Path("/proc/%d/mounts" % os.getppid()).read_text())
    print(os.listdir(place), bench.on)"""


@pytest.mark.parametrize("permitted", [True, False])
def test_benchmark_gets_a_new_file_system_where_it_may_mount_one(tmp_path, permitted):
    if permitted and subprocess.run(["unshare", "-m", "losetup", "--find"], capture_output=True).returncode:
        pytest.skip("may not mount a file system of its own")
    folders = [os.path.join(ROOT, "tests", name) for name in ("bench", "e2e")]
    drop = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-all"] if not permitted and os.geteuid() == 0 else []
    r = subprocess.run([*drop, "/usr/bin/python3", "-c", FRESH, tmp_path, *folders], text=True, capture_output=True)
    assert r.returncode == 0, r.stderr
    own, seen_outside, left = r.stdout.splitlines()
    if permitted:
        assert own == "True;new ext4 on a loop device"
    else:
        assert re.fullmatch("False;[a-z0-9.]+ in use", own)
    assert seen_outside == "False"
    assert left == "[] "  # nothing is left, and later rows do not name it


def test_each_benchmark_loads():
    bench = os.path.join(ROOT, "tests", "bench")
    files = [f for f in os.listdir(bench) if f.startswith("bench_")]
    r = subprocess.run(["/usr/bin/python3", os.path.join(bench, "run.py"), "--list"], text=True, capture_output=True)
    assert r.returncode == 0, r.stderr
    assert len(r.stdout.splitlines()) == len(files) > 30
