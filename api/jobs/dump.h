/* dump: the job that writes a guest's memory and registers into an ELF core file (vmm/snapshot/vm_dump.h). For a dump
 * that a client requests, the caller opens the file. A dump by policy (on_crash coredump-*, the watchdog's action dump)
 * goes to NAME-TIME.core in the VM's folder `dumps`, where the DUMPS_KEPT newest are kept. An incomplete file there is
 * named NAME-TIME.core.tmp.
 *
 * The event DUMP_COMPLETED reports the outcome. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_DUMP_H
#define CAIRN_API_JOBS_DUMP_H

#include <stdint.h>

struct client_file;
struct err;
struct job;
struct json_object;
struct vm;
struct vm_observer;

#define DUMPS_KEPT 2

/* The act of the job on the VM after the dump. The VM's process keeps the number for the next daemon. */
enum dump_then {
	DUMP_THEN_NOTHING,
	DUMP_THEN_CRASH,  /* stop the VM at once */
	DUMP_THEN_RESET,
	DUMP_THEN_RESUME, /* resume the VM, which its watchdog paused */
	DUMP_THEN_END,	  /* end the process of a crashed VM, which was kept for the dump */
	DUMP_THEN_COUNT,
};

/* The last dump of the VM since this daemon began, for query-dump. */
struct dump_state {
	enum { DUMP_NONE, DUMP_ACTIVE, DUMP_COMPLETED, DUMP_FAILED } status;
	uint64_t completed, total; /* bytes of memory */
};

/* A request for a dump.
 * file:  an empty regular file open for writing; taken on success, and then NULL.
 * path:  the file's path, for events; NULL: unknown.
 * over:  called once when the job has ended, unless dump_begin() fails; NULL allowed. */
struct dump_request {
	struct client_file **file;
	const char *path;
	enum dump_then then;
	const char *job_id; /* NULL: generated */
	void (*over)(void *opaque, int r, const struct err *e);
	void *opaque;
};
/* Begin the job. Returns 0; -errno: the file is not suitable, the VM is off, or another operation is under way. */
int dump_begin(struct vm *vm, const struct dump_request *q, struct job **ret_j, struct err *e);

/* Return {"status", "completed", "total"}, owned by the caller. */
struct json_object *dump_state_to_json(const struct vm *vm);

/* Starts dumps by policy when the VM has crashed or its watchdog has fired: at once, or when the VM's job has
 * concluded. Adopts a dump that outlived its daemon. */
extern const struct vm_observer dump_observer;

#endif
