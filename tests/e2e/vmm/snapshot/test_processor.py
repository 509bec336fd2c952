"""A state records the processor that its guest sees. A load gives the guest that processor, or is refused by name.
On a host whose KVM does not virtualise CPUID, the guest sees the processor itself."""

import fcntl
import json
import os
import re
import subprocess

import pytest

import guestlib
import statelib
from conftest import BUILD, Console, Daemon
from statelib import EAX, EBX, ECX, EDX, Cpu, State, edit_cpu

CX16 = 13  # leaf 1 ECX: each KVM offers it
VIRTUALISES = guestlib.virtualises_cpuid()
FAKE_CPUID_VM = os.path.abspath(os.path.join(BUILD, "helpers/fake_cpuid_vm"))


class Vm:
    def __init__(self, daemon, guest, folder):
        self.daemon, self.folder, self.state = daemon, folder, folder / "vm1.saved"
        self.kernel, self.consoles = guest("interp.elf"), {}
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", folder / "vda.qcow2", "4M"], check=True)
        self.define()

    def define(self, **keys):
        self.daemon.define("vm1", **{"memory": "16M", "vcpus": 2, "boot": {"kernel": self.kernel},
                           "disks": [{"path": str(self.folder / "vda.qcow2"), "format": "qcow2"}], **keys})

    def start(self):
        self.daemon.cairn("start", "vm1")
        self.consoles["vm1"] = Console(self.daemon, "vm1")
        while self.consoles["vm1"].line() != "interp":
            pass

    def destroy(self, name="vm1"):
        self.daemon.cairn("destroy", name)
        del self.consoles[name]

    def cpuid(self, leaf, index=0, vm="vm1"):
        """Run CPUID in the guest, in user mode. Returns [eax, ebx, ecx, edx]."""
        if vm not in self.consoles:
            self.consoles[vm] = Console(self.daemon, vm)
        answer, = self.consoles[vm].run(f"cpuid-user {leaf} {index}")
        return [int(x, 0) if x.startswith("0x") else int(x, 16) for x in answer.split()]

    def save(self):
        self.daemon.cairn("save", "vm1", str(self.state))
        self.consoles.pop("vm1", None)

    def restore(self, **how):
        r = self.daemon.cairn("restore", str(self.state), ok=None)
        assert (r.returncode == 0) == how.get("ok", True), r.stderr
        return r.stderr


@pytest.fixture
def vm(daemon, kvm, guest, tmp_path):
    return Vm(daemon, guest, tmp_path)


def features(vcpu_answers):
    """CPUID without the initial APIC id, which depends on the vCPU or on the host's processor."""
    return [[a, b & 0xffff if leaf == 1 else b, c, d] for leaf, (a, b, c, d) in vcpu_answers]


def seen(vm, name="vm1"):
    return features([(leaf, vm.cpuid(leaf, index, name)) for leaf, index in ((0, 0), (1, 0), (7, 0), (0x80000001, 0))])


def set_bit(leaves, function, register, bit, on):
    leaf = Cpu.leaf(leaves, function)
    leaf[3 + register] = leaf[3 + register] | 1 << bit if on else leaf[3 + register] & ~(1 << bit)


def test_restored_guest_sees_the_same_processor(vm):
    vm.start()
    before = seen(vm)
    vm.save()
    state = State(vm.state.read_bytes())
    assert int.from_bytes(state.data[8:12], "little") == 2
    assert state.cpu.kind == (statelib.VIRTUAL if VIRTUALISES else statelib.PROCESSOR)
    assert bool(state.cpu.own) != VIRTUALISES
    assert (state.cpu.sockets, state.cpu.cores, state.cpu.threads) == (1, 2, 1)
    # Where CPUID is not virtualised, KVM may still hide some of the processor's features.
    recorded = Cpu.leaf(state.cpu.user, 7)[3 + EBX]
    assert recorded == before[2][1] or (not VIRTUALISES and before[2][1] & ~recorded == 0)
    vm.restore()
    assert seen(vm) == before
    assert "sees processor features" not in vm.daemon.cairn("dominfo", "vm1").stdout


