/* cpu_hotplug: the registers that show the guest which vCPUs were added and which ones it should release
 * (vmm/boot/ssdt_cpus.asl). General-purpose event CPU_HOTPLUG_GPE tells the guest to read them.
 *
 *   0  u8, write: the vCPU to which the others refer, by its number, which is also its APIC id
 *   1  u8, read: bit 0: the vCPU is there; 1: it has come; 2: the guest is asked to release it
 *          write: bit 1 and 2: the guest has seen that; bit 3: it has released the vCPU
 *   2  u8, write: a status of _OST (ACPI 6.4, table 6.65) other than 0: the guest does not release that vCPU
 *
 * A vCPU that the guest was not asked to release is ignored in a write, so a guest cannot make more than one call of a
 * function below for each request.
 *
 * Threading: register handlers on vCPU threads; all other functions on the main thread. */
#ifndef CAIRN_DEVICES_CPU_HOTPLUG_H
#define CAIRN_DEVICES_CPU_HOTPLUG_H

#include <stdbool.h>
#include <stdint.h>

struct bus;
struct dev_host;
struct device;
struct err;

#define CPU_HOTPLUG_PORT 0xae10
#define CPU_HOTPLUG_BYTES 4
#define CPU_HOTPLUG_GPE 2
#define CPU_HOTPLUG_MAX 64

struct cpu_hotplug_config {
	unsigned count;	  /* the most vCPUs that the guest can have */
	uint64_t present; /* a bit for each vCPU that the guest has; vCPU 0 always is one */
	struct device *pm; /* the device that raises CPU_HOTPLUG_GPE; borrowed */
};

struct cpu_hotplug_listener {
	/* The guest has released these vCPUs, or has refused to release them. vcpus: a bit for each. Called from the
	 * main loop. */
	void (*released)(void *opaque, uint64_t vcpus);
	void (*refused)(void *opaque, uint64_t vcpus);
	void *opaque;
};

/* Create the device "cpu-hotplug". c: copied. Free it through its ops. Returns 0 or -errno. */
int cpu_hotplug_new(struct dev_host *h, struct bus *pio, const struct cpu_hotplug_config *c, struct device **ret_dev, struct err *e);
/* Set the listener. l: copied. */
void cpu_hotplug_listen(struct device *d, const struct cpu_hotplug_listener *l);
/* Return the vCPUs that the guest has, a bit for each. */
uint64_t cpu_hotplug_present(const struct device *d);
/* Give the guest a vCPU, and notify it. */
void cpu_hotplug_add(struct device *d, unsigned vcpu);
/* Ask the guest to release a vCPU, also if it was asked before. */
void cpu_hotplug_ask_release(struct device *d, unsigned vcpu);
/* Return whether the guest has released a vCPU that cpu_hotplug_removed() has not taken away yet. */
bool cpu_hotplug_is_released(const struct device *d, unsigned vcpu);
/* Take a vCPU away that the guest has released. */
void cpu_hotplug_removed(struct device *d, unsigned vcpu);

#endif
