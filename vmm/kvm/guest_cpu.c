#include "vmm/kvm/guest_cpu.h"
#include "base/cpu_model.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "snapshot/cpu_state.h"
#include "vmm/kvm/cpu_probe.h"
#include "vmm/kvm/kvm.h"
#include "vmm/kvm/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#define FEATURES_BYTES 240 /* size of a list of features in an error */
#define TSC_KHZ_MIXED UINT32_MAX /* vCPUs whose TSCs an interrupted load has left apart: the next load sets them all */

static const struct cpuid *guest_leaves(const struct kvm *k)
{
	return k->guest ? k->guest : k->supported;
}

static uint64_t xcr0_supported(const struct cpuid *c)
{
	const struct cpuid_leaf *l = cpuid_find(c, 0xd, 0);

	return l ? l->reg[CPUID_EAX] | (uint64_t)l->reg[CPUID_EDX] << 32 : 0;
}

/* ---- scaling the TSC ---- */

static bool tsc_is_near(uint32_t khz, uint32_t host_khz)
{
	uint64_t differ = khz > host_khz ? khz - host_khz : host_khz - khz;

	return !khz || !host_khz || differ * 1000000 <= (uint64_t)host_khz * TSC_TOLERANCE_PPM;
}

static int tsc_check(struct vcpus *s, uint32_t khz, struct err *e)
{
	uint32_t host = s->cfg.kvm->host_tsc_khz;

	if (tsc_is_near(khz, host) || s->cfg.kvm->scales_tsc)
		return 0;
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"VM state: the guest's TSC runs at %u.%03u MHz, this host's at %u.%03u MHz, and its KVM cannot scale it; "
		"load the state on a host with that frequency or with TSC scaling", khz / 1000, khz % 1000, host / 1000,
		host % 1000);
}

/* Scale the vCPUs' TSC to the recorded frequency, or undo the scaling that an earlier state needed. */
static int tsc_load(struct vcpus *s, uint32_t khz, struct err *e)
{
	struct kvm *k = s->cfg.kvm;
	uint32_t want = tsc_is_near(khz, k->host_tsc_khz) ? 0 : khz;
	int r = 0;

	k->saved_tsc_khz = khz;
	if (want == k->set_tsc_khz)
		return 0;
	for (unsigned i = 0; i < s->cfg.count && !r; i++)
		r = kvm_ioctl(s->vcpu[i].fd, KVM_SET_TSC_KHZ, (void *)(uintptr_t)(want ? want : k->host_tsc_khz));
	k->set_tsc_khz = r < 0 ? TSC_KHZ_MIXED : want;
	return r < 0 ? err_set(e, r, ERR_HOST,
		"VM state: this host's KVM does not scale its TSC of %u.%03u MHz to the guest's %u.%03u MHz: %s; load the state on "
		"a host with that frequency", k->host_tsc_khz / 1000, k->host_tsc_khz % 1000, khz / 1000, khz % 1000,
		strerror(-r)) : 0;
}

/* ---- choosing the processor ---- */

int guest_cpu_choose(struct kvm *k, const char *text, struct err *e)
{
	int r = cpu_model_check(text, e);

	if (r < 0 || cpu_model_is_host(text))
		return r;
	if (cpu_probe_result(k) == CPU_KIND_PROCESSOR)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"this host's KVM does not virtualise CPUID, so a guest sees the host's processor and not \"%.100s\"; set "
			"\"cpu\": \"host\"", text);
	return cpu_model_make(text, k->supported, &k->guest, e);
}

/* ---- saving the processor ---- */

int guest_cpu_save(struct vcpus *s, struct state_writer *w, struct err *e)
{
	struct kvm *k = s->cfg.kvm;
	struct cpu_state c = { .kind = cpu_probe_result(k), .sockets = s->cfg.sockets, .cores = s->cfg.cores,
		.threads = s->cfg.threads };

	c.guest = k->guest ? k->guest : k->supported;
	c.own = k->own;
	c.xcr0 = c.kind == CPU_KIND_PROCESSOR ? k->xcr0 : xcr0_supported(c.guest);
	/* The host's frequency differs a little from boot to boot. Keep the first one, so that the
	 * differences do not add up from load to load. */
	c.tsc_khz = k->saved_tsc_khz ? k->saved_tsc_khz : k->host_tsc_khz;
	if (c.kind == CPU_KIND_PROCESSOR && !c.own)
		return err_set_errno(e, -ENOMEM, "VM state");
	cpu_state_put(w, &c);
	return 0;
}

/* ---- checking a recorded processor ---- */

/* Check that the state comes from the same kind of host: a guest of one kind cannot be given the processor of the
 * other. */
