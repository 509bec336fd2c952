/* machine: one PC built from a configuration: memory, vCPUs, buses, devices, disks.
 *
 * Main thread only, but for what the listener is called for. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_H
#define CAIRN_VMM_MACHINE_MACHINE_H

#include "devices/dev_host.h"
#include "snapshot/uffd.h"
#include "snapshot/vmstate.h"
#include "snapshot/working_set.h"
#include "vmm/kvm/assist.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/machine/nic.h"
#include "vmm/vm_msg.h"

#include <pthread.h>
#include <sys/types.h>

struct block;
struct bus;
struct agent;
struct console;
struct device;
struct err;
struct loop;
struct pager;
struct pci_host;
struct tracker;

#define MACHINE_DEVICES_MAX 64

/* Called from any thread. */
struct machine_listener {
	void (*event)(void *opaque, const struct dev_event *ev);
	void (*fault)(void *opaque, unsigned vcpu, enum vm_reason reason, const char *detail);
	void *opaque;
};

/* A disk has a loop and a thread of its own: no I/O on a vCPU's thread. */
struct machine_disk {
	const char *id; /* "vda" */
	dev_t image_dev; /* its image's */
	ino_t image_ino;
	struct block *block;
	bool snapshot_unknown; /* the file may have one that its engine does not know of (disk_call.c) */
	struct loop *loop;
	struct device *dev;
	pthread_t thread;
	bool thread_made;
};

struct machine {
	struct vm_config cfg;
	struct machine_listener listener;
	struct kvm kvm;
	struct memory mem;
	struct vcpus vcpus;
	struct assist assist;
	bool assist_on;
	struct dev_host host;
	struct bus *pio, *mmio;
	struct pci_host *pci;
	struct device *acpi_pm, *vmgenid;
	struct console *consoles[VM_CONSOLE_COUNT]; /* [VIRTIO], [AGENT] NULL when there is none */
	struct agent *agent; /* NULL: none */
	struct device *devices[MACHINE_DEVICES_MAX];
	unsigned ndevices;
	struct machine_disk disks[VM_DISKS_MAX];
	unsigned ndisks;
	struct nic nics[VM_INTERFACES_MAX];
	unsigned nnics;
	int kernel_fd, initrd_fd;
	bool booted; /* memory has been written to */
	struct uffd uffd;    /* may be none */
	struct pager *pager; /* memory came, or comes, out of a saved state */
	struct working_sets touched; /* of saved states that this VM went on from */
	int touched_fd;		     /* the file that keeps them; -1: none */
	bool touched_read, touched_changed;
	struct tracker *tracker; /* NULL: memory is not watched */
	struct vmstate_file restored_from; /* fd -1: none */
	struct vmstate_store *paged_from;  /* owned (free); a snapshot's map, or NULL */
	/* What was not dirtied since the tracker's last mark (with a pager: ever) is what this snapshot of the
	 * first disk holds; empty: none does. */
	char base_id[VM_SNAPSHOT_ID_MAX + 1];
};

/* Build it. cfg has been checked. fds: what came with the configuration; those that are taken
 * are replaced by -1, on failure too. fork_fd: a clone's state, which may know what the host is (fork_host.h);
 * borrowed; -1: none. Returns 0 or -errno with a sentence. */
int machine_new(const struct vm_config *cfg, int *fds, unsigned nfds, int fork_fd, struct loop *l,
	const struct machine_listener *listener, struct machine **ret_m, struct err *e);
/* Stops everything, flushes and closes the disks. NULL allowed. */
void machine_free(struct machine *m);

/* Threads of vCPUs (parked), disks and interfaces. */
int machine_start_threads(struct machine *m, struct err *e);
/* Tables, kernel and registers for a fresh start; vCPUs parked. */
int machine_boot(struct machine *m, struct err *e);
/* Power-on state of every device, then machine_boot(). vCPUs parked, devices paused. */
int machine_reset(struct machine *m, struct err *e);

/* Devices as after machine_pause(), before any thread is there. */
void machine_hold(struct machine *m);
/* What memory is paged in from, and what is known of it, is no longer so. */
void machine_forget_memory(struct machine *m);
/* Every device to its power-on state; vCPUs and memory stay. */
void machine_reset_devices(struct machine *m);
/* Stop the vCPUs, then drain the devices; after it nothing of the guest's moves. */
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);

/* The id of a disk whose image is corrupt; NULL: none is. */
const char *machine_corrupt_disk(const struct machine *m);
/* The figures (not phase, reason, value, detail). */
void machine_info(struct machine *m, struct vm_info *i);

#endif
