/* assist_insn: the decoder compared with the assembler's output, and the system call rules. */
#include "base/bytes.h"
#include "base/util.h"
#include "vmm/kvm/assist.h"

#include <linux/kvm.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* Places the assembler's bytes of an instruction in read-only data, as NAME..NAME_end. */
#define INSN(name, text)                                                                           \
	extern const uint8_t name[] __attribute__((visibility("hidden")));                         \
	extern const uint8_t name##_end[] __attribute__((visibility("hidden")));                   \
	__asm__(".pushsection .rodata\n" #name ": " text "\n" #name "_end:\n.popsection\n")

INSN(i_int3, "int3");
INSN(i_fwait, "fwait");
INSN(i_fnclex, "fnclex");
INSN(i_fclex, "fclex");
INSN(i_fninit, "fninit");
INSN(i_emms, "emms");
INSN(i_clac, "clac");
INSN(i_stac, "stac");
INSN(i_swapgs, "swapgs");
INSN(i_sysretq, "sysretq");
INSN(i_sysretl, "sysretl");
INSN(i_int_3, ".byte 0xcd, 3");
INSN(i_cld, "cld");
INSN(i_nop, "nop");
INSN(i_nop3, "nopl (%rax)");
INSN(i_endbr64, "endbr64");
INSN(i_endbr32, "endbr32");
INSN(i_nopw, "nopw (%rax)");
INSN(i_push, "push %rax");
INSN(i_cmpxchg8b, "lock cmpxchg8b (%rsi)");
INSN(i_cmpxchg, "lock cmpxchg %rcx, (%rsi)");
INSN(i_rdrand, "rdrand %rax");
INSN(i_xrstors, "xrstors (%rsi)");
INSN(i_vmxon, "vmxon (%rsi)");
INSN(i_ldmxcsr, "ldmxcsr (%rsi)");
INSN(i_addr32, "cmpxchg16b (%esi)");

static void test_plain_instructions(void **state)
{
	static const struct {
		const uint8_t *bytes, *end;
		enum assist_kind kind;
		unsigned len;
	} rows[] = {
		{ i_int3, i_int3_end, ASSIST_INT3, 1 }, { i_fwait, i_fwait_end, ASSIST_SKIP, 1 },
		{ i_fnclex, i_fnclex_end, ASSIST_SKIP, 2 },
		{ i_fclex, i_fclex_end, ASSIST_SKIP, 1 }, /* fwait, then a separate fnclex */
		{ i_fninit, i_fninit_end, ASSIST_SKIP, 2 }, { i_emms, i_emms_end, ASSIST_SKIP, 2 },
		{ i_clac, i_clac_end, ASSIST_SKIP, 3 }, { i_stac, i_stac_end, ASSIST_SKIP, 3 },
		{ i_swapgs, i_swapgs_end, ASSIST_SWAPGS, 3 },
		{ i_sysretq, i_sysretq_end, ASSIST_SYSRET, 3 },
		{ i_sysretl, i_sysretl_end, ASSIST_NONE, 0 }, /* 32-bit: not supported there */
		{ i_int_3, i_int_3_end, ASSIST_NONE, 0 }, { i_cld, i_cld_end, ASSIST_NONE, 0 },
		{ i_push, i_push_end, ASSIST_NONE, 0 },
		{ i_cmpxchg8b, i_cmpxchg8b_end, ASSIST_NONE, 0 },
		{ i_cmpxchg, i_cmpxchg_end, ASSIST_NONE, 0 },
		{ i_rdrand, i_rdrand_end, ASSIST_NONE, 0 },
		{ i_xrstors, i_xrstors_end, ASSIST_NONE, 0 },
		{ i_vmxon, i_vmxon_end, ASSIST_NONE, 0 },
		{ i_ldmxcsr, i_ldmxcsr_end, ASSIST_NONE, 0 },
		{ i_addr32, i_addr32_end, ASSIST_NONE, 0 }, /* 32-bit addressing: not emulated */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		size_t n = (size_t)(rows[i].end - rows[i].bytes);
		uint8_t buf[15];
		struct assist_insn d;

		memset(buf, 0x90, sizeof(buf));
		memcpy(buf, rows[i].bytes, n);
		assist_decode(buf, sizeof(buf), &d);
		assert_int_equal(d.kind, rows[i].kind);
		assert_int_equal(d.len, rows[i].len);
		/* Truncated at the end of a mapped page: not decoded from missing bytes. */
		for (size_t cut = 0; cut < rows[i].len; cut++) {
			assist_decode(buf, cut, &d);
			assert_int_equal(d.kind, ASSIST_NONE);
		}
	}
}

/* ---- xsave, xrstor ---- */

INSN(x_save, "xsave64 (%rsi)");
INSN(x_save_gs, "xsave64 %gs:0x40(%r12,%rdi,8)");
INSN(x_load, "xrstor64 0x40(%rdi)");
INSN(x_load_rip, "xrstor64 0x100(%rip)");
INSN(x_save32, "xsave (%rsi)");
INSN(x_load32, "xrstor (%rsi)");
INSN(x_savec, "xsavec64 (%rsi)");
INSN(x_saves, "xsaves64 (%rsi)");
INSN(x_saveopt, "xsaveopt64 (%rsi)");
INSN(x_loads, "xrstors64 (%rsi)");
INSN(x_fxsave, "fxsave64 (%rsi)");
INSN(x_lfence, "lfence");
INSN(x_register, ".byte 0x48, 0x0f, 0xae, 0xe8"); /* lfence with REX.W */
INSN(x_lock, ".byte 0xf0, 0x48, 0x0f, 0xae, 0x26");

/* ---- cmpxchg16b ---- */

static const struct kvm_regs regs = { .rax = 0x1000000001ULL,
	.rbx = 0x2000000020ULL,
	.rcx = 0x3000000300ULL,
	.rdx = 0x4000004000ULL,
	.rsi = 0x5000050000ULL,
	.rdi = 0x6000600000ULL,
	.rsp = 0x7007000000ULL,
	.rbp = 0x8080000000ULL,
	.r8 = 0x0900000000000001ULL,
	.r9 = 0x0a00000000000020ULL,
	.r10 = 0x0b00000000000300ULL,
	.r11 = 0x0c00000000004000ULL,
	.r12 = 0x0d00000000050000ULL,
	.r13 = 0x0e00000000600000ULL,
	.r14 = 0x0f00000007000000ULL,
	.r15 = 0x1000000080000000ULL,
	.rip = 0xffffffff81000000ULL };
static const struct kvm_sregs sregs = { .fs = { .base = 0x1111000000000000ULL },
	.gs = { .base = 0xffff888000000000ULL },
	.cs = { .base = 0 },
	.ds = { .base = 0x77 } };

struct addressed {
	const uint8_t *bytes, *end;
	uint64_t want; /* without RIP */
	bool rip;
};

/* Every form of base, and the registers with exceptional encodings. */
#define CX(name, operand) INSN(name, "lock cmpxchg16b " operand)
CX(c_rax, "(%rax)");
CX(c_rcx, "(%rcx)");
CX(c_rdx, "(%rdx)");
CX(c_rbx, "(%rbx)");
CX(c_rsp, "(%rsp)");
CX(c_rbp, "(%rbp)");
CX(c_rsi, "(%rsi)");
CX(c_rdi, "(%rdi)");
CX(c_r8, "(%r8)");
CX(c_r9, "(%r9)");
CX(c_r10, "(%r10)");
CX(c_r11, "(%r11)");
CX(c_r12, "(%r12)");
CX(c_r13, "(%r13)");
CX(c_r14, "(%r14)");
CX(c_r15, "(%r15)");
CX(c_d8, "0x10(%rsi)");
CX(c_d8n, "-0x10(%rsi)");
CX(c_d32, "0x12345670(%rbp)");
CX(c_d32n, "-0x12345670(%r13)");
CX(c_rsp8, "0x40(%rsp)");
CX(c_r12_32, "0x4000(%r12)");
CX(c_sib, "0x10(%rsi,%rdi,4)");
CX(c_sib1, "(%rax,%rcx)");
CX(c_sib2, "(%rbx,%rbp,2)");
CX(c_sib8, "(%rsp,%r15,8)");
CX(c_sib_r12, "-0x80(%r13,%r12,8)"); /* index 4 with REX.X is a register */
CX(c_sib_rbp, "(%rbp,%rax)");
CX(c_sib_r13, "(%r13,%r14,2)");
CX(c_nobase, "0x7ffffff0(,%rdx,8)");
CX(c_nobase_r, "-0x10(,%r9,4)");
CX(c_abs, "0x1000");
CX(c_absn, "-0x1000");
CX(c_rip, "0x100(%rip)");
CX(c_ripn, "-0x100(%rip)");
CX(c_gs, "%gs:0x20(%rsi)");
CX(c_gs_abs, "%gs:0x40");
CX(c_fs, "%fs:(%r8,%r9,8)");
CX(c_gs_rip, "%gs:0x80(%rip)");
INSN(c_nolock, "cmpxchg16b (%rsi)"); /* this_cpu_cmpxchg_double has no lock */
INSN(c_nolock_gs, "cmpxchg16b %gs:(%rsi)");
INSN(c_rexfull, ".byte 0xf0, 0x4f, 0x0f, 0xc7, 0x8c, 0xfe\n.long 0x1234"); /* all REX bits */
INSN(c_disp0_nobase_rexb,
	".byte 0xf0, 0x49, 0x0f, 0xc7, 0x0c, 0x25\n.long 0x5000");  /* B, no base */
INSN(c_rip_rexb, ".byte 0xf0, 0x49, 0x0f, 0xc7, 0x0d\n.long 0x60"); /* B does not matter */
INSN(c_gs_first, ".byte 0x65, 0xf0, 0x48, 0x0f, 0xc7, 0x0e");
INSN(c_gs_last, ".byte 0xf0, 0x65, 0x48, 0x0f, 0xc7, 0x0e");

#define ROW(name, value)                                                                           \
	{                                                                                          \
		name, name##_end, value, false                                                     \
	}
#define ROW_RIP(name, value)                                                                       \
	{                                                                                          \
		name, name##_end, value, true                                                      \
	}

static void test_cmpxchg16b_operands(void **state)
{
	const struct kvm_regs *r = &regs;
	const uint64_t gs = sregs.gs.base, fs = sregs.fs.base;
	const struct addressed rows[] = {
		ROW(c_rax, r->rax),
		ROW(c_rcx, r->rcx),
		ROW(c_rdx, r->rdx),
		ROW(c_rbx, r->rbx),
		ROW(c_rsp, r->rsp),
		ROW(c_rbp, r->rbp),
		ROW(c_rsi, r->rsi),
		ROW(c_rdi, r->rdi),
		ROW(c_r8, r->r8),
		ROW(c_r9, r->r9),
		ROW(c_r10, r->r10),
		ROW(c_r11, r->r11),
		ROW(c_r12, r->r12),
		ROW(c_r13, r->r13),
		ROW(c_r14, r->r14),
		ROW(c_r15, r->r15),
		ROW(c_d8, r->rsi + 0x10),
		ROW(c_d8n, r->rsi - 0x10),
		ROW(c_d32, r->rbp + 0x12345670),
		ROW(c_d32n, r->r13 - 0x12345670),
		ROW(c_rsp8, r->rsp + 0x40),
		ROW(c_r12_32, r->r12 + 0x4000),
		ROW(c_sib, r->rsi + 4 * r->rdi + 0x10),
		ROW(c_sib1, r->rax + r->rcx),
		ROW(c_sib2, r->rbx + 2 * r->rbp),
		ROW(c_sib8, r->rsp + 8 * r->r15),
		ROW(c_sib_r12, r->r13 + 8 * r->r12 - 0x80),
		ROW(c_sib_rbp, r->rbp + r->rax),
		ROW(c_sib_r13, r->r13 + 2 * r->r14),
		ROW(c_nobase, 0x7ffffff0 + 8 * r->rdx),
		ROW(c_nobase_r, 4 * r->r9 - 0x10),
		ROW(c_abs, 0x1000),
		ROW(c_absn, -0x1000ULL),
		ROW_RIP(c_rip, 0x100),
		ROW_RIP(c_ripn, -0x100ULL),
		ROW(c_gs, gs + r->rsi + 0x20),
		ROW(c_gs_abs, gs + 0x40),
		ROW(c_fs, fs + r->r8 + 8 * r->r9),
		ROW_RIP(c_gs_rip, gs + 0x80),
		ROW(c_nolock, r->rsi),
		ROW(c_nolock_gs, gs + r->rsi),
		ROW(c_rexfull, r->r14 + 8 * r->r15 + 0x1234),
		ROW(c_disp0_nobase_rexb, 0x5000),
		ROW_RIP(c_rip_rexb, 0x60),
		ROW(c_gs_first, gs + r->rsi),
		ROW(c_gs_last, gs + r->rsi),
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		size_t n = (size_t)(rows[i].end - rows[i].bytes);
		uint64_t want = rows[i].want + (rows[i].rip ? r->rip + n : 0);
		struct assist_insn d;
		uint8_t buf[15];

		memset(buf, 0xcc, sizeof(buf));
		memcpy(buf, rows[i].bytes, n);
		assist_decode(buf, sizeof(buf), &d);
		if (d.kind != ASSIST_CMPXCHG16B || d.len != n ||
			assist_operand(&d, r, &sregs) != want)
			fail_msg(
				"row %zu: kind %d, %u bytes of %zu, operand %#llx instead of %#llx",
				i, (int)d.kind, d.len, n,
				(unsigned long long)assist_operand(&d, r, &sregs),
				(unsigned long long)want);
		for (size_t cut = 0; cut < n; cut++) {
			assist_decode(buf, cut, &d);
			assert_int_not_equal(d.kind, ASSIST_CMPXCHG16B);
		}
	}
}

static void test_xsave_and_xrstor(void **state)
{
	const struct kvm_regs *r = &regs;
	const struct {
		const uint8_t *bytes, *end;
		enum assist_kind kind;
		uint64_t at;
	} rows[] = {
		{ x_save, x_save_end, ASSIST_XSAVE, r->rsi },
		{ x_save_gs, x_save_gs_end, ASSIST_XSAVE, sregs.gs.base + r->r12 + 8 * r->rdi + 0x40 },
		{ x_load, x_load_end, ASSIST_XRSTOR, r->rdi + 0x40 },
		{ x_load_rip, x_load_rip_end, ASSIST_XRSTOR, r->rip + 8 + 0x100 },
		{ x_save32, x_save32_end, ASSIST_NONE, 0 }, { x_load32, x_load32_end, ASSIST_NONE, 0 },
		{ x_savec, x_savec_end, ASSIST_NONE, 0 }, { x_saves, x_saves_end, ASSIST_NONE, 0 },
		{ x_saveopt, x_saveopt_end, ASSIST_NONE, 0 }, { x_loads, x_loads_end, ASSIST_NONE, 0 },
		{ x_fxsave, x_fxsave_end, ASSIST_NONE, 0 }, { x_lfence, x_lfence_end, ASSIST_NONE, 0 },
		{ x_register, x_register_end, ASSIST_NONE, 0 }, { x_lock, x_lock_end, ASSIST_NONE, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		size_t n = (size_t)(rows[i].end - rows[i].bytes);
		uint8_t buf[15] = { 0 };
		struct assist_insn d;

		memcpy(buf, rows[i].bytes, n);
		assist_decode(buf, sizeof(buf), &d);
		assert_int_equal(d.kind, rows[i].kind);
		assert_int_equal(d.len, rows[i].kind ? n : 0);
		if (rows[i].kind)
			assert_true(assist_operand(&d, r, &sregs) == rows[i].at);
		for (size_t cut = 0; cut < n; cut++) {
			assist_decode(buf, cut, &d);
			assert_int_equal(d.kind, ASSIST_NONE);
		}
	}
}

/* The same opcode with another /reg, a register operand or without REX.W is another instruction. */
static void test_similar_encodings_are_not_cmpxchg16b(void **state)
{
	(void)state;
	for (unsigned modrm = 0; modrm < 256; modrm++) {
		uint8_t b[15] = { 0xf0, 0x48, 0x0f, 0xc7, (uint8_t)modrm };
		struct assist_insn d;

		assist_decode(b, sizeof(b), &d);
		assert_int_equal(
			d.kind == ASSIST_CMPXCHG16B, (modrm >> 3 & 7) == 1 && modrm < 0xc0);
		b[1] = 0x41; /* REX without W: cmpxchg8b */
		assist_decode(b, sizeof(b), &d);
		assert_int_equal(d.kind, ASSIST_NONE);
	}
}

static void test_decoder_survives_any_bytes(void **state)
{
	unsigned seed = 17;

	(void)state;
	for (int round = 0; round < 200000; round++) {
		size_t n = (size_t)rand_r(&seed) % 16;
		uint8_t *b = malloc(n ? n : 1); /* exactly this size, for the sanitizer */
		static const uint8_t likely[] = { 0xf0, 0x64, 0x65, 0x48, 0x4f, 0x0f, 0xc7, 0xae, 0x0c,
			0x25 };
		struct assist_insn d;

		for (size_t i = 0; i < n; i++)
			b[i] = rand_r(&seed) % 3 ? likely[(size_t)rand_r(&seed) % sizeof(likely)]
						 : (uint8_t)rand_r(&seed);
		assist_decode(b, n, &d);
		assert_true(d.len <= n);
		assert_int_equal(d.kind != ASSIST_NONE, d.len != 0);
		if (d.kind == ASSIST_CMPXCHG16B)
			assist_operand(&d, &regs, &sregs);
		free(b);
	}
}

static void test_cmpxchg16b_swaps_when_equal(void **state)
{
	_Alignas(16) uint8_t mem[48];
	struct kvm_regs r = regs;

	(void)state;
	memset(mem, 0xee, sizeof(mem));
	r.rax = 0x1111111122222222ULL;
	r.rdx = 0x3333333344444444ULL;
	r.rbx = 0x5555555566666666ULL;
	r.rcx = 0x7777777788888888ULL;
	r.rflags = 0x246 & ~0x40ULL;
	store_le64(mem + 16, r.rax);
	store_le64(mem + 24, r.rdx);
	assist_cmpxchg16b(mem + 16, &r);
	assert_true(r.rflags == 0x246);
	assert_true(load_le64(mem + 16) == r.rbx && load_le64(mem + 24) == r.rcx);
	assert_true(r.rax == 0x1111111122222222ULL && r.rdx == 0x3333333344444444ULL);
	assert_int_equal(mem[15], 0xee);
	assert_int_equal(mem[32], 0xee);
}

static void test_cmpxchg16b_loads_when_unequal(void **state)
{
	(void)state;
	/* A difference in any bit is found. */
	for (unsigned bit = 0; bit < 128; bit++) {
		_Alignas(16) uint8_t mem[16] = { 0 };
		struct kvm_regs r = { .rbx = 7, .rcx = 8, .rflags = 0xffffffffffffffffULL };

		mem[bit / 8] = (uint8_t)(1 << bit % 8);
		assist_cmpxchg16b(mem, &r);
		assert_true(r.rflags == ~0x40ULL);
		assert_true(r.rax == load_le64(mem) && r.rdx == load_le64(mem + 8));
		assert_true(r.rax | r.rdx);
		assert_int_equal(mem[bit / 8], 1 << bit % 8);
		assert_true(r.rbx == 7 && r.rcx == 8);
	}
}

/* ---- system calls ---- */

#define LSTAR 0xffffffff81800080ULL
static const struct assist_msrs msrs = {
	.star = 0x0023001000000000ULL, .lstar = LSTAR, .fmask = 0x257fd5, .kernel_gs_base = 0x1234
};

struct call {
	uint64_t frame[6];
	struct assist_msrs m;
	struct kvm_regs r;
	struct kvm_sregs s;
};

static struct call call_sane(void)
{
	struct call c = { .frame = { 0x14, LSTAR, 0x33, 0x202, 0x7ffc0000, 0x2b },
		.m = msrs,
		.r = regs,
		.s = sregs };

	c.r.r11 = 0x1000ed7;             /* with IF, DF, TF and arithmetic flags */
	c.r.rsp = 0xfffffe0000002fd0ULL; /* the stack of the exception */
	return c;
}

static void test_syscall_is_finished(void **state)
{
	for (int present = 0; present < 2; present++) {
		struct call c = call_sane();

		(void)state;
		c.frame[0] |= (unsigned)present; /* the present bit is irrelevant */
		assert_true(assist_finish_syscall(c.frame, &c.m, &c.r, &c.s));
		assert_true(c.r.rip == LSTAR);
		assert_true(c.r.rsp == 0x7ffc0000); /* the user's stack, as SYSCALL leaves it */
		assert_true(c.r.rflags == ((0x1000ed7 & ~0x257fd5ULL) | 2));
		assert_true(c.r.rcx == regs.rcx && c.r.rax == regs.rax && c.r.r11 == 0x1000ed7);
		assert_int_equal(c.s.cs.selector, 0x10);
		assert_int_equal(c.s.ss.selector, 0x18);
		assert_int_equal(c.s.cs.dpl, 0);
		assert_int_equal(c.s.ss.dpl, 0);
		assert_int_equal(c.s.cs.l, 1);
		assert_int_equal(c.s.cs.db, 0);
		assert_int_equal(c.s.cs.type, 11);
		assert_int_equal(c.s.ss.type, 3);
		assert_true(c.s.cs.present && c.s.ss.present && c.s.cs.s && c.s.ss.s);
		assert_true(c.s.cs.base == 0 && c.s.cs.limit == 0xffffffff);
		assert_true(c.s.gs.base == sregs.gs.base && c.s.fs.base == sregs.fs.base);
	}
}

/* RF and VM never get into the kernel's flags; the RPL of STAR's selector is ignored. */
static void test_syscall_flags_and_selector(void **state)
{
	struct call c = call_sane();

	(void)state;
	c.m.fmask = 0;
	c.r.r11 = 0x30202;
	c.m.star = 0x0023001300000000ULL;
	assert_true(assist_finish_syscall(c.frame, &c.m, &c.r, &c.s));
	assert_true(c.r.rflags == 0x202);
	assert_int_equal(c.s.cs.selector, 0x10);
	assert_int_equal(c.s.ss.selector, 0x18);
}

/* A real page fault changes no register. */
static void test_other_page_faults_are_left_alone(void **state)
{
	(void)state;
#define LEFT_ALONE(change)                                                                         \
	do {                                                                                       \
		struct call c = call_sane(), was;                                                  \
		change;                                                                            \
		was = c;                                                                           \
		assert_false(assist_finish_syscall(c.frame, &c.m, &c.r, &c.s));                    \
		assert_memory_equal(&c.r, &was.r, sizeof(c.r));                                    \
		assert_memory_equal(&c.s, &was.s, sizeof(c.s));                                    \
	} while (0)
	for (unsigned code = 0; code < 64; code++)
		if ((code & ~1u) != 0x14)
			LEFT_ALONE(c.frame[0] = code);
	LEFT_ALONE(c.frame[0] = 0x8014);
	LEFT_ALONE(c.frame[0] = 1ULL << 32 | 0x14);
	LEFT_ALONE(c.frame[1] = LSTAR + 1);
	LEFT_ALONE(c.frame[1] = 0);
	LEFT_ALONE(c.frame[1] = c.m.lstar = 0); /* a jump to 0 before LSTAR is set */
	LEFT_ALONE(c.m.lstar += 16);
	for (uint64_t cpl = 0; cpl < 3; cpl++)
		LEFT_ALONE(c.frame[2] = 0x10 | cpl);
}

static void test_sysret(void **state)
{
	struct kvm_regs r = regs;
	struct kvm_sregs s = sregs;

	(void)state;
	r.rcx = 0x401000;
	r.r11 = UINT64_MAX;
	assist_sysret(&msrs, &r, &s);
	assert_true(r.rip == 0x401000);
	assert_true(r.rflags == 0x3c7fd7); /* SDM: no RF, no VM, no reserved bit but bit 1 */
	assert_true(r.rsp == regs.rsp);
	assert_int_equal(s.cs.selector, 0x33); /* STAR[63:48] + 16, RPL 3 */
	assert_int_equal(s.ss.selector, 0x2b); /* + 8 */
	assert_int_equal(s.cs.dpl, 3);
	assert_int_equal(s.ss.dpl, 3);
	assert_true(s.cs.l == 1 && s.cs.db == 0 && s.cs.type == 11 && s.cs.present);
	assert_true(s.ss.type == 3 && s.ss.present);
	r.r11 = 0;
	assist_sysret(&msrs, &r, &s);
	assert_true(r.rflags == 2);
}

/* ---- the page-fault handler's entry ---- */

static void test_gates(void **state)
{
	const uint8_t gate[16] = { 0x40, 0x12, 0x10, 0, 0, 0x8e, 0x80, 0x81, 0xff, 0xff, 0xff,
		0xff };

	(void)state;
	assert_true(assist_gate_handler(gate) == 0xffffffff81801240ULL);
	for (unsigned attr = 0; attr < 256; attr++) {
		uint8_t g[16];
		bool good = (attr & 0x80) && ((attr & 0x1f) == 0x0e || (attr & 0x1f) == 0x0f);

		memcpy(g, gate, sizeof(g));
		g[5] = (uint8_t)attr; /* present, DPL, 0, type */
		assert_int_equal(assist_gate_handler(g) != 0, good);
	}
}

static void test_entry_step(void **state)
{
	static const struct {
		const uint8_t *bytes, *end;
		unsigned len;
	} rows[] = {
		{ i_cld, i_cld_end, 1 },
		{ i_nop, i_nop_end, 1 },
		{ i_endbr64, i_endbr64_end, 4 },
		{ i_clac, i_clac_end, 3 },
		{ i_nop3, i_nop3_end, 3 },
		{ i_stac, i_stac_end, 0 },
		{ i_endbr32, i_endbr32_end, 0 },
		{ i_nopw, i_nopw_end, 0 },
		{ i_push, i_push_end, 0 },
		{ i_int3, i_int3_end, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		for (size_t n = 0; n <= (size_t)(rows[i].end - rows[i].bytes); n++) {
			uint8_t *b =
				malloc(n ? n : 1); /* exactly this size, for the sanitizer */
			unsigned want = n >= rows[i].len ? rows[i].len : 0;
			bool df = !want;

			memcpy(b, rows[i].bytes, n);
			assert_int_equal(assist_entry_step(b, n, &df), want);
			assert_int_equal(df, want && rows[i].bytes == i_cld);
			free(b);
		}
	}
}

/* A ROM has exactly one function with these bytes, or the assist leaves it alone. */
static void test_memset_of_a_rom_is_found(void **state)
{
	static const uint8_t code[] = { 0x85, 0xc9, 0x74, 0x06, 0x49, 0x88, 0x14, 0x08, 0xeb, 0xf6, 0xc3 };
	uint8_t *rom = calloc(1, 256 * KIB);

	(void)state;
	assert_int_equal(assist_find_memset(NULL, 0), 0);
	assert_int_equal(assist_find_memset(rom, 256 * KIB), 0);
	memcpy(rom + 0x2a65e, code, sizeof(code));
	assert_int_equal(assist_find_memset(rom, 256 * KIB), 0xea65e);
	memcpy(rom + 256 * KIB - sizeof(code), code, sizeof(code));
	assert_int_equal(assist_find_memset(rom, 256 * KIB), 0);
	rom[0x2a65e] = 0;
	assert_int_equal(assist_find_memset(rom, 256 * KIB), 0xffff5);
	free(rom);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_instructions),
		cmocka_unit_test(test_cmpxchg16b_operands),
		cmocka_unit_test(test_xsave_and_xrstor),
		cmocka_unit_test(test_similar_encodings_are_not_cmpxchg16b),
		cmocka_unit_test(test_decoder_survives_any_bytes),
		cmocka_unit_test(test_cmpxchg16b_swaps_when_equal),
		cmocka_unit_test(test_cmpxchg16b_loads_when_unequal),
		cmocka_unit_test(test_syscall_is_finished),
		cmocka_unit_test(test_syscall_flags_and_selector),
		cmocka_unit_test(test_other_page_faults_are_left_alone),
		cmocka_unit_test(test_sysret),
		cmocka_unit_test(test_gates),
		cmocka_unit_test(test_entry_step),
		cmocka_unit_test(test_memset_of_a_rom_is_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
