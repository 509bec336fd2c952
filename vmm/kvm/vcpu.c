#include "vmm/kvm/vcpu.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "vmm/kvm/assist.h"
#include "vmm/kvm/end_file.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/port_ring.h"
#include "vmm/kvm/prefault.h"
#include "vmm/kvm/thread_filter.h"
#include "vmm/kvm/vcpu_nested.h"

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define KICK_SIGNAL SIGUSR1
#define VCPU_STACK_BYTES (128 * 1024)
#define NAP_STEP_NS 1000000ULL

#define CR0_PE 1ULL
#define CR0_ET (1ULL << 4)
#define CR0_NE (1ULL << 5)
#define CR0_NW (1ULL << 29)
#define CR0_CD (1ULL << 30)
#define CR0_PG (1ULL << 31)
#define RESET_CS 0xf000
#define RESET_CS_BASE 0xffff0000ULL
#define CR4_PAE (1ULL << 5)
#define EFER_LME (1ULL << 8)
#define EFER_LMA (1ULL << 10)
#define APIC_BASE_ENABLED 0xfee00800ULL /* xAPIC mode at its default address */
#define APIC_BASE_BOOT_CPU (1ULL << 8)
#define MSI_ADDRESS 0xfee00000u /* the APIC id follows from bit 12 on */
#define MSI_DATA_NMI (4u << 8)
#define MSI_DATA_INIT (5u << 8)
#define MSR_IA32_MISC_ENABLE 0x1a0
#define MISC_ENABLE_FAST_STRING 1ULL
#define MSR_MTRR_DEF_TYPE 0x2ff
#define MTRR_ENABLED_WRITE_BACK (1ULL << 11 | 6)

/* ---- vCPU threads ---- */

static void kick_handler(int sig)
{
	(void)sig; /* the signal only makes KVM_RUN return */
}

static bool vcpu_must_park(const struct vcpu *v)
{
	return atomic_load(&v->set->stop_requested) || atomic_load(&v->absent);
}

/* Clear immediate_exit, then set it again if the vCPU has to park meanwhile: the request must not
 * be lost. */
static void immediate_exit_clear(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	if (vcpu_must_park(v))
		__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

/* Call KVM_RUN with a signal pending: it processes the vCPU's pending requests but does not enter the guest.
 * A wait for an async page fault is such a request, and only KVM_RUN clears it. Ignore the result:
 * all vCPU state is replaced afterwards. */
static void vcpu_drain(struct vcpu *v)
{
	struct {
		struct kvm_signal_mask head;
		uint64_t blocked;
	} __attribute__((packed)) mask = { .head.len = sizeof(mask.blocked), .blocked = ~(1ULL << (KICK_SIGNAL - 1)) };
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, NULL);
	pthread_kill(pthread_self(), KICK_SIGNAL);
	if (!kvm_ioctl(v->fd, KVM_SET_SIGNAL_MASK, &mask)) {
		__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
		ioctl(v->fd, KVM_RUN, 0);
		kvm_ioctl(v->fd, KVM_SET_SIGNAL_MASK, NULL);
	}
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
}

/* Wait until the set runs or the vCPU has to be drained. Returns false when the thread has to
 * end. */
static bool vcpu_park(struct vcpu *v)
{
	struct vcpus *s = v->set;
	bool go;

	pthread_mutex_lock(&s->lock);
	s->nparked++;
	v->parked = true;
	v->drains = false;
	pthread_cond_signal(&s->parked_cond);
	while (vcpu_must_park(v) && !s->want_exit && !v->drains)
		pthread_cond_wait(&s->run_cond, &s->lock);
	go = !s->want_exit;
	s->nparked--;
	v->parked = false;
	immediate_exit_clear(v);
	pthread_mutex_unlock(&s->lock);
	return go;
}

/* Sleep until nap_until_ns or a stop request. Sleep in short steps, because the signal of a stop may arrive just before
 * clock_nanosleep() and would then not interrupt it. */
static void vcpu_nap(struct vcpu *v)
{
	struct vcpus *s = v->set;
	uint64_t now, until;

	while ((now = loop_now_ns()) < (until = atomic_load(&s->nap_until_ns)) && !vcpu_must_park(v)) {
		struct timespec step = { .tv_nsec = (long)MIN(until - now, NAP_STEP_NS) };

		clock_nanosleep(CLOCK_MONOTONIC, 0, &step, NULL);
	}
}

