/* clone_options: the options of the verbs about clones, copies of disks, and archives. Only table.c includes it. */
#ifndef CAIRN_TOOLS_VERBS_CLONE_OPTIONS_H
#define CAIRN_TOOLS_VERBS_CLONE_OPTIONS_H

#include "tools/cairn/job.h"
#include "tools/cairn/verbs/option_words.h"

static const struct verb_option blockpull_options[] = {
	{ "bandwidth", "MIB", "limit the rate, in MiB/s [no limit]" },
	{ "wait", NULL, "no effect: the verb waits unless --no-wait is given" }, JOB_OPTIONS, END };
static const struct verb_option backup_begin_options[] = {
	{ "pull", NULL, "serve the disks over NBD until domjobabort [copy them to files]" },
	{ "socket", "DIR", "with --pull: make the sockets in DIR [a folder such as 8f1c02d4.backup]" },
	{ "since", "NAME", "with --pull: offer only the differences from this earlier snapshot" },
	{ "to", "DIR", "write the files to DIR [beside the images]" },
	{ "disk", "ID", "back up this disk only; repeatable [all writable disks]" },
	{ "checkpoint", "NAME", "keep the snapshot with this name, for a later --since" },
	{ "quiesce", NULL, FROM_SCHEMA("quiesce") }, END };
static const struct verb_option blockcommit_options[] = {
	{ "base", "FILE", "commit to this layer, a path or DISK[N] [the lowest one]" },
	{ "top", "FILE", "commit this layer and those between it and the base [the image]" },
	{ "shallow", NULL, "commit to the layer below the top" },
	{ "active", NULL, "commit the image that the guest of a running VM writes to" },
	{ "pivot", NULL, "the same, and switch the disk to the base" },
	{ "keep-overlay", NULL, "the same, and keep the image" },
	{ "delete", NULL, "remove the files of the layers that left the disk" },
	{ "bandwidth", "MIB", "limit the rate, in MiB/s [no limit]" },
	{ "wait", NULL, "no effect: the verb waits unless --no-wait is given" }, JOB_OPTIONS, END };
#define COPY_OPTIONS                                                                                         \
	{ "dest", "FILE", "the file of the copy" },                                                          \
	{ "dest-format", "FMT", "the format of the copy: raw or qcow2 [qcow2 if FILE ends in .qcow2, else raw]" }, \
	{ "pivot", NULL, "switch the disk to the copy" }
static const struct verb_option blockcopy_options[] = { COPY_OPTIONS,
	{ "finish", NULL, "end the copy; the VM keeps its disk" },
	{ "bandwidth", "MIB", "limit the rate, in MiB/s [no limit]" },
	{ "wait", NULL, "no effect: the verb waits unless --no-wait is given" }, JOB_OPTIONS, END };
static const struct verb_option blockjob_options[] = { COPY_OPTIONS,
	{ "abort", NULL, "cancel the job, or end the copy; the VM keeps its disk" },
	{ "info", NULL, "show the job, or the copy (default)" }, END };
static const struct verb_option export_options[] = {
	{ "snapshotname", "NAME", FROM_SCHEMA("snapshot") },
	{ "since", "NAME", "with --snapshotname: export only the differences from this earlier snapshot" },
	{ "compress", FROM_SCHEMA("compress"), "set the compression method [from the name of FILE]" },
	{ "force", NULL, "replace an existing FILE" },
	{ "level", "N", "set the compression level: 1 to 19, with gzip 1 to 9" }, JOB_OPTIONS, END };
static const struct verb_option import_options[] = {
	{ "name", "NAME", "give the VM another name [the name in the archive]" },
	{ "folder", "DIR", "create the VM's folder in DIR [the working directory]" },
	{ "max-bytes", "SIZE", FROM_SCHEMA("max-bytes") },
	{ "dry-run", NULL, "check the archive, list its content, and change nothing" }, JOB_OPTIONS, END };
static const struct verb_option clone_options[] = {
	{ "full", NULL, "create independent disks; the VM must be off [default]" },
	{ "linked", NULL, "create qcow2 overlays on the source's disks; the VM must be off" },
	{ "live", NULL, "create running clones of a running or paused VM" },
	{ "snapshotname", "NAME", "with --live: continue from this snapshot; the VM may be off" },
	{ "isolated", NULL, "with --live: copy all disks, so that no clone can read the images of its source" },
	{ "no-hostname", NULL, "with --live: do not ask the guest agents to set the host name" },
	{ "count", "N", FROM_SCHEMA("count") },
	{ "name-pattern", "PATTERN", FROM_SCHEMA("name-pattern") },
	{ "snapshots", NULL, FROM_SCHEMA("snapshots") },
	{ "file", "PATH", "set the path of a disk's copy; repeat for each disk" },
	{ "mac", "ADDRESS", "set the MAC address of an interface; repeat for each interface [generated]" },
	{ "uuid", "UUID", FROM_SCHEMA("uuid") },
	{ "reset-identity", NULL, FROM_SCHEMA("reset-identity") },
	DRY_RUN,
	{ "paused", NULL, FROM_SCHEMA("paused") }, PUBLISH,
	{ "ephemeral", NULL, "with --live: undefine each clone, and remove the images that were made for it, when it has ended" },
	{ "cpus", "NUMBER", "with --live: limit each clone to this number of processors, such as 0.5 [as the VM]" },
	{ "memory-max", "SIZE", "with --live: let the process of each clone take at most SIZE of memory, such as 512M [as the VM]" },
	{ "new-seed", NULL, "give each clone its own seed image, so that cloud-init configures it again" },
	{ "auto-clone", NULL, "name the clone VM-clone, or VM-clone1 and so on, as virt-clone does" }, JOB_OPTIONS, END };
static const struct verb_option group_clone_options[] = {
	{ "name-pattern", "PATTERN", FROM_SCHEMA("name-pattern") },
	{ "paused", NULL, FROM_SCHEMA("paused") }, PUBLISH,
	{ "ephemeral", NULL, FROM_SCHEMA("ephemeral") },
	{ "cpus", "NUMBER", "limit each clone to this number of processors, such as 0.5 [as its VM]" },
	{ "memory-max", "SIZE", "let the process of each clone take at most SIZE of memory, such as 512M [as its VM]" },
	{ "isolated", NULL, FROM_SCHEMA("isolated") },
	{ "network", "WHICH", "in place of each network that VMs share: own (an isolated one for the clones), or shared (the network itself) [own]" },
	{ "no-hostname", NULL, "do not ask the guest agents to set the host names" }, JOB_OPTIONS, END };
static const struct verb_option promote_options[] = { { "undo", NULL, "give the replaced VM its name, UUID and ports back" }, END };
static const struct verb_option template_options[] = {
	{ "disable", NULL, FROM_SCHEMA("disable") }, END };

#endif
