#include "base/cpu_model_table.h"
#include "base/util.h"

#include <stdbool.h>
#include <string.h>

/* Features that every x86-64 processor has under KVM. */
#define X86_64                                                                                                 \
	"fpu,de,pse,tsc,msr,pae,mce,cx8,apic,sep,mtrr,pge,mca,cmov,pat,pse36,clflush,mmx,fxsr,sse,sse2,"       \
	"x2apic,arat,syscall,nx,lm"
#define SKYLAKE "xsavec,xgetbv1"
#define SKYLAKE_SERVER "avx512f,avx512dq,avx512cd,avx512bw,avx512vl,clwb,pdpe1gb,pku"
#define ICELAKE_SERVER                                                                                         \
	"avx512vbmi,avx512_vbmi2,avx512_bitalg,avx512_vpopcntdq,gfni,la57,umip,vaes,vpclmulqdq,wbnoinvd"

#define INTEL "GenuineIntel"
#define AMD "AuthenticAMD"
/* Intel SDM vol. 2A, CPUID, figure 3-6: a family above 15 is 15 plus the extended family. */
#define SIGNATURE(family, model, stepping)                                                                     \
	(((family) > 15 ? (family) - 15 : 0u) << 20 | ((model) >> 4) << 16 | ((family) > 15 ? 15u : (family)) << 8 | \
		((model) & 15) << 4 | (stepping))

