/* The table of verbs. Texts that the schema also has are taken from it with FROM_SCHEMA(). */
#include "tools/cairn/change.h"
#include "api/policy/schedule.h"
#include "base/suggest.h"
#include "tools/cairn/cli.h"
#include "tools/cairn/verb_words.h"
#include "tools/cairn/job.h"
#include "tools/cairn/multi_vm.h"
#include "tools/cairn/verbs/access_options.h"
#include "tools/cairn/verbs/alert_options.h"
#include "tools/cairn/verbs/clone_options.h"
#include "tools/cairn/verbs/option_words.h"
#include "tools/cairn/verbs/snapshot_options.h"

#include <stdio.h>
#include <string.h>

#define MANY CLI_POSITIONALS_MAX
static const struct verb_option web_options[] = {
	{ "listen", "ADDRESS:PORT", "listen on this address, without TLS of loopback; port 0: a free one [127.0.0.1:0]" },
	{ "unix", "PATH", "listen on this Unix socket, which only you may open" },
	{ "certificate", "FILE", "with TLS: PEM file of the certificate and its chain" },
	{ "key", "FILE", "PEM file of its key, which only you may read" },
	{ "pam", NULL, "serve each user who logs in with a password of this host; needs root" },
	{ "allow-root", NULL, "with --pam: root may log in, too" }, END
};
static const struct verb_option start_options[] = {
	{ "console", NULL, "attach the terminal to the serial console after the start" },
	{ "foreground", NULL, "stay until the VM ends, and exit as run does; SIGTERM shuts the guest down, a second one destroys the VM" },
	{ "paused", NULL, FROM_SCHEMA("paused") },
	{ "force-boot", NULL, FROM_SCHEMA("force-boot") },
	{ "eager", NULL, FROM_SCHEMA("eager") },
	{ "boot", "hd|cdrom|network", FROM_SCHEMA("boot") },
	{ "bootmenu", NULL, FROM_SCHEMA("bootmenu") }, { "reset-nvram", NULL, FROM_SCHEMA("reset-nvram") }, PUBLISH, BYPASS_CACHE, MULTI_VM_OPTIONS, END };
static const struct verb_option undefine_options[] = {
	{ "managed-save", NULL, FROM_SCHEMA("managed-save") },
	{ "snapshots-metadata", NULL, FROM_SCHEMA("snapshots-metadata") },
	{ "remove-all-storage", NULL, FROM_SCHEMA("remove-all-storage") },
	{ "storage", "DISK,...", FROM_SCHEMA("storage") },
	{ "nvram", NULL, FROM_SCHEMA("nvram") },
	{ "keep-nvram", NULL, FROM_SCHEMA("keep-nvram") },
	{ "delete-storage-volume-snapshots", NULL, "no effect: the snapshots are in the images, and go with them" },
	{ "tpm", NULL, "no effect: VMs have no TPM" },
	{ "keep-tpm", NULL, "no effect: VMs have no TPM" },
	{ "checkpoints-metadata", NULL, "no effect: there are no checkpoints" }, MULTI_VM_OPTIONS, END };
static const struct verb_option destroy_options[] = {
	{ "graceful", NULL, "no effect: the VM process closes its images, and is killed only if that takes more than 5 s" }, MULTI_VM_OPTIONS, END };
static const struct verb_option multi_vm_options[] = { MULTI_VM_OPTIONS, END };
static const struct verb_option dump_memory_options[] = {
	{ "live", NULL, "run the VM during the dump [default]" },
	{ "crash", NULL, "stop the VM after the dump" },
	{ "reset", NULL, "reset the VM after the dump" },
	{ "memory-only", NULL, "no effect: a dump holds only memory and registers" },
	{ "format", "elf", "write an ELF core file [default]" }, BYPASS_CACHE, JOB_OPTIONS, END };
static const struct verb_option save_options[] = { BYPASS_CACHE, JOB_OPTIONS, END };
static const struct verb_option schedule_options[] = {
	{ "on", "CALENDAR", FROM_SCHEMA("on") },
	{ "zone", "ZONE", FROM_SCHEMA("zone") },
	{ "missed", FROM_SCHEMA("missed"), FROM_SCHEMA("missed") },
	{ "to", "FOLDER", FROM_SCHEMA("folder") },
	{ "name", "NAME", FROM_SCHEMA("name") }, END };
static const struct verb_option restore_options[] = {
	{ "running", NULL, "resume the VM [as at the save]" },
	{ "paused", NULL, "leave the VM paused [as at the save]" },
	{ "eager", NULL, FROM_SCHEMA("eager") },
	{ "transient", NULL, FROM_SCHEMA("transient") },
	{ "moved", "DISK", "the disk's image was moved since the save; repeatable [refuse another image than in the state]" }, BYPASS_CACHE, END };
static const struct verb_option save_image_define_options[] = {
	{ "running", NULL, "let restore resume the VM [unchanged]" },
	{ "paused", NULL, "let restore leave the VM paused [unchanged]" }, END };
static const struct verb_option managedsave_options[] = {
	{ "running", NULL, "resume the VM at its next start [as at the save]" },
	{ "paused", NULL, "leave the VM paused at its next start [as at the save]" }, BYPASS_CACHE, JOB_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option restart_process_options[] = { JOB_OPTIONS, MULTI_VM_OPTIONS, END };
#define WHEN_OPTIONS                                                                                \
	{ "mode", FROM_SCHEMA("mode"), FROM_SCHEMA("mode") },                                       \
	{ "at", "TIME", "schedule the action for TIME: HH:MM or YYYY-MM-DD HH:MM" },                           \
	{ "in", "TIME", "schedule the action in TIME from now: 90s, 10m, 2h" },                                        \
	{ "message", "TEXT", FROM_SCHEMA("message") },                                              \
	{ "cancel", NULL, "cancel the scheduled action and any deadline" }
static const struct verb_option shutdown_options[] = { WHEN_OPTIONS,
	{ "wait", NULL, "return when the VM is off; fail at the deadline if the VM keeps running" },
	{ "then", FROM_SCHEMA("then"), FROM_SCHEMA("then") },
	{ "timeout", "SECONDS", "with --then: set the deadline; with --wait alone: limit the wait" }, MULTI_VM_OPTIONS, END };
static const struct verb_option reboot_options[] = { WHEN_OPTIONS, MULTI_VM_OPTIONS, END };
static const struct verb_option daemon_stop_options[] = {
	{ "leave", NULL, "leave all VMs running" },
	{ "shutdown", NULL, "shut all VMs down" },
	{ "save", NULL, "save all VMs (managed save)" },
	{ "host-ends", NULL, FROM_SCHEMA("host-ends") },
	{ "vms-only", NULL, FROM_SCHEMA("vms-only") }, DRY_RUN, END };
static const struct verb_option autostart_options[] = {
	{ "disable", NULL, FROM_SCHEMA("disable") }, MULTI_VM_OPTIONS, END };
static const struct verb_option dumpxml_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") },
	{ "security-info", NULL, "no effect: a definition holds no secrets" },
	{ "migratable", NULL, "no effect" },
	{ "update-cpu", NULL, "no effect; accepted for virsh" }, END };
static const struct verb_option define_options[] = {
	{ "dry-run", NULL, FROM_SCHEMA("validate-only") },
	{ "validate", NULL, "no effect: each definition is checked" }, END };
static const struct verb_option create_options[] = {
	{ "paused", NULL, FROM_SCHEMA("paused") },
	{ "console", NULL, "attach the terminal to the serial console after the start" },
	{ "validate", NULL, "no effect: each definition is checked" }, END };
static const struct verb_option validate_options[] = {
	{ "schema", NULL, "print the JSON Schema of a definition" }, END };
static const struct verb_option save_image_dumpxml_options[] = {
	{ "security-info", NULL, "no effect: a definition holds no secrets" }, END };
static const struct verb_option dump_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") }, END };
static const struct verb_option list_options[] = {
	{ "all", NULL, "list all VMs" },
	{ "inactive", NULL, "list only VMs that are off" },
	{ "name", NULL, "print only names" },
	{ "uuid", NULL, "print only UUIDs" },
	{ "id", NULL, "print only ids" },
	{ "title", NULL, "add a column with the title" },
	{ "autostart", NULL, "list only VMs that start with the host" },
	{ "no-autostart", NULL, "list only VMs that do not start with the host" },
	{ "with-managed-save", NULL, "list only VMs with a managed save" },
	{ "without-managed-save", NULL, "list only VMs without a managed save" },
	{ "with-snapshot", NULL, "list only VMs with snapshots" },
	{ "without-snapshot", NULL, "list only VMs without snapshots" },
	{ "with-checkpoint", NULL, "list none: there are no checkpoints" },
	{ "without-checkpoint", NULL, "no effect: there are no checkpoints" },
	{ "managed-save", NULL, "no effect: the state shows a managed save" },
	{ "persistent", NULL, "list only VMs with a definition of their own" },
	{ "transient", NULL, "list only VMs that create made, which are undefined when they end" },
	{ "table", NULL, "print a table [default]" },
	{ "template", NULL, "list only templates" },
	{ "state-running", NULL, "list only running VMs" },
	{ "state-paused", NULL, "list only paused VMs" },
	{ "state-shutoff", NULL, "list only VMs that are shut off" },
	{ "state-other", NULL, "list only VMs in any other state" },
	{ "can", "VERB", "list only VMs in a state that VERB accepts" }, END };
static const struct verb_option dominfo_options[] = {
	{ "sandbox", NULL, FROM_SCHEMA("vm-sandbox") }, END };
static const struct verb_option domstate_options[] = {
	{ "reason", NULL, "add the reason" }, END };
