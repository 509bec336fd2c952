"""Provide fixtures: a daemon for one test, the command line, raw QMP, guests, time limits.

CAIRN_BUILD names the build folder (default: build). No process outlives its test: the fixtures stop
each one by its pid."""

import collections
import contextlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
from _pytest.pathlib import rm_rf

import guestlib

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.abspath(os.environ.get("CAIRN_BUILD", os.path.join(ROOT, "build")))
GUESTS = os.path.join(BUILD, "guests")
FAKE_VM = os.path.join(BUILD, "helpers", "fake_vm")
AS_UNIT = os.path.join(BUILD, "helpers", "as_unit")
THREADS = os.path.join(ROOT, "tests", "threads.py")
INJECT_CALL = os.path.join(BUILD, "helpers", "inject_call")
# Test files import one another by bare name, so each folder with tests is in the path.
HERE = os.path.dirname(os.path.abspath(__file__))
os.umask(0o022)  # some tests look at the modes of new files
os.environ["PATH"] += ":/usr/sbin:/sbin"  # mke2fs and others, which a plain user may run, too
sys.path[1:1] = [folder for folder, _, files in os.walk(HERE) if any(f.endswith(".py") for f in files)]

import schemalib  # noqa: E402
import sharelib  # noqa: E402

TEST_SECONDS = 120  # some six times what the longest test without a mark takes on a quiet machine
THREADS_SECONDS = 60
KEPT_MAX = 256 << 20  # bytes that folders of failed tests have in all


# Each report of a sanitizer goes to a file here: no test reads the stderr of a VM's process, and the process
# may end after its test.
REPORTS = tempfile.mkdtemp(prefix="cairn-reports-") if guestlib.SANITIZED else None
# LD_PRELOAD separates paths by blanks and colons, and PAM's files by blanks. If the path of the build folder has some,
# libraries have other paths.
LINKS = tempfile.TemporaryDirectory(prefix="cairn-links-") if re.search(r"[\s:]", BUILD) else None
if LINKS:
    os.chmod(LINKS.name, 0o755)
    os.symlink(os.path.join(BUILD, "helpers"), os.path.join(LINKS.name, "helpers"))


def library(name):
    """Return the path of one of tests/helpers/preload for LD_PRELOAD or a file of PAM."""
    return os.path.join(LINKS.name if LINKS else BUILD, "helpers", name + ".so")


def programs():
    """Return the inode and the time of change of each program and library that the tests use."""
    found = {}
    for entry in (e for f in (BUILD, os.path.join(BUILD, "helpers")) if os.path.isdir(f) for e in os.scandir(f)):
        with contextlib.suppress(FileNotFoundError):  # it is replaced right now
            if entry.is_file() and entry.stat().st_mode & 0o100:
                found[entry.name] = entry.stat().st_ino, entry.stat().st_mtime_ns
    return found


AT_FIRST = programs()


def pytest_configure(config):
    config.addinivalue_line("markers", "seconds(n): time limit of a test, if 120 are too few")
    config.addinivalue_line("markers", "sample(n): of the test's variants, run n, unless CAIRN_TESTS_ALL is set")
    share = os.environ.pop("CAIRN_TESTS_SHARE", None)
    if share:
        lines, part = (os.environ.pop("CAIRN_TESTS_" + name) for name in ("LINES", "PART"))
        config.pluginmanager.register(sharelib.Share(config, share, int(lines), "" if part in ("main", "hosts") else "@" + part))
    if REPORTS:
        os.chmod(REPORTS, 0o1777)
        for which in ("ASAN", "TSAN", "UBSAN"):
            name = f"{which}_OPTIONS"
            os.environ[name] = f"log_path={REPORTS}/{which.lower()}:print_stacktrace=1:{os.environ.get(name, '')}"
        os.environ["ASAN_OPTIONS"] += ":verify_asan_link_order=0"  # tests/helpers/preload comes first


