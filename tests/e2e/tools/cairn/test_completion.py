"""Completion of words by Tab, in bash and other shells."""

import os
import pty
import re
import shlex
import shutil
import signal
import subprocess

import pytest

from conftest import BUILD, ROOT, until
from terminallib import read_until


def completions(fake, *words, line=None):
    """Return Tab's completions of the last word. line: what was typed [the words with blanks between them]."""
    script = os.path.join(ROOT, "tools", "completion", f"{words[0]}.bash")
    code = (f"source {shlex.quote(script)}; COMP_WORDS=({' '.join(shlex.quote(w) for w in words)}); COMP_LINE={shlex.quote(line or ' '.join(words))}; "
            f"COMP_CWORD={len(words) - 1}; _{words[0].replace('-', '_')}; printf '%s\\n' \"${{COMPREPLY[@]}}\"")
    r = subprocess.run(["bash", "-c", code], text=True, capture_output=True, cwd=fake.tmp,
                       env={**fake.env, "PATH": BUILD + ":" + os.environ["PATH"]})
    assert r.stderr == ""
    return r.stdout.split("\n")[:-1]


def test_completion_of_cairn_img(fake):
    open(os.path.join(fake.tmp, "disk 1.qcow2"), "w").close()

    def complete(line):
        return set(completions(fake, *("cairn-img " + line).split(" "))) - {""}

    assert complete("re") == {"resize", "rebase"} == complete("help re")
    assert complete("help convert ") == set() == complete("nothing --")
    assert complete("convert --sa") == {"--salvage"} and "-f" in complete("commit -")
    assert complete("resize --preallocation = f") == {"falloc", "full"}
    assert complete("check -r ") == {"leaks", "all"} and complete("convert -O q") == {"qcow2"} and complete("map --output ") == {"human", "json"}
    assert complete("create -o cluster") == {"cluster_size="}
    assert complete("info di") == {"disk 1.qcow2"}