static const struct verb_option domblkinfo_options[] = {
	{ "human", NULL, "with DISK or --all: print sizes with units" },
	{ "all", NULL, "show all disks, with sizes in bytes" }, END };
static const struct verb_option domblkstat_options[] = {
	{ "human", NULL, "print words instead of the names of counters" }, END };
static const struct verb_option vcpuinfo_options[] = {
	{ "pretty", NULL, "print the affinity as ranges" }, END };
static const struct verb_option vcpucount_options[] = {
	{ "maximum", NULL, "print only the number that the VM can have" },
	{ "active", NULL, "print only the number that the VM has" },
	{ "config", NULL, "print only the number of the next start" },
	{ "live", NULL, "print only the number of the running VM" },
	{ "current", NULL, "print --live of a running VM, or else --config" },
	{ "guest", NULL, "print only the number that the guest uses, by the guest agent" }, END };
static const struct verb_option nodecpustats_options[] = {
	{ "percent", NULL, "print percentages of the next second" }, END };
static const struct verb_option domstats_options[] = {
	{ "state", NULL, "print the state and its reason" },
	{ "cpu-total", NULL, "print the CPU time of all vCPUs, and its parts in user and system mode, ns" },
	{ "balloon", NULL, "print the memory, KiB" },
	{ "vcpu", NULL, "print statistics of each vCPU" },
	{ "interface", NULL, "print statistics of each network interface" },
	{ "block", NULL, "print statistics of each disk" },
	{ "backing", NULL, "with statistics of disks, also list their backing files" },
	{ "dirtyrate", NULL, "print the last measurement of domdirtyrate-calc" },
	{ "list-active", NULL, "print only VMs with a process" },
	{ "list-inactive", NULL, "print only VMs that are off" },
	{ "list-running", NULL, "print only running VMs" },
	{ "list-paused", NULL, "print only paused VMs" },
	{ "list-shutoff", NULL, "print only VMs that are shut off" },
	{ "list-other", NULL, "print only VMs in any other state" },
	{ "nowait", NULL, "do not ask the VMs' processes for the space of images" },
	{ "enforce", NULL, "no effect: all these figures are known" },
	{ "raw", NULL, "no effect: the figures are plain numbers" }, END };
static const struct verb_option screenshot_options[] = {
	{ "screen", "0", "take the screen of this number; a VM has one, 0" }, END };
static const struct verb_option domdisplay_options[] = {
	{ "type", "vnc", "print the URI of this type; a VM has VNC only" },
	{ "all", NULL, "no effect: a VM has one display" },
	{ "include-password", NULL, "no effect: the URI has no password" }, END };
static const struct verb_option version_options[] = {
	{ "daemon", NULL, "fail if the daemon does not answer" }, END };
static const struct verb_option domdirtyrate_options[] = {
	{ "seconds", "SECONDS", FROM_SCHEMA("seconds") },
	{ "mode", "page-sampling", "compare samples of pages [default]; the only mode" }, END };
static const struct verb_option domifaddr_options[] = {
	{ "source", "agent|lease", "ask the guest agent, or the DHCP servers of the VM's networks [agent, or lease if no agent answers]" },
	{ "full", NULL, "repeat name and MAC address in each line" }, END };
static const struct verb_option agent_command_options[] = {
	{ "timeout", "SECONDS", "wait at most SECONDS for the answer, 1 to 120 [5]" },
	{ "block", NULL, "wait as long as possible: 120 seconds" },
	{ "pretty", NULL, "print the answer on several lines" }, END };
static const struct verb_option exec_options[] = {
	{ "env", "NAME=VALUE", "set an environment variable of the program, or pass NAME on; repeatable" },
	{ "workdir", "FOLDER", "run the program in this folder of the guest" },
	{ "user", "USER", "run the program as this user of the guest [the agent's, root]" },
	{ "timeout", "SECONDS", "kill the program after SECONDS [no limit]" },
	{ "interactive", NULL, "pass the standard input on, with qga at most 40 KiB; also -i" },
	{ "tty", NULL, "give the program a terminal, and pass the standard input on; also -t; needs cairn-agent" },
	{ "agent", "cairn|qga", "use cairn-agent or QEMU's guest agent in the guest [cairn, if it answers]" },
	{ "no-wait", NULL, "run the program as a job and print the job's id; needs cairn-agent; see exec-output" }, END };
static const struct verb_option cp_options[] = {
	{ "agent", "cairn|qga", "use cairn-agent or QEMU's guest agent in the guest [cairn, if it answers]" }, END };
static const struct verb_option guestinfo_options[] = {
	{ "user", NULL, "show the users who are logged in" },
	{ "os", NULL, "show the operating system" },
	{ "timezone", NULL, "show the time zone" },
	{ "hostname", NULL, "show the host name" },
	{ "filesystem", NULL, "show the mounted file systems" },
	{ "disk", NULL, "show the disks" },
	{ "interface", NULL, "show the network interfaces" }, END };
static const struct verb_option domfstrim_options[] = {
	{ "minimum", "BYTES", "leave smaller free ranges as they are [0]" }, END };
static const struct verb_option domfsfreeze_options[] = {
	{ "mountpoint", "PATH", "freeze this file system only; repeatable" }, END };
static const struct verb_option set_user_password_options[] = {
	{ "encrypted", NULL, "PASSWORD is a hash, as in /etc/shadow" }, END };
static const struct verb_option domtime_options[] = {
	{ "now", NULL, "set the host's time" },
	{ "pretty", NULL, "print date and time, UTC" },
	{ "sync", NULL, "set the time of the guest's hardware clock" },
	{ "time", "SECONDS", "set this time, in seconds since 1970" }, END };
static const struct verb_option trend_options[] = {
	{ "last", "TIME", "show this time up to now or up to --to, such as 30m, 1d or 1y [1h]" },
	{ "from", "TIME", "begin at this time: YYYY-MM-DD [HH:MM[:SS]], or so long ago, such as 2h" },
	{ "to", "TIME", "end at this time [now]" },
	{ "step", "TIME", "with csv, json or yaml: print a value for each TIME, at least 1s [100 values]" },
	{ "format", "table|svg|csv|json|yaml", "draw in the terminal, or print an SVG image or numbers [table]" }, END };
#define POOL { "pool", "POOL", "name the pool that has the volume; not needed for an absolute path in its folder" }
static const struct verb_option pool_define_options[] = { { "target", "FOLDER", "name the folder" }, END };
#define BYTES { "bytes", NULL, "print sizes in bytes" }
static const struct verb_option pool_info_options[] = { BYTES, END };
static const struct verb_option pool_list_options[] = {
	{ "details", NULL, "also show the space of the file system" },
	{ "name", NULL, "print only names" },
	{ "all", NULL, "list all pools [default]" },
	{ "inactive", NULL, "list only pools whose folder is missing or unreadable" },
	{ "persistent", NULL, "no effect: every pool has a definition" },
	{ "transient", NULL, "list none: every pool has a definition" },
	{ "autostart", NULL, "no effect: every pool is there after the host's start" },
	{ "no-autostart", NULL, "list none: every pool is there after the host's start" },
	{ "type", "TYPE,...", "list only pools of these types; every pool has the type dir" }, END };
static const struct verb_option vol_list_options[] = { { "details", NULL, "also show type, capacity and allocation" }, END };
static const struct verb_option vol_options[] = { POOL, END };
static const struct verb_option vol_copy_options[] = { POOL,
	{ "offset", "BYTES", "begin at this byte of the volume [0]" },
	{ "length", "BYTES", "copy so many bytes at most [all]" },
	{ "sparse", NULL, "keep holes, in place of zeros" }, END };
static const struct verb_option vol_delete_options[] = { POOL,
	{ "delete-snapshots", NULL, "no effect: the snapshots are in the image, and go with it" }, END };
static const struct verb_option vol_info_options[] = { POOL, BYTES, END };
static const struct verb_option vol_create_options[] = {
	{ "format", "qcow2|raw", "set the format [qcow2]" },
	{ "allocation", "SIZE", "reserve all space, if SIZE is the capacity [none]" },
	{ "prealloc-metadata", NULL, "make the tables of a qcow2 image complete" },
	{ "backing-vol", "VOL", "create an overlay on this volume of the pool, or on this path" },
	{ "backing-vol-format", "qcow2|raw", "set the format of the backing file [detected]" }, JOB_OPTIONS, END };
static const struct verb_option vol_clone_options[] = { POOL, JOB_OPTIONS, END };
static const struct verb_option vol_resize_options[] = { POOL,
	{ "delta", NULL, "CAPACITY is a difference" },
	{ "shrink", NULL, FROM_SCHEMA("shrink") }, END };
static const struct verb_option advise_options[] = {
	{ "apply", NULL, "apply the harmless advice: free memory of idle VMs whose content is in their images" },
	{ "snapshots", NULL, "also look for old snapshots of the VM; its process, or another one if it is off, reads its images for that" },
	{ "verbose", NULL, FROM_SCHEMA("verbose") }, END };
static const struct verb_option top_options[] = {
	{ "sort", "cpu|memory|disk|net|name", "set the order [cpu]" },
	{ "every", "SECONDS", "set the interval [2, for one sample 1]" },
	{ "once", NULL, "print one sample and exit [default without a terminal]" }, END };
static const struct verb_option console_options[] = {
	{ "force", NULL, "no effect: several clients can attach" },
	{ "safe", NULL, "no effect: several clients can attach" },
	{ "serial", NULL, "attach to the serial port [default]" },
	{ "virtio", NULL, "attach to the virtio console" },
	{ "no-history", NULL, "show only output from now on [the last 64 KiB first]" },
	{ "no-input", NULL, "only show output; standard input is not read" },
	{ "until", "TEXT", "exit when the guest has written TEXT; fail if the console ends first" },
	{ "timeout", "SECONDS", "exit after SECONDS; with --until, fail [no limit]" }, END };
