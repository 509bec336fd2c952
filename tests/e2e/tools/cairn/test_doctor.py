"""`cairn doctor`: what the host offers to the calling user, the remedies, the exit status. Namespaces take things
away."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import time

import pytest

import guestlib
from hostnetlib import legacy_tables_work
from plainlib import DEVICE, NOBODY, as_plain_user
from test_host import needs_root
from test_tracking import SYSCTL, folder  # noqa: F401

NAMES = ["kvm", "io-uring", "seccomp", "nested-paging", "nested-guests", "cpuid", "userfaultfd", "landlock", "user-namespaces",
         "namespaces", "cgroups", "memory-pressure", "modules", "tun", "networks", "macvtap", "forwarding", "vhost-net", "bios", "uefi", "network-boot", "huge-pages",
         "transparent-huge-pages"]


def in_namespace(script, *flags):
    """Return a command prefix: run the script in a new mount namespace, then the command."""
    return ["unshare", "-m", *flags, "sh", "-e", "-c", f'{script}\nexec "$@"', "sh"]


def doctor(program, *args, before=(), status=None):
    """status: by default, that of a host with all that VMs need, or without /dev/kvm."""
    if status is None:
        status = 0 if os.access("/dev/kvm", os.R_OK | os.W_OK) else 1
    # No daemon listens there: the verb needs none.
    env = {**os.environ, "CAIRN_SOCKET": "/nonexistent/cairn.sock"}
    r = subprocess.run([*before, program, "doctor", *args], env=env, capture_output=True, text=True)
    assert r.returncode == status, r.stdout + r.stderr
    return r.stdout


def checks(program, **kwargs):
    return {c["check"]: c for c in json.loads(doctor(program, "--format", "json", **kwargs))}


def test_usable_host_is_ok(kvm, cairn_path):
    found = checks(cairn_path)
    assert list(found) == NAMES
    assert [n for n in NAMES if found[n]["required"]] == NAMES[:3]
    assert all(found[n]["status"] == "ok" and "remedy" not in found[n] for n in NAMES[:3])
    assert found["kvm"]["found"] == "/dev/kvm, API version 12"
    for c in found.values():
        assert c["status"] in ("ok", "slow", "missing", "unsure") and c["for"] and c["found"]
        assert ("remedy" in c) == (c["status"] != "ok")
    lines = doctor(cairn_path).splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith(" ")] == [[found[n]["status"], n] for n in NAMES]
    assert len({len(re.match(r"\S+ +\S+ +| +", line).group()) for line in lines}) == 1, "purposes and remedies are one column"
    assert [line.strip() for line in lines if line.startswith(" ")] == [c["remedy"] for c in found.values() if "remedy" in c]


@needs_root
def test_filter_table_of_iptables_legacy_is_told(kvm, cairn_path):
    if not legacy_tables_work():
        pytest.skip("this kernel has no tables of iptables-legacy")
    found = checks(cairn_path, before=["unshare", "-n", "sh", "-c", 'iptables-legacy -P FORWARD DROP; exec "$@"', "sh"])["forwarding"]
    assert found["status"] == "unsure" and "iptables-legacy has a filter table" in found["found"]
    assert "cairn net-info NETWORK" in found["remedy"]
    assert checks(cairn_path, before=["unshare", "-n"])["forwarding"]["found"] == "iptables-legacy has no rules"


@needs_root
@pytest.mark.parametrize("device, status, found, remedy", [
    ("permitted", "ok", f"opened by {DEVICE}", None),
    ("denied", "slow", f"{DEVICE}: Permission denied; vm.unprivileged_userfaultfd is 0", "udev rule 60-cairn.rules"),
    ("absent", "slow", f"{DEVICE}: Inappropriate ioctl for device; vm.unprivileged_userfaultfd is 0",
     "as root: sysctl vm.unprivileged_userfaultfd=1"),
])
def test_plain_user_learns_about_userfaultfd(kvm, folder, device, status, found, remedy):  # noqa: F811
    if device != "permitted" and SYSCTL.read_text().strip() != "0":
        pytest.skip("every user may use the system call here: vm.unprivileged_userfaultfd is not 0")
    before = as_plain_user(folder / device)
    c = checks(folder / "cairn", before=before)["userfaultfd"]
    assert (c["status"], c["found"]) == (status, found)
    assert remedy is None or remedy in c["remedy"]
    lines = [" ".join(line.split()) for line in doctor(folder / "cairn", before=before).splitlines()]
    at = lines.index(f"{status} userfaultfd {c['for']}: {found}")
    assert remedy is None or lines[at + 1] == c["remedy"]


@needs_root
def test_user_outside_group_is_told_to_join(kvm, folder):  # noqa: F811
    """The device is open to the group of /dev/kvm already, and the user is in no group."""
    if SYSCTL.read_text().strip() != "0" or os.stat("/dev/kvm").st_mode & 0o006:
        pytest.skip("every user may use /dev/kvm or userfaultfd here")
    before = [a if a != str(os.stat("/dev/kvm").st_gid) else "65534" for a in as_plain_user(folder / "permitted")]
    found = checks(folder / "cairn", before=before, status=1)
    assert found["kvm"]["status"] == "missing" and found["kvm"]["found"] == "/dev/kvm: Permission denied"
    for c in (found["kvm"], found["userfaultfd"]):
        assert c["remedy"].startswith("join the group ")


@needs_root
@pytest.mark.parametrize("loaded", [False, True])
def test_host_without_kvm_fails(cairn_path, loaded):
    script = "mount -t tmpfs none /dev; mount -t tmpfs none /sys/module" + "; mkdir /sys/module/kvm_amd" * loaded
    found = checks(cairn_path, before=in_namespace(script), status=1)
    assert (found["kvm"]["status"], found["kvm"]["found"]) == ("missing", "/dev/kvm: No such file or directory")
    assert found["kvm"]["remedy"] == guestlib.kvm_remedy(loaded)
    assert found["tun"]["status"] == "missing" and not found["tun"]["required"]
    # Root needs no device for userfaultfd.
    assert (found["userfaultfd"]["status"], found["userfaultfd"]["found"]) == ("ok", "opened by the system call")


def test_user_without_user_namespaces_is_told_the_sysctl(cairn_path):
    """The sysctl belongs to the user namespace: the host's stays as it is."""
    if subprocess.run(["unshare", "-Ur", "true"], stderr=subprocess.DEVNULL).returncode:
        pytest.skip("this host refuses user namespaces, or the test runs in a chroot")
    script = "echo {} > /proc/sys/user/max_user_namespaces"
    c = checks(cairn_path, before=in_namespace(script.format(0), "-Ur"))["user-namespaces"]
    assert (c["status"], c["found"]) == ("missing", "this user may not create them: No space left on device")
    assert c["remedy"] == "as root: raise the sysctl user.max_user_namespaces, which is 0"
    c = checks(cairn_path, before=in_namespace(script.format(8), "-Ur"))["user-namespaces"]
    assert (c["status"], c["found"]) == ("ok", "this user may create them")