def test_missing_feature_is_refused_by_name(vm):
    vm.start()
    vm.save()
    whole = vm.state.read_bytes()

    def refused(change, *words):
        vm.state.write_bytes(whole)
        edit_cpu(vm.state, change)
        error = vm.restore(ok=False)
        for word in words:
            assert word in error
        assert vm.daemon.info("vm1")["word"] in ("shutoff", "crashed")

    lacks = "the guest uses processor features that this host lacks: "
    # No processor has all of these.
    refused(lambda c: (set_bit(c.user, 7, EBX, 26, True), set_bit(c.user, 7, EDX, 2, True)), lacks, "avx512pf",
            "avx512_4vnniw", "load the state on a host with them, or start the VM without it")
    refused(lambda c: set_bit(c.user, 7, EDX, 17, True), lacks + "CPUID 7.0 EDX bit 17;")
    refused(lambda c: set_bit(c.guest, 7, EBX, 26, True), lacks + "avx512pf;")
    if VIRTUALISES:
        refused(lambda c: (setattr(c, "kind", statelib.PROCESSOR), setattr(c, "own", c.guest)),
                "saved on a host whose KVM does not virtualise CPUID", "load the state on such a host")
    else:
        refused(lambda c: (setattr(c, "kind", statelib.VIRTUAL), setattr(c, "own", [])),
                "saved on a host whose KVM virtualises CPUID", "more than it knows: ", "on a host with VMX or SVM")
    vm.state.write_bytes(whole)
    vm.restore()
    vm.cpuid(1)


def test_hidden_feature_stays_hidden_or_is_told(vm):
    """Edit a state so that its guest did not see a feature. A KVM that virtualises CPUID hides the feature; otherwise
    the load tells it."""
    vm.start()
    before = vm.cpuid(1)
    vm.save()
    bit, register = (CX16, ECX) if VIRTUALISES else (26, EDX)  # sse2
    edit_cpu(vm.state, lambda c: set_bit(c.user, 1, register, bit, False))
    vm.restore()
    after = vm.cpuid(1)
    info = vm.daemon.info("vm1")
    if VIRTUALISES:
        assert before[register] & ~after[register] == 1 << bit
        assert not info.get("detail")
    else:
        assert before[register] == after[register]
        note = "the guest sees processor features that it did not see before: sse2"
        assert info["detail"] == note
        name, = os.listdir(vm.daemon.state / "vms")
        assert note.replace("features that", "features here that") in vm.daemon.log_of(name)
    # The next state has the same processor.
    vm.save()
    again = State(vm.state.read_bytes()).cpu
    if VIRTUALISES:
        assert not Cpu.leaf(again.guest, 1)[3 + register] & 1 << bit
    vm.restore()
    assert vm.cpuid(1)[register] == after[register]


def test_running_vm_keeps_its_processor(vm):
    """A snapshot with another CPUID than the running VM's needs vCPUs that have not run."""
    vm.start()
    vm.save()
    edit_cpu(vm.state, lambda c: set_bit(c.guest, 1, ECX, CX16, False))
    vm.restore()
    hidden = vm.cpuid(1)
    vm.daemon.cairn("snapshot-create-as", "vm1", "s1")
    vm.daemon.cairn("snapshot-revert", "vm1", "s1")
    # A clone has the processor of its source.
    vm.daemon.cairn("clone", "--live", "vm1", "copy")
    assert features([(1, vm.cpuid(1, vm="copy"))]) == features([(1, hidden)])
    vm.destroy("copy")
    vm.destroy()
    vm.start()
    shown = vm.cpuid(1)
    assert shown[2] != hidden[2] or not VIRTUALISES
    error = vm.daemon.cairn("snapshot-revert", "vm1", "s1", ok=False).stderr
    assert "lacks features of the running one: cx16; a running VM keeps its processor: destroy the VM" in error
    assert vm.cpuid(1)[2] == shown[2]
    vm.destroy()
    vm.daemon.cairn("snapshot-revert", "vm1", "s1")
    assert vm.cpuid(1)[2] == hidden[2]
    assert vm.daemon.info("vm1")["word"] in ("running", "idle")


