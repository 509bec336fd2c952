/* cpu_model: the processor that a definition asks for, as text: a model, then features to add or to
 * remove, as in "baseline,+aes,-rdrand".
 *
 * host       all that the host's KVM offers
 * baseline   what an emulated SVM host offers: x86-64, sse3, cx16, lahf_lm, x2apic, rdrand
 * x86-64-v2  the level of the x86-64 psABI: ssse3, sse4_1, sse4_2, popcnt
 * x86-64-v3  avx, avx2, bmi1, bmi2, f16c, fma, abm, movbe, xsave in addition */
#ifndef CAIRN_BASE_CPU_MODEL_H
#define CAIRN_BASE_CPU_MODEL_H

#include <stdbool.h>

struct cpuid;
struct err;

#define CPU_MODEL_TEXT_MAX 511
#define CPU_MODEL_HOST "host"

/* Check the text: a known model, then known features. Returns 0; -EINVAL (ERR_INVALID). */
int cpu_model_check(const char *text, struct err *e);
/* Returns whether the text asks for all that the host offers, and nothing else. */
bool cpu_model_is_host(const char *text);
/* Build the model's CPUID from the leaves that the host's KVM supports. Leaves without features, such as those of the
 * vendor and the caches, are copies of the host's.
 * ret: the caller frees it with free(); NULL if cpu_model_is_host(text).
 * Returns 0; -EINVAL as cpu_model_check(); -ENOTSUP (ERR_UNSUPPORTED) with the names of features that the
 * host lacks; -ENOMEM. */
int cpu_model_make(const char *text, const struct cpuid *supported, struct cpuid **ret, struct err *e);

#endif
