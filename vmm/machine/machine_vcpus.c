#include "vmm/machine/machine_vcpus.h"
#include "base/err.h"
#include "base/log.h"
#include "devices/cpu_hotplug.h"
#include "vmm/machine/machine.h"
#include "vmm/machine/machine_plug.h"

#include <errno.h>

_Static_assert(CPU_HOTPLUG_MAX == VM_VCPUS_MAX, "a bit for each vCPU");

static uint64_t vcpus_all(const struct machine *m)
{
	return m->cfg.vcpus < VM_VCPUS_MAX ? (1ULL << m->cfg.vcpus) - 1 : UINT64_MAX;
}

int machine_vcpus_new(struct machine *m, struct err *e)
{
	struct cpu_hotplug_config c = { .count = m->cfg.vcpus, .present = ~m->cfg.vcpus_absent, .pm = m->acpi_pm };
	int r;

	if (!m->cfg.cpu_hotplug)
		return 0;
	r = cpu_hotplug_new(&m->host, m->pio, &c, &m->cpu_hotplug, e);
	return machine_device_insert(m, m->ndevices, r, m->cpu_hotplug);
}

uint64_t machine_vcpus_absent(const struct machine *m)
{
	return m->cpu_hotplug ? vcpus_all(m) & ~cpu_hotplug_present(m->cpu_hotplug) : 0;
}

void machine_vcpus_loaded(struct machine *m)
{
	vcpus_set_absent(&m->vcpus, machine_vcpus_absent(m));
}

static int vcpu_check(const struct machine *m, unsigned vcpu, struct err *e)
{
	if (!m->cpu_hotplug)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "the VM was started with all its vCPUs (%u); give its definition a higher maximum with "
			"setvcpus --maximum --config, and start the VM again", m->cfg.vcpus);
	if (vcpu >= m->cfg.vcpus)
		return err_set(e, -EINVAL, ERR_INVALID, "the VM has at most %u vCPUs", m->cfg.vcpus);
	return 0;
}

int machine_vcpu_add(struct machine *m, unsigned vcpu, struct err *e)
{
	int r = vcpu_check(m, vcpu, e);

	if (!r && !(machine_vcpus_absent(m) >> vcpu & 1))
		r = err_set(e, -EEXIST, ERR_EXISTS, "the guest has vCPU %u already", vcpu);
	if (!r)
		r = vcpu_add(&m->vcpus, vcpu, e);
	if (!r)
		cpu_hotplug_add(m->cpu_hotplug, vcpu);
	return r;
}

int machine_vcpu_ask_release(struct machine *m, unsigned vcpu, struct err *e)
{
	int r = vcpu_check(m, vcpu, e);

	if (!r && !vcpu)
		r = err_set(e, -EINVAL, ERR_INVALID, "vCPU 0, with which the guest boots, cannot be removed");
	if (!r && machine_vcpus_absent(m) >> vcpu & 1)
		r = err_set(e, -ENOENT, ERR_NOT_FOUND, "the guest has no vCPU %u", vcpu);
	if (!r)
		cpu_hotplug_ask_release(m->cpu_hotplug, vcpu);
	return r;
}

int machine_vcpus_set(struct machine *m, unsigned n, struct err *e)
{
	uint64_t absent = machine_vcpus_absent(m);
	unsigned now = m->cfg.vcpus - (unsigned)__builtin_popcountll(absent);
	int r = n == now ? 0 : vcpu_check(m, n ? n - 1 : 0, e);

	if (!n)
		return err_set(e, -EINVAL, ERR_INVALID, "a VM needs a vCPU");
	for (unsigned i = 0; i < m->cfg.vcpus && now < n && !r; i++) {
		if (!(absent >> i & 1))
			continue;
		r = machine_vcpu_add(m, i, e);
		now++;
	}
	for (unsigned i = m->cfg.vcpus; i-- > 1 && now > n && !r;) {
		if (absent >> i & 1)
			continue;
		r = machine_vcpu_ask_release(m, i, e);
		now--;
	}
	return r;
}

void machine_vcpu_remove(struct machine *m, unsigned vcpu)
{
	struct err e;

	if (vcpu_remove(&m->vcpus, vcpu, &e) < 0)
		log_error(NULL, "vCPU %u: %s", vcpu, e.msg);
	cpu_hotplug_removed(m->cpu_hotplug, vcpu);
}
