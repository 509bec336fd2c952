"""cairn console on a terminal, in a pipe and in scripts."""

import os
import select
import signal
import subprocess

from conftest import BUILD
from terminallib import read_until, terminal


def test_console_connects_terminal_to_guest(fake):
    fake.define("vm1")
    fake.cairn("console", "vm1", ok=4)
    fake.cairn("start", "vm1")
    pid, fd = terminal(fake, "console", "vm1")
    read_until(fd, b"fake guest")  # output from before the attach
    os.write(fd, b"\x03abc\r")  # Ctrl-C goes to the guest
    assert b"\x03abc\r" in read_until(fd, b"abc\r")
    os.write(fd, b"\x1dnot sent")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    assert fake.info("vm1")["state"] == "running"


def write_all(fd, data, seconds=50):
    """Write to a terminal or pipe, and fail when its reader takes nothing for so long."""
    os.set_blocking(fd, False)
    while data:
        assert select.select([], [fd], [], seconds)[1], f"{len(data)} bytes are not read"
        try:
            data = data[os.write(fd, data):]
        except BlockingIOError:
            pass
    os.set_blocking(fd, True)


# More than fits into the sockets and pipes between a terminal and a guest.
PASTED = b"x" * 1023 * 1024


def test_console_detaches_from_guest_that_does_not_read(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    vm = fake.info("vm1")["pid"]
    pid, fd = terminal(fake, "console", "vm1")
    read_until(fd, b"fake guest")
    os.kill(vm, signal.SIGSTOP)
    try:
        write_all(fd, PASTED)
        os.write(fd, b"\x1d")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.kill(vm, signal.SIGCONT)
        os.close(fd)


def test_console_ends_by_signal_while_guest_does_not_read(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    vm = fake.info("vm1")["pid"]
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "console", "vm1"], env=fake.env, stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
    try:
        read_until(p.stdout.fileno(), b"fake guest")
        os.kill(vm, signal.SIGSTOP)
        write_all(p.stdin.fileno(), PASTED)
        p.terminate()
        assert p.wait(50) == 0
    finally:
        os.kill(vm, signal.SIGCONT)
        p.kill()
        p.communicate()


def test_console_ends_with_the_vm(fake):
    fake.define("vm1", cmdline=f"off-after=1 when={fake.tmp}/go")
    pid, fd = terminal(fake, "start", "--console", "vm1")
    out = read_until(fd, b"fake guest")
    (fake.tmp / "go").touch()
    assert b"Domain 'vm1' started" in out and b"Escape character is ^]" in out
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    fake.wait("vm1", "shutoff")


def test_start_console_of_short_lived_guest_works(fake):
    fake.define("vm1", cmdline="exit-after=0:0")
    r = fake.cairn("start", "--console", "vm1", ok=None)
    assert r.stdout.startswith("Domain 'vm1' started\n")
    # The guest ends after its console was opened, meanwhile, or before.
    assert (r.returncode == 0 and not r.stderr or r.returncode == 1 and "the VM ended before it answered" in r.stderr or
            r.returncode == 4 and "VM 'vm1' is shut off" in r.stderr), r
    fake.wait("vm1", "shutoff")


def test_console_of_real_vm(daemon, kvm, guest):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True)
    daemon.cairn("start", "vm1")
    pid, fd = terminal(daemon, "console", "vm1")
    read_until(fd, b"interp")
    os.write(fd, b"echo hello\r")
    read_until(fd, b"ok")
    os.write(fd, b"\x1d")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)
    # A late attach sees earlier output.
    pid, fd = terminal(daemon, "console", "vm1")
    assert b"hello" in read_until(fd, b"ok")
    os.write(fd, b"\x1d")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(fd)


def piped_console(daemon, *args, text="", ok=0):
    """The output of a console whose standard input is a pipe with this text."""
    r = subprocess.run([os.path.join(BUILD, "cairn"), "console", *args], env=daemon.env, input=text, text=True,
                       capture_output=True, timeout=50)
    assert r.returncode == ok, r
    return r


def test_piped_console_shows_output_so_far_and_exits(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    piped_console(fake, "vm1", "--until", "fake guest", "--no-input", "--timeout", "45")
    assert "fake guest" in piped_console(fake, "vm1").stdout
    assert fake.info("vm1")["state"] == "running"


def test_console_of_script_sends_input_and_waits_for_text(daemon, kvm, guest):
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, debug_exit=True)
    daemon.cairn("start", "vm1")
    piped_console(daemon, "vm1", "--no-input", "--until", "interp", "--timeout", "45")
    r = piped_console(daemon, "vm1", "--no-history", "--until", "ok", "--timeout", "45", text="cpuid 0 0\r")
    # The end of the line "interp" may come before it.
    assert r.stdout.lstrip("\n").startswith("eax=") and r.stdout.endswith("ok")
    # More input than the guest's side buffers arrives before the console ends.
    piped_console(daemon, "vm1", text="".join(f"wrong {i:050}\r" for i in range(400)) + "cpuid 0x80000000 0\r")
    shown = piped_console(daemon, "vm1", "--until", "eax=0x8000", "--timeout", "45", "--no-input").stdout
    assert shown.count("err") == 400


def test_console_fails_when_text_does_not_appear(fake):
    fake.define("vm1")
    fake.cairn("start", "vm1")
    r = piped_console(fake, "vm1", "--until", "never", "--timeout", "0.2", ok=1)
    assert 'error: timeout: the guest has not written "never"; see cairn domstate --reason vm1' in r.stderr
    assert piped_console(fake, "vm1", "--no-input", "--timeout", "0.2").stderr == ""
    assert "--until needs a text" in piped_console(fake, "vm1", "--until", "", ok=2).stderr
    p = subprocess.Popen([os.path.join(BUILD, "cairn"), "console", "vm1", "--until", "never", "--no-input"], env=fake.env,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read_until(p.stdout.fileno(), b"fake guest")
    fake.cairn("destroy", "vm1")
    assert b'the console ended before the guest wrote "never"' in p.communicate(timeout=50)[1]
    assert p.returncode == 1
