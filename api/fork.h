/* fork: running copies of a running VM, or of a snapshot, as a job. The state goes into a file in memory, and the
 * disks are copied; the clones begin with it and share its pages until they write to them.
 *
 * All of them or none. A clone's definition is in the state folder before its process is there, beside a
 * marker that goes when the job has succeeded: clones of a job that a daemon did not live to end are
 * forgotten by the next one. */
#ifndef CAIRN_API_FORK_H
#define CAIRN_API_FORK_H

#include <stdbool.h>

struct daemon;
struct err;
struct job;
struct vm;

#define FORK_CLONES_MAX 1000
#define FORK_MARKER "fork.pending"

struct fork_how {
	const char *name;
	unsigned count; /* 0: one, that has the name; else so many, with -1, -2, ... behind it */
	bool paused, hint_hostname;
	const char *snapshot; /* NULL: what the VM is now; else it may be off */
};

/* Result: count, first, last (names), pause, total (ns), ram-bytes-written. Names that are taken and what
 * cannot be cloned are refused before anything is done. */
int fork_begin(struct vm *vm, const struct fork_how *how, const char *job_id, struct job **ret_j,
	struct err *e);

/* At the daemon's start, with all VMs there: ends and forgets what is marked. */
void fork_clear_up(struct daemon *d);

#endif
