"""soak: several users of one daemon at once, each with random requests and a model. Between rounds, the daemon's
figures must be flat."""

import contextlib
import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import guestlib
from conftest import BUILD, Daemon, until
from figures import LEAK_MAX, TABLES_FULL, Figures, vm_growth
from user import Difference, User

ROUND = 12  # steps of each user
ROUNDS = 20  # before the users undefine all their VMs, and the daemon must be as at the begin
PROGRAMS = ("cairn", "cairn-img")
HELPERS = ("cairn-archive", "cairn-slirp")  # that run with a user's rights
FLAT_SECONDS = 60 * guestlib.SLOW  # helper threads and processes of the last request end a moment after it


class Failure(Exception):
    """The run has failed; the text is the report."""


class Link:
    """JSON lines between the run and a user's process."""

    def __init__(self, sock):
        self.file = sock.makefile("rw", buffering=1)
        sock.close()

    def say(self, value):
        print(json.dumps(value), file=self.file)

    def hear(self):
        line = self.file.readline()
        return json.loads(line) if line else None


def serve(user, link):
    """Do what the run orders, until it hangs up."""
    while order := link.hear():
        try:
            for _ in range(order.get("steps", 0)):
                user.step()
            if "sweep" in order:
                user.sweep()
            link.say({"done": user.done, "refused": user.refused})
        except Exception as e:
            text = str(e) if isinstance(e, Difference) else traceback.format_exc()
            link.say({"failure": text, "done": user.done, "last": list(user.last)})


class Process:
    """A user's process."""

    def __init__(self, run, name, uid, gid):
        self.name, (ours, theirs) = name, socket.socketpair()
        folder = run.folder / name
        folder.mkdir(mode=0o755)
        for program in PROGRAMS:
            shutil.copy(os.path.join(BUILD, program), folder)
        shutil.copy(guestlib.bare("interp"), folder)
        os.chown(folder, uid, gid)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            self.become(uid, gid, theirs, run, folder)
        theirs.close()
        self.link = Link(ours)

    def become(self, uid, gid, sock, run, folder):
        try:
            signal.alarm(0)
            if uid != os.geteuid():
                os.setgroups([])
                os.setgid(gid)
                os.setuid(uid)
            link = Link(sock)

            def ask(what):
                link.say({"ask": what})
                link.hear()
            serve(User(self.name, run.seed, folder, run.daemon.socket, ask, run.hits), link)
        except BaseException:
            traceback.print_exc()
        os._exit(0)

    def answer(self, run):
        """Return the process's report, after doing what it asks for."""
        while (said := self.link.hear()) and "ask" in said:
            if "hit" in said["ask"]:
                run.hits.after(said["ask"]["hit"])
            else:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(said["ask"]["kill"], signal.SIGKILL)
            self.link.say({"ok": True})
        return said or {"failure": "the user's process has ended", "done": 0, "last": []}

    def end(self):
        self.link.file.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Hits:
    """Kills of the daemon while it works on requests. A file tells the users how many have begun and ended."""

    def __init__(self, folder):
        self.path, self.lock, self.threads = folder / "hits", threading.Lock(), []
        self.begun = self.ended = 0
        self.restart, self.failure, self.slowest = None, None, 0
        self.write()

    def write(self):
        new = self.path.with_suffix(".new")
        new.write_text(f"{self.begun} {self.ended}")
        os.chmod(new, 0o644)
        new.rename(self.path)

    def read(self):
        """Return (begun, ended)."""
        return tuple(map(int, self.path.read_text().split()))

    def after(self, seconds):
        t = threading.Thread(target=self.hit, args=(seconds,))
        self.threads.append(t)
        t.start()

    def hit(self, seconds):
        time.sleep(seconds)
        with self.lock:
            try:
                self.begun += 1
                self.write()
                begin = time.monotonic()
                self.restart()
                self.slowest = max(self.slowest, time.monotonic() - begin)
                self.ended += 1
                self.write()
            except BaseException as e:
                self.failure = e

    def wait(self):
        while self.threads:
            self.threads.pop().join()
        if self.failure:
            raise Failure(f"the daemon did not start again: {self.failure}")


