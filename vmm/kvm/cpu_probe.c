#include "vmm/kvm/cpu_probe.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/lockdown.h"
#include "base/log.h"
#include "snapshot/cpu_state.h"
#include "vmm/kvm/kvm.h"
#include "vmm/vm_msg.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct probe {
	sem_t dropped, known;
	bool drops; /* the thread drops its privileges */
	int sys_fd; /* borrowed */
	const struct cpuid *supported; /* borrowed */
	uint32_t kind;
};

static void *probe_run(void *opaque)
{
	struct probe *p = opaque;
	struct kvm_cpuid_guest g;
	struct err e;
	int r;

	if (p->drops && lockdown_drop(&e) < 0)
		log_warn(NULL, "%s", e.msg);
	sem_post(&p->dropped);
	r = kvm_cpuid_guest_run(&g, p->sys_fd, p->supported);
	if (r >= 0)
		p->kind = r ? CPU_KIND_VIRTUAL : CPU_KIND_PROCESSOR;
	else
		log_warn(NULL, "cannot run CPUID in a guest to test whether KVM virtualises it: %s", strerror(-r));
	sem_post(&p->known); /* cpu_probe_end() may free p from here on */
	kvm_cpuid_guest_close(&g);
	return NULL;
}

/* ---- the thread of the probe and the result ---- */

static int thread_begin(struct probe *p)
{
	pthread_attr_t attr;
	pthread_t thread;
	int r;

	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	r = pthread_create(&thread, &attr, probe_run, p);
	pthread_attr_destroy(&attr);
	return -r;
}

void cpu_probe_begin(struct kvm *k)
{
	struct probe *p;

	if (k->cpu_kind != CPU_KIND_UNKNOWN || k->probe)
		return;
	p = calloc(1, sizeof(*p));
	if (!p)
		return;
	sem_init(&p->dropped, 0, 0);
	sem_init(&p->known, 0, 0);
	p->sys_fd = k->sys_fd;
	p->supported = k->supported;
	p->drops = !k->confined;
	if (thread_begin(p) < 0) {
		p->drops = false;
		probe_run(p);
	}
	k->probe = p;
}

static void sem_await(sem_t *s)
{
	while (sem_wait(s) < 0 && errno == EINTR)
		;
}

void cpu_probe_confined(struct kvm *k)
{
	if (k->probe)
		sem_await(&k->probe->dropped);
}

void cpu_probe_end(struct kvm *k)
{
	if (!k->probe)
		return;
	sem_await(&k->probe->known);
	k->cpu_kind = (uint8_t)k->probe->kind;
	sem_destroy(&k->probe->dropped);
	sem_destroy(&k->probe->known);
	free(k->probe);
	k->probe = NULL;
}

uint32_t cpu_probe_result(struct kvm *k)
{
	cpu_probe_begin(k);
	cpu_probe_end(k);
	/* If the probe failed, conclude from the kind of host. */
	if (k->cpu_kind == CPU_KIND_UNKNOWN)
		k->cpu_kind = k->host_kind == VM_HOST_PVM ? CPU_KIND_PROCESSOR : CPU_KIND_VIRTUAL;
	if (k->cpu_kind == CPU_KIND_PROCESSOR && !k->own) {
		k->own = cpuid_read_processor();
		k->xcr0 = cpuid_read_xcr0();
	}
	return k->cpu_kind;
}
