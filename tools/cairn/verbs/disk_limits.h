/* disk_limits: sets limits of a disk of a running VM, for blkdeviotune and update-device. */
#ifndef CAIRN_TOOLS_VERBS_DISK_LIMITS_H
#define CAIRN_TOOLS_VERBS_DISK_LIMITS_H

struct cli;
struct err;
struct json_object;

/* disk: target or path. limits: numbers by the keys of a definition; 0: no limit; the others stay. Taken.
 * Returns 0 or -errno. */
int disk_limits_set(struct cli *c, const char *disk, struct json_object *limits, struct err *e);

#endif