class Run:
    """A daemon of the caller with some users: the caller, and as root two others, who get the role admin. hits: part of
    the requests during which the daemon is killed."""

    def __init__(self, seed, hits=0, kills=True):
        others = [] if os.geteuid() else [pwd.getpwnam(name) for name in ("nobody", "daemon")]
        self.seed, self.stack, self.done, self.refused = seed, contextlib.ExitStack(), 0, 0
        self.folder = pathlib.Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="cairn-soak-")))
        os.chmod(self.folder, 0o711)
        self.hits = Hits(self.folder)
        self.hits.share, self.kills, self.full_rss = hits, kills, 0
        libexec = self.folder / "libexec"
        libexec.mkdir()
        for helper in HELPERS:
            shutil.copy(os.path.join(BUILD, helper), libexec)
        self.daemon = Daemon(self.folder, env={"CAIRN_LIBEXEC": str(libexec)})
        self.stack.callback(self.daemon.close)
        self.hits.restart = self.restart
        for other in others:
            self.daemon.cairn("grant", "--user", other.pw_name, "admin")
        self.users = []
        # The caller may have no account, as in a container.
        for account in [("caller", os.geteuid(), os.getegid())] + [(o.pw_name, o.pw_uid, o.pw_gid) for o in others]:
            self.users.append(Process(self, *account))
            self.stack.callback(self.users[-1].end)
        self.first = Figures(self.daemon)

    def order(self, **what):
        """Have all users do this at once, and wait for them."""
        for user in self.users:
            user.link.say(what)
        with ThreadPoolExecutor(len(self.users)) as pool:
            said = dict(zip([u.name for u in self.users], pool.map(lambda u: u.answer(self), self.users)))
        self.hits.wait()
        bad = {name: s for name, s in said.items() if "failure" in s}
        if bad:
            raise Failure("\n".join(self.report(name, s) for name, s in bad.items()))
        self.done, self.refused = (sum(s[k] for s in said.values()) for k in ("done", "refused"))

    def sweep(self):
        """Have all users undefine their VMs. Then the daemon has what it had at the begin."""
        self.order(sweep=True)
        end = time.monotonic() + FLAT_SECONDS
        while growth := (figures := Figures(self.daemon)).growth(self.first):
            if time.monotonic() > end:
                raise Failure(f"seed {self.seed}, after {self.done} operations and without VMs:\n" + "\n".join(growth))
            time.sleep(0.05)
        if not self.kills and self.done >= TABLES_FULL:
            self.full_rss = self.full_rss or figures.rss
            if figures.rss > self.full_rss + LEAK_MAX:
                raise Failure(f"seed {self.seed}: after {self.done} operations the daemon takes {figures.rss >> 10} KiB, "
                              f"and {self.full_rss >> 10} KiB after {TABLES_FULL}")
        return figures

    def look_at_vms(self):
        """Check what each VM's process has of the host."""
        q = self.daemon.qmp()
        for vm in q.run("vm-list")["vms"]:
            pid = q.run("vm-info", vm=vm["name"]).get("pid")
            growth = vm_growth(pid) if pid else []
            if growth:
                raise Failure(f"seed {self.seed}, after {self.done} operations, VM {vm['name']}:\n" + "\n".join(growth))
        q.close()

    def go(self, goes_on, say=print):
        """Make rounds while goes_on(steps of each user)."""
        steps, rounds = 0, 0
        while goes_on(steps):
            self.order(steps=ROUND)
            steps, rounds = steps + ROUND, rounds + 1
            if rounds % ROUNDS == 0:
                figures = self.sweep()
                hits = f", {self.hits.ended} kills of the daemon during requests (slowest restart {self.hits.slowest:.1f} s)"
                say(f"{self.done} operations, {self.refused} of them refused as the model says{hits if self.hits.share else ''}; {figures}")
            elif rounds % 2 == 1 and self.kills:
                self.kill_daemon()
            else:
                self.look_at_vms()
        self.sweep()

    def states_are_stored(self):
        q = self.daemon.qmp()
        vms = q.run("vm-list")["vms"]
        q.close()
        return all(self.daemon.kept(vm["name"]).get("state", "shutoff") == vm["word"] for vm in vms)

    def kill_daemon(self):
        # The daemon answers a shutdown before it has stored the VM's state, and no VM process can tell the next daemon.
        until(self.states_are_stored)
        self.restart()

    def restart(self):
        self.daemon.stop(signal.SIGKILL)
        self.daemon.start()

    def report(self, name, said):
        last = "\n".join("  " + line for line in said["last"])
        return f"seed {self.seed}, user {name}, operation {said['done']}; the last ones:\n{last}\n{said['failure']}"

    def keep(self, folder):
        """Copy what a failure left: the daemon's log and its state folder."""
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.daemon.state, folder / "state", ignore=lambda at, names: [n for n in names if n.endswith(".sock")],
                        ignore_dangling_symlinks=True)
        shutil.copy(self.daemon.log, folder)

    def close(self):
        self.stack.close()
