/* vm_msg: the messages between cairnd (or `cairn run`) and a VM process.
 *
 * Transport: a SOCK_SEQPACKET Unix socket; base/channel.h frames and checks. Bodies are the structs
 * below: same machine, same architecture, fixed layout, no pointers. Strings are NUL-terminated
 * (the receiver forces the last byte).
 * A VM process continues over an upgrade of its daemon. So a release changes VM_MSG_VERSION for an incompatible
 * change, or for a new request unless vm_info announces it, as with hands_over. A struct only grows at its end. A
 * message of another version is answered by a VM_MSG_REPLY of the receiver's version, whose header shows that
 * version; then the connection is dropped. cairnd speaks the versions from VM_MSG_VERSION_OLDEST on to the processes
 * that earlier daemons started (api/vm/vm_compat.h); a VM process speaks only its own.
 *
 * Sequence: the VM process accepts on the listening socket it was given (or uses the connected
 * one). The first request is VM_MSG_CONFIG, exactly once per process; a process that takes a VM over
 * gets it from the process that hands the VM over (vmm/snapshot/vm_handover.h). A later connection replaces
 * the earlier one and begins with VM_MSG_QUERY. Unless its comment says otherwise, each request is answered with the
 * same seq, by VM_MSG_REPLY or by the type that is named below. Requests begin in order; one that takes long is
 * answered when it is complete, possibly after later ones. */
#ifndef CAIRN_VMM_VM_MSG_H
#define CAIRN_VMM_VM_MSG_H

#include "base/backoff.h"
#include "base/channel.h"
#include "base/vm_reason.h"
#include "vmm/vm_fork_stage.h"
#include "vmm/vm_limits.h"
#include "vmm/vm_screen.h"
#include "vmm/vm_share.h"
#include "vmm/vm_snapshot_msg.h"
#include "vmm/vm_sysinfo.h"

#include <stddef.h>
#include <stdint.h>

#define VM_MSG_VERSION 2
#define VM_MSG_VERSION_OLDEST 1

#define VM_NAME_MAX 255
#define VM_CMDLINE_MAX 2047
#define VM_VCPUS_MAX 64
#define VM_CPU_MAX 511
#define VM_DISKS_MAX 24
#define VM_DISK_LAYERS_MAX 16
#define VM_INTERFACES_MAX 8
#define VM_QUEUE_PAIRS_MAX 8
#define VM_DETAIL_MAX 384
#define VM_RAM_MIN_BYTES (1ULL << 20)
#define VM_RAM_MAX_BYTES (1ULL << 40)

