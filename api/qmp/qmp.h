/* qmp: a VM's own socket, in QEMU's words: its commands, events, job semantics. Programs that were
 * written for QEMU talk to it unchanged.
 *
 * It is there while the VM has a process, as QEMU's is, and clients see the end of the stream
 * when the VM ends. The file is named after the uuid, so that a folder which everybody may pass
 * through tells no VM's name. */
#ifndef CAIRN_API_QMP_QMP_H
#define CAIRN_API_QMP_QMP_H

#include "api/schema/schema.h"

struct call;
struct daemon;
struct err;
struct json_object;
struct qmp_fds;
struct vm;
struct vm_answer;

/* Makes the folder; removes what an earlier daemon left; opens the sockets of all VMs that run.
 * Returns 0; -errno with a sentence. */
int qmp_open_all(struct daemon *d, struct err *e);
/* The daemon ends. */
void qmp_close_all(struct daemon *d);
/* The VM's state has changed: its socket comes or goes. A socket that cannot be made is logged. */
void qmp_follow(struct vm *vm);
/* Where it is, or will be. Returns 0; -ENAMETOOLONG with a sentence. */
int qmp_path(const struct vm *vm, char *buf, size_t size, struct err *e);
/* An event of the daemon's, to the clients of that VM, if QEMU has it. Borrows o. */
void qmp_emit(struct daemon *d, enum event_id id, const char *vm, struct json_object *o);

/* What getfd took; NULL while it has no socket. */
struct qmp_fds *qmp_fds(struct vm *vm);

/* "running", "paused", "io-error", …: RunState. */
const char *qmp_run_state(const struct vm *vm);

/* human-monitor-command: the text of one line typed at QEMU's monitor. Answers the call. */
void qmp_hmp(struct call *c, const char *line);

/* What is asked of a VM whose process is there; else the call fails. */
void qmp_ask(struct call *c, void (*done)(void *opaque, int r, const struct vm_answer *a,
	const struct err *e));

#endif