def test_chosen_processor(vm):
    """The guest sees the processor that the definition chooses, and a state keeps it."""
    vm.start()
    whole = vm.cpuid(1)
    vm.destroy()
    vm.define(cpu=guestlib.usable_cpu("baseline") + ",-cx16")
    if not VIRTUALISES:
        for cpu in ("baseline,-cx16", "host,-cx16", "x86-64-v2"):
            vm.define(cpu=cpu)
            error = vm.daemon.cairn("start", "vm1", ok=False).stderr
            assert "this host's KVM does not virtualise CPUID, so a guest sees the host's processor and not " in error
            assert f'"{cpu}"; set "cpu": "host"' in error
        vm.define(cpu="host")
        vm.start()
        assert vm.cpuid(1)[2:] == whole[2:]
        return
    vm.start()
    chosen = vm.cpuid(1)
    assert whole[2] & 1 << CX16 and not chosen[2] & 1 << CX16
    assert chosen[0] == whole[0] and not chosen[2] & 1 << 23  # popcnt
    vm.save()
    vm.define()
    vm.restore()
    assert vm.cpuid(1)[2:] == chosen[2:]
    vm.daemon.cairn("clone", "--live", "vm1", "copy")
    assert vm.cpuid(1, vm="copy")[2:] == chosen[2:]
    vm.destroy()
    vm.define(cpu="x86-64-v3,+avx512pf")
    error = vm.daemon.cairn("start", "vm1", ok=False).stderr
    assert re.search(r'the processor "x86-64-v3,\+avx512pf" has features that this host lacks: .*avx512pf', error)


@pytest.mark.skipif(not VIRTUALISES, reason="this host's KVM does not virtualise CPUID")
def test_guest_sees_its_named_model(vm):
    """The guest runs CPUID: identity, features and highest leaves are the model's, before and after a save."""
    host = [vm.start(), vm.cpuid(0)][1]
    vm.destroy()
    cpu = guestlib.usable_cpu("qemu64")
    vm.define(cpu=cpu)
    vm.start()

    def all_leaves():
        return {(leaf, index): features([(leaf, vm.cpuid(leaf, index))])[0] for leaf, index in (
            (0, 0), (1, 0), (2, 0), (4, 0), (6, 0), (7, 0), (0xa, 0), (0xd, 0), (0xd, 1), (0x80000000, 0), (0x80000001, 0),
            (0x80000002, 0), (0x80000003, 0), (0x80000004, 0), (0x80000007, 0), (0x80000008, 0), (0x8000000a, 0))}
    seen_now = all_leaves()
    assert seen_now[0, 0][1:] == host[1:]  # the vendor
    assert seen_now[0, 0][0] == 0xb and seen_now[0x80000000, 0][0] == 0x80000008
    assert seen_now[1, 0][0] == seen_now[0x80000001, 0][0] == 0x60fb1
    brand = b"".join(r.to_bytes(4, "little") for leaf in (2, 3, 4) for r in seen_now[0x80000000 + leaf, 0])
    assert brand.rstrip(b"\0") == b"QEMU Virtual CPU version 2.5+"
    model, = (m for m in guestlib.cpu_models() if m["model"] == "qemu64")
    wanted = set(model["features"]) - set(model["lacks"])
    vm.save()
    state = subprocess.run([os.path.join(BUILD, "cairn-img"), "vmstate-info", "--output", "json", vm.state], check=True,
                           capture_output=True, text=True)
    assert {f for f in json.loads(state.stdout)["cpu"]["features"].split(", ") if not f.startswith("kvm_")} == wanted
    assert seen_now[7, 0] == [0, 0, 0, 0] and seen_now[0x80000007, 0] == [0, 0, 0, 0]
    # x2apic, cx16, sse3; and what each guest has: the TSC deadline timer and a hypervisor
    assert seen_now[1, 0][2] == 1 << 31 | 1 << 24 | 1 << 21 | 1 << CX16 | ("sse3" in wanted)
    vm.define()
    vm.restore()
    assert all_leaves() == seen_now


