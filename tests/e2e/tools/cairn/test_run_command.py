"""cairn run FILE -- COMMAND. In place of cairn-vm, a program serves the VM's vsock socket as its device does, with a
real cairn-agent behind it; test_linux.py has a real guest."""

import json
import os
import pty
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

import guestlib
from conftest import BUILD, children_of, has_ended, until
from test_img_budget import PEAK
from test_kill_points import SEED, STEP

CAIRN = os.path.join(BUILD, "cairn")
RUN_STEP = min(STEP, 12)  # calls from one kill to the next; CAIRN_KILL_STEP=1: each
VM = f"""#!/usr/bin/python3
import os, signal, socket, subprocess, sys, time
open(os.environ["PIDS"], "a").write(f"{{os.getpid()}}\\n")
def button(*_):
    open(os.environ["PIDS"] + ".button", "w").close()
    if not os.environ.get("DEAF"):
        sys.exit(0)
signal.signal(signal.SIGTERM, button)
if os.environ.get("ENDS"):
    sys.exit(int(os.environ["ENDS"]))
channel, fds = socket.socket(fileno=int(sys.argv[sys.argv.index("--channel") + 1])), []
while (got := socket.recv_fds(channel, 1 << 20, 253))[0]:
    fds += got[1]
def listens(fd):
    try:
        return socket.socket(fileno=os.dup(fd)).getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:
        return 0
listener = socket.socket(fileno=next(fd for fd in fds if listens(fd)))
listener.setblocking(True)
ready = time.monotonic() + float(os.environ.get("BOOTS", "0.05"))
print("the console", flush=True)
while True:
    peer, _ = listener.accept()
    line = b""
    while not line.endswith(b"\\n"):
        line += peer.recv(1)
    if line == b"CONNECT 522\\n" and time.monotonic() >= ready:
        peer.sendall(b"OK 1\\n")
        subprocess.Popen(["{BUILD}/cairn-agent", "--fd", str(peer.fileno())], pass_fds=[peer.fileno()])
    peer.close()
"""


class Runner:
    def __init__(self, tmp_path):
        self.tmp = tmp_path
        self.vm = tmp_path / "vm"
        self.vm.write_text(VM)
        self.vm.chmod(0o755)
        (tmp_path / "kernel").write_bytes(b"kernel")
        self.env = {**os.environ, "PIDS": str(tmp_path / "pids"), "XDG_RUNTIME_DIR": str(tmp_path / "r")}
        (tmp_path / "r").mkdir()
        assert len(self.env["XDG_RUNTIME_DIR"]) <= 80, "the tests' folder has too long a name"
        self.write()

    def write(self, **keys):
        (self.tmp / "vm.json").write_text(json.dumps({"name": "x", "memory": "32M", "boot": {"kernel": "kernel", "initrd": "kernel"}, **keys}))

    def argv(self, *args):
        return [CAIRN, "run", "--vm-program", self.vm, *args[:-1], self.tmp / "vm.json", "--", *args[-1]]

    def run(self, *args, status=0, env=None, **how):
        r = subprocess.run(self.argv(*args), stdin=how.pop("stdin", None if "input" in how else subprocess.DEVNULL), stdout=subprocess.PIPE,
                           stderr=subprocess.PIPE, text=True, check=False, timeout=50, env={**self.env, **(env or {})}, **how)
        if os.geteuid() and "cannot become the user" in r.stderr:
            pytest.skip("only root's agent, on the host, may become another user")
        assert r.returncode == status, (r.stdout, r.stderr)
        self.leaves_nothing()
        return r

    def spawn(self, *args, env=None, **how):
        return subprocess.Popen(self.argv(*args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                env={**self.env, **(env or {})}, start_new_session=True, **how)

    def pids(self):
        return [int(x) for x in open(self.env["PIDS"])] if os.path.exists(self.env["PIDS"]) else []

    def leaves_nothing(self):
        until(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in self.pids()))
        until(lambda: not os.listdir(self.env["XDG_RUNTIME_DIR"]))


REAPER = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1) # PR_SET_CHILD_SUBREAPER: processes whose parent ends become children of this one
status = subprocess.run(sys.argv[1:]).returncode
try:
    print("left:", os.waitpid(-1, 0))
except ChildProcessError:
    pass
