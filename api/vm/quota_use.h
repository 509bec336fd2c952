/* quota_use: what the VMs of a user or group take, and whether their quotas (api/access/quotas.h) leave room for more.
 * A VM counts for its definer. The numbers come from the registry each time, so work that failed or was cancelled
 * leaves no charge, and each daemon counts the same. Threading: the daemon's loop. */
#ifndef CAIRN_API_VM_QUOTA_USE_H
#define CAIRN_API_VM_QUOTA_USE_H

#include "api/access/quotas.h"

struct definition;
struct err;
struct vm;
struct vm_host;

/* Checks each start and keeps the size of each run. */
extern const struct vm_observer quota_observer;

/* Sum up what the VMs of a user or group take. q: the default takes nothing. except: leave out this VM; NULL: none. */
void quota_use_sum(const struct vm_host *host, const struct quota *q, const struct vm *except,
	uint64_t ret[QUOTA_ITEM_COUNT]);
/* Check that the definer of `def` may define n more VMs like that. runs: and may start them. Returns 0; -EDQUOT. */
int quota_check_define(const struct vm_host *host, const struct definition *def, size_t n, bool runs, struct err *e);

#endif
