"""`cairn cpu-models`: the models that `cpu` in a definition can name, compared with QEMU's; what this host lacks."""

import functools
import json
import os
import re
import shutil
import subprocess

import pytest

import guestlib

QEMU = "qemu-system-x86_64"
# QEMU's names of features that /proc/cpuinfo has by another name.
NAMES = {"pni": "sse3", "pclmuldq": "pclmulqdq", "xd": "nx", "i64": "lm", "ffxsr": "fxsr_opt", "cr8legacy": "cr8_legacy",
         "stibp": "intel_stibp", "amd_stibp": "stibp", "avx512vnni": "avx512_vnni", "avx512vbmi2": "avx512_vbmi2",
         "avx512bitalg": "avx512_bitalg", "lfence_always_serializing": "lfence_rdtsc", "auto_ibrs": "autoibrs"}
# Features in which the models differ on purpose (docs/definition.md), and settings of QEMU that are no features.
OTHER = {"x2apic", "arat", "hypervisor", "tsc_deadline",
         # with KVM, QEMU switches these off, or (vme) on
         "svm", "npt", "nrip_save", "svme_addr_chk", "vnmi", "monitor", "vme",
         # bits of the MSR of arch_capabilities
         "arch_capabilities", "rdctl_no", "ibrs_all", "skip_l1dfl_vmentry", "mds_no", "pschange_mc_no", "taa_no"}


def cpu_models(program, *args, before=(), status=0):
    # No daemon listens there: the verb needs none.
    env = {**os.environ, "CAIRN_SOCKET": "/nonexistent/cairn.sock"}
    r = subprocess.run([*before, program, "cpu-models", *args], env=env, capture_output=True, text=True)
    assert r.returncode == status, r.stdout + r.stderr
    return r.stdout if not status else r.stderr


@pytest.fixture
def models(kvm, cairn_path):
    return {m["model"]: m for m in json.loads(cpu_models(cairn_path, "--format", "json"))}


def test_table_says_what_the_host_lacks(models, cairn_path):
    rows = [re.split(" {2,}", line.strip()) for line in cpu_models(cairn_path, "x86_64").splitlines()[2:] if line]
    assert [r[0] for r in rows] == list(models)
    assert rows[0] == ["host", "-", "any", "yes", "-"]
    for name, versions, vendor, usable, lacks in rows:
        m = models[name]
        assert versions == (", ".join(m["versions"]) or "-")
        assert vendor == m.get("vendor", "any") and (usable == "yes") == m["usable"] == (not m["lacks"])
        assert lacks == "-" if m["usable"] else lacks.startswith(m["lacks"][0])
    assert "Model" in cpu_models(cairn_path)
    assert '"i686" is not an architecture of guests' in cpu_models(cairn_path, "i686", status=2)


def test_host_without_kvm_is_told(cairn_path):
    if os.getuid():
        pytest.skip("needs root: a mount namespace without /dev/kvm")
    before = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"]
    told = f"/dev/kvm: No such file or directory: {guestlib.kvm_remedy()}"
    assert told in cpu_models(cairn_path, before=before, status=7)


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


def test_name_with_a_version(daemon, kvm, guest):
    def define(cpu, ok):
        return daemon.cairn("define", "-", input=json.dumps({"name": "vm1", "memory": "16M", "cpu": cpu,
                                                             "boot": {"kernel": guest("interp.elf")}}), stdin=None, ok=ok)
    define("EPYC-v2,-topoext", True)
    assert json.loads(daemon.cairn("dumpjson", "vm1").stdout)["cpu"] == "EPYC-v2,-topoext"
    assert ('cpu: "EPYC-v3" is a version that Cairn lacks; it has EPYC-v1 (EPYC), EPYC-v2 (EPYC-IBPB)'
            in define("EPYC-v3,-topoext", 2).stderr)
    error = daemon.cairn("start", "vm1", ok=None).stderr
    assert not error or '"EPYC-v2,-topoext"' in error


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


def processor_of_qemu(name):
    """Return (features, name, signature, vendor) of QEMU's model."""
    theirs = qemu_models()[1]
    their = theirs[name]
    # A word that QEMU's empty model has, too, is a setting and no feature.
    features = {n for n, value in their.items() if value is True and theirs["base"].get(n) is not True}
    family, model, stepping = their["family"], their["model"], their["stepping"]
    signature = max(family - 15, 0) << 20 | model >> 4 << 16 | min(family, 15) << 8 | (model & 15) << 4 | stepping
    return normal(features) - OTHER, their["model-id"].rstrip(), signature, their["vendor"]


def processor_of(m, vendor):
    return set(m["features"]) - OTHER, m["name"], m["signature"], m.get("vendor", vendor)


@pytest.mark.parametrize("name", COMPARED)
def test_model_is_as_qemus(models, name):
    if not shutil.which(QEMU):
        pytest.skip("no QEMU")
    version, theirs = qemu_models()
    if name not in theirs:
        pytest.skip(f"QEMU {version} has no model {name}")
    their = processor_of_qemu(name)
    assert processor_of(models[name], their[3]) == their


def test_version_is_accepted_if_a_model_equals_it(models):
    """Of QEMU's versions of our models, just those that equal a model are names of that model."""
    if not shutil.which(QEMU):
        pytest.skip("no QEMU")
    versions = {v: m for m in models.values() for v in m["versions"]}
    assert versions["EPYC-v2"]["model"] == "EPYC-IBPB" and versions["Haswell-v4"]["model"] == "Haswell-noTSX-IBRS"
    bases = {v.rpartition("-v")[0] for v in versions}
    assert bases <= set(models)
    theirs = [n for n in qemu_models()[1] if n.rpartition("-v")[0] in bases]
    assert len(theirs) > len(bases)
    for name in theirs:
        their = processor_of_qemu(name)
        same = [m["model"] for m in models.values() if "name" in m and processor_of(m, their[3]) == their]
        assert ([versions[name]["model"]] if name in versions else []) == same, name
