#include "api/definition/definition_fit.h"
#include "api/definition/definition.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Write the value of a key as in the definition's JSON, or "none". Returns false if it is too long for a sentence. */
static bool value_text(const struct definition *d, const char *key, char buf[64])
{
	CLEANUP_JS struct json_object *o = definition_to_json(d);
	struct json_object *v = js_get(o, key);

	return snprintf(buf, 64, "%s", v ? json_object_to_json_string_ext(v, JSON_C_TO_STRING_NOSLASHESCAPE) : "none") < 64;
}

static int part_differs(const char *key, const struct definition *then, const struct definition *now, struct err *e)
{
	char was[64], is[64], values[160] = "";

	if (!strpbrk(key, ".[") && value_text(then, key, was) && value_text(now, key, is))
		snprintf(values, sizeof(values), " (there %s, now %s)", was, is);
	return err_set(e, -EINVAL, ERR_INVALID, "%s: differs from the definition in the saved state%s", key, values);
}

static int disks_fit(const struct definition *then, const struct definition *now, struct err *e)
{
	if (then->ndisks != now->ndisks)
		return part_differs("disks", then, now, e);
	for (unsigned i = 0; i < now->ndisks; i++) {
		const struct definition_disk *a = &then->disks[i], *b = &now->disks[i];
		char key[32];

		snprintf(key, sizeof(key), "disks[%u]", i);
		/* The image's path may change; the disk that the guest sees may not. */
		if (strcmp(a->id, b->id) || strcmp(a->serial, b->serial) ||
			a->read_only != b->read_only || a->queues != b->queues ||
			a->queue_size != b->queue_size || a->bus != b->bus || a->device != b->device || a->wwn != b->wwn ||
			a->logical_block_bytes != b->logical_block_bytes || a->physical_block_bytes != b->physical_block_bytes ||
			a->no_discard != b->no_discard)
			return part_differs(key, then, now, e);
	}
	return 0;
}

/* Check that the interfaces look the same to the guest. An interface may move to another network, but not between type
 * user and the other types, which offer different offloads. Its MAC must stay, since the driver reads it only once. */
static int interfaces_fit(const struct definition *then, const struct definition *now, struct err *e)
{
	if (then->ninterfaces != now->ninterfaces)
		return part_differs("interfaces", then, now, e);
	for (unsigned i = 0; i < now->ninterfaces; i++) {
		const struct definition_interface *a = &then->interfaces[i], *b = &now->interfaces[i];
		char key[32];

		snprintf(key, sizeof(key), "interfaces[%u]", i);
		if (strcmp(a->id, b->id) || memcmp(a->mac, b->mac, sizeof(b->mac)) ||
			(a->type == DEFINITION_USER) != (b->type == DEFINITION_USER) || MAX(a->queues, 1) != MAX(b->queues, 1))
			return part_differs(key, then, now, e);
	}
	return 0;
}

/* Another folder may have the same tag: nothing of it is in a saved state. */
static int shares_fit(const struct definition *then, const struct definition *now, struct err *e)
{
	if (then->nshares != now->nshares)
		return part_differs("shares", then, now, e);
	for (unsigned i = 0; i < now->nshares; i++)
		if (strcmp(then->shares[i].tag, now->shares[i].tag) != 0)
			return part_differs("shares", then, now, e);
	return 0;
}

int definition_check_fits(const struct definition *then, const struct definition *now, struct err *e)
{
	if (memcmp(then->uuid, now->uuid, sizeof(now->uuid)))
		return part_differs("uuid", then, now, e);
	if (then->ram_bytes != now->ram_bytes)
		return part_differs("memory", then, now, e);
	/* The state says which vCPUs the guest has. */
	if (then->max_vcpus != now->max_vcpus)
		return part_differs("max_vcpus", then, now, e);
	if (!then->max_vcpus && then->vcpus != now->vcpus)
		return part_differs("vcpus", then, now, e);
	if (then->sockets != now->sockets || then->cores != now->cores ||
		then->threads != now->threads)
		return part_differs("topology", then, now, e);
	if (then->virtio_console != now->virtio_console)
		return part_differs("console", then, now, e);
	if (then->guest_agent != now->guest_agent)
		return part_differs("guest_agent", then, now, e);
	if (!then->vsock_cid != !now->vsock_cid)
		return part_differs("vsock", then, now, e);
	if (then->screen != now->screen)
		return part_differs("screen", then, now, e);
	if (then->tablet != now->tablet)
		return part_differs("tablet", then, now, e);
	if (then->rng != now->rng)
		return part_differs("rng", then, now, e);
	if (then->balloon != now->balloon)
		return part_differs("balloon", then, now, e);
	if (then->watchdog != now->watchdog)
		return part_differs("watchdog", then, now, e);
	if (then->firmware != now->firmware)
		return part_differs("boot.firmware", then, now, e);
	if (then->debug_exit != now->debug_exit)
		return part_differs("debug_exit", then, now, e);
	if (interfaces_fit(then, now, e) < 0 || shares_fit(then, now, e) < 0)
		return -EINVAL;
	return disks_fit(then, now, e);
}