# Registers that hold features, and the bits that the guest switches itself: OSXSAVE and OSPKE.
FEATURES = {(1, 0, ECX): 1 << 27, (1, 0, EDX): 0, (7, 0, EBX): 0, (7, 0, ECX): 1 << 4, (7, 0, EDX): 0, (0xd, 1, EAX): 0,
            (0x80000001, 0, ECX): 0, (0x80000001, 0, EDX): 0, (0x80000008, 0, EBX): 0}


class Model:
    """A model as `cairn cpu-models` lists it."""

    def __init__(self, vm, name):
        self.vm = vm
        self.row, = (m for m in guestlib.cpu_models() if name in (m["model"], *m["versions"]))
        self.lacks = self.row["lacks"]

    def seen(self):
        """Return what the guest sees of it, and check what does not depend on the host."""
        vm, row = self.vm, self.row
        highest, b, c, d = vm.cpuid(0)
        # An Intel processor answers a leaf above the highest one with the highest one's content.
        leaves = {(leaf, index): vm.cpuid(leaf, index) if leaf <= highest or leaf >= 0x80000000 else [0] * 4 for leaf, index in
                  {*((0x80000002 + i, 0) for i in range(3)), *(key[:2] for key in FEATURES)}}
        if "vendor" in row:
            assert b"".join(x.to_bytes(4, "little") for x in (b, d, c)).decode() == row["vendor"]
        if "signature" in row:
            assert leaves[1, 0][EAX] == leaves[0x80000001, 0][EAX] == row["signature"]
            brand = b"".join(x.to_bytes(4, "little") for i in range(3) for x in leaves[0x80000002 + i, 0])
            assert brand.rstrip(b"\0").decode() == row["name"]
        leaves[1, 0][EBX] &= 0xffff  # without the APIC id
        return leaves

    def check(self, *removed):
        """The guest has the model's features without those removed, before and after a revert and a save."""
        vm, before = self.vm, self.seen()
        vm.daemon.cairn("snapshot-create-as", "vm1", "s1")
        vm.daemon.cairn("snapshot-revert", "vm1", "s1")
        assert self.seen() == before
        vm.save()
        state = subprocess.run([os.path.join(BUILD, "cairn-img"), "vmstate-info", "--output", "json", vm.state], check=True,
                               capture_output=True, text=True)
        recorded = {f for f in json.loads(state.stdout)["cpu"]["features"].split(", ") if not f.startswith(("kvm_", "xcr0_"))}
        assert recorded == set(self.row["features"]) - set(removed)
        guest = State(vm.state.read_bytes()).cpu.guest
        for (leaf, index, register), switched in FEATURES.items():
            want = next((x[3 + register] for x in guest if x[:2] == [leaf, index]), 0)
            if (leaf, register) == (1, ECX):
                want |= 1 << 31 | 1 << 24  # each guest has a hypervisor and the TSC deadline timer
            if (leaf, register) == (1, EDX):
                want |= 1 << 28  # it has several processors
            assert before[leaf, index][register] & ~switched == want & ~switched, (leaf, index, register)
        vm.define()  # the state's processor counts, not the definition's
        vm.restore()
        assert self.seen() == before


def models(*names):
    """Return some models, or all of the table with CAIRN_CPU_MODELS=all."""
    return [m["model"] for m in guestlib.cpu_models() if "signature" in m] if os.environ.get("CAIRN_CPU_MODELS") == "all" else names


