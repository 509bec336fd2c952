/* image_users: finds the VMs whose definitions name an image file. The module opens no image for that, and compares
 * paths as text. That suffices for linked clones, because a clone's definition copies its source's paths verbatim.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_IMAGE_USERS_H
#define CAIRN_API_VM_IMAGE_USERS_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct vm;

/* Return a VM other than `vm` that has the file as an image, backing file or data file, in its definition or in the
 * definition with which its process runs. NULL: none. */
const struct vm *image_user(const struct vm *vm, const char *path);
/* Check that no other VM than `source` has the image that a clone of it is to get. Returns 0; -EEXIST. */
int image_check_new(const struct vm *source, const char *path, struct err *e);
/* Count the VM's linked clones: VMs with a disk whose backing chain has an image that this VM writes to. A backing file
 * that is read at a pin (pins.h) does not count.
 * names, cap: gets a list such as "web-01, web-02 and 7 more". */
unsigned image_clones(const struct vm *vm, char *names, size_t cap);
/* Whether the VM's images must not be written: the VM is a template, has linked clones, or shares a writable disk's
 * image with a template. */
bool image_is_frozen(const struct vm *vm);
/* Check that the VM is no template, so that its definition and name may change.
 * what: verb phrase for the error, such as "rename it".
 * Returns 0; -EPERM. */
int template_check(const struct vm *vm, const char *what, struct err *e);
/* Check that the VM's images may be written; see image_is_frozen(). what: a verb for the error, such as "start".
 * Returns 0; -EPERM. */
int image_check_writable(const struct vm *vm, const char *what, struct err *e);
/* Check that a lower layer of a VM's disk may be written: no other disk, of any VM, has it as its image, or as a
 * backing file that it does not read at a pin.
 * disk: the disk's id. path: of the layer.
 * Returns 0; -EPERM. */
int image_check_base(const struct vm *vm, const char *disk, const char *path, struct err *e);
/* Check that the image of a disk which the running VM gets may be written: it is no image of another VM that is a
 * template, and no backing file of another VM's disk, except one that the disk reads at a pin. Returns as above. */
int image_check_added(const struct vm *vm, const char *disk, const char *path, struct err *e);

#endif
