/* machine: one PC built from a configuration: memory, vCPUs, buses, devices, disks.
 *
 * Threading: main thread only, unless a comment says otherwise; machine_listener is called from any thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_H
#define CAIRN_VMM_MACHINE_MACHINE_H

#include "base/loop.h"
#include "devices/dev_host.h"
#include "devices/legacy/flash_file.h"
#include "snapshot/uffd_open.h"
#include "snapshot/vmstate.h"
#include "snapshot/working_set.h"
#include "vmm/kvm/assist.h"
#include "vmm/kvm/dirty_log.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/memory.h"
#include "vmm/kvm/port_ring.h"
#include "vmm/kvm/prefault.h"
#include "vmm/kvm/throttle.h"
#include "vmm/kvm/vcpu.h"
#include "vmm/machine/machine_hold.h"
#include "vmm/machine/msi_links.h"
#include "vmm/machine/nic.h"
#include "vmm/vm_msg.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

struct block;
struct bus;
struct agent;
struct console;
struct device;
struct err;
struct host_files;
struct loop;
struct machine_balloon;
struct machine_dirty_rate;
struct ram_reader;
struct pci_host;
struct fault_tracker;
struct qcow2_warm;
struct vm_page;
struct vmsnap_hold;

#define MACHINE_DEVICES_MAX 64

/* Receives events of devices and faults of vCPUs, from any thread. */
struct machine_listener {
	void (*event)(void *opaque, const struct dev_event *ev);
	void (*fault)(void *opaque, unsigned vcpu, enum vm_reason reason, const char *detail);
	void *opaque;
};

/* A loop with its thread, so that no I/O runs on a vCPU's thread. Each disk of a VM's start has one of its own. The
 * sandbox forbids further loops afterwards, so disks that are attached later share them (machine_plug.h). */
struct disk_io {
	struct loop *loop; /* NULL: unused */
	const struct kvm *kvm; /* for the thread's filter */
	char name[16]; /* the thread's name: the id of its first disk */
	unsigned ndisks; /* devices that use it: disks, and the SCSI controller */
	pthread_t thread;
	bool thread_made;
};

struct machine_disk {
	const char *id; /* "vda" */
	dev_t image_dev; /* device and inode of its image */
	ino_t image_ino;
	uint64_t medium; /* a number that tells the image of a CD drive from others */
	struct block *block;
	uint8_t cache; /* enum vm_cache */
	/* The file may have a snapshot that the block engine does not know of (disk_call.c). */
	bool snapshot_unknown;
	/* A snapshot was applied or an entry updated, or that failed and the file may have the change; cleared by the
	 * caller that wants to know. */
	bool changed;
	struct disk_apply *apply; /* owned */
	struct disk_io *io;
	struct loop *loop; /* that of io */
	struct device *dev; /* the SCSI controller is the device of several disks */
	bool scsi;
	unsigned target; /* number at the SCSI controller */
	struct block *copy; /* the copy to which the disk is mirrored; owned; NULL: none (machine_copy.h) */
	unsigned copy_layer; /* not 0: a commit: the copy is this layer of the disk, and the disk owns it */
	struct block_mirror *mirror;
	bool mirrored; /* the copy is complete and gets each change; for vm_info */
	struct qcow2_warm *warm; /* a clone's: tables of the pin that the disk reads; owned; NULL: none */
};

