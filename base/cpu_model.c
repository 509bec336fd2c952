#include "base/cpu_model.h"
#include "base/cleanup.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MISSING_BYTES 240 /* size of the list of missing features in an error */

#define X86_64                                                                                                 \
	"fpu,de,pse,tsc,msr,pae,mce,cx8,apic,sep,mtrr,pge,mca,cmov,pat,pse36,clflush,mmx,fxsr,sse,sse2,"       \
	"sse3,cx16,x2apic,arat,syscall,nx,lm,lahf_lm"
#define X86_64_V2 X86_64 ",ssse3,sse4_1,sse4_2,popcnt"
#define X86_64_V3 X86_64_V2 ",avx,avx2,bmi1,bmi2,f16c,fma,abm,movbe,xsave"

static const struct {
	const char *name;
	const char *features; /* NULL: all features of the host */
} models[] = {
	{ CPU_MODEL_HOST, NULL },
	{ "baseline", X86_64 ",rdrand" },
	{ "x86-64-v2", X86_64_V2 },
	{ "x86-64-v3", X86_64_V3 },
};

/* A state that XSAVE handles, and the feature that it belongs to. x87 and SSE belong to XSAVE itself. */
static const struct {
	uint32_t states;
	const char *feature;
} xsave_states[] = {
	{ 1u << 2, "avx" },
	{ 3u << 3, "mpx" },
	{ 7u << 5, "avx512f" },
	{ 1u << 9, "pku" },
	{ 3u << 17, "amx_tile" },
};

/* ---- parsing a definition's text ---- */

/* Find the model at the start of the text. Returns its index; -1: unknown. */
static int model_of(const char *text)
{
	size_t len = strcspn(text, ",");

	for (size_t i = 0; i < ARRAY_SIZE(models); i++)
		if (strlen(models[i].name) == len && !memcmp(models[i].name, text, len))
			return (int)i;
	return -1;
}

static int feature_check(const char *at, size_t len, struct err *e)
{
	struct cpuid_feature f;

	if (!len || (*at != '+' && *at != '-'))
		return err_set(e, -EINVAL, ERR_INVALID,
			"\"%.*s\" is not a feature to add or remove; write +NAME or -NAME, as in baseline,+aes", (int)MIN(len, 40u), at);
	if (!cpuid_find_feature(at + 1, len - 1, &f))
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.*s\" is not a processor feature; use names of /proc/cpuinfo, such as avx2",
			(int)MIN(len - 1, 40u), at + 1);
	return 0;
}

int cpu_model_check(const char *text, struct err *e)
{
	int r = 0;

	if (strlen(text) > CPU_MODEL_TEXT_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "is longer than %d bytes", CPU_MODEL_TEXT_MAX);
	if (model_of(text) < 0)
		return err_set(e, -EINVAL, ERR_INVALID,
			"\"%.*s\" is not a processor model; use host, baseline, x86-64-v2 or x86-64-v3", (int)MIN(strcspn(text, ","), 40u),
			text);
	for (const char *at = strchr(text, ','); at && !r; at = strchr(at, ',')) {
		at++;
		r = feature_check(at, strcspn(at, ","), e);
	}
	return r;
}

bool cpu_model_is_host(const char *text)
{
	return !strcmp(text, CPU_MODEL_HOST);
}

/* ---- building the CPUID leaves of a text ---- */

static uint32_t *feature_word(struct cpuid *c, const struct cpuid_feature *f)
{
	struct cpuid_leaf *l = (struct cpuid_leaf *)(uintptr_t)cpuid_find(c, f->function, f->index);

	return l ? &l->reg[f->reg] : NULL;
}

