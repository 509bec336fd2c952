/* image_users: which VMs use a file, as their definitions say: the daemon looks into no image. Paths are
 * compared as they stand there; a linked clone has its source's word for word. */
#ifndef CAIRN_API_VM_IMAGE_USERS_H
#define CAIRN_API_VM_IMAGE_USERS_H

#include <stdbool.h>
#include <stddef.h>

struct err;
struct vm;

/* Another VM with that file in any of its disks' layers, as defined or as it runs. NULL: none. */
const struct vm *image_user(const struct vm *vm, const char *path);
/* VMs whose disks stand on one that this VM writes to: its linked clones. "web-01, web-02 and 7 more".
 * Returns how many. */
unsigned image_clones(const struct vm *vm, char *names, size_t cap);
/* Are its images only read? Those of a template, whoever else has them, and of a VM with linked clones. */
bool image_is_frozen(const struct vm *vm);
/* May what it is be changed: its definition, its name? what: "rename it". Returns 0; -EPERM with a sentence. */
int template_check(const struct vm *vm, const char *what, struct err *e);
/* May its images be changed? Not those of a template, nor of a VM with linked clones.
 * what: "start". Returns 0; -EPERM with a sentence. */
int image_check_writable(const struct vm *vm, const char *what, struct err *e);

#endif
