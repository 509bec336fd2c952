/* vm_copy: chooses between a disk of a running VM and its copy, after api/jobs/copy.h: until then both get each
 * change, so each of them has all data that the guest has flushed. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_COPY_H
#define CAIRN_API_VM_VM_COPY_H

struct call;
struct err;
struct vm;

/* Go on with the copy `args.path` of `args.format` as disk `args.disk`. The definition of the next start must not
 * have the disk's image any more, but the copy: otherwise a start after a crash would lack the changes that only the
 * copy has. It may have an image of its own that needs neither. With `args.check-only`, only ask the VM's process
 * whether it would refuse that.
 * answer: as for disk_change_begin(); it also takes over the observers' copy_ended. NULL: answer the call. */
void vm_copy_pivot(struct call *c, void (*answer)(void *call, int r, const struct err *e));
/* Go on with the disk `args.disk`, without the copy, and answer the call. The definition of the next start must
 * not name the copy. */
void vm_copy_abort(struct call *c);
/* Do as vm_copy_abort(), without a call. done: called unless the function fails. Returns 0 or -errno. */
int vm_copy_end(struct vm *vm, const char *disk, void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);

#endif
