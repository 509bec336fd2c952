/* host_probe: checks which features this host offers to the VMs of the calling user. */
#ifndef CAIRN_TOOLS_HOST_PROBE_H
#define CAIRN_TOOLS_HOST_PROBE_H

#include <stdbool.h>
#include <stddef.h>

struct cpuid;
struct err;

enum host_status { HOST_OK, HOST_SLOW, HOST_MISSING, HOST_UNSURE };

struct host_check {
	const char *name, *purpose;
	bool required; /* no VM starts without it */
	enum host_status status;
	char found[192];  /* the host's value, or the error */
	char remedy[384]; /* empty: nothing to do */
};

#define HOST_CHECKS_MAX 24

/* Run all checks. Returns their number. */
size_t host_checks_run(struct host_check ret[HOST_CHECKS_MAX]);

/* Whether this host's KVM emulates the guest's kernel mode (kvm-pvm), so that a kernel needs words on its command line.
 * Takes some ms on a host whose CPU shows VMX or SVM, but whose kernel has neither kvm_intel nor kvm_amd. */
bool host_emulates_kernel_mode(void);

/* Open /dev/kvm, to find out early whether this user can use KVM. Returns 0; -errno (ERR_HOST, ERR_PERMISSION). */
int host_kvm_check(struct err *e);

struct host_cpu {
	struct cpuid *supported; /* owned: the leaves that KVM supports */
	bool is_virtual;	 /* KVM virtualises CPUID, so that a guest can have a processor of its own */
};

/* Ask KVM about the processor that guests can have. The caller calls host_cpu_done() after a success.
 * Returns 0; -errno (ERR_HOST, ERR_PERMISSION) if this user cannot use KVM, or KVM cannot run CPUID in a guest. */
int host_cpu_read(struct host_cpu *ret, struct err *e);
void host_cpu_done(struct host_cpu *h);

#endif
