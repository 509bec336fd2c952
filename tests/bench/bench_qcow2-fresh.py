"""qcow2-fresh: 4 KiB writes into an empty qcow2 image, each into another cluster."""

from imgbench import allocating


def run(bench):
    allocating(bench, False, [("shm", 16000, "", "qemu-img bench", 2.0), ("disk", 4000, "", "qemu-img bench", 2.0)])
