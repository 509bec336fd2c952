/* vm_copy: chooses between a disk of a running VM and its copy, after api/jobs/copy.h: until then both get each change,
 * so each of them has what the guest has flushed. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_VM_COPY_H
#define CAIRN_API_VM_VM_COPY_H

struct call;

/* Go on with the copy `args.path` of `args.format` as disk `args.disk`, and answer the call. The definition of the next
 * start must name the copy already: if it named the disk, a start after a crash would lack what the copy alone has. */
void vm_copy_pivot(struct call *c);
/* Go on with the disk `args.disk`, without the copy, and answer the call. The definition of the next start must name
 * the disk. */
void vm_copy_abort(struct call *c);

#endif