sys.exit(status)
"""


@pytest.fixture
def vm(tmp_path):
    return Runner(tmp_path)


@pytest.mark.parametrize("code", [0, 1, 2, 77, 124, 125, 126, 127, 128, 137, 255])
def test_status_is_the_commands(vm, code):
    vm.run(("sh", "-c", f"exit {code}"), status=code)


def test_name_that_is_no_host_name_is_reported(vm):
    assert vm.run("--name", "web1", ("true",)).stderr == ""
    assert vm.run("--name", "a b", ("true",)).stderr == (
        "warning: --name a b is no host name, which has only letters, digits and hyphens; the guest's host name is vm\n")


@pytest.mark.parametrize("sig", [1, 2, 6, 9, 11, 15])
def test_signal_is_128_and_its_number(vm, sig):
    vm.run(("sh", "-c", f"kill -{sig} $$"), status=128 + sig)


def test_streams(vm):
    r = vm.run(("sh", "-c", "echo out; echo err >&2; cat"))
    assert r.stdout == "out\n" and r.stderr == "err\n"  # no standard input, and nothing of the console
    assert vm.run("-i", ("cat",), input="all of it\n" * 50000).stdout == "all of it\n" * 50000
    assert vm.run("--show-console", ("true",)).stderr == "the console\n"
    assert vm.run("-e", "A=b c", "-w", "/usr", ("sh", "-c", 'echo "$A" $PWD')).stdout == "b c /usr\n"
    said = json.loads(vm.run("--format", "json", ("sh", "-c", "echo out; exit 3"), status=3).stdout)
    assert said["status"] == 3 and said["stdout"] == "out\n" and said["stderr"] == ""


def test_last_value_of_a_repeated_variable_counts(vm):
    env = ["-e", "A=1", "-e", "B=x", "-e", "A=2"]
    assert vm.run(*env, ("printenv", "A", "B")).stdout == "2\nx\n"  # without a shell, which would choose
    assert [v for v in vm.run(*env, ("env",)).stdout.splitlines() if v.startswith("A=")] == ["A=2"]


def test_command_may_have_as_many_words_as_the_agent_takes(vm):
    words = [str(i) for i in range(4000)]
    assert vm.run(("/bin/echo", *words)).stdout == " ".join(words) + "\n"
    assert "the command and its environment have more than 64512 bytes or 4096 words; pass" in vm.run(
        "-e", "A=1", "-e", "B=2", ("true", *["x"] * 4094), status=125).stderr
    assert "run takes at most 4096 words" in vm.run(("true", *["x"] * 4096), status=125).stderr


def test_terminal(vm):
    master, slave = pty.openpty()
    p = vm.spawn("-t", ("sh", "-c", "test -t 0 && test -t 1 && exit 5"), stdin=slave)
    os.close(slave)
    assert p.wait(50) == 5, p.stderr.read()
    os.close(master)
    vm.leaves_nothing()


def test_command_that_cannot_run(vm):
    (vm.tmp / "file").write_text("x")
    assert "/missing: No such file or directory" in vm.run(("/missing",), status=127).stderr
    assert "Permission denied" in vm.run((str(vm.tmp / "file"),), status=126).stderr
    assert "the folder /missing" in vm.run("-w", "/missing", ("true",), status=125).stderr


def test_volume_that_the_guest_cannot_mount_is_named(vm):
    """This guest is the host, which has no such share."""
    (vm.tmp / "file").touch()
    said = vm.run("-v", f"{vm.tmp}:{vm.tmp}/file/x", ("echo", "ran"), status=125)
    assert f"--volume {vm.tmp}:{vm.tmp}/file/x: the guest cannot mount it: Not a directory" in said.stderr and not said.stdout


def test_time_limit(vm):
    begin = time.monotonic()
    assert "its time limit passed before cairn-agent answered in the guest; to see its console: --show-console" in vm.run("--timeout", "0.3", ("true",), status=124, env={"BOOTS": "100"}).stderr
    assert "its time limit passed" in vm.run("--timeout", "1", ("sleep", "100"), status=124).stderr
    assert time.monotonic() - begin < 40


def test_time_limit_ends_a_vm_with_a_writable_disk_whose_guest_ignores_the_power_button(vm):
    (vm.tmp / "disk").write_bytes(bytes(1 << 20))
    begin = time.monotonic()
    r = vm.run("--disk", vm.tmp / "disk", "--timeout", "1", ("sleep", "100"), status=124, env={"DEAF": "1"})
    assert "its time limit passed" in r.stderr and (vm.tmp / "pids.button").exists()
    assert 5 < time.monotonic() - begin < 25  # the guest had 5 s to write its files


def test_vm_that_ends_before_the_agent_answers(vm):
    said = vm.run(("true",), status=125, env={"ENDS": "11"}).stderr
    assert "the VM ended before cairn-agent answered in the guest (exit status 11); to see its console: --show-console" in said


def test_vm_that_ends_meanwhile(vm):
    p = vm.spawn("-i", ("sh", "-c", "echo begins; exec cat"), stdin=subprocess.PIPE)  # cat ends with the agent
    assert p.stdout.readline() == "begins\n"
    os.killpg(vm.pids()[0], signal.SIGKILL)  # and the agent, whose connection is the guest's
    assert p.wait(50) == 125 and "the connection to the guest ended before the program" in p.stderr.read()
    vm.leaves_nothing()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace without /dev/kvm")
def test_host_without_kvm_is_told_before_an_image_is_made(vm):
    (vm.tmp / "fs").mkdir()
    run = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh", CAIRN, "run", "--status-fd", "1"]
    for args in ([vm.tmp / "vm.json"], ["--kernel", vm.tmp / "kernel", "--root", vm.tmp / "fs"]):
        r = subprocess.run([*run, *args, "--", "true"], capture_output=True, text=True, check=False, timeout=50,
                           env={**vm.env, "XDG_CACHE_HOME": str(vm.tmp / "cache")})
        sentence = f"/dev/kvm: No such file or directory: {guestlib.kvm_remedy()}"
        assert r.returncode == 125 and r.stderr.splitlines()[-1] == f"error: {sentence}" and len(r.stderr.splitlines()) == 2
        assert json.loads(r.stdout) == {"by": "cairn", "status": 125, "signal": None, "reason": "host", "error": sentence}
    assert not (vm.tmp / "cache").exists()
    vm.leaves_nothing()


def test_signals(vm):
    """Ctrl-C is for the command; while the VM boots, it ends all."""
    p = vm.spawn(("sh", "-c", "trap 'echo caught; exit 9' INT; echo begins; sleep 100 & wait"))
    assert p.stdout.readline() == "begins\n"
    os.killpg(p.pid, signal.SIGINT)
    assert p.wait(50) == 9 and p.stdout.read() == "caught\n"
    vm.leaves_nothing()
    p = vm.spawn(("true",), env={"BOOTS": "100"})
    until(lambda: len(vm.pids()) == 2)
    os.killpg(p.pid, signal.SIGINT)
    assert p.wait(50) == -signal.SIGINT
    vm.leaves_nothing()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_the_vm_at_once(vm, sig):
    """Also a VM with a writable disk, whose guest would have time to shut down, and a program that ignores signals."""
    (vm.tmp / "disk").write_bytes(bytes(1 << 20))
    vm.write(disks=[{"path": "disk", "format": "raw"}])
    p = vm.spawn(("sh", "-c", "trap 'echo caught' INT TERM; echo begins; while :; do sleep 0.1; done"))
    assert p.stdout.readline() == "begins\n"
    os.kill(p.pid, sig)
    assert p.stdout.readline() == "caught\n" and p.poll() is None
    os.kill(p.pid, sig)
    assert p.wait(50) == 128 + sig and f"signal {sig} ended the VM" in p.stderr.read()
    vm.leaves_nothing()
    assert not (vm.tmp / "pids.button").exists()


def status_of(vm, *args, status, env=None):
    """Return the lines of --status-fd."""
    read, write = os.pipe()
    try:
        vm.run("--status-fd", str(write), *args, status=status, env=env, pass_fds=[write])
    finally:
        os.close(write)
    with os.fdopen(read) as f:
        return [json.loads(line) for line in f]


def test_status_fd_tells_the_commands_status_from_cairns(vm):
    for code in (0, 3, 124, 125, 126, 127, 255):
        assert status_of(vm, ("sh", "-c", f"exit {code}"), status=code) == [{"by": "command", "status": code, "signal": None}]
    assert status_of(vm, ("sh", "-c", "kill -9 $$"), status=137) == [{"by": "command", "status": 137, "signal": 9}]

    def cairns(*args, status, env=None):
        line, = status_of(vm, *args, status=status, env=env)
        assert line["by"] == "cairn" and line["status"] == status and line["error"]
        return line["reason"]
    (vm.tmp / "file").write_text("x")
    assert cairns(("/missing",), status=127) == "not-found"
    assert cairns((str(vm.tmp / "file"),), status=126) == "not-executable"
    assert cairns("-w", "/missing", ("true",), status=125) == "failed"
    assert cairns(("true",), status=125, env={"ENDS": "3"}) == "vm-ended"
    assert cairns(("true",), status=125, env={"ENDS": "6"}) == "busy"
    assert cairns(("true",), status=125, env={"ENDS": "7"}) == "host"
    assert cairns("--timeout", "0.3", ("true",), status=124, env={"BOOTS": "100"}) == "timeout"
    assert cairns("--timeout", "1", ("sleep", "100"), status=124) == "timeout"
    assert cairns("--disk", "/missing", ("true",), status=125) == "failed"
    assert status_of(vm, "--env", "=x", ("true",), status=125) == [{"by": "cairn", "status": 125, "signal": None, "reason": "usage"}]


def test_bad_status_fd(vm):
    for fd in ("x", "-1", "", "99999999999", "77"):
        assert "--status-fd" in vm.run("--status-fd", fd, ("true",), status=125).stderr
    read, write = os.pipe()
    os.close(read)
    assert "warning: --status-fd" in vm.run("--status-fd", str(write), ("sh", "-c", "exit 3"), status=3, pass_fds=[write]).stderr
    os.close(write)


def test_wrong_options_beside_a_command_are_no_status_of_it(vm):
    for args in (["--nonsense"], ["--timeout", "x"], ["--boot", "x"], ["--require-sandbox", "--no-sandbox"], ["--publish", "x"], ["--cpus", "x"]):
        vm.run(*args, ("true",), status=125)


def traced(vm, *options):
    """Run a command with strace, which traces cairn's first process. Return its calls, and whether it was killed."""
    trace = vm.tmp / "trace"
    r = subprocess.run(["strace", "-qq", "-o", trace, *options, *vm.argv(("true",))], stdin=subprocess.DEVNULL, capture_output=True,
                       check=False, timeout=50, env=vm.env)
    assert r.returncode in (0, -signal.SIGKILL), r.stderr
    vm.leaves_nothing()
    return re.findall(r"^(\w+)\(", trace.read_text(), re.M)[1:], r.returncode != 0  # without execve()


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is missing")
@pytest.mark.skipif(guestlib.SANITIZED, reason="the leak sanitizer traces a process, too")
def test_kill_before_any_call_leaves_nothing(vm):
    """The number of some calls changes from run to run, so a kill may come later, or not at all."""
    calls, killed = traced(vm)
    at = range(random.Random(SEED).randrange(RUN_STEP), len(calls), RUN_STEP)
    kills = sum(traced(vm, "-e", f"inject={calls[i]}:signal=KILL:when={calls[:i + 1].count(calls[i])}")[1] for i in at)
    assert not killed and len(calls) > 100 and kills > len(at) / 2, (len(calls), kills, len(at))


