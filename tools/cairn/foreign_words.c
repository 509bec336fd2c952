/* Verbs and options of virsh, docker, multipass and other tools, and Cairn's equivalents. */
#include "tools/cairn/cli.h"
#include "base/util.h"

#include <string.h>

static const struct {
	const char *words; /* separated by blanks; one with a dash at its end is for all words that begin so */
	const char *advice;
} foreign[] = {
	{ "ps ls vms domains", "cairn list --all lists the VMs" },
	{ "status state", "cairn domstate --reason VM shows the state" },
	{ "show inspect info", "cairn dominfo VM shows a VM, cairn dumpjson VM its definition" },
	{ "launch install init virt-install", "cairn new NAME --image FILE makes and starts a VM from an image" },
	{ "up boot on poweron", "cairn start VM starts a VM" },
	{ "stop halt poweroff down off", "cairn shutdown VM shuts the guest down, cairn destroy VM stops the VM at once" },
	{ "restart", "cairn reboot VM shuts the guest down and starts the VM again, cairn reset VM resets it at once" },
	{ "kill", "cairn destroy VM stops the VM at once" },
	{ "pause freeze", "cairn suspend VM pauses a VM" },
	{ "unpause cont continue unfreeze", "cairn resume VM resumes a paused VM" },
	{ "rm remove delete del", "cairn undefine VM removes a VM, with --remove-all-storage its images too" },
	{ "rename mv", "cairn domrename VM NAME renames a VM" },
	{ "logs", "cairn log VM prints the VM's log, cairn console VM shows the guest's output" },
	{ "attach ttyconsole", "cairn console VM connects the terminal to the guest" },
	{ "sh bash login", "cairn ssh VM logs in, cairn exec -it VM -- sh needs no network" },
	{ "copy transfer scp", "cairn cp copies files to and from a guest, cairn clone VM clones a VM" },
	{ "fork", "cairn clone --live VM NAME forks a running VM" },
	{ "virt-clone", "cairn clone takes the options of virt-clone" },
	{ "schedinfo", "cairn edit VM sets the keys cpu_shares and cpu_quota of the definition" },
	{ "blkiotune", "cairn blkdeviotune VM DISK limits a disk" },
	{ "numatune vcpupin emulatorpin iothreadinfo iothreadpin iothreadadd iothreadset iothreaddel",
		"Cairn leaves the placement of threads to the host's scheduler; cairn vcpuinfo VM shows where the vCPUs run" },
	{ "setvcpu", "cairn setvcpus VM COUNT sets the number of vCPUs" },
	{ "metadata", "cairn desc VM and cairn desc --title VM show and change texts of a VM" },
	{ "domcontrol", "cairn dominfo VM and cairn domjobinfo VM show what a VM does" },
	{ "domblkthreshold", "cairn threshold VM MEASURE --above NUMBER sends an event when a measure is exceeded" },
	{ "detach-device-alias", "cairn detach-disk VM DISK and cairn detach-interface VM TYPE --mac MAC take the ids of cairn domblklist and domiflist" },
	{ "get-user-sshkeys set-user-sshkeys", "cairn cp copies files such as authorized_keys to and from a guest" },
	{ "managedsave-edit managedsave-dumpxml managedsave-define",
		"a saved state keeps the definition that the VM ran with; cairn dumpxml VM prints the VM's" },
	{ "uri", "cairn version prints the daemon's socket, cairn -c SOCKET VERB speaks to another daemon" },
	{ "hostname", "hostname(1) prints the host's name, cairn nodeinfo shows the host; cairn domhostname VM prints a guest's name" },
	{ "maxvcpus", "a VM has at most 64 vCPUs; cairn nodeinfo shows the host's processors" },
	{ "nodecpumap", "cairn nodeinfo shows the number of the host's processors, lscpu(1) each of them" },
	{ "freecell freepages nodememstats", "free(1) and /proc/meminfo show the host's free memory, cairn nodeinfo its size" },
	{ "allocpages", "sysctl vm.nr_hugepages=NUMBER reserves huge pages of the host; cairn nodeinfo shows its memory" },
	{ "node-memory-tune", "the files in /sys/kernel/mm/ksm set the host's KSM; cairn nodeinfo shows its memory" },
	{ "nodesuspend", "systemctl suspend suspends the host; cairn managedsave --all saves and stops the VMs before" },
	{ "pool-build", "leave it out: a pool is a folder that exists; mkdir FOLDER makes it, and then cairn pool-define-as POOL dir --target FOLDER a pool of it" },
	{ "pool-capabilities find-storage-pool-sources find-storage-pool-sources-as", "a pool is a folder: cairn pool-define-as POOL dir --target FOLDER makes a pool of one" },
	{ "net-event pool-event qemu-monitor-event", "cairn event --loop prints the events of VMs, networks and pools, cairn event --list the names of all" },
	{ "pool-start pool-refresh pool-autostart pool-destroy pool-delete",
		"leave it out: a pool is a folder, which is always active; cairn pool-undefine POOL removes it and keeps the files" },
	{ "pool-dumpxml pool-edit pool-name pool-uuid", "cairn pool-info POOL shows a pool" },
	{ "vol-wipe", "cairn vol-delete VOL --pool POOL deletes a volume; shred(1) overwrites the file that cairn vol-path prints" },
	{ "vol-key vol-name vol-pool", "cairn vol-info VOL and cairn vol-path VOL show a volume" },
	{ "vol-create vol-create-from", "cairn vol-create-as POOL NAME CAPACITY creates a volume, cairn vol-clone VOL NAME copies one" },
	{ "nwfilter-", "cairn edit VM sets the key filter of an interface, cairn domif-egress VM INTERFACE what its guest reaches" },
	{ "secret-", "Cairn opens no encrypted images, so it keeps no secrets; cairn help lists all verbs" },
	{ "stats cpu-stats domperf perf", "cairn domstats VM prints the counters, cairn top shows all VMs" },
	{ "port ports publish", "cairn forward-list VM lists the forwarded ports, cairn forward-add VM adds one" },
	{ "net-port-list net-port-create net-port-dumpxml net-port-delete", "cairn net-dhcp-leases NETWORK shows the guests of a network, cairn domiflist VM the interfaces of a VM" },
	{ "network networks", "cairn net-list lists the networks" },
	{ "iface-", "cairn net-list lists the networks, cairn domiflist VM the interfaces of a VM" },
	{ "volume volumes df", "cairn pool-list lists the pools, cairn vol-list POOL the images in one" },
	{ "pool-define pool-create pool-create-as", "cairn pool-define-as POOL dir --target FOLDER makes a pool of a folder" },
	{ "pull", "cairn run --image IMAGE --pull -- COMMAND gets a container image and runs a command in it" },
	{ "load", "cairn run --image docker-archive:FILE -- COMMAND runs a command in an image of docker save" },
	{ "container containers", "cairn list --all lists the VMs, cairn run --image IMAGE -- COMMAND runs a command in a VM of its own" },
	{ "build compose", "build container images with another tool; cairn run --image IMAGE -- COMMAND runs them" },
	{ "checkpoint-", "cairn snapshot-create-as VM NAME takes a snapshot, cairn export --since SNAPSHOT writes "
		"what changed after it" },
	{ "history", "cairn snapshot-list VM --tree shows the snapshots, cairn log VM what happened" },
	{ "search virsh qemu", "cairn help lists all verbs" },
	{ "nodedev-", "Cairn passes no devices of the host to guests; cairn nodeinfo shows the host" },
	{ "context machine connect", "cairn -c SOCKET VERB speaks to another daemon, cairn version prints the socket; cairn list --all lists the VMs" },
	{ "snapshot snap checkpoint savevm", "cairn snapshot-create-as VM NAME takes a snapshot" },
	{ "snapshots", "cairn snapshot-list VM lists the snapshots" },
	{ "revert rollback loadvm", "cairn snapshot-revert VM NAME reverts to a snapshot" },
	{ "delvm", "cairn snapshot-delete VM NAME deletes a snapshot" },
	{ "snapshot-show", "cairn snapshot-info VM NAME --format json shows a snapshot" },
	{ "snapshot-edit", "cairn snapshot-rename and cairn snapshot-tag change a snapshot" },
	{ "screendump", "cairn screenshot VM saves the screen" },
	{ "vnc spice", "cairn vncdisplay VM and cairn domdisplay VM print the display" },
	{ "qemu-monitor-command qmp", "cairn qmp-path VM prints the socket that speaks QMP" },
	{ "dompmsuspend", "cairn suspend VM pauses a VM, cairn managedsave VM saves and stops it" },
	{ "dompmwakeup", "cairn resume VM resumes a paused VM, cairn start VM a VM that managedsave has stopped" },
	{ "send-process-signal", "cairn exec VM -- kill PID sends a signal to a process of the guest" },
	{ "guest-agent-timeout", "cairn qemu-agent-command VM COMMAND --timeout SECONDS limits the wait for one answer" },
	{ "backup-dumpxml", "cairn domjobinfo VM shows the backup that is under way" },
	{ "nodesevinfo domlaunchsecinfo domsetlaunchsecstate", "Cairn has no memory encryption of guests; cairn doctor shows what the host offers" },
	{ "update-memory-device", "cairn setmem VM SIZE changes the memory of a running VM with a balloon" },
	{ "dom-fd-associate qemu-attach lxc-enter-namespace", "cairn define FILE reads libvirt's XML, in which files have paths; Cairn runs neither other programs' VMs nor containers" },
	{ "balloon", "cairn setmem VM SIZE changes the memory" },
	{ "memtune", "cairn edit VM sets the key memory_max of the definition, cairn setmem VM SIZE changes the memory" },
	{ "migrate migrate-", "cairn export VM FILE and cairn import FILE move a VM to another host" },
	{ "capabilities domcapabilities cpu-baseline cpu-compare hypervisor-cpu-baseline hypervisor-cpu-compare", "cairn doctor shows what the host offers, cairn cpu-models the processor models" },
	{ "sysinfo", "cairn nodeinfo shows the host" },
	{ "convert check resize rebase map amend measure compare", "cairn-img has the verbs of qemu-img; cairn vol-resize and cairn blockresize resize disks" },
	{ "commit", "cairn snapshot-create-as VM NAME takes a snapshot, cairn clone VM NAME makes another VM, cairn-img commit merges an overlay" },
	{ "tag push", "cairn domrename VM NAME renames a VM, cairn export VM FILE writes it to a file" },
	{ "quit exit cd pwd", "in cairn shell, quit and exit end the shell, cd and pwd change and print its folder" },
	{ "config set modify", "cairn edit VM changes the definition" },
	{ "domxml-from-native domxml-to-native", "cairn define FILE reads libvirt's XML, cairn dumpxml VM prints it" },
	{ "image create-image", "cairn-img creates and inspects images" },
	{ "images", "cairn image-list lists the images of cairn run --image; cairn-img creates and inspects disk images" },
	{ "rmi prune image-rm", "cairn image-remove removes images of cairn run --image" },
	{ "backup", "cairn backup-begin VM copies the disks as of one instant, cairn export VM FILE writes the whole VM" },
	{ "hook hooks", "programs in /etc/cairn/hooks/EVENT run at events (a user's daemon: hooks/EVENT of its state), see cairnd(1); cairn web-hook NAME --url URL sends events to a server" },
	{ "page ui gui dashboard manager", "cairn web shows the VMs in a browser" },
	{ "thresholds", "cairn threshold-list lists the thresholds" },
	{ "schedules", "cairn schedule-list lists the schedules" },
	{ "unschedule", "cairn schedule-remove VM NAME removes a schedule" },
	{ "approvals pending", "cairn requests lists what waits for approval, cairn approval-rule the rules" },
	{ "quotas", "cairn quota lists the quotas" },
	{ "chown useradd adduser permit allow", "cairn grant gives a user a role" },
	{ "list-users users", "cairn permissions lists who may do what" },
};

