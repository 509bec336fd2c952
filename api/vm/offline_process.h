/* offline_process: a short-lived process that works on the disks of a VM that is off, such as on the snapshots in them.
 * The process is a cairn-vm without a machine (vm_config.images_only), in the same sandbox. The daemon ends it when no
 * request is left. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_OFFLINE_PROCESS_H
#define CAIRN_API_VM_OFFLINE_PROCESS_H

#include "api/vm/vm_process.h"

#include <stdbool.h>

struct offline_process;
struct client_file;
struct err;
struct vm;

/* Send a request to the offline process of a VM that is off, and start the process if there is none.
 * body: borrowed. done: as for vm_process_request(), and also called if the process cannot be started; never called
 * from inside this function. */
void offline_request(struct vm *vm, enum vm_msg_type type, const void *body, size_t len,
	uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e),
	void *opaque);
/* Send a request like offline_request(), with files. fds: borrowed. file: files that another process holds, which
 * become the first ones (api/access/client_file.h); taken; NULL: none. */
void offline_request_with(struct vm *vm, enum vm_msg_type type, const void *body, size_t len, struct client_file *file,
	const int *fds, unsigned nfds, uint64_t timeout_ns,
	void (*done)(void *opaque, int r, const struct vm_answer *a, const struct err *e), void *opaque);
/* Start the offline process, able to copy `copiers` disks concurrently. While vm->operation.copiers is set, so can the
 * processes that replace it. The VM must have no offline process. */
void offline_start_copiers(struct vm *vm, unsigned copiers);
/* Have run() called when the offline process has ended, or could not be started, and holds no image. By then the VM may
 * be gone or have another offline process. run() is also called when the process was killed and does not end, because a
 * file system does not answer: see offline_check(). run() is not called if the daemon ends first.
 * Returns false if there is no offline process, or one that does not end; run is not called then. */
bool offline_wait(struct vm *vm, void (*run)(void *opaque), void *opaque);
/* Check that the VM has no offline process that was killed and does not end. Such a process holds the images, and
 * requests fail until it has ended. Returns 0; -ETIMEDOUT with the sentence of offline_hung_set(). */
int offline_check(const struct vm *vm, struct err *e);
/* Find the VM that uses an image of `vm`, if a process, which sees no other VMs, could say only that some process does.
 * e: the process's error; NULL allowed. named: room for the error with the name. Returns e, or `named`. */
const struct err *offline_name_user(const struct vm *vm, const struct err *e, struct err *named);
/* Set the error for images that do not answer. It names them. Returns -ETIMEDOUT. */
int offline_hung_set(const struct vm *vm, struct err *e);
/* Adopt and end an offline process that an earlier daemon left, if there is one. The process holds the images until it
 * ends, so requests and a start of the VM wait for that. */
void offline_end_old(struct vm *vm);

extern const struct vm_observer offline_observer;

#endif
