"""cairn image-list and image-remove: the cache of cairn run --image. test_warm_state.c has the states of an image."""

import json
import os
import subprocess
import threading
import time

import pytest

from conftest import BUILD, until
from rootlib import entry, tar
from test_run_root import RootRunner

DAY = 86400


class ImageRunner(RootRunner):
    def image(self, tag, *layers, **config):
        return super().image(tag, *(layers or (tar(entry(f"etc/{tag}")),)), **config)

    def cairn(self, *args, status=0):
        r = subprocess.run([os.path.join(BUILD, "cairn"), *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=50, env=self.env)
        assert r.returncode == status, (r.stdout, r.stderr)
        return r.stdout + r.stderr

    def list(self):
        return json.loads(self.cairn("image-list", "--format", "json"))

    def names(self):
        return [o["names"][0].rsplit(":", 1)[-1] for o in self.list()]

    def make(self, *tags):
        """Run each image once; the first one is the one that was used the longest time ago."""
        for tag in tags:
            self.run("--image", self.image(tag), ("/bin/true",))
        self.age(*tags)

    def age(self, *tags):
        for o in self.list():
            tag = o["names"][0].rsplit(":", 1)[-1]
            if tag in tags:
                used = time.time() - 10 * DAY * (len(tags) - 1 - tags.index(tag)) - 60
                os.utime(os.path.join(os.path.dirname(o["image"]), "image.json"), (0, used))

    def files(self):
        return {f for f in os.listdir(self.tmp / "cache/cairn/roots") if f not in ("lock", "names")}


@pytest.fixture
def vm(tmp_path):
    if os.geteuid():
        pytest.skip("only root's agent, on the host, may become the users of images")
    return ImageRunner(tmp_path)


def test_list_has_names_sizes_and_use(vm):
    assert vm.list() == []
    assert vm.cairn("image-list").split() == "Image Digest Size States Last used In use".split() + [vm.cairn("image-list").split()[-1]]
    (vm.tmp / "fs" / "etc").mkdir(parents=True)
    vm.run("--root", "fs", ("/bin/true",), cwd=vm.tmp)
    time.sleep(1.1)
    image = vm.image("one")
    vm.run("--image", image, ("/bin/true",))
    one, fs = vm.list()
    assert one["names"] == [image] and fs["names"] == [str(vm.tmp / "fs")]
    for o in (one, fs):
        assert o["size"] == os.path.getsize(o["image"]) and abs(o["made"] - time.time()) < 60 and abs(o["used"] - time.time()) < 60
        assert not o["in_use"] and o["digest"].startswith("sha256:") and o["states_size"] == 0
    time.sleep(1.1)
    vm.run("--root", "fs", ("/bin/true",), cwd=vm.tmp)
    assert [o["names"] for o in vm.list()] == [fs["names"], one["names"]], "the one that was used last is first"
    table = vm.cairn("image-list")
    assert str(vm.tmp / "fs") in table and one["digest"][7:19] in table and one["digest"][7:20] not in table


def test_remove_by_name_path_and_digest(vm):
    (vm.tmp / "fs").mkdir()
    vm.run("--root", vm.tmp / "fs", ("/bin/true",))
    vm.make("a", "b", "c", "d")
    digest = {o["names"][0].rsplit(":", 1)[-1]: o["digest"] for o in vm.list()}
    assert "removed" in vm.cairn("image-remove", vm.image("a"), str(vm.tmp / "fs" / "." / ".." / "fs"))
    assert sorted(vm.names()) == ["b", "c", "d"]
    vm.cairn("image-remove", digest["b"])
    vm.cairn("image-remove", digest["c"][7:20])
    assert vm.names() == ["d"]
    for wrong in ("nothing", digest["d"][7:12], "sha256:", digest["a"]):
        assert f"the cache has no image {wrong}; see cairn image-list" in vm.cairn("image-remove", wrong, status=3)
    assert "removed" in vm.cairn("image-remove", "nothing", vm.image("d"), status=3)
    assert vm.files() == set()
    vm.run("--image", vm.image("a"), ("/bin/true",))


def test_remove_of_what_is_unused_and_of_all(vm):
    vm.make("a", "b", "c")  # used 20, 10 and 0 days ago
    assert vm.cairn("image-remove", "--unused-for", "30") == "Nothing to remove\n"
    assert ":a removed" in vm.cairn("image-remove", "--unused-for", "15")
    assert vm.names() == ["c", "b"]
    vm.cairn("image-remove", "--all")
    assert vm.files() == set()
    for args in ((), ("x", "--all"), ("--all", "--unused-for", "3"), ("--unused-for", "x"), ("--unused-for", "-1"), ("--unused-for", ""),
                 ("--unused-for", "99999999999")):
        vm.cairn("image-remove", *args, status=2)


def test_what_a_crash_left_is_removed(vm):
    """Work of a process that was killed, and images whose files are cut off or missing."""
    vm.make("a", "b", "c", "d")
    roots = vm.tmp / "cache/cairn/roots"
    cut, no_image, no_description, whole = [roots / o["digest"].replace(":", "-") for o in vm.list()]
    os.truncate(cut / "root.squashfs", 4096)
    (no_image / "root.squashfs").unlink()
    (no_description / "image.json").unlink()
    shown = {o["digest"].replace(":", "-"): o["size"] for o in vm.list()}
    assert shown[cut.name] == 4096 and shown[no_image.name] == 0 and shown[no_description.name] > 0 and whole.name in shown
    (roots / ("1" * 64 + ".tmp")).mkdir()
    (roots / ("1" * 64 + ".tmp") / "root.squashfs").write_bytes(bytes(9000))
    assert len(vm.list()) == 4 and len(vm.files()) == 4
    (roots / ("2" * 64 + ".tmp")).mkdir()
    vm.cairn("image-remove", "--all")
    assert vm.files() == set()


def test_image_that_a_run_uses_stays(vm):
    image = vm.image("used")
    p = vm.spawn("--image", image, ("/bin/sh", "-c", "echo begins; sleep 100"))
    assert p.stdout.readline() == "begins\n"
    assert vm.list()[0]["in_use"]
    said = vm.cairn("image-remove", image, status=6)
    assert "a run uses the image; end it first" in said and len(said.splitlines()) == 2
    assert "stays: " in vm.cairn("image-remove", "--all")
    p.kill()
    p.communicate()
    until(lambda: not vm.list()[0]["in_use"])
    vm.cairn("image-remove", "--all")
    assert vm.files() == set()
    vm.leaves_nothing()


def test_runs_go_on_while_images_are_removed(vm):
    """cairn-root makes the image anew if it is gone, and hands it over locked."""
    image, end = vm.image("race"), threading.Event()

    def remove():
        while not end.is_set():
            subprocess.run([os.path.join(BUILD, "cairn"), "image-remove", "--all"], stdout=subprocess.DEVNULL, check=False, timeout=50, env=vm.env)
    t = threading.Thread(target=remove)
    t.start()
    try:
        for i in range(5):
            assert vm.run("--image", image, ("/bin/echo", str(i))).stdout == f"{i}\n"
    finally:
        end.set()
        t.join()


def test_cache_has_a_limit(vm):
    """A new image displaces those that were not used for the longest time, but none that a run uses."""
    def big(tag):
        return vm.image(tag, tar(entry("data", os.urandom(1 << 20))))
    vm.env["CAIRN_CACHE_MAX"] = "3500K"
    images = {tag: big(tag) for tag in "abcde"}
    p = vm.spawn("--image", images["a"], ("/bin/sh", "-c", "echo begins; sleep 100"))
    assert p.stdout.readline() == "begins\n"
    for i, tag in enumerate("bcd"):
        vm.cairn(*vm.argv("--image", images[tag], ("/bin/true",))[1:])
        assert len(vm.names()) == min(i + 2, 3)
        vm.age(*"abcd")
    assert vm.names() == ["d", "c", "a"]
    p.kill()
    p.communicate()
    until(lambda: not any(o["in_use"] for o in vm.list()))
    vm.run("--image", images["e"], ("/bin/true",))
    assert vm.names() == ["e", "d", "c"]
    vm.env["CAIRN_CACHE_MAX"] = "nonsense"
    assert "warning: CAIRN_CACHE_MAX must be a size such as 20G" in vm.run("--image", images["a"], ("/bin/true",)).stderr


def test_names_complete(vm):
    vm.make("a")
    assert vm.image("a") in vm.cairn("complete", "--", "image-remove", "").splitlines()
    words = vm.cairn("complete", "--", "run", "--image", "").splitlines()
    assert vm.image("a") in words and ":files" in words


# ---- layers ----

def kept(vm):
    return {o["name"]: o for o in json.loads(vm.cairn("image-list", "--kept", "--format", "json"))}


def test_layer_is_made_once_and_is_of_one_image(vm):
    vm.env["XDG_DATA_HOME"] = str(vm.tmp / "data")
    one, two = vm.image("one"), vm.image("two")
    assert kept(vm) == {} and "Layer" in vm.cairn("image-list", "--kept")
    vm.run("--image", one, "--keep", "dev", ("/bin/true",))
    layer = kept(vm)["dev"]
    image, = vm.list()
    assert image["digest"].startswith(layer["digest"]) and not layer["in_use"] and layer["capacity"] == 16 << 30
    assert 0 < layer["size"] < 64 << 20 and layer["path"] == str(vm.tmp / "data/cairn/layers/dev.img")
    subprocess.run(["/sbin/e2fsck", "-fn", layer["path"]], capture_output=True, check=True)
    inode = os.stat(layer["path"]).st_ino
    vm.run("--image", one, "--keep", "dev", ("/bin/true",))
    assert os.stat(layer["path"]).st_ino == inode
    said = vm.run("--image", two, "--keep", "dev", ("/bin/true",), status=125).stderr
    assert f"the layer dev is of another image, whose digest begins with {image['digest'][7:15]}" in said and "image-remove --kept dev" in said
    assert os.listdir(vm.tmp / "data/cairn/layers") == ["dev.img"]
    assert "the layer dev needs the image" in vm.cairn("image-remove", one, status=6)
    assert "Layer dev removed" in vm.cairn("image-remove", "--kept", "dev")
    assert "there is no layer dev" in vm.cairn("image-remove", "--kept", "dev", status=3)
    vm.cairn("image-remove", one)
    assert kept(vm) == {} and os.listdir(vm.tmp / "data/cairn/layers") == []


def test_layer_of_a_run_is_busy(vm):
    vm.env["XDG_DATA_HOME"] = str(vm.tmp / "data")
    image = vm.image("one")
    p = vm.spawn("--image", image, "--keep", "dev", ("/bin/sh", "-c", "echo begins; sleep 100"))
    assert p.stdout.readline() == "begins\n"
    said = vm.cairn("run", "--kernel", vm.tmp / "kernel", "--vm-program", vm.vm, "--image", image, "--keep", "dev", "--", "/bin/true", status=125)
    assert "another run has the layer dev; end it, or take another name for --keep" in said and len(said.splitlines()) == 2
    assert kept(vm)["dev"]["in_use"]
    assert "a run has the layer; end it first" in vm.cairn("image-remove", "--kept", "dev", status=6)
    assert "stays: a run has the layer" in vm.cairn("image-remove", "--kept", "--all")
    p.kill()
    p.communicate()
    until(lambda: not kept(vm)["dev"]["in_use"])
    assert "Layer dev removed" in vm.cairn("image-remove", "--kept", "--all")


@pytest.mark.parametrize("after", [0.0, 0.02, 0.04, 0.06, 0.1])
def test_killed_maker_of_a_layer_leaves_a_whole_one_or_none(vm, after):
    vm.env["XDG_DATA_HOME"] = str(vm.tmp / "data")
    image = vm.image("one")
    p = vm.spawn("--image", image, "--keep", "dev", ("/bin/sleep", "1"))
    time.sleep(after)
    p.kill()
    p.communicate()
    until(lambda: not any(o["in_use"] for o in kept(vm).values()))
    vm.run("--image", image, "--keep", "dev", ("/bin/true",))
    assert os.listdir(vm.tmp / "data/cairn/layers") == ["dev.img"]
    subprocess.run(["/sbin/e2fsck", "-fn", kept(vm)["dev"]["path"]], capture_output=True, check=True)


def test_definition_has_the_layer_as_second_disk(vm):
    vm.env["XDG_DATA_HOME"] = str(vm.tmp / "data")
    (vm.tmp / "more.img").write_bytes(bytes(1 << 20))
    o = json.loads(vm.run("--print-only", "--image", vm.image("i"), "--keep", "a.b_c-d", "--disk", vm.tmp / "more.img", ("true",)).stdout)
    assert [d["path"].rsplit("/", 1)[-1] for d in o["disks"]] == ["root.squashfs", "a.b_c-d.img", "more.img"]
    assert [d.get("readonly", False) for d in o["disks"]] == [True, False, False]


def test_bad_layers_are_one_sentence_each(vm):
    vm.env["XDG_DATA_HOME"] = str(vm.tmp / "data")
    image = vm.image("i")
    for name in ("", "../x", "a/b", ".hidden", "-x", "a b", "x" * 61, "\u00e9"):
        assert "the name of a layer has up to 60 letters" in vm.run("--image", image, f"--keep={name}", ("true",), status=125).stderr
    assert "--keep needs --image or --root" in vm.run("--keep", "x", ("true",), status=125).stderr
    (vm.tmp / "data/cairn/layers").mkdir(parents=True)
    (vm.tmp / "data/cairn/layers/bad.img").write_bytes(b"x" * 4096)
    (vm.tmp / "data/cairn/layers/link.img").symlink_to(vm.tmp / "kernel")
    assert "bad.img is no layer; remove the file" in vm.run("--image", image, "--keep", "bad", ("true",), status=125).stderr
    assert "link.img" in vm.run("--image", image, "--keep", "link", ("true",), status=125).stderr
    assert kept(vm) == {}


# ---- root with the HOME of another user, as under sudo ----

class SudoRunner(RootRunner):
    """Root's own home is a folder of the test, and HOME is nobody's."""

    def __init__(self, tmp_path):
        super().__init__(tmp_path)
        if os.geteuid():
            pytest.skip("needs root, for a home of somebody else's")
        self.home, self.roots = tmp_path / "home", tmp_path / "root"
        for folder in (self.home, self.roots):
            folder.mkdir()
        os.chown(self.home, 65534, 65534)
        (tmp_path / "passwd").write_text(f"root:x:0:0:root:{self.roots}:/bin/sh\nnobody:x:65534:65534:nobody:{self.home}:/bin/sh\n")
        self.wrap = ["unshare", "-m", "sh", "-c", f'mount --bind {tmp_path}/passwd /etc/passwd && exec "$@"', "sh"]
        if subprocess.run([*self.wrap, "true"], check=False).returncode:
            pytest.skip("needs root, for a home of root's in the test's folder")
        self.env = {k: v for k, v in self.env.items() if not k.startswith("XDG_C") and k != "XDG_DATA_HOME"} | {"HOME": str(self.home)}

    def argv(self, *args):
        return [*self.wrap, *super().argv(*args)]

    def below(self, folder):
        return sorted(os.path.relpath(os.path.join(at, f), folder) for at, _, files in os.walk(folder) for f in files)


def test_root_leaves_nothing_in_the_home_of_another_user(tmp_path):
    vm = SudoRunner(tmp_path)
    image = vm.image("a")
    assert vm.run("--image", image, ("/bin/echo", "one")).stdout == "one\n"
    made = vm.below(vm.roots)
    assert any(f.startswith(".cache/cairn/roots/") for f in made) and vm.below(vm.home) == []
    os.chown(vm.home, 0, 0)  # now it is root's
    vm.run("--image", image, ("/bin/true",))
    assert any(f.startswith(".cache/cairn/roots/") for f in vm.below(vm.home)) and vm.below(vm.roots) == made
    os.chown(vm.home, 65534, 65534)
    vm.env["XDG_CACHE_HOME"] = str(tmp_path / "chosen")  # a folder that the caller names is used, whoever owns it
    (tmp_path / "chosen").mkdir()
    os.chown(tmp_path / "chosen", 65534, 65534)
    vm.run("--image", image, ("/bin/true",))
    assert vm.below(tmp_path / "chosen")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_folder_of_the_user_database_stands_in_for_home():
    """A service of systemd has no HOME. A user who is not in the database has to set a folder."""
    env = {k: v for k, v in os.environ.items() if k != "HOME" and not k.startswith("XDG_")}
    list_images = [os.path.join(BUILD, "cairn"), "image-list", "--kept"]
    r = subprocess.run(list_images, env=env, capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout.split()[0] == "Layer", r
    r = subprocess.run(["setpriv", "--reuid", "2147352001", "--clear-groups", *list_images], env=env, capture_output=True, text=True)
    assert "there is no folder for layers; set XDG_DATA_HOME or HOME" in r.stderr