enum vm_msg_type {
	/* requests */
	VM_MSG_CONFIG = 1,     /* struct vm_config + fds: build the VM and start it */
	VM_MSG_CONT = 2,       /* paused → running */
	VM_MSG_STOP = 3,       /* running → paused; replied to when all vCPUs are stopped */
	VM_MSG_POWERDOWN = 4,  /* press the ACPI power button */
	VM_MSG_RESET = 5,      /* hard reset */
	VM_MSG_QUIT = 6,       /* stop now; the process ends after the reply */
	VM_MSG_QUERY = 7,      /* answered by VM_MSG_INFO */
	VM_MSG_CONSOLE = 8,    /* struct vm_console + 1 fd (a stream socket): attach */
	VM_MSG_NMI = 9,	       /* inject an NMI into every vCPU */
	/* 1 or 2 fds: an empty file for the state (snapshot/vmstate.h), and the definition to store
	 * in it. struct vm_save_devices, but no body to processes whose vm_info lacks checks_saves. Pauses the
	 * VM. The reply comes when the state is on disk; then the VM ends with VM_REASON_SAVED. On failure the
	 * VM continues in its previous phase. */
	VM_MSG_SAVE = 10,
	VM_MSG_CANCEL = 11,    /* cancel the work in progress, or all requests for clones' disks */
	/* Snapshots of all writable disks, each inside its disk; the first writable qcow2 disk
	 * also holds the VM state. A process with `images_only` serves these requests, too: then
	 * no VM runs, and a snapshot holds disks only. */
	VM_MSG_SNAPSHOT_CREATE = 12, /* struct vm_snapshot_create; VM_EVENT_PROGRESS meanwhile */
	VM_MSG_SNAPSHOT_LIST = 13,   /* struct vm_snapshot_list; answered by VM_MSG_SNAPSHOTS */
	VM_MSG_SNAPSHOT_REVERT = 14, /* struct vm_snapshot_revert */
	VM_MSG_SNAPSHOT_DELETE = 15, /* struct vm_snapshot_name; children move to its parent */
	VM_MSG_SNAPSHOT_SET = 18,    /* struct vm_snapshot_set: rename, describe, tag */
	/* struct vm_snapshot_name; answered by VM_MSG_SNAPSHOTS with that snapshot and its own_bytes. The name of a pin
	 * is allowed. */
	VM_MSG_SNAPSHOT_SIZE = 21,
	/* struct vm_fork: capture the state from which clones start: that of the running VM, which
	 * continues, or of one of its snapshots; then the VM may be off (`images_only`). Answered by
	 * VM_MSG_SNAPSHOT_DONE when everything is on stable storage. If the disks were made as requested,
	 * VM_EVENT_FORK_READY may come before. fds: an empty memfd for a state as of VM_MSG_SAVE; then for each
	 * writable disk, in order, its image for reading and `copies` empty files, which become overlays on a pin of
	 * the image, or copies. */
	VM_MSG_FORK = 22,
	/* struct vm_dump + 1 fd, an empty file: write memory as an ELF core. Answered by
	 * VM_MSG_SNAPSHOT_DONE; VM_EVENT_PROGRESS meanwhile. */
	VM_MSG_DUMP = 24,
	VM_MSG_WATCHDOG = 23,	     /* struct vm_watchdog: set another action */
	VM_MSG_AGENT = 25,	     /* struct vm_agent: a command for the guest agent */
	/* Answered by VM_MSG_SPACES. The VM process has the files open, and a slow file system does
	 * not block the daemon. */
	VM_MSG_SPACE = 27,
	VM_MSG_ADDRESSES = 29,	     /* answered by VM_MSG_ADDRESS_LIST, from the guest agent */
	/* struct vm_clone_disk + fds: an empty file, then for each layer its file and its data file
	 * if it has one. VM_EVENT_PROGRESS meanwhile, with the key in device. Several at a time,
	 * answered as they complete; images_only. */
	VM_MSG_CLONE_DISK = 26,
	/* struct vm_disk_pull: copy the data that a disk reads from its backing files into its image, and drop the
	 * backing files. VM_EVENT_PROGRESS meanwhile. Since version 2. */
	VM_MSG_DISK_PULL = 31,
	/* answers */
	VM_MSG_REPLY = 16, /* struct vm_reply */
	VM_MSG_INFO = 17,  /* struct vm_info */
	VM_MSG_SNAPSHOTS = 19, /* struct vm_snapshots, truncated after its last entry */
	/* struct vm_snapshot_done: answers a create, a fork, a dump, or a revert with wants_done, instead of a
	 * reply. */
	VM_MSG_SNAPSHOT_DONE = 20,
	VM_MSG_SPACES = 28,	   /* struct vm_spaces */
	VM_MSG_ADDRESS_LIST = 30,  /* struct vm_addresses */
	/* notifications */
	VM_MSG_EVENT = 32, /* struct vm_event */
	/* a request: struct vm_pins, pins (of any disk) to delete; those that do not exist count as deleted */
	VM_MSG_PINS_DELETE = 33,
	/* a request: no body; 2 fds: the end of a socket pair whose other end a new process has, and an empty memfd
	 * for the state. Hands the VM over to that process (vmm/snapshot/vm_handover.h) and ends without VM_PHASE_ENDED
	 * and without an answer; the new process then serves the VM's socket. A reply reports a failure: the VM
	 * continues in its previous phase. ERR_UNSUPPORTED: this VM cannot be handed over, and was not paused. Only to
	 * processes whose vm_info has hands_over. */
	VM_MSG_HANDOVER = 34,
	/* from the process that hands a VM over to the process that takes it over: struct vm_go, truncated after its
	 * last client, with a socket for each; run the VM; not answered */
	VM_MSG_GO = 35,
	/* as VM_MSG_GO, but before VM_MSG_CONFIG, for a live clone: struct vm_memory, the first time with the base file
	 * of its memory and the file of its own pages, afterwards without fds; map the memory, and read the own pages
	 * that the file has now. The answer is a reply. */
	VM_MSG_MEMORY = 36,
	/* a request: struct vm_console_end, truncated after its last id: detach the clients of the consoles whose user
	 * and group are not among the ids. Only to processes whose vm_info has ends_consoles. */
	VM_MSG_CONSOLE_END = 37,
	/* a request: struct vm_interface_set: change an interface while the VM runs. Only to processes whose vm_info
	 * has sets_interfaces. */
	VM_MSG_INTERFACE_SET = 38,
	/* a request: struct vm_agent_command, truncated after the command, + 1 fd, an empty memfd: send a command to
	 * the guest agent, and write its answer, one line, to the memfd. Answered by VM_MSG_AGENT_ANSWER. Only to
	 * processes whose vm_info has agent_commands. */
	VM_MSG_AGENT_COMMAND = 39,
	VM_MSG_AGENT_ANSWER = 40, /* struct vm_agent_answer */
	/* a request: struct vm_vsock + 1 fd (a stream socket): connect it to a port of the guest. Answered when the
	 * guest has accepted or refused. Only to processes whose vm_info has vsock. */
	VM_MSG_VSOCK = 41,
	/* a request: no body: answer the work in progress to this request, as if it had asked for it. Fails if no
	 * work is in progress. Only to processes whose vm_info has `work`. */
	VM_MSG_WORK = 42,
	/* a request: struct vm_disk_set: change the limits of a disk while the VM runs. Only to processes whose vm_info
	 * has sets_disks. */
	VM_MSG_DISK_SET = 43,
	/* a request: struct vm_config with the disks and interfaces to attach, + their fds; of the rest, only the
	 * members that vm_config_check() needs count. The guest is notified. Only to processes whose vm_info has
	 * plugs, as the next. */
	VM_MSG_PLUG = 44,
	/* a request: struct vm_unplug: ask the guest to release a disk or an interface, or remove it at once. The
	 * answer comes at once, VM_EVENT_UNPLUGGED when the device is gone. */
	VM_MSG_UNPLUG = 45,
	/* a request: struct vm_balloon_set: change the balloon's target, or how often the guest sends statistics. Only
	 * to processes whose vm_info has sets_balloon. */
	VM_MSG_BALLOON_SET = 46,
	/* a request: no body: free the memory that the guest has not written since the last snapshot or revert; its
	 * accesses bring it back from the image. Answered by VM_MSG_SNAPSHOT_DONE, whose ram_bytes_shared is the
	 * number of freed bytes. Only to processes whose vm_info has reclaims. */
	VM_MSG_RECLAIM = 47,
	/* a request: struct vm_config as VM_MSG_PLUG, with one disk: a CD drive of the VM, which gets this medium. Only
	 * to processes whose vm_info has sets_medium. */
	VM_MSG_MEDIUM_SET = 48,
	/* a request: struct vm_disk_copy + 1 fd, an empty file: copy a disk that the guest uses to the file, and answer
	 * when both get each change. VM_EVENT_PROGRESS. Only if vm_info has copies_disks, as the next two. */
	VM_MSG_DISK_COPY = 49,
	VM_MSG_DISK_COPY_END = 50, /* a request: struct vm_disk_copy, of which the id counts: go on without the copy */
	/* a request: struct vm_config as VM_MSG_PLUG, with one disk, the copy: continue with it alone */
	VM_MSG_DISK_PIVOT = 51,
	/* a request: struct vm_screenshot + 1 fd, an empty file: write a picture of the guest's screen to the file.
	 * Only to processes whose vm_info has screens. */
	VM_MSG_SCREENSHOT = 52,
	/* a request: struct vm_config as VM_MSG_PLUG, with disks of the VM: let each continue with this chain of
	 * layers, whose content is the same; all at once. Only if vm_info.copies_disks is VM_LAYERS_DISKS, as the next.
	 * */
	VM_MSG_DISK_LAYERS = 53,
	/* a request: struct vm_disk_commit (vm_disk_msg.h): copy upper layers of a disk to a lower one, and then,
	 * unless they are all that are above it, drop them. VM_EVENT_PROGRESS meanwhile. */
	VM_MSG_DISK_COMMIT = 54,
	/* a request: struct vm_keys: press the keys together, hold them, and release them. The answer comes then; one
	 * request follows the other. Only to processes whose vm_info.screens is VM_SCREENS_KEYS. */
	VM_MSG_SEND_KEYS = 55,
	/* a request: no body + 1 fd, a memfd for struct vm_page (vmm/vm_page.h): write the VM's figures to it from now
	 * on. Only to processes whose vm_info has shows_figures. */
	VM_MSG_PAGE = 56,
	/* a request: struct vm_disk_resize: grow a disk in use. Only if copies_disks is VM_RESIZES_DISKS. */
	VM_MSG_DISK_RESIZE = 57,
	VM_MSG_SPARE = 58, /* to a process made ahead (vmm/spare.h): no body; 3 fds, its VM's socket, log, end file */
	/* a request: struct vm_vcpus: give the guest vCPUs, or ask it to release some. The answer comes at once,
	 * VM_EVENT_UNPLUGGED when a vCPU is gone. Only to processes whose vm_info has plugs_vcpus. */
	VM_MSG_VCPUS = 59,
	VM_MSG_PCI = 60, /* a request: no body; answered by VM_MSG_PCI_LIST. Only if plugs_vcpus is VM_SHOWS_PCI */
	VM_MSG_PCI_LIST = 61, /* struct vm_pci */
	/* a request: struct vm_input: events of keyboard and pointer, in order. Only if screens is VM_SCREENS_INPUT */
	VM_MSG_INPUT = 62,
	/* a request: struct vm_snapshot_go: continue with the snapshot of a group. Only if vm_info has groups */
	VM_MSG_SNAPSHOT_GO = 63,
	/* a request: struct vm_dirty_rate_ask: measure how fast the guest changes its memory. The answer comes at once,
	 * the result in vm_info.dirty_rate. Only to processes whose vm_info has samples_pages. */
	VM_MSG_DIRTY_RATE = 64,
	/* a request: struct vm_pins: the pins (of any disk) that no overlay reads, and that wait for a further fork.
	 * They replace those of the last request. The process deletes them before work that a pin would forbid, and
	 * when the VM ends; it forgets them when the daemon ends. Only if vm_info.pins_readable is VM_IDLE_PINS. */
	VM_MSG_PINS_IDLE = 65,
	/* a request: no body + 1 fd, an empty memfd: write the list of the pages that the guest has touched so far
	 * (vmm/kvm/prefault.h). Only from `cairn run`. */
	VM_MSG_FIRST_PAGES = 66,
	VM_MSG_TYPE_COUNT,
};

