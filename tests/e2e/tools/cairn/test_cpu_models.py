"""`cairn cpu-models`: the models that `cpu` in a definition can name, compared with QEMU's; what this host lacks."""

import functools
import json
import os
import re
import shutil
import subprocess

import pytest

QEMU = "qemu-system-x86_64"
# QEMU's names of features that /proc/cpuinfo has by another name.
NAMES = {"pni": "sse3", "pclmuldq": "pclmulqdq", "xd": "nx", "i64": "lm", "ffxsr": "fxsr_opt", "cr8legacy": "cr8_legacy",
         "stibp": "intel_stibp", "amd_stibp": "stibp", "avx512vnni": "avx512_vnni", "avx512vbmi2": "avx512_vbmi2",
         "avx512bitalg": "avx512_bitalg", "lfence_always_serializing": "lfence_rdtsc", "auto_ibrs": "autoibrs"}
# Features in which the models differ on purpose (docs/definition.md), and settings of QEMU that are no features.
OTHER = {"x2apic", "arat", "hypervisor", "tsc_deadline",
         # with KVM, QEMU switches these off, or (vme) on
         "svm", "npt", "nrip_save", "svme_addr_chk", "monitor", "vme",
         # bits of the MSR of arch_capabilities
         "arch_capabilities", "rdctl_no", "ibrs_all", "skip_l1dfl_vmentry", "mds_no", "pschange_mc_no", "taa_no"}


def cpu_models(program, *args, before=(), status=0):
    # No daemon listens there: the verb needs none.
    env = {**os.environ, "CAIRN_SOCKET": "/nonexistent/cairn.sock"}
    r = subprocess.run([*before, program, "cpu-models", *args], env=env, capture_output=True, text=True, timeout=30)
    assert r.returncode == status, r.stdout + r.stderr
    return r.stdout if not status else r.stderr


@pytest.fixture
def models(kvm, cairn_path):
    return {m["model"]: m for m in json.loads(cpu_models(cairn_path, "--format", "json"))}


def test_table_says_what_the_host_lacks(models, cairn_path):
    rows = [line.split(None, 3) for line in cpu_models(cairn_path, "x86_64").splitlines()[2:] if line]
    assert [r[0] for r in rows] == list(models)
    assert rows[0] == ["host", "any", "yes", "-"]
    for name, vendor, usable, lacks in rows:
        m = models[name]
        assert vendor == m.get("vendor", "any") and (usable == "yes") == m["usable"] == (not m["lacks"])
        assert lacks == "-" if m["usable"] else lacks.startswith(m["lacks"][0])
    assert "Model" in cpu_models(cairn_path)
    assert '"i686" is not an architecture of guests' in cpu_models(cairn_path, "i686", status=2)


def test_host_without_kvm_is_told(cairn_path):
    if os.getuid():
        pytest.skip("needs root: a mount namespace without /dev/kvm")
    before = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"]
    assert "/dev/kvm: No such file or directory: load the module" in cpu_models(cairn_path, before=before, status=7)


@pytest.mark.parametrize("name", ["qemu64", "x86-64-v3", "Nehalem", "EPYC", "Icelake-Server"])
def test_vm_starts_with_usable_models_only(models, daemon, guest, name):
    daemon.define("vm1", memory="16M", boot={"kernel": guest("interp.elf")}, cpu=name)
    r = daemon.cairn("start", "vm1", ok=None)
    assert (r.returncode == 0) == models[name]["usable"], r.stderr
    if r.returncode == 0:
        return
    if models[name]["lacks"] == ["a KVM that virtualises CPUID"]:
        assert f'a guest sees the host\'s processor and not "{name}"; set "cpu": "host"' in r.stderr
        return
    assert f'the processor "{name}" has features that this host lacks: {models[name]["lacks"][0]}' in r.stderr
    nearest = re.search(r"the nearest model that this host has is ([^:]+): change", r.stderr)
    if nearest:
        assert models[nearest[1]]["usable"] and set(models[nearest[1]]["features"]) < set(models[name]["features"])
    else:
        assert not any(m["usable"] and set(m["features"]) < set(models[name]["features"]) for m in models.values())


@functools.lru_cache(maxsize=None)
def qemu_models():
    """Return (QEMU's version, {model: properties})."""
    with subprocess.Popen([QEMU, "-machine", "pc", "-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-qmp", "stdio"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        v = json.loads(p.stdout.readline())["QMP"]["version"]["qemu"]

        def ask(command, **arguments):
            p.stdin.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            p.stdin.flush()
            while True:
                answer = json.loads(p.stdout.readline())
                if "event" not in answer:
                    return answer.get("return")
        ask("qmp_capabilities")
        names = [d["name"] for d in ask("query-cpu-definitions")]
        found = {n: ask("query-cpu-model-expansion", type="full", model={"name": n}) for n in names if n not in ("host", "max")}
        ask("quit")
    return f"{v['major']}.{v['minor']}", {n: r["model"]["props"] for n, r in found.items() if r}


def normal(names):
    """QEMU's names of features, in the words of /proc/cpuinfo."""
    names = {re.sub("[-.]", "_", n) for n in names}
    return {NAMES.get(n, n) for n in names}


OURS = ("host", "baseline", "x86-64-v2", "x86-64-v3", "x86-64-v4")  # not models of QEMU
COMPARED = ("qemu64 kvm64 Conroe Penryn Nehalem Nehalem-IBRS Westmere Westmere-IBRS SandyBridge SandyBridge-IBRS IvyBridge "
            "IvyBridge-IBRS Haswell-noTSX Haswell-noTSX-IBRS Haswell Haswell-IBRS Broadwell-noTSX Broadwell-noTSX-IBRS Broadwell "
            "Broadwell-IBRS Skylake-Client-noTSX-IBRS Skylake-Client Skylake-Client-IBRS Skylake-Server-noTSX-IBRS "
            "Skylake-Server Skylake-Server-IBRS Cascadelake-Server-noTSX Cascadelake-Server Cooperlake Icelake-Server-noTSX "
            "Icelake-Server Opteron_G1 Opteron_G2 Opteron_G3 Opteron_G4 Opteron_G5 EPYC EPYC-IBPB EPYC-Rome EPYC-Milan "
            "EPYC-Genoa").split()


def test_each_model_of_the_table_is_compared(models):
    assert list(models) == [*OURS, *COMPARED]


@pytest.mark.parametrize("name", COMPARED)
def test_model_is_as_qemus(models, name):
    if not shutil.which(QEMU):
        pytest.skip("no QEMU")
    version, theirs = qemu_models()
    if name not in theirs:
        pytest.skip(f"QEMU {version} has no model {name}")
    ours, their = models[name], theirs[name]
    # What QEMU's empty model has, too, is a setting and no feature.
    features = {n for n, value in their.items() if value is True and theirs["base"].get(n) is not True}
    assert set(ours["features"]) - OTHER == normal(features) - OTHER
    assert ours["name"] == their["model-id"].rstrip()
    family, model, stepping = their["family"], their["model"], their["stepping"]
    assert ours["signature"] == max(family - 15, 0) << 20 | model >> 4 << 16 | min(family, 15) << 8 | (model & 15) << 4 | stepping
    assert ours.get("vendor", their["vendor"]) == their["vendor"]