struct machine {
	struct vm_config cfg; /* as it is now, after changes while the VM runs; a process that takes the VM over gets it */
	struct machine_listener listener;
	struct kvm kvm;
	struct memory mem;
	struct prefault prefault;
	struct vcpus vcpus;
	struct assist assist;
	bool assist_on;
	struct dev_host host;
	struct msi_links msi_links;
	struct bus *pio, *mmio;
	struct port_ring port_ring; /* of the firmware's debug port */
	struct pci_host *pci;
	struct device *acpi_pm, *vmgenid;
	struct device *pci_hotplug;
	struct device *cpu_hotplug; /* NULL: the guest always has all vCPUs */
	uint32_t hardware; /* the machine version that the guest has (machine_state.h) */
	struct device *fw_cfg; /* NULL: no firmware */
	/* [VIRTIO] and [AGENT] are NULL when the VM has no such console. */
	struct console *consoles[VM_CONSOLE_COUNT];
	struct agent *agent; /* NULL: none */
	struct device *vsock; /* NULL: none; also in devices */
	struct device *balloon_dev; /* NULL: none; also in devices */
	struct machine_balloon *balloon; /* NULL: none */
	struct device *scsi; /* the SCSI controller; NULL: no disk has bus scsi; also in devices */
	struct disk_io *scsi_io; /* its loop serves the controller's rings */
	struct device *keyboard; /* the keyboard controller; also in devices */
	struct device *screen; /* NULL: none; also in devices */
	struct device *tablet; /* NULL: none; also in devices */
	struct display_link *display; /* NULL: no process shows the screen */
	int vsock_listen_fd, vsock_dial_fd; /* owned; -1: none */
	struct device *shares[VM_SHARES_MAX]; /* also in devices */
	int share_fds[VM_SHARES_MAX];	      /* owned; -1: none */
	unsigned nshares;
	struct device *devices[MACHINE_DEVICES_MAX];
	uint8_t slots[MACHINE_DEVICES_MAX]; /* the PCI slot of each device; 0: it has none */
	unsigned ndevices;
	unsigned disks_at, nics_at; /* index in devices of the first disk and the first interface, or where it would be */
	struct disk_io disk_ios[VM_DISKS_MAX];
	struct machine_disk disks[VM_DISKS_MAX];
	unsigned ndisks;
	struct machine_held held_disks;
	struct nic nics[VM_INTERFACES_MAX];
	unsigned nnics;
	int kernel_fd, initrd_fd;
	int fork_fd;	/* a clone's state file; borrowed, only while the machine is built; -1: none */
	int peer_fd;	/* connected to the sender of the configuration; borrowed; 0: none */
	int network_rom_fd; /* owned; -1: none */
	int screen_rom_fd; /* owned; -1: none */
	int nvram_fd, nvram_template_fd; /* owned; -1: none */
	struct flash_file nvram;
	uint8_t *nvram_content; /* owned; only while the machine is built */
	int pagemap_fd; /* for a clone's restore; -1: taken, or not needed; else why it could not be opened */
	uint64_t file_bytes_max; /* the process may not write files that are larger; 0: no such limit */
	uint64_t run_ns;     /* time that the guest ran before resumed_ns */
	uint64_t resumed_ns; /* 0: paused */
	uint64_t stopped_ns; /* when the vCPUs were last stopped, at the latest; 0: they never were */
	/* Jobs in progress, other than the VM's work, that use the list of disks; the list must not change meanwhile.
	 * worker_readers: those on the worker, which end before work that begins later. disk_readers: the others. */
	atomic_uint disk_readers, worker_readers;
	_Atomic(struct vm_pins *) idle_pins; /* owned; see vmm/snapshot/vm_pins.h; NULL: none */
	bool booted; /* guest memory may have been written to, so a boot has to clear it */
	struct uffd uffd;    /* fd -1: userfaultfd is not available */
	struct ram_reader *ram_reader; /* memory is, or was, loaded from a saved state on demand; NULL: neither */
	struct working_sets working_sets; /* working sets of the saved states that this VM was restored from */
	int working_sets_fd;		     /* file that keeps the working sets; -1: none */
	bool working_sets_read, working_sets_changed;
	struct fault_tracker *tracker; /* NULL: userfaultfd does not track memory */
	struct loop_task watch_task;   /* of ram_watch_early() */
	struct dirty_log dirty_log;    /* tracks memory where userfaultfd cannot, or does not yet; zeroed: not used */
	struct throttle throttle;      /* slows the vCPUs down during a copy of memory */
	struct vmstate_file restored_from; /* saved state that memory is paged in from; fd -1: none */
	struct vmstate_store *paged_from;  /* map of a snapshot's VM state, or NULL; owned, freed with free() */
	/* Id of the snapshot in the first disk whose saved memory equals the VM's memory, except for the
	 * blocks that the tracker or the dirty log has noted as dirty since; empty: none. Set by a snapshot and by a
	 * revert. */
	char base_id[VM_SNAPSHOT_ID_MAX + 1];
	struct vmsnap_hold *held; /* the snapshot of a group that waits for the daemon; NULL: none */
	struct machine_dirty_rate *dirty_rate; /* NULL: none was measured (machine_dirty_rate.h) */
	struct vm_page *page; /* the page of figures for the daemon; NULL: none (machine_page.h) */
	struct vm_info carried; /* figures of the processes that had the VM before (machine_carry.h) */
	/* Processor features that the guest sees and did not see where the loaded state was saved
	 * (guest_cpu_more()); empty: none. */
	char cpu_more[256];
};

