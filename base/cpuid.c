#include "base/cpuid.h"
#include "base/util.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the CPUID registers that hold features ---- */

#define NOT(bit) (~(1u << (bit)))

struct feature_reg {
	uint32_t function, index;
	enum cpuid_reg reg;
	uint32_t mask; /* bits that count as features */
	bool own;      /* cpuid_read_processor() reads this register; false: only KVM's list of leaves is used */
	/* Names of bits 0, 1, …; an empty field is a bit without a name. */
	const char *names;
};

static const struct feature_reg feature_regs[] = {
	/* Not counted: the TSC deadline timer and the hypervisor bit, which each guest has, and OSXSAVE */
	{ 1, 0, CPUID_ECX, NOT(24) & NOT(27) & NOT(31), true,
		"sse3,pclmulqdq,dtes64,monitor,ds_cpl,vmx,smx,est,tm2,ssse3,cid,sdbg,fma,cx16,xtpr,pdcm,,pcid,dca,sse4_1,"
		"sse4_2,x2apic,movbe,popcnt,,aes,xsave,,avx,f16c,rdrand," },
	/* Not counted: HTT, which depends on the topology */
	{ 1, 0, CPUID_EDX, NOT(28), true,
		"fpu,vme,de,pse,tsc,msr,pae,mce,cx8,apic,,sep,mtrr,pge,mca,cmov,pat,pse36,pn,clflush,,dts,acpi,mmx,"
		"fxsr,sse,sse2,ss,,tm,ia64,pbe" },
	{ 6, 0, CPUID_EAX, 1u << 2, true, ",,arat" },
	{ 7, 0, CPUID_EBX, ~0u, true,
		"fsgsbase,tsc_adjust,sgx,bmi1,hle,avx2,fdp_excptn_only,smep,bmi2,erms,invpcid,rtm,cqm,zero_fcs_fds,mpx,"
		"rdt_a,avx512f,avx512dq,rdseed,adx,smap,avx512ifma,,clflushopt,clwb,intel_pt,avx512pf,avx512er,avx512cd,"
		"sha_ni,avx512bw,avx512vl" },
	/* Not counted: OSPKE */
	{ 7, 0, CPUID_ECX, NOT(4), true,
		"prefetchwt1,avx512vbmi,umip,pku,,waitpkg,avx512_vbmi2,shstk,gfni,vaes,vpclmulqdq,avx512_vnni,"
		"avx512_bitalg,tme,avx512_vpopcntdq,,la57,,,,,,rdpid,,bus_lock_detect,cldemote,,movdiri,movdir64b,enqcmd,"
		"sgx_lc,pks" },
	{ 7, 0, CPUID_EDX, ~0u, true,
		",,avx512_4vnniw,avx512_4fmaps,fsrm,uintr,,,avx512_vp2intersect,srbds_ctrl,md_clear,rtm_always_abort,,,"
		"serialize,hybrid_cpu,tsxldtrk,,pconfig,arch_lbr,ibt,,amx_bf16,avx512_fp16,amx_tile,amx_int8,spec_ctrl,"
		"intel_stibp,flush_l1d,arch_capabilities,core_capabilities,ssbd" },
	{ 7, 1, CPUID_EAX, ~0u, true,
		"sha512,sm3,sm4,rao_int,avx_vnni,avx512_bf16,lass,cmpccxadd,,,fzrm,fsrs,fsrc,,,,,fred,lkgs,wrmsrns,,amx_fp16,"
		"hreset,avx_ifma,,,lam" },
	{ 7, 1, CPUID_EBX, ~0u, true, "" },
	{ 7, 1, CPUID_ECX, ~0u, true, "" },
	{ 7, 1, CPUID_EDX, ~0u, true, ",,,,avx_vnni_int8,avx_ne_convert,,,amx_complex,,avx_vnni_int16,,,,prefetchi" },
	{ 7, 2, CPUID_EDX, ~0u, true, "psfd,ipred_ctrl,rrsba_ctrl,ddpd_u,bhi_ctrl,mcdt_no" },
	{ 0xd, 0, CPUID_EAX, ~0u, true,
		"xcr0_x87,xcr0_sse,xcr0_avx,xcr0_bndregs,xcr0_bndcsr,xcr0_opmask,xcr0_zmm_hi256,xcr0_hi16_zmm,,xcr0_pkru,,,,,"
		",,,xcr0_tilecfg,xcr0_tiledata" },
	{ 0xd, 0, CPUID_EDX, ~0u, true, "" },
	{ 0xd, 1, CPUID_EAX, ~0u, true, "xsaveopt,xsavec,xgetbv1,xsaves,xfd" },
	{ 0xd, 1, CPUID_ECX, ~0u, true, "" },
	{ 0xd, 1, CPUID_EDX, ~0u, true, "" },
	{ 0x14, 0, CPUID_EBX, ~0u, false, "" },
	{ 0x14, 0, CPUID_ECX, ~0u, false, "" },
	{ 0x40000001, 0, CPUID_EAX, ~0u, false,
		"kvm_clocksource,kvm_nopiodelay,kvm_mmu,kvm_clocksource2,kvm_asyncpf,kvm_steal_time,kvm_pv_eoi,"
		"kvm_pv_unhalt,,kvm_pv_tlb_flush,kvm_asyncpf_vmexit,kvm_pv_ipi,kvm_poll_control,kvm_pv_sched_yield,"
		"kvm_asyncpf_int,kvm_msi_ext_dest_id,kvm_hc_map_gpa_range,kvm_migration_control,,,,,,,kvm_clocksource_stable" },
	{ 0x80000001, 0, CPUID_ECX, ~0u, true,
		"lahf_lm,cmp_legacy,svm,extapic,cr8_legacy,abm,sse4a,misalignsse,3dnowprefetch,osvw,ibs,xop,skinit,wdt,,lwp,"
		"fma4,tce,,nodeid_msr,,tbm,topoext,perfctr_core,perfctr_nb,,bpext,ptsc,perfctr_llc,mwaitx" },
	{ 0x80000001, 0, CPUID_EDX, ~0u, true,
		"fpu,vme,de,pse,tsc,msr,pae,mce,cx8,apic,,syscall,mtrr,pge,mca,cmov,pat,pse36,,mp,nx,,mmxext,mmx,fxsr,"
		"fxsr_opt,pdpe1gb,rdtscp,,lm,3dnowext,3dnow" },
	{ 0x80000007, 0, CPUID_EBX, ~0u, false, "overflow_recov,succor" },
	{ 0x80000007, 0, CPUID_EDX, 1u << 8, true, ",,,,,,,,constant_tsc" },
	{ 0x80000008, 0, CPUID_EBX, ~0u, true,
		"clzero,irperf,xsaveerptr,,rdpru,,,,,wbnoinvd,,,ibpb,,ibrs,stibp,,stibp_always_on,,,,,,amd_ppin,amd_ssbd,"
		"virt_ssbd,amd_ssb_no,,amd_psfd,btc_no,ibpb_ret" },
	{ 0x8000000a, 0, CPUID_EDX, ~0u, false,
		"npt,lbrv,svm_lock,nrip_save,tsc_scale,vmcb_clean,flushbyasid,decodeassists,,,pausefilter,,pfthreshold,avic,,"
		"v_vmsave_vmload,vgif,,,,v_spec_ctrl,,,,,vnmi" },
	{ 0x8000001f, 0, CPUID_EAX, ~0u, false, "sme,sev,,sev_es,sev_snp" },
	{ 0x80000021, 0, CPUID_EAX, ~0u, true,
		"no_nested_data_bp,,lfence_rdtsc,,,,null_sel_clr_base,upper_addr_ignore,autoibrs,no_smm_ctl_msr,,,,,,,,,,,,,,,,,,"
		"sbpb,ibpb_brtype,srso_no" },
	{ 0x80000021, 0, CPUID_ECX, ~0u, true, "" },
};

