"""cairn run --image with images that nobody here wrote: of Debian packages, made by mmdebstrap, apt and umoci
(tests/guests/oci), in Debian's docker-registry. `make check-long`, part "container-images"."""

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess

import pytest

import guestlib
from conftest import BUILD, until
from deblib import needed
from rootlib import listing, make

BUILD_SECONDS = 1800  # of the images, once
NO_IMAGES = 77
MAKE_SECONDS = 300  # of a squashfs image
BUILD_SCRIPT = os.path.join(guestlib.ROOT, "tests", "guests", "oci", "build.sh")
NAMES = ("python3", "node", "gcc")
# Where KVM emulates kernel mode, each page of a program that is read takes 10 ms, and each start of one 0.5 s. On an
# idle machine of that kind, python3 takes half a minute and node one.
RUN_SECONDS = 2400

pytestmark = pytest.mark.seconds(BUILD_SECONDS + RUN_SECONDS + 120)
boots = pytest.mark.skipif(guestlib.host_kind() == "none", reason="no usable /dev/kvm")


@functools.lru_cache(maxsize=None)
def images():
    """Return the folder of the images and None, or None and the reason why they cannot be built."""
    r = subprocess.run([BUILD_SCRIPT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=BUILD_SECONDS)
    if r.returncode == NO_IMAGES:
        return None, r.stderr.strip().splitlines()[-1]
    assert r.returncode == 0, r.stderr
    return r.stdout.strip(), None


class Registry:
    """Debian's docker-registry on loopback, without TLS, with the images as debian/NAME:12."""

    def __init__(self, folder, tmp):
        self.folder, self.log = folder, tmp / "log"
        config = {"version": "0.1", "log": {"level": "info"}, "storage": {"filesystem": {"rootdirectory": str(tmp / "storage")}},
                  "http": {"addr": "127.0.0.1:0"}}
        (tmp / "config.yml").write_text(json.dumps(config))
        with open(self.log, "wb") as log:
            self.proc = subprocess.Popen([f"{folder}/docker-registry", "serve", str(tmp / "config.yml")], stdout=log, stderr=log,
                                         env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"})
        try:
            until(self.listens)
            self.host = self.listens()
            for name in NAMES:
                self.push(name, name)
        except BaseException:
            self.stop()
            raise

    def listens(self):
        said = self.log.read_text(errors="replace")
        m = re.search(r"listening on (127\.0\.0\.1:\d+)", said)
        assert m or self.proc.poll() is None, said
        return m and m[1]

    def push(self, image, name):
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=false", f"oci:{self.folder}/layout:{image}",
                        f"docker://{self.name(name)}"], check=True, timeout=MAKE_SECONDS)

    def name(self, name):
        return f"{self.host}/debian/{name}:12"

    def stop(self):
        self.proc.terminate()
        self.proc.wait()


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder, why = images()
    if why:
        pytest.skip(why)
    needed("skopeo", "sqfstar", "unsquashfs")
    registry = Registry(folder, tmp_path_factory.mktemp("registry"))
    yield registry
    registry.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The cache and the layers of these tests."""
    path = tmp_path_factory.mktemp("home")
    yield path
    shutil.rmtree(path)


# ---- what the images are made of ----

def listing_of(folder):
    """Return what listing() would of an image with these files."""
    files = {}
    for base, folders, names in os.walk(folder):
        for path in (os.path.join(base, n) for n in folders + names):
            st = os.lstat(path)
            mode = stat.filemode(st.st_mode)
            size = "" if mode[0] in "dlp" else f"{os.major(st.st_rdev)},{os.minor(st.st_rdev)}" if mode[0] in "cb" else str(st.st_size)
            target = os.readlink(path) if mode[0] == "l" else ""
            files["/" + os.path.relpath(path, folder)] = " ".join(filter(None, (mode, f"{st.st_uid}/{st.st_gid}", size, target)))
    return files


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to unpack files of others")
@pytest.mark.parametrize("name", NAMES)
def test_image_has_what_umoci_unpacks(registry, home, tmp_path, name):
    made = make(registry.name(name), home, "--insecure-registry", timeout=MAKE_SECONDS)
    subprocess.run([f"{registry.folder}/umoci", "unpack", "--image", f"{registry.folder}/layout:{name}", tmp_path / "bundle"],
                   check=True, timeout=MAKE_SECONDS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    subprocess.run(["unsquashfs", "-quiet", "-no-progress", "-d", tmp_path / "files", made["image"]],
                   check=True, timeout=MAKE_SECONDS, stdout=subprocess.DEVNULL)
    wanted, found = listing_of(tmp_path / "bundle" / "rootfs"), listing(made["image"])
    found.pop("/")
    assert found == wanted and len(found) > 3000
    r = subprocess.run(["diff", "-r", "-q", "--no-dereference", tmp_path / "bundle" / "rootfs", tmp_path / "files"], capture_output=True, text=True,
                       timeout=MAKE_SECONDS)
    # diff names devices whatever they are; the lists above have them.
    assert [line for line in r.stdout.splitlines() if "is a character special file" not in line] == [], r.stdout
    shutil.rmtree(tmp_path / "bundle")
    shutil.rmtree(tmp_path / "files")


def test_registry_is_asked_once(registry, home):
    """A registry without TLS has to be allowed, and a second run does not ask it."""
    assert "HTTPS" in make(registry.name("python3"), home / "other", ok=False)
    made = make(registry.name("python3"), home, "--insecure-registry", timeout=MAKE_SECONDS)
    registry.proc.send_signal(signal.SIGSTOP)  # it answers nobody
    try:
        assert make(registry.name("python3"), home) == made
    finally:
        registry.proc.send_signal(signal.SIGCONT)
    registry.push("base", "python3")
    assert make(registry.name("python3"), home) == made
    assert make(registry.name("python3"), home, "--pull", "--insecure-registry", timeout=MAKE_SECONDS)["digest"] != made["digest"]
    registry.push("python3", "python3")
    assert make(registry.name("python3"), home, "--pull", "--insecure-registry", timeout=MAKE_SECONDS) == made


# ---- what runs in them ----

def run(registry, home, image, *command, options=(), memory="512M", status=0, **more):
    r = subprocess.run([os.path.join(BUILD, "cairn"), "run", "--kernel", os.path.join(guestlib.linux_kernel(), "vmlinux"), "--memory", memory,
                        "--timeout", str(RUN_SECONDS), "--image", registry.name(image), "--insecure-registry", *options, "--", *command],
                       capture_output=True, text=True, timeout=RUN_SECONDS + 60,
                       env={**os.environ, "XDG_CACHE_HOME": str(home), "XDG_DATA_HOME": str(home)}, **more)
    assert r.returncode == status, (r.returncode, r.stdout, r.stderr)
    return r.stdout, r.stderr


PYTHON = """
import hashlib, json, sys
print(json.dumps([sys.version_info[:2], sys.argv[1:], open("/etc/debian_version").read()[:3], hashlib.sha256(sys.stdin.buffer.read()).hexdigest()]))
print("one line", file=sys.stderr)
sys.exit(3)
"""


@boots
def test_python_runs(registry, home):
    text = "from outside\n" * 1000
    out, err = run(registry, home, "python3", "python3", "-c", PYTHON, "a b", "", options=["-i"], status=3, input=text)
    assert (json.loads(out), err) == ([[3, 11], ["a b", ""], "12.", hashlib.sha256(text.encode()).hexdigest()], "one line\n")


# A server and its client need the loopback interface; a worker is a thread with a heap of its own.
NODE = """
const http = require("http"), { Worker } = require("worker_threads");
const server = http.createServer((request, response) => response.end("answer to " + request.url));
server.listen(0, "127.0.0.1", () => http.get({ port: server.address().port, path: "/question" }, (answer) => {
	answer.on("data", (data) => console.log(String(data)));
	answer.on("end", () => server.close());
}));
new Worker("require('worker_threads').parentPort.postMessage([1, 2, 3].map((x) => x * 2))", { eval: true })
	.on("message", (value) => console.log(value));
console.error("one line");
process.exitCode = 4;
"""


@boots
def test_node_runs(registry, home):
    out, err = run(registry, home, "node", "node", "-e", NODE, memory="1G", status=4, stdin=subprocess.DEVNULL)
    assert (sorted(out.splitlines()), err) == (["[ 2, 4, 6 ]", "answer to /question"], "one line\n")


@boots
def test_gcc_builds_zlib_and_its_tests_pass(registry, home):
    """The image's entry point is make, its user builder, and its folder the source."""
    out, err = run(registry, home, "gcc", "teststatic", "testshared", memory="1G", stdin=subprocess.DEVNULL)
    for name in ("zlib", "zlib shared"):
        assert f"*** {name} test OK ***" in out, (out, err)
    assert "gcc -O3" in out and "uncompress(): hello, hello!" in out
    out, err = run(registry, home, "gcc", "nothing", memory="1G", status=2, stdin=subprocess.DEVNULL)
    assert (out, err) == ("", "make: *** No rule to make target 'nothing'.  Stop.\n")