@needs_root
def test_root_of_a_container_learns_what_it_lacks(cairn_path):
    found = checks(cairn_path, before=["setpriv", "--bounding-set=-sys_admin,-net_admin", "--inh-caps=-all"], status=None)
    c = found["namespaces"]
    assert (c["status"], c["found"]) == ("missing", "this root may not create them: Operation not permitted")
    assert "--cap-add SYS_ADMIN" in c["remedy"]
    c = found["networks"]
    assert (c["status"], c["found"]) == ("missing", "this root lacks CAP_NET_ADMIN and CAP_SYS_ADMIN")
    assert "--cap-add NET_ADMIN" in c["remedy"]
    found = checks(cairn_path)
    assert found["namespaces"]["status"] == found["networks"]["status"] == "ok"


@needs_root
def test_plain_user_does_not_learn_about_root(kvm, folder):  # noqa: F811
    found = checks(folder / "cairn", before=as_plain_user(folder / "permitted"))
    if os.path.exists("/proc/net/ip_tables_names") and os.stat("/dev/kvm").st_gid:  # the group root may read that file
        c = found["forwarding"]
        assert (c["status"], c["remedy"]) == ("unsure", "as root: cairn doctor") and "only root sees" in c["found"]
    assert "namespaces" not in found and found["networks"]["status"] == "missing"
    assert found["networks"]["remedy"] == "use root's daemon; an interface of type user needs no network"


def cgroup_mount():
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[2] == "cgroup2":
            return pathlib.Path(line.split()[1])
    pytest.skip("no control groups of version 2 are mounted here")


@pytest.fixture
def cgroup(tmp_path):
    """Make a control group for a process that the test starts. A file of the test replaces the list of its
    controllers, because a host may have all of them in version 1."""
    group = cgroup_mount() / f"cairn-doctor-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as e:
        pytest.skip(f"cannot make a control group: {e}")
    yield group
    deadline = time.monotonic() + 50
    while group.exists():  # busy until the kernel has freed the process
        try:
            group.rmdir()
        except OSError:
            assert time.monotonic() < deadline, (group / "cgroup.procs").read_text()
            time.sleep(0.01)


def in_cgroup(group, controllers, tmp_path, *user):
    (tmp_path / "controllers").write_text(controllers + "\n")
    script = f"echo $$ > {group}/cgroup.procs; mount --bind {tmp_path}/controllers {group}/cgroup.controllers"
    return [*in_namespace(script), *user]