const struct cpu_model cpu_models[] = {
	{ "host", NULL, NULL, NULL, 0, NULL },
	{ "baseline", NULL, X86_64 ",sse3,cx16,lahf_lm,rdrand", NULL, 0, NULL },
	{ "x86-64-v2", NULL, X86_64 ",sse3,cx16,lahf_lm,ssse3,sse4_1,sse4_2,popcnt", NULL, 0, NULL },
	{ "x86-64-v3", "x86-64-v2", "avx,avx2,bmi1,bmi2,f16c,fma,abm,movbe,xsave", NULL, 0, NULL },
	{ "x86-64-v4", "x86-64-v3", "avx512f,avx512bw,avx512cd,avx512dq,avx512vl", NULL, 0, NULL },

	{ "qemu64", NULL, X86_64 ",sse3,cx16,lahf_lm", NULL, SIGNATURE(15u, 107u, 1u), "QEMU Virtual CPU version 2.5+" },
	{ "kvm64", NULL, X86_64 ",vme,sse3,cx16", NULL, SIGNATURE(15u, 6u, 1u), "Common KVM processor" },

	{ "Conroe", NULL, X86_64 ",vme,sse3,ssse3,lahf_lm", INTEL, SIGNATURE(6u, 15u, 3u),
		"Intel Celeron_4x0 (Conroe/Merom Class Core 2)" },
	{ "Penryn", "Conroe", "cx16,sse4_1", INTEL, SIGNATURE(6u, 23u, 3u), "Intel Core 2 Duo P9xxx (Penryn Class Core 2)" },
	{ "Nehalem", "Penryn", "sse4_2,popcnt", INTEL, SIGNATURE(6u, 26u, 3u), "Intel Core i7 9xx (Nehalem Class Core i7)" },
	{ "Nehalem-IBRS", "Nehalem", "spec_ctrl", INTEL, SIGNATURE(6u, 26u, 3u),
		"Intel Core i7 9xx (Nehalem Core i7, IBRS update)" },
	{ "Westmere", "Nehalem", "aes,pclmulqdq", INTEL, SIGNATURE(6u, 44u, 1u), "Westmere E56xx/L56xx/X56xx (Nehalem-C)" },
	{ "Westmere-IBRS", "Westmere", "spec_ctrl", INTEL, SIGNATURE(6u, 44u, 1u), "Westmere E56xx/L56xx/X56xx (IBRS update)" },
	{ "SandyBridge", "Westmere", "avx,rdtscp,xsave,xsaveopt", INTEL, SIGNATURE(6u, 42u, 1u),
		"Intel Xeon E312xx (Sandy Bridge)" },
	{ "SandyBridge-IBRS", "SandyBridge", "spec_ctrl", INTEL, SIGNATURE(6u, 42u, 1u),
		"Intel Xeon E312xx (Sandy Bridge, IBRS update)" },
	{ "IvyBridge", "SandyBridge", "erms,f16c,fsgsbase,rdrand,smep", INTEL, SIGNATURE(6u, 58u, 9u),
		"Intel Xeon E3-12xx v2 (Ivy Bridge)" },
	{ "IvyBridge-IBRS", "IvyBridge", "spec_ctrl", INTEL, SIGNATURE(6u, 58u, 9u), "Intel Xeon E3-12xx v2 (Ivy Bridge, IBRS)" },
	{ "Haswell-noTSX", "IvyBridge", "abm,avx2,bmi1,bmi2,fma,invpcid,movbe,pcid", INTEL, SIGNATURE(6u, 60u, 1u),
		"Intel Core Processor (Haswell, no TSX)" },
	{ "Haswell-noTSX-IBRS", "Haswell-noTSX", "spec_ctrl", INTEL, SIGNATURE(6u, 60u, 1u),
		"Intel Core Processor (Haswell, no TSX, IBRS)" },
	{ "Haswell", "Haswell-noTSX", "hle,rtm", INTEL, SIGNATURE(6u, 60u, 4u), "Intel Core Processor (Haswell)" },
	{ "Haswell-IBRS", "Haswell", "spec_ctrl", INTEL, SIGNATURE(6u, 60u, 4u), "Intel Core Processor (Haswell, IBRS)" },
	{ "Broadwell-noTSX", "Haswell-noTSX", "3dnowprefetch,adx,rdseed,smap", INTEL, SIGNATURE(6u, 61u, 2u),
		"Intel Core Processor (Broadwell, no TSX)" },
	{ "Broadwell-noTSX-IBRS", "Broadwell-noTSX", "spec_ctrl", INTEL, SIGNATURE(6u, 61u, 2u),
		"Intel Core Processor (Broadwell, no TSX, IBRS)" },
	{ "Broadwell", "Broadwell-noTSX", "hle,rtm", INTEL, SIGNATURE(6u, 61u, 2u), "Intel Core Processor (Broadwell)" },
	{ "Broadwell-IBRS", "Broadwell", "spec_ctrl", INTEL, SIGNATURE(6u, 61u, 2u), "Intel Core Processor (Broadwell, IBRS)" },
	{ "Skylake-Client-noTSX-IBRS", "Broadwell-noTSX-IBRS", SKYLAKE, INTEL, SIGNATURE(6u, 94u, 3u),
		"Intel Core Processor (Skylake, IBRS, no TSX)" },
	{ "Skylake-Client", "Broadwell", SKYLAKE, INTEL, SIGNATURE(6u, 94u, 3u), "Intel Core Processor (Skylake)" },
	{ "Skylake-Client-IBRS", "Broadwell-IBRS", SKYLAKE, INTEL, SIGNATURE(6u, 94u, 3u),
		"Intel Core Processor (Skylake, IBRS)" },
	/* QEMU's Skylake servers with IBRS lack clflushopt. */
	{ "Skylake-Server-noTSX-IBRS", "Skylake-Client-noTSX-IBRS", SKYLAKE_SERVER, INTEL, SIGNATURE(6u, 85u, 4u),
		"Intel Xeon Processor (Skylake, IBRS, no TSX)" },
	{ "Skylake-Server", "Skylake-Client", SKYLAKE_SERVER ",clflushopt", INTEL, SIGNATURE(6u, 85u, 4u),
		"Intel Xeon Processor (Skylake)" },
	{ "Skylake-Server-IBRS", "Skylake-Client-IBRS", SKYLAKE_SERVER, INTEL, SIGNATURE(6u, 85u, 4u),
		"Intel Xeon Processor (Skylake, IBRS)" },
	{ "Cascadelake-Server-noTSX", "Skylake-Server-noTSX-IBRS", "clflushopt,avx512_vnni,ssbd", INTEL, SIGNATURE(6u, 85u, 6u),
		"Intel Xeon Processor (Cascadelake)" },
	{ "Cascadelake-Server", "Cascadelake-Server-noTSX", "hle,rtm", INTEL, SIGNATURE(6u, 85u, 6u),
		"Intel Xeon Processor (Cascadelake)" },
	{ "Cooperlake", "Cascadelake-Server", "avx512_bf16,intel_stibp", INTEL, SIGNATURE(6u, 85u, 10u),
		"Intel Xeon Processor (Cooperlake)" },
	{ "Icelake-Server-noTSX", "Cascadelake-Server-noTSX", ICELAKE_SERVER, INTEL, SIGNATURE(6u, 134u, 0u),
		"Intel Xeon Processor (Icelake)" },
	{ "Icelake-Server", "Icelake-Server-noTSX", "hle,rtm", INTEL, SIGNATURE(6u, 134u, 0u), "Intel Xeon Processor (Icelake)" },

	{ "Opteron_G1", NULL, X86_64 ",vme,sse3", AMD, SIGNATURE(15u, 6u, 1u), "AMD Opteron 240 (Gen 1 Class Opteron)" },
	{ "Opteron_G2", "Opteron_G1", "cx16,lahf_lm", AMD, SIGNATURE(15u, 6u, 1u), "AMD Opteron 22xx (Gen 2 Class Opteron)" },
	{ "Opteron_G3", "Opteron_G2", "abm,misalignsse,popcnt,rdtscp,sse4a", AMD, SIGNATURE(16u, 2u, 3u),
		"AMD Opteron 23xx (Gen 3 Class Opteron)" },
	{ "Opteron_G4", "Opteron_G3", "3dnowprefetch,aes,avx,fma4,pclmulqdq,pdpe1gb,sse4_1,sse4_2,ssse3,xop,xsave", AMD,
		SIGNATURE(21u, 1u, 2u), "AMD Opteron 62xx class CPU" },
	{ "Opteron_G5", "Opteron_G4", "f16c,fma,tbm", AMD, SIGNATURE(21u, 2u, 0u), "AMD Opteron 63xx class CPU" },
	{ "EPYC", "Opteron_G3", "3dnowprefetch,adx,aes,avx,avx2,bmi1,bmi2,clflushopt,cr8_legacy,f16c,fma,fsgsbase,fxsr_opt,mmxext,"
		"movbe,osvw,pclmulqdq,pdpe1gb,rdrand,rdseed,sha_ni,smap,smep,sse4_1,sse4_2,ssse3,topoext,xgetbv1,xsave,xsavec,"
		"xsaveopt", AMD, SIGNATURE(23u, 1u, 2u), "AMD EPYC Processor" },
	{ "EPYC-IBPB", "EPYC", "ibpb", AMD, SIGNATURE(23u, 1u, 2u), "AMD EPYC Processor (with IBPB)" },
	{ "EPYC-Rome", "EPYC-IBPB", "clwb,clzero,perfctr_core,rdpid,stibp,umip,wbnoinvd,xsaveerptr,xsaves", AMD,
		SIGNATURE(23u, 49u, 0u), "AMD EPYC-Rome Processor" },
	{ "EPYC-Milan", "EPYC-Rome", "amd_ssbd,erms,fsrm,ibrs,invpcid,pcid,pku", AMD, SIGNATURE(25u, 1u, 1u),
		"AMD EPYC-Milan Processor" },
	{ "EPYC-Genoa", "EPYC-Milan", "amd_psfd,autoibrs,avx512_bf16,avx512_bitalg,avx512_vbmi2,avx512_vnni,avx512_vpopcntdq,"
		"avx512bw,avx512cd,avx512dq,avx512f,avx512ifma,avx512vbmi,avx512vl,gfni,la57,lfence_rdtsc,no_nested_data_bp,"
		"null_sel_clr_base,stibp_always_on,vaes,vpclmulqdq", AMD, SIGNATURE(25u, 17u, 0u), "AMD EPYC-Genoa Processor" },
};