enum vm_phase {
	VM_PHASE_NONE = 0,   /* not configured yet */
	VM_PHASE_PAUSED = 1,
	VM_PHASE_RUNNING = 2,
	VM_PHASE_CRASHED = 3, /* preserved: vCPUs are stopped and cannot continue */
	VM_PHASE_ENDED = 4,  /* the process is about to exit */
};

enum vm_event_kind {
	VM_EVENT_PHASE = 1,	 /* phase, reason, value, detail */
	VM_EVENT_POWERDOWN,	 /* the power button was pressed; value: 1 by request, 0 by the watchdog */
	VM_EVENT_RESET,		 /* value: 1 by the guest or the watchdog, 0 by request */
	VM_EVENT_GUEST_PANICKED, /* value: pvpanic's bits */
	VM_EVENT_IO_ERROR,	 /* device, value: errno, is_write, image_corrupt, detail: action */
	VM_EVENT_NEEDS_RESET,	 /* device */
	VM_EVENT_PROGRESS,	 /* progress: value of total bytes are done */
	VM_EVENT_SNAPSHOT_RECOVERED, /* value: enum vm_recovery; device: disk; detail: the snapshot's name */
	VM_EVENT_GUEST_FROZEN, /* the VM was saved with frozen file systems, and no agent confirmed a thaw */
	VM_EVENT_WATCHDOG,	 /* value: enum vm_watchdog_action, carried out next */
	/* The guest resets in a loop: next reset in value ns; total: number of resets in the back-off's window. */
	VM_EVENT_RESET_DELAYED,
	VM_EVENT_AGENT,		 /* value: enum vm_agent_state */
	VM_EVENT_LINK_LOST,	 /* device: an interface whose peer is gone; detail */
	VM_EVENT_FORK_READY,	 /* value: enum vm_fork_stage, of the fork or the snapshot of a group under way */
	VM_EVENT_TRAY,		 /* device: a CD drive; value: 1: the guest opened its tray, 0: closed it */
	/* device: a disk or an interface that the VM has no more; detail: the lost data, or "". Or a vCPU: value:
	 * 1 + its number */
	VM_EVENT_UNPLUGGED,
	VM_EVENT_UNPLUG_REFUSED, /* device, value likewise: the guest was asked to release it, and refuses */
	VM_EVENT_BALLOON, /* the size of the balloon has changed; value: the memory that it leaves to the guest, bytes */
	VM_EVENT_COPY_OUTPACED, /* the guest writes faster than the copy of a disk, so its writes go to both images */
	VM_EVENT_VCPUS, /* the guest has other vCPUs than before; value: vm_info.vcpus_absent */
	VM_EVENT_KIND_COUNT,
};

/* Recovery of an operation on several disks that a crash interrupted. */
enum vm_recovery {
	VM_RECOVERY_MADE = 1, /* created: all disks had their part */
	VM_RECOVERY_UNMADE,   /* not created: a part was missing, the others were deleted */
	VM_RECOVERY_DELETED,  /* deleted: the remaining parts were deleted */
	VM_RECOVERY_REVERTED, /* reverted: the other disks were reverted, too */
};

enum vm_action { VM_ACTION_DESTROY = 0, VM_ACTION_RESTART = 1, VM_ACTION_PRESERVE = 2,
	/* Only in a definition's on_crash; the VM process gets VM_ACTION_PRESERVE. */
	VM_ACTION_COREDUMP_DESTROY = 3, VM_ACTION_COREDUMP_RESTART = 4 };
enum vm_watchdog_model { VM_WATCHDOG_NO_DEVICE = 0, VM_WATCHDOG_I6300ESB = 1 };
enum vm_watchdog_action {
	VM_WATCHDOG_RESET = 0, /* reset the machine, as after a reset by the guest itself */
	VM_WATCHDOG_SHUTDOWN,  /* press the power button */
	VM_WATCHDOG_POWEROFF,  /* end with VM_REASON_WATCHDOG */
	VM_WATCHDOG_PAUSE,     /* pause with VM_REASON_WATCHDOG */
	VM_WATCHDOG_DUMP,      /* pause; the daemon dumps memory and resumes the VM */
	VM_WATCHDOG_NONE,
	VM_WATCHDOG_NMI,
	VM_WATCHDOG_ACTION_COUNT,
};
enum vm_error_policy { VM_ERRORS_REPORT = 0, VM_ERRORS_STOP = 1, VM_ERRORS_IGNORE = 2 };
enum vm_assist { VM_ASSIST_AUTO = 0, VM_ASSIST_ON = 1, VM_ASSIST_OFF = 2 };
/* VM_CONSOLE_AGENT is the guest agent's port; clients cannot attach to it. */
enum vm_console_kind { VM_CONSOLE_SERIAL = 0, VM_CONSOLE_VIRTIO = 1, VM_CONSOLE_AGENT = 2, VM_CONSOLE_COUNT };

/* Exit status of cairn-vm and thereby of `cairn run`. With debug_exit, the byte that the guest
 * wrote replaces VM_EXIT_OK. */
enum vm_exit {
	VM_EXIT_OK = 0,		/* the guest shut down, or a client sent quit */
	VM_EXIT_FAILURE = 1,
	VM_EXIT_CONFIG = 2,
	VM_EXIT_BUSY = 6,	/* another process uses a disk or a socket */
	VM_EXIT_HOST = 7,	/* KVM missing, a capability missing, no memory */
	VM_EXIT_PANICKED = 10,
	VM_EXIT_CRASHED = 11,	/* triple fault, emulation failure, the watchdog's poweroff */
	VM_EXIT_TIMEOUT = 12,	/* the guest did not shut down within the deadline */
	VM_EXIT_KILLED = 13,	/* second SIGTERM, SIGINT or SIGHUP */
	VM_EXIT_SIGNAL = 128,	/* plus a signal's number: the init of a pid namespace exits so instead of being killed */
};

#define VM_NO_FD 0xffffu

