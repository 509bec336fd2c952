/* group_clone: the job that makes a live clone of each of several VMs at one instant, all of them or none.
 *
 * Each VM has a fork job of its own. The group's job owns no VM, and takes the fork jobs through the steps of
 * vmm/vm_snapshot_msg.h. The clones stay paused until all are complete. A file in the state folder names them until
 * then: a daemon that finds it at its start removes those that were made. VMs that share a network get clones that
 * share a network of their own (api/net/group_network.h). Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_GROUP_CLONE_H
#define CAIRN_API_JOBS_GROUP_CLONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct call;
struct err;
struct job;
struct json_object;
struct rights;
struct vm;
struct vm_host;

struct group_clone_opts {
	const char *pattern; /* of the names: %s is the source's name; NULL: "%s-clone" */
	bool paused, ephemeral, hint_hostname; /* as in struct fork_opts */
	bool keep_networks; /* the clones stay on the networks that the VMs share */
	const bool *isolated; /* for each VM, as in struct fork_opts */
	unsigned cpu_quota; /* of each clone, as in struct fork_opts, and so are the others */
	uint64_t memory_max_bytes;
	struct json_object *forwards;
	const struct rights *forwards_rights;
};

/* Start the job. Its result: spread and total (both in ns), clones (for each: vm, name, uuid, instant, pause, and if
 * there are any, addresses, published and forwards-left-out), and networks (for each: name and source).
 * vms: n different VMs, at most GROUP_VMS_MAX, which can be forked now. by: its user owns the jobs.
 * Returns 0; -errno: nothing was begun. */
int group_clone_begin(struct vm *const *vms, size_t n, const struct group_clone_opts *opts, const char *job_id, const struct call *by,
	struct job **ret_j, struct err *e);
/* Begin to remove the clones of groups that an earlier daemon has not completed. Call it when the running VMs are
 * adopted. */
void group_clone_clear_up(struct vm_host *host);

#endif