static int kind_check(const struct kvm *k, const struct cpu_state *c, struct err *e)
{
	char more[FEATURES_BYTES];

	if (c->kind == k->cpu_kind)
		return 0;
	if (c->kind == CPU_KIND_PROCESSOR)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"VM state: saved on a host whose KVM does not virtualise CPUID, so the guest knows that host's processor; "
			"load the state on such a host, or start the VM without it");
	cpuid_list_more(k->own, c->guest, more, sizeof(more));
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"VM state: saved on a host whose KVM virtualises CPUID; this host's does not, and the guest would see the "
		"processor itself (more than it knows: %s); load the state on a host with VMX or SVM, or start the VM "
		"without it", more);
}

static int features_missing(const char *names, struct err *e)
{
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"VM state: the guest uses processor features that this host lacks: %s; load the state on a host with them, "
		"or start the VM without it", names);
}

static int features_check(const struct kvm *k, const struct cpu_state *c, struct err *e)
{
	char names[FEATURES_BYTES];

	if (c->kind == CPU_KIND_PROCESSOR && !cpuid_equal(c->own, k->own) &&
		cpuid_list_more(c->own, k->own, names, sizeof(names)))
		return features_missing(names, e);
	if (!cpuid_equal(c->guest, k->supported) && cpuid_list_more(c->guest, k->supported, names, sizeof(names)))
		return features_missing(names, e);
	if (c->kind == CPU_KIND_PROCESSOR && c->xcr0 & ~k->xcr0)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"VM state: the guest uses register state that this host's kernel has switched off (XCR0 0x%llx, here "
			"0x%llx); load the state on a host with it, or start the VM without it", (unsigned long long)c->xcr0,
			(unsigned long long)k->xcr0);
	return 0;
}

static bool has_topology(const struct vcpus *s, const struct cpu_state *c)
{
	return s->cfg.sockets == c->sockets && s->cfg.cores == c->cores && s->cfg.threads == c->threads;
}

static bool is_as_recorded(const struct vcpus *s, const struct cpu_state *c)
{
	return has_topology(s, c) && vcpu_cpuid_is_same(&s->cfg, c->guest, guest_leaves(s->cfg.kvm));
}

static bool has_run(struct vcpus *s)
{
	bool ran = false;

	for (unsigned i = 0; i < s->cfg.count; i++)
		ran = ran || atomic_load(&s->vcpu[i].ran);
	return ran;
}

/* Check that the vCPUs have the recorded CPUID or have not run: KVM changes a vCPU's CPUID only before its first
 * KVM_RUN. */
static int change_check(struct vcpus *s, const struct cpu_state *c, struct err *e)
{
	const struct cpuid *now = guest_leaves(s->cfg.kvm);
	char names[FEATURES_BYTES];
	const char *how = "";

	if (is_as_recorded(s, c) || !has_run(s))
		return 0;
	if (cpuid_list_more(now, c->guest, names, sizeof(names)))
		how = "lacks features of the running one: ";
	else if (cpuid_list_more(c->guest, now, names, sizeof(names)))
		how = "has features that the running one lacks: ";
	else
		strcpy(names, has_topology(s, c) ? "differs in its model or caches" : "differs in its topology");
	return err_set(e, -EBUSY, ERR_WRONG_STATE,
		"VM state: the processor that it was saved with %s%s; a running VM keeps its processor: destroy the VM, then "
		"do this again", how, names);
}

int guest_cpu_check(struct vcpus *s, const struct cpu_state *c, struct err *e)
{
	struct kvm *k = s->cfg.kvm;
	int r;

	if (c->sockets * c->cores * c->threads != s->cfg.count)
		return err_set(e, -EINVAL, ERR_CORRUPT, "VM state: its topology contradicts its number of vCPUs");
	cpu_probe_result(k);
	if (k->cpu_kind == CPU_KIND_PROCESSOR && !k->own)
		return err_set_errno(e, -ENOMEM, "VM state");
	r = kind_check(k, c, e);
	if (!r)
		r = features_check(k, c, e);
	if (!r)
		r = tsc_check(s, c->tsc_khz, e);
	return r ? r : change_check(s, c, e);
}

/* ---- loading a recorded processor ---- */

int guest_cpu_load(struct vcpus *s, struct cpu_state *c, struct err *e)
{
	struct kvm *k = s->cfg.kvm;
	int r = 0;

	if (!is_as_recorded(s, c)) {
		s->cfg.sockets = c->sockets;
		s->cfg.cores = c->cores;
		s->cfg.threads = c->threads;
		free(k->guest);
		k->guest = c->guest;
		c->guest = NULL;
		for (unsigned i = 0; i < s->cfg.count && !r; i++)
			r = vcpu_cpuid_set(&s->vcpu[i], e);
	}
	return r ? r : tsc_load(s, c->tsc_khz, e);
}

unsigned guest_cpu_more(struct vcpus *s, const struct cpu_state *c, char *text, size_t size)
{
	const struct kvm *k = s->cfg.kvm;

	if (size)
		text[0] = 0;
	if (c->kind != CPU_KIND_PROCESSOR || !k->own || cpuid_equal(c->own, k->own))
		return 0;
	return cpuid_list_more(k->own, c->own, text, size);
}
