"""model: predicts the state and the data of a user's VMs, and which requests are refused.

Each method of Model is a request of the same name. It changes the model, or raises Refused. Contents are seeds of
the guest's patterns: of the pieces of its memory, and of the pieces of its disk. A seed of None means: unknown."""

import copy
import dataclasses
import os

PIECES = 4
SNAPSHOTS_MAX = 4
VMS_MAX = 5
LAYERS_MAX = 6  # more than 12 layers would be flattened, at a moment that the model does not know
MISSING, WRONG_STATE, BUSY, INVALID = 3, 4, 6, 2  # exit statuses of cairn
OFF = ("shutoff", "saved", "crashed")
LIVE = ("running", "paused", "in-shutdown")
BOOTS = None  # memory of a guest that has not run yet


class Refused(Exception):
    """The daemon refuses the request: cairn ends with this exit status."""

    def __init__(self, status):
        super().__init__(status)
        self.status = status


@dataclasses.dataclass
class Guest:
    """The content of a saved state."""
    state: str
    memory: list


@dataclasses.dataclass
class Snapshot:
    parent: str
    state: str  # as snapshot-list shows it
    guest: Guest  # None: disks only
    disk: list
    uuid: int  # of the VM at the snapshot: no other VM can use the memory


@dataclasses.dataclass
class Vm:
    image: str
    layers: list  # names of the images below
    uuid: int  # a number that no other VM has
    disk: list
    state: str = "shutoff"
    memory: list = BOOTS
    unflushed: set = dataclasses.field(default_factory=set)
    snapshots: dict = dataclasses.field(default_factory=dict)
    current: str = None
    saved: Guest = None
    plain: frozenset = frozenset()  # the layers that are not read at a pin, so nobody may write them


def need(vm, *states):
    if vm.state not in states:
        raise Refused(WRONG_STATE)


def both(ours, theirs):
    """Return the pieces that are the same, and None for the others."""
    return [a if a == b else None for a, b in zip(ours, theirs)]