/* Run the guest until the vCPU has to park. */
static void vcpu_run_until_stop(struct vcpu *v)
{
	for (;;) {
		int r = ioctl(v->fd, KVM_RUN, 0) < 0 ? errno : 0;

		if (v->set->cfg.port_ring)
			port_ring_drain(v->set->cfg.port_ring);
		if (r == EINTR && vcpu_must_park(v))
			return;
		if (r == EINTR || r == EAGAIN) {
			vcpu_nap(v);
			/* A nap, or a stop request that was withdrawn early, has left immediate_exit set, and
			 * KVM_RUN would never enter the guest. */
			immediate_exit_clear(v);
			continue;
		}
		if (r) {
			vcpu_fault(v, VM_REASON_HOST_ERROR, "KVM_RUN: %s", strerror(r));
			return;
		}
		if (!vcpu_exit_handle(v))
			return;
	}
}

static void *vcpu_thread(void *opaque)
{
	struct vcpu *v = opaque;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", v->index);
	pthread_setname_np(pthread_self(), name);
	thread_filter_enter(v->set->cfg.kvm, THREAD_VCPU, NULL, v->fd);
	atomic_store(&v->tid, gettid());
	while (vcpu_park(v)) {
		if (!v->ran && !v->index && v->set->cfg.prefault)
			prefault_run(v->set->cfg.prefault, v->fd, &v->set->stop_requested);
		v->ran = true;
		if (v->drains)
			vcpu_drain(v);
		else
			vcpu_run_until_stop(v);
	}
	return NULL;
}

/* Create the thread with all signals blocked except the kick. */
static int vcpu_thread_make(struct vcpu *v)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int r;

	sigfillset(&all);
	sigdelset(&all, KICK_SIGNAL);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, VCPU_STACK_BYTES);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&v->thread, &attr, vcpu_thread, v);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	v->thread_made = !r;
	return -r;
}

static void wait_all_parked(struct vcpus *s)
{
	while (s->nparked < s->cfg.count)
		pthread_cond_wait(&s->parked_cond, &s->lock);
}

int vcpus_start_threads(struct vcpus *s, struct err *e)
{
	for (unsigned i = 0; i < s->cfg.count; i++) {
		int r = vcpu_thread_make(&s->vcpu[i]);

		if (r < 0)
			return err_set_errno(e, r, "cannot start the thread of vCPU %u", i);
	}
	LOCK_GUARD(&s->lock);
	wait_all_parked(s);
	return 0;
}

/* Make KVM_RUN return EINTR on the vCPU's thread. */
static void vcpu_kick(struct vcpu *v)
{
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (v->thread_made)
		pthread_kill(v->thread, KICK_SIGNAL);
}

static void vcpus_kick(struct vcpus *s)
{
	for (unsigned i = 0; i < s->cfg.count; i++)
		vcpu_kick(&s->vcpu[i]);
}

void vcpus_request_stop(struct vcpus *s)
{
	if (!atomic_exchange(&s->stop_requested, true))
		vcpus_kick(s);
}

void vcpus_nap(struct vcpus *s, uint64_t until_ns)
{
	atomic_store(&s->nap_until_ns, until_ns);
	if (until_ns)
		vcpus_kick(s);
}

void vcpus_stop(struct vcpus *s)
{
	vcpus_request_stop(s);
	LOCK_GUARD(&s->lock);
	wait_all_parked(s);
}

void vcpus_resume(struct vcpus *s)
{
	pthread_mutex_lock(&s->lock);
	end_file_guest_runs();
	atomic_store(&s->stop_requested, false);
	/* A vcpus_poison() that sets the flag after this check requests its stop after the store
	 * above, so the stop is not lost. */
	if (atomic_load(&s->poisoned))
		atomic_store(&s->stop_requested, true);
	pthread_mutex_unlock(&s->lock);
	pthread_cond_broadcast(&s->run_cond); /* after the unlock: a woken vCPU would wait for the mutex */
}

void vcpus_tell_stop(struct vcpus *s)
{
	for (unsigned i = 0; i < s->cfg.count; i++)
		kvm_ioctl(s->vcpu[i].fd, KVM_KVMCLOCK_CTRL, NULL); /* -EINVAL: the guest does not use kvm-clock */
}

void vcpus_poison(struct vcpus *s)
{
	atomic_store(&s->poisoned, true);
	vcpus_request_stop(s);
}

void vcpus_unpoison(struct vcpus *s)
{
	atomic_store(&s->poisoned, false);
}