def pytest_collection_modifyitems(config, items):
    """Of a test with the mark `sample`, keep some variants, always the same ones; all in make check-long."""
    variants = collections.defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample"):
            variants[item.nodeid.split("[")[0]].append(item)
    left_out = set()
    for name, group in variants.items():
        n = group[0].get_closest_marker("sample").args[0]
        if len(group) > n and not guestlib.WHOLE:
            left_out |= set(group) - set(random.Random(os.path.basename(name)).sample(group, n))
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))


def pytest_unconfigure():
    if REPORTS:
        shutil.rmtree(REPORTS)


def found():
    """Return the sanitizers' reports since the last call, and delete their files."""
    texts = []
    for name in sorted(os.listdir(REPORTS)) if REPORTS else ():
        path = os.path.join(REPORTS, name)
        with open(path, errors="replace") as f:
            texts.append(f.read())
        os.unlink(path)
    return "\n".join(texts)


@pytest.fixture(autouse=True)
def sanitizers():
    """Fail a test when a sanitizer made a report during it, even if the process belongs to the test before."""
    yield
    text = found()
    assert not text, text


@pytest.fixture(scope="session", autouse=True)
def last_sanitizers():
    """Fail the session on reports of processes that ended after the last test."""
    yield
    text = found()
    assert not text, text


# ---- temporary folders of tests ----

FOLDER, FAILED = pytest.StashKey(), pytest.StashKey()
kept = []  # folders of failed tests
last = []  # the folder of the test that runs


@pytest.fixture
def tmp_path(request, tmp_path_factory):
    """Make a folder for one test. It is removed after the test, unless the test failed."""
    name = re.sub(r"\W", "_", request.node.name)[:16]
    path = pathlib.Path(tempfile.mkdtemp(prefix=name + "-", dir=tmp_path_factory.getbasetemp()))
    request.node.stash[FOLDER] = path
    last[:] = [path]
    return path


def is_late(e):
    return isinstance(e, (TimeoutError, subprocess.TimeoutExpired)) or "no end within" in str(e)


def waited_for():
    """Return what our processes wait for."""
    try:
        return subprocess.run([THREADS, *map(str, ours())], text=True, capture_output=True, check=False, timeout=THREADS_SECONDS).stdout
    except subprocess.TimeoutExpired as e:
        return str(e)


def ours():
    """Return the pids of this process's children, and of programs from the build folder whose parent has ended."""
    orphans = [pid for pid in children_of(1) if is_built(pid)]
    return [*children_of(os.getpid()), *orphans]


def is_built(pid):
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe").startswith(BUILD + os.sep)
    return False


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    late = signal.signal(signal.SIGALRM, signal.SIG_IGN)  # the test's time limit would end pytest
    hidden = hidden_file(call.excinfo.value) if call.excinfo else None
    if hidden:
        why = f"only root may read {hidden} of a process that is not dumpable"
        call.excinfo = pytest.CallInfo.from_call(lambda: pytest.skip(why), call.when).excinfo
    report = (yield).get_result()
    if hidden:
        report.longrepr = (item.location[0], item.location[1] + 1, "Skipped: " + why)  # of the test, not of this line
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    if call.excinfo and is_late(call.excinfo.value):
        report.sections.append(("Processes", waited_for()))
    if report.failed and (replaced := {name for name, _ in AT_FIRST.items() ^ programs().items()}):
        report.sections.append(("Build", f"the build folder has changed since the tests began, which may be why: {', '.join(sorted(replaced))}"))
    if report.when == "teardown" and FOLDER in item.stash:
        folder = item.stash[FOLDER]
        if item.stash[FAILED] and size(*kept, folder) <= KEPT_MAX:
            kept.append(folder)
        else:
            rm_rf(folder)
    signal.signal(signal.SIGALRM, late)


