/* vm_impl: struct vm, for vm.c, vm_paused.c, vm_plug.c, vm_vcpus.c and vm_work.c alone. */
#ifndef CAIRN_VMM_MACHINE_VM_IMPL_H
#define CAIRN_VMM_MACHINE_VM_IMPL_H

#include "base/backoff.h"
#include "base/loop.h"
#include "devices/dev_host.h"
#include "vmm/machine/vm.h"

#include <pthread.h>
#include <stdatomic.h>

struct err;
struct machine;

struct queued {
	unsigned generation; /* vm.generation when the event occurred; a reset or revert discards events of an earlier one */
	bool is_fault;
	bool stops; /* must not get lost */
	enum vm_reason reason;
	struct dev_event ev;
	char device[32];
	char detail[VM_DETAIL_MAX];
};

struct vm {
	struct machine *m;
	struct loop *loop;
	struct vm_sink sink;
	enum vm_phase phase;
	enum vm_reason reason;
	int64_t value;
	char detail[VM_DETAIL_MAX];
	struct {
		enum vm_phase phase; /* before a save or a handover */
		enum vm_reason reason;
		int64_t value;
		char detail[VM_DETAIL_MAX];
	} before_save;
	uint64_t handover_pause_ns; /* see vm_info */
	uint8_t landlock;	    /* see vm_info */
	uint64_t started_ns;
	int restore_fd; /* -1 once machine_restore() has taken it */
	bool hint_hostname; /* set the guest's host name when the VM runs */
	bool time_passed; /* time has passed since the state was saved: set the guest's clock when the VM runs */
	bool memory_lost; /* part of the saved memory could not be read: the VM must not run before a reset or a revert */
	pthread_mutex_t lock; /* protects the queue and generation */
	struct queued *queue;
	unsigned nqueued, generation;
	bool posted;
	struct loop_task task;
	/* Long-running work and its progress. */
	const char *work;
	unsigned work_live; /* 0: requests are refused meanwhile; 1: the guest may run; 2: and may be reset */
	bool reset_pending; /* a reset that the guest or the watchdog asked for waits for the work's end */
	/* Back-off for a guest that resets again and again. */
	struct backoff resets;
	struct loop_timer *reset_timer;
	unsigned reset_generation;
	bool reset_delayed;
	/* A user asked for a shutdown, by button or agent: a poweroff then ends the VM, even if on_poweroff is
	 * restart. */
	bool off_asked;
	bool renewed; /* a user has reset or reverted the VM after the last request to shut down */
	atomic_bool work_cancelled;
	_Atomic uint64_t work_bytes, work_total;
	_Atomic uint64_t work_told_ns; /* time of the last progress event */
	struct loop_task work_task;
	atomic_bool work_posted;
	atomic_bool work_outpaced; /* to be reported */
	uint32_t released; /* PCI slots whose devices the guest has released; removed when nothing uses them */
	struct loop_timer *released_timer;
	uint64_t told_absent; /* of the last VM_EVENT_VCPUS; 0: none was sent */
	uint64_t released_vcpus; /* vCPUs that the guest has released; removed when no work is in progress */
};

/* Return an event of the VM as it is now; send an event to the sink. */
struct vm_event vm_event_new(const struct vm *vm, enum vm_event_kind kind);
void vm_event_send(struct vm *vm, const struct vm_event *ev);
/* Report to the daemon how the guest answers requests to release devices. */
void vm_plug_listen(struct vm *vm);
/* Call vm_plug_remove_released(). opaque: the VM. */
void vm_plug_remove_released_later(void *opaque);
/* The same for vCPUs. Send VM_EVENT_VCPUS if the guest has others than before. */
void vm_vcpus_report(struct vm *vm);
void vm_vcpus_listen(struct vm *vm);
/* Set the phase and send the event. detail: NULL: none. */
void vm_phase_set(struct vm *vm, enum vm_phase phase, enum vm_reason reason, int64_t value, const char *detail);
/* Run the machine. For the first time after a restore, a revert or a handover, thaw file systems that were frozen in
 * the loaded state, then set the guest's clock. In a new clone, also set the guest's host name
 * (vm_config.hint_hostname). */
void vm_guest_run(struct vm *vm);
/* Discard the events that are queued. */
void vm_generation_next(struct vm *vm);
/* Set the error of a request that the phase does not allow. what: a verb. Returns -EBUSY. */
int vm_wrong_phase(const struct vm *vm, const char *what, struct err *e);
/* Send an event with the progress of the work; t: vm.work_task. */
void vm_work_progress(struct loop_task *t);

#endif