/* Send an MSI to the local APIC whose id is the vCPU's index (Intel SDM vol. 3, "Message Signalled
 * Interrupts"). */
static void vcpu_signal(struct vcpu *v, uint32_t data)
{
	struct kvm_msi msi = { .address_lo = MSI_ADDRESS | v->index << 12, .data = data };

	kvm_ioctl(v->set->cfg.kvm->vm_fd, KVM_SIGNAL_MSI, &msi);
}

/* Use MSIs: the KVM_NMI ioctl waits until the vCPU returns from KVM_RUN, and a halted vCPU does not
 * return. */
void vcpus_nmi(struct vcpus *s)
{
	for (unsigned i = 0; i < s->cfg.count; i++)
		if (!atomic_load(&s->vcpu[i].absent))
			vcpu_signal(&s->vcpu[i], MSI_DATA_NMI);
}

/* ---- vCPUs that come and go ---- */

void vcpus_set_absent(struct vcpus *s, uint64_t absent)
{
	for (unsigned i = 0; i < s->cfg.count; i++)
		atomic_store(&s->vcpu[i].absent, absent >> i & 1);
}

/* ---- creation and teardown ---- */

/* Return the offset of the value "blocking" in a vCPU's binary statistics (KVM_GET_STATS_FD); the
 * same for every vCPU. 0: not found. */
static off_t stats_find_blocking(int fd)
{
	struct kvm_stats_header h;
	size_t desc_bytes;
	off_t found = 0;
	char *descs;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.name_size > 256 || h.num_desc > 1024)
		return 0;
	desc_bytes = sizeof(struct kvm_stats_desc) + h.name_size;
	descs = malloc(h.num_desc * desc_bytes + 1);
	if (descs && pread(fd, descs, h.num_desc * desc_bytes, h.desc_offset) ==
			     (ssize_t)(h.num_desc * desc_bytes)) {
		for (size_t i = 0; i < h.num_desc; i++) {
			struct kvm_stats_desc d;
			const char *at = descs + i * desc_bytes;

			memcpy(&d, at, sizeof(d));
			if (!strncmp(at + sizeof(d), "blocking", h.name_size))
				found = (off_t)h.data_offset + d.offset;
		}
	}
	free(descs);
	return found;
}

static void stats_open(struct vcpu *v)
{
	v->stats_fd = kvm_ioctl(v->fd, KVM_GET_STATS_FD, NULL);
	if (v->stats_fd >= 0)
		v->stats_blocking_off = v->index ? v->set->vcpu[0].stats_blocking_off
						 : stats_find_blocking(v->stats_fd);
}

static int vcpu_make(struct vcpus *s, unsigned i, struct err *e)
{
	struct vcpu *v = &s->vcpu[i];
	struct kvm *k = s->cfg.kvm;
	int r;

	v->set = s;
	v->index = i;
	v->fd = !i && k->made_vcpu_fd ? k->made_vcpu_fd : kvm_ioctl(k->vm_fd, KVM_CREATE_VCPU, (void *)(unsigned long)i);
	k->made_vcpu_fd = 0;
	if (v->fd < 0)
		return err_set(e, v->fd, ERR_HOST, "KVM_CREATE_VCPU %u: %s", i, strerror(-v->fd));
	if (!i) { /* read it before a vCPU runs: ioctls of a running vCPU wait for its next exit */
		r = kvm_ioctl(v->fd, KVM_GET_TSC_KHZ, NULL);
		k->host_tsc_khz = (uint32_t)MAX(r, 0);
	}
	v->run = mmap(NULL, k->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED) {
		v->run = NULL;
		return err_set_errno(e, -errno, "cannot map vCPU %u", i);
	}
	if (k->has_stats_fd)
		stats_open(v);
	v->fresh_lapic = malloc(sizeof(*v->fresh_lapic));
	if (!v->fresh_lapic)
		return err_set_errno(e, -ENOMEM, "vCPU %u", i);
	r = kvm_ioctl(v->fd, KVM_GET_LAPIC, v->fresh_lapic);
	return r < 0 ? err_set(e, r, ERR_HOST, "KVM_GET_LAPIC: %s", strerror(-r)) : vcpu_cpuid_set(v, e);
}

