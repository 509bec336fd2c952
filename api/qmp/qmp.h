/* qmp: a VM's own socket with QEMU's commands, events and job semantics, for programs that were written for QEMU.
 *
 * The socket exists while the VM is on, as QEMU's does, and clients see the end of the stream when the VM ends. The
 * socket's file is named after the VM's uuid: everybody may search the folder, and must not learn the VM's name.
 *
 * Threading: the loop's thread. */
#ifndef CAIRN_API_QMP_QMP_H
#define CAIRN_API_QMP_QMP_H

#include "api/schema/schema.h"

#include <stdint.h>

struct call;
struct err;
struct json_object;
struct qmp_backend;
struct vm;
struct vm_answer;
struct vm_host;
struct vm_observer;

/* Create the folder, remove sockets that an earlier daemon left, and open the sockets of all VMs that run.
 * Returns 0; -errno with a sentence. */
int qmp_open_all(struct vm_host *host, struct err *e);
/* Close all sockets and remove their folder, at the daemon's end. */
void qmp_close_all(struct vm_host *host);
/* Opens a VM's socket when its process runs and closes it when the VM is off. Failures go to the log. */
extern const struct vm_observer qmp_observer;
/* Send a daemon's event to the clients of the VM's socket if QEMU has such an event. Borrows o. */
void qmp_emit(struct vm_host *host, enum event_id id, const char *vm, const uint8_t uuid[16], struct json_object *o);

/* Return the VM's list of qmp_device.h; NULL while it has no socket. */
struct qmp_backend **qmp_backends(const struct vm *vm);

struct job;
/* Return the members of a block job in QEMU's events and query-block-jobs. */
struct json_object *qmp_block_job_to_json(const struct job *j);

/* Return QEMU's RunState: "running", "paused", "io-error", … */
const char *qmp_run_state(const struct vm *vm);

/* Run one line of QEMU's human monitor and answer the call. */
void qmp_hmp(struct call *c, const char *line);

/* Send a query to the VM's process; the call fails if there is none or the VM is being stopped. */
void qmp_ask(struct call *c, void (*done)(void *opaque, int r, const struct vm_answer *a,
	const struct err *e));

#endif