class Model:
    def __init__(self):
        self.vms = {}
        self.left = set()  # images of VMs that were undefined without their storage
        self.folders = set()  # of imports: they stay when a clone has put its image there
        self.uuids = 0
        self.states = {}  # Guest by the uuid of its VM: files that `save` has written

    def new(self, image, layers, disk):
        self.uuids += 1
        return Vm(image, layers, self.uuids, disk=list(disk))

    def define(self, name):
        self.vms[name] = self.new(f"{name}.qcow2", [], [0] * PIECES)

    def seen(self):
        """Return what vm-list has to show."""
        return {name: vm.state for name, vm in self.vms.items()}

    def readers(self, image):
        return [n for n, vm in self.vms.items() if image in vm.layers]

    def frozen(self, vm):
        """Return whether linked clones read the image: then nobody may write it."""
        return any(vm.image in other.plain for other in self.vms.values())

    def need_writable(self, vm):
        if self.frozen(vm):
            raise Refused(WRONG_STATE)

    def running(self):
        return [n for n, vm in self.vms.items() if vm.state in LIVE]

    # ---- several models that fit ----

    def adopt_filled(self, other):
        """Take the memory of guests that ran for the first time when the other model was compared with the host."""
        for name, vm in self.vms.items():
            if name in other.vms and other.vms[name].memory is not BOOTS and vm.memory is BOOTS and vm.state == "running":
                vm.memory = list(other.vms[name].memory)

    def blur(self, other):
        """Forget the data in which the other model differs. It has the same VMs in the same states."""
        for name, vm in self.vms.items():
            theirs = other.vms[name]
            vm.disk = both(vm.disk, theirs.disk)
            vm.unflushed |= theirs.unflushed
            if vm.memory != theirs.memory:
                vm.memory = both(vm.memory or [None] * PIECES, theirs.memory or [None] * PIECES)

    # ---- lifecycle ----

    def load(self, vm, guest):
        vm.state, vm.memory = guest.state, copy.copy(guest.memory)

    def start(self, name, paused=False, force_boot=False):
        vm = self.vms[name]
        need(vm, *OFF)
        self.need_writable(vm)
        if vm.saved and not force_boot:
            self.load(vm, vm.saved)
        else:
            vm.state, vm.memory = "running", BOOTS
        if paused:
            vm.state = "paused"
        vm.saved = None

    def off(self, vm, state="shutoff"):
        vm.state, vm.memory = state, BOOTS
        vm.unflushed = set()

    def suspend(self, name):
        need(self.vms[name], "running", "in-shutdown")
        self.vms[name].state = "paused"

    def resume(self, name):
        need(self.vms[name], "paused")
        self.vms[name].state = "running"

    def shutdown(self, name):
        need(self.vms[name], "running", "in-shutdown")
        self.vms[name].state = "in-shutdown"

    def destroy(self, name):
        need(self.vms[name], *LIVE)
        self.off(self.vms[name])

    def reset(self, name):
        vm = self.vms[name]
        need(vm, *LIVE)
        vm.memory = BOOTS
        vm.state = "paused" if vm.state == "paused" else "running"

    def restart_process(self, name):
        need(self.vms[name], "running", "paused")

    def poweroff(self, name):
        self.off(self.vms[name])

    def kill(self, name):
        vm = self.vms[name]
        for i in vm.unflushed:
            vm.disk[i] = None
        self.off(vm, "crashed")

    def rename(self, name, new):
        need(self.vms[name], *OFF)
        self.vms[new] = self.vms.pop(name)

    def undefine(self, name, storage=False):
        vm = self.vms[name]
        need(vm, *OFF)
        if storage and self.readers(vm.image):
            raise Refused(BUSY)
        if not storage:
            self.left.add(vm.image)
        del self.vms[name]

    # ---- saved states ----

    def managedsave(self, name):
        vm = self.vms[name]
        need(vm, *LIVE)
        guest = self.guest(vm)
        self.off(vm, "saved")
        vm.saved = guest

    def managedsave_remove(self, name):
        if self.vms[name].saved:
            self.vms[name].saved = None
            self.vms[name].state = "shutoff"

    def guest(self, vm):
        return Guest("paused" if vm.state == "paused" else "running", copy.copy(vm.memory))

    def save(self, name):
        vm = self.vms[name]
        need(vm, *LIVE)
        self.states[vm.uuid] = self.guest(vm)
        self.off(vm)

    def restore(self, name, state=None):
        vm = self.vms[name]
        need(vm, "shutoff", "crashed")
        self.need_writable(vm)
        self.load(vm, self.states.pop(vm.uuid))
        vm.state = state or vm.state

    def dump(self, name):
        need(self.vms[name], *LIVE)

    # ---- snapshots ----

    def snapshot(self, name, new, disk_only=False):
        vm = self.vms[name]
        self.need_writable(vm)
        guest = self.guest(vm) if vm.state in LIVE and not disk_only else None
        state = guest.state if guest else "disk-snapshot" if vm.state in LIVE else "shutoff"
        vm.snapshots[new] = Snapshot(vm.current, state, guest, list(vm.disk), vm.uuid)
        vm.current = new

    def revert(self, name, snapshot):
        vm = self.vms[name]
        need(vm, "shutoff", "crashed", *LIVE)
        self.need_writable(vm)
        s = vm.snapshots[snapshot]
        if s.guest and s.uuid != vm.uuid:
            raise Refused(INVALID)
        self.off(vm)
        vm.disk, vm.current = list(s.disk), snapshot
        if s.guest:
            self.load(vm, s.guest)

    def revert_part(self, name, snapshot=None):
        """A revert to disks alone stops the VM first. After the revert of a VM that is off, its state is told apart.
        A VM that was started for its revert only is ended again."""
        vm = self.vms[name]
        if vm.state in LIVE or not snapshot:
            self.off(vm)
        if snapshot and not vm.snapshots[snapshot].guest:
            vm.disk, vm.current = list(vm.snapshots[snapshot].disk), snapshot

    def delete(self, name, snapshot):
        vm = self.vms[name]
        self.need_writable(vm)
        gone = vm.snapshots.pop(snapshot)
        for s in vm.snapshots.values():
            if s.parent == snapshot:
                s.parent = gone.parent
        if vm.current == snapshot:
            vm.current = gone.parent

    # ---- copies ----

    def clone(self, name, new, linked=False):
        vm = self.vms[name]
        need(vm, "shutoff", "crashed")
        folder, image = os.path.split(vm.image)
        clone = self.new(os.path.join(folder, f"{new}{'' if image == f'{name}.qcow2' else '-vda'}.qcow2"), [], vm.disk)
        if linked:
            clone.layers, clone.plain = [vm.image, *vm.layers], vm.plain | {vm.image}
        self.vms[new] = clone

    def fork(self, name, new, count, snapshot=None, paused=False):
        vm = self.vms[name]
        if snapshot is None:
            need(vm, "running", "paused")
            guest, disk = self.guest(vm), vm.disk
        else:
            s = vm.snapshots[snapshot]
            if not s.guest:
                raise Refused(WRONG_STATE)
            if s.uuid != vm.uuid:
                raise Refused(INVALID)
            guest, disk = s.guest, s.disk
        for i in range(1, count + 1):
            image = os.path.join(os.path.dirname(vm.image), f"{new}-{i}-vda.qcow2")
            clone = self.new(image, [], disk)
            if vm.state in LIVE or not self.frozen(vm):  # otherwise the disk is copied
                clone.layers, clone.plain = [vm.image, *vm.layers], vm.plain
            self.load(clone, guest)
            clone.state = "paused" if paused else "running"
            self.vms[f"{new}-{i}"] = clone

    def export(self, name):
        vm = self.vms[name]
        need(vm, "shutoff", "crashed")
        if any(other.image in vm.layers and other.state in LIVE for other in self.vms.values()):
            raise Refused(BUSY)

    def import_(self, new, source):
        """source: the exported VM as it was. The import has its UUID, unless a VM has it."""
        vm = self.new(f"{new}/vda.qcow2", [f"{new}/{i}" for i in source.layers], source.disk)
        if source.uuid not in [other.uuid for other in self.vms.values()]:
            vm.uuid = source.uuid
        vm.snapshots, vm.current = copy.deepcopy(source.snapshots), source.current
        self.vms[new] = vm
        self.folders.add(new)
