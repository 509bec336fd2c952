"""cairn exec and cp with cairn-agent: the real agent runs as a process of this machine, behind a fake VM."""

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios

import pytest

import guestlib
from conftest import BUILD, until

AGENT = os.path.join(BUILD, "cairn-agent")


@pytest.fixture
def vm(fake):
    fake.define("web1", cmdline=f'cairn-agent="{AGENT}"', vsock=True)
    fake.cairn("start", "web1")
    return fake


def spawn(vm, *args, **kwargs):
    return subprocess.Popen([os.path.join(BUILD, "cairn"), "exec", *args], env=vm.env, **kwargs)


def host_pid(vm, pid):
    """Return the number on this host of a process of the agent, which is in the fake VM's pid namespace; None: it has
    ended."""
    space = os.readlink(f"/proc/{vm.info('web1')['pid']}/ns/pid")
    for p in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{p}/status") as f:
            words = {line.split(":")[0]: line.split()[1:] for line in f}
            if words["NSpid"][-1] == str(int(pid)) and os.readlink(f"/proc/{p}/ns/pid") == space:
                return int(p) if words["State"][0] != "Z" else None
    return None


def test_streams_status_environment_and_folder(vm):
    r = vm.cairn("exec", "-i", "web1", "--", "sh", "-c", "cat; echo err >&2; exit 7", input="text", stdin=None, ok=7)
    assert (r.stdout, r.stderr) == ("text", "err\n")
    assert vm.cairn("exec", "-e", "A=b c", "-w", "/usr", "web1", "--", "sh", "-c", 'echo "$A" $PWD; cat').stdout == "b c /usr\n"
    assert vm.cairn("exec", "web1", "--", "sh", "-c", "kill -9 $$", ok=137).stdout == ""
    assert "No such file" in vm.cairn("exec", "web1", "--", "/missing", ok=127).stderr
    assert "Permission denied" in vm.cairn("exec", "web1", "--", "/etc/passwd", ok=126).stderr
    assert "the folder /missing" in vm.cairn("exec", "-w", "/missing", "web1", "--", "true", ok=125).stderr
    assert "NAME=VALUE or NAME, not '=X'" in vm.cairn("exec", "-e", "=X", "web1", "--", "true", ok=125).stderr


def test_last_value_of_a_repeated_variable_counts(vm):
    """The daemon passes the variables of a job on as they are. A shell would choose one of two itself."""
    env = ["-e", "A=1", "-e", "B=x", "-e", "A=2"]
    assert vm.cairn("exec", *env, "web1", "printenv", "A", "B").stdout == "2\nx\n"
    job = vm.cairn("exec", *env, "--no-wait", "web1", "printenv", "A", "B").stdout.strip()
    vm.qmp().run("job-wait", id=job)
    assert vm.cairn("exec-output", job).stdout == "2\nx\n"


def test_command_may_have_thousands_of_words(vm):
    assert vm.cairn("exec", "web1", "--", "sh", "-c", "echo $#", *["x"] * 4001).stdout == "4000\n"
    assert "exec takes at most 4096 words" in vm.cairn("exec", "web1", "--", "true", *["x"] * 4095, ok=2).stderr


def test_words_after_the_program_are_its_own(vm):
    """As with docker exec: `rm -i f` asks."""
    assert vm.cairn("exec", "-e", "A=b", "web1", "printf", "%s,%s,%s", "-u", "--timeout=1", "-e").stdout == "-u,--timeout=1,-e"
    vm.cairn("exec", "web1", "sh", "-c", "exit 3", ok=3)
    assert vm.cairn("exec", "web1", "--", "printf", "%s", "--help").stdout == "--help"


def test_name_alone_passes_the_clients_variable(vm, monkeypatch):
    """As with docker: a variable that the client does not have is left out."""
    monkeypatch.setitem(vm.env, "TOKEN", "a=b c")
    env = ["-e", "TOKEN", "-e", "MISSING"]
    assert vm.cairn("exec", *env, "web1", "--", "sh", "-c", 'echo "$TOKEN ${MISSING-none}"').stdout == "a=b c none\n"
    job = vm.cairn("exec", *env, "--no-wait", "web1", "--", "sh", "-c", 'echo "$TOKEN ${MISSING-none}"').stdout.strip()
    vm.qmp().run("job-wait", id=job)
    assert vm.cairn("exec-output", job).stdout == "a=b c none\n"