enum vm_firmware { VM_FIRMWARE_NONE = 0, VM_FIRMWARE_BIOS = 1, VM_FIRMWARE_UEFI = 2 };

enum vm_boot_kind { VM_BOOT_ANY = 0, VM_BOOT_HD = 1, VM_BOOT_CDROM = 2, VM_BOOT_NETWORK = 3 };
#define VM_BOOT_PLACES_MAX (VM_DISKS_MAX + 1)

struct vm_disk {
	char id[16];	  /* "vda" */
	char serial[24];  /* at most 20 characters reach the guest */
	uint16_t nlayers; /* 1: no backing file */
	uint16_t fd[VM_DISK_LAYERS_MAX]; /* index into the message's fds; [0] the disk itself */
	/* index of the fd of a qcow2 layer's external data file; VM_NO_FD: none */
	uint16_t data_fd[VM_DISK_LAYERS_MAX];
	uint8_t format[VM_DISK_LAYERS_MAX]; /* enum block_format */
	uint8_t read_only;
	uint8_t error_policy; /* enum vm_error_policy */
	uint16_t queues;      /* 0: one per vCPU, at most 8 */
	uint16_t queue_size;  /* 0: 256 */
	uint8_t may_stand_alone; /* ignore the backing layers if the image names none (block_open.may_stand_alone) */
};

struct vm_interface {
	char id[16];	 /* "net0" */
	char target[16]; /* the tap's name on the host; empty: none */
	uint8_t mac[6];
	uint16_t tap_fd; /* VM_NO_FD: none; the link is down */
	uint16_t mtu;	 /* 0: 1500 */
	uint16_t user;	 /* 1: a user network; the fd, if any, is a socket to cairn-slirp */
};

/* VM_VHOST_BEFORE: vhost-net has moved frames of an interface that is handed over. */
enum vm_vhost { VM_VHOST_NO = 0, VM_VHOST_YES = 1, VM_VHOST_BEFORE = 2 };
enum vm_bus { VM_BUS_VIRTIO = 0, VM_BUS_SCSI = 1 };
enum vm_zeroes { VM_ZEROES_OFF = 0, VM_ZEROES_ON = 1, VM_ZEROES_UNMAP = 2 }; /* as enum block_zeroes */
/* The host's page cache: bypassed (O_DIRECT); used; used, and a flush does nothing. */
enum vm_cache { VM_CACHE_NONE = 0, VM_CACHE_WRITEBACK = 1, VM_CACHE_UNSAFE = 2 };

/* More of a disk. A process that hands its VM over and does not know this leaves zeros, which are its disks. */
struct vm_disk_more {
	uint64_t wwn; /* of a disk with bus scsi; 0: none */
	uint32_t logical_bytes, physical_bytes; /* blocks that the guest sees; 0: of the image; 4096 */
	uint8_t bus;	       /* enum vm_bus */
	uint8_t cdrom;	       /* of bus scsi: a CD drive */
	uint8_t no_discard;    /* the guest cannot discard */
	uint8_t detect_zeroes; /* enum vm_zeroes */
	uint8_t force;	       /* only in VM_MSG_MEDIUM_SET: although the guest keeps the tray locked */
	uint8_t check_only;    /* only in VM_MSG_DISK_PIVOT and _LAYERS: check whether it would be refused */
	uint8_t cache, poll_max_us; /* enum vm_cache; VM_POLL_*. An older process has VM_CACHE_NONE and VM_POLL_DEFAULT */
};

