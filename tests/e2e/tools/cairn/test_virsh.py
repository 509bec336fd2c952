"""Commands for virsh from libvirt's documentation and blogs, run as a session: the same output, except ids, times
and virsh's extra empty line."""

import os
import re
import shlex
import subprocess

import guestlib
from conftest import BUILD, ROOT, Console, until

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
DEFINED = "Domain 'vm1' defined from FOLDER/vm1.xml\n"
STARTED = "Domain 'vm1' started\n"

# A command line and its output; <<...>> is a regular expression.
SESSION = [
    ("define FOLDER/vm1.xml", DEFINED),
    ("list --all", " Id   Name   State\n-----------------------\n -    vm1    shut off\n\n"),
    ("start vm1", STARTED),
    ("list", " Id   Name   State\n<<-+>>\n 1    vm1    running\n\n"),
    ("domstate vm1", "running\n"),
    ("domid vm1", "1\n"), ("domuuid --domain vm1", "7f0f3f5a-0f57-4a0c-9b1c-0c5a2d1f6d3e\n"),
    ("domname 7f0f3f5a-0f57-4a0c-9b1c-0c5a2d1f6d3e", "vm1\n"),
    ("dominfo vm1", "Id:             1\nName:           vm1\nUUID:           7f0f3f5a-0f57-4a0c-9b1c-0c5a2d1f6d3e\n"
     "OS Type:        hvm\nState:          running\nCPU(s):         2\nCPU time:       <<\\d+.\\d>>s\n"
     "Max memory:     65536 KiB\nUsed memory:    65536 KiB\nPersistent:     yes\nAutostart:      disable\n"
     "Managed save:   no\nMachine type:   cairn-7\n\n"),
    ("snapshot-create-as --domain vm1 --name fresh --description \"Right after the installation\"",
     "Domain snapshot fresh created\n"),
    ("snapshot-create-as vm1 patched \"All updates\"", "Domain snapshot patched created\n"),
    ("snapshot-list vm1", f" Name      Creation Time               State\n<<-+>>\n fresh     <<{TIME}>>   running\n"
     f" patched   <<{TIME}>>   running\n\n"),
    ("snapshot-list vm1 --tree", "fresh\n  |\n  +- patched\n    \n"),
    ("snapshot-list --domain vm1 --name", "fresh\npatched\n"),
    ("snapshot-list vm1 --metadata --internal --active --name", "fresh\npatched\n"),
    ("snapshot-create-as vm1 files --disk-only --atomic", "Domain snapshot files created\n"),
    ("snapshot-list vm1 --inactive --name", "files\n"),
    ("snapshot-delete vm1 files", "Domain snapshot files deleted\n"),
    ("snapshot-revert vm1 patched", "Domain snapshot patched reverted\n"),
    ("snapshot-info vm1 --current", "Name:           patched\nDomain:         vm1\nCurrent:        yes\n"
     "State:          running\nLocation:       internal\nParent:         fresh\nChildren:       0\n"
     "Descendants:    0\nMetadata:       yes\n<<(?:.+\n)*>>\n"),
    ("snapshot-info --domain vm1 --snapshotname fresh", "Name:           fresh\nDomain:         vm1\n"
     "Current:        no\nState:          running\nLocation:       internal\nParent:         -\n"
     "Children:       1\nDescendants:    1\nMetadata:       yes\n<<(?:.+\n)*>>\n"),
    ("snapshot-dumpxml vm1 patched", "<domainsnapshot>\n  <name>patched</name>\n  <description>All updates</description>\n  <state>running</state>\n"
     "  <parent>\n    <name>fresh</name>\n  </parent>\n  <creationTime><<\\d{10}>></creationTime>\n  <memory snapshot='internal'/>\n</domainsnapshot>\n\n"),
    ("snapshot-current vm1 --name", "patched\n"),
    ("snapshot-revert vm1 fresh", "Domain snapshot fresh reverted\n"),
    ("snapshot-revert --domain vm1 --snapshotname patched --running", "Domain snapshot patched reverted\n"),
    ("snapshot-delete vm1 patched", "Domain snapshot patched deleted\n"),
    ("suspend vm1", "Domain 'vm1' suspended\n"),
    ("domstate vm1 --reason", "paused (user)\n"),
    ("resume vm1", "Domain 'vm1' resumed\n"),
    ("managedsave vm1", "Domain 'vm1' state saved by cairn\n"),
    ("start vm1", STARTED),
    ("autostart vm1", "Domain 'vm1' marked as autostarted\n"),
    ("list --all --autostart", " Id   Name   State\n<<-+>>\n 2    vm1    running\n\n"),
    ("autostart --disable vm1", "Domain 'vm1' unmarked as autostarted\n"),
    ("reboot vm1", "Domain 'vm1' is being rebooted\n"),
    ("snapshot-delete --domain vm1 --snapshotname fresh", "Domain snapshot fresh deleted\n"),
    ("shutdown vm1", "Domain 'vm1' is being shutdown\n"),
    ("start vm1", STARTED),
    ("destroy vm1", "Domain 'vm1' destroyed\n"),
    ("undefine --domain vm1 --remove-all-storage", "Domain 'vm1' has been undefined\n"
     "Volume 'vda'(FOLDER/vm1.qcow2) removed.\n"),
    ("list --all", " Id   Name   State\n--------------------\n\n"),
]