/* Set or clear a feature in *c. If *c has no leaf for the feature, setting it adds the leaf. */
static int feature_set(struct cpuid **c, const char *name, size_t len, bool on)
{
	struct cpuid_feature f;
	struct cpuid *more;
	uint32_t *word;

	if (!cpuid_find_feature(name, len, &f))
		return -EINVAL;
	word = feature_word(*c, &f);
	if (!word && on) {
		more = realloc(*c, sizeof(**c) + ((*c)->n + 1) * sizeof((*c)->leaf[0]));
		if (!more)
			return -ENOMEM;
		*c = more;
		more->leaf[more->n] = (struct cpuid_leaf){ .function = f.function, .index = f.index,
			.flags = f.function == 7 || f.function == 0xd ? CPUID_FLAG_INDEX : 0 };
		word = &more->leaf[more->n++].reg[f.reg];
	}
	if (word)
		*word = on ? *word | 1u << f.bit : *word & ~(1u << f.bit);
	return 0;
}

static bool feature_is_set(struct cpuid *c, const char *name)
{
	struct cpuid_feature f;
	uint32_t *word = cpuid_find_feature(name, strlen(name), &f) ? feature_word(c, &f) : NULL;

	return word && *word >> f.bit & 1;
}

/* Build leaves that have the wanted features: those of the model (model "host": all leaves of the host), then the
 * text's additions and removals. */
static int wanted_make(const char *text, const struct cpuid *supported, struct cpuid **want)
{
	const char *list = models[model_of(text)].features;
	int r = 0;

	*want = list ? cpuid_new(0) : cpuid_copy(supported);
	if (!*want)
		return -ENOMEM;
	for (const char *at = list; at && !r; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		r = feature_set(want, at, strcspn(at, ","), true);
	for (const char *at = strchr(text, ','); at && !r; at = strchr(at, ',')) {
		at++;
		r = feature_set(want, at + 1, strcspn(at, ",") - 1, *at == '+');
	}
	return r;
}

/* Remove the XSAVE states whose features the guest does not have. */
static void xsave_limit(struct cpuid *c)
{
	uint32_t states = feature_is_set(c, "xsave") ? 3 : 0;

	for (size_t i = 0; i < ARRAY_SIZE(xsave_states) && states; i++)
		if (feature_is_set(c, xsave_states[i].feature))
			states |= xsave_states[i].states;
	for (uint32_t i = 0; i < c->n; i++) {
		struct cpuid_leaf *l = &c->leaf[i];

		if (l->function != 0xd)
			continue;
		if (!l->index)
			l->reg[CPUID_EAX] &= states, l->reg[CPUID_EDX] = 0;
		else if (!states || (l->index >= 2 && (l->index >= 32 || !(states >> l->index & 1))))
			memset(l->reg, 0, sizeof(l->reg));
	}
}

/* Clear the leaf of the performance counters, because they differ from host to host. */
static void pmu_remove(struct cpuid *c)
{
	struct cpuid_leaf *l = (struct cpuid_leaf *)(uintptr_t)cpuid_find(c, 0xa, 0);

	if (l)
		memset(l->reg, 0, sizeof(l->reg));
}

int cpu_model_make(const char *text, const struct cpuid *supported, struct cpuid **ret, struct err *e)
{
	CLEANUP_FREE struct cpuid *want = NULL, *made = NULL;
	char missing[MISSING_BYTES];
	int r = cpu_model_check(text, e);

	*ret = NULL;
	if (r < 0 || cpu_model_is_host(text))
		return r;
	r = wanted_make(text, supported, &want);
	if (!r && !(made = cpuid_copy(supported)))
		r = -ENOMEM;
	if (r < 0)
		return err_set_errno(e, r, "CPUID");
	if (cpuid_list_features(want, supported, missing, sizeof(missing)))
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"the processor \"%.100s\" has features that this host lacks: %s; remove them from the VM's \"cpu\", or use another "
			"host", text, missing);
	cpuid_keep_features(made, want);
	xsave_limit(made);
	if (models[model_of(text)].features)
		pmu_remove(made);
	*ret = STEAL_PTR(made);
	return 0;
}