struct vm_config {
	char name[VM_NAME_MAX + 1];
	uint8_t uuid[16];
	uint64_t ram_bytes; /* multiple of 4096 */
	uint32_t vcpus;
	uint32_t sockets, cores, threads; /* topology; 0 0 0: one socket of `vcpus` cores */
	uint16_t kernel_fd; /* VM_NO_FD: none */
	uint16_t initrd_fd;
	uint16_t log_fd;
	char cmdline[VM_CMDLINE_MAX + 1];
	uint8_t start_paused;
	uint8_t huge_pages;
	uint8_t assist;	     /* enum vm_assist */
	uint8_t on_poweroff; /* enum vm_action */
	uint8_t on_reboot;
	uint8_t on_crash;    /* destroy (process exits) or preserve */
	uint8_t rng;	     /* a virtio-rng device */
	uint8_t virtio_console;
	uint8_t debug_exit;  /* the test device at port 0xf4 */
	uint8_t foreground;  /* console on fds 0 and 1; SIGTERM shuts the guest down (vmm/foreground.h) */
	uint8_t log_level;   /* enum log_level */
	uint8_t unused_after_log_level;
	uint32_t shutdown_deadline_s; /* foreground; 0: 30 */
	uint32_t ndisks;
	struct vm_disk disks[VM_DISKS_MAX];
	/* VM_NO_FD: none. The struct vm_event with VM_PHASE_ENDED is also written to this file at
	 * offset 0, so that a daemon that was not running learns the reason. */
	uint16_t end_fd;
	/* VM_NO_FD: boot. Otherwise a saved state to restore; the kernel is still needed for a
	 * reset. */
	uint16_t restore_fd;
	uint8_t eager; /* load all memory before the VM runs, not on demand */
	uint8_t images_only; /* no machine, only the disks: for snapshots and clones of a VM that is off */
	uint8_t guest_agent; /* add a guest agent port */
	uint8_t forked; /* restore_fd is the file of a VM_MSG_FORK, sealed unless `foreground`; RAM maps it privately */
	/* VM_NO_FD: none. Otherwise the file that keeps working sets: the blocks that were touched
	 * first after a restore or a revert, for the next one; see snapshot/working_set.h. */
	uint16_t working_sets_fd;
	int32_t clock_offset_s; /* seconds by which the RTC is ahead of UTC at the start, at most a day */
	uint8_t watchdog; /* enum vm_watchdog_model */
	uint8_t watchdog_action; /* enum vm_watchdog_action */
	struct backoff_rule resets; /* back-off for resets by the guest; all 0: reset at once */
	uint8_t hint_hostname; /* forked: once the VM runs, set the guest's host name to the VM's name */
	uint8_t clone_copiers; /* images_only: VM_CLONE_CONTENT requests at a time, at most 8 */
	/* images_only: open all images read-only, because other processes read them at the same time. */
	uint8_t images_read;
	uint32_t ninterfaces;
	struct vm_interface interfaces[VM_INTERFACES_MAX];
	char cpu[VM_CPU_MAX + 1]; /* the processor (base/cpu_model.h); empty: host */
	/* Another process hands the VM over: restore_fd has the sections of its state (snapshot/state.h), and `taken`
	 * the rest. */
	uint8_t taken_over;
	struct vm_taken {
		/* the file of the VM's memory, which is mapped as it is; VM_NO_FD with taken_memory */
		uint16_t ram_fd;
		uint16_t listen_fd; /* the VM's listening socket */
		/* The VM before it was paused for the handover. */
		uint8_t phase, reason;
		uint8_t off_asked; /* a user asked for a shutdown */
		uint8_t has_base;  /* restore_fd also lists the memory that differs from the last snapshot's */
		int64_t value;
		char detail[VM_DETAIL_MAX];
		uint64_t vm_clock_ns, started_realtime_ns;
		uint64_t stopped_ns; /* CLOCK_MONOTONIC: when the vCPUs stopped; 0: the VM was paused */
	} taken;
	/* VM_MSG_MEMORY has brought the VM's memory; read the own pages that its file has now. */
	uint8_t taken_memory;
	/* How that memory was copied while the guest ran; for vm_info of the new process. */
	uint8_t copy_rounds, copy_throttle, copy_stopped;
	/* The number of files that other processes hold. Their indices come before those of the message's files, the
	 * first of which are the relays to take them from (base/relay.h). 0: none. Meaningless with taken_over. */
	uint16_t held, relays;
	/* restore_fd is the relay of a process that holds the saved state (base/relay.h). */
	uint8_t restore_held;
	/* 1: the interface's link is down, also with a file */
	uint8_t link_down[VM_INTERFACES_MAX];
	struct vm_interface_limits limits[VM_INTERFACES_MAX]; /* of the interfaces */
	/* The guest's address of its virtio-vsock device; 0: no such device, and the two fds count for nothing. An
	 * older process that hands its VM over sends a shorter struct. */
	uint32_t vsock_cid;
	uint16_t vsock_listen_fd; /* the socket for the host's clients; VM_NO_FD: none */
	uint16_t vsock_dial_fd;   /* socket to cairn-dial (base/vsock_dial.h); VM_NO_FD: none */
	/* The VM starts only to be reverted to a snapshot with memory, so its present state is of no use. */
	uint8_t for_revert;
	/* enum vm_firmware. With a firmware, kernel_fd is its ROM, and there is no initrd and no command line. */
	uint8_t firmware;
	uint8_t boot_menu;	/* the firmware shows its boot menu */
	uint16_t boot_menu_ms;	/* how long the firmware waits for the key that opens the menu; 0: its default */
	/* the disk's place in the boot order, from 1; 0: the firmware tries the disk after those with a place */
	uint8_t boot_place[VM_DISKS_MAX];
	uint8_t queue_pairs[VM_INTERFACES_MAX]; /* of the interfaces; 0: 1 */
	/* the further queues of the interface's tap, one for each pair but the first; VM_NO_FD where tap_fd is */
	uint16_t pair_fds[VM_INTERFACES_MAX][VM_QUEUE_PAIRS_MAX - 1];
	struct vm_disk_limits disk_limits[VM_DISKS_MAX]; /* of the disks */
	/* The network's place in the boot order, as boot_place; 0: the firmware does not boot from the network, and the
	 * fd counts for nothing. */
	uint8_t network_place;
	uint16_t network_rom_fd; /* the ROM of a network boot program, for a BIOS */
	char sysinfo[VM_SYSINFO_MAX]; /* enum vm_sysinfo_key */
	struct vm_disk_more disk_more[VM_DISKS_MAX]; /* of the disks */
	uint8_t balloon; /* a virtio-balloon device */
	uint64_t balloon_bytes; /* memory that the balloon leaves to the guest at the start; 0: all */
	/* With VM_FIRMWARE_UEFI, the file of its variables, for writing, and their template; otherwise these count for
	 * nothing. */
	uint16_t nvram_fd, nvram_template_fd;
	uint8_t screen; /* a screen (devices/legacy/bochs_display.h), with keyboard and mouse */
	/* The machine version that the guest boots as (base/machine_version.h). 0, from an older Cairn:
	 * machine_version_unnamed(). */
	uint8_t machine;
	/* VM_VHOST_YES: vhost-net serves the interface by /dev/vhost-net, opened once for each pair; otherwise the
	 * indices count for nothing. A process that takes a VM over gets no such files: the kernel uses the memory of
	 * the process that set vhost up. */
	uint8_t vhost[VM_INTERFACES_MAX]; /* enum vm_vhost */
	uint16_t vhost_fds[VM_INTERFACES_MAX][VM_QUEUE_PAIRS_MAX];
	/* 1: display_fd is a socket to the process that shows the screen (base/display.h); never with taken_over: that
	 * process comes with VM_MSG_GO. Otherwise the fd counts for nothing. */
	uint8_t display;
	uint16_t display_fd;
	uint8_t state_later; /* forked: use restore_fd and the images only when state_ready_fd, an eventfd, is readable */
	uint16_t state_ready_fd;
	/* 1: screen_rom_fd is the option ROM by which SeaBIOS writes to the screen; 0: the fd counts for nothing */
	uint8_t screen_rom;
	uint16_t screen_rom_fd;
	struct vm_disk_tune disk_tune[VM_DISKS_MAX]; /* of the disks */
	uint32_t pins_readable; /* forked: mask of disks; layer 1 is read at a pin that the image may not name yet */
	uint8_t cpu_hotplug; /* vCPUs come and go; else vcpus_absent is 0 */
	uint64_t vcpus_absent; /* a bit for each of the `vcpus` that the guest lacks at the start */
	uint8_t tablet; /* with a screen: a virtio-input device for its pointer */
	uint8_t nshares;
	struct vm_share shares[VM_SHARES_MAX]; /* virtio-fs devices */
	uint8_t former[VM_FORMER_MAX][16]; /* UUIDs that the VM had when it wrote states; all 0: none */
	uint8_t small_pages; /* no transparent huge pages */
	/* The PCI slot of each interface, up to MACHINE_SLOT_MAX; 0: the first free one. VM_MSG_PLUG lacks it. */
	uint8_t interface_slots[VM_INTERFACES_MAX];
};

#define VM_SHOWS_PCI 2 /* vm_info.plugs_vcpus */
/* vm_info.copies_disks: the process knows VM_MSG_DISK_COPY and vm_disk_more.check_only; _DISK_LAYERS and _COMMIT. */
#define VM_COPIES_DISKS 2
#define VM_LAYERS_DISKS 3
#define VM_RESIZES_DISKS 4 /* also _RESIZE */
#define VM_CHECKS_ABOVE 5 /* also disk 1 of _COMMIT with `top` 1 */
/* The part of struct vm_config in VM_MSG_PLUG: the same in each release, since an older process knows its length. */
#define VM_PLUG_BYTES (offsetof(struct vm_config, disk_more) + sizeof(((struct vm_config *)0)->disk_more))
#define VM_PLUG_TUNE_BYTES (offsetof(struct vm_config, disk_tune) + sizeof(((struct vm_config *)0)->disk_tune))
#include "vmm/vm_agent_msg.h"
#include "vmm/vm_disk_msg.h"
#include "vmm/vm_pci_msg.h"
#include "vmm/vm_resource_msg.h"

/* The disks and interfaces of the definition that is stored in the state. One may have been detached since the daemon
 * made it; then the save fails. Older daemons send it up to `interfaces`, and processes whose vm_info.checks_saves is 1
 * take no more. */
struct vm_save_devices {
	uint32_t ndisks, ninterfaces;
	char disks[VM_DISKS_MAX][16]; /* ids, in order */
	char interfaces[VM_INTERFACES_MAX][16];
};