/* libvirt's names for features, where they differ from those above. libvirt's "stibp" is intel_stibp here; this list
 * does not have it, because "stibp" above is AMD's feature. */
static const struct {
	const char *theirs, *ours;
} other_names[] = {
	{ "pni", "sse3" }, { "pclmuldq", "pclmulqdq" }, { "ds", "dts" }, { "sse4.1", "sse4_1" }, { "sse4.2", "sse4_2" },
	{ "cmt", "cqm" }, { "sha-ni", "sha_ni" }, { "invtsc", "constant_tsc" }, { "cr8legacy", "cr8_legacy" },
	{ "amd-stibp", "stibp" }, { "amd-ssbd", "amd_ssbd" }, { "virt-ssbd", "virt_ssbd" }, { "amd-psfd", "amd_psfd" },
	{ "stibp-always-on", "stibp_always_on" }, { "no-nested-data-bp", "no_nested_data_bp" },
	{ "null-sel-clr-base", "null_sel_clr_base" }, { "auto-ibrs", "autoibrs" },
	{ "lfence-always-serializing", "lfence_rdtsc" }, { "spec-ctrl", "spec_ctrl" }, { "md-clear", "md_clear" },
	{ "arch-capabilities", "arch_capabilities" }, { "core-capability", "core_capabilities" },
	{ "bus-lock-detect", "bus_lock_detect" }, { "tsx-ldtrk", "tsxldtrk" }, { "avx-vnni", "avx_vnni" },
	{ "avx512vbmi2", "avx512_vbmi2" }, { "avx512vnni", "avx512_vnni" }, { "avx512bitalg", "avx512_bitalg" },
	{ "avx512-vpopcntdq", "avx512_vpopcntdq" }, { "avx512-4vnniw", "avx512_4vnniw" }, { "avx512-4fmaps", "avx512_4fmaps" },
	{ "avx512-vp2intersect", "avx512_vp2intersect" }, { "avx512-bf16", "avx512_bf16" }, { "avx512-fp16", "avx512_fp16" },
	{ "amx-bf16", "amx_bf16" }, { "amx-tile", "amx_tile" }, { "amx-int8", "amx_int8" },
};

