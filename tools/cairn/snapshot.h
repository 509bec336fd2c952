/* snapshot: fetch the list of a VM's snapshots and search it, for the snapshot verbs. */
#ifndef CAIRN_TOOLS_SNAPSHOT_H
#define CAIRN_TOOLS_SNAPSHOT_H

#include "tools/cairn/cli.h"

/* Fetch all snapshots of a VM as one array, sorted by name. The caller owns it. Returns 0 or -errno. */
int snapshots_fetch_all(struct cli *c, const char *vm, struct json_object **ret_all, struct err *e);
/* Find a snapshot by name, or else by id. Borrowed from all; NULL: none. */
struct json_object *snapshot_find(struct json_object *all, const char *name);
/* Set the error for a missing snapshot. name: NULL: the current snapshot is missing. Returns -ENOENT. */
int snapshot_missing(const char *vm, const char *name, struct err *e);
/* Returns the current snapshot. Borrowed from all; NULL: none. */
struct json_object *snapshot_current(struct json_object *all);
/* Returns how many levels `o` is below `above` (1: a child); 0: not below. */
unsigned snapshot_below(struct json_object *all, struct json_object *o, struct json_object *above);
/* Returns the second positional or the value of --snapshotname; NULL: neither. */
const char *snapshot_name_arg(const struct cli *c);

#endif