struct vm_interface_set {
	char id[16];	    /* of the interface */
	uint8_t set_link;   /* 1: set the link to !link_down */
	uint8_t link_down;
	uint8_t set_in, set_out; /* 1: set the limits of this direction */
	uint8_t reserved[4];
	struct vm_interface_limits limits;
};

struct vm_unplug {
	char id[16];  /* of a disk or an interface */
	uint8_t force; /* 1: remove it without asking the guest */
	uint8_t reserved[7];
};

struct vm_memory {
	uint64_t ram_bytes;
	uint64_t base_offset; /* of the memory in the base file */
};

struct vm_reply {
	int32_t error; /* 0 or -errno */
	uint32_t cls;  /* enum err_class */
	char msg[480]; /* text of an error; or a note, in the answer to VM_MSG_CONFIG */
};

struct vm_console {
	uint32_t kind;	  /* enum vm_console_kind */
	uint32_t history; /* first send this many bytes of retained output (at most 64 KiB) */
	/* Only to processes whose vm_info has ends_consoles; others expect a shorter message. */
	uint32_t user;	/* 1 + the client's uid; 0: unknown */
	uint32_t group; /* 1 + the gid of that of the client's groups by which it may use the console; 0: none */
};

struct vm_vsock {
	uint32_t port;
	uint32_t user, group; /* as in struct vm_console; VM_MSG_CONSOLE_END ends these connections, too */
	uint32_t agent; /* 1: a connection to cairn-agent, which VM_CONSOLE_END_AGENTS ends; an older process ends it with the others */
};

#define VM_CONSOLE_IDS_MAX 4200 /* the entries of the table of permissions, and root, the daemon's user and its group */
/* In nusers: end the connections to cairn-agent, and nothing else. Only to processes whose vm_info has ends_agents. */
#define VM_CONSOLE_END_AGENTS 0x80000000u
struct vm_console_end {
	uint32_t nusers, ngroups;
	uint32_t ids[VM_CONSOLE_IDS_MAX]; /* first the uids, then the gids */
};

#define VM_GO_DISPLAY 16 /* in console: the process that shows the screen */
/* The clients that are attached to the consoles of a VM that is handed over. */
struct vm_go {
	uint32_t n, reserved;
	struct vm_go_client {
		uint64_t sent;	  /* the client has received the console's output up to here */
		uint32_t console; /* enum vm_console_kind, or VM_GO_DISPLAY */
		uint32_t user;	  /* as in struct vm_console; an older process sends 0 */
		char note[72];	  /* text to send to the client first; NUL-terminated */
		uint32_t group;	  /* as in struct vm_console; an older process sends 0 */
		uint32_t reserved;
	} clients[CHANNEL_FDS_MAX];
};

/* Whether the guest has run, a u64 in the first page of the end file, behind the event: the daemon writes VM_RAN_NOT
 * before the start, the VM process VM_RAN_YES before the guest runs. 0: a daemon that did not tell wrote the page. */
#define VM_END_RAN 4088
enum vm_ran { VM_RAN_UNKNOWN = 0, VM_RAN_NOT, VM_RAN_YES };

struct vm_event {
	uint32_t kind; /* enum vm_event_kind */
	uint8_t phase; /* enum vm_phase: the current one; not set in the progress of VM_MSG_CLONE_DISK */
	uint8_t reason;
	uint8_t is_write;
	uint8_t image_corrupt;
	int64_t value;
	uint64_t realtime_ns;
	char device[32];
	char detail[VM_DETAIL_MAX];
	int64_t total;
};

#define VM_SNAPSHOT_NAME_MAX 255
#define VM_SNAPSHOT_ID_MAX 23
#define VM_SNAPSHOT_TEXT_MAX 511
#define VM_SNAPSHOT_TAGS_MAX 127
#define VM_SNAPSHOTS_PER_MESSAGE 64

enum vm_snapshot_state { VM_SNAPSHOT_SHUTOFF = 0, VM_SNAPSHOT_RUNNING = 1, VM_SNAPSHOT_PAUSED = 2 };

struct vm_snapshot_create {
	char name[VM_SNAPSHOT_NAME_MAX + 1];
	char description[VM_SNAPSHOT_TEXT_MAX + 1];
	char tags[VM_SNAPSHOT_TAGS_MAX + 1]; /* comma-separated */
	uint8_t disks_only;
	uint8_t halt; /* end the VM after the snapshot */
	uint8_t quiesce; /* freeze the guest's file systems meanwhile */
	uint8_t group; /* 1: wait for VM_MSG_SNAPSHOT_GO (vm_snapshot_msg.h); only to processes whose vm_info has groups */
	uint8_t reserved[4];
	uint64_t rate_bytes_per_s; /* limit for writing memory; 0: none */
};

struct vm_snapshot_done {
	int32_t error;
	uint32_t cls;
	char msg[480];
	char id[VM_SNAPSHOT_ID_MAX + 1];
	uint64_t pause_ns, total_ns, ram_bytes_written, ram_bytes_shared;
	char left_out[VM_DISKS_MAX * 16]; /* comma-separated ids of read-only disks, which take no part */
	uint8_t memory_tracking; /* enum vm_memory_tracking */
	/* With VM_TRACKING_DIRTY_LOG and VM_TRACKING_HUGE_PAGES: */
	/* number of rounds in which memory was copied while the guest ran; 0: memory was loaded for a revert */
	uint8_t memory_rounds;
	/* largest part of the time in percent for which the vCPUs were stopped during the rounds; 0: none */
	uint8_t memory_throttle;
	/* 1: the VM was paused in the end, because the guest wrote faster than its memory was copied */
	uint8_t memory_stopped;
	uint8_t reserved[4];
	char memory_tracking_reason[184]; /* empty with VM_TRACKING_USERFAULTFD and VM_TRACKING_UNKNOWN */
	uint8_t disks_made[VM_DISKS_MAX]; /* enum vm_disk_made: of a fork, for each writable disk */
	uint64_t instant_ns; /* of a create or a fork: the instant that it shows, of CLOCK_MONOTONIC; 0: an older process */
};

/* Free space on the file system of each disk's image, in the order of the configuration. */
struct vm_spaces {
	struct {
		uint64_t free_bytes, total_bytes; /* total 0: unknown, or a read-only disk */
	} disks[VM_DISKS_MAX];
	/* Since here: an older process sends nothing, and the receiver zeroes the rest. In the order of `disks`. */
	struct vm_space_image {
		char id[16]; /* of the disk; empty: there are no more */
		uint64_t capacity_bytes; /* size that the guest sees */
		uint64_t allocation_bytes, physical_bytes; /* as in struct block_space (block/block.h) */
	} images[VM_DISKS_MAX];
	/* Since here, too. In the order of `disks`. */
	uint64_t devs[VM_DISKS_MAX]; /* st_dev of the image's file; 0: unknown, or a read-only disk */
};

