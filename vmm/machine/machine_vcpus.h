/* machine_vcpus: hot-plug of vCPUs. A machine whose configuration has cpu_hotplug creates all its vCPUs when it is
 * built; vCPUs that are not plugged in stay parked.
 *
 * Threading: main thread. */
#ifndef CAIRN_VMM_MACHINE_MACHINE_VCPUS_H
#define CAIRN_VMM_MACHINE_MACHINE_VCPUS_H

#include <stdint.h>

struct err;
struct machine;

/* Create the device "cpu-hotplug" if the configuration has it. Returns 0 or -errno. */
int machine_vcpus_new(struct machine *m, struct err *e);
/* Return the vCPUs that the guest lacks, a bit for each. */
uint64_t machine_vcpus_absent(const struct machine *m);
/* The device "cpu-hotplug" has got another state: let only its vCPUs run. All are parked. */
void machine_vcpus_loaded(struct machine *m);

/* Give the guest a vCPU, or ask it to release one. Return 0; -ENOTSUP: the VM has no hot-plug of vCPUs; -EINVAL: there
 * is none with this number; -EEXIST: the guest has it; -ENOENT: it lacks it; -errno. */
int machine_vcpu_add(struct machine *m, unsigned vcpu, struct err *e);
int machine_vcpu_ask_release(struct machine *m, unsigned vcpu, struct err *e);
/* Let the guest have n vCPUs: give it those with the lowest numbers, or ask it to release those with the highest.
 * Returns 0; -ENOTSUP; -EINVAL; -errno. */
int machine_vcpus_set(struct machine *m, unsigned n, struct err *e);
/* The guest has released the vCPU: stop it. */
void machine_vcpu_remove(struct machine *m, unsigned vcpu);

#endif