def hidden_file(e):
    """Return which file of a process's folder in /proc a plain user could not read, because the process is not
    dumpable: most files in that folder belong to root then. None for any other error."""
    m = os.geteuid() and isinstance(e, PermissionError) and re.match(r"/proc/(\d+)/(.*)", str(e.filename))
    if not m:
        return None
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        if os.stat(f"/proc/{m[1]}/fd").st_uid == os.geteuid():
            return None
    return re.sub(r"\d+", "N", m[2])


def size(*folders):
    """Return the sum of the bytes on disk of all files below these folders."""
    return sum(os.lstat(os.path.join(at, f)).st_blocks * 512 for folder in folders for at, _, files in os.walk(folder) for f in files)


@pytest.fixture(scope="session", autouse=True)
def last_folders(tmp_path_factory):
    """Remove the folders that tests of one file share."""
    yield
    for path in tmp_path_factory.getbasetemp().iterdir():
        if path.is_symlink():  # pytest links the newest folder of each name
            path.unlink()
        elif path not in kept + last and path.is_dir():
            rm_rf(path)


@pytest.fixture
def sandbox():
    """Skip the test in a sanitizer build, whose programs do not confine themselves (base/lockdown.h)."""
    if guestlib.SANITIZED:
        pytest.skip("programs with a sanitizer do not confine themselves")


@pytest.fixture(autouse=True)
def time_limit(request):
    """Fail a test that exceeds its time limit, and then a wait in its cleanup that takes as long. Needs no plugin.

    The result of a run names the tests that took more than half: on a slower host, these fail first."""
    mark = request.node.get_closest_marker("seconds")
    seconds = (mark.args[0] if mark else TEST_SECONDS) * guestlib.SLOW

    def late(signum, frame):
        pytest.fail(f"no end within {seconds} s")  # no OSError: a test that expects one must not catch it

    begin = time.monotonic()
    old = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    yield
    if time.monotonic() - begin > seconds / 2:
        request.node.user_properties.append(("slow", f"{time.monotonic() - begin:.0f} s of at most {seconds}"))
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)


@pytest.fixture
def kvm():
    """Skip the test on a host without a usable /dev/kvm."""
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
    except OSError as e:
        pytest.skip(f"needs /dev/kvm: {e.strerror}")


@pytest.fixture
def guest():
    """Return a function that maps the name of a bare guest to its path."""

    def path(name):
        p = os.path.join(GUESTS, name)
        if not os.path.exists(p):
            pytest.fail(f"guest {name} is not built: make guests")
        return p

    return path


def until(true):
    """Wait until true() holds. Has no time limit except the test's, because a slow machine may take long."""
    while not true():
        time.sleep(0.01)


def free_port(kind=socket.SOCK_STREAM):
    """Return a port of this host that a program of the test can take. The kernel gives it to none of those that ask for
    any port, of which many run beside."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
        first = int(f.read().split()[0])
    while True:
        port = random.randrange(10000, max(first, 20000))
        with socket.socket(socket.AF_INET, kind) as s, contextlib.suppress(OSError):
            s.bind(("", port))
            return port


def open_fds(pid):
    """Return the targets of a process's open fds by number, without fds closed meanwhile: {} for a process that has
    ended."""
    targets = {}
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                targets[int(fd)] = os.readlink(f"/proc/{pid}/fd/{fd}")
    except OSError as e:
        if hidden_file(e):
            raise
    return targets


def open_files(pid):
    """Return the targets of a process's open fds."""
    return list(open_fds(pid).values())


def waits_for_vm(pid):
    """Return whether a process was made ahead of a VM, and has none yet. Until it names itself, it is called cairn-vm,
    and when it has got its VM, again. It confines itself in between."""
    def read(name):
        return pathlib.Path("/proc", str(pid), name).read_bytes()
    try:
        while not (args := read("cmdline")):  # exec() sets the name first
            if has_ended(pid):
                return False
        is_confined = b"\nSeccomp:\t2\n" in read("status")
        return b"--spare" in args.split(b"\0") and (not is_confined or read("comm") == b"cairn-spare\n")
    except OSError:  # it is gone
        return False


