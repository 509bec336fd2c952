/* working_set_file: the list of memory blocks that a VM touched first after restores (snapshot/working_set.h), in its
 * file "touched". A VM's process gets a copy in memory that cannot grow, so a process that was taken over cannot fill
 * the file system with it. When the process has ended, the daemon stores the process's copy, at most
 * WORKING_SET_FILE_BYTES. The list is a hint, and is lost if another daemon has started meanwhile.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_WORKING_SET_FILE_H
#define CAIRN_API_VM_WORKING_SET_FILE_H

#define WORKING_SET_FILE_BYTES (16 + 4 * (12 + 4 * 16384)) /* of a full list */

struct err;
struct vm;

/* Make the copy for a process that starts. Returns an fd, owned by the caller; -errno. */
int working_set_file_open(struct vm *vm, struct err *e);
/* The process has ended: keep its list. */
void working_set_file_keep(struct vm *vm);

#endif