@needs_root
def test_host_without_cgroups_version_2_is_told(cairn_path):
    c = checks(cairn_path, before=in_namespace("mount -t tmpfs none /sys/fs/cgroup"))["cgroups"]
    assert (c["status"], c["found"]) == ("missing", "version 2 is not mounted")
    assert "systemd.unified_cgroup_hierarchy=1" in c["remedy"] and "mount -t cgroup2" in c["remedy"]


@needs_root
@pytest.mark.parametrize("controllers, found", [
    ("cpuset io", "version 2, without cpu, memory, pids"),
    ("cpuset cpu memory", "version 2, without pids, with cpu, memory"),
])
def test_missing_controllers_are_named(cairn_path, cgroup, tmp_path, controllers, found):
    c = checks(cairn_path, before=in_cgroup(cgroup, controllers, tmp_path))["cgroups"]
    assert (c["status"], c["found"]) == ("missing", found)
    assert "Delegate=cpu memory pids" in c["remedy"]


@needs_root
@pytest.mark.parametrize("owned, status, found", [
    ([], "missing", "not delegated"),
    (["."], "missing", "not delegated"),
    ([".", "cgroup.procs"], "missing", "not delegated"),
    ([".", "cgroup.procs", "cgroup.subtree_control"], "ok", "delegated"),
])
def test_cgroup_is_delegated_if_its_files_are_the_users(kvm, folder, cgroup, tmp_path, owned, status, found):  # noqa: F811
    for name in owned:
        os.chown(cgroup / name, NOBODY, NOBODY)
    before = in_cgroup(cgroup, "cpu memory pids", tmp_path, *as_plain_user(folder / "permitted"))
    c = checks(folder / "cairn", before=before)["cgroups"]
    assert (c["status"], c["found"]) == (status, f"version 2, with cpu, memory, pids, {found} to this user")
    assert ("Delegate=" in c.get("remedy", "")) == (status != "ok")


def vendor_module():
    flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    return "kvm_intel" if "vmx" in flags else "kvm_amd" if "svm" in flags else "kvm_pvm"


@needs_root
@pytest.mark.parametrize("names, modular, status, remedy", [
    (("kvm", "VENDOR", "tun"), True, "ok", None),
    (("kvm", "VENDOR"), True, "missing", "modprobe each of them"),
    (("kvm", "VENDOR"), False, "missing", "this kernel loads no modules"),
    ((), True, "missing", "modprobe each of them"),
])
def test_modules_that_are_not_loaded_are_named(cairn_path, names, modular, status, remedy):
    names = [n.replace("VENDOR", vendor_module()) for n in names]
    script = "mount -t tmpfs none /sys/class/misc; mount -t tmpfs none /sys/module\n" + \
        "".join(f"mkdir /sys/module/{n}\n" for n in names) + "mount -t tmpfs none /proc\n" + "> /proc/modules\n" * modular
    c = checks(cairn_path, before=in_namespace(script))["modules"]
    absent = [n for n in ("kvm", vendor_module(), "tun") if n not in names]
    if "kvm_pvm" in absent:  # the processor alone does not tell that KVM is of this kind
        absent[absent.index("kvm_pvm")] = "kvm_intel or kvm_amd"
        remedy = "see the check nested-paging"
    assert c["status"] == status
    assert c["found"] == "; ".join(filter(None, [", ".join(names), absent and f"not loaded: {', '.join(absent)}"]))
    assert (remedy or "") in c.get("remedy", "")


@pytest.mark.skipif(not shutil.which("strace"), reason="no strace")
@pytest.mark.parametrize("check, call, error, status, found, remedy", [
    ("landlock", "landlock_create_ruleset", "EOPNOTSUPP", 0, "Operation not supported", "lsm="),
    ("landlock", "landlock_create_ruleset", "ENOSYS", 0, "Function not implemented", "Linux 5.13"),
    ("seccomp", "seccomp", "EOPNOTSUPP", 1, "system call seccomp: Operation not supported", "CONFIG_SECCOMP_FILTER"),
])
def test_kernel_without_a_call_is_told(kvm, cairn_path, check, call, error, status, found, remedy):
    before = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:error={error}"]
    c = checks(cairn_path, before=before, status=status)[check]
    assert (c["status"], c["found"]) == ("missing", found) and remedy in c["remedy"]


