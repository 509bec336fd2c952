"""open: open an image with 64 GiB allocated, read a block, close the image."""

from imgbench import ROUNDS, Box


def run(bench):
    with Box(bench, "shm", 64) as box:
        name = box.create("a", "64G", "preallocation=metadata")

        def many(tool):
            return sum(box.run(tool, "bench", "-f", "qcow2", "-c", "1", name) for _ in range(20)) / 20 * 1000
        bench.compare("64 GiB mapped, one read", "ms", lambda: many(box.ours), lambda: many("qemu-img"), "qemu-img",
                      2.0, rounds=ROUNDS)
