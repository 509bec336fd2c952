"""cairn new: a VM from an image in one command. cairn-seed reads what cloud-init would."""
import json
import os
import signal
import subprocess

import pytest

from conftest import BUILD, until


@pytest.fixture
def base(fake):
    for name, fmt in (("base.qcow2", "qcow2"), ("base.raw", "raw")):
        subprocess.run(["qemu-img", "create", "-q", "-f", fmt, name, "8M"], cwd=fake.tmp, check=True)
    return fake


def new(d, *args, **kwargs):
    return d.cairn("new", *args, cwd=d.tmp, **kwargs)


def test_new_vm_has_an_overlay_on_the_image_and_runs(base):
    d = base
    r = new(d, "web1", "--image", "base.qcow2", "--size", "20G", "--memory", "2G", "--vcpus", "2")
    assert r.stdout.splitlines()[-1] == "Domain 'web1' started"
    definition = json.loads(d.cairn("dumpjson", "web1").stdout)
    disk, = definition["disks"]
    assert disk["path"] == str(d.tmp / "web1.qcow2") and disk["backing"] == [{"path": str(d.tmp / "base.qcow2"), "format": "qcow2"}]
    assert definition["memory"] == "2048M" and definition["vcpus"] == 2 and definition["boot"]["firmware"] == "bios"
    assert [i["type"] for i in definition["interfaces"]] == ["user"]
    info = json.loads(subprocess.run(["qemu-img", "info", "-U", "--output", "json", "web1.qcow2"], cwd=d.tmp, check=True, stdout=subprocess.PIPE).stdout)
    assert info["virtual-size"] == 20 << 30 and info["full-backing-filename"] == str(d.tmp / "base.qcow2")
    assert "exists already; choose another name; cairn list --all shows those in use" in new(d, "web1", "--image", "base.qcow2", ok=False).stderr
    assert os.path.exists(d.tmp / "web1.qcow2")


def test_new_vm_with_cloud_init(base):
    d = base
    (d.tmp / "key.pub").write_text("ssh-ed25519 AAAA me\n")
    os.mkdir(d.tmp / "vms")
    new(d, "web2", "--image", "base.raw", "--image-format", "raw", "--folder", "vms", "--cloud-init", "--user", "debian", "--ssh-key", "key.pub",
        "--ssh-over-vsock", "--no-start")
    assert d.info("web2")["state"] == "shutoff"
    definition = json.loads(d.cairn("dumpjson", "web2").stdout)
    assert [os.path.basename(x["path"]) for x in definition["disks"]] == ["web2.qcow2", "web2-seed.img"] and definition["disks"][1]["readonly"]
    assert definition["vsock"]
    seed = subprocess.run([os.path.join(BUILD, "cairn-img"), "convert", "-f", "raw", "-O", "raw", "vms/web2-seed.img", "seed.raw"], cwd=d.tmp, check=True)
    assert not seed.returncode
    text = (d.tmp / "seed.raw").read_bytes()
    assert b"ssh-ed25519 AAAA me" in text and b"web2" in text


@pytest.mark.parametrize("args,says", [
    ([], "--image FILE"), (["--image", "none"], "No such file"), (["--image", "base.raw"], "--image-format raw"),
    (["--image", "base.qcow2", "--size", "1M"], "less than the image has"), (["--image", "base.qcow2", "--size", "x"], "--size must be a size such as 20G"),
    (["--image", "base.qcow2", "--vcpus", "0"], "--vcpus"), (["--image", "base.qcow2", "--user-data", "a", "--user", "b"], "exclude"),
    (["--image", "base.qcow2", "--user-data", "none"], "none"), (["--image", "base.qcow2", "--memory", "7X"], "memory")])
def test_impossible_vm_leaves_nothing(base, args, says):
    before = sorted(os.listdir(base.tmp))
    assert says in new(base, "web3", *args, ok=False).stderr
    assert sorted(os.listdir(base.tmp)) == before and "web3" not in base.cairn("list", "--all", "--name").stdout


def test_interrupted_new_leaves_a_whole_vm_or_nothing(base):
    disk = base.tmp / "web6.qcow2"
    for _ in range(10):
        p = subprocess.Popen([os.path.join(BUILD, "cairn"), "new", "web6", "--image", "base.qcow2", "--user", "a", "--no-start"], cwd=base.tmp,
                             env=base.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: disk.exists() or p.poll() is not None)
        p.send_signal(signal.SIGINT)
        p.wait()
        is_defined = "web6" in base.cairn("list", "--all", "--name").stdout.split()
        assert disk.exists() == (base.tmp / "web6-seed.img").exists() == is_defined
        if is_defined:
            base.cairn("undefine", "web6", "--remove-all-storage")
            (base.tmp / "web6-seed.img").unlink()  # read-only for the VM, so it stays


def test_ctrl_c_ends_new_by_sigint_once_the_vm_is_whole(base):
    """It comes while the user-data are read."""
    os.mkfifo(base.tmp / "user-data")
    with subprocess.Popen([os.path.join(BUILD, "cairn"), "new", "web8", "--image", "base.qcow2", "--user-data", "user-data"], cwd=base.tmp,
                          env=base.env, stdout=subprocess.PIPE, text=True) as p:
        with open(base.tmp / "user-data", "w") as f:  # waits until cairn reads
            p.send_signal(signal.SIGINT)
            f.write("#cloud-config\n")
        assert p.communicate()[0].startswith("Domain 'web8' defined") and p.returncode == -signal.SIGINT
    assert base.cairn("domstate", "web8").stdout == "shut off\n"


def test_files_of_an_earlier_vm_of_that_name_are_named(base):
    """Its seed stays after undefine --remove-all-storage, since it is read-only for the VM."""
    args = ("web7", "--image", "base.qcow2", "--cloud-init", "--no-start")
    new(base, *args)
    for options, file in ((["--remove-all-storage"], "web7-seed.img"), ([], "web7.qcow2")):
        base.cairn("undefine", "web7", *options)
        assert f"{base.tmp}/{file} exists; remove it, or choose another name or another --folder\n" in new(base, *args, ok=4).stderr
        (base.tmp / "web7-seed.img").unlink()
        if options:
            new(base, *args)


def test_start_of_a_new_vm_warns_as_start_does(base):
    memory = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20}M"
    r = new(base, "web8", "--image", "base.qcow2", "--memory", memory)
    assert r.stderr.startswith("warning: ") and "memory" in r.stderr and r.stdout.endswith("Domain 'web8' started\n")


def test_vm_that_does_not_start_stays_defined(base):
    r = new(base, "web4", "--image", "base.qcow2", "--network", "none", ok=False)
    assert "web4" in r.stderr


def test_image_that_a_vm_writes_is_refused(daemon, kvm, guest):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "base.qcow2", "8M"], cwd=daemon.tmp, check=True)
    daemon.define("vm1", boot={"kernel": guest("interp.elf")}, disks=[{"path": "base.qcow2", "format": "qcow2"}])
    daemon.cairn("start", "vm1")
    r = new(daemon, "web5", "--image", "base.qcow2", ok=6)
    assert "base.qcow2 is open for writing; shut down the VM that uses it" in r.stderr and "raw" not in r.stderr
    assert not os.path.exists(daemon.tmp / "web5.qcow2")