@needs_root
@pytest.mark.parametrize("total, unused, status", [(0, 0, "missing"), (8, 3, "ok")])
def test_huge_pages_are_counted(cairn_path, tmp_path, total, unused, status):
    script = "".join(f"echo {n} > {tmp_path}/{name}; mount --bind {tmp_path}/{name} /sys/kernel/mm/hugepages/hugepages-2048kB/{name}\n"
                     for name, n in (("nr_hugepages", total), ("free_hugepages", unused)))
    c = checks(cairn_path, before=in_namespace(script))["huge-pages"]
    assert (c["status"], c["found"]) == (status, f"{unused} of {total} pages of 2 MiB are free")
    assert ("vm.nr_hugepages=N" in c.get("remedy", "")) == (status == "missing")


@needs_root
@pytest.mark.parametrize("script, words", [
    ("mount -t tmpfs none /sys/kernel/mm", "this kernel has none"),
    ("echo 'always never [deny] force' > {tmp}/s; mount --bind {tmp}/s /sys/kernel/mm/transparent_hugepage/shmem_enabled", "turned off"),
])
def test_transparent_huge_pages_that_the_kernel_lacks_are_told(cairn_path, tmp_path, script, words):
    c = checks(cairn_path, before=in_namespace(script.format(tmp=tmp_path)))["transparent-huge-pages"]
    if vendor_module() == "kvm_pvm":
        words = "not used without nested paging"
    elif [int(n) for n in re.findall(r"\d+", os.uname().release)[:2]] < [6, 6]:
        words = "not used before Linux 6.6"
    assert c["status"] == "missing" and words in c["found"] and c["remedy"]


@needs_root
@pytest.mark.parametrize("chosen", ["never", "advise"])
def test_huge_pages_that_only_this_user_lacks_are_told(kvm, cairn_path, tmp_path, chosen):
    """As in a container without CAP_SYS_ADMIN. Memory in a plain memory file has them if the host allows that."""
    if vendor_module() == "kvm_pvm" or [int(n) for n in re.findall(r"\d+", os.uname().release)[:2]] < [6, 6]:
        pytest.skip("VMs have no huge pages on this host")
    words = " ".join(f"[{w}]" if w == chosen else w for w in ("always", "within_size", "advise", "never", "deny", "force"))
    script = f"echo '{words}' > {tmp_path}/s; mount --bind {tmp_path}/s /sys/kernel/mm/transparent_hugepage/shmem_enabled"
    trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fsopen", "-e", "inject=fsopen:error=EPERM"]
    c = checks(cairn_path, before=[*in_namespace(script), *trace])["transparent-huge-pages"]
    assert c["status"] == ("missing" if chosen == "never" else "ok")
    if chosen == "never":
        assert c["found"] == "VMs of this user cannot make a tmpfs with huge pages: Operation not permitted" and "user-namespaces" in c["remedy"]


@needs_root
def test_nested_paging_that_is_off_or_absent_is_told(kvm, cairn_path, tmp_path):
    if vendor_module() == "kvm_pvm":
        c = checks(cairn_path)["nested-paging"]
        assert c["status"] == "slow" and "KVM emulates kernel mode" in c["found"] and "nested virtualization" in c["remedy"]
        c = checks(cairn_path, before=in_namespace("mount -t tmpfs none /dev"), status=1)["nested-paging"]
        assert (c["status"], c["found"]) == ("missing", "the CPU shows neither VMX nor SVM")
        return
    module, parameter = vendor_module(), "ept" if vendor_module() == "kvm_intel" else "npt"
    script = f"echo N > {tmp_path}/off; mount --bind {tmp_path}/off /sys/module/{module}/parameters/{parameter}"
    c = checks(cairn_path, before=in_namespace(script))["nested-paging"]
    assert (c["status"], c["found"]) == ("slow", f"nested paging is off ({module} {parameter}=0)")
    assert c["remedy"] == f"load the module with {module} {parameter}=1"


@needs_root
def test_virtualization_for_guests_that_is_off_or_absent_is_told(cairn_path, tmp_path):
    module = vendor_module()
    if module == "kvm_pvm":
        c = checks(cairn_path)["nested-guests"]
        assert (c["status"], c["found"], c["remedy"]) == ("missing", "the CPU shows neither VMX nor SVM", "see the check nested-paging")
        return
    (tmp_path / "on").write_text("1\n")
    (tmp_path / "off").write_text("0\n")
    found = {}
    for value in ("on", "off"):
        script = f"mount --bind {tmp_path}/{value} /sys/module/{module}/parameters/nested"
        c = checks(cairn_path, before=in_namespace(script))["nested-guests"]
        found[value] = (c["status"], c["found"], c.get("remedy"))
    assert found["on"] == ("ok", f"KVM offers {'vmx' if module == 'kvm_intel' else 'svm'} to guests", None)
    assert found["off"] == ("missing", f"{module} nested=0", f"load the module with {module} nested=1")
