"""qcow2-fio: random 4 KiB reads and writes of a qcow2 image, depth 32, compared with fio on a raw file."""

from imgbench import against_fio


def run(bench):
    against_fio(bench, [("shm", False, 200000, 0.7), ("shm", True, 200000, 0.7), ("disk", False, 40000, 0.97),
                        ("disk", True, 40000, 0.97)])
