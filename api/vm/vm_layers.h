/* vm_layers: external snapshots of a running VM's disks: each disk gets an empty overlay, all at one instant, and its
 * previous image becomes the first backing file. By disk_change.h. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_LAYERS_H
#define CAIRN_API_VM_VM_LAYERS_H

struct call;
struct definition;
struct err;
struct json_object;

/* Let the disks in `args.disks` continue with their overlays, and answer the call. The definition of the next start
 * must name the overlays already: if it named the old images, a start after a crash would write to them. With
 * `args.check-only`, only check whether that is possible. */
void vm_layers_snapshot(struct call *c);

/* Change a disk of a definition's JSON: drop its layers from `top` to base - 1. */
void vm_layers_drop(struct json_object *disk, unsigned top, unsigned base);

#endif