def prepare(daemon):
    """vm1 as virt-manager would define it, with a qcow2 disk. Its guest powers off at the power button."""
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-f", "qcow2", daemon.tmp / "vm1.qcow2", "16M"],
                   check=True, stdout=subprocess.DEVNULL)
    with open(os.path.join(ROOT, "tests", "data", "xml", "virt-manager.xml")) as f:
        text = f.read().replace("@KERNEL@", guestlib.bare("idle")).replace("debian12", "vm1")
    text = re.sub("<disk type='file' device='cdrom'>.*?</disk>", "", text, flags=re.S)
    text = text.replace("<source network='default'/>", "<source network='default'/><link state='down'/>")  # there is none
    (daemon.tmp / "vm1.xml").write_text(text.replace("@DISK@", str(daemon.tmp / "vm1.qcow2"))
                                        .replace("type='raw' discard", "type='qcow2' discard"))


def fits(want, got):
    parts = re.split("<<(.*?)>>", want, flags=re.S)
    return re.fullmatch("".join(f"(?:{p})" if i % 2 else re.escape(p) for i, p in enumerate(parts)), got)


def up(daemon):
    """Before that it ignores the power button."""
    console = Console(daemon, "vm1")
    while console.line() != "idle":
        pass
    console.close()


def settled(daemon, line, before):
    """Wait for commands that take the guest time. before: the VM's run before the line."""
    verb = line.split()[0]
    if verb == "shutdown":
        daemon.wait("vm1", "shutoff")
    elif verb == "reboot":
        until(lambda: daemon.info("vm1")["id"] > before and
              daemon.info("vm1")["state"] == "running")
        up(daemon)
    elif verb == "start" and daemon.info("vm1")["reason"] == "booted":
        up(daemon)


def test_documented_virsh_session_prints_the_same(kvm, daemon):
    prepare(daemon)
    for line, want in SESSION:
        before = daemon.info("vm1")["id"] if line.startswith("reboot") else None
        r = daemon.cairn(*shlex.split(line.replace("FOLDER", str(daemon.tmp))))
        said = re.sub(r"The VM .*, since userfaultfd is not available .*\n", "", r.stdout)
        assert fits(want.replace("FOLDER", str(daemon.tmp)), said), f"{line}\n{r.stdout}{want}"
        assert not re.sub("^warning: .*\n", "", r.stderr, flags=re.M), line
        settled(daemon, line, before)
    assert not (daemon.tmp / "vm1.qcow2").exists()


def test_dumpxml_output_can_be_defined(kvm, daemon):
    """By a pipe, by /dev/stdin, by a file; under another name it is another VM."""
    prepare(daemon)
    daemon.cairn("define", str(daemon.tmp / "vm1.xml"))
    cairn, env = os.path.join(BUILD, "cairn"), daemon.env
    before = daemon.cairn("dumpjson", "vm1").stdout
    for line in ("'{0}' dumpxml vm1 | '{0}' define /dev/stdin", "'{0}' dumpxml --inactive --domain vm1 | '{0}' define -",
                 "'{0}' dumpxml vm1 --security-info >new.xml && '{0}' define --file new.xml"):
        r = subprocess.run(["sh", "-c", line.format(cairn)], env=env, cwd=daemon.tmp, capture_output=True, text=True)
        assert r.returncode == 0 and r.stdout.startswith("Domain 'vm1' defined from "), r.stderr
        assert daemon.cairn("dumpjson", "vm1").stdout == before
    line = ("'{0}' dumpxml vm1 | sed '/<uuid>/d; /<mac /d; s/vm1</vm2</' | '{0}' define /dev/stdin")
    r = subprocess.run(["sh", "-c", line.format(cairn)], env=env, capture_output=True, text=True)
    assert r.stdout == "Domain 'vm2' defined from /dev/stdin\n", r.stderr
    assert daemon.cairn("list", "--all", "--name").stdout == "vm1\nvm2\n"
