/* images: a short-lived process that works on the disks of a VM that is off: the snapshots in
 * them. A VM's process without a machine (vm_config.images_only), with the same sandbox; it
 * ends when nobody wants anything of it any more. */
#ifndef CAIRN_API_VM_OFFLINE_PROCESS_H
#define CAIRN_API_VM_OFFLINE_PROCESS_H

#include "api/vm/vm_process.h"

#include <stdbool.h>

struct offline_process;
struct vm;

/* Ask it, starting it if need be. The VM is off. body: borrowed. done: as of
 * vm_process_request(), but also when it could not be started; never from inside this call. */
void offline_request(struct vm *vm, enum vm_msg_type type, const void *body, size_t len,
	uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);
/* The same with files; borrowed. */
void offline_request_fds(struct vm *vm, enum vm_msg_type type, const void *body, size_t len,
	const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);
/* Starts one that can copy so many disks at a time, as those that follow it can until the VM's `copiers` is 0 again.
 * There is none. */
void offline_start_copiers(struct vm *vm, unsigned copiers);
/* False: no such process is there. True: run is called when it has gone, and has let go of the images;
 * the VM may be gone by then, too, or another process be there. Not called when the daemon ends. */
bool offline_wait(struct vm *vm, void (*run)(void *opaque), void *opaque);
/* Lets go of it; it ends when it notices. NULL allowed. */
void offline_free(struct offline_process *i);
/* A process that an earlier daemon left: told to end. Until it has, it holds the images: requests
 * and a start wait for that. */
void offline_end_old(struct vm *vm);

#endif
