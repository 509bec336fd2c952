#include "api/schema/disk_tune.h"

#include <stdio.h>

#define KEY(key, libvirt, field, kind, about) { key, libvirt, kind },
const struct disk_tune_key disk_tune_keys[DISK_TUNE_KEYS] = { DISK_TUNE_EACH(KEY) };

#define NAME(key, libvirt, field, kind, about) key,
const char *const disk_tune_names[DISK_TUNE_KEYS] = { DISK_TUNE_EACH(NAME) };

const char *disk_tune_word(const struct disk_tune_key *k, char ret[DISK_TUNE_WORD_MAX])
{
	snprintf(ret, DISK_TUNE_WORD_MAX, "%s", k->libvirt);
	for (char *c = ret; *c; c++)
		*c = *c == '-' ? '_' : *c;
	return ret;
}