def test_completion_offers_matching_words(fake):
    fake.define("web1")
    fake.define("web2")

    def complete(line):
        """Split the line as the shell does, at blanks and at the characters of COMP_WORDBREAKS."""
        return set(completions(fake, *(w for part in line.split(" ") for w in re.split("([=:@])", part) if w or not part), line=line)) - {""}

    assert complete("cairn st") == {"start"}
    assert complete("cairn start ") == {"web1", "web2"}
    assert complete("cairn start web1 --pau") == {"--paused"}
    # Values of an option, however the shell splits it.
    for line in ("shutdown web1 --mode a", "shutdown web1 --mode=a"):
        assert complete("cairn " + line) == {"acpi", "agent"}
    assert complete("cairn shutdown web1 --mode=") == {"acpi", "agent"}
    assert complete("cairn shutdown web1 --then ") == {"leave", "destroy", "save"}
    assert complete("cairn list --format ") == {"table", "json", "yaml", "csv"}
    assert complete("cairn edit web1 --format ") == {"json", "xml"}
    assert complete("cairn wait web1 --for ") == {"running", "paused", "shutoff", "crashed", "agent", "ip"}
    assert complete("cairn event --event VM_") == {"VM_STATE_CHANGE", "VM_DEFINED", "VM_UNDEFINED"}
    # VMs for which the verb is possible.
    fake.cairn("start", "web2")
    assert complete("cairn start ") == {"web1"}
    assert complete("cairn suspend --domain ") == {"web2"}
    assert complete("cairn dominfo ") == {"web1", "web2"}
    fake.cairn("destroy", "web2")
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("web1", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("snapshot-create-as", "web1", "before")
    assert complete("cairn snapshot-revert ") == {"web1", "web2"}
    assert complete("cairn snapshot-revert web1 ") == {"before"}
    assert complete("cairn snapshot-delete web1 --snapshotname b") == {"before"}
    assert complete("cairn detach-disk web1 ") == {"vda"}
    # An option's value is neither a positional nor completed as a VM's name.
    for line in ("--disk vda", "--disk=vda", "--disks-only --disk vda", "--disks-only --format json --eager"):
        assert complete(f"cairn snapshot-revert {line} ") == {"web1", "web2"}
        assert complete(f"cairn snapshot-revert {line} web1 ") == {"before"}
        assert complete(f"cairn snapshot-revert web1 {line} ") == {"before"}
    assert complete("cairn snapshot-revert --disk ") == complete("cairn snapshot-revert web1 --disk=") == set()
    assert complete("cairn snapshot-revert --domain web1 ") == {"before"}
    assert complete("cairn snapshot-revert --di") == {"--disk", "--disks-only"}
    assert complete("cairn help dom") == {"dominfo", "domstate", "domid", "domuuid", "domname", "domblkerror", "domblkinfo", "domblklist", "domblkstat", "domiflist", "domifstat", "domif-getlink", "domif-egress", "domif-setlink", "domiftune", "domifaddr", "domrename", "domstats", "domdirtyrate-calc", "dommemstat", "domhostname", "domfsinfo",
                                         "domfstrim", "domfsfreeze", "domfsthaw", "domtime", "domjobinfo", "domjobabort", "domdisplay"}
    assert complete(f"cairn -c {fake.socket} start web2") == {"web2"}
    # Words with characters at which the shell splits.
    fake.cairn("start", "web2")
    assert complete("cairn ssh root@w") == complete("cairn ssh w") == {"web2"} and complete("cairn ssh web2 ") == set()
    assert complete("cairn cp w") == {"web2:", "web1.json", "web2.json"} and complete("cairn cp d") == {"d.raw"} == complete("cairn cp web2:/etc/passwd d")
    assert complete("cairn run --publish 8080:80 --disk=d") == {"d.raw"}


def zsh_offers(fake, *words):
    """Return the words that the completion of zsh would add."""
    typed = " ".join(shlex.quote(w) for w in words)
    code = (f"compadd() {{ print -rl -- \"$words_found[@]\" }}; compset() {{ print -r -- $2 }}; _files() {{ print :files }}; words=({typed}); CURRENT={len(words)}; "
            f"source {shlex.quote(ROOT)}/tools/completion/cairn.zsh")
    return shell_says(fake, "zsh", "-fc", code)


def fish_offers(fake, *words):
    """Return the words that Tab of fish offers, without their descriptions."""
    code = f"source {shlex.quote(ROOT)}/tools/completion/cairn.fish; complete -C {shlex.quote(' '.join(words))}"
    return {line.split("\t")[0] for line in shell_says(fake, "fish", "--no-config", "-c", code)}


def shell_needed(shell):
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")


def shell_says(fake, *command):
    shell_needed(command[0])
    r = subprocess.run(command, text=True, capture_output=True, cwd=fake.tmp,
                       env={**fake.env, "PATH": BUILD + ":" + os.environ["PATH"], "HOME": str(fake.tmp), "TERM": "dumb"})
    assert r.stderr == ""
    return set(r.stdout.splitlines()) - {""}


@pytest.mark.parametrize("offers", [zsh_offers, fish_offers])
def test_completion_of_other_shells(fake, offers):
    fake.define("web1")
    fake.define("web2")
    fake.cairn("start", "web2")
    assert "start" in offers(fake, "cairn", "st")
    assert offers(fake, "cairn", "start", "") == {"web1"}
    assert offers(fake, "cairn", "shutdown", "web2", "--mode", "") == {"acpi", "agent"}
    assert offers(fake, "cairn", "shutdown", "web2", "--mode=") == {"--mode=acpi", "--mode=agent"}
    assert "--paused" in offers(fake, "cairn", "start", "--pau")
    (fake.tmp / "vm.json").write_text("{}")
    assert offers(fake, "cairn", "define", "v") in ({":files", "--*="}, {"vm.json"})
    assert offers(fake, "cairn", "run", "--disk=v") in ({":files", "--*="}, {"--disk=vm.json"})
    assert offers(fake, "cairn", "cp", "w") in ({":files", "--*=", "web2:"}, {"web1.json", "web2.json", "web2:"})


def test_completion_of_what_exists(fake):
    """Words of each kind that an argument may name."""
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    (fake.tmp / "pool").mkdir()
    fake.define("web1", disks=[{"path": "d.raw", "format": "raw"}], interfaces=[{"type": "user"}])
    fake.cairn("schedule", "web1", "shutdown", "--on", "daily", "--name", "night")
    fake.cairn("threshold", "web1", "cpu", "--above", "90", "--name", "busy")
    fake.cairn("pool-define-as", "images", "--target", str(fake.tmp / "pool"))

    def complete(*line):
        return {x.split("\t")[0] for x in fake.cairn("complete", "--", *line).stdout.splitlines()}

    assert complete("schedule-pause", "web1", "") == {"night"} and complete("threshold-remove", "web1", "") == {"busy"}
    assert complete("schedule", "web1", "") == {"start", "shutdown", "reboot", "suspend", "resume", "save", "snapshot", "export"}
    assert complete("threshold", "web1", "") == {"cpu", "memory", "disk-space", "latency", "io-errors", "net"}
    assert fake.cairn("complete", "--", "pool-info", "").stdout == f"images\t{fake.tmp}/pool\n" and complete("vol-create-as", "images", "") == set()
    assert complete("domiftune", "web1", "") == {"net0"} == complete("domif-setlink", "--domain", "web1", "--interface", "")
    assert complete("domif-setlink", "web1", "net0", "") == {"up", "down"}
    assert complete("attach-interface", "web1", "") == {"network", "bridge", "user"} and complete("new", "--firmware", "") == {"bios", "uefi"}
    assert complete("set-lifecycle-action", "web1", "") == {"poweroff", "reboot", "crash"} and "restart" in complete("set-lifecycle-action", "web1", "crash", "")
    assert "add" in complete("net-update", "default", "") and "dns-host" in complete("net-update", "default", "add", "")
    assert complete("domblkstat", "web1", "") == complete("domblkinfo", "web1", "") == {"vda"} and complete("attach-disk", "web1", "x.raw", "") == set()
    assert complete("grant", "") == {"viewer", "guest", "operator", "admin", "owner", "creator"} and "web1" in complete("grant", "viewer", "")
    assert {"root", "nobody"} & complete("grant", "viewer", "--user", "") == {"root"} and "root" in complete("quota", "--group", "")
    assert {"cpu", "rx-bytes"} < complete("trend", "web1", "cpu", "") and complete("domrename", "web1", "") == set()
    assert complete("restore", "") == complete("save", "web1", "") == complete("-c", "") == {":files"}
    assert complete("nothing", "") == complete("list", "") == set() and "list" in complete("-c", "x", "")
    assert {"--quiet", "--readonly"} < complete("-") and "list" in complete("-q", "-r", "")
    assert "VM_STATE_CHANGE" in complete("event", "web1", "") and complete("exec", "web1", "-w", "") == set()


def test_completion_quotes_names_for_shell(fake):
    """A VM's owner chooses its name, and root may press Tab: completions are quoted for the shell, and nothing is
    executed."""
    name = "x $(touch ran) `touch ran` 'y' \"z\" \\ $HOME;&"
    fake.define(name)
    offered = completions(fake, "cairn", "start", "")
    assert [shlex.split(o) for o in offered] == [[name]]
    assert completions(fake, "cairn", "start", "x\\ ") == offered  # as Tab leaves it
    for quote in ("\"", "'"):
        (rest,) = completions(fake, "cairn", "start", quote + "x ")
        said = subprocess.check_output(["bash", "-c", f"printf %s {quote}{rest}{quote}"], cwd=fake.tmp, text=True)
        assert said == name
        assert completions(fake, "cairn", "start", quote + "y") == [""]
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define("plain", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("snapshot-create-as", "plain", "s $(touch ran)")
    assert completions(fake, "cairn", "snapshot-delete", "'plain'", "") == ["s\\ \\$\\(touch\\ ran\\)"]
    assert not (fake.tmp / "ran").exists()


class Shell:
    """An interactive shell on a terminal, with its own completion and that of cairn."""

    def __init__(self, fake, shell):
        shell_needed(shell)
        self.said = fake.tmp / "said"
        bin = fake.tmp / "bin"
        bin.mkdir()
        (bin / "_cairn").symlink_to(os.path.join(ROOT, "tools/completion/cairn.zsh"))  # as `make install` names it
        (bin / "cairn").write_text(f"""#!/bin/sh
[ "$1" != complete ] || exec {shlex.quote(BUILD)}/cairn "$@"
printf '%s\\0' "$@" >{shlex.quote(str(self.said))}.new
mv {shlex.quote(str(self.said))}.new {shlex.quote(str(self.said))}
""")
        (bin / "cairn").chmod(0o755)
        (bin / ".zshrc").write_text("PROMPT='ready> '; fpath=($ZDOTDIR $fpath); autoload -U compinit; compinit -D -u\n")
        fish = f"source {shlex.quote(ROOT)}/tools/completion/cairn.fish; function fish_prompt; echo -n 'ready> '; end; set fish_greeting"
        args = {"zsh": ["zsh", "-d", "-i"], "fish": ["fish", "--no-config", "-i", "-C", fish]}[shell]
        env = {**fake.env, "PATH": f"{bin}:{os.environ['PATH']}", "HOME": str(fake.tmp), "ZDOTDIR": str(bin), "TERM": "xterm"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.chdir(fake.tmp)
            os.execvpe(args[0], args, env)
        read_until(self.fd, b"ready> ")

    def runs(self, typed):
        """Type a line and Enter. Return the arguments of the cairn that the shell runs."""
        os.write(self.fd, typed.encode() + b"\r")
        until(self.said.exists)
        words = self.said.read_text().split("\0")[:-1]
        self.said.unlink()
        read_until(self.fd, b"ready> ")
        return words

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_tab_in_a_real_shell(fake, shell):
    """What Tab inserts reaches cairn as one word, with blanks, quotes and dollar signs, and runs nothing."""
    name = "x $(touch ran) `touch ran` 'y' \"z\" \\ $HOME;&"
    (fake.tmp / "d.raw").write_bytes(bytes(1 << 20))
    fake.define(name)
    fake.define("web1", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("snapshot-create-as", "web1", "it's $(touch ran)")
    fake.cairn("start", "web1")
    (fake.tmp / "vm $1.json").write_text("{}")
    s = Shell(fake, shell)
    try:
        assert s.runs("cairn start x\t") == ["start", name]
        assert s.runs("cairn start 'x\t") == ["start", name] == s.runs('cairn start "x\t')
        assert s.runs("cairn start --pau\tx\t") == ["start", "--paused", name]
        assert s.runs("cairn shutdown 'web1' --mode=ac\t") == ["shutdown", "web1", "--mode=acpi"]
        assert s.runs("cairn snapshot-delete we\tit\t") == ["snapshot-delete", "web1", "it's $(touch ran)"]
        assert s.runs("cairn define v\t") == ["define", "vm $1.json"]
        assert s.runs("cairn run --disk=v\t") == ["run", "--disk=vm $1.json"]
        (fake.tmp / "web1.json").unlink()  # cp takes files, too
        assert s.runs("cairn cp w\t/etc/hosts .") == ["cp", "web1:/etc/hosts", "."]
    finally:
        s.close()
    assert not (fake.tmp / "ran").exists()
