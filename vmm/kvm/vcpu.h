/* vcpu: virtual CPUs and the threads that run them.
 *
 * Stopping is free of races: the stopper sets kvm_run.immediate_exit and sends a signal; a
 * vCPU parks only when KVM_RUN has returned -EINTR, so an access that KVM wanted completed
 * is complete, and the state that is read then is whole.
 *
 * Threads: vcpus_request_stop() from any; the rest from the main thread only. */
#ifndef CAIRN_VMM_KVM_VCPU_H
#define CAIRN_VMM_KVM_VCPU_H

#include "vmm/vm_msg.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct assist;
struct boot_entry;
struct bus;
struct err;
struct kvm;
struct kvm_lapic_state;
struct kvm_run;
struct state_reader;
struct state_writer;
struct vcpus;

/* What the assist keeps for each vCPU (vmm/kvm/assist.c). */
struct assist_vcpu {
	uint64_t lstar;	      /* where system calls go; 0 until the guest says so */
	uint64_t breakpoint;  /* linear address of the page-fault entry; 0: none */
	bool stepping;	      /* one instruction with the breakpoint off */
	uint64_t checked_ns;  /* when the IDT was last looked at */
};

struct vcpu {
	struct vcpus *set;
	unsigned index;
	int fd;
	struct kvm_run *run;
	struct kvm_lapic_state *fresh_lapic; /* as KVM made it, for a reset; owned */
	pthread_t thread;
	bool thread_made;
	bool ran;	/* since it was made; written while it is not parked */
	bool drains;	/* under the set's lock: to be left by KVM_RUN with nothing noted, and parked again */
	atomic_int tid; /* of the thread; 0 before it runs */
	int stats_fd;		  /* -1: none */
	off_t stats_blocking_off; /* of the value that says "halted"; 0: none */
	atomic_ulong exits_io, exits_mmio, exits_other;
	struct assist_vcpu assist;
};

struct vcpus_config {
	struct kvm *kvm;	/* borrowed */
	unsigned count;
	unsigned sockets, cores, threads; /* all set */
	struct bus *pio, *mmio; /* borrowed */
	struct assist *assist;	/* borrowed; NULL: none */
	/* A vCPU cannot go on. Called on its thread, once per stop; all are being stopped. */
	void (*fault)(void *opaque, unsigned vcpu, enum vm_reason reason, const char *detail);
	void *opaque;
};

struct vcpus {
	struct vcpus_config cfg;
	struct vcpu *vcpu; /* cfg.count of them */
	pthread_mutex_t lock;
	pthread_cond_t parked_cond, run_cond;
	unsigned nparked;
	bool want_exit; /* under lock */
	atomic_bool stop_requested; /* parked vCPUs wait until it is false */
	atomic_bool poisoned;	    /* and none runs while this is true */
};

/* Create the vCPUs with their CPUID; no threads yet. Returns 0 or -errno. */
int vcpus_init(struct vcpus *s, const struct vcpus_config *c, struct err *e);
/* Threads, parked. */
int vcpus_start_threads(struct vcpus *s, struct err *e);
/* Registers for a fresh start: vCPU 0 at the entry, the others waiting for SIPI. Parked. */
int vcpus_reset(struct vcpus *s, const struct boot_entry *entry, struct err *e);

/* Before a vCPU that has run gets another state, by vcpus_reset() or vcpu_load(), and while its memory is still
 * served. KVM lets a vCPU that meets a page which is not there sleep until somebody has fetched it. That is no part
 * of any state that can be read or set, but outlives it: awaited no more, the page would never wake the
 * vCPU; and come late, it would wake one that should sleep. So each gets an INIT, which ends that; it may
 * wait for the page. Parked. Registers, events and the LAPIC are lost. */
int vcpus_forget(struct vcpus *s, struct err *e);

/* Make all vCPUs leave the guest soon. Any thread, signal-safe enough for vCPU threads. */
void vcpus_request_stop(struct vcpus *s);
/* The same, and wait until every one is parked. */
void vcpus_stop(struct vcpus *s);
void vcpus_resume(struct vcpus *s);
/* Part of memory is not what it should be: stop, and let no resume, however close, run the guest on
 * it. Any thread. Lifted by vcpus_unpoison() (main thread), when memory is another. */
void vcpus_poison(struct vcpus *s);
void vcpus_unpoison(struct vcpus *s);
void vcpus_nmi(struct vcpus *s);
/* Parks, ends and joins the threads, closes the vCPUs. */
void vcpus_done(struct vcpus *s);

/* CPU time that vCPU i's thread has used, in ns. */
uint64_t vcpu_cpu_ns(const struct vcpus *s, unsigned i);
/* Is this thread a vCPU's? Any thread. */
bool vcpus_has_tid(const struct vcpus *s, int tid);
/* How many are halted now (0 when the host cannot tell). */
unsigned vcpus_halted(const struct vcpus *s);

/* vmm/kvm/vcpu_exit.c: what KVM_RUN returned for. False: the vCPU must not go on (fault was
 * called). */
bool vcpu_exit_handle(struct vcpu *v);
/* Report a fault and ask all to stop. */
void vcpu_fault(struct vcpu *v, enum vm_reason reason, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* vmm/kvm/vcpu_state.c: a section "vcpu", and back. Parked. vcpu_load() comes after vcpus_reset() or
 * in place of it. Return 0 or -errno; a section that does not fit changes nothing. */
#define VCPU_STATE_VERSION 1
int vcpu_save(struct vcpu *v, struct state_writer *w, struct err *e);
int vcpu_load(struct vcpu *v, struct state_reader *r, uint16_t version, struct err *e);

/* vmm/kvm/cpuid.c: what the guest's CPUID says on vCPU `index`. */
int vcpu_cpuid_set(struct vcpu *v, struct err *e);

#endif
