/* The limits of a disk as JSON. */
#include "api/definition/definition.h"
#include "api/schema/disk_tune.h"
#include "api/wire/json.h"

#include <stddef.h>

#define OFFSET(key, libvirt, field, kind, about) offsetof(struct vm_disk_tune, field),
static const size_t offsets[DISK_TUNE_KEYS] = { DISK_TUNE_EACH(OFFSET) };

/* Returns the limit of disk_tune_names[i] (api/schema/disk_tune.h); 0: none. */
static uint64_t definition_tune_get(const struct vm_disk_tune *t, size_t i)
{
	return *(const uint64_t *)((const char *)t + offsets[i]);
}

bool definition_tune_is_more(const struct vm_disk_tune *t)
{
	size_t i = 0;

	while (i < DISK_TUNE_KEYS && (!definition_tune_get(t, i) || offsets[i] == offsetof(struct vm_disk_tune, iops[0].rate) ||
		offsets[i] == offsetof(struct vm_disk_tune, bps[0].rate)))
		i++;
	return i < DISK_TUNE_KEYS;
}

void definition_put_tune(struct json_object *o, const struct vm_disk_tune *t)
{
	for (size_t i = 0; i < DISK_TUNE_KEYS; i++)
		if (definition_tune_get(t, i))
			js_put_uint(o, disk_tune_names[i], definition_tune_get(t, i));
}
