/* Instruction decoder and system call rules of the assist (Intel SDM vol. 2: SYSCALL, SYSRET). */
#include "base/bytes.h"
#include "vmm/kvm/assist.h"

#include <linux/kvm.h>
#include <string.h>

#define RFLAGS_FIXED 2ULL
#define RFLAGS_ZF (1ULL << 6)
#define RFLAGS_RF (1ULL << 16)
#define RFLAGS_VM (1ULL << 17)
#define PF_USER_FETCH 0x14ULL
#define PF_PRESENT 1ULL
#define GATE_PRESENT 0x80
#define REX_W 8
#define REX_X 2
#define REX_B 1

static const struct {
	uint8_t bytes[4];
	uint8_t len;
	uint8_t kind;
} plain[] = {
	{ { 0xcc }, 1, ASSIST_INT3 },
	{ { 0x9b }, 1, ASSIST_SKIP },		  /* fwait */
	{ { 0xdb, 0xe2 }, 2, ASSIST_SKIP },	  /* fnclex */
	{ { 0xdb, 0xe3 }, 2, ASSIST_SKIP },	  /* fninit */
	{ { 0x0f, 0x77 }, 2, ASSIST_SKIP },	  /* emms */
	{ { 0x0f, 0x01, 0xca }, 3, ASSIST_SKIP }, /* clac */
	{ { 0x0f, 0x01, 0xcb }, 3, ASSIST_SKIP }, /* stac */
	{ { 0x0f, 0x01, 0xf8 }, 3, ASSIST_SWAPGS },
	{ { 0x48, 0x0f, 0x07 }, 3, ASSIST_SYSRET },
};

/* Decode ModRM, SIB and displacement of a memory operand. Returns false for a register operand. ret_reg: the
 * extension of the opcode. */
static bool operand_decode(struct cursor *c, uint8_t rex, struct assist_insn *i, unsigned *ret_reg)
{
	uint8_t modrm = cursor_u8(c), mod = modrm >> 6, rm = modrm & 7;
	bool disp32 = mod == 2;

	*ret_reg = modrm >> 3 & 7;
	if (mod == 3)
		return false;
	if (rm == 4) {
		uint8_t sib = cursor_u8(c);

		i->scale = sib >> 6;
		i->index = (sib >> 3 & 7) | (rex & REX_X ? 8 : 0);
		i->has_index = i->index != 4;
		i->base = (sib & 7) | (rex & REX_B ? 8 : 0);
		i->has_base = mod || (sib & 7) != 5;
		disp32 |= !i->has_base;
	} else if (rm == 5 && !mod) {
		i->rip_relative = disp32 = true;
	} else {
		i->base = rm | (rex & REX_B ? 8 : 0);
		i->has_base = true;
	}
	if (disp32)
		i->disp = (int32_t)cursor_le32(c);
	else if (mod == 1)
		i->disp = (int8_t)cursor_u8(c);
	return cursor_ok(c);
}

static enum assist_kind kind_of(uint8_t opcode, unsigned reg)
{
	if (opcode == 0xc7)
		return reg == 1 ? ASSIST_CMPXCHG16B : ASSIST_NONE;
	return reg == 4 ? ASSIST_XSAVE : reg == 5 ? ASSIST_XRSTOR : ASSIST_NONE;
}

/* Encoding: [lock] [segment] REX.W 0F C7 /1, or [segment] REX.W 0F AE /4 or /5 */
static void memory_decode(const uint8_t *bytes, size_t n, struct assist_insn *ret)
{
	struct cursor c = cursor_over((void *)bytes, n);
	struct assist_insn i = { 0 };
	uint8_t b = cursor_u8(&c), opcode;
	bool lock = false;
	unsigned reg;

	while (b == 0xf0 || b == 0x64 || b == 0x65) {
		lock |= b == 0xf0;
		if (b != 0xf0)
			i.segment = b;
		b = cursor_u8(&c);
	}
	if ((b & 0xf0) != 0x40 || !(b & REX_W) || cursor_u8(&c) != 0x0f)
		return;
	opcode = cursor_u8(&c);
	if ((opcode != 0xc7 && (opcode != 0xae || lock)) || !operand_decode(&c, b, &i, &reg))
		return;
	i.kind = kind_of(opcode, reg);
	i.len = (unsigned)c.pos;
	if (i.kind != ASSIST_NONE)
		*ret = i;
}

void assist_decode(const uint8_t *bytes, size_t n, struct assist_insn *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]); i++) {
		if (n < plain[i].len || memcmp(bytes, plain[i].bytes, plain[i].len))
			continue;
		ret->kind = plain[i].kind;
		ret->len = plain[i].len;
		return;
	}
	memory_decode(bytes, n, ret);
}

