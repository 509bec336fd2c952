/* Verbs that users of virsh, docker, multipass and others type, and what does the same here. */
#include "tools/cairn/cli.h"
#include "base/util.h"

static const struct {
	const char *words; /* separated by blanks */
	const char *advice;
} foreign[] = {
	{ "ps ls vms domains", "cairn list --all lists the VMs" },
	{ "status state", "cairn domstate --reason VM shows the state" },
	{ "show inspect info", "cairn dominfo VM shows a VM, cairn dumpjson VM its definition" },
	{ "create", "cairn define FILE defines a VM and cairn start VM starts it; cairn run FILE runs one that leaves nothing behind" },
	{ "launch install init virt-install", "cairn new NAME --image FILE makes and starts a VM from an image" },
	{ "up boot on poweron", "cairn start VM starts a VM" },
	{ "stop halt poweroff down off", "cairn shutdown VM shuts the guest down, cairn destroy VM stops the VM at once" },
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
	{ "stats cpu-stats domperf perf", "cairn domstats VM prints the counters, cairn top shows all VMs" },
	{ "port ports publish", "cairn forward-list VM lists the forwarded ports, cairn forward-add VM adds one" },
	{ "network networks", "cairn net-list lists the networks" },
	{ "snapshot snap checkpoint savevm", "cairn snapshot-create-as VM NAME takes a snapshot" },
	{ "snapshots", "cairn snapshot-list VM lists the snapshots" },
	{ "revert rollback loadvm", "cairn snapshot-revert VM NAME reverts to a snapshot" },
	{ "delvm", "cairn snapshot-delete VM NAME deletes a snapshot" },
	{ "snapshot-dumpxml snapshot-show", "cairn snapshot-info VM NAME --format json shows a snapshot" },
	{ "snapshot-edit", "cairn snapshot-rename and cairn snapshot-tag change a snapshot" },
	{ "screendump", "cairn screenshot VM saves the screen" },
	{ "domdisplay vnc", "cairn vncdisplay VM prints the display" },
	{ "inject-nmi qemu-monitor-command qmp", "cairn qmp-path VM prints the socket that speaks QMP" },
	{ "dompmsuspend", "cairn suspend VM pauses a VM, cairn managedsave VM saves and stops it" },
	{ "balloon memtune", "cairn setmem VM SIZE changes the memory" },
	{ "migrate", "cairn export VM FILE and cairn import FILE move a VM to another host" },
	{ "capabilities domcapabilities cpu-baseline cpu-compare hypervisor-cpu-baseline", "cairn doctor shows what the host offers, cairn cpu-models the processor models" },
	{ "sysinfo freecell", "cairn nodeinfo shows the host" },
	{ "config", "cairn edit VM changes the definition" },
	{ "domxml-from-native domxml-to-native", "cairn define FILE reads libvirt's XML, cairn dumpxml VM prints it" },
	{ "images image create-image", "cairn-img creates and inspects images" },
	{ "chown useradd adduser", "cairn grant gives a user a role" },
	{ "list-users users", "cairn permissions lists who may do what" },
};

const char *foreign_word_advice(const char *word)
{
	for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
		if (words_have(foreign[i].words, ' ', word))
			return foreign[i].advice;
	return NULL;
}
