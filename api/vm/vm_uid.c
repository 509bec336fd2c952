#include "api/vm/vm_uid.h"
#include "api/vm/vm.h"
#include "api/vm/vm_sandbox.h"
#include "api/vm/vm_spare.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>
#include <sys/resource.h>

/* Whether a process on the host has this user id. For an id without processes, which is the rule, the kernel knows at
 * once. Other daemons may use the same range. */
static bool uid_has_processes(uid_t uid)
{
	errno = 0;
	return getpriority(PRIO_USER, uid) != -1 || errno != ESRCH;
}

static bool has_process(const struct vm *vm)
{
	return vm->proc || vm->offline || vm->start.ahead;
}

/* A process becomes its user some time after it was spawned, so look at the VMs, too. Another VM may use the id of a
 * VM that is off. */
static bool uid_is_free(const struct vm_host *host, const struct vm *vm, uid_t uid)
{
	for (size_t i = 0; i < host->nvms; i++)
		if (host->vms[i] != vm && host->vms[i]->uid == uid && has_process(host->vms[i]))
			return false;
	if (vm_spares_have_uid(host, uid))
		return false;
	/* A process that takes the VM over runs at the same time as the one that has it. */
	return (vm && uid == vm->uid && has_process(vm)) || !uid_has_processes(uid);
}

/* The search begins at a number from the VM's UUID, so that VMs of several daemons rarely choose the same id. */
static uint64_t uid_start(const uint8_t uuid[16])
{
	uint64_t n;

	memcpy(&n, uuid, sizeof(n));
	return n;
}

int vm_uid_find(const struct vm_host *host, const uint8_t uuid[16], const struct vm *vm, uid_t *uid, struct err *e)
{
	const struct vm_sandbox *s = host->sandbox;
	uid_t first = s ? s->uid_first : 0;
	uint64_t n = first ? (uint64_t)s->uid_last - first + 1 : 0, start = n ? uid_start(uuid) % n : 0;

	if (first && *uid >= first && *uid <= s->uid_last && uid_is_free(host, vm, *uid))
		return 0;
	for (uint64_t i = 0; i < n; i++) {
		uid_t at = first + (uid_t)((start + i) % n);

		if (!uid_is_free(host, vm, at))
			continue;
		*uid = at;
		return 0;
	}
	*uid = 0;
	return n ? err_set(e, -EAGAIN, ERR_HOST, "all user ids from %u to %u are in use by other VMs or processes; next: start cairnd "
		"with a larger --uid-range", (unsigned)first, (unsigned)s->uid_last) : 0;
}

int vm_uid_choose(struct vm *vm, struct err *e)
{
	return vm_uid_find(vm->host, vm->def->uuid, vm, &vm->uid, e);
}
