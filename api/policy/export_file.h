/* export_file: the archive that a schedule's export writes, in a folder of the user who made the schedule. A process
 * with that user's rights opens it under a temporary name, and another one renames it when it is complete.
 * Threading: the daemon's loop. */
#ifndef CAIRN_API_POLICY_EXPORT_FILE_H
#define CAIRN_API_POLICY_EXPORT_FILE_H

#include <stdbool.h>

struct client_file;
struct err;
struct fork_as_result;
struct helpers;
struct rights;

/* Create the archive's file under its temporary name, in place of an older one.
 * rights: NULL: the daemon's own; the groups are looked up again. folder: an absolute path. name: the archive's. id: is
 * in the temporary name; no other export has it at the same time.
 * done: as in client_file_spec; -EEXIST: there is a complete archive of that name. *ret: owned by the caller.
 * Returns 0; -errno, and then done() is not called. */
int export_file_open(struct helpers *h, const struct rights *rights, const char *folder, const char *name, const char *id,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque,
	struct client_file **ret, struct err *e);
/* Give the complete file its name, on stable storage; or, without keep, remove it. done: called once from the loop.
 * Returns as export_file_open(). */
int export_file_end(struct helpers *h, const struct rights *rights, const char *folder, const char *name, const char *id, bool keep,
	void (*done)(void *opaque, int r, const struct fork_as_result *res, const struct err *e), void *opaque, struct err *e);

#endif
