/* dump: a guest's memory and registers into an ELF core file (vmm/snapshot/vm_dump.h), as a job "dump": one that the caller
 * opened, or, by policy (on_crash coredump-*, the watchdog's action dump), one in the folder `dumps` of the VM's own,
 * NAME-TIME.core, of which the DUMPS_KEPT newest stay. Until it is whole it is NAME-TIME.core.tmp there.
 *
 * How each went is told by the event DUMP_COMPLETED. */
#ifndef CAIRN_API_JOBS_DUMP_H
#define CAIRN_API_JOBS_DUMP_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct job;
struct json_object;
struct vm;
struct vm_observer;

#define DUMPS_KEPT 2

enum dump_then {
	DUMP_THEN_NOTHING,
	DUMP_THEN_CRASH,  /* the VM is stopped at once */
	DUMP_THEN_RESET,
	DUMP_THEN_RESUME, /* it was paused for this */
	DUMP_THEN_END,	  /* it has crashed, and its process was kept for this */
};

/* The last one of a run; what query-dump says. */
struct dump_state {
	enum { DUMP_NONE, DUMP_ACTIVE, DUMP_COMPLETED, DUMP_FAILED } status;
	uint64_t completed, total;
};

/* fd: borrowed: an empty regular file open for writing. path: of that file, for events; NULL: not known.
 * over: once, when it has ended, unless this fails; NULL: nobody waits. */
struct dump_request {
	int fd;
	const char *path;
	enum dump_then then;
	const char *job_id; /* NULL: one is made */
	void (*over)(void *opaque, int r, const struct err *e);
	void *opaque;
};
int dump_begin(struct vm *vm, const struct dump_request *q, struct job **ret_j, struct err *e);

/* {"status", "completed", "total"}; the caller puts it. */
struct json_object *dump_state_to_json(const struct vm *vm);

/* Dumps by policy when the VM has crashed or its watchdog has bitten: at once, or when its job has concluded. */
extern const struct vm_observer dump_observer;
/* A job of this VM's has concluded. */
void dump_job_over(struct vm *vm);

#endif