/* Build the machine. cfg has been checked.
 * fds: the fds that came with the configuration; each fd that is taken is replaced by -1, also on
 * failure.
 * taken: with cfg->taken_memory, the VM's memory, which the machine adopts; NULL: none.
 * host: the files that the machine needs are taken from it.
 * fork_fd: a clone's state file, which may have facts about the host's processor (fork_host.h); borrowed;
 * -1: none.
 * Returns 0 or -errno. */
int machine_new(const struct vm_config *cfg, int *fds, unsigned nfds, int fork_fd, struct memory *taken,
	struct host_files *host, struct loop *l, const struct machine_listener *listener, struct machine **ret_m, struct err *e);
/* Stop all threads, flush and close the disks, free the machine. NULL allowed. */
void machine_free(struct machine *m);

/* Create the threads of vCPUs (parked), disks and interfaces. Returns 0 or -errno. */
int machine_start_threads(struct machine *m, struct err *e);
/* Stop the disks' threads, and write everything that the block engine holds: from then on nothing changes the images,
 * until machine_wake_disks() creates the threads again. Nobody may call disk_call() meanwhile. The machine is paused.
 * Any thread. Return 0 or -errno. */
int machine_flush_disks(struct machine *m, struct err *e);
int machine_wake_disks(struct machine *m, struct err *e);
/* Clear memory if it may have been written to, load ACPI tables and kernel, and set the registers for a fresh start.
 * vCPUs are parked. Returns 0 or -errno. */
int machine_boot(struct machine *m, struct err *e);
/* Reset devices and interrupt controllers to power-on state, drop the saved state from which memory is still loaded,
 * and call machine_boot(), which resets memory and vCPUs. vCPUs are parked and devices paused. Returns 0 or
 * -errno. */
int machine_reset(struct machine *m, struct err *e);

/* Do the part of machine_pause() that follows the stop of the vCPUs: stop the guest's clock and pause the devices.
 * Called alone before the vCPUs' threads exist. */
void machine_hold(struct machine *m);
/* Free the RAM reader and the fault tracker, close the saved state that memory is paged in from, and clear base_id:
 * guest memory is about to be cleared, replaced or freed. */
void machine_memory_release(struct machine *m);
/* Reset every device to power-on state; vCPUs and memory are unchanged. */
void machine_reset_devices(struct machine *m);
/* Stop the vCPUs, then drain the devices. Afterwards nothing changes the guest's memory or
 * disks. */
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);
/* Return the time that the guest has run since its start, without pauses, as QEMU's vm_clock. It
 * continues over a save and a restore, and a revert with memory sets it back. */
uint64_t machine_clock_ns(const struct machine *m);

/* Return the id of a disk whose image is corrupt; NULL: none. */
const char *machine_corrupt_disk(const struct machine *m);
/* Fill in the statistics, but not phase, reason, value and detail. */
void machine_info(struct machine *m, struct vm_info *i);
/* Change an interface; m->cfg has the new values afterwards. Returns 0; -ENOENT; -EPERM. */
int machine_set_interface(struct machine *m, const struct vm_interface_set *want, struct err *e);
/* Stop vhost-net on all interfaces while memory is being copied, or while the dirty log is on, because the log lacks
 * vhost's writes. hold: work begins; false: it has ended. */
void machine_hold_vhost(struct machine *m, bool hold);
/* Return the limits of disk i of the configuration. */
struct virtio_blk_limits machine_disk_limits(const struct vm_config *c, unsigned i);
/* Change the limits of a disk. Returns 0; -ENOENT. */
int machine_set_disk(struct machine *m, const struct vm_disk_set *want, struct err *e);

#endif
