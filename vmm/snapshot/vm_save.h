/* vm_save: a VM's state into a file, and a machine out of one. Format: snapshot/vmstate.h. */
#ifndef CAIRN_VMM_SNAPSHOT_VM_SAVE_H
#define CAIRN_VMM_SNAPSHOT_VM_SAVE_H

struct err;
struct machine;
struct vm;
struct worker;

/* Pause the VM, write its state on the worker's thread, end the VM. The loop goes on meanwhile.
 * state_fd, definition_fd (-1: none): taken. done() is called on the loop, unless this fails at
 * once (-EBUSY, ERR_WRONG_STATE). When it fails later, the VM goes on as it was. */
int vm_save(struct vm *vm, struct worker *w, int state_fd, int definition_fd,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque, struct err *e);

/* In place of machine_boot(), before the threads are made. Everything small is checked before
 * anything is set; RAM is read by a pager, or, where userfaultfd is not to be had or the
 * configuration says so, here. fd: taken. */
int machine_restore(struct machine *m, int fd, struct err *e);

#endif
