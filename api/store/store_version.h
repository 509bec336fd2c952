/* store_version: knows the version of each kind of JSON file in the state folder, and upgrades files that an older
 * Cairn wrote. Formats: docs/state.md */
#ifndef CAIRN_API_STORE_STORE_VERSION_H
#define CAIRN_API_STORE_STORE_VERSION_H

#include <stdint.h>

struct err;
struct json_object;

/* Return the version that this Cairn writes to a file of that name. The folder does not matter. */
int64_t store_version(const char *path);

/* Upgrade a loaded file to the present version.
 * Returns the file's version before; -EINVAL: it has no valid version, or cannot be upgraded; -ENOTSUP: a newer Cairn
 * wrote it, and o is unchanged. The error does not name the file. */
int64_t store_version_lift(const char *path, struct json_object *o, struct err *e);

/* Return the name of the i-th kind of file in a VM's folder, from 0. NULL: no more. */
const char *store_version_of_vm(unsigned i);

#endif
