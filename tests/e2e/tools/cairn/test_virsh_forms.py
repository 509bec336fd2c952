"""Command lines of virsh whose form differs from Cairn's own: positionals that are options here, other names of
options, and commands in one word. Cairn accepts them, or names its own form."""

import json
import os
import re
import subprocess

import pytest

from clilib import cairn
from conftest import BUILD

MIB = 1 << 20


@pytest.fixture
def pool(fake):
    folder = fake.tmp / "images"
    folder.mkdir()
    # virsh's documented form: source-host, source-path, source-dev, source-name, target
    fake.cairn("pool-define-as", "images", "dir", "-", "-", "-", "-", str(folder))
    return folder


def test_pool_may_follow_the_volume(fake, pool):
    fake.cairn("vol-create-as", "images", "d", "2M", "2M", "raw")
    assert (pool / "d").stat().st_size == 2 * MIB == (pool / "d").stat().st_blocks * 512
    assert fake.cairn("vol-info", "d", "images").stdout == fake.cairn("vol-info", "d", "--pool", "images").stdout
    assert fake.cairn("vol-path", "d", "images").stdout == f"{pool}/d\n" and f"<key>{pool}/d</key>" in fake.cairn("vol-dumpxml", "d", "images").stdout
    fake.cairn("vol-resize", "d", "3M", "images")
    fake.cairn("vol-clone", "d", "c", "images")
    assert (pool / "c").stat().st_size == 3 * MIB
    fake.cairn("vol-download", "c", str(fake.tmp / "out"), "images", "1M", "4096")
    assert (fake.tmp / "out").stat().st_size == 4096
    fake.cairn("vol-upload", "--pool", "images", "c", str(fake.tmp / "out"), "0")
    fake.cairn("vol-delete", "c", "images")
    assert os.listdir(pool) == ["d"]
    assert 'vol-delete does not take "more"' in fake.cairn("vol-delete", "d", "images", "more", ok=2).stderr


def test_name_is_the_word_of_that_name_and_not_the_pool(fake, pool):
    fake.cairn("vol-create-as", "--pool", "images", "--name", "b.qcow2", "--capacity", "1M")
    fake.cairn("vol-create-as", "images", "--name", "zz", "--capacity", "1M")
    assert sorted(os.listdir(pool)) == ["b.qcow2", "zz"]
    fake.cairn("pool-define-as", "--name", "two", "--type", "dir", "--target", str(fake.tmp))
    assert fake.cairn("pool-list", "--name").stdout.split() == ["images", "two"]


@pytest.mark.parametrize("words, says", [
    (["pool-define-as", "p", "dir", "host", "-", "-", "-", "/f"], "a pool is a folder: "),
    (["snapshot-create", "vm1", "snap.xml"], "cairn snapshot-create-as VM NAME DESCRIPTION takes name"),
    (["snapshot-current", "vm1", "s1"], "cairn snapshot-revert VM NAME makes"),
    (["console", "vm1", "serial0"], "--serial or --virtio chooses the console"),
    (["domfsthaw", "vm1", "/mnt"], "leave it out: domfsthaw allows"),
    (["domfstrim", "vm1", "0", "/mnt"], "leave it out: domfstrim trims"),
    (["blockjob", "vm1", "vda", "--async"], "leave --async out: --abort does not wait"),
    (["qemu-agent-command", "vm1", "{}", "--async"], "leave --async out: --timeout SECONDS"),
    (["net-dumpxml", "n", "--xpath", "//x"], "leave it out, and add to the command: | xmllint --xpath EXPRESSION -"),
    (["save-image-edit", "f", "--running"], "cairn restore FILE --running or --paused")])
def test_forms_without_a_place_here_get_advice(words, says):
    r = cairn("-c", "/nonexistent", *words)
    assert r.returncode == 2 and r.stderr.splitlines()[1].startswith("error: ") and says in r.stderr.splitlines()[1], r.stderr


@pytest.mark.parametrize("words", [
    ["detach-interface", "vm1", "network", "52:54:00:00:00:01"], ["attach-interface", "vm1", "user", "", "net5"],
    ["domifaddr", "vm1", "net0", "agent"], ["domifaddr", "--full", "vm1", "net0", "lease"], ["domdirtyrate-calc", "vm1", "1"],
    ["domfsfreeze", "vm1", "/mnt", "/srv"], ["domfstrim", "vm1", "4096"], ["setmem", "vm1", "--kilobytes", "1024"],
    ["snapshot-dumpxml", "vm1", "--snapshotname", "s1"], ["save-image-dumpxml", "--file", "f", "--security-info"],
    ["save-image-define", "--file", "f", "--xml", "x"], ["list --all"], ["event", "--event", "block-threshold"]])
def test_forms_of_virsh_pass_the_check_of_the_command_line(words):
    r = cairn("-c", "/nonexistent", *words)
    assert r.returncode in (1, 3, 7) and "see cairn help" not in r.stderr, r.stderr


