/* cpu_model_table: the processor models. Features of the models with a vendor are those that QEMU gives the models of
 * the same names under KVM, with these differences:
 * - each model has x2apic and arat, which KVM offers on every host
 * - no model has arch_capabilities, because its MSR has the host's value */
#ifndef CAIRN_BASE_CPU_MODEL_TABLE_H
#define CAIRN_BASE_CPU_MODEL_TABLE_H

#include <stddef.h>
#include <stdint.h>

#define CPU_BRAND_BYTES 48u

struct cpu_model {
	const char *name;
	const char *parent;   /* a model above this one in the table; NULL: none */
	const char *features; /* features that the parent lacks; NULL: all features of the host */
	const char *vendor;   /* the 12 characters of CPUID leaf 0; NULL: any vendor */
	uint32_t signature;   /* EAX of leaf 1: family, model, stepping; 0: the host's */
	const char *brand;    /* "model name" in /proc/cpuinfo, at most CPU_BRAND_BYTES; NULL: the host's */
};

extern const struct cpu_model cpu_models[];
extern const size_t cpu_models_n;

/* QEMU's and libvirt's name of a version of a model: BASE-vN. The versions in the table differ from their model at most
 * in arch_capabilities and in features of VMX. */
struct cpu_model_version {
	const char *name, *model;
};

extern const struct cpu_model_version cpu_model_versions[];
extern const size_t cpu_model_versions_n;

/* Find the model of a name of length len, which may be a name with a version. Returns NULL if there is none. */
const struct cpu_model *cpu_model_find(const char *name, size_t len);

#endif
