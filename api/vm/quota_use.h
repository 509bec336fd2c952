/* quota_use: computes the use of the VMs of a user or group, and checks it against their quotas
 * (api/access/quotas.h). A VM counts for its definer. If another user than root has changed its memory or vCPUs
 * since, these count for that user (authors.h). The numbers come from the registry each time, so work that failed or
 * was cancelled leaves no charge, and each daemon counts the same. A job that makes VMs claims their room first, so
 * that jobs that run at once share the quota.
 *
 * Disk: a VM counts with the images that a clone, a fork or an import made for it, with their size at that time, and
 * with the data that a pull copies. Quotas of the file system limit images that a user brings and later writes of
 * guests, because the definer owns the files.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_QUOTA_USE_H
#define CAIRN_API_VM_QUOTA_USE_H

#include "api/access/quotas.h"

struct definition;
struct err;
struct vm;
struct vm_host;

/* A clone's image counts with so many bytes at least: more than an overlay takes when it is new. */
#define QUOTA_IMAGE_MIN_BYTES (1ULL << 20)

/* Checks each start and keeps the size of each run. */
extern const struct vm_observer quota_observer;

/* New VMs. */
struct quota_new {
	size_t n;
	bool runs; /* they will be started */
	uint64_t image_bytes, snapshots; /* that each VM gets */
};

/* The room of VMs that a job is going to define. */
struct quota_claim {
	struct quota_claim *next;
	struct vm_host *host;
	struct rights *definer; /* owned; NULL: no quota binds the VMs */
	struct quota_new what;	/* n: VMs that are not defined yet */
};

/* Return the sum or the product; INT64_MAX if that is more. */
uint64_t quota_sum(uint64_t a, uint64_t b);
uint64_t quota_product(uint64_t a, uint64_t b);
/* Sum up the use of the VMs of a user or group, and the claims. q: the use of the default is 0. */
void quota_use_sum(const struct vm_host *host, const struct quota *q, uint64_t ret[QUOTA_ITEM_COUNT]);
/* Check that the definer of `def` may define such VMs like `def`. Returns 0; -EDQUOT. */
int quota_check_new(const struct vm_host *host, const struct definition *def, const struct quota_new *what,
	struct err *e);
/* Check that no quota of the VM's definer is exceeded when the VM takes `more` of an item. Returns 0; -EDQUOT. */
int quota_check_more(const struct vm *vm, enum quota_item item, uint64_t more, struct err *e);
/* Return whether a quota that binds the definer of `def` limits the item. */
bool quota_limits(const struct vm_host *host, const struct definition *def, enum quota_item item);

/* Check as quota_check_new() does, and claim the room, except that of runs. *ret: owned. Returns 0; -EDQUOT. */
int quota_claim_new(struct vm_host *host, const struct definition *def, const struct quota_new *what,
	struct quota_claim **ret, struct err *e);
/* Change the claim for each VM that is not defined yet. Returns 0; -EDQUOT: the claim is unchanged. */
int quota_claim_change(struct quota_claim *c, uint64_t image_bytes, uint64_t snapshots, struct err *e);
/* Let a new VM take its share of the claim. */
void quota_claim_take(struct quota_claim *c, struct vm *vm);
/* Release the rest of the claim. NULL allowed. */
void quota_claim_free(struct quota_claim *c);

/* Set the number of the VM's snapshots. Does nothing while the VM's process creates one, because the number may include
 * that one or not. */
void quota_snapshots_set(struct vm *vm, uint64_t n);

#endif