def inject_call(pid, number, *args):
    """Make a process make a system call. Returns its result (-errno for an error), or None if it killed the process.
    number: or "jump", for a thread to continue at an address; the result means nothing then."""
    r = subprocess.run([INJECT_CALL, str(pid), str(number), *map(str, args)], capture_output=True, text=True, timeout=50)
    if os.geteuid() and "Operation not permitted" in r.stderr:
        pytest.skip("only root may trace a process that is not dumpable")
    assert r.returncode == 0, r.stderr
    return None if r.stdout == "killed\n" else int(r.stdout)


def status_confined(pid):
    """Return the status of a process that helps the daemon or a VM, when it has confined itself. Nobody waits for that,
    and its call filter comes last."""
    last, done = ("CapPrm", "0" * 16) if guestlib.SANITIZED else ("Seccomp", "2")

    def status():
        with open(f"/proc/{pid}/status") as f:
            return {key: value.strip() for key, value in (line.split(":", 1) for line in f)}
    until(lambda: status()[last] == done)
    return status()


def children_of(parent):
    """Return the pids and names of a process's children. Its /proc/.../children may lack one while another ends."""
    names = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as f:  # it is gone
            name, rest = f.read().split("(", 1)[1].rsplit(")", 1)
            if int(rest.split()[1]) == parent:
                names[int(pid)] = name
    return names


def has_ended(pid):
    """Return whether the process has ended with all its threads, of which the first may end before others."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
            return fields[0] == "Z" and int(fields[17]) <= 1
    except (FileNotFoundError, ProcessLookupError):  # the latter: its parent waited for it after the open
        return True


def is_vm(pid):
    """Return whether pid is a process of a VM or of a job on its images: both are called cairn-vm."""
    try:
        with open(f"/proc/{pid}/comm") as f:
            return f.read().strip() == "cairn-vm"
    except OSError:
        return False


def lacks_here(o):
    """Return what a sandbox lacks (vm-sandbox), but for the control group, which hosts with version 1 lack."""
    return [lack for lack in o["lacks"] if not lack.startswith("control group")]


def has_cgroups():
    """Return whether version 2 of control groups has the controllers that Cairn uses."""
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return {"cpu", "memory", "pids"} <= set(pathlib.Path(line.split()[1], "cgroup.controllers").read_text().split())
    return False


def said_to_lack(log):
    """Return the lists of lacking parts in a daemon's log, without control groups, and without empty lists."""
    found = re.findall("the sandboxes of VMs lack (.*)", log)
    return [line for line in (re.sub(r"(, )?control group \([^)]*\)", "", text) for text in found) if line]


class QmpError(Exception):
    def __init__(self, error):
        super().__init__(f"{error['class']}: {error['desc']}")
        self.cls = error["class"]
        self.desc = error["desc"]