@pytest.mark.skipif(not VIRTUALISES, reason="this host's KVM does not virtualise CPUID")
@pytest.mark.seconds(120)
@pytest.mark.parametrize("name", models("EPYC-v1", "Haswell-v4"))
def test_model_without_what_this_host_lacks(vm, name):
    """Features that the host lacks are named; without them, the guest has the model, if the vendor is the host's."""
    model = Model(vm, name)
    missing = [f for f in model.lacks if not f.startswith("a processor by ")]
    for cpu, lacks in ((name, model.lacks), (",-".join([name, *missing]), model.lacks[:len(model.lacks) - len(missing)])):
        vm.define(cpu=cpu)
        if lacks:
            error = vm.daemon.cairn("start", "vm1", ok=False).stderr
            named = re.search(rf'the processor "{cpu[:100]}" has features that this host lacks: (.*?)(, and \d+ more)?; ', error)
            assert named and named[1].split(", ") == lacks[:named[1].count(", ") + 1], error
            assert named[2] or named[1].count(", ") + 1 == len(lacks), error
    if not lacks:
        vm.start()
        model.check(*missing)


@pytest.mark.skipif(not VIRTUALISES, reason="this host's KVM does not virtualise CPUID")
@pytest.mark.seconds(120)
@pytest.mark.parametrize("name", models("Skylake-Server-v3", "EPYC-Milan"))
def test_guest_has_whole_model(tmp_path, kvm, guest, name):
    """Each feature of a model reaches the guest, if the VM process believes that its host has all features of the
    vendor's processors."""
    model = Model(None, name)
    d = Daemon(tmp_path, FAKE_CPUID_VM, env={"FAKE_CPUID_VENDOR": model.row.get("vendor", "GenuineIntel")})
    try:
        model.vm = Vm(d, guest, tmp_path)
        model.vm.define(cpu=name)
        model.vm.start()
        model.check()
    finally:
        d.close()


@pytest.mark.skipif(not VIRTUALISES, reason="this host's KVM does not virtualise CPUID")
def test_guest_sees_its_topology(vm):
    vm.define(vcpus=4, topology={"sockets": 1, "cores": 2, "threads": 2})
    vm.start()
    threads, cores, end = (vm.cpuid(0xb, i) for i in range(3))
    assert threads[:3] == [1, 2, 1 << 8]  # 1 bit of the APIC id for the 2 threads of a core
    assert cores[:3] == [2, 4, 2 << 8 | 1]  # 2 bits for the 4 threads of a package
    assert end[:3] == [0, 0, 2]
    assert vm.cpuid(1)[1] >> 16 & 0xff == 4


def test_topology_of_the_state_is_restored(vm):
    vm.define(topology={"sockets": 1, "cores": 1, "threads": 2})
    vm.start()
    vm.save()
    edit_cpu(vm.state, lambda c: (setattr(c, "cores", 2), setattr(c, "threads", 1)))
    vm.restore()
    vm.save()
    cpu = State(vm.state.read_bytes()).cpu
    assert (cpu.cores, cpu.threads) == (2, 1)
    edit_cpu(vm.state, lambda c: setattr(c, "cores", 3))
    assert "topology contradicts its number of vCPUs" in vm.restore(ok=False)


KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL = 0xae03, 60


