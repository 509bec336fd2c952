/* vm_layers: external snapshots of a running VM's disks: each disk gets an empty overlay, all at one instant, and its
 * previous image becomes the first backing file. By disk_change.h. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_LAYERS_H
#define CAIRN_API_VM_VM_LAYERS_H

struct call;
struct definition_disk;
struct err;
struct json_object;
struct vm;

/* Let the disks in `args.disks` continue with their overlays, and answer the call. The definition of the next start
 * must name the overlays already: if it named the old images, a start after a crash would write to them. It may have
 * images of its own that do not need the old ones. With `args.check-only`, only check whether that is possible. */
void vm_layers_snapshot(struct call *c);

/* Find a disk of the next start that has the file among its layers. Returns NULL if its image is another one, which has
 * nothing to do with the file, or if there is no disk of this id. */
const struct definition_disk *vm_layers_next(const struct vm *vm, const char *id, const char *path);

/* Change a disk of a definition's JSON: drop its layers from `top` to base - 1. */
void vm_layers_drop(struct json_object *disk, unsigned top, unsigned base);

#endif