/* Return the register with this number in an instruction's encoding. */
static uint64_t reg_by_number(const struct kvm_regs *r, unsigned n)
{
	const uint64_t regs[16] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi, r->rdi,
		r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

	return regs[n & 15];
}

uint64_t assist_operand(const struct assist_insn *i, const struct kvm_regs *r,
	const struct kvm_sregs *s)
{
	uint64_t a = (uint64_t)(int64_t)i->disp;

	if (i->rip_relative)
		a += r->rip + i->len;
	if (i->has_base)
		a += reg_by_number(r, i->base);
	if (i->has_index)
		a += reg_by_number(r, i->index) << i->scale;
	if (i->segment == 0x64)
		a += s->fs.base;
	if (i->segment == 0x65)
		a += s->gs.base;
	return a;
}

void assist_cmpxchg16b(uint8_t *mem, struct kvm_regs *r)
{
	unsigned __int128 expected = (unsigned __int128)r->rdx << 64 | r->rax;
	unsigned __int128 wanted = (unsigned __int128)r->rcx << 64 | r->rbx;
	unsigned __int128 seen;
	uint64_t lo, hi;

	/* Other vCPUs may access the same word, so use the host's atomic instruction. */
	__asm__ volatile("lock cmpxchg16b %[m]"
			 : [m] "+m"(*(unsigned __int128 *)mem), "=a"(lo), "=d"(hi)
			 : "a"((uint64_t)expected), "d"((uint64_t)(expected >> 64)),
			 "b"((uint64_t)wanted), "c"((uint64_t)(wanted >> 64))
			 : "cc", "memory");
	seen = (unsigned __int128)hi << 64 | lo;
	if (seen == expected) {
		r->rflags |= RFLAGS_ZF;
		return;
	}
	r->rflags &= ~RFLAGS_ZF;
	r->rax = lo;
	r->rdx = hi;
}

static struct kvm_segment code_segment(uint16_t selector, uint8_t dpl)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = 11,
		.present = 1, .dpl = dpl, .s = 1, .l = 1, .g = 1 };
}

static struct kvm_segment stack_segment(uint16_t selector, uint8_t dpl)
{
	return (struct kvm_segment){ .limit = 0xffffffff, .selector = selector, .type = 3,
		.present = 1, .dpl = dpl, .db = 1, .s = 1, .g = 1 };
}

bool assist_finish_syscall(const uint64_t frame[6], const struct assist_msrs *m,
	struct kvm_regs *r, struct kvm_sregs *s)
{
	uint16_t selector = (uint16_t)(m->star >> 32) & 0xfffc;

	/* The instruction fetch faults whether or not the page is present, so ignore the present
	 * bit. */
	if ((frame[0] & ~PF_PRESENT) != PF_USER_FETCH || !m->lstar || frame[1] != m->lstar ||
		(frame[2] & 3) != 3)
		return false;
	r->rip = m->lstar;
	r->rsp = frame[4];
	r->rflags = ((r->r11 & ~m->fmask) | RFLAGS_FIXED) & ~(RFLAGS_RF | RFLAGS_VM);
	s->cs = code_segment(selector, 0);
	s->ss = stack_segment(selector + 8, 0);
	return true;
}

void assist_sysret(const struct assist_msrs *m, struct kvm_regs *r, struct kvm_sregs *s)
{
	uint16_t selector = (uint16_t)(m->star >> 48);

	r->rip = r->rcx;
	r->rflags = (r->r11 & 0x3c7fd7) | RFLAGS_FIXED;
	s->cs = code_segment((uint16_t)((selector + 16) | 3), 3);
	s->ss = stack_segment((uint16_t)((selector + 8) | 3), 3);
}

uint64_t assist_gate_handler(const uint8_t g[16])
{
	uint8_t type = g[5] & 0x1f;

	if (!(g[5] & GATE_PRESENT) || (type != 14 && type != 15))
		return 0;
	return load_le16(g) | (uint64_t)load_le16(g + 6) << 16 | (uint64_t)load_le32(g + 8) << 32;
}

unsigned assist_entry_step(const uint8_t *b, size_t n, bool *ret_clears_df)
{
	static const uint8_t endbr64[4] = { 0xf3, 0x0f, 0x1e, 0xfa }, clac[3] = { 0x0f, 0x01, 0xca };

	*ret_clears_df = n >= 1 && b[0] == 0xfc;
	if (n >= 1 && (b[0] == 0xfc || b[0] == 0x90))
		return 1;
	if (n >= 4 && !memcmp(b, endbr64, 4))
		return 4;
	if (n >= 3 && !memcmp(b, clac, 3))
		return 3;
	/* A clac that Linux has patched to a nop. */
	if (n >= 3 && b[0] == 0x0f && b[1] == 0x1f && b[2] == 0x00)
		return 3;
	return 0;
}