#define VM_PIN_ID_BYTES 16
#define VM_PIN_PATH_MAX 959 /* with the id, the path fits the 1023 bytes of a qcow2 image's backing file name */

struct vm_fork {
	uint32_t copies;
	/* Bit n: the copies of writable disk n get the content of its backing files, too. VM_FORK_ISOLATED: no clone
	 * may read the image of another VM. VM_FORK_STAGES, VM_FORK_GROUP: see vm_fork_stage.h. */
	uint32_t flatten;
	char snapshot[VM_SNAPSHOT_NAME_MAX + 1]; /* name or id; empty: the VM's current state */
	/* For each writable disk, in order. */
	struct vm_fork_pin {
		uint8_t id[VM_PIN_ID_BYTES]; /* id of the pin to make */
		char path[VM_PIN_PATH_MAX + 1]; /* path of the image, which the overlays name; empty: copy the disk */
	} pins[VM_DISKS_MAX];
	/* For each writable disk: an earlier pin of the image, which the overlays are to read instead if it has the
	 * same content; all 0: none. Only to processes whose vm_info.pins_readable is at least VM_SHARES_PINS; others
	 * expect a shorter message. */
	uint8_t shared[VM_DISKS_MAX][VM_PIN_ID_BYTES];
};

#define VM_SHARES_PINS 2
#define VM_IDLE_PINS 3

_Static_assert(VM_DISKS_MAX <= 29, "VM_FORK_GROUP and the bits above it are no disk's");
#define VM_PINS_MAX 256

struct vm_pins {
	uint32_t n;
	uint8_t ids[VM_PINS_MAX][VM_PIN_ID_BYTES];
};

struct vm_dump {
	uint8_t stay; /* pause the VM for the dump and keep it paused; if the dump fails, the VM resumes */
	uint8_t then; /* for vm_info.work_then; only to processes whose vm_info has dumps_then, others expect a shorter message */
};

struct vm_watchdog {
	uint8_t action; /* enum vm_watchdog_action */
};

enum vm_clone_mode {
	VM_CLONE_LINKED,  /* an empty qcow2 overlay */
	VM_CLONE_CONTENT, /* the content as the guest reads it, without layers and snapshots */
	VM_CLONE_IMAGE,	  /* the first layer's file as it is, snapshots included */
};

struct vm_clone_disk {
	char disk[16]; /* id, for error messages */
	uint32_t key;
	uint8_t mode; /* enum vm_clone_mode */
	uint8_t nlayers;
	/* enum block_format; the new file has the format of the first, or is a qcow2 overlay. */
	uint8_t format[VM_DISK_LAYERS_MAX];
	uint8_t has_data[VM_DISK_LAYERS_MAX];
	uint8_t reserved[2];
	char backing_name[1024]; /* VM_CLONE_LINKED: backing file name to store in the overlay */
};

struct vm_disk_pull {
	char disk[16];		   /* id */
	uint64_t rate_bytes_per_s; /* limit for reading; 0: none */
};

struct vm_disk_copy {
	char disk[16];		   /* id */
	uint64_t rate_bytes_per_s; /* limit for copying; 0: none */
	uint8_t format;		   /* enum block_format, of the copy */
	uint8_t then_pivot;	   /* 1: refuse the copy if a pivot would be refused now; older processes ignore it */
	uint8_t reserved[6];
};

struct vm_snapshot_name {
	char name[VM_SNAPSHOT_NAME_MAX + 1]; /* name or id */
};

struct vm_snapshot_revert {
	char name[VM_SNAPSHOT_NAME_MAX + 1]; /* name or id; empty: the current snapshot */
	uint8_t then; /* 0: phase as in the snapshot, 1: run, 2: pause */
	uint8_t disks_only;
	uint8_t eager;
	uint8_t verify; /* first verify all checksums of memory */
	uint8_t look_only; /* only check whether the revert is possible */
	uint8_t wants_done; /* answer by VM_MSG_SNAPSHOT_DONE; an older process sends VM_MSG_REPLY all the same */
	uint8_t reserved[2];
	char disk[16]; /* with disks_only: revert only this disk; empty: all */
};

struct vm_snapshot_set {
	char name[VM_SNAPSHOT_NAME_MAX + 1];
	char new_name[VM_SNAPSHOT_NAME_MAX + 1]; /* empty: keep */
	char description[VM_SNAPSHOT_TEXT_MAX + 1];
	char tags[VM_SNAPSHOT_TAGS_MAX + 1];
	uint8_t set_description, set_tags;
	uint8_t reserved[6];
};

struct vm_snapshot_list {
	uint32_t from; /* index of the first entry to return */
};

struct vm_snapshot_info {
	char id[VM_SNAPSHOT_ID_MAX + 1];
	char parent[VM_SNAPSHOT_ID_MAX + 1]; /* empty: the snapshot is a root */
	char name[VM_SNAPSHOT_NAME_MAX + 1];
	char description[VM_SNAPSHOT_TEXT_MAX + 1];
	char tags[VM_SNAPSHOT_TAGS_MAX + 1];
	uint64_t realtime_ns, vm_clock_ns, vm_state_bytes, disk_bytes;
	uint64_t own_bytes; /* space used only by this snapshot; UINT64_MAX: unknown, as in a list */
	uint8_t state;	    /* enum vm_snapshot_state */
	uint8_t current;
	/* Number of disks of the snapshot whose part is gone, with the disk or from it. Set only in a list. */
	uint8_t disks_missing;
	uint8_t disks_only; /* 1: the VM was on, but the snapshot has no memory; state is VM_SNAPSHOT_SHUTOFF then */
	uint8_t disks_added; /* number of further disks that the VM has got since. Set only in a list */
	uint8_t reserved[3];
};

struct vm_snapshots {
	uint32_t total, from, n;
	uint32_t reserved;
	struct vm_snapshot_info list[VM_SNAPSHOTS_PER_MESSAGE];
};

/* After a handover, machine_carry.c adds the counters from exits_io to assist_instructions below, and the devices count
 * on from those of disks and interfaces. */
struct vm_disk_info {
	char id[16];
	uint64_t size_bytes;
	uint64_t rd_reqs, rd_bytes, rd_ns;
	uint64_t wr_reqs, wr_bytes, wr_ns;
	uint64_t fl_reqs, fl_ns;
	uint64_t errors;
};

struct vm_interface_info {
	char id[16];
	char target[16];
	uint8_t mac[6];
	uint8_t link_up;
	uint8_t vhost; /* 1: the kernel has moved frames that the counters lack; the tap's have all. 0: also an older process */
	/* directions as seen by the guest */
	uint64_t rx_bytes, rx_packets, rx_errors, rx_drops;
	uint64_t tx_bytes, tx_packets, tx_errors, tx_drops;
};

