/* vm_medium: changes the medium of a CD drive of a running VM, by disk_change.h. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_MEDIUM_H
#define CAIRN_API_VM_VM_MEDIUM_H

#include <stdbool.h>

struct call;
struct json_object;

/* Give the drive `args.disk` the medium `args.medium` (path, format, data_file and backing, as in a definition), or
 * none, and answer the call. */
void vm_medium_change(struct call *c);
/* Give a drive, an object of a definition's `disks`, the medium of another one. medium: NULL: none. */
void vm_medium_put(struct json_object *drive, struct json_object *medium);
/* Return whether two drives have the same medium, or both have none. */
bool vm_medium_is_same(struct json_object *a, struct json_object *b);

#endif