def test_every_status_and_signal_is_told(vm):
    for code in range(256):
        vm.cairn("exec", "web1", "--", "sh", "-c", f"exit {code}", ok=code)
    ends = [*range(1, 17), *range(24, 28), *range(29, 32), *range(34, 41)]  # those that end a program which does not handle them
    assert len(ends) == 30
    for sig in ends:
        vm.cairn("exec", "web1", "--", "sh", "-c", f"kill -{sig} $$", ok=128 + sig)


def test_wait_for_agent_knows_cairn_agent(vm, tmp_path):
    vm.cairn("wait", "web1", "--for", "agent", "--timeout", "60")
    program = tmp_path / "agent"
    vm.define("web2", cmdline=f'cairn-agent="{program}"', vsock=True)
    vm.cairn("start", "web2")
    assert "no guest agent answers" in vm.cairn("wait", "web2", "--for", "agent", "--timeout", "0.1", ok=1).stderr
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "wait", "web2", "--for", "agent"], env=vm.env) as waiter:
        program.symlink_to(AGENT)
        assert waiter.wait(60) == 0
    # The audit log has the connection, but not the attempts before.
    assert {x["outcome"] for x in vm.qmp().run("query-audit", vm="web2")["lines"] if x["command"] == "agent-connect"} == {"ok"}
    assert "no port for QEMU's guest agent; set" in vm.cairn("wait", "web2", "--for", "ip", "--timeout", "60", ok=1).stderr
    vm.define("web3")
    vm.cairn("start", "web3")
    assert "no vsock device for cairn-agent" in vm.cairn("wait", "web3", "--for", "agent", "--timeout", "60", ok=1).stderr


def test_result_in_json(vm):
    r = vm.cairn("exec", "--format", "json", "web1", "--", "sh", "-c", "printf 'a\\377'; echo e >&2; kill -15 $$", ok=143)
    assert json.loads(r.stdout) == {"status": 143, "signal": 15, "stdout-base64": "Yf8=", "stderr": "e\n", "truncated": False}


def test_megabytes_both_ways(vm):
    """More than all buffers and the window of the input together."""
    data = os.urandom(5_000_000)
    r = subprocess.run([os.path.join(BUILD, "cairn"), "exec", "-i", "web1", "--", "cat"], env=vm.env, input=data, stdout=subprocess.PIPE,
                       timeout=50 * guestlib.SLOW, check=True)
    assert r.stdout == data
    # A program that does not read its input.
    subprocess.run([os.path.join(BUILD, "cairn"), "exec", "-i", "web1", "--", "true"], env=vm.env, input=data, timeout=50 * guestlib.SLOW, check=True)


