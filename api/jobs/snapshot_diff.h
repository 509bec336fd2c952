/* snapshot_diff: the job that compares two snapshots of a VM, or a snapshot and the disks of a VM that is off, by a run
 * of cairn-diff (tools/diff/diff.h). Memory is not compared. Threading: the daemon's loop. */
#ifndef CAIRN_API_JOBS_SNAPSHOT_DIFF_H
#define CAIRN_API_JOBS_SNAPSHOT_DIFF_H

struct err;
struct job;
struct json_object;
struct vm;

#define SNAPSHOT_DIFF "snapshot-diff"
#define SNAPSHOT_DIFF_FILES "snapshot-diff-files"
/* Start the job.
 * type: of the job, SNAPSHOT_DIFF or SNAPSHOT_DIFF_FILES; the latter lists files, too.
 * args: of the command; borrowed.
 * Returns 0 or -errno. */
int snapshot_diff_begin(struct vm *vm, const char *type, struct json_object *args, struct job **ret_j, struct err *e);

#endif
