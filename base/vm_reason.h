/* vm_reason: the reasons of a VM's state, and their words for users, files and the schema. A VM's process reports some
 * of them in messages (vmm/vm_msg.h), in one byte; the daemon gives the others. Threading: any thread; the tables are
 * constant. */
#ifndef CAIRN_BASE_VM_REASON_H
#define CAIRN_BASE_VM_REASON_H

enum vm_reason {
	VM_REASON_NONE = 0,
	VM_REASON_BOOTED,
	VM_REASON_USER,		     /* stop, cont, quit */
	VM_REASON_IO_ERROR,	     /* paused; detail: disk and error, or the saved memory that is unreadable */
	VM_REASON_GUEST_SHUTDOWN,    /* S5 */
	VM_REASON_GUEST_RESET,	     /* ended or paused: a reset by guest or watchdog, and on_reboot is not restart */
	VM_REASON_GUEST_PANICKED,
	/* KVM_EXIT_SHUTDOWN: counts as a crash, not as a reset, so that a broken guest does not
	 * loop. */
	VM_REASON_TRIPLE_FAULT,
	VM_REASON_EMULATION_FAILURE, /* detail: RIP and instruction bytes */
	VM_REASON_DEBUG_EXIT,	     /* value: the status the guest wrote */
	VM_REASON_SHUTDOWN_TIMEOUT,  /* foreground: SIGTERM's deadline passed */
	VM_REASON_KILLED,	     /* foreground: second SIGTERM */
	VM_REASON_HOST_ERROR,	     /* KVM_RUN failed, out of memory, … */
	VM_REASON_SAVING,	     /* paused while the state is written */
	VM_REASON_SAVED,	     /* ended: the state is in a file */
	VM_REASON_RESTORED,	     /* running or paused: started from a saved state */
	VM_REASON_FROM_SNAPSHOT,     /* running or paused: reverted to a snapshot */
	VM_REASON_NO_SPACE,	     /* paused: an I/O error with ENOSPC or EDQUOT */
	VM_REASON_IMAGE_CORRUPT,     /* paused: as VM_REASON_IO_ERROR, but the VM cannot continue */
	VM_REASON_WATCHDOG,	     /* paused or ended, by the watchdog's action */
	VM_REASON_HANDOVER,	     /* paused while another process takes the VM over */
	VM_REASON_COUNT,
	/* Reasons that only the daemon gives. */
	VM_REASON_OF_DAEMON = 0x100,
	VM_REASON_DEFINED = VM_REASON_OF_DAEMON, /* off: the VM has never been started */
	VM_REASON_FAILED,	     /* off: the last start failed */
	VM_REASON_DESTROYED,
	VM_REASON_SAVE_DROPPED,	     /* off: a client removed the managed save */
	VM_REASON_SAVE_GONE,	     /* off: the managed save is missing */
	VM_REASON_RESTART_LIMIT,     /* off or crashed: the restart policy has given up */
	VM_REASON_IDLE,		     /* paused or saved: the VM sleeps because it was idle */
	VM_REASON_WOKEN,	     /* running: a client woke the VM */
	VM_REASON_KEEP,		     /* no reason: vm_move() keeps the present one */
};

/* Return a reason's word, such as "booted" or "guest panicked". "unknown" for other numbers, which a process of a newer
 * release may report. */
const char *vm_reason_name(enum vm_reason r);
/* Return the reason for its word; VM_REASON_NONE if there is none. */
enum vm_reason vm_reason_from_name(const char *name);
/* Return the i-th of all words. NULL: no more. */
const char *vm_reason_word(unsigned i);

#endif
