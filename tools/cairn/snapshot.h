/* snapshot: what the verbs of snapshots share. */
#ifndef CAIRN_TOOLS_SNAPSHOT_H
#define CAIRN_TOOLS_SNAPSHOT_H

#include "tools/cairn/cli.h"

/* All snapshots of a VM as one array, sorted by name. The caller puts it. */
int snapshots_fetch_all(struct cli *c, const char *vm, struct json_object **ret_all, struct err *e);
/* By name, else by id; NULL: none. Borrowed from all. */
struct json_object *snapshot_find(struct json_object *all, const char *name);
/* Returns -ENOENT with the sentence for it. name: NULL: there is no current one. */
int snapshot_missing(const char *vm, const char *name, struct err *e);
/* NULL: none. */
struct json_object *snapshot_current(struct json_object *all);
/* How far `o` is below `above` (1: a child); 0: it is not. */
unsigned snapshot_below(struct json_object *all, struct json_object *o, struct json_object *above);
/* "2026-11-20 06:08:17 +0000", in local time. */
void snapshot_time_print(struct json_object *o, char buf[40]);
/* The second positional or --snapshotname; NULL: neither. */
const char *snapshot_name_arg(const struct cli *c);

#endif