static const struct verb_option log_options[] = {
	{ "follow", NULL, "print further lines until Ctrl-C" },
	{ "tail", "N", "print only the last N lines [all]" }, END };
static const struct verb_option wait_options[] = {
	{ "for", "running|paused|shutoff|crashed|agent|ip",
		"wait for this state [running]; agent: cairn-agent or QEMU's guest agent answers; ip: the guest has an address" },
	{ "timeout", "SECONDS", "give up after SECONDS [no limit]" }, END };
static const struct verb_option event_options[] = {
	{ "loop", NULL, "print events until Ctrl-C or the timeout" },
	{ "all", NULL, "wait for all events [default]" },
	{ "list", NULL, "print the names of all events, then virsh's, and exit" },
	{ "event", "EVENT", "wait only for events of this name, or of virsh's name, such as lifecycle" },
	{ "timeout", "SECONDS", "give up after SECONDS [no limit]" },
	{ "timestamp", NULL, "print the time of each event" },
	{ "notify", NULL, "also show messages on your desktop: for important events or, with an event's name, for each such event" },
	{ "since", "NUMBER", "first print the events after this number; 0: all kept events" }, END };
static const struct verb_option run_options[] = {
	{ "kernel", "PATH", "boot this kernel [FILE's; without FILE: CAIRN_KERNEL, then share/cairn/vmlinux]" },
	{ "initrd", "PATH", "give the kernel this initramfs" },
	{ "append", "WORDS", "add words to the kernel's command line; repeatable" },
	{ "append-for-host", "auto|none", "auto: add the words that a kernel needs on this host [auto if the kernel is not FILE's]" },
	{ "name", "NAME", "name the VM [vm]" },
	{ "memory", "SIZE", "give the VM so much memory; also -m [512M]" },
	{ "cpus", "NUMBER", "give the VM so many vCPUs [1]" },
	{ "disk", "PATH[,WORD]", "add a disk; repeatable; ,ro: read-only; ,ephemeral: discard the guest's writes at the end; ,format=qcow2 or ,format=raw [by the name's end]" },
	{ "image", "IMAGE", "run in this container image: NAME of a registry, oci:FOLDER:TAG, oci-archive:FILE, or a path" }, { "root", "PATH", "run in this folder or tar archive as the root; the guest's changes vanish with it" }, { "pull", NULL, "with --image: ask the registry, even if the image is in the cache" }, { "insecure-registry", NULL, "accept a registry without TLS" }, { "no-entrypoint", NULL, "with --image: run COMMAND itself, without the image's entry point before it" },
	{ "files-max", "NUMBER", "with --image or --root: refuse a new root of more files [2000000]" },
	{ "rw", NULL, "with --root: let the guest write to the folder itself" },
	{ "keep", "NAME", "with --image or --root: keep the guest's writes in layer NAME, and use the layer again in later runs" },
	{ "rm", NULL, "no effect: no VM remains after cairn run; excludes --keep" },
	{ "share", "TAG=FOLDER[,rw]", "let the guest mount a folder of the host, read-only or read-write; repeatable" },
	{ "volume", "FOLDER:/PLACE[:ro]", "mount a folder of the host in the guest for the command, which may write there unless :ro follows; repeatable; also -v" },
	{ "publish", "[PROTOCOL:][ADDRESS:]PORT:TO", "forward a port of the host to the guest; repeatable; also -p" },
	{ "network", "user|none", "user: let the guest connect out through the host; none: no network [user with --publish, else FILE's]" },
	{ "cold", NULL, "boot the guest, and neither use nor store a saved state" },
	{ "log-level", "error|warning|info|debug|trace", "set the log level [warning]" },
	{ "vm-program", "PATH", "run PATH as the VM process [cairn-vm]" },
	{ "agent", NULL, "put cairn-agent into the initramfs, for cairn exec SOCKET, where SOCKET is vsock.path" },
	{ "env", "NAME=VALUE", "set an environment variable of the command, or pass NAME on; repeatable; also -e" },
	{ "workdir", "FOLDER", "run the command in this folder of the guest; also -w" },
	{ "user", "USER", "run the command as this user of the guest [root]; also -u" },
	{ "interactive", NULL, "pass the standard input on to the command; also -i" },
	{ "tty", NULL, "give the command a terminal, and pass the standard input on; also -t" },
	{ "timeout", "SECONDS", "kill the VM after SECONDS; exit status 124 [0: no limit]" },
	{ "status-fd", "NUMBER", "write a line of JSON to this open file: whether the exit status is the command's or VM's" },
	{ "show-console", NULL, "with a command: print the guest's console on standard error" },
	{ "print-only", NULL, "print the definition that FILE and the options give, and run nothing" },
	{ "boot", "hd|cdrom|network", "boot from the first device of this kind [boot_order]" },
	{ "bootmenu", NULL, "have the firmware show its boot menu" },
	{ "require-sandbox", NULL, "fail if the host lacks a part of the sandbox" },
	{ "no-sandbox", NULL, "run the VM process without its sandbox; for debugging only" }, END };

static const struct verb_option image_list_options[] = {
	{ "kept", NULL, "list the layers of cairn run --keep [the images]" }, END };
static const struct verb_option image_remove_options[] = {
	{ "kept", NULL, "remove layers of cairn run --keep [images]" },
	{ "unused-for", "DAYS", "remove all that no run has used for so many days" },
	{ "all", NULL, "remove all that no run uses" }, END };

static const struct verb_option edit_options[] = {
	{ "format", "json|xml", "edit JSON or libvirt's domain XML [json]" },
	{ "xml", NULL, "edit libvirt's domain XML" },
	{ "print-only", NULL, "show the change, and do not save it" }, END };
static const struct verb_option net_edit_options[] = {
	{ "format", "json|xml", "edit JSON or libvirt's network XML [json]" },
	{ "xml", NULL, "edit libvirt's network XML" },
	{ "print-only", NULL, "show the change, and do not save it" }, END };
static const struct verb_option change_options[] = { CHANGE_OPTIONS, END };
static const struct verb_option setmem_options[] = {
	{ "live", NULL, "change the running VM, by its balloon [default with a balloon, if it runs]" },
	{ "config", NULL, "change the next start of the VM [default]" },
	{ "current", NULL, "as --live if the VM runs, otherwise as --config" },
	{ "print-only", NULL, "show the change of the definition, and do not save it" }, END };
static const struct verb_option send_key_options[] = {
	{ "codeset", "linux|xt|atset1|qnum|rfb", FROM_SCHEMA("codeset") },
	{ "holdtime", "MS", FROM_SCHEMA("hold-time") }, END };
static const struct verb_option dommemstat_options[] = {
	{ "period", "SECONDS", "set the interval of the guest's statistics; 0: off" },
	{ "live", NULL, "change the running VM [default]" },
	{ "config", NULL, "refused: a definition has no period" },
	{ "current", NULL, "the same as --live" }, END };
static const struct verb_option setvcpus_options[] = {
	{ "maximum", NULL, "set the most that the VM can have from its next start on; their number can then change while it runs" },
	{ "guest", NULL, "set how many of the running VM's processors the guest uses, through the guest agent" },
	{ "timeout", "SECONDS", "wait at most SECONDS for the guest to release vCPUs, 1 to 600 [5]" },
	{ "live", NULL, "change the running VM [default, if it runs with max_vcpus]" },
	{ "config", NULL, "change the next start of the VM [default otherwise]" },
	{ "current", NULL, "the running VM, or the next start of a VM that is off" },
	{ "hotpluggable", NULL, "no effect: each vCPU above the first can be removed from the running VM" },
	{ "print-only", NULL, "show the change of the next start, and do not save it" }, END };
static const struct verb_option guestvcpus_options[] = {
	{ "cpulist", "LIST", "change these processors, such as 1-3,5" },
	{ "enable", NULL, "take them online" },
	{ "disable", NULL, "take them offline" }, END };
static const struct verb_option desc_options[] = {
	{ "title", NULL, "show or change the title" },
	{ "new-desc", "TEXT", "set this text" }, CHANGE_OPTIONS, END };
static const struct verb_option attach_disk_options[] = {
	{ "subdriver", "raw|qcow2", "set the format of the image [raw]" },
	{ "type", "disk|cdrom", "add a disk or a cdrom drive [disk]" },
	{ "mode", "readonly", "write-protect the disk" },
	{ "serial", "SERIAL", "set the serial number that the guest sees [none]" },
	{ "targetbus", "virtio|scsi|sata|usb|ide", "set the bus of the disk; others than virtio and scsi become one of them, with a warning [scsi if TARGET begins with sd, or with hd for a cdrom; else virtio]" },
	{ "sourcetype", "file|block", "no effect: detected" },
	{ "driver", "qemu", "no effect; accepted for virsh" },
	{ "cache", "none|writeback|unsafe|writethrough|directsync|default", "bypass the host's page cache, use it, or use it and ignore the guest's flushes; others are none [none]" },
	{ "io", "MODE", "no effect; accepted for virsh" }, PLUG_OPTIONS, END };
static const struct verb_option detach_options[] = {
	{ "timeout", "SECONDS", "wait at most SECONDS for the guest to release the disk, 1 to 600 [5]" }, PLUG_OPTIONS, END };
