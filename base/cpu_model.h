/* cpu_model: builds a guest's CPUID from the text by which a definition asks for a processor. The text is a model, then
 * features to add or to remove, as in "baseline,+aes,-rdrand". cpu_model_table.h has the models. Any thread. */
#ifndef CAIRN_BASE_CPU_MODEL_H
#define CAIRN_BASE_CPU_MODEL_H

#include <stdbool.h>
#include <stddef.h>

struct cpuid;
struct err;

#define CPU_MODEL_TEXT_MAX 511
#define CPU_MODEL_HOST "host"

/* Check the text: a known model, then known features. Returns 0; -EINVAL (ERR_INVALID). */
int cpu_model_check(const char *text, struct err *e);
/* Returns whether the text is just "host": everything that the host's KVM supports. */
bool cpu_model_is_host(const char *text);
/* List the features of the processor, as cpuid_list_features(). Returns their number; -EINVAL; -ENOMEM. */
int cpu_model_features(const char *text, const struct cpuid *supported, char *features, size_t size);
/* List the features that the processor needs and the host lacks, or the other vendor, as cpuid_list_more().
 * Returns the number of differences, 0 if the host can give a guest the processor; -EINVAL; -ENOMEM. */
int cpu_model_missing(const char *text, const struct cpuid *supported, char *missing, size_t size);
/* Find the model with the most features among those that this host can give and whose features the text's processor
 * has, too. Returns its name; NULL: none, the text is invalid, or memory is short. */
const char *cpu_model_nearest(const char *text, const struct cpuid *supported);
/* Build the CPUID of a guest from the leaves that the host's KVM supports.
 * Model "host": leaves without features, such as those of the caches, are copies of the host's.
 * Other models: leaves that do not belong to the guest's features are removed, and a model with a signature has its own
 * family, model, stepping and brand. Caches are the host's.
 * ret: the caller frees it with free(); NULL if cpu_model_is_host(text).
 * Returns 0; -EINVAL as cpu_model_check(); -ENOTSUP (ERR_UNSUPPORTED) if the host lacks features: the error names them
 * and the result of cpu_model_nearest(); -ENOMEM. */
int cpu_model_make(const char *text, const struct cpuid *supported, struct cpuid **ret, struct err *e);

#endif