class Qmp:
    """A QMP client that uses only the standard library, so no bug of Cairn's own client can hide one of the daemon."""

    def __init__(self, path, negotiate=True, timeout=100 * guestlib.SLOW, longest=65535):
        self.longest = longest  # bytes of the longest permitted line; some clients read no more than 64 KiB
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.buffer = b""
        self.events = []
        self.fds = []
        self.greeting = self.read() if negotiate else None
        if negotiate:
            self.run("qmp_capabilities")

    def read(self):
        """Read the next message, up to its CRLF."""
        while b"\r\n" not in self.buffer:
            data, fds, _, _ = socket.recv_fds(self.sock, 65536, 4)
            self.fds += fds
            if not data:
                raise EOFError("the daemon hung up")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        assert all(b < 0x80 for b in line) and len(line) + 2 <= self.longest
        return json.loads(line)

    def send(self, data):
        self.sock.sendall(data)

    def answer(self):
        while True:
            m = self.read()
            if "event" not in m:
                return m
            schemalib.check_event(m)
            self.events.append(m)

    def run(self, command, /, **args):
        m = {"execute": command}
        if args:
            m["arguments"] = {k.replace("_", "-"): v for k, v in args.items()}
        self.send(json.dumps(m).encode())
        m = self.answer()
        if "error" in m:
            raise QmpError(m["error"])
        schemalib.check_answer(command, m["return"])
        return m["return"]

    def jobs(self):
        """Return all jobs. query-jobs answers in pages; if the last job of a page was dismissed meanwhile, the list
        begins again."""
        jobs, page = [], self.run("query-jobs")
        while page:
            jobs += page
            try:
                page = self.run("query-jobs", after=jobs[-1]["id"])
            except QmpError as e:
                if "list the jobs from the first page on" not in str(e):
                    raise
                jobs, page = [], self.run("query-jobs")
        return jobs

    def event(self, name, **data):
        """Return the next event of that name whose data has these values. Earlier events are dropped."""
        while True:
            m = self.events.pop(0) if self.events else schemalib.check_event(self.read())
            if m.get("event") == name and all(m["data"].get(k) == v for k, v in data.items()):
                return m

    def close(self):
        self.sock.close()


class Console:
    """The guest's serial port, through the fd that the daemon passes with vm-console."""

    def __init__(self, daemon, vm, fd=None):
        # The daemon sends the output so far first. Answers to earlier commands in it look like those to the next one.
        self.has_history = fd is None
        if fd is None:
            q = Qmp(daemon.socket)
            q.run("vm-console", vm=vm)
            fd = q.fds.pop()
            q.close()
        self.sock = socket.socket(fileno=fd)
        self.sock.settimeout(100 * guestlib.SLOW)
        self.buffer = b""

    def line(self):
        while b"\n" not in self.buffer:
            data = self.sock.recv(65536)
            assert data, "the console ended"
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode().rstrip("\r")

    def history_skip(self):
        """Read until the guest has said a word that it never said before, and `ok`. A guest that boots empties its
        serial port, which holds one byte until then: the empty line. The history may end within a line: a revert ends
        what a guest was saying."""
        word = f"console-{os.urandom(8).hex()}"
        self.sock.sendall(f"\necho {word}\n".encode())
        while not self.line().endswith(word):
            pass
        assert self.line() == "ok"
        self.has_history = False

    def run(self, text):
        """Send a command to the guest and return the lines of its answer. An error answer fails the test."""
        if self.has_history:
            self.history_skip()
        self.sock.sendall(text.encode() + b"\n")
        lines = []
        while True:
            line = self.line()
            assert not line.startswith(("err ", "error: ")), f"{text}: {line}"
            if line == "ok":
                return lines
            lines.append(line)

    def close(self):
        self.sock.close()


def environment(pid, program):
    """Return a process's environment. One that runs `program` and has none yet has just called exec(); its parent may
    have gone on, and ended, in the meantime."""
    while not (env := pathlib.Path("/proc", pid, "environ").read_bytes()):
        if os.readlink(f"/proc/{pid}/exe") != os.path.realpath(program):
            break
    return env


def all_vms(q):
    """Return the names of all VMs: vm-list gives them in pages."""
    page = q.run("vm-list")
    names = [vm["name"] for vm in page["vms"]]
    while "next" in page:
        page = q.run("vm-list", after=page["next"])
        names += [vm["name"] for vm in page["vms"]]
    return names


