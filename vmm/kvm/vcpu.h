/* vcpu: virtual CPUs and the threads that run them.
 *
 * Stopping has no race: the stopper sets kvm_run.immediate_exit and sends a signal. A vCPU parks only after KVM_RUN
 * has returned -EINTR, so a pending MMIO or port access is complete and the saved state is consistent. (A vCPU that
 * cannot continue, vcpu_fault(), parks at once.)
 *
 * Threading: main thread only, unless a comment says otherwise. */
#ifndef CAIRN_VMM_KVM_VCPU_H
#define CAIRN_VMM_KVM_VCPU_H

#include "base/figures.h"
#include "vmm/vm_msg.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct assist;
struct assist_xlayout;
struct bus;
struct cpuid;
struct err;
struct kvm;
struct kvm_lapic_state;
struct kvm_run;
struct msr_list;
struct port_ring;
struct prefault;
struct state_reader;
struct state_writer;
struct vcpus;

/* BOOT_RESET: the state after a reset, at the reset vector. */
enum boot_mode { BOOT_PROTECTED_32, BOOT_LONG_64, BOOT_RESET };
#define BOOT_RESET_RIP 0xfff0

/* Initial state of vCPU 0. */
struct boot_entry {
	enum boot_mode mode;
	uint64_t rip;
	uint64_t rax, rbx, rsi; /* Multiboot's magic number; gpa of its information or of start_info; gpa of boot_params */
	uint16_t cs;	   /* selector of the code segment; not with BOOT_RESET */
	uint64_t cr3;	   /* long mode only */
	uint64_t gdt_gpa;
	uint16_t gdt_limit;
};

/* Selectors of the GDT that vmm/boot writes. Linux' boot protocols prescribe the values of BOOT_CS_LINUX, which is a
 * segment of 64 or 32 bits as the mode is, and of BOOT_DS. */
#define BOOT_CS32 0x08
#define BOOT_CS_LINUX 0x10
#define BOOT_DS 0x18
#define BOOT_TSS 0x20

/* Per-vCPU state of the assist (vmm/kvm/assist.c). */
struct assist_vcpu {
	uint64_t lstar;	      /* system call entry point; 0 until the guest sets it */
	uint64_t breakpoint;  /* linear address of the guest's page-fault handler, or memset_at; 0: none */
	uint64_t memset_at;   /* address of the firmware's memset(); 0: none */
	bool stepping;	      /* single-stepping one instruction with the breakpoint off */
	uint64_t checked_ns;  /* time of the last look at the IDT */
};

struct vcpu {
	struct vcpus *set;
	unsigned index;
	int fd;
	struct kvm_run *run;
	/* LAPIC state right after creation, for a reset; owned. */
	struct kvm_lapic_state *fresh_lapic;
	pthread_t thread;
	bool thread_made;
	atomic_bool ran; /* has run since creation; written while the vCPU is not parked */
	atomic_bool absent; /* the guest does not have the vCPU (vcpu_remove()): it stays parked */
	bool parked; /* under the set's lock */
	bool loaded;	/* vcpu_load() has written to it */
	bool drains;	/* under the set's lock: the thread is to run vcpu_drain() and park again */
	atomic_int tid; /* thread id; 0 before the thread runs */
	int stats_fd;		  /* -1: the host has no statistics fd */
	off_t stats_blocking_off; /* offset of the "blocking" value; 0: none */
	_Atomic uint64_t counters[VCPU_FIGURES]; /* only the vCPU's thread changes them */
	_Atomic uint64_t *_Atomic shown; /* the counters on the page; borrowed; NULL: none */
	struct assist_vcpu assist;
	struct assist_xlayout *xlayout; /* of the assist; owned; NULL: the guest has used no XSAVE yet */
};

struct vcpus_config {
	struct kvm *kvm;	/* borrowed */
	unsigned count;
	unsigned sockets, cores, threads; /* all at least 1 */
	uint64_t absent; /* a bit for each vCPU that the guest does not have yet */
	struct bus *pio, *mmio; /* borrowed */
	struct assist *assist;	/* borrowed; NULL: none */
	struct port_ring *port_ring; /* borrowed */
	/* Reports that a vCPU cannot continue. Runs on that vCPU's thread, once per stop; a stop of
	 * all vCPUs is already requested. */
	void (*fault)(void *opaque, unsigned vcpu, enum vm_reason reason, const char *detail);
	void *opaque;
	const struct prefault *prefault; /* borrowed; NULL: none */
};

struct vcpus {
	struct vcpus_config cfg;
	struct vcpu *vcpu; /* array of cfg.count */
	pthread_mutex_t lock;
	pthread_cond_t parked_cond, run_cond;
	unsigned nparked;
	bool want_exit; /* under lock: threads have to end */
	atomic_bool stop_requested; /* vCPUs park, and stay parked while this is true */
	atomic_bool poisoned;	    /* no vCPU may run while this is true */
	atomic_ullong nap_until_ns; /* time until which the vCPUs do not enter the guest */
	struct msr_list *new_msrs; /* the MSRs of a new vCPU; owned; NULL until a vCPU is reset or loaded */
	uint64_t tsc_adjust; /* during a load: IA32_TSC_ADJUST of vCPU 0 */
	bool tscs_differ;    /* and whether a vCPU so far has another one */
};

/* Create the vCPUs and set their CPUID, without threads. Returns 0 or -errno.
 * The sandbox allows neither new vCPUs nor their maps later, so those that the guest lacks are created, too. */
