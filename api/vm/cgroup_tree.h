/* cgroup_tree: the control group in which each VM's process has a group of its own. The daemon finds or makes it at its
 * start; VMs' groups outlive the daemon in it.
 * Threading: the daemon's loop, except cgroup_tree_enter(). */
#ifndef CAIRN_API_VM_CGROUP_TREE_H
#define CAIRN_API_VM_CGROUP_TREE_H

#include "base/cgroup.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct daemon_paths;
struct err;

struct cgroup_tree {
	int fd; /* the folder; -1: VMs have no groups */
	char path[PATH_MAX];
	bool has[CGROUP_CONTROLLERS]; /* the limits that groups in it can have */
	bool made; /* the daemon removes the folder if it is empty */
	char lack[200]; /* why VMs have no groups, or no group with all limits; "": they have */
	int holder; /* keeps the scope of the service manager as long as it is open; -1: there is none */
};

#define CGROUP_WEIGHT 100 /* the kernel's default */

/* 0: no limit, and the default weight. */
struct cgroup_limits {
	uint64_t memory_bytes;
	unsigned pids;
	unsigned cpu_weight; /* 1 to 10000 */
	unsigned cpu_percent; /* of one processor */
};

/* The control group of a new process. */
struct cgroup_place {
	char name[40]; /* of the folder in the tree; "": no group */
	bool keeps;    /* a group that exists keeps its limits */
	struct cgroup_limits limits;
	const struct cgroup_tree *tree; /* borrowed; set if there is a group */
};

/* Find or make the folder as p->cgroup says.
 * managed: a service manager has started the daemon.
 * ret: the caller passes it to cgroup_tree_close(), also if VMs have no groups. */
void cgroup_tree_open(const struct daemon_paths *p, bool managed, struct cgroup_tree *ret);
void cgroup_tree_close(struct cgroup_tree *t);
/* Use a folder that another program has made and delegated. ret: as for cgroup_tree_open(). Returns 0; -errno. */
int cgroup_tree_join(const char *path, struct cgroup_tree *ret);

/* Make the group of a place, if it does not exist, and set its limits. Any thread.
 * Returns its folder, owned by the caller; -errno with a sentence. */
int cgroup_tree_enter(const struct cgroup_tree *t, const struct cgroup_place *place, struct err *e);
/* Set the limit of a group's memory. bytes: 0: none. Returns 0; -ENOENT: there is no such group; -errno. */
int cgroup_tree_limit_memory(const struct cgroup_tree *t, const char *name, uint64_t bytes);
/* Write a number to a file of a group. Returns 0; -ENOENT; -errno. */
int cgroup_tree_write(const struct cgroup_tree *t, const char *name, const char *file, uint64_t n);
/* Read a file of a group, of which buf gets the first size - 1 bytes. Returns 0; -ENOENT; -errno. */
int cgroup_tree_read_text(const struct cgroup_tree *t, const char *name, const char *file, char *buf, size_t size);
/* Read a number from a file of a group. Returns 0; -ENOENT; -EINVAL: it has none, as with "max"; -errno. */
int cgroup_tree_read(const struct cgroup_tree *t, const char *name, const char *file, uint64_t *ret);
/* Remove a group without processes. Returns 0; -EBUSY: it has some; -errno. */
int cgroup_tree_remove(const struct cgroup_tree *t, const char *name);

#endif
