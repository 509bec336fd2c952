/* Results of jobs, by the command that starts them. */
#include "api/schema/schema_internal.h"
#include "base/util.h"

#include <string.h>

#define FIELD_PAUSE(optional) { "pause", FIELD_INT, optional, "time that the guest did not run, ns" }
#define FIELD_INSTANT { "instant", FIELD_INT, OPTIONAL, "time of the instant that the copy shows: realtime, ns" }
#define FIELD_TOTAL { "total", FIELD_INT, REQUIRED, "duration of the whole operation, ns" }
#define FIELD_RAM_WRITTEN(optional) { "ram-bytes-written", FIELD_INT, optional, "memory that was written, bytes" }
#define FIELDS_ROUNDS                                                                                  \
	{ "memory-rounds", FIELD_INT, OPTIONAL, "of a copy in rounds: their number" },                      \
	{ "memory-throttle", FIELD_INT, OPTIONAL,                                                          \
		"of a copy in rounds: the largest part of the time for which the vCPUs were stopped, percent" }, \
	{ "memory-stopped", FIELD_BOOL, OPTIONAL, "of a copy in rounds: the VM was paused for the rest" }
#define FIELDS_TRACKING                                                                                \
	{ "memory-tracking", FIELD_STRING, OPTIONAL,                                                       \
		"with memory: userfaultfd, dirty-log, unavailable, huge-pages or none" },                      \
	{ "memory-tracking-reason", FIELD_STRING, OPTIONAL, "reason of that" }, FIELDS_ROUNDS

static const struct field restarted[] = {
	{ "way", FIELD_STRING, REQUIRED, "handover (from the old process to the new one) or save (saved and started)" },
	FIELD_PAUSE(OPTIONAL),
	{ "why", FIELD_STRING, OPTIONAL, "with save: reason why a handover was not possible" }, FIELDS_ROUNDS, END };
static const struct field executed[] = {
	{ "exit-status", FIELD_INT, REQUIRED, "exit status of the program; 0 if a signal killed it" },
	{ "signal", FIELD_INT, OPTIONAL, "signal that killed the program" },
	{ "truncated", FIELD_BOOL, REQUIRED, "output beyond 64 KiB was dropped" }, END };
static const struct field dumped[] = {
	{ "path", FIELD_STRING, OPTIONAL, "path of the file, if the daemon chose it" },
	FIELD_PAUSE(REQUIRED),
	{ "duration", FIELD_INT, REQUIRED, "ns" },
	{ "written", FIELD_INT, REQUIRED, "bytes" }, FIELDS_TRACKING, END };
static const struct field exported[] = {
	{ "data", FIELD_INT, REQUIRED, "data of the VM's files, bytes" },
	{ "written", FIELD_INT, REQUIRED, "size of the archive, bytes" },
	{ "disks-left-out", LIST_OF(FIELD_STRING), OPTIONAL, "ids of disks that the snapshot has and the VM lacks now: they are not in the archive" }, END };
static const struct field imported[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the VM" },
	{ "folder", FIELD_STRING, REQUIRED, "folder of its files" },
	{ "warnings", LIST_OF(FIELD_STRING), REQUIRED, "sentences about what the VM lacks here" }, END };
#define FIELDS_BATCH                                                                                   \
	{ "count", FIELD_INT, REQUIRED, "number of clones" },                                              \
	{ "first", FIELD_STRING, REQUIRED, "name of the first one" },                                      \
	{ "last", FIELD_STRING, REQUIRED, "name of the last one" }, FIELD_TOTAL,                           \
	{ "forwards-left-out", LIST_OF(FIELD_STRING), OPTIONAL, "forwards of the source that the clones lack" }
static const struct field forked[] = { FIELDS_BATCH, FIELD_PAUSE(REQUIRED), FIELD_INSTANT, FIELD_RAM_WRITTEN(REQUIRED), FIELDS_TRACKING,
	{ "disks", LIST_OF(FIELD_FORK_DISK), REQUIRED, "disks that the VM writes to" },
	{ "clones", LIST_OF(FIELD_FORKED_CLONE), OPTIONAL, "the clones, at most the first 100; missing in results of an older Cairn" },
	{ "addresses", LIST_OF(FIELD_CLONE_ADDRESS), OPTIONAL, "addresses of the clones in the host's networks" },
	{ "published", LIST_OF(FIELD_PUBLISHED_PORT), OPTIONAL, "with forwards: the ports of the clones" }, END };
static const struct field cloned[] = { FIELDS_BATCH, END };
static const struct field snapshot_created[] = {
	{ "name", FIELD_STRING, OPTIONAL, "name of the snapshot; missing if a daemon that was restarted does not know it" },
	{ "id", FIELD_STRING, OPTIONAL, "its id" },
	FIELD_PAUSE(OPTIONAL),
	{ "total", FIELD_INT, OPTIONAL, "duration of the whole operation, ns" },
	FIELD_RAM_WRITTEN(OPTIONAL),
	{ "ram-bytes-shared", FIELD_INT, OPTIONAL, "memory that it shares with its parent, bytes" },
	{ "disks-left-out", LIST_OF(FIELD_STRING), OPTIONAL, "ids of read-only disks, which it leaves out" }, FIELDS_TRACKING,
	FIELD_INSTANT, END };