int vcpus_init(struct vcpus *s, const struct vcpus_config *c, struct err *e)
{
	struct sigaction sa = { .sa_handler = kick_handler };
	int r = 0;

	memset(s, 0, sizeof(*s));
	s->cfg = *c;
	atomic_store(&s->stop_requested, true);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->parked_cond, NULL);
	pthread_cond_init(&s->run_cond, NULL);
	s->vcpu = calloc(c->count, sizeof(*s->vcpu));
	if (!s->vcpu)
		return err_set_errno(e, -ENOMEM, "vCPUs");
	for (unsigned i = 0; i < c->count; i++)
		s->vcpu[i].fd = s->vcpu[i].stats_fd = -1;
	vcpus_set_absent(s, c->absent);
	sigaction(KICK_SIGNAL, &sa, NULL);
	for (unsigned i = 0; i < c->count && !r; i++)
		r = vcpu_make(s, i, e);
	return r;
}

static void vcpu_done(struct vcpu *v, size_t run_bytes)
{
	if (v->run)
		munmap(v->run, run_bytes);
	if (v->stats_fd >= 0)
		close(v->stats_fd);
	if (v->fd >= 0)
		close(v->fd);
	free(v->fresh_lapic);
	free(v->xlayout);
}

void vcpus_done(struct vcpus *s)
{
	if (!s->vcpu)
		return;
	pthread_mutex_lock(&s->lock);
	s->want_exit = true;
	pthread_cond_broadcast(&s->run_cond);
	pthread_mutex_unlock(&s->lock);
	for (unsigned i = 0; i < s->cfg.count; i++)
		if (!s->vcpu[i].run)
			s->cfg.count = i; /* vcpus_init() failed halfway: no threads exist */
	vcpus_request_stop(s);
	for (unsigned i = 0; i < s->cfg.count; i++)
		if (s->vcpu[i].thread_made)
			pthread_join(s->vcpu[i].thread, NULL);
	for (unsigned i = 0; i < s->cfg.count; i++)
		vcpu_done(&s->vcpu[i], s->cfg.kvm->run_bytes);
	free(s->vcpu);
	free(s->new_msrs);
	s->vcpu = NULL;
}

/* ---- initial registers ---- */

static struct kvm_segment flat_segment(uint16_t selector, uint8_t type, bool long_mode)
{
	return (struct kvm_segment){ .base = 0, .limit = 0xffffffff, .selector = selector,
		.type = type, .present = 1, .db = !long_mode, .s = 1, .l = long_mode, .g = 1 };
}

/* Intel SDM volume 3, table "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT". */
static void sregs_after_reset(struct kvm_sregs *s)
{
	struct kvm_segment data = { .limit = 0xffff, .type = 3, .present = 1, .s = 1 };

	s->ds = s->es = s->fs = s->gs = s->ss = data;
	s->cs = (struct kvm_segment){ .base = RESET_CS_BASE, .limit = 0xffff, .selector = RESET_CS, .type = 11,
		.present = 1, .s = 1 };
	s->tr = (struct kvm_segment){ .limit = 0xffff, .type = 11, .present = 1 };
	s->ldt = (struct kvm_segment){ .limit = 0xffff, .type = 2, .present = 1 };
	s->gdt = s->idt = (struct kvm_dtable){ .limit = 0xffff };
	s->cr0 = CR0_CD | CR0_NW | CR0_ET;
	s->cr2 = s->cr3 = s->cr4 = s->efer = 0;
}

static void sregs_for_entry(struct kvm_sregs *s, const struct boot_entry *b)
{
	bool lm = b->mode == BOOT_LONG_64;

	if (b->mode == BOOT_RESET) {
		sregs_after_reset(s);
		return;
	}
	s->cs = flat_segment(b->cs, 11, lm);
	s->ds = s->es = s->fs = s->gs = s->ss = flat_segment(BOOT_DS, 3, false);
	s->tr = (struct kvm_segment){ .limit = 0x67, .selector = BOOT_TSS, .type = 11, .present = 1 };
	s->ldt = (struct kvm_segment){ .unusable = 1 };
	s->gdt = (struct kvm_dtable){ .base = b->gdt_gpa, .limit = b->gdt_limit };
	s->idt = (struct kvm_dtable){ .base = 0, .limit = 0 };
	s->cr0 = CR0_PE | CR0_ET | CR0_NE;
	s->cr2 = s->cr3 = s->cr4 = s->efer = 0;
	if (lm) {
		s->cr3 = b->cr3;
		s->cr4 = CR4_PAE;
		s->efer = EFER_LME | EFER_LMA;
		s->cr0 |= CR0_PG;
	}
}

