"""off_model: what the images of VMs that are off hold, and how a request changes that.

Each method of World is a request. It changes the world as a request that succeeds does; Impossible: it cannot succeed.
A content of None means: unknown."""

import dataclasses


class Impossible(Exception):
    """A success of the request would be a fault."""


@dataclasses.dataclass
class Image:
    format: str
    content: bytes
    below: str = None  # path of the backing file
    snapshots: dict = dataclasses.field(default_factory=dict)  # contents by name


@dataclasses.dataclass
class Vm:
    disks: dict  # by id: the paths of the layers, the image first
    is_template: bool = False
    folder: str = None  # that an import made


def resized(content, size):
    return content and content[:size].ljust(size, b"\0")


class World:
    def __init__(self):
        self.images, self.vms, self.archives = {}, {}, {}
        self.left = set()  # files that requests may leave and that no VM uses

    # ---- the state ----

    def tops(self, vm):
        return [layers[0] for layers in self.vms[vm].disks.values()]

    def disks(self):
        """Return all disks as (VM, id, layers)."""
        return [(name, id_, layers) for name, vm in self.vms.items() for id_, layers in vm.disks.items()]

    def users(self, path):
        """Return the disks that have an image, as (VM, id)."""
        return [(name, id_) for name, id_, layers in self.disks() if path in layers]

    def is_read(self, path):
        """Return whether a disk has an image as a backing file."""
        return any(path in layers[1:] for _, _, layers in self.disks())

    def is_frozen(self, vm):
        return self.vms[vm].is_template or any(self.is_read(path) for path in self.tops(vm))

    def need_writable(self, vm):
        if self.is_frozen(vm):
            raise Impossible(f"{vm} is a template or has linked clones")

    def spares(self):
        """Return the images that no VM uses."""
        return [path for path in self.images if not self.users(path)]

    def drop_unused(self):
        """Forget overlays that no VM uses. Other images stay: a VM can be given them."""
        for path in [p for p in self.spares() if self.images[p].below]:
            del self.images[path]
            self.left.add(path)

    def new(self, path, format_, content, below=None, snapshots=None):
        if path in self.images:
            raise Impossible(f"{path} exists")
        self.images[path] = Image(format_, content, below, dict(snapshots or {}))

    def set_chain(self, vm, id_, layers):
        self.vms[vm].disks[id_] = layers
        for upper, lower in zip(layers, [*layers[1:], None]):
            self.images[upper].below = lower

    # ---- VMs ----

    def define(self, vm, disks):
        if vm in self.vms:
            raise Impossible(f"{vm} exists")
        self.vms[vm] = Vm({id_: [path] for id_, path in disks.items()})

    def rename(self, vm, new):
        if new in self.vms or self.vms[vm].is_template:
            raise Impossible(f"{new} exists, or {vm} is a template")
        self.vms[new] = self.vms.pop(vm)

    def template(self, vm, on):
        if not on and self.is_frozen(vm) and any(self.is_read(path) for path in self.tops(vm)):
            raise Impossible(f"{vm} has linked clones")
        self.vms[vm].is_template = on

    def undefine(self, vm, storage=False):
        gone = self.vms.pop(vm)
        files = [layers[0] for layers in gone.disks.values()]
        if storage and any(self.users(path) for path in files):
            raise Impossible("another VM has its image")
        if storage and gone.folder:
            files += [p for layers in gone.disks.values() for p in layers[1:] if p.startswith(gone.folder + "/") and not self.users(p)]
        for path in files if storage else ():
            self.images.pop(path, None)
        self.drop_unused()

    def attach(self, vm, id_, path):
        if self.vms[vm].is_template or id_ in self.vms[vm].disks or path not in self.images:
            raise Impossible(f"{vm} is a template, or has {id_}")
        self.vms[vm].disks[id_] = [path]

    def detach(self, vm, id_):
        if self.vms[vm].is_template:
            raise Impossible(f"{vm} is a template")
        del self.vms[vm].disks[id_]
        self.drop_unused()

    # ---- internal snapshots ----

    def snapshot(self, vm, name):
        self.need_writable(vm)
        for path in self.tops(vm):
            if self.images[path].format == "raw" or name in self.images[path].snapshots:
                raise Impossible(f"{path} is raw, or has snapshot {name}")
            self.images[path].snapshots[name] = self.images[path].content

    def group_snapshot(self, vms, name):
        for vm in vms:
            self.snapshot(vm, name)

    def revert(self, vm, name, only=None):
        self.need_writable(vm)
        for path in [self.vms[vm].disks[only][0]] if only else self.tops(vm):
            self.images[path].content = self.images[path].snapshots[name]

    def rename_snapshot(self, vm, name, new):
        self.need_writable(vm)
        self.images[self.tops(vm)[0]].snapshots[name]
        for path in self.tops(vm):
            parts = self.images[path].snapshots
            if name in parts:
                parts[new] = parts.pop(name)

    def delete(self, vm, names):
        self.need_writable(vm)
        for name in names:
            self.images[self.tops(vm)[0]].snapshots[name]
            for path in self.tops(vm):
                self.images[path].snapshots.pop(name, None)

    # ---- layers ----

    def external(self, vm, overlays):
        """overlays: paths of new overlays by the ids of disks."""
        if self.vms[vm].is_template:
            raise Impossible(f"{vm} is a template")
        for id_, path in overlays.items():
            layers = self.vms[vm].disks[id_]
            self.new(path, "qcow2", self.images[layers[0]].content)
            self.set_chain(vm, id_, [path, *layers])

    def commit_check(self, vm, id_, top, base):
        self.need_writable(vm)
        layers = self.vms[vm].disks[id_]
        t, b = layers.index(top), layers.index(base)
        if self.users(base) != [(vm, id_)]:
            raise Impossible(f"{base} has other users")
        if any(self.images[path].snapshots for path in layers[t:b]):
            raise Impossible("snapshots of a layer that ends would be lost")
        return layers, t, b

    def commit(self, vm, id_, top, base, delete=False):
        layers, t, b = self.commit_check(vm, id_, top, base)
        self.images[base].content = self.images[top].content
        self.set_chain(vm, id_, layers[:t] + layers[b:])
        for path in layers[t:b] if delete else ():
            del self.images[path]
        self.drop_unused()

    def commit_part(self, vm, id_, top, base):
        """A commit that was cut off changes lower layers, but not the disk."""
        layers, t, b = self.commit_check(vm, id_, top, base)
        for path in layers[max(t, 1):b + 1]:
            self.images[path].content = None

    def pull(self, vm, id_):
        self.need_writable(vm)
        image = self.vms[vm].disks[id_][0]
        if self.images[image].snapshots:
            raise Impossible("its snapshots read the backing file")
        self.set_chain(vm, id_, [image])
        self.drop_unused()

    # ---- copies ----

    def clone(self, vm, new, files, linked=False, snapshots=False):
        """files: paths of the new images by the ids of disks."""
        self.vms[vm]
        self.define(new, files)
        for id_, path in files.items():
            layers = self.vms[vm].disks[id_]
            top = self.images[layers[0]]
            self.new(path, "qcow2" if linked else top.format, top.content, snapshots=top.snapshots if snapshots else None)
            self.set_chain(new, id_, [path, *(layers if linked else layers[1:] if snapshots else [])])

    def export(self, vm, archive, snapshot=None):
        if archive in self.archives:
            raise Impossible(f"{archive} exists")
        disks = {}
        for id_, layers in self.vms[vm].disks.items():
            if snapshot:
                disks[id_] = [Image("qcow2", self.images[layers[0]].snapshots[snapshot])]
            else:
                disks[id_] = [dataclasses.replace(self.images[path], snapshots=dict(self.images[path].snapshots)) for path in layers]
        self.archives[archive] = disks

    def import_(self, archive, vm, folder):
        self.define(vm, {})
        self.vms[vm].folder = folder
        for id_, images in self.archives[archive].items():
            paths = [f"{folder}/{id_}{f'-{i}' if i else ''}.{image.format}" for i, image in enumerate(images)]
            for path, image in zip(paths, images):
                self.new(path, image.format, image.content, snapshots=image.snapshots)
            self.set_chain(vm, id_, paths)

    # ---- images ----

    def create(self, path, format_, size):
        self.new(path, format_, bytes(size))

    def write(self, path, at, data):
        image = self.images[path]
        image.content = image.content[:at] + data + image.content[at + len(data):]

    def image_need_writable(self, path):
        if self.is_read(path) or any(self.vms[vm].is_template for vm, _ in self.users(path)):
            raise Impossible(f"{path} is a template's, or a backing file")

    def resize(self, path, size):
        self.image_need_writable(path)
        self.images[path].content = resized(self.images[path].content, size)

    def image_snapshot(self, path, action, name):
        image = self.images[path]
        if action == "-c":
            image.snapshots[name] = image.content
        elif action == "-a":
            image.content = image.snapshots[name]
        else:
            del image.snapshots[name]

    def image_commit(self, path):
        """Copy an image's data to its backing file, which no other disk has; the image becomes empty."""
        image = self.images[path]
        below = self.images[image.below]
        below.content = image.content + below.content[len(image.content):]

    def rebase(self, vm, id_, layers):
        self.set_chain(vm, id_, layers)
        self.drop_unused()
