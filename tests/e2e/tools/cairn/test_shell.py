"""The interactive shell: `cairn` on a terminal, and `cairn shell` with lines from a file."""

import os
import pty
import select
import stat
import subprocess
import time

import pytest

from conftest import BUILD

CAIRN = os.path.join(BUILD, "cairn")


def shell(lines, env=None, **more):
    return subprocess.run([CAIRN, "shell"], input=lines, env=env, capture_output=True, text=True, timeout=50, **more)


@pytest.mark.parametrize("line,word", [
    ("'a b'", "a b"), ('"a \\" \\\\ b"', 'a " \\ b'), ("a\\ b", "a b"), ("a'b'\"c\"", "abc"), ("'a;b'", "a;b"), ("''", ""),
    ("a#b", "a#b"), ("  \t a  ", "a")])
def test_words_are_split_as_in_a_shell(line, word):
    assert shell(line + "\n").stderr.splitlines()[0].startswith(f'error: unknown verb "{word}"')


def test_lines_of_a_file_run_in_turn(fake, tmp_path):
    fake.define("vm1")
    (tmp_path / "folder").mkdir()
    r = shell(f"start vm1; domstate vm1  # comment ; list\n\n# comment\ncd {tmp_path}/folder; pwd\nsuspend vm1 ;; domstate vm1\n"
              "domstate vm2\nquit; list\nlist\n", env=fake.env)
    assert r.stdout == f"Domain 'vm1' started\nrunning\n{tmp_path}/folder\nDomain 'vm1' suspended\npaused\n"
    assert "there is no VM 'vm2'" in r.stderr and r.returncode == 3
    r = shell("list 'vm1\ndomstate vm1", env=fake.env)
    assert r.stderr == "error: a quote is not closed\n" and r.stdout == "paused\n" and r.returncode == 0
    assert shell("version \\", env=fake.env).stderr == "error: nothing follows the last \\\n"
    assert "too many words" in shell("x " * 300, env=fake.env).stderr
    r = subprocess.run([CAIRN, "-c", fake.env["CAIRN_SOCKET"], "shell"], input="list --name", capture_output=True, text=True, timeout=50,
                       env={**fake.env, "CAIRN_SOCKET": "/nonexistent"})
    assert r.stdout == "vm1\n"


def test_options_before_the_verb_hold_for_each_line(fake):
    path = fake.write("vm1")
    r = subprocess.run([CAIRN, "-r", "shell"], input=f"define {path}\nlist --all --name", capture_output=True, text=True, timeout=50, env=fake.env)
    assert r.stdout == "" and "-r allows only what changes nothing" in r.stderr and r.returncode == 0
    r = subprocess.run([CAIRN, "--quiet", "-r", "shell"], input="list --all", capture_output=True, text=True, timeout=50, env=fake.env)
    assert (r.returncode, r.stdout, r.stderr) == (0, "", "")
    fake.define("vm1")
    r = subprocess.run([CAIRN, "-q", "shell"], input="start vm1; domstate vm1", capture_output=True, text=True, timeout=50, env=fake.env)
    assert r.stdout == "running\n"


class Terminal:
    """`cairn` without a verb on a terminal. typed() and sees() skip what was shown before."""

    def __init__(self, env):
        self.shown = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execve(CAIRN, ["cairn"], env)

    def sees(self, text, seconds=50):
        end = time.monotonic() + seconds
        while text.encode() not in self.shown:
            assert select.select([self.fd], [], [], max(0, end - time.monotonic()))[0], self.shown
            self.shown += os.read(self.fd, 4096)
        self.shown = self.shown.split(text.encode(), 1)[1]

    def type(self, text, *until):
        os.write(self.fd, text.encode())
        for u in until:
            self.sees(u)

    def end(self):
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self.fd)
        return status


def test_terminal_has_prompt_completion_and_history(fake, tmp_path):
    fake.define("web-one")
    fake.define("other")
    env = {**fake.env, "XDG_CACHE_HOME": str(tmp_path / "cache"), "TERM": "vt100"}
    prompt = "cairn # " if os.geteuid() == 0 else "cairn > "
    t = Terminal(env)
    t.sees(prompt)
    t.type("star\tweb\t--pau\t\r", "Domain 'web-one' started", prompt)
    t.type("set-user-password web-one root secret\r", "error:", prompt)
    t.type("domstate web-one\r", "paused", prompt)
    # libedit sets the terminal up after the prompt: before that, the kernel would take the end of file.
    t.type("dominf\t", "o ")
    t.type("\x15\x04")
    assert t.end() == 0
    history = tmp_path / "cache/cairn/history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "domstate" in history.read_text() and "secret" not in history.read_text()
    # The next shell knows the last line.
    t = Terminal(env)
    t.sees(prompt)
    t.type("\x1b[A\r", "paused", prompt)
    t.type("quit\r")
    assert t.end() == 0


def test_interrupt_ends_the_command_and_not_the_shell(fake):
    fake.define("vm1")
    t = Terminal({**fake.env, "XDG_CACHE_HOME": str(fake.tmp)})
    t.type("events --since 0; domid nothing\r", "event 'VM_DEFINED'")
    t.type("\x03", "there is no VM 'nothing'")
    t.type("quit\r")
    assert t.end() == 3


def test_interrupt_discards_the_line(fake, tmp_path):
    prompt = "cairn # " if os.geteuid() == 0 else "cairn > "
    t = Terminal({**fake.env, "XDG_CACHE_HOME": str(tmp_path), "TERM": "vt100"})
    t.sees(prompt)
    t.type("domid other\r", "there is no VM 'other'", prompt)
    t.type("domid no", "no")
    t.type("\x03", prompt)
    t.type("domid thing\r", "there is no VM 'thing'", prompt)
    t.type("quit\r")
    assert t.end() == 3
    assert "other" in (tmp_path / "cairn/history").read_text()


def test_tab_completes_files_only_where_files_may_stand(fake, tmp_path):
    (tmp_path / "notes.txt").touch()
    fake.define("web1")
    fake.cairn("start", "web1")
    t = Terminal({**fake.env, "XDG_CACHE_HOME": str(tmp_path), "TERM": "vt100"})
    t.type(f"cd {tmp_path}\r")
    t.type("domid n\t\r", "there is no VM 'n'")
    t.type("define n\t\r", "notes.txt is empty")
    t.type("cp we\tx y\r", "such as web1:/tmp/file")
    t.type("quit\r")
    assert t.end() == 2
