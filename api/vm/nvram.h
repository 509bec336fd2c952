/* nvram: the file of a VM's UEFI variables, in the VM's folder. The daemon opens it, and only the VM's process
 * knows its format (devices/legacy/flash_file.h).
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_NVRAM_H
#define CAIRN_API_VM_NVRAM_H

struct config;
struct definition;
struct err;
struct vm;

/* If the VM has UEFI, add its file to the configuration of its start; the VM's process fills a new one from the
 * template. With start.opts.reset_nvram, empty it before.
 * live: the definition with which it starts. Returns 0; -EINVAL: there are no variables to reset; -errno. */
int nvram_add(const struct vm *vm, const struct definition *live, struct config *c, struct err *e);

/* Open the file for a program that reads the variables while the VM is off, and redoes a write that a crash cut off.
 * ret_fd: owned; -1: the VM has none. Returns 0 or -errno. */
int nvram_open(const struct vm *vm, int *ret_fd, struct err *e);

#endif