/* ---- making and finding leaves ---- */

struct cpuid *cpuid_new(uint32_t n)
{
	struct cpuid *c = calloc(1, sizeof(*c) + n * sizeof(c->leaf[0]));

	if (c)
		c->n = n;
	return c;
}

struct cpuid *cpuid_copy(const struct cpuid *c)
{
	struct cpuid *copy = cpuid_new(c->n);

	if (copy)
		memcpy(copy->leaf, c->leaf, c->n * sizeof(c->leaf[0]));
	return copy;
}

const struct cpuid_leaf *cpuid_find(const struct cpuid *c, uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; c && i < c->n; i++)
		if (c->leaf[i].function == function &&
			(c->leaf[i].index == index || !(c->leaf[i].flags & CPUID_FLAG_INDEX)))
			return &c->leaf[i];
	return NULL;
}

bool cpuid_equal(const struct cpuid *a, const struct cpuid *b)
{
	return a->n == b->n && !memcmp(a->leaf, b->leaf, a->n * sizeof(a->leaf[0]));
}

static uint32_t reg_of(const struct cpuid *c, uint32_t function, uint32_t index, enum cpuid_reg reg)
{
	const struct cpuid_leaf *l = cpuid_find(c, function, index);

	return l ? l->reg[reg] : 0;
}

void cpuid_leaf_strip_id(struct cpuid_leaf *l)
{
	if (l->function == 1)
		l->reg[CPUID_EBX] &= 0xffff;
	else if (l->function == 0xb || l->function == 0x1f)
		l->reg[CPUID_EDX] = 0;
	else if (l->function == 0x8000001e)
		l->reg[CPUID_EAX] = l->reg[CPUID_EBX] = l->reg[CPUID_ECX] = 0;
}

/* AMD repeats features of leaf 1 in leaf 0x80000001. Return these bits, so that the caller lists each feature once. */
static uint32_t repeated_bits(const struct feature_reg *f, const struct cpuid *has)
{
	return f->function == 0x80000001 && f->reg == CPUID_EDX ? reg_of(has, 1, 0, CPUID_EDX) & 0x0183f3ff : 0;
}

/* ---- features by name ---- */

