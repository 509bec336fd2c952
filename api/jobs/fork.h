/* fork: the job that makes live clones of a running or paused VM, or of a snapshot. The source's process or offline
 * process writes the VM's state into a memfd. The clones start from that state and share its pages until they write to
 * them.
 *
 * A clone's writable disk is an overlay where that is possible: it reads the source's image as of the instant of the
 * fork or of the snapshot (vmm/snapshot/fork_disks.h, api/vm/pins.h). Other writable disks are copied. Clones share the
 * source's read-only disks.
 *
 * The clones are a batch (api/jobs/batch.h): the job makes all of them or none. Each is defined before its process
 * starts. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_FORK_H
#define CAIRN_API_JOBS_FORK_H

#include <stdbool.h>
#include <stdint.h>

struct definition;
struct err;
struct json_object;
struct job;
struct owner_claim;
struct rights;
struct vm;

#define FORK_CLONES_MAX 1000

struct fork_opts {
	const char *name;    /* NULL: use the pattern */
	const char *pattern; /* "web-%02d"; NULL: use the name */
	unsigned count; /* 0: one clone; else that many, without a pattern named NAME-1, NAME-2, … */
	unsigned cpu_quota; /* of each clone, as in its definition; 0: the source's */
	uint64_t memory_max_bytes; /* likewise */
	bool paused, hint_hostname;
	bool isolated; /* copy all writable disks, so that the clones' processes get no writable image of another VM */
	bool ephemeral; /* undefine each clone, and remove the images that were made for it, when it has ended */
	struct json_object *forwards;	      /* of each clone's first run (api/net/publish.h); borrowed; NULL: none */
	const struct rights *forwards_rights; /* of the user who adds them; borrowed; NULL: the daemon's own */
	const char *snapshot; /* name or id; the VM may be off. NULL: clone the VM's present state */
	/* Of a group (group_clone.h): the VM's process waits in the stages VM_GROUP_HELD and VM_GROUP_FROZEN, and this
	 * is called in each. NULL: no group. */
	void (*group_stage)(void *opaque, int64_t stage);
	void *group_opaque;
	struct owner_claim *owners; /* of a creator who makes the clones; taken by fork_begin(); NULL: none */
	struct json_object *networks; /* object: from a network of the source to the clones' in its place; borrowed; NULL: none */
};

/* Start the job. Its result: count, first, last (names), clones (name and uuid), pause, total (both in ns), instant,
 * ram-bytes-written, the members of job_put_tracking(), forwards-left-out, addresses and published (if there are any),
 * and disks: for each writable disk id, made ("overlay" or "copy"), flattened-layers (the number of layers, if it is so
 * large that flatten.h pulls the disk), the reason for a copy, and the bytes that the first clone's file occupies.
 * Returns 0; -errno, and then nothing was created: a name is in use, or the VM cannot be cloned. */
int fork_begin(struct vm *vm, const struct fork_opts *opts, const char *job_id, struct job **ret_j,
	struct err *e);

/* Get the UUID of the first clone of a fork that is under way. */
void fork_first_uuid(const struct job *j, uint8_t uuid[16]);
/* Get the definition of that clone: the fork's or the clone's. */
const struct definition *fork_first_definition(const struct job *j);
/* Set the other clones of a group, which the clone's guest finds in networks: see network_ports_set_peers(). Call it
 * before the fork has been in the loop. peers: taken. */
void fork_set_peers(struct job *j, struct json_object *peers);

#endif