int vcpus_init(struct vcpus *s, const struct vcpus_config *c, struct err *e);
/* Create the vCPU threads, parked. Returns 0 or -errno. */
int vcpus_start_threads(struct vcpus *s, struct err *e);
/* Set the registers for a fresh start: vCPU 0 at the entry point, all others waiting for SIPI.
 * vCPUs are parked. Returns 0 or -errno. */
int vcpus_reset(struct vcpus *s, const struct boot_entry *entry, struct err *e);

/* Drain pending async page faults. Call before a vCPU that has run gets another state
 * (vcpus_reset() or vcpu_load()), while the fault tracker still loads memory.
 * KVM puts a vCPU that touches an absent page to sleep until the page has been fetched. No ioctl
 * reads or sets this wait, and it survives a new state: if KVM stops waiting for the page, the vCPU
 * never wakes; if the page arrives late, it wakes a vCPU that should sleep. An INIT to each vCPU
 * ends the wait; the call may block until the page is there.
 * vCPUs are parked; registers, events and LAPIC state are lost. Returns 0 or -errno. */
int vcpus_drain_async_pf(struct vcpus *s, struct err *e);

/* Give the guest a vCPU that it lacks, in the state after a reset: it waits for SIPI. Returns 0 or -errno. */
int vcpu_add(struct vcpus *s, unsigned i, struct err *e);
/* Take vCPU i, but never 0, from the guest, even while it runs code: wait until its thread is parked. The thread
 * stays parked. Its local APIC takes no interrupts any more. Also while all vCPUs are parked. Returns 0; -errno: it
 * is parked, but not reset. */
int vcpu_remove(struct vcpus *s, unsigned i, struct err *e);
/* Before vcpu_load() for all, while all are parked: set which vCPUs the guest lacks. */
void vcpus_set_absent(struct vcpus *s, uint64_t absent);

/* Make all vCPUs leave the guest soon, without waiting. Any thread; takes no lock, so vCPU threads
 * may call it as well. */
void vcpus_request_stop(struct vcpus *s);
/* Keep running vCPUs out of the guest until this time of loop_now_ns(); 0: let them continue within a millisecond. They
 * can be stopped meanwhile. Any thread. */
void vcpus_nap(struct vcpus *s, uint64_t until_ns);
/* Stop all vCPUs and wait until each is parked. */
void vcpus_stop(struct vcpus *s);
void vcpus_resume(struct vcpus *s);
/* Tell the guest by its kvm-clock that it stood still while its clock went on: Linux then does not take the time for a
 * lockup. vCPUs are parked. */
void vcpus_tell_stop(struct vcpus *s);
/* Stop all vCPUs and block every resume, because part of guest memory has the wrong content. Any
 * thread. The main thread lifts the block with vcpus_unpoison() once memory is valid again. */
void vcpus_poison(struct vcpus *s);
void vcpus_unpoison(struct vcpus *s);
void vcpus_nmi(struct vcpus *s);
/* Park, end and join the threads; close the vCPUs. */
void vcpus_done(struct vcpus *s);

/* Write the counters of a vCPU to an array of VCPU_FIGURES, which must stay valid until this is called again or the
 * vCPUs end. */
void vcpu_show(struct vcpus *s, unsigned i, _Atomic uint64_t *shown);
/* Return the CPU time that vCPU i's thread has used, in ns. */
uint64_t vcpu_cpu_ns(const struct vcpus *s, unsigned i);
/* Return whether tid is the thread of a vCPU. Any thread. */
bool vcpus_has_tid(const struct vcpus *s, int tid);
/* Return how many of the guest's vCPUs are halted now; 0 when the host cannot tell. */
unsigned vcpus_halted(const struct vcpus *s);

/* Handle the exit that KVM_RUN returned for (vmm/kvm/vcpu_exit.c). Runs on the vCPU's thread.
 * Returns false when the vCPU cannot continue; vcpu_fault() has been called then. */
bool vcpu_exit_handle(struct vcpu *v);
/* Report a fault of v to cfg.fault and request a stop of all vCPUs. Runs on v's thread. */
void vcpu_fault(struct vcpu *v, enum vm_reason reason, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Save a vCPU's state as a section "vcpu", and load it (vmm/kvm/vcpu_state.c). The vCPU is parked.
 * vcpu_load() follows vcpus_reset() or replaces it.
 * Return 0 or -errno; vcpu_load() changes nothing when the section is malformed. */
#define VCPU_STATE_VERSION 3
int vcpu_save(struct vcpu *v, struct state_writer *w, struct err *e);
int vcpu_load(struct vcpu *v, struct state_reader *r, uint16_t version, struct err *e);

/* Reset the registers of v that running or loading it has changed and that a reset clears: MSRs, XCR0, debug registers,
 * and the registers of XSAVE. They get the values of a new vCPU. v is parked. The caller resets the other registers and
 * the LAPIC. Returns 0 or -errno. */
int vcpu_registers_reset(struct vcpu *v);

/* Set the CPUID of v for the guest: kvm->guest or kvm->supported, with the set's topology
 * (vmm/kvm/cpuid.c). v has not run yet. Returns 0 or -errno. */
int vcpu_cpuid_set(struct vcpu *v, struct err *e);
/* Return whether vCPUs with this topology get the same CPUID from a as from b; false also if memory is short. a and b
 * may differ in counts of the host's processors, because vcpu_cpuid_set() replaces these counts. */
bool vcpu_cpuid_is_same(const struct vcpus_config *t, const struct cpuid *a, const struct cpuid *b);

#endif