def scales_tsc():
    with open("/dev/kvm", "rb") as f:
        return fcntl.ioctl(f, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0


def test_other_tsc_frequency_is_scaled_or_refused(vm):
    vm.start()
    vm.save()
    khz = State(vm.state.read_bytes()).cpu.tsc_khz
    assert khz > 100000

    def restore(frequency, **how):
        edit_cpu(vm.state, lambda c: setattr(c, "tsc_khz", frequency))
        return vm.restore(**how)
    restore(khz + khz // 5000)  # 200 ppm
    vm.save()
    assert State(vm.state.read_bytes()).cpu.tsc_khz == khz + khz // 5000
    if scales_tsc():
        restore(khz // 2)
        vm.cpuid(1)
        vm.save()
        assert State(vm.state.read_bytes()).cpu.tsc_khz == khz // 2
    else:
        for frequency in (khz // 2, khz * 2):
            error = restore(frequency, ok=False)
            assert re.search(rf"TSC runs at {frequency // 1000}\.{frequency % 1000:03} MHz, this host's at \d+\.\d{{3}} MHz, and "
                             "its KVM cannot scale it; load the state on a host with that frequency or with TSC scaling", error)
            assert vm.daemon.info("vm1")["word"] in ("shutoff", "crashed")
        restore(0)  # unknown
        vm.save()
    restore(khz)  # the refused loads left the state as it was
    vm.cpuid(1)


def newer_format(state):
    state.data[8:12] = (3).to_bytes(4, "little")


def newer_machine(state):
    content = state.section("machine")[3]
    assert content[16:20] == (7).to_bytes(4, "little")
    state.section("machine")[3] = content[:16] + (10).to_bytes(4, "little") + content[20:]


def newer_section(state):
    state.section("cpu")[2] = 2


@pytest.mark.parametrize("change, what", [
    (newer_format, "the saved state has format 3; this Cairn reads up to 2; "),
    (newer_machine, "saved with machine version 10; this Cairn builds version 7; "),
    (newer_section, "section cpu '' has version 2; this Cairn knows up to 1; ")])
def test_state_of_newer_cairn_is_refused_and_kept(vm, change, what):
    def refused(path, load):
        """The state is refused as long as it is a newer Cairn's, and is then loaded."""
        whole = path.read_bytes()
        state = State(whole)
        change(state)
        path.write_bytes(state.pack())
        newer = path.read_bytes()
        error = load(ok=False)
        assert what + "load it with the Cairn that saved it, or with a newer one" in error
        assert path.read_bytes() == newer and vm.daemon.info("vm1")["word"] in ("shutoff", "crashed", "saved")
        path.write_bytes(whole)
        load(ok=True)
        vm.cpuid(1)
    vm.start()
    vm.save()
    refused(vm.state, vm.restore)
    vm.daemon.cairn("managedsave", "vm1")
    vm.consoles.clear()
    managed, = vm.daemon.state.rglob("managed.save")
    refused(managed, lambda ok: vm.daemon.cairn("start", "vm1", ok=ok).stderr)


def test_malformed_section_is_refused(vm):
    vm.start()
    vm.save()
    whole = vm.state.read_bytes()

    def refused(change, what):
        state = State(whole)
        change(state)
        vm.state.write_bytes(state.pack())
        assert what in vm.restore(ok=False)

    refused(lambda s: s.section("cpu").__setitem__(3, s.section("cpu")[3][:-4]), "section cpu is malformed")
    refused(lambda s: s.section("cpu").__setitem__(3, s.section("cpu")[3][:28] + b"\xff" * 4), "section cpu is malformed")
    refused(lambda s: s.sections.remove(s.section("cpu")), "where this VM has cpu")
    vm.state.write_bytes(whole)
    vm.restore()


def test_vmstate_info_shows_the_processor(vm):
    vm.start()
    vm.save()
    cpu = State(vm.state.read_bytes()).cpu

    def shown(*args):
        return subprocess.run([os.path.join(BUILD, "cairn-img"), "vmstate-info", *args, vm.state], check=True,
                              capture_output=True, text=True).stdout

    o = json.loads(shown("--output", "json"))
    assert o["version"] == 2 and o["machine-version"] == 7
    assert o["cpu"]["cpuid"] == ("virtual" if VIRTUALISES else "processor")
    assert o["cpu"]["tsc-khz"] == cpu.tsc_khz and o["cpu"]["xcr0"] == cpu.xcr0
    assert len(o["cpu"]["leaves"]) == len(cpu.guest) and len(o["cpu"]["processor-leaves"]) == len(cpu.own)
    assert {"sse2", "cx16", "lm"} <= set(o["cpu"]["features"].split(", "))
    text = shown()
    assert re.search(r"^cpu: (virtual|processor) CPUID, 1 sockets, 2 cores, 1 threads, TSC \d+ kHz, XCR0 0x", text, re.M)
    assert re.search(r"^cpu-features: .*\bsse2\b", text, re.M)