static const struct field group_created[] = {
	{ "name", FIELD_STRING, REQUIRED, "name of the snapshots" },
	{ "group", FIELD_STRING, REQUIRED, "id of the group; each snapshot has the tag group:ID" },
	{ "spread", FIELD_INT, REQUIRED, "time from the first instant to the last, ns" }, FIELD_TOTAL,
	{ "vms", LIST_OF(FIELD_GROUP_MEMBER), REQUIRED, "the VMs" }, END };
static const struct field group_cloned[] = {
	{ "spread", FIELD_INT, REQUIRED, "time from the first instant to the last, ns" }, FIELD_TOTAL,
	{ "clones", LIST_OF(FIELD_GROUP_CLONE), REQUIRED, "the clones, in the order of the VMs" },
	{ "networks", LIST_OF(FIELD_GROUP_NETWORK), REQUIRED, "isolated networks that were made for the clones" }, END };
static const struct field reverted[] = {
	{ "name", FIELD_STRING, OPTIONAL, "name of the snapshot; missing, as the others, if a daemon that was restarted does not know it" },
	{ "id", FIELD_STRING, OPTIONAL, "its id" },
	{ "stopped", FIELD_BOOL, OPTIONAL, "the VM ran, and is off now" },
	{ "state", FIELD_VM_STATE, OPTIONAL, "state of the VM" },
	FIELD_PAUSE(OPTIONAL),
	{ "memory-lost", FIELD_BOOL, OPTIONAL, "with dry-run: the memory of the present run would be lost" },
	{ "disks-lost", LIST_OF(FIELD_STRING), OPTIONAL, "with dry-run: ids of the disks whose content would be lost" },
	{ "warnings", LIST_OF(FIELD_STRING), OPTIONAL, "sentences about CD drives that are empty because the file of their medium is gone" },
	FIELDS_TRACKING, END };
static const struct field snapshots_deleted[] = {
	{ "name", FIELD_STRING, OPTIONAL, "name of the snapshot that the command named" },
	{ "deleted", LIST_OF(FIELD_STRING), REQUIRED, "names of the first ones" },
	{ "disks-left-out", LIST_OF(FIELD_STRING), OPTIONAL, "ids of disks that the named snapshot has and the VM lacks now: it stays in their images" },
	{ "count", FIELD_INT, REQUIRED, "number of deleted snapshots; with dry-run of those that would be" }, END };
static const struct field snapshot_diff[] = {
	{ "disks", LIST_OF(FIELD_DISK_DIFF), REQUIRED, "the disks that the VM writes to" },
	{ "list", LIST_OF(FIELD_EXTENT_DIFF), OPTIONAL, "with extents: the ranges that differ" },
	{ "next", FIELD_STRING, OPTIONAL, "`page` of the next page; missing if this is the last" }, END };
static const struct field snapshot_diff_files[] = {
	{ "disks", LIST_OF(FIELD_DISK_DIFF), REQUIRED, "the disks that the VM writes to" },
	{ "filesystems", LIST_OF(FIELD_FILESYSTEM_DIFF), REQUIRED, "their file systems" },
	{ "list", LIST_OF(FIELD_FILE_DIFF), REQUIRED, "files that differ, sorted by disk, partition and path; a page that takes long ends early, even with none" },
	{ "next", FIELD_STRING, OPTIONAL, "`page` of the next page; missing if this is the last" }, END };
static const struct field none[] = { END };

static const struct job_result results[] = {
	{ "agent-exec", "exec", executed },
	{ "vm-save", "save", none },
	{ "vm-managed-save", "managed-save", none },
	{ "vm-restart-process", "restart-process", restarted },
	{ "vm-dump", "dump", dumped },
	{ "vm-export", "export", exported },
	{ "vm-import", "import", imported },
	{ "vm-fork", "fork", forked },
	{ "vm-clone", "clone", cloned },
	{ "vm-blockcopy", "blockcopy", none },
	{ "vm-blockcommit", "blockcommit", none },
	{ "vm-blockpull", "blockpull", none },
	{ "snapshot-create", "snapshot-create", snapshot_created },
	{ "group-snapshot", "group-snapshot", group_created },
	{ "group-clone", "group-clone", group_cloned },
	{ "snapshot-revert", "snapshot-revert", reverted },
	{ "snapshot-delete", "snapshot-delete", snapshots_deleted },
	{ "snapshot-diff", "snapshot-diff", snapshot_diff },
	{ "snapshot-diff-files", "snapshot-diff-files", snapshot_diff_files },
	{ "volume-create", "volume-create", none },
	{ "volume-clone", "volume-clone", none },
};

const struct job_result *schema_job_result(const char *command)
{
	for (size_t i = 0; i < ARRAY_SIZE(results); i++)
		if (!strcmp(results[i].command, command))
			return &results[i];
	return NULL;
}
