/* kept_layer: writable layers of `cairn run --keep NAME`, which later runs of the same image continue. They are files
 * in $XDG_DATA_HOME/cairn/layers:
 *
 *   NAME.img   a sparse raw image of a disk with ext4, whose UUID is the first half of the image's digest
 *
 * A run holds a lock (flock) of its layer. */
#ifndef CAIRN_TOOLS_KEPT_LAYER_H
#define CAIRN_TOOLS_KEPT_LAYER_H

#include <limits.h>

struct err;
struct json_object;

/* Make the layer if it is missing, and lock it.
 * digest: of the image below it, "sha256:...". ret_path: of the disk. ret_lock: fd; the lock's owner closes it.
 * Returns 0; -EBUSY: another run has it; -EINVAL: it is of another image; -errno with a sentence. */
int kept_layer_open(const char *name, const char *digest, char ret_path[PATH_MAX], int *ret_lock, struct err *e);
/* List the layers. *ret: an array of name, digest (its first half), size, capacity, used (seconds since 1970), in_use,
 * path; owned by the caller. Returns 0; -errno with a sentence. */
int kept_layers_list(struct json_object **ret, struct err *e);
/* Remove a layer. Returns 0; -EBUSY: a run has it; -ENOENT; -errno with a sentence. */
int kept_layer_remove(const char *name, struct err *e);

#endif