@pytest.mark.parametrize("command", [("--", "true"), ()])
def test_run_leaves_no_process_to_the_hosts_first_process(vm, command):
    """That of a container may reap none."""
    options = () if command else ("--timeout", "50")
    vm.write(vsock={"path": f"{vm.tmp}/v"})
    r = subprocess.run([sys.executable, "-c", REAPER, CAIRN, "run", "--vm-program", vm.vm, *options, vm.tmp / "vm.json", *command],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50, env={**vm.env, **({} if command else {"ENDS": "0"})})
    assert (r.returncode, r.stdout) == (0, ""), r.stderr


def test_run_without_a_command_leaves_no_process_to_the_hosts_first_process(vm):
    """cairn becomes cairn-vm, which cannot start this kernel, and perhaps has no KVM."""
    (vm.tmp / "share").mkdir()
    vm.write(vsock={"path": f"{vm.tmp}/v"}, interfaces=[{"type": "user"}], shares=[{"path": f"{vm.tmp}/share", "tag": "t"}])
    r = subprocess.run([sys.executable, "-c", REAPER, CAIRN, "run", vm.tmp / "vm.json"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                       timeout=50, env=vm.env)
    assert r.returncode in (2, 7) and not r.stdout, r


@pytest.mark.parametrize("ending", [0, 5])
def test_parent_that_ignores_the_ends_of_children_gets_the_vms_status(vm, ending):
    r = subprocess.run([CAIRN, "run", "--vm-program", vm.vm, "--timeout", "50", vm.tmp / "vm.json"], stdin=subprocess.DEVNULL, check=False,
                       timeout=50, env={**vm.env, "ENDS": str(ending)}, preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    assert r.returncode == ending


def test_children_of_a_script_that_becomes_cairn_do_not_delay_its_end(vm):
    r = subprocess.run(["sh", "-c", 'sleep 60 >&- 2>&- & echo $!; exec "$@"', "sh", *vm.argv(("true",))], stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, text=True, timeout=50, env=vm.env)
    assert r.returncode == 0
    os.kill(int(r.stdout), signal.SIGKILL)


def test_next_run_removes_the_folder_of_a_run_whose_processes_were_killed(vm):
    """While one of these processes lives, the folder stays, because it leads to the guest."""
    def next_run():
        subprocess.run(vm.argv(("true",)), stdin=subprocess.DEVNULL, check=True, timeout=50, env=vm.env)
        return os.listdir(vm.env["XDG_RUNTIME_DIR"])
    p = vm.spawn("-i", ("sh", "-c", "echo begins; exec cat"), stdin=subprocess.PIPE)
    assert p.stdout.readline() == "begins\n"
    folder = os.listdir(vm.env["XDG_RUNTIME_DIR"])
    assert len(folder) == 1 and next_run() == folder
    watcher, = (pid for pid in set(children_of(p.pid)) - set(vm.pids()) if open(f"/proc/{pid}/comm").read() == "cairn\n")  # cairn-dial is another
    os.kill(watcher, signal.SIGKILL)
    until(lambda: has_ended(watcher))
    assert next_run() == folder
    p.kill()
    p.communicate()
    until(lambda: has_ended(vm.pids()[0]))
    assert os.listdir(vm.env["XDG_RUNTIME_DIR"]) == folder and next_run() == []


def test_vm_with_a_writable_disk_is_shut_down(vm):
    """Others are killed: nothing of them stays."""
    button = vm.tmp / "pids.button"
    vm.run(("true",))
    (vm.tmp / "disk").write_bytes(bytes(1 << 20))
    vm.write(disks=[{"path": "disk", "format": "raw", "readonly": True}])
    vm.run(("true",))
    assert not button.exists()
    vm.write(disks=[{"path": "disk", "format": "raw"}])
    vm.run(("sh", "-c", "exit 4"), status=4)
    assert button.exists()


def test_reader_that_goes_away(vm):
    p = vm.spawn(("yes",))
    assert p.stdout.readline() == "y\n"
    p.stdout.close()
    assert p.wait(50) == 128 + signal.SIGPIPE and p.stderr.read() == ""
    vm.leaves_nothing()


def test_bad_definition_and_options(vm):
    def bad(*args):
        r = subprocess.run([CAIRN, "run", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, timeout=50, env=vm.env)
        vm.leaves_nothing()
        return r.returncode, r.stderr
    for option in (("-e", "A=b"), ("-i",), ("-t",), ("--show-console",), ("--format", "json")):
        status, said = bad(*option, vm.tmp / "vm.json")
        assert status == 2 and "needs a command to run: cairn run FILE -- COMMAND" in said
    assert bad(vm.tmp / "missing.json", "--", "true")[0] == 125
    for option in ("-e", "--env"):
        assert f"{option} needs a value" in bad(option, "--", "true")[1]
    vm.write(boot={"kernel": "kernel"})
    status, said = bad(vm.tmp / "vm.json", "--", "true")
    assert status == 125 and 'a command, or --agent, needs "boot.initrd" or --initrd' in said and "--root PATH" in said
    status, said = bad("--vm-program", "/missing/vm", vm.tmp / "vm.json", "--", "true")
    assert status == 125


def test_output_without_end_takes_no_memory(vm):
    for option, size in ((), 1 << 30), (("--format", "json"), 100 << 20):
        argv = ["/bin/sh", "-c", 'exec "$@" >/dev/null', "sh", *map(str, vm.argv(*option, ("head", "-c", str(size), "/dev/zero")))]
        r = subprocess.run([sys.executable, "-I", "-S", "-c", PEAK, *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, check=True,
                           timeout=50, env=vm.env)
        status, kib = map(int, r.stdout.split())
        assert status == 0 and kib < 100 << 10, r
    vm.leaves_nothing()


def test_closed_standard_input_that_is_asked_for_is_named(vm):
    r = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *vm.argv("-i", ("cat",))], capture_output=True, text=True, check=False, timeout=50, env=vm.env)
    assert r.returncode == 125 and "cannot pass the standard input on: Bad file descriptor" in r.stderr
    vm.leaves_nothing()


@pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
def test_closed_streams(vm, closed):
    """Nothing that the run opens takes the place of a stream."""
    r = subprocess.run(["sh", "-c", f'"$@" {closed}; echo $? >{vm.tmp}/status', "sh", *vm.argv(("sh", "-c", "cat; echo out; exit 4"))],
                       stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True, timeout=50, env=vm.env)
    assert (vm.tmp / "status").read_text() == "4\n" and r.stdout == "out\n", r
    vm.leaves_nothing()