const size_t cpu_models_n = ARRAY_SIZE(cpu_models);

const struct cpu_model_version cpu_model_versions[] = {
	{ "qemu64-v1", "qemu64" }, { "kvm64-v1", "kvm64" }, { "Conroe-v1", "Conroe" }, { "Penryn-v1", "Penryn" },
	{ "Nehalem-v1", "Nehalem" }, { "Nehalem-v2", "Nehalem-IBRS" },
	{ "Westmere-v1", "Westmere" }, { "Westmere-v2", "Westmere-IBRS" },
	{ "SandyBridge-v1", "SandyBridge" }, { "SandyBridge-v2", "SandyBridge-IBRS" },
	{ "IvyBridge-v1", "IvyBridge" }, { "IvyBridge-v2", "IvyBridge-IBRS" },
	{ "Haswell-v1", "Haswell" }, { "Haswell-v2", "Haswell-noTSX" }, { "Haswell-v3", "Haswell-IBRS" },
	{ "Haswell-v4", "Haswell-noTSX-IBRS" },
	{ "Broadwell-v1", "Broadwell" }, { "Broadwell-v2", "Broadwell-noTSX" },
	{ "Broadwell-v3", "Broadwell-IBRS" }, { "Broadwell-v4", "Broadwell-noTSX-IBRS" },
	{ "Skylake-Client-v1", "Skylake-Client" }, { "Skylake-Client-v2", "Skylake-Client-IBRS" },
	{ "Skylake-Client-v3", "Skylake-Client-noTSX-IBRS" },
	{ "Skylake-Server-v1", "Skylake-Server" }, { "Skylake-Server-v2", "Skylake-Server-IBRS" },
	{ "Skylake-Server-v3", "Skylake-Server-noTSX-IBRS" }, { "Skylake-Server-v4", "Skylake-Server-noTSX-IBRS" },
	{ "Cascadelake-Server-v1", "Cascadelake-Server" }, { "Cascadelake-Server-v2", "Cascadelake-Server" },
	{ "Cascadelake-Server-v3", "Cascadelake-Server-noTSX" },
	{ "Cascadelake-Server-v4", "Cascadelake-Server-noTSX" }, { "Cooperlake-v1", "Cooperlake" },
	{ "Icelake-Server-v1", "Icelake-Server" }, { "Icelake-Server-v2", "Icelake-Server-noTSX" },
	{ "Icelake-Server-v3", "Icelake-Server-noTSX" }, { "Opteron_G1-v1", "Opteron_G1" },
	{ "Opteron_G2-v1", "Opteron_G2" }, { "Opteron_G3-v1", "Opteron_G3" }, { "Opteron_G4-v1", "Opteron_G4" },
	{ "Opteron_G5-v1", "Opteron_G5" },
	{ "EPYC-v1", "EPYC" }, { "EPYC-v2", "EPYC-IBPB" },
	{ "EPYC-Rome-v1", "EPYC-Rome" }, { "EPYC-Milan-v1", "EPYC-Milan" }, { "EPYC-Genoa-v1", "EPYC-Genoa" },
};

const size_t cpu_model_versions_n = ARRAY_SIZE(cpu_model_versions);

static bool is_name(const char *name, const char *text, size_t len)
{
	return strlen(name) == len && !memcmp(name, text, len);
}

const struct cpu_model *cpu_model_find(const char *name, size_t len)
{
	for (size_t i = 0; i < cpu_model_versions_n; i++)
		if (is_name(cpu_model_versions[i].name, name, len))
			return cpu_model_find(cpu_model_versions[i].model, strlen(cpu_model_versions[i].model));
	for (size_t i = 0; i < cpu_models_n; i++)
		if (is_name(cpu_models[i].name, name, len))
			return &cpu_models[i];
	return NULL;
}