static char name_char(char c)
{
	return c == '-' || c == '.' ? '_' : c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static bool name_is(const char *name, size_t len, const char *known, size_t known_len)
{
	if (len != known_len)
		return false;
	for (size_t i = 0; i < len; i++)
		if (name_char(name[i]) != name_char(known[i]))
			return false;
	return true;
}

/* Find the bit in the register's list of names. Returns -1 if there is none. */
static int name_bit(const struct feature_reg *f, const char *name, size_t len)
{
	const char *at = f->names;

	for (int bit = 0; *at; bit++) {
		size_t n = strcspn(at, ",");

		if (n && (f->mask >> bit & 1) && name_is(name, len, at, n))
			return bit;
		at += n + (at[n] == ',');
	}
	return -1;
}

static bool is_of_kvm(const struct feature_reg *f)
{
	return f->function == 0x40000001;
}

/* Is this the register that lists the states of XSAVE? These states follow from other features, so a definition cannot
 * name them. */
static bool is_state(const struct feature_reg *f)
{
	return f->function == 0xd && !f->index;
}

bool cpuid_find_feature(const char *name, size_t len, struct cpuid_feature *ret)
{
	for (size_t i = 0; i < ARRAY_SIZE(other_names); i++)
		if (name_is(name, len, other_names[i].theirs, strlen(other_names[i].theirs))) {
			name = other_names[i].ours;
			len = strlen(name);
			break;
		}
	for (size_t i = 0; i < ARRAY_SIZE(feature_regs); i++) {
		const struct feature_reg *f = &feature_regs[i];
		int bit = is_of_kvm(f) || is_state(f) ? -1 : name_bit(f, name, len);

		if (bit < 0)
			continue;
		*ret = (struct cpuid_feature){ f->function, f->index, f->reg, (unsigned)bit };
		return true;
	}
	return false;
}

const char *cpuid_libvirt_name(const char *name, size_t len)
{
	if (name_is(name, len, "intel_stibp", strlen("intel_stibp")))
		return "stibp";
	for (size_t i = 0; i < ARRAY_SIZE(other_names); i++)
		if (name_is(name, len, other_names[i].ours, strlen(other_names[i].ours)))
			return other_names[i].theirs;
	return NULL;
}

void cpuid_keep_features(struct cpuid *c, const struct cpuid *keep)
{
	for (size_t i = 0; i < ARRAY_SIZE(feature_regs); i++) {
		const struct feature_reg *f = &feature_regs[i];
		struct cpuid_leaf *l = (struct cpuid_leaf *)(uintptr_t)cpuid_find(c, f->function, f->index);

		if (l && !is_of_kvm(f) && !is_state(f))
			l->reg[f->reg] &= ~f->mask | reg_of(keep, f->function, f->index, f->reg) | repeated_bits(f, keep);
	}
}

/* ---- reading the calling processor ---- */

static void leaf_read(struct cpuid *c, uint32_t function, uint32_t index, uint32_t flags)
{
	struct cpuid_leaf *l = &c->leaf[c->n++];

	*l = (struct cpuid_leaf){ .function = function, .index = index, .flags = flags };
	__cpuid_count(function, index, l->reg[0], l->reg[1], l->reg[2], l->reg[3]);
	cpuid_leaf_strip_id(l);
}

static void xsave_leaves_read(struct cpuid *c)
{
	uint64_t states = reg_of(c, 0xd, 0, CPUID_EAX) | (uint64_t)reg_of(c, 0xd, 0, CPUID_EDX) << 32;

	for (unsigned i = 2; i < 63; i++)
		if (states >> i & 1)
			leaf_read(c, 0xd, i, CPUID_FLAG_INDEX);
}

struct cpuid *cpuid_read_processor(void)
{
	struct cpuid *c = cpuid_new(ARRAY_SIZE(feature_regs) + 2 + 64);
	uint32_t max, max_extended;

	if (!c)
		return NULL;
	c->n = 0;
	leaf_read(c, 0, 0, 0);
	leaf_read(c, 0x80000000, 0, 0);
	max = c->leaf[0].reg[CPUID_EAX];
	max_extended = c->leaf[1].reg[CPUID_EAX];
	for (size_t i = 0; i < ARRAY_SIZE(feature_regs); i++) {
		const struct feature_reg *f = &feature_regs[i];

		if (!f->own || cpuid_find(c, f->function, f->index))
			continue;
		if (f->function <= (f->function >> 31 ? max_extended : max))
			leaf_read(c, f->function, f->index, f->function == 7 || f->function == 0xd ? CPUID_FLAG_INDEX : 0);
	}
	xsave_leaves_read(c);
	return c;
}

uint64_t cpuid_read_xcr0(void)
{
	uint32_t a, b, c, d, low, high;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return 0;
	__asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	return low | (uint64_t)high << 32;
}

/* ---- comparing leaves ---- */

struct list {
	char *text;
	size_t size, len;
	unsigned n, shown;
};

#define MORE_BYTES 24u /* room for ", and 1000 more" at the end of a list */

static void list_add(struct list *l, const char *item)
{
	size_t need = strlen(item) + (l->n ? 2 : 0);

	if (l->n++ != l->shown || l->len + need + MORE_BYTES >= l->size)
		return;
	l->len += (size_t)snprintf(l->text + l->len, l->size - l->len, "%s%s", l->shown ? ", " : "", item);
	l->shown++;
}

static void list_end(struct list *l)
{
	if (l->n > l->shown && l->size >= MORE_BYTES)
		snprintf(l->text + l->len, l->size - l->len, l->shown ? ", and %u more" : "%u features", l->n - l->shown);
}

static void bit_name(const struct feature_reg *f, unsigned bit, char name[CPUID_NAME_BYTES])
{
	static const char *const regs[] = { "EAX", "EBX", "ECX", "EDX" };
	const char *at = f->names;

	for (unsigned i = 0; i < bit && at; i++)
		at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL;
	if (at && strcspn(at, ","))
		snprintf(name, CPUID_NAME_BYTES, "%.*s", (int)strcspn(at, ","), at);
	else
		snprintf(name, CPUID_NAME_BYTES, "CPUID %x.%x %s bit %u", f->function, f->index, regs[f->reg], bit);
}

const char *cpuid_feature_name(const struct cpuid_feature *f, char ret[CPUID_NAME_BYTES])
{
	for (size_t i = 0; i < ARRAY_SIZE(feature_regs); i++)
		if (feature_regs[i].function == f->function && feature_regs[i].index == f->index && feature_regs[i].reg == f->reg)
			bit_name(&feature_regs[i], f->bit, ret);
	return ret;
}

static void features_list(const struct cpuid *has, const struct cpuid *lacks, struct list *l)
{
	for (size_t i = 0; i < ARRAY_SIZE(feature_regs); i++) {
		const struct feature_reg *f = &feature_regs[i];
		uint32_t bits = reg_of(has, f->function, f->index, f->reg) & f->mask & ~repeated_bits(f, has);

		if (lacks)
			bits &= ~reg_of(lacks, f->function, f->index, f->reg);
		for (unsigned bit = 0; bit < 32; bit++) {
			char name[CPUID_NAME_BYTES];

			if (!(bits >> bit & 1))
				continue;
			bit_name(f, bit, name);
			list_add(l, name);
		}
	}
}

static void vendor_compare(const struct cpuid *has, const struct cpuid *lacks, struct list *l)
{
	const struct cpuid_leaf *a = cpuid_find(has, 0, 0), *b = cpuid_find(lacks, 0, 0);
	static const enum cpuid_reg order[] = { CPUID_EBX, CPUID_EDX, CPUID_ECX };
	char name[CPUID_NAME_BYTES], *to;

	if (!a || !b || !memcmp(a->reg + 1, b->reg + 1, 3 * sizeof(a->reg[0])))
		return;
	to = name + snprintf(name, sizeof(name), "a processor by ");
	for (unsigned i = 0; i < 12; i++) {
		char c = (char)(a->reg[order[i / 4]] >> i % 4 * 8);

		*to++ = c >= ' ' && c <= '~' ? c : '?';
	}
	*to = 0;
	list_add(l, name);
}

/* List the states that lie at different places in the two XSAVE areas. The guest reads the places from these leaves,
 * but the instructions use those of the processor, so both must agree. */
static void xsave_compare(const struct cpuid *has, const struct cpuid *lacks, struct list *l)
{
	uint32_t both = reg_of(has, 0xd, 0, CPUID_EAX) & reg_of(lacks, 0xd, 0, CPUID_EAX);

	for (unsigned i = 2; i < 32; i++) {
		char name[CPUID_NAME_BYTES];

		if (!(both >> i & 1) || (reg_of(has, 0xd, i, CPUID_EAX) == reg_of(lacks, 0xd, i, CPUID_EAX) &&
						reg_of(has, 0xd, i, CPUID_EBX) == reg_of(lacks, 0xd, i, CPUID_EBX)))
			continue;
		snprintf(name, sizeof(name), "the XSAVE layout of component %u", i);
		list_add(l, name);
	}
}

unsigned cpuid_list_more(const struct cpuid *has, const struct cpuid *lacks, char *text, size_t size)
{
	struct list l = { .text = text, .size = size };

	if (size)
		text[0] = 0;
	if (lacks)
		vendor_compare(has, lacks, &l);
	features_list(has, lacks, &l);
	if (lacks)
		xsave_compare(has, lacks, &l);
	list_end(&l);
	return l.n;
}

unsigned cpuid_list_features(const struct cpuid *has, const struct cpuid *lacks, char *text, size_t size)
{
	struct list l = { .text = text, .size = size };

	if (size)
		text[0] = 0;
	features_list(has, lacks, &l);
	list_end(&l);
	return l.n;
}
