/* quotas: limits on the resources that the VMs of one user, or of the members of one group, use in total. The default
 * quota is for each user without a quota of its own. Stored in quotas.json. api/vm/quota_use.h computes the use of
 * the VMs, and checks it against the limits. Root and the daemon's own user have no quota.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_ACCESS_QUOTAS_H
#define CAIRN_API_ACCESS_QUOTAS_H

#include "api/store/change_queue.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct json_object;
struct loop;
struct peer;
struct rights;
struct store;

#define QUOTAS_MAX 4096
#define QUOTAS_FILE "quotas.json"
#define QUOTA_NO_LIMIT UINT64_MAX

enum quota_kind {
	QUOTA_DEFAULT,
	QUOTA_USER,
	QUOTA_GROUP,
};

/* The resources that a quota limits. */
enum quota_item {
	QUOTA_VMS,     /* defined VMs */
	QUOTA_RUNNING, /* VMs that are active or starting */
	QUOTA_MEMORY,  /* bytes of RAM of these */
	QUOTA_VCPUS,   /* vCPUs of these */
	QUOTA_DISK,    /* bytes of the images that Cairn made for the VMs */
	QUOTA_SNAPSHOTS, /* snapshots of the VMs */
	QUOTA_ITEM_COUNT,
};

struct quota {
	enum quota_kind kind;
	uint32_t id; /* uid or gid; 0 for the default */
	uint64_t limits[QUOTA_ITEM_COUNT]; /* QUOTA_NO_LIMIT: none */
};

struct quotas {
	struct quota *list; /* owned array */
	size_t n;
	const char *unknown; /* static: why the limits could not be loaded, and the remedy for root; NULL: they are
			      * loaded */
	bool keeps_file; /* the file could not be read, and must not be overwritten */
	struct change_queue changes;
};

/* Free the table and the changes that are not stored. */
void quotas_done(struct quotas *q);
/* Load the table at the daemon's start. */
void quotas_load(struct quotas *q, struct store *s);

/* Return an item's name in JSON: "vms", "memory". */
const char *quota_item_name(enum quota_item i);
/* Return the quota of that user or group, or the default; NULL: there is none. */
const struct quota *quotas_find(const struct quotas *q, enum quota_kind kind, uint32_t id);
/* Return whether the quota binds the VMs of a definer. The default binds definers without a quota of their own.
 * definer: NULL: root or the daemon's own user, whom no quota binds. */
bool quotas_bind(const struct quotas *q, const struct quota *one, const struct rights *definer);

/* Change, add or remove a quota. The change is in effect once the table is stored; changes are stored one by one.
 * change: the limits of items in the mask `given` replace the present ones. given 0: remove the quota.
 * done: called once, at once or from the loop, unless quotas_done() comes first.
 *   r: 0; -ENOENT: there is no quota to remove; -ENOSPC: the table is full; -EIO: the daemon could not read the file;
 *      -errno of the store. */
void quotas_change(struct quotas *q, struct loop *l, struct store *s, const struct quota *change, unsigned given,
	void (*done)(void *opaque, int r, const struct err *e), void *opaque);

/* Add "user": N, "group": N or "default": true to an object. */
void quota_put_subject(struct json_object *o, const struct quota *q);
/* Return {"vms": N, …} without the items whose value is QUOTA_NO_LIMIT; owned by the caller. */
struct json_object *quota_values_to_json(const uint64_t values[QUOTA_ITEM_COUNT]);

#endif