/* Set MSRs as firmware would. MSRs that the host does not know are skipped. */
static void msrs_for_start(struct vcpu *v)
{
	static const struct kvm_msr_entry msrs[] = {
		{ .index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_STRING },
		{ .index = MSR_MTRR_DEF_TYPE, .data = MTRR_ENABLED_WRITE_BACK } };
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry e[ARRAY_SIZE(msrs)];
	} m;

	for (size_t from = 0; from < ARRAY_SIZE(msrs);) {
		int done;

		m.head = (struct kvm_msrs){ .nmsrs = (uint32_t)(ARRAY_SIZE(msrs) - from) };
		memcpy(m.e, msrs + from, m.head.nmsrs * sizeof(msrs[0]));
		done = kvm_ioctl(v->fd, KVM_SET_MSRS, &m);
		from += (done > 0 ? (size_t)done : 0) + 1; /* KVM stopped at this MSR: skip it */
	}
}

static int boot_vcpu_reset(struct vcpu *v, const struct boot_entry *b, struct err *e)
{
	struct kvm_regs regs = { .rip = b->rip, .rax = b->rax, .rbx = b->rbx, .rsi = b->rsi, .rflags = 2 };
	struct kvm_sregs sregs;
	int r = kvm_ioctl(v->fd, KVM_GET_SREGS, &sregs);

	if (!r) {
		sregs_for_entry(&sregs, b);
		r = kvm_ioctl(v->fd, KVM_SET_SREGS, &sregs);
	}
	if (!r)
		r = kvm_ioctl(v->fd, KVM_SET_REGS, &regs);
	return r < 0 ? err_set(e, r, ERR_HOST, "cannot set vCPU 0's registers: %s", strerror(-r)) : 0;
}

/* Switch back to xAPIC mode, then restore the fresh registers: no timer runs, no interrupt is
 * pending or in service. */
static int lapic_reset(struct vcpu *v)
{
	struct kvm_sregs sregs;
	int r = kvm_ioctl(v->fd, KVM_GET_SREGS, &sregs);

	if (r < 0)
		return r;
	sregs.apic_base = APIC_BASE_ENABLED | (v->index ? 0 : APIC_BASE_BOOT_CPU);
	sregs.cr8 = 0;
	memset(sregs.interrupt_bitmap, 0, sizeof(sregs.interrupt_bitmap));
	r = kvm_ioctl(v->fd, KVM_SET_SREGS, &sregs);
	return r < 0 ? r : kvm_ioctl(v->fd, KVM_SET_LAPIC, v->fresh_lapic);
}

/* End a wait for an async page fault by an INIT. KVM_GET_MP_STATE makes KVM process the INIT. */
static int vcpu_interrupt_wait(struct vcpu *v)
{
	struct kvm_mp_state mp;

	vcpu_signal(v, MSI_DATA_INIT);
	return kvm_ioctl(v->fd, KVM_GET_MP_STATE, &mp);
}

static void vcpus_drain(struct vcpus *s, unsigned from, unsigned to)
{
	pthread_mutex_lock(&s->lock);
	for (unsigned i = from; i < to; i++)
		s->vcpu[i].drains = s->vcpu[i].ran;
	pthread_cond_broadcast(&s->run_cond);
	for (unsigned i = from; i < to; i++)
		while (s->vcpu[i].drains)
			pthread_cond_wait(&s->parked_cond, &s->lock);
	pthread_mutex_unlock(&s->lock);
}

static int vcpus_drain_some(struct vcpus *s, unsigned from, unsigned to, struct err *e)
{
	int r = 0;

	vcpus_drain(s, from, to);
	/* KVM would keep the INIT until a guest that is a hypervisor itself allows it. A vCPU that was loaded and has
	 * not run yet has such a guest's state, too. */
	for (unsigned i = from; i < to && !r; i++)
		r = s->vcpu[i].ran || s->vcpu[i].loaded ? vcpu_nested_leave(&s->vcpu[i]) : 0;
	/* Reset all LAPICs before the first INIT: the guest may have changed the APIC ids. */
	for (unsigned i = from; i < to && !r; i++)
		r = s->vcpu[i].ran ? lapic_reset(&s->vcpu[i]) : 0;
	for (unsigned i = from; i < to && !r; i++)
		r = s->vcpu[i].ran ? vcpu_interrupt_wait(&s->vcpu[i]) : 0;
	return r < 0 ? err_set(e, r, ERR_HOST, "cannot drain the vCPUs' async page faults: %s", strerror(-r)) : 0;
}

int vcpus_drain_async_pf(struct vcpus *s, struct err *e)
{
	return vcpus_drain_some(s, 0, s->cfg.count, e);
}

