/* exec: the job that runs a program in the guest, with cairn-agent (docs/agent.md). The job does not own its VM, so
 * snapshots, other jobs and further jobs of this type may run at the same time. When the job is cancelled, or the
 * daemon ends, the connection to the agent ends, and with that the agent kills the program.
 *
 * The guest is not trusted: the job checks each frame, parses no output, and keeps a limited part of the output.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_EXEC_H
#define CAIRN_API_JOBS_EXEC_H

#include "api/jobs/job.h"
#include "base/agent_frame.h"

#include <stddef.h>
#include <stdint.h>

struct err;
struct job;
struct json_object;
struct peer;
struct vm;
struct vm_host;

#define EXEC_JOBS_MAX 8			  /* of a VM at once */
#define EXEC_USER_JOBS_MAX 64		  /* of a user other than root at once */
#define EXEC_KEPT_BYTES (64u * 1024)	  /* of each stream; the rest is dropped */
#define EXEC_PAGE_BYTES (12u * 1024)	  /* of each stream in one answer */
#define EXEC_INPUT_BYTES AGENT_WINDOW_BYTES /* limit of the input, which goes with the request */

struct exec_request {
	const struct agent_start *start; /* without AGENT_START_INPUT */
	const void *input;
	size_t input_bytes;
	uint64_t timeout_ns; /* 0: none */
	struct job_name name;
};

/* Begin the job.
 * who: the user, whose role the connection needs as long as it is open.
 * Returns 0; -EBUSY: the VM or the user has too many of these jobs; -E2BIG: the request does not fit into a frame; as
 * job_new(). */
int exec_begin(struct vm *vm, const struct peer *who, const struct exec_request *q, struct job **ret_j, struct err *e);
/* Cancel the jobs whose users have lost the role. */
void exec_check_roles(struct vm_host *host);

/* Return an object with a page of the program's output so far, and the program's exit status if it has ended. The
 * caller owns it. NULL: the job is of another type, or of an earlier daemon.
 * from: where the pages of standard output and standard error begin, in bytes. */
struct json_object *exec_output(const struct job *j, const uint64_t from[2]);

#endif