class Daemon:
    """A cairnd with its own state folder and socket."""

    def __init__(self, tmp, vm_program=None, env=None):
        self.tmp = tmp
        self.state = tmp / "state"
        self.socket = str(tmp / "cairn.sock")
        self.vm_program = vm_program
        self.env = {"CAIRN_PIN_WAIT": "0", **os.environ, "TMPDIR": str(tmp), "CAIRN_SOCKET": self.socket,
                    "CAIRN_JOURNAL": "", **(env or {})}
        self.log = tmp / "cairnd.log"
        self.proc = None
        self.clients = []
        self.start()

    def command(self):
        c = [os.path.join(BUILD, "cairnd"), "--state-dir", str(self.state)]
        return c + (["--vm-program", self.vm_program] if self.vm_program else [])

    def start(self):
        with open(self.log, "ab") as log:
            self.proc = subprocess.Popen([AS_UNIT, *self.command()], env=self.env, stderr=log)
        end = time.monotonic() + 100 * guestlib.SLOW
        while time.monotonic() < end:
            assert self.proc.poll() is None, f"cairnd ended: {self.log.read_text()}"
            try:
                # Wait for the greeting, not only the connection: the io_uring of a killed daemon keeps its
                # socket open for a moment.
                Qmp(self.socket, timeout=5).close()
                return
            except (OSError, EOFError):
                time.sleep(0.01)
        raise TimeoutError("cairnd does not listen")

    def stop(self, sig=signal.SIGTERM):
        """Send sig, wait for the end and return the exit status. After SIGTERM it must be 0."""
        self.proc.send_signal(sig)
        status = self.proc.wait(100 * guestlib.SLOW)
        assert status == 0 or sig != signal.SIGTERM, self.log.read_text()
        return status

    def qmp(self, **kwargs):
        q = Qmp(self.socket, **kwargs)
        self.clients.append(q)
        return q

    def cairn(self, *args, ok=True, timeout=100 * guestlib.SLOW, **kwargs):
        """Run the command line. ok: an exit code, True for 0, False for any other, None for any."""
        r = subprocess.run(
            [os.path.join(BUILD, "cairn"), *args], env=self.env, text=True, timeout=timeout,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            **{"stdin": subprocess.DEVNULL, **kwargs})
        said = f"{args}: {r.returncode}\n{r.stdout}{r.stderr}"
        if isinstance(ok, bool):
            assert (r.returncode == 0) == ok, said
        elif ok is not None:
            assert r.returncode == ok, said
        return r

    def write(self, name, **keys):
        """Write a complete definition, changed by keys (None removes one), and return its path."""
        kernel = self.tmp / "kernel"
        if not kernel.exists():
            kernel.write_bytes(b"not a kernel\n")
        d = {"name": name, "memory": "32M", "boot": {"kernel": "kernel"}, **keys}
        d = {k: v for k, v in d.items() if v is not None}
        path = self.tmp / f"{name[:40].replace('/', '_')}.json"
        path.write_text(json.dumps(d))
        return str(path)

    def define(self, name, cmdline=None, **keys):
        if cmdline:
            keys["boot"] = {"kernel": "kernel", "cmdline": cmdline}
        self.cairn("define", self.write(name, **keys))

    def all_children(self):
        """Return the pids and names of the daemon's living children."""
        return children_of(self.proc.pid)

    def children(self):
        """Return the pids of the daemon's living children without its helpers, thus VM processes and jobs on images.
        Helpers that open files are called cairnd, too. A process that was made ahead of a VM counts when it has one."""
        helpers = ("cairnd", "cairnd-files", "cairn-groups", "cairn-log", "cairn-spare")
        return [pid for pid, name in self.all_children().items() if name not in helpers and not waits_for_vm(pid)]

    def spares(self):
        """Return the pids of the processes that were made ahead and wait for a VM, each in recvmsg() on fd 3."""
        ready = []
        for pid in [pid for pid, name in self.all_children().items() if name == "cairn-spare"]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/syscall") as f:  # it is gone
                ready += [pid] if f.read().split()[:2] == ["47", "0x3"] else []
        return ready

    def log_process(self):
        """Return the pid of this daemon's cairn-log. A new one loads its program while the daemon goes on."""
        found = []

        def is_there():
            found[:] = [pid for pid, name in self.all_children().items() if name == "cairn-log"]
            return len(found) == 1
        until(is_there)
        return found[0]

    def logs_written(self):
        """Wait until the VMs' logs have all lines so far. A write to its pipe wakes cairn-log, which writes the file
        before it sleeps again."""
        pid = self.log_process()
        until(lambda: open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "S")

    def log_of(self, name):
        """Return a VM's log. Without a daemon, the last lines may still be missing."""
        if self.proc.poll() is None:
            self.logs_written()
        return (self.state / "vms" / name / "log").read_text()

    def kept(self, name):
        """Return a VM's state.json, {} when there is none. The daemon writes it a moment after a change."""
        try:
            return json.loads((self.state / "vms" / name / "state.json").read_text())
        except FileNotFoundError:
            return {}

    def wait(self, name, state, timeout=90 * guestlib.SLOW):
        self.cairn("wait", name, "--for", state, "--timeout", str(timeout))

    def info(self, name):
        q = Qmp(self.socket)
        try:
            return q.run("vm-info", vm=name)
        finally:
            q.close()

    def figures(self, name):
        """Return info() with what only the VM's process knows: the daemon answers without it when that process stands
        still."""
        while "cpu-time" not in (info := self.info(name)):
            pass
        return info

    def sandbox(self, name):
        """Return the answer of vm-sandbox with what only the VM's process knows, as figures() does."""
        q = Qmp(self.socket)
        try:
            while "landlock" not in (o := q.run("vm-sandbox", vm=name)):
                pass
            return o
        finally:
            q.close()

    def processes_end(self):
        """Kill what simulated VMs leave: work that was cut off waits for a next daemon. Real VMs must leave nothing."""
        mine = f"TMPDIR={self.tmp}".encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if mine in environment(pid, self.vm_program).split(b"\0"):
                    os.kill(int(pid), signal.SIGKILL)

    def close(self):
        try:
            self.close_in_order()
        except BaseException:
            self.kill_all()  # or its VMs would take the processors from all tests that follow
            raise

    def kill_all(self):
        """Kill the daemon and what it started."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if f"TMPDIR={self.tmp}".encode() in pathlib.Path("/proc", pid, "environ").read_bytes().split(b"\0"):
                    os.kill(int(pid), signal.SIGKILL)

    def close_in_order(self):
        for c in self.clients:
            c.close()
        q = None
        with contextlib.suppress(OSError, EOFError):  # it has ended, or is about to: a time limit signals the whole group
            q = Qmp(self.socket)
        if not q:
            self.proc.wait(100 * guestlib.SLOW)
            self.start()  # the new daemon finds VMs that are still running
            q = Qmp(self.socket)
        for name in all_vms(q):
            try:
                q.run("vm-destroy", vm=name)
            except QmpError:
                pass  # the VM is off (one that hangs in its start is not off, and has no id yet)
        q.close()
        assert self.stop() == 0, found()
        if self.vm_program:
            self.processes_end()
        log = self.log.read_text()
        assert not [w for w in ("AddressSanitizer", "LeakSanitizer", "ThreadSanitizer", "runtime error") if w in log], log


@pytest.fixture
def daemon(tmp_path):
    """Start a daemon that runs real VMs."""
    d = Daemon(tmp_path)
    yield d
    d.close()


@pytest.fixture
def fake(tmp_path):
    """Start a daemon whose VM processes are tests/helpers/fake_vm, which fails on demand."""
    if not os.path.exists(FAKE_VM):
        pytest.fail("fake_vm is not built: make helpers")
    d = Daemon(tmp_path, vm_program=FAKE_VM)
    yield d
    d.close()


@pytest.fixture
def cairn_path():
    p = os.path.join(BUILD, "cairn")
    assert shutil.which(p)
    return p