static const struct verb_option attach_device_options[] = { PLUG_OPTIONS, END };
static const struct verb_option detach_device_options[] = {
	{ "timeout", "SECONDS", "wait at most SECONDS for the guest to release the device, 1 to 600 [5]" }, PLUG_OPTIONS, END };
static const struct verb_option update_device_options[] = {
	{ "force", NULL, "change a medium although the guest keeps the tray locked" }, PLUG_OPTIONS, END };
static const struct verb_option change_media_options[] = {
	{ "eject", NULL, "remove the medium" },
	{ "insert", NULL, "insert SOURCE into an empty drive" },
	{ "update", NULL, "insert SOURCE in place of the present medium, if any [default]" },
	{ "subdriver", "raw|qcow2", "set the format of SOURCE [raw]" },
	{ "force", NULL, "change the medium although the guest keeps the tray locked" },
	{ "block", NULL, "no effect: block devices are detected" }, PLUG_OPTIONS, END };
static const struct verb_option attach_interface_options[] = {
	{ "mac", "MAC", "set the MAC address [random, 52:54:00:...]" },
	{ "model", "MODEL", "no effect: every interface is a virtio interface; another MODEL causes a warning" },
	{ "target", "ID", "set the id of the interface [first free of net0, net1, ...]" },
	{ "queues", "N", "give it N pairs of queues, 1 to 8 [1]" },
	{ "vhost", NULL, "let the host's kernel (vhost-net) move the frames, from the VM's next start on" },
	{ "forward", "[PROTOCOL:][ADDRESS:]PORT:TO", "types user and network: forward PORT of the host to port TO of the guest; repeatable" },
	{ "network", "PREFIX", "type user: set the guest's private network [10.0.2.0/24]" },
	{ "egress", "RULE", "type user: let the guest reach only what a RULE allows; repeatable" },
	{ "restrict", NULL, "type user: block all connections to the outside" },
	{ "host-loopback", NULL, "type user: let the guest reach services on the host's loopback address" },
	PLUG_OPTIONS, END };
static const struct verb_option detach_interface_options[] = {
	{ "mac", "MAC", "select one of several interfaces by its MAC address" },
	{ "timeout", "SECONDS", "wait at most SECONDS for the guest to release the interface, 1 to 600 [5]" }, PLUG_OPTIONS, END };
#define PLACE_OPTIONS                                                                               \
	{ "live", NULL, "change or show the running VM [default, if it runs]" },                             \
	{ "config", NULL, "change or show the next start of the VM" },                                       \
	{ "current", NULL, "the running VM, or the next start of a VM that is off" }
static const struct verb_option domiftune_options[] = {
	{ "inbound", "AVERAGE[,PEAK[,BURST]]", "limit the traffic to the guest: KiB a second, KiB a second, KiB; 0: no limit" },
	{ "outbound", "AVERAGE[,PEAK[,BURST]]", "limit the traffic from the guest" },
	{ "inbound-packets", "NUMBER", "limit the packets to the guest in a second; 0: no limit" },
	{ "outbound-packets", "NUMBER", "limit the packets from the guest" }, PLACE_OPTIONS, END };
static const struct verb_option blockresize_options[] = {
	{ "capacity", NULL, "with a block device as the image: take its present size" }, END };
static const struct verb_option blkdeviotune_options[] = {
	{ "total-bytes-sec", "NUMBER", "limit the bytes in a second, such as 20M; 0: no limit" },
	{ "read-bytes-sec", "NUMBER", "limit the bytes that are read" },
	{ "write-bytes-sec", "NUMBER", "limit the bytes that are written" },
	{ "total-iops-sec", "NUMBER", "limit the requests in a second; 0: no limit" },
	{ "read-iops-sec", "NUMBER", "limit the reads" },
	{ "write-iops-sec", "NUMBER", "limit the writes" },
	{ "total-bytes-sec-max", "NUMBER", "set the bytes a second of a burst; 0: no burst" },
	{ "read-bytes-sec-max", "NUMBER", "the same for reads" },
	{ "write-bytes-sec-max", "NUMBER", "the same for writes" },
	{ "total-iops-sec-max", "NUMBER", "set the requests a second of a burst; 0: no burst" },
	{ "read-iops-sec-max", "NUMBER", "the same for reads" },
	{ "write-iops-sec-max", "NUMBER", "the same for writes" },
	{ "size-iops-sec", "BYTES", "count a larger request as several of this size; 0: as one" },
	{ "total-bytes-sec-max-length", "SECONDS", "set how long a burst of bytes lasts [1]" },
	{ "read-bytes-sec-max-length", "SECONDS", "the same for reads" },
	{ "write-bytes-sec-max-length", "SECONDS", "the same for writes" },
	{ "total-iops-sec-max-length", "SECONDS", "set how long a burst of requests lasts [1]" },
	{ "read-iops-sec-max-length", "SECONDS", "the same for reads" },
	{ "write-iops-sec-max-length", "SECONDS", "the same for writes" }, PLACE_OPTIONS, END };
static const struct verb_option domif_link_options[] = { PLACE_OPTIONS, END };
static const struct verb_option domif_egress_options[] = {
	{ "clear", NULL, "remove all rules: the guest reaches everything" }, PLACE_OPTIONS, END };
static const struct verb_option seed_options[] = {
	{ "hostname", "NAME", "set the guest's host name" },
	{ "user", "NAME", "create this user, who may use sudo [the default user of the guest's image]" },
	{ "ssh-key", "FILE", "let this public SSH key log in; repeatable" },
	{ "ssh-over-vsock", NULL, "let sshd answer on port 22 of vsock, for cairn ssh" },
	{ "user-data", "FILE", "use this cloud-config or script [one made from the options above]" },
	{ "meta-data", "FILE", "use this meta-data [instance-id and local-hostname]" },
	{ "network-config", "FILE", "add this network configuration [DHCP]" },
	{ "instance-id", "ID", "set the instance's id [a new one]" },
	{ "force", NULL, "replace an existing FILE" }, END };
static const struct verb_option new_options[] = {
	{ "image", "FILE", "begin with this disk image, which stays as it is" },
	{ "image-format", "FMT", "set its format: raw or qcow2 [qcow2]" },
	{ "size", "SIZE", "set the size of the disk, such as 20G [the image's]" },
	{ "memory", "SIZE", "give the VM so much memory [1G]" },
	{ "vcpus", "N", "give the VM so many vCPUs [1]" },
	{ "network", "NET", "connect the VM to this network; user: a user network of its own [user]" },
	{ "firmware", "FW", "boot with bios or uefi [bios]" },
	{ "folder", "DIR", "make the disk in DIR [the working directory]" },
	{ "no-start", NULL, "do not start the VM" },
	{ "cloud-init", NULL, "add a seed for cloud-init, with the VM's name as host name" },
	{ "hostname", "NAME", "the same, with this host name" },
	{ "user", "NAME", "the same; create this user, who may use sudo" },
	{ "ssh-key", "FILE", "the same; let this public SSH key log in; repeatable" },
	{ "ssh-over-vsock", NULL, "the same; let sshd answer on port 22 of vsock, for cairn ssh" },
	{ "user-data", "FILE", "the same, with this cloud-config or script" },
	{ "network-config", "FILE", "the same, with this network configuration" }, END };
static const struct verb_option forward_add_options[] = {
	{ "interface", "ID", "select one of several interfaces [the first of type user, else of type network]" },
	{ "guest", "ADDRESS", FROM_SCHEMA("guest") }, PLACE_OPTIONS, END };
static const struct verb_option forward_remove_options[] = { PLACE_OPTIONS, END };
static const struct verb_option domblklist_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") },
	{ "details", NULL, "add type, device and cache mode" }, END };

static const struct verb_option net_define_options[] = {
	{ "dry-run", NULL, FROM_SCHEMA("validate-only") },
	{ "validate", NULL, "no effect: each definition is checked" }, END };
static const struct verb_option net_create_options[] = {
	{ "validate", NULL, "no effect: each definition is checked" }, END };
static const struct verb_option net_list_options[] = {
	{ "all", NULL, "list all networks" },
	{ "inactive", NULL, "list only inactive networks" },
	{ "persistent", NULL, "list only networks with a definition" },
	{ "transient", NULL, "list only networks that are gone when they stop" },
	{ "autostart", NULL, "list only networks that start with the host" },
	{ "no-autostart", NULL, "list only networks that do not start with the host" },
	{ "name", NULL, "print only names" },
	{ "uuid", NULL, "print only UUIDs" },
	{ "table", NULL, "print a table [default]" }, END };
static const struct verb_option net_autostart_options[] = {
	{ "disable", NULL, FROM_SCHEMA("disable") }, END };
static const struct verb_option net_dump_options[] = {
	{ "inactive", NULL, FROM_SCHEMA("inactive") }, END };
static const struct verb_option net_update_options[] = {
	{ "live", NULL, "change the active network" },
	{ "config", NULL, "change the definition of the next start" },
	{ "current", NULL, "change the active network, or the definition if it is inactive [default]" },
	{ "parent-index", "N", "no effect: the entry's address decides" }, END };