/* Clear all state that a vCPU has kept from before the reset. */
static int vcpu_clear(struct vcpu *v, struct err *e)
{
	struct kvm_vcpu_events before, events = { .flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW };
	struct kvm_mp_state mp = { .mp_state =
		v->index ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE };
	int r = vcpu_registers_reset(v);

	if (!r) {
		msrs_for_start(v);
		r = lapic_reset(v);
	}
	/* KVM_GET_VCPU_EVENTS turns a queued NMI into a pending one; KVM_SET_VCPU_EVENTS can clear
	 * only pending ones. */
	if (!r)
		r = kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &before);
	if (!r)
		r = kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &events);
	if (!r)
		r = kvm_ioctl(v->fd, KVM_SET_MP_STATE, &mp);
	return r < 0 ? err_set(e, r, ERR_HOST, "cannot reset vCPU %u: %s", v->index, strerror(-r)) : 0;
}

/* Give a vCPU its state after a reset; vCPU 0 lacks the registers of its entry. */
static int vcpu_fresh(struct vcpu *v, struct err *e)
{
	if (v->set->cfg.assist)
		assist_vcpu_reset(v->set->cfg.assist, v);
	return vcpu_clear(v, e);
}

int vcpus_reset(struct vcpus *s, const struct boot_entry *entry, struct err *e)
{
	int r = 0;

	for (unsigned i = 0; i < s->cfg.count && !r; i++) {
		r = vcpu_fresh(&s->vcpu[i], e);
		if (!r && !i)
			r = boot_vcpu_reset(&s->vcpu[i], entry, e);
	}
	return r;
}

int vcpu_add(struct vcpus *s, unsigned i, struct err *e)
{
	struct vcpu *v = &s->vcpu[i];
	struct kvm_mp_state mp;
	int r;

	/* Other vCPUs may have sent an INIT and a SIPI, which KVM keeps until somebody asks for the state. */
	kvm_ioctl(v->fd, KVM_GET_MP_STATE, &mp);
	r = vcpu_fresh(v, e);
	if (r < 0)
		return r;
	LOCK_GUARD(&s->lock);
	atomic_store(&v->absent, false);
	pthread_cond_broadcast(&s->run_cond);
	return 0;
}

int vcpu_remove(struct vcpus *s, unsigned i, struct err *e)
{
	struct vcpu *v = &s->vcpu[i];
	int r;

	atomic_store(&v->absent, true);
	vcpu_kick(v);
	pthread_mutex_lock(&s->lock);
	while (v->thread_made && !v->parked)
		pthread_cond_wait(&s->parked_cond, &s->lock);
	pthread_mutex_unlock(&s->lock);
	r = vcpus_drain_some(s, i, i + 1, e);
	return r < 0 ? r : vcpu_fresh(v, e);
}

/* ---- statistics ---- */

void vcpu_show(struct vcpus *s, unsigned i, _Atomic uint64_t *shown)
{
	struct vcpu *v = &s->vcpu[i];

	/* The thread may count meanwhile, and show that before an older value is stored here. The exchange is a
	 * barrier, so the comparison sees such a count. */
	atomic_store(&v->shown, shown);
	for (unsigned k = 0; shown && k < VCPU_FIGURES; k++) {
		do
			atomic_exchange(&shown[k], atomic_load(&v->counters[k]));
		while (atomic_load(&shown[k]) != atomic_load(&v->counters[k]));
	}
}

uint64_t vcpu_cpu_ns(const struct vcpus *s, unsigned i)
{
	struct timespec ts;
	clockid_t clock;

	if (!s->vcpu[i].thread_made || pthread_getcpuclockid(s->vcpu[i].thread, &clock) ||
		clock_gettime(clock, &ts) < 0)
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

bool vcpus_has_tid(const struct vcpus *s, int tid)
{
	for (unsigned i = 0; i < s->cfg.count; i++)
		if (atomic_load(&s->vcpu[i].tid) == tid)
			return true;
	return false;
}

unsigned vcpus_halted(const struct vcpus *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->cfg.count; i++) {
		const struct vcpu *v = &s->vcpu[i];
		uint64_t blocking = 0;

		if (!atomic_load(&v->absent) && v->stats_fd >= 0 && v->stats_blocking_off &&
			pread(v->stats_fd, &blocking, sizeof(blocking), v->stats_blocking_off) ==
				sizeof(blocking))
			n += blocking != 0;
	}
	return n;
}