static const char *advice_find(const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
		if (words_have(foreign[i].words, ' ', word))
			return foreign[i].advice;
	return NULL;
}

const char *foreign_word_advice(const char *word)
{
	const char *advice = advice_find(word);
	size_t len = strcspn(word, "-");
	char family[16];

	if (advice || !word[len] || len + 1 >= sizeof(family))
		return advice;
	memcpy(family, word, len + 1);
	family[len + 1] = '\0';
	return advice_find(family);
}

#define NO_ASYNC "leave --async out: --no-wait returns at once, and cairn job-cancel ID cancels a job"
#define ONE_SOURCE "a disk is a file or a block device of this host: cairn attach-disk VM PATH TARGET"
#define POOL_IS_A_FOLDER "a pool is a folder: cairn pool-define-as POOL dir --target FOLDER"

/* verbs; words: without their dashes. Both are separated by blanks. */
static const struct {
	const char *verbs, *words, *advice;
} options[] = {
	{ "run", "d detach", "cairn run stays in the foreground; cairn new NAME --image FILE and cairn define FILE make VMs that the daemon runs" },
	{ "run", "P", "--publish PORT:TO forwards a port" },
	{ "run", "mount", "--volume FOLDER:/PLACE[:ro] mounts a folder of the host in the guest" },
	{ "run", "hostname", "--name NAME names the VM and, with --image or --root, its guest" },
	{ "run", "privileged cap-add cap-drop security-opt", "leave it out: root of the guest has all rights there, and none on the host" },
	{ "run", "gpus device", "Cairn passes no devices of the host to guests; --disk PATH adds a disk" },
	{ "run", "c", "write -- before the command: cairn run --image IMAGE -- COMMAND" },
	{ "run", "entrypoint", "--no-entrypoint leaves the entry point out: cairn run --image IMAGE --no-entrypoint -- COMMAND" },
	{ "run", "net", "--network user lets the guest connect out, --publish PORT:TO forwards a port to it" },
	{ "run", "restart", "cairn run does not restart a VM; the key \"restart\" of a definition has the daemon do so" },
	{ "schedule", "every", "--on CALENDAR sets the times, such as --on hourly; cairn snapshot-schedule VM --every 1h takes snapshots" },
	{ "log", "n lines since", "--tail N prints the last N lines" },
	{ "audit", "n last tail", "--since TIME, such as 1h, shows only later calls" },
	{ "trend", "since", "--last TIME or --from TIME sets the begin" },
	{ "quota", "max-vms max-memory max-vcpus max-cpus cpus", "--vms, --running, --memory, --vcpus and --disk set limits" },
	/* virsh's options that have no meaning here, or another name */
	{ "attach-disk", "source-protocol source-host-name source-host-transport source-host-socket", ONE_SOURCE },
	{ "attach-disk", "wwn", "the key wwn of a disk sets it: cairn attach-device VM FILE adds a disk with all its keys" },
	{ "attach-disk attach-interface", "alias", "the target is the id of the device" },
	{ "attach-disk", "iothread", "leave it out: Cairn chooses the threads of disks" },
	{ "attach-disk", "rawio address multifunction", "leave it out: Cairn gives each disk its place on the bus, and guests get no raw access to devices" },
	{ "attach-interface", "script managed source-mode", "TYPE is network, bridge or user; Cairn runs no script for an interface and passes no device of the host to a guest" },
	{ "attach-interface", "inbound outbound", "cairn domiftune VM INTERFACE --inbound AVERAGE --outbound AVERAGE sets the limits of an attached interface" },
	{ "attach-disk attach-interface change-media detach-disk detach-interface", "print-xml",
		"--print-only shows the change of the definition and does not save it" },
	{ "domif-setlink", "print-xml", "leave it out: cairn dumpxml VM prints the definition after the change" },
	{ "blkdeviotune", "group-name", "each disk has limits of its own; give them to each disk without a group" },
	{ "blockcommit blockpull blockcopy", "timeout", "leave --timeout out: cairn job-cancel ID cancels the job, whose id --no-wait prints" },
	{ "blockcommit blockpull blockcopy", "async", NO_ASYNC },
	{ "blockjob", "async", "leave --async out: --abort does not wait for the end of the job" },
	{ "qemu-agent-command", "async", "leave --async out: --timeout SECONDS limits the wait for the answer" },
	{ "blockcommit blockpull blockcopy blockjob", "bytes", "--bandwidth takes MiB in a second" },
	{ "blockcommit blockpull", "keep-relative", "leave it out: the image keeps the paths of the definition" },
	{ "blockpull", "base", "blockpull copies all backing files; cairn blockcommit VM DISK --base FILE merges layers into FILE" },
	{ "blockcopy", "shallow", "blockcopy copies the whole disk; cairn snapshot-create-as VM NAME --disk-only --external puts an overlay on it" },
	{ "blockcopy", "reuse-external", "leave it out: blockcopy makes the file of the copy" },
	{ "blockcopy", "format", "--dest-format FORMAT sets the format of the copy" },
	{ "blockcopy", "xml print-xml blockdev", "--dest FILE names the file of the copy" },
	{ "blockcopy", "granularity buf-size transient-job synchronous-writes", "leave it out: Cairn chooses how it copies, and --bandwidth MIB limits the rate" },
	{ "blockjob", "raw", "--format json prints all that is known of the job" },
	{ "blockjob", "bandwidth", "blockcopy, blockcommit and blockpull take --bandwidth MIB when they begin" },
	{ "console", "devname", "--serial or --virtio chooses the console" },
	{ "start create", "autodestroy", "cairn run FILE runs a VM as long as the command runs" },
	{ "start create", "pass-fds", "a definition names its files by their paths" },
	{ "create", "reset-nvram", "leave it out: the VM is new, and its UEFI variables are those of the template" },
	{ "restore snapshot-revert", "reset-nvram", "cairn start VM --reset-nvram resets the UEFI variables of a VM that is off" },
	{ "desc", "edit", "cairn edit VM opens the definition, with the keys title and description, in an editor" },
	{ "destroy", "remove-logs", "leave it out: cairn undefine VM removes the log together with the VM" },
	{ "domfsthaw", "mountpoint", "leave it out: domfsthaw allows writes to all frozen file systems" },
	{ "domfstrim", "mountpoint", "leave it out: domfstrim trims all file systems; cairn exec VM -- fstrim PATH trims one" },
	{ "domhostname", "source", "leave it out: the guest agent reports the name; cairn net-dhcp-leases NETWORK shows names of leases" },
	{ "domjobabort", "postcopy", "leave it out: no job of Cairn copies to another host" },
	{ "domjobinfo", "completed keep-completed anystats rawstats", "cairn jobs shows the results of finished jobs, cairn jobs --format json all their figures" },
	{ "net-dumpxml save-image-dumpxml snapshot-dumpxml vol-dumpxml", "xpath wrap",
		"leave it out, and add to the command: | xmllint --xpath EXPRESSION -" },
	{ "dumpxml", "xpath wrap", "cairn dumpxml VM | xmllint --xpath EXPRESSION - filters the XML; cairn dumpjson prints JSON for jq" },
	{ "edit", "skip-validate", "leave it out: a definition is checked before it is saved, and edit lets you mend it" },
	{ "save restore", "xml", "leave it out: a saved state keeps the definition that the VM ran with; cairn save-image-define FILE XML changes it" },
	{ "save save-image-edit", "running paused", "cairn restore FILE --running or --paused decides that when the VM is restored" },
	{ "undefine", "delete-snapshots", "leave it out: the snapshots are in the images, and go with them" },
	{ "undefine", "wipe-storage", "undefine removes images and does not overwrite them: shred FILE does, before the undefine" },
	{ "domstats", "perf iothread memory vm", "--state, --cpu-total, --balloon, --vcpu, --interface, --block and --dirtyrate choose figures; without them, all are printed" },
	{ "domstats", "list-persistent list-transient",
		"cairn domstats VM... prints the figures of these VMs: cairn domstats $(cairn list --name), and cairn list has the filters" },
	{ "snapshot-create", "xmlfile", "cairn snapshot-create-as VM NAME DESCRIPTION takes name and description without XML" },
	{ "snapshot-create", "redefine current", "the image itself keeps its snapshots, so none has to be defined again; cairn snapshot-revert VM NAME makes one current" },
	{ "snapshot-create", "no-metadata reuse-external", "cairn snapshot-create-as VM NAME --disk-only --external takes external snapshots" },
	{ "snapshot-create snapshot-create-as", "print-xml", "leave it out: a snapshot is made without XML; cairn snapshot-info VM NAME shows it" },
	{ "snapshot-create-as", "memspec", "the image keeps the memory: leave --memspec out, or take --disk-only to leave memory out" },
	{ "snapshot-current", "snapshotname", "cairn snapshot-revert VM NAME makes a snapshot current" },
	{ "snapshot-delete", "metadata", "the image itself keeps the snapshot, so its data go with it; cairn snapshot-rename renames a snapshot that shall stay" },
	{ "snapshot-list", "no-metadata external", "leave it out: the list has internal snapshots, each with metadata; cairn domblklist VM --format json shows overlays" },
	{ "backup-begin", "backupxml checkpointxml reuse-external", "cairn backup-begin VM --to DIR writes the disks to files, --pull serves them over NBD, --disk ID and --since NAME choose what" },
	{ "pool-define-as", "source-host source-path source-dev source-name source-format source-protocol-ver source-initiator auth-type auth-username "
		"secret-usage secret-uuid adapter-name adapter-wwnn adapter-wwpn adapter-parent adapter-parent-wwnn adapter-parent-wwpn "
		"adapter-parent-fabric-wwn print-xml", POOL_IS_A_FOLDER },
	{ "pool-list", "uuid", "pools have no UUID: --name prints their names" },
	{ "vol-clone", "prealloc-metadata", "cairn vol-create-as POOL NAME CAPACITY --prealloc-metadata makes an image with complete tables" },
	{ "vol-clone", "reflink", "leave it out: vol-clone copies the data; cp --reflink FILE COPY shares them, with the paths that cairn vol-path prints" },
	{ "vol-clone vol-create-as", "print-xml", "leave it out: a volume is a file; cairn vol-info VOL shows it" },
	{ "vol-info", "physical", "--bytes prints exact sizes; the allocation is the space that the file takes" },
	{ "vol-resize", "allocate", "leave it out: fallocate --length BYTES FILE reserves the space of a raw image" },
};

const char *foreign_option_advice(const char *verb, const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (words_have(options[i].verbs, ' ', verb) && words_have(options[i].words, ' ', word))
			return options[i].advice;
	return NULL;
}
