/* run_overlay: an overlay on a disk of `cairn run` that vanishes with the VM: its file has no name. */
#ifndef CAIRN_TOOLS_RUN_OVERLAY_H
#define CAIRN_TOOLS_RUN_OVERLAY_H

struct err;
struct json_object;

/* Put an overlay, a file of TMPDIR or /var/tmp, on the disk: the guest's writes go there, and the image is only read.
 * disk: JSON of the disk, with an absolute path, a format and the backing layers. Its path is then one of this process
 * (/proc/self/fd/N); open it before *ret_fd is closed.
 * ret_fd: owned by the caller. Returns 0; -errno with a sentence. */
int run_overlay_put(struct json_object *disk, int *ret_fd, struct err *e);

#endif
