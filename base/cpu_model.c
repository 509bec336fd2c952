#include "base/cpu_model.h"
#include "base/cleanup.h"
#include "base/cpu_model_table.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIST_BYTES 240 /* size of a list in an error */
#define XSAVE_LEGACY_BYTES 576u /* the x87 and SSE states and the header (Intel SDM vol. 1, 13.4) */
#define KVM_LEAF 0x40000000u
#define EXTENDED_LEAF 0x80000000u

/* States that XSAVE handles, as bits of XCR0, and the feature to which they belong. x87 and SSE belong to XSAVE
 * itself. */
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

/* Find the model at the start of the text. Returns NULL if it is unknown. */
static const struct cpu_model *model_of(const char *text)
{
	return cpu_model_find(text, strcspn(text, ","));
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

/* List the versions of the base that this name with a version has, as in "EPYC-v1 (EPYC), EPYC-v2 (EPYC-IBPB)".
 * len: length of the name. Leaves the list empty if the name has no version, or if no version of its base is known. */
static void versions_list(const char *name, size_t len, char *list, size_t size)
{
	size_t base = len, used = 0;

	list[0] = 0;
	while (base && name[base - 1] >= '0' && name[base - 1] <= '9')
		base--;
	if (base == len || base < 2 || memcmp(name + base - 2, "-v", 2))
		return;
	for (size_t i = 0; i < cpu_model_versions_n && used < size; i++) {
		const struct cpu_model_version *v = &cpu_model_versions[i];

		if (!strncmp(v->name, name, base))
			used += (size_t)snprintf(list + used, size - used, "%s%s (%s)", used ? ", " : "", v->name, v->model);
	}
}

static int model_check(const char *text, struct err *e)
{
	size_t len = strcspn(text, ",");
	char versions[LIST_BYTES];

	if (cpu_model_find(text, len))
		return 0;
	versions_list(text, len, versions, sizeof(versions));
	if (versions[0])
		return err_set(e, -EINVAL, ERR_INVALID, "\"%.*s\" is a version that Cairn lacks; it has %s", (int)MIN(len, 40u), text,
			versions);
	return err_set(e, -EINVAL, ERR_INVALID, "\"%.*s\" is not a processor model; `cairn cpu-models` lists the models",
		(int)MIN(len, 40u), text);
}

int cpu_model_check(const char *text, struct err *e)
{
	int r;

	if (strlen(text) > CPU_MODEL_TEXT_MAX)
		return err_set(e, -EINVAL, ERR_INVALID, "is longer than %d bytes", CPU_MODEL_TEXT_MAX);
	r = model_check(text, e);
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

static struct cpuid_leaf *leaf_of(struct cpuid *c, uint32_t function, uint32_t index)
{
	return (struct cpuid_leaf *)(uintptr_t)cpuid_find(c, function, index);
}

static uint32_t *feature_word(struct cpuid *c, const struct cpuid_feature *f)
{
	struct cpuid_leaf *l = leaf_of(c, f->function, f->index);

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

static int features_add(struct cpuid **c, const char *list)
{
	int r = 0;

	for (const char *at = list; at && !r; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL)
		r = feature_set(c, at, strcspn(at, ","), true);
	return r;
}

/* The three registers of leaf 0 hold the vendor's characters in the order EBX, EDX, ECX. */
static void vendor_set(struct cpuid *c, const char *vendor)
{
	memcpy(&c->leaf[0].reg[CPUID_EBX], vendor, 4);
	memcpy(&c->leaf[0].reg[CPUID_EDX], vendor + 4, 4);
	memcpy(&c->leaf[0].reg[CPUID_ECX], vendor + 8, 4);
}

/* Build leaves with the model's vendor and with the features of the model and its parents. Returns NULL without
 * memory. */
static struct cpuid *model_leaves(const struct cpu_model *m)
{
	struct cpuid *c = cpuid_new(m->vendor ? 1 : 0);
	int r = c ? 0 : -ENOMEM;

	if (c && m->vendor)
		vendor_set(c, m->vendor);
	for (; m && !r; m = m->parent ? cpu_model_find(m->parent, strlen(m->parent)) : NULL)
		r = features_add(&c, m->features);
	if (!r)
		return c;
	free(c);
	return NULL;
}

/* Build leaves that have the wanted features: those of the model (model "host": all leaves of the host), then the
 * text's additions and removals.
 * *want: owned by the caller, also after a failure.
 * Returns 0; -EINVAL: the text is wrong; -ENOMEM. */
static int wanted_make(const char *text, const struct cpuid *supported, struct cpuid **want, struct err *e)
{
	const struct cpu_model *m;
	int r = cpu_model_check(text, e);

	if (r < 0)
		return r;
	m = model_of(text);
	*want = m->features ? model_leaves(m) : cpuid_copy(supported);
	r = *want ? 0 : -ENOMEM;
	for (const char *at = strchr(text, ','); at && !r; at = strchr(at, ',')) {
		at++;
		r = feature_set(want, at + 1, strcspn(at, ",") - 1, *at == '+');
	}
	return r < 0 ? err_set_errno(e, r, "CPUID") : 0;
}

/* Remove the XSAVE states whose features the guest does not have, and set the size of the area (Intel SDM vol. 1,
 * 13.2). KVM sets EBX of leaves 0xD.0 and 0xD.1 itself, which follow XCR0. */
static void xsave_limit(struct cpuid *c)
{
	struct cpuid_leaf *main = leaf_of(c, 0xd, 0), *more = leaf_of(c, 0xd, 1);
	uint32_t states = feature_is_set(c, "xsave") ? 3 : 0, bytes = XSAVE_LEGACY_BYTES, supervisor;

	for (size_t i = 0; i < ARRAY_SIZE(xsave_states) && states; i++)
		if (feature_is_set(c, xsave_states[i].feature))
			states |= xsave_states[i].states;
	if (main)
		states &= main->reg[CPUID_EAX];
	supervisor = states && more ? more->reg[CPUID_ECX] : 0;
	for (uint32_t i = 0; i < c->n; i++) {
		struct cpuid_leaf *l = &c->leaf[i];

		if (l->function != 0xd)
			continue;
		if (!states || (l->index >= 2 && (l->index >= 32 || !((states | supervisor) >> l->index & 1))))
			memset(l->reg, 0, sizeof(l->reg));
		else if (l->index >= 2 && (states >> l->index & 1))
			bytes = MAX(bytes, l->reg[CPUID_EBX] + l->reg[CPUID_EAX]);
	}
	if (main && states) {
		main->reg[CPUID_EAX] = states;
		main->reg[CPUID_EBX] = XSAVE_LEGACY_BYTES; /* after a reset, XCR0 has only x87 */
		main->reg[CPUID_ECX] = bytes;
		main->reg[CPUID_EDX] = 0;
	}
	if (more && !feature_is_set(c, "xsavec") && !feature_is_set(c, "xsaves"))
		more->reg[CPUID_EBX] = 0; /* without XSAVEC and XSAVES there is no compacted area */
}

static bool has_content(const struct cpuid_leaf *l)
{
	return l->reg[CPUID_EAX] || l->reg[CPUID_EBX] || l->reg[CPUID_ECX] || l->reg[CPUID_EDX];
}

/* Does the leaf belong to a guest with the features of c? The other leaves differ from host to host: performance
 * counters, frequencies, and details of features that the guest lacks. */
static bool leaf_belongs(struct cpuid *c, const struct cpuid_leaf *l)
{
	switch (l->function) {
	case 7:
		return !l->index || has_content(l);
	case 0xd:
	case 0x80000021:
		return has_content(l);
	case 0x12:
		return feature_is_set(c, "sgx");
	case 0x14:
		return feature_is_set(c, "intel_pt");
	case 0x1d:
	case 0x1e:
		return feature_is_set(c, "amx_tile");
	case 0x8000000a:
		return feature_is_set(c, "svm");
	case 0x8000001d:
	case 0x8000001e:
		return feature_is_set(c, "topoext");
	default:
		return l->function <= 9 || l->function == 0xb || (l->function >= KVM_LEAF && l->function <= EXTENDED_LEAF + 8);
	}
}

/* Remove the leaves that do not belong to the guest, and set the highest basic leaf, the highest extended leaf and the
 * highest sub-leaf of leaf 7. The leaves from which leaf_belongs() reads features always stay. */
static void leaves_limit(struct cpuid *c)
{
	uint32_t basic = 0, extended = 0, structured = 0, n = 0;
	struct cpuid_leaf *l;

	for (uint32_t i = 0; i < c->n; i++)
		if (leaf_belongs(c, &c->leaf[i]))
			c->leaf[n++] = c->leaf[i];
	c->n = n;
	for (l = c->leaf; l < c->leaf + n; l++) {
		if (l->function < KVM_LEAF)
			basic = MAX(basic, l->function);
		else if (l->function >= EXTENDED_LEAF)
			extended = MAX(extended, l->function);
		if (l->function == 7)
			structured = MAX(structured, l->index);
	}
	if ((l = leaf_of(c, 0, 0)))
		l->reg[CPUID_EAX] = basic;
	if ((l = leaf_of(c, EXTENDED_LEAF, 0)))
		l->reg[CPUID_EAX] = extended;
	if ((l = leaf_of(c, 7, 0)))
		l->reg[CPUID_EAX] = structured;
}

/* Set family, model and stepping, and the brand in leaves 0x80000002 to 4. */
static void identity_set(struct cpuid *c, const struct cpu_model *m)
{
	char brand[CPU_BRAND_BYTES + 1] = "";
	struct cpuid_leaf *l;

	if (!m->signature)
		return;
	if ((l = leaf_of(c, 1, 0)))
		l->reg[CPUID_EAX] = m->signature;
	if ((l = leaf_of(c, 0x80000001, 0)))
		l->reg[CPUID_EAX] = m->signature;
	snprintf(brand, sizeof(brand), "%s", m->brand);
	for (uint32_t i = 0; i < 3; i++)
		if ((l = leaf_of(c, 0x80000002 + i, 0)))
			memcpy(l->reg, brand + 16 * i, 16);
}

/* ---- the models of a host ---- */

int cpu_model_features(const char *text, const struct cpuid *supported, char *features, size_t size)
{
	CLEANUP_FREE struct cpuid *want = NULL;
	int r = wanted_make(text, supported, &want, NULL);

	return r < 0 ? r : (int)cpuid_list_features(want, NULL, features, size);
}

int cpu_model_missing(const char *text, const struct cpuid *supported, char *missing, size_t size)
{
	CLEANUP_FREE struct cpuid *want = NULL;
	int r = wanted_make(text, supported, &want, NULL);

	return r < 0 ? r : (int)cpuid_list_more(want, supported, missing, size);
}

const char *cpu_model_nearest(const char *text, const struct cpuid *supported)
{
	CLEANUP_FREE struct cpuid *want = NULL;
	const char *nearest = NULL;
	unsigned most = 0;

	if (wanted_make(text, supported, &want, NULL) < 0)
		return NULL;
	for (size_t i = 0; i < cpu_models_n; i++) {
		CLEANUP_FREE struct cpuid *has = cpu_models[i].features ? model_leaves(&cpu_models[i]) : NULL;
		unsigned n = has ? cpuid_list_features(has, NULL, NULL, 0) : 0;

		if (n <= most || cpuid_list_more(has, supported, NULL, 0) || cpuid_list_features(has, want, NULL, 0))
			continue;
		most = n;
		nearest = cpu_models[i].name;
	}
	return nearest;
}

static int missing_error(const char *text, const struct cpuid *supported, const char *missing, struct err *e)
{
	const char *nearest = cpu_model_nearest(text, supported);

	if (!nearest)
		return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
			"the processor \"%.100s\" has features that this host lacks: %s; remove them from the VM's \"cpu\", or use "
			"another host", text, missing);
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED,
		"the processor \"%.100s\" has features that this host lacks: %s; the nearest model that this host has is %s: "
		"change the VM's \"cpu\", or use another host", text, missing, nearest);
}

int cpu_model_make(const char *text, const struct cpuid *supported, struct cpuid **ret, struct err *e)
{
	CLEANUP_FREE struct cpuid *want = NULL, *made = NULL;
	char missing[LIST_BYTES];
	int r;

	*ret = NULL;
	if (cpu_model_is_host(text))
		return 0;
	r = wanted_make(text, supported, &want, e);
	if (r < 0)
		return r;
	made = cpuid_copy(supported);
	if (!made)
		return err_set_errno(e, -ENOMEM, "CPUID");
	if (cpuid_list_more(want, supported, missing, sizeof(missing)))
		return missing_error(text, supported, missing, e);
	cpuid_keep_features(made, want);
	xsave_limit(made);
	if (model_of(text)->features)
		leaves_limit(made);
	identity_set(made, model_of(text));
	*ret = STEAL_PTR(made);
	return 0;
}
