/* store_version: which version each kind of JSON file in the state folder has, and what becomes of one that an
 * older Cairn wrote. Formats: docs/state.md */
#ifndef CAIRN_API_STORE_STORE_VERSION_H
#define CAIRN_API_STORE_STORE_VERSION_H

#include <stdint.h>

struct err;
struct json_object;

/* What a file of that name is written as, whatever its folder. */
int64_t store_version(const char *path);

/* o, as the file has it, becomes one of that version.
 * Returns the version that it had; -EINVAL: none that was ever written, or one that cannot be lifted; -ENOTSUP: a
 * newer Cairn's, and o is as it was. The sentence does not name the file. */
int64_t store_version_lift(const char *path, struct json_object *o, struct err *e);

/* The kinds that lie in a VM's folder, for i from 0 on. NULL: no more. */
const char *store_version_of_vm(unsigned i);

#endif