def test_output_comes_before_the_end(vm):
    with spawn(vm, "-i", "web1", "--", "sh", "-c", "echo one; read x; echo $x", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        assert p.stdout.readline() == b"one\n"
        p.stdin.write(b"two\n")
        p.stdin.flush()
        assert p.stdout.readline() == b"two\n"


def test_timeout_kills_children(vm):
    """Children in process groups of their own end, too."""
    for limit in ("0.5", "5", "30"):  # a busy host starts the shell late
        r = vm.cairn("exec", "--timeout", limit, "web1", "--", "bash", "-c", "set -m; sleep 1000 & echo $!; sleep 1000 & echo $!; wait", ok=124)
        assert "time limit" in r.stderr
        pids = r.stdout.split()
        if len(pids) == 2:
            break
    assert len(pids) == 2
    until(lambda: not any(host_pid(vm, pid) for pid in pids))


def test_end_of_client_kills_the_program(vm):
    p = spawn(vm, "web1", "--", "bash", "-c", "set -m; sleep 1000 & echo $! $$; wait", stdout=subprocess.PIPE)
    pids = p.stdout.readline().split()
    assert len(pids) == 2 and all(host_pid(vm, pid) for pid in pids)
    p.kill()
    p.wait()
    p.stdout.close()
    until(lambda: not any(host_pid(vm, pid) for pid in pids))


def test_left_over_child_does_not_hold_the_streams(vm):
    """A child has the program's output open. It ends with the connection, unless it has a session of its own."""
    pid = vm.tmp / "pid"
    r = vm.cairn("exec", "web1", "--", "sh", "-c", "sleep 1000 & echo $!; "
                 f"setsid sh -c 'echo $$ >{pid}; exec sleep 1000' & until [ -s {pid} ]; do :; done; cat {pid}")
    killed, left = map(int, r.stdout.split())
    until(lambda: not host_pid(vm, killed))
    os.kill(host_pid(vm, left), signal.SIGKILL)


def test_ctrl_c_goes_to_the_program(vm):
    p = spawn(vm, "web1", "--", "sh", "-c", "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.05; done", stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    p.send_signal(signal.SIGINT)
    assert p.stdout.readline() == b"caught\n" and p.wait(50) == 3
    p.stdout.close()


def test_second_ctrl_c_kills(vm):
    p = spawn(vm, "web1", "--", "sh", "-c", "trap 'echo caught' INT; echo ready; while :; do sleep 0.05; done", stdout=subprocess.PIPE)
    assert p.stdout.readline() == b"ready\n"
    p.send_signal(signal.SIGINT)
    assert p.stdout.readline() == b"caught\n"
    p.send_signal(signal.SIGINT)
    assert p.wait(50) == 128 + signal.SIGKILL
    p.stdout.close()


class Terminal:
    """cairn exec -t on a terminal of 31 by 97."""

    def __init__(self, vm, *command):
        pid, self.fd = pty.fork()
        if not pid:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
            os.execve(os.path.join(BUILD, "cairn"), ["cairn", "exec", "-t", "web1", "--", *command], {**vm.env, "TERM": "vt220"})
        self.pid, self.text = pid, b""

    def expect(self, text):
        while text not in self.text:
            ready, _, _ = select.select([self.fd], [], [], 50 * guestlib.SLOW)
            assert ready, self.text
            self.text += os.read(self.fd, 4096)
        self.text = self.text.split(text, 1)[1]

    def end(self):
        with contextlib.suppress(OSError):
            while os.read(self.fd, 4096):
                pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_terminal(vm):
    t = Terminal(vm, "sh", "-c", 'tty; stty size; echo $TERM; trap "stty size" WINCH; while read x; do echo "got $x"; done; exit 5')
    t.expect(b"/dev/pts/")
    t.expect(b"31 97\r\n")
    t.expect(b"vt220")
    os.write(t.fd, b"line\r")
    t.expect(b"got line\r\n")
    fcntl.ioctl(t.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    os.write(t.fd, b"x\r")
    t.expect(b"40 120\r\n")
    os.write(t.fd, b"\x04")  # Ctrl-D
    assert t.end() == 5


def test_ctrl_c_of_the_terminal_is_the_guests(vm):
    t = Terminal(vm, "sh", "-c", "echo ready; exec sleep 1000")
    t.expect(b"ready")
    os.write(t.fd, b"\x03")
    assert t.end() == 128 + signal.SIGINT


def test_terminal_with_piped_input(vm):
    r = vm.cairn("exec", "-t", "web1", "--", "sh", "-c", "stty -echo; read x; echo $x; read x || echo end", input="a\n", stdin=None)
    assert r.stdout.replace("\r", "").endswith("a\nend\n")


def test_variable_replaces_term(vm):
    env = {**vm.env, "TERM": "vt220"}
    r = subprocess.run([os.path.join(BUILD, "cairn"), "exec", "-t", "-e", "TERM=dumb", "web1", "--", "env"], env=env, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, text=True, check=True)
    assert [line for line in r.stdout.splitlines() if line.startswith("TERM=")] == ["TERM=dumb"]


def test_ignored_signal_stays_ignored(vm):
    """As with nohup."""
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", os.path.join(BUILD, "cairn"), "exec", "web1", "--"]
    with subprocess.Popen([*command, "sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done"], env=vm.env,
                          stdout=subprocess.PIPE) as p:
        assert p.stdout.readline() == b"ready\n"
        p.send_signal(signal.SIGHUP)
        p.send_signal(signal.SIGTERM)
        assert p.wait(50) == 3


def test_signal_ends_it_though_nobody_reads_its_output(vm):
    """The first signal may still go to the program."""
    p = spawn(vm, "web1", "--", "sh", "-c", "trap '' TERM; yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until(lambda: struct.unpack("i", fcntl.ioctl(p.stdout, termios.FIONREAD, bytes(4)))[0] >= 65536 - 4096)
    until(lambda: p.poll() is not None or p.send_signal(signal.SIGTERM))
    assert p.returncode == 125 and b"waited for the reader of the program's output" in p.stderr.read()
    p.stdout.close()
    p.stderr.close()


def test_reader_that_closes_its_pipe_ends_the_program_without_an_error(vm):
    """As `cairn exec web1 -- yes | head` does."""
    p = spawn(vm, "web1", "--", "yes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert p.stdout.readline() == b"y\n"
    p.stdout.close()
    assert p.wait(50) == 128 + signal.SIGPIPE and p.stderr.read() == b""
    p.stderr.close()


def test_agent_is_chosen(vm):
    """Without cairn-agent, QEMU's agent is asked; and the errors say which one is missing."""
    vm.define("plain")
    vm.cairn("start", "plain")
    vm.define("vsock", vsock=True)
    vm.cairn("start", "vsock")
    assert "the guest agent did not answer" in vm.cairn("exec", "plain", "--", "true", ok=125).stderr
    assert '"vsock": true' in vm.cairn("exec", "--agent", "cairn", "plain", "--", "true", ok=125).stderr
    assert '"vsock": true' in vm.cairn("exec", "-t", "plain", "--", "true", ok=125).stderr
    assert "nothing in the guest listens on vsock port 522" in vm.cairn("exec", "--agent", "cairn", "vsock", "--", "true", ok=125).stderr
    neither = "cairn-agent: nothing in the guest listens on vsock port 522; QEMU's agent: the guest agent did not answer"
    assert neither in vm.cairn("exec", "vsock", "--", "true", ok=125).stderr
    assert neither in vm.cairn("cp", "vsock:/etc/passwd", "here", ok=False).stderr
    assert "--tty needs cairn-agent" in vm.cairn("exec", "-t", "--agent", "qga", "web1", "--", "true", ok=2).stderr
    assert "the guest agent did not answer" in vm.cairn("exec", "--agent", "qga", "web1", "--", "true", ok=125).stderr


def test_without_either_agent_the_error_says_what_cairn_agent_needs(daemon, kvm, guest):
    daemon.define("bare", boot={"kernel": guest("interp.elf")})
    daemon.cairn("start", "bare")
    assert '"vsock": true' in daemon.cairn("exec", "bare", "--", "true", ok=125).stderr
    assert '"vsock": true' in daemon.cairn("cp", "bare:/etc/passwd", "here", ok=False).stderr
    assert '"guest_agent": true' in daemon.cairn("exec", "--agent", "qga", "bare", "--", "true", ok=125).stderr
    assert '"guest_agent": true' in daemon.cairn("cp", "--agent", "qga", "bare:/etc/passwd", "here", ok=False).stderr


# ---- bad guests ----

def frame(kind, data=b""):
    return struct.pack("<II", kind, len(data)) + data


HELLO = frame(1, b"cairn-agent 1\n")
STARTED = HELLO + frame(3, b"\1\0\0\0")
GARBAGE = {
    "another program": b"SSH-2.0-OpenSSH_9.2\r\n" * 10,
    "another version": frame(1, b"cairn-agent 2\n"),
    "no hello": frame(3, b"\1\0\0\0"),
    "exit before start": HELLO + frame(11, bytes(8)),
    "started twice": STARTED + frame(3, bytes(4)),
    "a frame of the host": STARTED + frame(5, b"x"),
    "an unknown frame": STARTED + frame(12, b"x"),
    "too long": STARTED + struct.pack("<II", 6, 65537),
    "4 GiB": STARTED + struct.pack("<II", 6, 0xffffffff),
    "empty output": STARTED + frame(6),
    "reserved bytes": STARTED + struct.pack("<II", 0x106, 1) + b"x",
    "taken more than was sent": STARTED + frame(8, b"\1\0\0\0"),
    "status 256": STARTED + frame(11, struct.pack("<II", 256, 0)),
    "signal 128": STARTED + frame(11, struct.pack("<II", 0, 128)),
    "failed without an error": HELLO + frame(4, struct.pack("<II", 0, 4)),
}


@pytest.fixture
def liar(fake):
    """A VM whose agent sends the file `says`, and then nothing."""
    program = fake.tmp / "liar"
    program.write_text(f'#!/bin/bash\ncat {fake.tmp}/says >&$2\n[ -e {fake.tmp}/ends ] || exec cat <&$2 >/dev/null\n')
    program.chmod(0o755)
    fake.define("web1", cmdline=f'cairn-agent="{program}"', vsock=True)
    fake.cairn("start", "web1")
    return fake


def test_garbage_ends_in_a_sentence(liar):
    (liar.tmp / "ends").touch()
    for name, says in GARBAGE.items():
        (liar.tmp / "says").write_bytes(says)
        assert "is no cairn-agent, or sent a malformed answer" in liar.cairn("exec", "web1", "--", "true", ok=125).stderr, name


def test_terminal_has_no_standard_error(liar):
    (liar.tmp / "says").write_bytes(STARTED + frame(7, b"x"))
    (liar.tmp / "ends").touch()
    assert "malformed answer" in liar.cairn("exec", "-t", "web1", "--", "true", ok=125).stderr


def test_end_of_the_agent_is_told(liar):
    (liar.tmp / "ends").touch()
    for says in (b"", HELLO, STARTED + frame(6, b"part")[:-2]):
        (liar.tmp / "says").write_bytes(says)
        assert "the connection to the guest ended before the program" in liar.cairn("exec", "web1", "--", "true", ok=125).stderr


def test_silent_agent_ends_with_the_time_limit(liar):
    (liar.tmp / "says").write_bytes(HELLO)
    assert "time limit" in liar.cairn("exec", "--timeout", "0.3", "web1", "--", "true", ok=124).stderr


def test_missing_runuser_is_named(liar):
    (liar.tmp / "says").write_bytes(HELLO + frame(4, struct.pack("<II", 2, 4)))
    assert "runuser: No such file" in liar.cairn("exec", "-u", "x", "web1", "--", "true", ok=127).stderr
    assert "true: No such file" in liar.cairn("exec", "web1", "--", "true", ok=127).stderr


def test_busy_agent_is_named(liar):
    (liar.tmp / "says").write_bytes(HELLO + frame(4, struct.pack("<II", 87, 1)))
    assert "cairn-agent in the guest is busy" in liar.cairn("exec", "web1", "--", "true", ok=125).stderr
    (liar.tmp / "file").write_text("x")
    r = liar.cairn("cp", str(liar.tmp / "file"), "web1:/tmp/file", ok=None)
    assert r.returncode and "cairn-agent in the guest is busy" in r.stderr, r


def test_control_characters_reach_no_terminal(vm):
    """This holds for controls that come in two pieces, and for bytes that a terminal without UTF-8 obeys. A program
    with a terminal of its own may send them."""
    master, slave = pty.openpty()
    p = spawn(vm, "web1", "--", "sh", "-c", "printf 'a\\033[2Jb\\302'; sleep 0.1; printf '\\233x\\233\\303\\251\\n'", stdout=slave)
    os.close(slave)
    text = b""
    with contextlib.suppress(OSError):
        while part := os.read(master, 4096):
            text += part
    os.close(master)
    assert p.wait() == 0
    assert text.startswith(b"a?[2Jb") and b"\x9b" not in text and text.endswith("x?\u00e9\r\n".encode())
    assert "\033[2J" in vm.cairn("exec", "-t", "web1", "--", "printf", "\\033[2J").stdout


# ---- without a daemon ----

def test_run_with_the_agent_needs_an_initramfs_and_vsock(tmp_path, guest):
    definition = {"name": "x", "memory": "32M", "boot": {"kernel": guest("interp.elf")}}
    for more, why in (({}, '"boot.initrd"'), ({"boot": {**definition["boot"], "initrd": guest("interp.elf")}}, '"vsock"')):
        (tmp_path / "x.json").write_text(json.dumps({**definition, **more}))
        r = subprocess.run([os.path.join(BUILD, "cairn"), "run", "--agent", tmp_path / "x.json"], stderr=subprocess.PIPE, text=True, check=False)
        assert r.returncode == 2 and f"needs {why}" in r.stderr


def test_path_of_a_socket_in_place_of_a_name(tmp_path):
    """A socket that says OK as the vsock device does, and then speaks as the agent."""
    def exec_there(*args):
        return subprocess.run([os.path.join(BUILD, "cairn"), "exec", *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
    path = str(tmp_path / "s")
    r = exec_there(path, "--", "true")
    assert r.returncode == 125 and "No such file" in r.stderr
    for answer in (b"", b"NO 1\n", b"OK 1\n"):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            with subprocess.Popen([os.path.join(BUILD, "cairn"), "exec", path, "--", "echo", "there"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as p:
                peer, _ = listener.accept()
                with peer:
                    line = b"CONNECT 522\n"
                    assert peer.recv(len(line), socket.MSG_WAITALL) == line
                    # The request to start the program is there already.
                    assert peer.recv(1, socket.MSG_PEEK) == b"\2"
                    peer.sendall(answer)
                    if answer.startswith(b"OK"):
                        subprocess.run([AGENT, "--fd", str(peer.fileno())], pass_fds=[peer.fileno()], check=True)
                out, err = p.communicate(timeout=50)
        os.unlink(path)
        if answer.startswith(b"OK"):
            assert out == b"there\n" and p.returncode == 0
        else:
            assert b"nothing in the guest listens on vsock port 522" in err and p.returncode == 125