struct vm_info {
	uint8_t phase, reason;
	uint8_t host_kind; /* enum vm_host_kind */
	uint8_t assist_on;
	uint32_t vcpus;
	uint32_t vcpus_halted;
	uint32_t ndisks;
	int64_t value; /* as in the last VM_EVENT_PHASE */
	char detail[VM_DETAIL_MAX];
	uint64_t ram_bytes;
	uint64_t started_realtime_ns;
	uint64_t exits_io, exits_mmio, exits_other;
	uint64_t assist_syscalls, assist_instructions;
	uint64_t vcpu_ns[VM_VCPUS_MAX]; /* CPU time of each vCPU thread */
	struct vm_disk_info disks[VM_DISKS_MAX];
	uint8_t disk_faults[VM_DISKS_MAX]; /* enum vm_disk_fault: the fault that stopped the VM */
	uint64_t console_bytes; /* bytes that the guest has written to its consoles */
	uint32_t console_readers; /* number of clients attached to the consoles */
	uint8_t agent; /* enum vm_agent_state; VM_AGENT_NONE: the VM has no port; VM_AGENT_OPEN: no agent has answered */
	uint32_t ninterfaces;
	struct vm_interface_info interfaces[VM_INTERFACES_MAX];
	uint8_t disk_direct[VM_DISKS_MAX]; /* 1: the disk bypasses the host's page cache (O_DIRECT) */
	uint8_t hands_over; /* 1: the process knows VM_MSG_HANDOVER */
	/* Set by a process that took a live clone over: how the clone's memory was copied, as in
	 * vm_snapshot_done. An older process has padding here, which is 0. */
	uint8_t handover_rounds, handover_throttle, handover_stopped;
	uint8_t landlock; /* 1 + the version of landlock that confines the process; 0: an older process, which has padding here */
	uint8_t ends_consoles; /* 1: the process knows VM_MSG_CONSOLE_END; 0: an older process, which has padding here */
	uint8_t agent_commands; /* 1: the process knows VM_MSG_AGENT_COMMAND; 0: an older process, which has padding here */
	/* set by a process that took the VM over: how long its vCPUs stood still; 0: the VM was paused before */
	uint64_t handover_pause_ns;
	uint8_t sets_interfaces; /* 1: the process knows VM_MSG_INTERFACE_SET */
	uint8_t link_down[VM_INTERFACES_MAX]; /* 1: a user set the interface's link down */
	uint8_t ends_agents; /* 1: the process knows VM_CONSOLE_END_AGENTS */
	uint8_t works; /* 1: any work is in progress, which may change a disk; 0: none, or an older process */
	uint8_t reserved[5];
	struct vm_interface_limits limits[VM_INTERFACES_MAX]; /* of the interfaces */
	/* 1 + the number of connections of VM_MSG_VSOCK; 0: the VM has no vsock device, or the process is older */
	uint32_t vsock;
	uint8_t for_revert; /* 1: the VM was started to be reverted, and is neither reverted nor being reverted */
	/* 1: a user has reset or reverted the VM after the last request to shut down; 0 from an older process, too */
	uint8_t renewed;
	/* the type of the request whose work is in progress and continues without its daemon: VM_MSG_SNAPSHOT_CREATE,
	 * _DELETE, _REVERT or VM_MSG_DUMP; 0: none such, or an older process */
	uint8_t work;
	uint8_t work_then; /* of VM_MSG_DUMP: vm_dump.then, which only the daemon understands */
	uint8_t sets_disks; /* 1: the process knows VM_MSG_DISK_SET; VM_SETS_DISK_TUNE: and disk_tune */
	uint8_t dumps_then; /* 1: the process knows vm_dump.then */
	uint8_t plugs; /* 1: the process knows VM_MSG_PLUG */
	/* 1: the process knows VM_MSG_BALLOON_SET, _RECLAIM, _MEDIUM_SET; VM_COPIES_DISKS: _DISK_COPY;
	 * checks_saves: struct vm_save_devices up to `interfaces`; 2: all of it */
	uint8_t sets_balloon, reclaims, sets_medium, copies_disks, checks_saves;
	/* 1: the process knows VM_MSG_SCREENSHOT; VM_SCREENS_KEYS: also VM_MSG_SEND_KEYS; VM_SCREENS_INPUT: also
	 * VM_MSG_INPUT */
	uint8_t screens;
	uint8_t machine; /* the machine version that the guest has; 0: not known */
	uint8_t shows_figures; /* 1: the process knows VM_MSG_PAGE */
	/* 1: VM_FORK_READY means that the pins can be read; VM_SHARES_PINS: and the process knows vm_fork.shared;
	 * VM_IDLE_PINS: and VM_MSG_PINS_IDLE; 0: an older process, which has padding here */
	uint8_t pins_readable;
	struct vm_balloon_info balloon;
	uint8_t trays[VM_DISKS_MAX]; /* of the disks: enum vm_tray */
	struct {
		uint64_t dev, ino; /* as fstat() has them; both 0: not known */
	} images[VM_DISKS_MAX]; /* of the disks */
	uint64_t vcpus_absent; /* a bit for each of the `vcpus` that the guest lacks now */
	uint8_t plugs_vcpus; /* 1: the process knows VM_MSG_VCPUS; VM_SHOWS_PCI: and _PCI */
	/* 1: the process knows VM_MSG_SNAPSHOT_GO; VM_GROUPS_FORK: and VM_FORK_GROUP; 0: older; it has padding here */
	uint8_t groups;
	uint8_t samples_pages; /* 1: the process knows VM_MSG_DIRTY_RATE; 0: likewise */
	struct vm_dirty_rate dirty_rate;
	uint8_t mirrored[VM_DISKS_MAX]; /* of the disks: enum vm_mirrored; 0 from an older process */
	uint64_t build; /* build_id_own() of the process; 0 from an older process */
};

enum vm_tray { VM_TRAY_NONE = 0, VM_TRAY_CLOSED, VM_TRAY_OPEN };
enum vm_agent_state { VM_AGENT_NONE = 0, VM_AGENT_CLOSED, VM_AGENT_OPEN, VM_AGENT_ANSWERS };
enum vm_disk_fault { VM_DISK_FINE = 0, VM_DISK_FAILED = 1, VM_DISK_NO_SPACE = 2, VM_DISK_CORRUPT = 3 };
enum vm_host_kind { VM_HOST_VMX = 1, VM_HOST_SVM = 2, VM_HOST_PVM = 3 };

/* Message types that each side accepts (rows for channel_recv). */
extern const struct channel_type vm_msg_to_vm[VM_MSG_TYPE_COUNT];
extern const struct channel_type vm_msg_from_vm[VM_MSG_TYPE_COUNT];
/* Return the size that this build knows of an answer whose struct grows; 0: of another message. */
size_t vm_msg_struct_bytes(enum vm_msg_type type);

struct err;
/* Check a received configuration before anything is built from it, and set the last byte of strings to 0.
 * nfds: number of fds that came along. Returns 0 or -EINVAL. */
int vm_config_check(struct vm_config *c, unsigned nfds, struct err *e);

/* Take the files that other processes hold from them: m->fds then has all files in the order of the configuration's
 * indices, and -1 in the places of the relays. Waits as long as those processes live. Returns 0; -errno. */
int vm_config_take_held(struct vm_config *c, struct channel_msg *m, struct err *e);

#endif
