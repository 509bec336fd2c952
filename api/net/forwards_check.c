#include "api/net/forwards_check.h"
#include "api/access/permissions.h"
#include "api/definition/definition.h"
#include "api/net/forwards.h"
#include "api/vm/vm.h"
#include "base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* ---- the definition's forwards ---- */

bool forwards_may_lead_to(const struct definition_interface *i)
{
	return (i->type == DEFINITION_USER || i->type == DEFINITION_NETWORK) && !i->link;
}

int forwards_interface_find(const struct definition *d, const char *id)
{
	int network = -1;

	for (unsigned i = d->ninterfaces; i-- > 0;)
		if (id && forwards_may_lead_to(&d->interfaces[i]) && !strcmp(d->interfaces[i].id, id))
			return (int)i;
		else if (!id && forwards_may_lead_to(&d->interfaces[i]) && d->interfaces[i].type == DEFINITION_NETWORK)
			network = (int)i;
	for (unsigned i = 0; !id && i < d->ninterfaces; i++)
		if (forwards_may_lead_to(&d->interfaces[i]) && d->interfaces[i].type == DEFINITION_USER)
			return (int)i;
	return network;
}

unsigned forwards_of(const struct definition *d, const struct definition_forward *ret[CHANNEL_FDS_MAX])
{
	unsigned n = 0;

	for (unsigned i = 0; i < d->ninterfaces; i++)
		for (unsigned k = 0; forwards_may_lead_to(&d->interfaces[i]) && k < d->interfaces[i].user.nforwards; k++)
			if (n < CHANNEL_FDS_MAX)
				ret[n++] = &d->interfaces[i].user.forwards[k];
	return n;
}

bool forwards_sleeps_saved(const struct vm *vm)
{
	return vm->state == VM_SAVED && vm_sleeps(vm);
}

/* ---- conflicts between forwards ---- */

static const struct definition *definition_listening(const struct vm *vm)
{
	if (vm_state_is_active(vm->state) || vm_is_starting(vm))
		return vm_live(vm);
	return forwards_sleeps_saved(vm) ? vm->def : NULL;
}

static int forward_taken(const struct vm *vm, const struct definition *d, const struct vm *by, unsigned i, unsigned k,
	struct err *e)
{
	const struct vm_host *host = vm->host;
	char text[DEFINITION_FORWARD_TEXT], who[VM_NAME_MAX + 16] = "another VM";

	if (permissions_seen_together(&host->permissions, vm->def->uuid, by->def->uuid))
		snprintf(who, sizeof(who), "VM '%s'", by->def->name);
	definition_forward_print(&d->interfaces[i].user.forwards[k], text);
	return err_set(e, -EBUSY, ERR_BUSY, "interfaces[%u].forwards[%u]: %s is forwarded to %s%s; shut that VM down "
		"first, or choose another port", i, k, text, who, forwards_sleeps_saved(by) ? ", which is idle" : "");
}

static int check_against(const struct vm *vm, const struct definition *d, const struct vm *other, struct err *e)
{
	const struct definition_forward *theirs[CHANNEL_FDS_MAX];
	const struct definition *has = definition_listening(other);
	unsigned n = has ? forwards_of(has, theirs) : 0;

	for (unsigned i = 0; n && i < d->ninterfaces; i++)
		for (unsigned k = 0; forwards_may_lead_to(&d->interfaces[i]) && k < d->interfaces[i].user.nforwards; k++)
			for (unsigned t = 0; t < n; t++)
				if (definition_forwards_meet(&d->interfaces[i].user.forwards[k], theirs[t]))
					return forward_taken(vm, d, other, i, k, e);
	return 0;
}

int forwards_check_others(const struct vm *vm, const struct definition *d, struct err *e)
{
	const struct definition_forward *ours[CHANNEL_FDS_MAX];
	const struct vm_host *host = vm->host;
	int r = 0;

	if (!forwards_of(d, ours))
		return 0;
	for (size_t i = 0; i < host->nvms && !r; i++)
		if (host->vms[i] != vm)
			r = check_against(vm, d, host->vms[i], e);
	return r;
}

int forwards_check_free(const struct vm *vm, struct err *e)
{
	return forwards_check_others(vm, vm_live(vm), e);
}