const struct verb verbs[] = {
	{ "define", "Definitions", "FILE", "define or redefine a VM from JSON or libvirt's domain XML", define_options,
		1, 1, false, "file", "vm-define", verb_define },
	{ "create", "Definitions", "FILE", NULL, create_options, 1, 1, false, "file", "vm-create vm-console", verb_create },
	{ "validate", "Definitions", "FILE", "check a definition without the daemon", validate_options, 0, 1,
		true, "file", NULL, verb_validate },
	{ "dumpjson", "Definitions", "VM", "print the definition of a VM as JSON", dump_options, 1, 1, true, "vm",
		"vm-dump-definition", verb_dumpjson },
	{ "dumpxml", "Definitions", "VM", "print the definition of a VM as libvirt's domain XML", dumpxml_options, 1, 1,
		false, "vm", "vm-dump-definition", verb_dumpxml },
	{ "edit", "Definitions", "VM", "edit the definition of a VM in $VISUAL or $EDITOR", edit_options, 1, 1, false, "vm",
		"vm-define vm-dump-definition", verb_edit },
	{ "domrename", "Definitions", "VM NEW-NAME", NULL, NULL, 2, 2, false, "vm", "vm-rename", verb_domrename },
	{ "desc", "Definitions", "VM [TEXT...]", "show or change the description or title of a VM", desc_options, 1, MANY,
		false, "vm", "vm-define vm-dump-definition", verb_desc },
	{ "setvcpus", "Definitions", "VM COUNT", "set the number of virtual CPUs", setvcpus_options, 2, 2, false,
		"vm", "vm-set-vcpus vm-info vm-define vm-dump-definition vm-agent-query vm-agent-command", verb_setvcpus },
	{ "setmem", "Definitions", "VM SIZE", "set the memory, in KiB or with a unit (512M); with a balloon, the guest's share of it", setmem_options,
		2, 2, false, "vm", "vm-set-memory vm-info vm-define vm-dump-definition", verb_setmem },
	{ "setmaxmem", "Definitions", "VM SIZE", "set the memory; with a balloon, the most that setmem can give", change_options, 2, 2, false,
		"vm", "vm-define vm-dump-definition", verb_setmaxmem },
	{ "set-lifecycle-action", "Definitions", "VM TYPE ACTION", "set the action after poweroff, reboot or crash: destroy, "
		"restart, preserve, ...", change_options, 3, 3, false, "vm", "vm-define vm-dump-definition",
		verb_set_lifecycle_action },
	{ "attach-disk", "Definitions", "VM SOURCE TARGET", "add a disk", attach_disk_options, 3, 3, false, "vm",
		"vm-info vm-attach-disk vm-define vm-dump-definition", verb_attach_disk },
	{ "detach-disk", "Definitions", "VM TARGET", "remove a disk; its image is not deleted", detach_options, 2, 2, false,
		"vm", "vm-info vm-detach-device vm-define vm-dump-definition", verb_detach_disk },
	{ "change-media", "Definitions", "VM PATH [SOURCE]", "change the medium of a cdrom drive", change_media_options,
		2, 3, false, "vm", "vm-info vm-change-medium vm-define vm-dump-definition", verb_change_media },
	{ "attach-interface", "Definitions", "VM TYPE [SOURCE]", "add a network interface", attach_interface_options, 2,
		3, false, "vm", "vm-info vm-attach-interface forward-add vm-define vm-dump-definition", verb_attach_interface },
	{ "detach-interface", "Definitions", "VM TYPE", "remove a network interface", detach_interface_options, 2, 2,
		false, "vm", "vm-info vm-detach-device vm-define vm-dump-definition", verb_detach_interface },
	{ "attach-device", "Definitions", "VM FILE", "add the disk or interface that a file has, as JSON or libvirt's XML", attach_device_options,
		2, 2, false, "vm", "vm-info vm-attach-disk vm-attach-interface forward-add vm-define vm-dump-definition", verb_attach_device },
	{ "detach-device", "Definitions", "VM FILE", "remove the disk or interface that a file has", detach_device_options, 2, 2, false,
		"vm", "vm-info vm-detach-device vm-define vm-dump-definition", verb_detach_device },
	{ "update-device", "Definitions", "VM FILE", "change a disk or interface as a file describes it", update_device_options, 2, 2, false,
		"vm", "vm-info vm-set-disk vm-set-interface vm-change-medium vm-define vm-dump-definition", verb_update_device },
	{ "domiftune", "Definitions", "VM INTERFACE", "show or change the limits of a network interface", domiftune_options, 2, 2,
		true, "vm", "vm-info vm-set-interface vm-define vm-dump-definition", verb_domiftune },
	{ "blkdeviotune", "Definitions", "VM DISK", "show or change the limits of a disk", blkdeviotune_options, 2, 2, true, "vm",
		"vm-info vm-set-disk vm-define vm-dump-definition", verb_blkdeviotune },
	{ "blockresize", "Definitions", "VM DISK [SIZE]", "grow a disk of a running VM", blockresize_options, 2, 3, false, "vm",
		"vm-resize-disk", verb_blockresize },
	{ "domif-setlink", "Definitions", "VM INTERFACE STATE", "set the link of a network interface up or down", domif_link_options,
		3, 3, false, "vm", "vm-set-interface vm-info vm-define vm-dump-definition", verb_domif_setlink },
	{ "domif-egress", "Definitions", "VM INTERFACE [RULE...]", "show or replace the egress rules of a user interface",
		domif_egress_options, 2, MANY, true, "vm", "vm-set-interface vm-info vm-define vm-dump-definition", verb_domif_egress },
	{ "new", "Definitions", "VM", "create and start a VM from a disk image, with an overlay on it", new_options, 1, 1, false, NULL,
		"vm-info vm-define vm-start", verb_new },
	{ "seed", "Definitions", "FILE", "create an image from which cloud-init configures a guest", seed_options, 1, 1, false, "file",
		NULL, verb_seed },
	{ "forward-add", "Definitions", "VM [PROTOCOL:][ADDRESS:]PORT:TO", "forward a port of the host to a guest",
		forward_add_options, 2, 2, true, "vm", "forward-add vm-define vm-dump-definition", verb_forward_add },
	{ "forward-remove", "Definitions", "VM [PROTOCOL:][ADDRESS:]PORT", "remove a forward", forward_remove_options, 2, 2,
		false, "vm", "forward-remove vm-define vm-dump-definition", verb_forward_remove },
	{ "forward-list", "Definitions", "VM", "list the forwards of a VM", dump_options, 1, 1, true, "vm",
		"vm-dump-definition vm-info", verb_forward_list },
	{ "undefine", "Definitions", "{VM...|--all}", NULL, undefine_options, 1, MANY, true, "vm", "vm-undefine",
		verb_undefine },
	{ "start", "Lifecycle", "{VM...|--all}", NULL, start_options, 1, MANY, true, "vm", "vm-start vm-console forward-add",
		verb_start },
	{ "shutdown", "Lifecycle", "{VM...|--all}", NULL, shutdown_options, 1, MANY, true, "vm",
		"vm-shutdown vm-shutdown-cancel", verb_shutdown },
	{ "reboot", "Lifecycle", "{VM...|--all}", NULL, reboot_options, 1, MANY, true, "vm", "vm-reboot vm-shutdown-cancel",
		verb_reboot },
	{ "reset", "Lifecycle", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-reset", verb_act },
	{ "suspend", "Lifecycle", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-suspend", verb_act },
	{ "resume", "Lifecycle", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm", "vm-resume", verb_act },
	{ "destroy", "Lifecycle", "{VM...|--all}", "stop the VM at once, like pulling the power plug", destroy_options, 1, MANY, true, "vm",
		"vm-destroy", verb_act },
	{ "reclaim", "Lifecycle", "{VM...|--all}", "free memory that was not written since the last snapshot or revert", multi_vm_options, 1, MANY,
		true, "vm", "vm-reclaim", verb_act },
	{ "restart-process", "Lifecycle", "{VM...|--all}", "give a running VM a new process, of the installed version of Cairn", restart_process_options, 1, MANY, true, "vm",
		"vm-restart-process", verb_restart_process },
	{ "autostart", "Lifecycle", "{VM...|--all}", NULL, autostart_options, 1, MANY, true, "vm", "vm-autostart",
		verb_autostart },
	{ "schedule", "Lifecycle", "VM ACTION", NULL, schedule_options, 2, 2, true, "vm", "schedule-add", verb_schedule },
	{ "schedule-list", "Lifecycle", "[VM]", "list schedules, with the next run and the last outcome of each", NULL, 0, 1, true, "vm",
		"query-schedules query-snapshot-schedules", verb_schedule_list },
	{ "schedule-history", "Lifecycle", "VM", NULL, NULL, 1, 1, true, "vm", "query-schedule-history", verb_schedule_history },
	{ "schedule-pause", "Lifecycle", "VM NAME", NULL, NULL, 2, 2, false, "vm", "schedule-pause", verb_schedule_act },
	{ "schedule-resume", "Lifecycle", "VM NAME", "resume a paused schedule", NULL, 2, 2, false, "vm", "schedule-pause", verb_schedule_act },
	{ "schedule-remove", "Lifecycle", "VM NAME", NULL, NULL, 2, 2, false, "vm", "schedule-remove", verb_schedule_act },
	{ "run", "Lifecycle", "[FILE] [-- COMMAND [ARGUMENT...]]", "run one VM in the foreground, without a daemon; with a command: run it in the guest, exit with its status, and end the VM", run_options, 0, MANY, true, "file",
		NULL, verb_run },
	{ "dump", "Lifecycle", "VM FILE", "dump memory and registers to an ELF core file", dump_memory_options, 2, 2,
		false, "vm", "vm-dump", verb_dump },
	{ "clone", "Clones", "VM [NAME]", "create copies of a VM", clone_options, 1, 2, true, "vm",
		"vm-clone vm-fork vm-define vm-dump-definition",
		verb_clone },
	{ "group-clone", "Clones", "VM...", NULL, group_clone_options, 1, MANY,
		true, "vm", "group-clone", verb_group_clone },
	{ "promote", "Clones", "VM", "let a live clone replace its source", promote_options, 1, 1, true, "vm", "vm-promote",
		verb_promote },
	{ "template", "Clones", "VM", NULL, template_options, 1, 1, false, "vm", "vm-template", verb_template },
	{ "backup-begin", "Clones", "VM", "back up a VM's disks, as of one instant", backup_begin_options, 1, 1, true, "vm",
		"snapshot-create snapshot-set snapshot-delete vm-dump-definition", verb_backup_begin },
	{ "blockcopy", "Clones", "VM DISK [FILE]", "copy a disk of a running VM", blockcopy_options, 2, 3, false, "vm",
		"vm-blockcopy vm-blockjob-pivot vm-blockjob-abort vm-define vm-dump-definition",
		verb_blockcopy },
	{ "blockjob", "Clones", "VM DISK", "show or end the job of a disk, or its copy", blockjob_options, 2, 2, true, "vm",
		"vm-info query-jobs job-cancel vm-blockjob-pivot vm-blockjob-abort vm-define vm-dump-definition",
		verb_blockjob },
	{ "blockcommit", "Clones", "VM DISK", "merge upper layers of a disk into a lower one", blockcommit_options, 2, 2, false, "vm",
		"vm-blockcommit vm-blockjob-pivot vm-blockjob-abort vm-define vm-dump-definition",
		verb_blockcommit },
	{ "blockpull", "Clones", "VM DISK", "make a disk independent of its backing files", blockpull_options, 2, 2, true, "vm",
		"vm-blockpull", verb_blockpull },
	{ "export", "Clones", "VM FILE", "export a VM to one archive file: .tar.zst, .tar.gz or .tar", export_options, 2, 2, true,
		"vm", "vm-export", verb_export },
	{ "import", "Clones", "FILE [INCREMENT...]", "define a VM from archives that export has written", import_options, 1, MANY, true, "file", "vm-import",
		verb_import },
	{ "save", "Saved states", "VM FILE", "save the state of a VM to a file, and stop the VM", save_options, 2, 2, false,
		"vm", "vm-save", verb_save },
	{ "restore", "Saved states", "FILE", "start a VM from a saved state", restore_options, 1, 1, true, "file",
		"vm-restore", verb_restore },
	{ "save-image-dumpjson", "Saved states", "FILE", "print the definition in a saved state as JSON", NULL, 1, 1, true, "file", NULL,
		verb_save_image_dump },
	{ "save-image-dumpxml", "Saved states", "FILE", "print the definition in a saved state as libvirt's domain XML", save_image_dumpxml_options, 1, 1, false,
		"file", NULL, verb_save_image_dump },
	{ "save-image-define", "Saved states", "FILE DEFINITION", "replace the definition in a saved state", save_image_define_options, 2, 2,
		false, "file", NULL, verb_save_image_define },
	{ "save-image-edit", "Saved states", "FILE", "edit the definition in a saved state in $VISUAL or $EDITOR", edit_options, 1, 1, false,
		"file", NULL, verb_edit },
	{ "managedsave", "Saved states", "{VM...|--all}", NULL, managedsave_options, 1, MANY, true, "vm",
		"vm-managed-save", verb_managedsave },
	{ "managedsave-remove", "Saved states", "{VM...|--all}", NULL, multi_vm_options, 1, MANY, true, "vm",
		"vm-managed-save-remove", verb_managedsave_remove },
	{ "snapshot-create", "Snapshots", "{VM|--all}", "create a snapshot, with the time in seconds as its name", snapshot_create_options, 1, 1,
		true, "vm", "snapshot-create", verb_snapshot_create },
	{ "snapshot-create-as", "Snapshots", "{VM|--all} [NAME [DESCRIPTION]]", "create a snapshot with a name and a description", snapshot_create_as_options,
		1, 3, true, "vm", "snapshot-create vm-disk-snapshot vm-define vm-dump-definition vm-agent-command", verb_snapshot_create_as },
	{ "group-snapshot", "Snapshots", "VM...", "create snapshots of several VMs at one instant, all of them or none", group_snapshot_options, 1, MANY,
		true, "vm", "group-snapshot", verb_group_snapshot },
	{ "group-revert", "Snapshots", "--name NAME VM...", "revert several VMs to snapshots that group-snapshot has made", group_revert_options, 1, MANY,
		false, "vm", "snapshot-revert snapshot-list vm-resume", verb_group_revert },
	{ "snapshot-list", "Snapshots", "VM", "list the snapshots of a VM", snapshot_list_options, 1, 1, true, "vm", "snapshot-list",
		verb_snapshot_list },
	{ "snapshot-info", "Snapshots", "VM NAME", "show a snapshot", snapshot_one_options, 1, 2, true, "vm",
		"snapshot-list snapshot-size", verb_snapshot_info },
	{ "snapshot-dumpxml", "Snapshots", "VM NAME", "print a snapshot as libvirt's XML", snapshot_dumpxml_options, 1, 2, false, "vm",
		"snapshot-list", verb_snapshot_dumpxml },
	{ "snapshot-current", "Snapshots", "VM", "print the current snapshot as libvirt's XML", snapshot_current_options, 1, 1,
		true, "vm", "snapshot-list", verb_snapshot_current },
	{ "snapshot-parent", "Snapshots", "VM NAME", "print the parent of a snapshot", snapshot_one_options, 1, 2, false, "vm",
		"snapshot-list", verb_snapshot_parent },
	{ "snapshot-diff", "Snapshots", "VM FROM [TO]", "show the differences between two snapshots, or between a snapshot and the disks of a VM that is off",
		snapshot_diff_options, 2, 3, true, "vm", "snapshot-diff snapshot-diff-files", verb_snapshot_diff },
	{ "snapshot-revert", "Snapshots", "VM NAME", NULL, snapshot_revert_options, 1, 2, true, "vm",
		"snapshot-revert vm-dump-definition", verb_snapshot_revert },
	{ "snapshot-delete", "Snapshots", "VM NAME", "delete a snapshot; its children stay", snapshot_delete_options, 1, 2,
		true, "vm", "snapshot-delete snapshot-size vm-dump-definition", verb_snapshot_delete },
	{ "snapshot-rename", "Snapshots", "VM NAME NEW", "rename a snapshot", snapshot_rename_options, 2, 3, false,
		"vm", "snapshot-set", verb_snapshot_rename },
	{ "snapshot-tag", "Snapshots", "VM NAME [TAG...]", "print, add or remove tags of a snapshot", snapshot_tag_options, 1,
		MANY, false, "vm", "snapshot-set snapshot-list", verb_snapshot_tag },
	{ "snapshot-schedule", "Snapshots", "[VM]", NULL, snapshot_schedule_options, 0, 1, true, "vm",
		"snapshot-schedule-set snapshot-schedule-remove query-snapshot-schedules", verb_snapshot_schedule },
	{ "list", "Monitoring", "", "list VMs", list_options, 0, 0, true, NULL, "vm-list snapshot-list", verb_list },
	{ "dominfo", "Monitoring", "VM", "show state, resources and settings of a VM", dominfo_options, 1, 1, true, "vm",
		"vm-info vm-sandbox vm-dump-definition", verb_dominfo },
	{ "domstate", "Monitoring", "VM", "print the state of a VM", domstate_options, 1, 1, true, "vm", "vm-info", verb_domstate },
	{ "domid", "Monitoring", "VM", "print the id of a running VM", NULL, 1, 1, false, "vm", "vm-info", verb_domid },
	{ "domuuid", "Monitoring", "VM", "print the UUID of a VM", NULL, 1, 1, false, "vm", "vm-info", verb_domuuid },
	{ "domname", "Monitoring", "VM", "print the name of a VM", NULL, 1, 1, false, "vm", "vm-info", verb_domname },
	{ "domblklist", "Monitoring", "VM", "list the disks of a VM", domblklist_options, 1, 1, true, "vm", "vm-dump-definition",
		verb_domblklist },
	{ "domblkinfo", "Monitoring", "VM [DISK]", "show the space that a VM's disks take, and the part that live clones keep; with DISK: its sizes",
		domblkinfo_options, 1, 2, true, "vm", "vm-dump-definition vm-pins vm-info", verb_domblkinfo },
	{ "domblkstat", "Monitoring", "VM [DISK]", "show the requests of one disk of a running VM, or of all together", domblkstat_options, 1, 2,
		true, "vm", "vm-info vm-dump-definition", verb_domblkstat },
	{ "domiflist", "Monitoring", "VM", "list the network interfaces of a VM", dump_options, 1, 1, true, "vm",
		"vm-dump-definition", verb_domiflist },
	{ "domifstat", "Monitoring", "VM INTERFACE", "show the traffic of a network interface", NULL, 2, 2, true, "vm", "vm-info",
		verb_domifstat },
	{ "domif-getlink", "Monitoring", "VM INTERFACE", "show whether the link of a network interface is up", domif_link_options, 2,
		2, true, "vm", "vm-info vm-dump-definition", verb_domif_getlink },
	{ "domifaddr", "Monitoring", "VM [INTERFACE]", NULL, domifaddr_options, 1, 2, true, "vm", "vm-addresses vm-dump-definition net-dhcp-leases vm-info",
		verb_domifaddr },
	{ "domblkerror", "Monitoring", "VM", "show the disks whose errors have paused a VM", NULL, 1, 1, true, "vm", "vm-info",
		verb_domblkerror },
	{ "vcpuinfo", "Monitoring", "VM", "show the vCPUs of a VM: where they run, their time and affinity", vcpuinfo_options, 1, 1, true, "vm",
		"vm-info", verb_vcpuinfo },
	{ "vcpucount", "Monitoring", "VM", "show the number of vCPUs", vcpucount_options, 1, 1, true, "vm", "vm-info vm-dump-definition vm-agent-query",
		verb_vcpucount },
	{ "nodeinfo", "Monitoring", "", "show the processors and the memory of the host", NULL, 0, 0, true, NULL, NULL, verb_nodeinfo },
	{ "nodecpustats", "Monitoring", "[CPU]", "show how much time the host's processors, or one of them, spent in each state", nodecpustats_options,
		0, 1, true, NULL, NULL, verb_nodecpustats },
	{ "domstats", "Monitoring", "[VM...]", "print statistics of VMs, with virsh's names", domstats_options, 0, MANY, true,
		"vm", "vm-info vm-stats vm-space vm-dump-definition", verb_domstats },
	{ "domdirtyrate-calc", "Monitoring", "VM", NULL, domdirtyrate_options, 1, 1, false, "vm", "vm-calc-dirty-rate", verb_domdirtyrate_calc },
	{ "metrics", "Monitoring", "", "print statistics of all VMs as OpenMetrics text, for Prometheus", NULL, 0, 0, false, NULL, "vm-stats query-pools",
		verb_metrics },
	{ "trend", "Monitoring", "VM [SERIES...]", "draw a VM's figures over time; series: " TREND_SERIES " [cpu]", trend_options, 1, 16, false, "vm",
		"vm-trend", verb_trend },
	{ "advise", "Monitoring", "[VM]", NULL, advise_options, 0, 1, true, "vm", "advise", verb_advise },
	{ "threshold", "Monitoring", "VM MEASURE", NULL, threshold_options, 2, 2, false, "vm", "threshold-set", verb_threshold },
	{ "threshold-list", "Monitoring", "[VM]", NULL, NULL, 0, 1, true, "vm", "query-thresholds", verb_threshold_list },
	{ "threshold-remove", "Monitoring", "VM NAME", NULL, NULL, 2, 2, false, "vm", "threshold-remove", verb_threshold_remove },
	{ "web-hook", "Monitoring", "NAME", NULL, web_hook_options, 1, 1, false, NULL, "web-hook-set", verb_web_hook },
	{ "web-hook-list", "Monitoring", "", NULL, NULL, 0, 0, true, NULL, "query-web-hooks", verb_web_hook_list },
	{ "web-hook-remove", "Monitoring", "NAME", NULL, web_hook_vm_options, 1, 1, false, NULL, "web-hook-remove", verb_web_hook_remove },
	{ "web-hook-test", "Monitoring", "NAME", NULL, web_hook_vm_options, 1, 1, false, NULL, "web-hook-test", verb_web_hook_test },
	{ "dommemstat", "Monitoring", "VM", "show the guest's memory, and how often it sends statistics", dommemstat_options, 1, 1, true, "vm",
		"vm-info vm-set-memory", verb_dommemstat },
	{ "send-key", "Monitoring", "VM KEY...", "press keys of the guest's keyboard together, such as KEY_LEFTCTRL KEY_LEFTALT KEY_DELETE",
		send_key_options, 2, MANY, false, "vm", "vm-send-key", verb_send_key },
	{ "inject-nmi", "Monitoring", "VM", "send an NMI to every vCPU of a running VM", NULL, 1, 1, false, "vm", "vm-inject-nmi", verb_inject_nmi },
	{ "screenshot", "Monitoring", "VM [FILE]", "save a picture of the guest's screen, as PNG if FILE ends in .png, or else as PPM [VM-DATE.png]", screenshot_options, 1, 2,
		false, "vm", "vm-screenshot", verb_screenshot },
	{ "vncdisplay", "Monitoring", "VM", "print where VNC clients find the screen of a running VM", NULL, 1, 1, false, "vm",
		"vm-dump-definition vm-info", verb_vncdisplay },
	{ "domdisplay", "Monitoring", "VM", "print the URI at which viewers find the screen of a running VM", domdisplay_options, 1, 1, false, "vm",
		"vm-dump-definition vm-info", verb_domdisplay },
	{ "top", "Monitoring", "[VM...]", "show the resource usage of VMs, continuously", top_options, 0, MANY, true, "vm", "vm-info", verb_top },
	{ "qmp-path", "Monitoring", "VM", "print the path of a VM's own socket, for programs that speak QEMU's QMP", NULL, 1, 1, false,
		"vm", "vm-qmp-path", verb_qmp_path },
	{ "console", "Monitoring", "VM", "attach the terminal to a VM's console; Ctrl-] detaches", console_options, 1, 1, false, "vm",
		"vm-console", verb_console },
	{ "log", "Monitoring", "VM", "print the log of the VM's process, such as why a start failed", log_options, 1, 1, false, "vm", "vm-log", verb_log },
	{ "vsock", "Monitoring", "VM PORT", "connect standard input and output to a vsock port of the guest", NULL, 2, 2, false, "vm",
		"vsock-connect", verb_vsock },
	{ "ssh", "Monitoring", "[USER@]VM [COMMAND...]", "run ssh(1) over vsock port 22 of the guest, or else over the network", NULL, 1, MANY,
		false, "vm", "vsock-connect vm-dump-definition net-dhcp-leases vm-addresses vm-info", verb_ssh },
	{ "wait", "Monitoring", "VM", "wait until a VM has a state, an agent or an address", wait_options, 1, 1, false, "vm",
		"vm-info vm-addresses", verb_wait },
	{ "event", "Monitoring", "[VM] [EVENT]", "wait for events and print them", event_options, 0, 2, true, "vm",
		"query-events event-filter query-version", verb_event },
	{ "events", "Monitoring", "[VM] [EVENT]", "print events until Ctrl-C, like event --loop", event_options, 0, 2, true, "vm",
		"query-events event-filter query-version", verb_event },
	{ "pool-list", "Storage", "", "list pools: folders for images that have a name", pool_list_options, 0, 0, true, NULL, "query-pools query-volumes",
		verb_pool_list },
	{ "pool-info", "Storage", "POOL", "show the space of a pool", pool_info_options, 1, 1, true, NULL, "query-pools query-volumes", verb_pool_info },
	{ "pool-define-as", "Storage", "POOL [TYPE]", "give a folder a name; TYPE is dir", pool_define_options, 1, 2, false, NULL, "pool-define",
		verb_pool_define_as },
	{ "pool-undefine", "Storage", "POOL", NULL, NULL, 1, 1, false, NULL, "pool-undefine", verb_pool_undefine },
	{ "vol-list", "Storage", "POOL", "list the volumes of a pool: its images", vol_list_options, 1, 1, true, NULL, "query-volumes query-pools",
		verb_vol_list },
	{ "vol-info", "Storage", "VOL", "show format, capacity and allocation of a volume", vol_info_options, 1, 1, true, NULL,
		"query-volumes query-pools", verb_vol_info },
	{ "vol-dumpxml", "Storage", "VOL", "print a volume as libvirt's XML", vol_options, 1, 1, false, NULL, "query-volumes query-pools",
		verb_vol_dumpxml },
	{ "vol-path", "Storage", "VOL", "print the path of a volume", vol_options, 1, 1, false, NULL, "query-volumes query-pools", verb_vol_path },
	{ "vol-create-as", "Storage", "POOL NAME CAPACITY", "create a volume", vol_create_options, 3, 3, false, NULL, "volume-create",
		verb_vol_create_as },
	{ "vol-clone", "Storage", "VOL NAME", "copy a volume that no running VM uses, in its folder", vol_clone_options, 2, 2, false, NULL,
		"volume-clone query-pools", verb_vol_clone },
	{ "vol-download", "Storage", "VOL FILE", "copy the content of a volume to a file", vol_copy_options, 2, 2, false, NULL,
		"volume-open query-pools", verb_vol_download },
	{ "vol-upload", "Storage", "VOL FILE", "overwrite the content of a volume with a file's", vol_copy_options, 2, 2, false, NULL,
		"volume-open query-pools", verb_vol_upload },
	{ "vol-delete", "Storage", "VOL", "delete a volume that no VM and no overlay uses", vol_delete_options, 1, 1, false, NULL,
		"volume-delete query-pools", verb_vol_delete },
	{ "vol-resize", "Storage", "VOL CAPACITY", "change the size of a volume that no running VM uses; for others: blockresize", vol_resize_options,
		2, 2, false, NULL, "volume-resize query-volumes query-pools", verb_vol_resize },
	{ "image-list", "Storage", "", "list the images that cairn run keeps in the cache", image_list_options, 0, 0, true, NULL, NULL, verb_image_list },
	{ "image-remove", "Storage", "[IMAGE...]", "remove images from the cache of cairn run, and the saved states of their guests", image_remove_options,
		0, MANY, false, NULL, NULL, verb_image_remove },
	{ "net-list", "Networks", "", "list networks", net_list_options, 0, 0, true, NULL, "net-list", verb_net_list },
	{ "net-info", "Networks", "NETWORK", NULL, NULL, 1, 1, true, NULL, "net-info", verb_net_info },
	{ "net-start", "Networks", "NETWORK", NULL, NULL, 1, 1, false, NULL, "net-start", verb_net_act },
	{ "net-destroy", "Networks", "NETWORK", NULL, NULL, 1, 1, false, NULL, "net-destroy", verb_net_act },
	{ "net-autostart", "Networks", "NETWORK", NULL, net_autostart_options, 1, 1, false, NULL, "net-autostart", verb_net_autostart },
	{ "net-define", "Networks", "FILE", "define or redefine a network from libvirt's network XML or from JSON, as net-dumpjson prints it",
		net_define_options, 1, 1, false, "file", "net-define", verb_net_define },
	{ "net-create", "Networks", "FILE", "define and start a network from JSON or libvirt's network XML; it is undefined when it stops", net_create_options, 1, 1,
		false, "file", "net-create", verb_net_create },
	{ "net-dumpjson", "Networks", "NETWORK", "print the definition of a network as JSON", net_dump_options, 1, 1, true, NULL,
		"net-dump-definition", verb_net_dumpjson },
	{ "net-dumpxml", "Networks", "NETWORK", "print the definition of a network as libvirt's network XML", net_dump_options, 1, 1, false,
		NULL, "net-dump-definition", verb_net_dumpxml },
	{ "net-update", "Networks", "NETWORK ACTION SECTION ENTRY", "add, modify or delete an ip-dhcp-host, ip-dhcp-range, dns-host, egress, egress-rule, user or "
		"group", net_update_options, 4, 4, false, NULL, "net-update net-define net-dump-definition net-info", verb_net_update },
	{ "net-edit", "Networks", "NETWORK", "edit the definition of a network in $VISUAL or $EDITOR", net_edit_options, 1, 1, false, NULL,
		"net-define net-dump-definition", verb_edit },
	{ "net-dhcp-leases", "Networks", "NETWORK [MAC]", NULL, NULL, 1, 2, true, NULL, "net-dhcp-leases", verb_net_dhcp_leases },
	{ "net-undefine", "Networks", "NETWORK", NULL, NULL, 1, 1, false, NULL, "net-undefine", verb_net_act },
	{ "net-name", "Networks", "UUID", "print the name of a network", NULL, 1, 1, false, NULL, "net-info", verb_net_name },
	{ "net-uuid", "Networks", "NETWORK", "print the UUID of a network", NULL, 1, 1, false, NULL, "net-info", verb_net_name },
	{ "jobs", "Jobs", "", "list jobs under way and results of finished jobs", NULL, 0, 0, true, NULL,
		"query-jobs", verb_jobs },
	{ "domjobinfo", "Jobs", "VM", "show the job or backup of a VM that is under way", NULL, 1, 1, true, "vm",
		"query-jobs vm-info snapshot-list", verb_domjobinfo },
	{ "domjobabort", "Jobs", "VM", "cancel the job of a VM that is under way, or end its backup", NULL, 1, 1, false, "vm",
		"query-jobs vm-info snapshot-list snapshot-set snapshot-delete vm-dump-definition", verb_domjobabort },
	{ "job-cancel", "Jobs", "ID...", "cancel jobs", NULL, 1, MANY, false, NULL, "job-cancel",
		verb_job_cancel },
	{ "job-dismiss", "Jobs", "ID...", "delete results of finished jobs", NULL, 1, MANY, false, NULL, "job-dismiss",
		verb_job_dismiss },
#define AGENT "vm-agent-command"
#define LOOKS "vm-agent-query"
	{ "exec", "Guests", "VM COMMAND [ARGUMENT...]", "run a program in the guest, and exit with its status; VM may be the path of a VM's vsock socket", exec_options, 2, MANY, true,
		"vm-name", AGENT " " LOOKS " agent-connect agent-exec", verb_exec },
	{ "exec-output", "Guests", "JOB", "show the output of a program that exec --no-wait runs, and exit with its status", NULL, 1, 1, true, NULL,
		"agent-exec-output", verb_exec_output },
	{ "cp", "Guests", "SRC DST", "copy a file or folder into the guest or out of it; one of SRC and DST is VM:PATH", cp_options, 2, 2,
		false, "file", AGENT " " LOOKS " agent-connect", verb_cp },
	{ "guestinfo", "Guests", "VM", "show the guest agent's information about the guest, with virsh's names", guestinfo_options, 1, 1, true, "vm",
		LOOKS, verb_guestinfo },
	{ "guestvcpus", "Guests", "VM", "show or change which processors the guest uses", guestvcpus_options, 1, 1, true, "vm",
		"vm-agent-query vm-agent-command", verb_guestvcpus },
	{ "domhostname", "Guests", "VM", "print the guest's host name", NULL, 1, 1, false, "vm", LOOKS, verb_domhostname },
	{ "domfsinfo", "Guests", "VM", "list the file systems that are mounted in the guest", NULL, 1, 1, true, "vm", LOOKS, verb_domfsinfo },
	{ "domfstrim", "Guests", "VM", "give the free space of the guest's file systems back to the host", domfstrim_options, 1, 1, false, "vm",
		AGENT, verb_domfstrim },
	{ "domfsfreeze", "Guests", "VM", "stop all writes to the guest's file systems until domfsthaw", domfsfreeze_options, 1, 1, false, "vm",
		AGENT, verb_domfsfreeze },
	{ "domfsthaw", "Guests", "VM", "allow writes to the guest's file systems again", NULL, 1, 1, false, "vm", AGENT, verb_domfsthaw },
	{ "set-user-password", "Guests", "VM USER PASSWORD", "set the password of a user of the guest; PASSWORD - reads it from standard input",
		set_user_password_options, 3, 3, false, "vm-name", AGENT, verb_set_user_password },
	{ "domtime", "Guests", "VM", "show or set the guest's time", domtime_options, 1, 1, true, "vm", LOOKS " " AGENT, verb_domtime },
	{ "qemu-agent-command", "Guests", "VM COMMAND", "run a command of the guest agent, in JSON, and print the answer", agent_command_options,
		2, 2, false, "vm-name", AGENT, verb_qemu_agent_command },
#undef AGENT
#undef LOOKS
	{ "grant", "Administration", "ROLE [VM]", "give a user or a group a role: viewer, guest, operator, admin, "
		"creator, or owner of a VM", permission_options, 1, 2, false, NULL, "permission-grant", verb_grant },
	{ "revoke", "Administration", "[VM]", "remove the role of a user or a group", revoke_options, 0, 1, false, "vm",
		"permission-revoke", verb_revoke },
	{ "permissions", "Administration", "", NULL, NULL, 0, 0, true, NULL, "query-permissions",
		verb_permissions },
	{ "permissions-review", "Administration", "", "list the roles of users and groups: who granted each role and when, and its last use", review_options,
		0, 0, true, NULL, "query-permissions-review", verb_permissions_review },
	{ "request-permission", "Administration", "ROLE [VM]", "ask the admins for a role: viewer, guest, operator, admin, creator, or owner of a VM", role_ask_options, 1, 2,
		false, NULL, "request-permission", verb_request_permission },
	{ "requests", "Administration", "[REQUEST]", "list requests that wait for approval, or show one and what it would do", requests_options, 0, 1, true,
		NULL, "query-requests", verb_requests },
	{ "approve", "Administration", "REQUEST", "approve a request of another user", answer_options, 1, 1, false, NULL, "request-approve", verb_approve },
	{ "deny", "Administration", "REQUEST", NULL, answer_options, 1, 1, false, NULL, "request-deny", verb_deny },
	{ "approval-rule", "Administration", "[VM]", "list, set or remove rules that let acts wait for the approval of another user", rule_options, 0, 1,
		true, "vm", "query-approval-rules approval-rule-set", verb_approval_rule },
	{ "quota", "Administration", "", "list, set or remove limits on the resources of a user's or a group's VMs", quota_options, 0, 0,
		true, NULL, "query-quotas quota-set quota-remove", verb_quota },
	{ "audit", "Administration", "", NULL, audit_options, 0, 0, true, NULL, "query-audit", verb_audit },
	{ "daemon-stop", "Administration", "", "stop VMs as their definitions say, then stop the daemon",
		daemon_stop_options, 0, 0, true, NULL, "daemon-stop", verb_daemon_stop },
	{ "web", "Administration", "", "serve a page to manage VMs with a browser, and print its address", web_options, 0, 0, false, NULL, NULL,
		verb_web },
	{ "doctor", "Administration", "", "check what this host offers to VMs, and say what to change", NULL, 0, 0, true, NULL, NULL,
		verb_doctor },
	{ "cpu-models", "Administration", "[ARCH]", "list the processor models that a VM can have, and which of them this host offers",
		NULL, 0, 1, true, NULL, NULL, verb_cpu_models },
	{ "version", "Help", "", "print the versions of cairn and of the daemon, and the daemon's socket", version_options, 0, 0, true, NULL, "query-version",
		verb_version },
	{ "shell", "Help", "", "read verbs line by line, on a terminal with history and completion", NULL, 0, 0, false, NULL, NULL, verb_shell },
	{ "complete", "Help", "[WORD...]", "print the words that can replace the last WORD, for the completion of shells", NULL, 0, MANY,
		false, NULL, "vm-list snapshot-list vm-dump-definition query-schedules query-thresholds query-pools query-requests net-list query-jobs", verb_complete },
	{ "help", "Help", "[VERB...]", "list all verbs, or those of a group, or show the options of verbs", NULL, 0, MANY, true, NULL, NULL, verb_help },
	{ NULL, NULL, NULL, NULL, NULL, 0, 0, false, NULL, NULL, NULL },
};

const struct verb *verb_find(const char *name)
{
	for (const struct verb *v = verbs; v->name; v++)
		if (!strcmp(v->name, name))
			return v;
	return NULL;
}

static const char *verb_name_at(const void *opaque, size_t i)
{
	(void)opaque;
	return verbs[i].name;
}

int verb_missing(const char *name)
{
	const char *advice = foreign_word_advice(name);
	char hint[SUGGEST_HINT_BYTES];

	if (advice) {
		fprintf(stderr, "error: unknown verb \"%s\"\nerror: %s\n", name, advice);
		return CLI_USAGE;
	}
	fprintf(stderr, "error: unknown verb \"%s\"%s\nerror: see cairn help for all verbs\n", name,
		suggest_hint(name, "", verb_name_at, NULL, hint));
	return CLI_USAGE;
}