def test_word_that_follows_as_an_option_is_checked():
    assert '--source must be agent or lease, not "arp"' in cairn("-c", "/nonexistent", "domifaddr", "vm1", "net0", "arp").stderr


def test_kilobytes_name_the_size(fake):
    fake.define("vm1")
    fake.cairn("setmem", "vm1", "--kilobytes", "131072")
    assert json.loads(fake.cairn("dumpjson", "vm1").stdout)["memory"] == "128M"


def test_snapshots_are_printed_as_by_virsh(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(4096))
    fake.define("vm1", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("snapshot-create-as", "vm1", "s1")
    fake.cairn("snapshot-create-as", "vm1", "s2")
    xml = fake.cairn("snapshot-dumpxml", "vm1", "--snapshotname", "s1").stdout
    assert xml == fake.cairn("snapshot-dumpxml", "vm1", "s1").stdout and "<name>s1</name>" in xml
    assert "needs the name of a snapshot" in fake.cairn("snapshot-dumpxml", "vm1", ok=2).stderr
    # snapshot-current prints the XML, as virsh does.
    assert fake.cairn("snapshot-current", "vm1").stdout == fake.cairn("snapshot-dumpxml", "vm1", "s2").stdout
    assert json.loads(fake.cairn("snapshot-current", "vm1", "--format", "json").stdout)["name"] == "s2"
    assert "--descendants needs --from or --current" in fake.cairn("snapshot-list", "vm1", "--descendants", ok=2).stderr


def test_one_word_may_have_several_commands(fake):
    fake.define("vm1")
    assert fake.cairn("list --all --name").stdout == "vm1\n"
    assert fake.cairn("-q", "list --all --name; domstate vm1 ;domname vm1").stdout == "vm1\nshut off\nvm1\n"
    assert fake.cairn("start 'vm1'").stdout == "Domain 'vm1' started\n"
    assert "unknown verb \"no\"" in fake.cairn("no such verb", ok=2).stderr
    assert "there is no VM 'x'" in fake.cairn("list;domstate x", ok=3).stderr
    assert "-r allows only" in fake.cairn("-r", "destroy vm1", ok=5).stderr
    assert 'unknown verb "list --all"' in fake.cairn("--", "list --all", ok=2).stderr
    r = subprocess.run([os.path.join(BUILD, "cairn"), "console vm1 --until READY --timeout 0"], env=fake.env, stdin=subprocess.DEVNULL,
                       capture_output=True, text=True, timeout=50)
    assert r.returncode != 2, r.stderr


def test_help_of_a_group_lists_its_verbs():
    for word, verbs in (("domain", {"define", "start", "clone", "save", "domjobinfo", "domfsinfo"}), ("monitor", {"dominfo", "list"}),
                        ("pool", {"pool-list"}), ("volume", {"vol-list"}), ("snapshot", {"snapshot-list"}), ("network", {"net-list"}),
                        ("host", {"doctor"}), ("lifecycle", {"start"}), ("Saved states", {"save"})):
        listed = set(re.findall(r"^  ([a-z][a-z-]*)", cairn("help", word).stdout, re.M))
        assert verbs <= listed and ("audit" in listed) == (word == "host"), word
        assert {v["name"] for v in json.loads(cairn("help", word, "--format", "json").stdout)} == listed
    r = cairn("help", "snapshot", "list")
    assert r.stdout.startswith("Snapshots\n  snapshot-create ") and "\ncairn list [OPTIONS]: " in r.stdout
    assert cairn("help", "nonsense").returncode == 2


def test_picture_without_a_name_gets_virshs(fake, tmp_path):
    fake.define("vm1", screen=True)
    fake.cairn("start", "vm1")
    (tmp_path / "in").mkdir()
    r = subprocess.run([os.path.join(BUILD, "cairn"), "screenshot", "--domain", "vm1"], env=fake.env, cwd=tmp_path / "in", capture_output=True, text=True)
    name = r"vm1-\d{4}-\d\d-\d\d-\d\d:\d\d:\d\d\.png"
    assert re.fullmatch(f"Screenshot of domain 'vm1' saved to {name}\n", r.stdout), r.stderr
    assert re.fullmatch(name, *os.listdir(tmp_path / "in"))


def test_virshs_kinds_of_events_are_listed():
    kinds = cairn("event", "--list").stdout.splitlines()
    assert {"lifecycle", "io-error", "block-job", "block-threshold"} <= set(kinds)
    told = {k["event"]: k["doc"] for k in json.loads(cairn("event", "--list", "--format", "json").stdout)}
    assert told["lifecycle"].startswith("virsh's name for VM_DEFINED ") and told["block-job"] == "virsh's name for JOB_STATUS_CHANGE of block jobs"


def test_event_block_job_is_of_block_jobs(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(4096))
    fake.define("vm1", disks=[{"path": "d.raw", "format": "raw"}])
    fake.cairn("snapshot-create-as", "vm1", "s1")
    assert "snapshot-create" in fake.cairn("event", "--event", "job-completed", "--since", "0").stdout
    assert fake.cairn("event", "--event", "block-job", "--since", "0", "--timeout", "0", ok=1).stdout.startswith("event loop timed out\n")


@pytest.mark.parametrize("verb", (
    "net-event pool-event qemu-monitor-event backup-dumpxml guest-agent-timeout dompmwakeup hypervisor-cpu-compare send-process-signal "
    "find-storage-pool-sources find-storage-pool-sources-as pool-capabilities net-port-create net-port-dumpxml net-port-delete "
    "update-memory-device nodesevinfo domlaunchsecinfo domsetlaunchsecstate nodesuspend node-memory-tune allocpages freecell maxvcpus "
    "nodememstats pool-build dom-fd-associate qemu-attach lxc-enter-namespace cd quit").split())
def test_verbs_of_virsh_without_one_here_get_advice(verb):
    r = cairn(verb)
    assert r.returncode == 2 and "see cairn help for all verbs" not in r.stderr, r.stderr


def test_buses_caches_and_models_that_xml_replaces_are_replaced(fake):
    (fake.tmp / "d.raw").write_bytes(bytes(4096))
    (fake.tmp / "e.raw").write_bytes(bytes(4096))
    fake.define("vm1")
    r = fake.cairn("attach-disk", "vm1", str(fake.tmp / "d.raw"), "sda", "--targetbus", "sata", "--cache", "writethrough")
    assert re.search("^warning: --targetbus sata becomes virtio: the guest has sda as /dev/vd", r.stderr, re.M)
    assert re.search("^warning: --cache writethrough has no effect: Cairn has none, writeback and unsafe", r.stderr, re.M)
    r = fake.cairn("attach-disk", "vm1", str(fake.tmp / "e.raw"), "hdc", "--targetbus", "usb", "--type", "cdrom", "--cache", "default")
    assert r.stderr == "warning: --targetbus usb becomes scsi: the guest needs a driver for virtio-scsi\n"
    r = fake.cairn("attach-interface", "vm1", "user", "--model", "e1000")
    assert "warning: --model e1000 becomes virtio: the guest needs a virtio driver" in r.stderr
    d = json.loads(fake.cairn("dumpjson", "vm1").stdout)
    assert [x.get("bus", "virtio") for x in d["disks"]] == ["virtio", "scsi"] and not any(x.get("cache") for x in d["disks"])
    assert d["interfaces"][0].get("model", "virtio") == "virtio"
    assert "fdc" in fake.cairn("attach-disk", "vm1", str(fake.tmp / "d.raw"), "fda", "--targetbus", "fdc", ok=2).stderr


def test_all_disks_have_virshs_columns_first(fake):
    subprocess.run([os.path.join(BUILD, "cairn-img"), "create", "-q", "-f", "qcow2", str(fake.tmp / "a.qcow2"), "64M"], check=True)
    (fake.tmp / "b.raw").write_bytes(b"x" * 8192)
    (fake.tmp / "gone").touch()
    fake.define("vm1", disks=[{"path": "a.qcow2", "format": "qcow2"}, {"path": "b.raw", "format": "raw"}, {"id": "sda", "bus": "scsi", "device": "cdrom"},
                              {"path": "gone", "format": "raw"}])
    (fake.tmp / "gone").unlink()
    a, b = ((fake.tmp / name).stat() for name in ("a.qcow2", "b.raw"))
    head, _, *rows = fake.cairn("domblkinfo", "vm1", "--all").stdout.splitlines()
    assert head.split() == ["Target", "Capacity", "Allocation", "Physical", "Reads", "Clones", "Kept", "for", "clones"]
    assert [row.split()[:4] for row in rows[:4]] == [
        ["vda", str(64 * MIB), str(a.st_blocks * 512), str(a.st_size)], ["vdb", "8192", str(b.st_blocks * 512), "8192"],
        ["sda", "-", "-", "-"], ["vdd", "-", "-", "-"]]
    for human in (["--all", "--human"], []):
        assert re.search(r"^ vda +64.0 MiB +[\d.]+ KiB +[\d.]+ KiB ", fake.cairn("domblkinfo", "vm1", *human).stdout, re.M)
    assert json.loads(fake.cairn("domblkinfo", "vm1", "--format", "json").stdout)[0]["capacity"] == 64 * MIB


def test_job_info_has_virshs_labels(fake):
    fake.define("vm1")
    assert fake.cairn("domjobinfo", "vm1").stdout == "Job type:         None\n"


def test_folder_of_a_pool_that_is_missing_is_made_first(fake):
    missing = fake.tmp / "missing dir"
    says = fake.cairn("pool-define-as", "p", "dir", "--target", str(missing), ok=3).stderr
    assert f"folder {missing}: No such file or directory. Next: mkdir -p '{missing}'" in says
