"""check: `check` of an image with 64 GiB allocated."""

from imgbench import ROUNDS, Box


def run(bench):
    with Box(bench, "shm", 64) as box:
        name = box.create("a", "64G", "preallocation=metadata")
        bench.compare("64 GiB mapped", "s", lambda: box.run(box.ours, "check", "-q", name),
                      lambda: box.run("qemu-img", "check", "-q", name), "qemu-img check", 2.0, rounds=ROUNDS)
