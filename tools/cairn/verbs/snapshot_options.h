/* snapshot_options: the options of the verbs about snapshots. Only table.c includes it. */
#ifndef CAIRN_TOOLS_VERBS_SNAPSHOT_OPTIONS_H
#define CAIRN_TOOLS_VERBS_SNAPSHOT_OPTIONS_H

#include "tools/cairn/job.h"
#include "tools/cairn/multi_vm.h"
#include "tools/cairn/verbs/option_words.h"

#define SNAPSHOTNAME { "snapshotname", "NAME", "give the name of the snapshot" }
#define CHECKED { "validate", NULL, "no effect: there is no XML to check" }
#define CURRENT { "current", NULL, "use the current snapshot" }
static const struct verb_option snapshot_create_options[] = {
	{ "tag", "TAG", "add a tag; repeatable; \"keep\" protects the snapshot" },
	{ "disk-only", NULL, FROM_SCHEMA("disks-only") },
	{ "halt", NULL, FROM_SCHEMA("halt") },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") },
	{ "live", NULL, "no effect: the guest runs while its memory is written" }, CHECKED,
	{ "rate", "SIZE", "limit writing memory to SIZE bytes a second, such as 100M [no limit]" },
	ATOMIC, JOB_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option snapshot_create_as_options[] = {
	{ "name", "NAME", "give the name of the snapshot" }, SNAPSHOTNAME,
	{ "description", "TEXT", "give the description of the snapshot" },
	{ "tag", "TAG", "add a tag; repeatable; \"keep\" protects the snapshot" },
	{ "disk-only", NULL, FROM_SCHEMA("disks-only") },
	{ "external", NULL, "with --disk-only: switch each disk to an overlay, and change its image no more" },
	{ "diskspec", "SPEC", "the same; SPEC is DISK[,snapshot=external|no][,file=OVERLAY]; repeatable" },
	{ "reuse-external", NULL, "with --external: use overlays that exist" },
	{ "live", NULL, "no effect: the guest runs while its memory is written" },
	{ "no-metadata", NULL, "with --disk-only: as --external, which makes no entry in a list; else no effect" },
	{ "halt", NULL, FROM_SCHEMA("halt") },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") }, CHECKED,
	{ "rate", "SIZE", "limit writing memory to SIZE bytes a second, such as 100M [no limit]" },
	ATOMIC, JOB_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option group_snapshot_options[] = {
	{ "name", "NAME", FROM_SCHEMA("name") },
	{ "description", "TEXT", "give the description of the snapshots" },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") }, JOB_OPTIONS, END };
static const struct verb_option group_revert_options[] = {
	{ "name", "NAME", "give the name of the snapshots" }, END };
static const struct verb_option snapshot_list_options[] = {
	{ "tree", NULL, "print a tree" },
	{ "parent", NULL, "add a column with the parent" },
	{ "roots", NULL, "list only snapshots without a parent" },
	{ "leaves", NULL, "list only snapshots without children" },
	{ "no-leaves", NULL, "list only snapshots with children" },
	{ "active", NULL, "list only snapshots with memory" },
	{ "inactive", NULL, "list only snapshots without memory" },
	{ "disk-only", NULL, "list only snapshots of a running VM without its memory" },
	{ "topological", NULL, "sort parents before their children [by name]" },
	{ "metadata", NULL, "no effect: every snapshot has metadata" },
	{ "internal", NULL, "no effect: every snapshot is internal" },
	{ "name", NULL, "print only names" },
	{ "from", "NAME", "list only the children of NAME; with --tree, NAME and all descendants" },
	{ "current", NULL, "list only the children of the current snapshot, as --from does" },
	{ "descendants", NULL, "with --from or --current: list all descendants" }, END };
static const struct verb_option snapshot_one_options[] = { SNAPSHOTNAME, CURRENT, END };
static const struct verb_option snapshot_dumpxml_options[] = { SNAPSHOTNAME,
	{ "security-info", NULL, "no effect: a snapshot shows no secrets" }, END };
static const struct verb_option snapshot_current_options[] = {
	{ "name", NULL, "print only the name" },
	{ "security-info", NULL, "no effect: a snapshot shows no secrets" }, END };
static const struct verb_option snapshot_diff_options[] = {
	{ "extents", NULL, "list the ranges that differ" },
	{ "files", NULL, "list the files that differ, of ext2, ext3 and ext4" },
	{ "disk", "DISK", FROM_SCHEMA("disk") },
	{ "limit", "N", "end a list after N lines; 0: no limit [1000]" }, JOB_OPTIONS, END };
static const struct verb_option snapshot_revert_options[] = { SNAPSHOTNAME, CURRENT,
	{ "running", NULL, "resume the VM after the revert [as in the snapshot]" },
	{ "paused", NULL, "leave the VM paused after the revert [as in the snapshot]" },
	{ "disks-only", NULL, FROM_SCHEMA("disks-only") },
	{ "disk", "ID", FROM_SCHEMA("disk") },
	{ "eager", NULL, FROM_SCHEMA("eager") },
	{ "verify", NULL, FROM_SCHEMA("verify") },
	{ "force", NULL, "no effect: no revert needs force" }, DRY_RUN, JOB_OPTIONS, END };
static const struct verb_option snapshot_delete_options[] = { SNAPSHOTNAME, CURRENT,
	{ "children", NULL, "delete all descendants too" },
	{ "children-only", NULL, "delete only the descendants" }, DRY_RUN, JOB_OPTIONS, END };
static const struct verb_option snapshot_rename_options[] = { SNAPSHOTNAME, END };
static const struct verb_option snapshot_tag_options[] = { SNAPSHOTNAME,
	{ "remove", NULL, "remove the given tags" }, END };
static const struct verb_option snapshot_schedule_options[] = {
	{ "every", "TIME", FROM_SCHEMA("every") },
	{ "keep", "RULES", FROM_SCHEMA("keep") },
	{ "min-free", "SIZE", FROM_SCHEMA("min-free") },
	{ "remove", NULL, FROM_SCHEMA("snapshot-schedule-remove") }, DRY_RUN, END };

#endif
