/* cpu_state: the section "cpu" reads back; a malformed one is refused. */
#include "snapshot/cpu_state.h"
#include "base/cpuid.h"
#include "base/err.h"
#include "snapshot/state.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static struct cpuid *leaves_new(uint32_t n, uint32_t seed)
{
	struct cpuid *c = cpuid_new(n);

	assert_non_null(c);
	for (uint32_t i = 0; i < n; i++)
		c->leaf[i] = (struct cpuid_leaf){ .function = seed + i, .index = i, .flags = i % 2,
			.reg = { seed, ~i, seed * i, 7 } };
	return c;
}

static void sample_put(struct state_writer *w, uint32_t kind, uint32_t n)
{
	struct cpu_state c = { .kind = kind, .sockets = 1, .cores = 2, .threads = 2, .tsc_khz = 2596128, .xcr0 = 0xe7,
		.guest = leaves_new(n, 3), .own = leaves_new(4, 9) };

	state_writer_init(w);
	cpu_state_put(w, &c);
	cpu_state_done(&c);
}

/* Take the content of the only section of w, of which len bytes count. */
static int sample_take(const struct state_writer *w, size_t cut, struct cpu_state *c, struct err *e)
{
	struct state_section s;
	size_t pos = 0;

	assert_int_equal(state_section_next(w->buf, w->len, &pos, &s, e), 1);
	assert_string_equal(s.name, CPU_STATE_SECTION);
	assert_int_equal(s.version, CPU_STATE_VERSION);
	s.content.len -= cut;
	return cpu_state_take(&s.content, c, e);
}

static void test_section_reads_back(void **state)
{
	static const uint32_t counts[] = { 1, 75, CPUID_LEAVES_MAX };

	(void)state;
	for (uint32_t kind = CPU_KIND_VIRTUAL; kind <= CPU_KIND_PROCESSOR; kind++) {
		for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
			struct cpuid *guest = leaves_new(counts[i], 3), *own = leaves_new(4, 9);
			struct state_writer w;
			struct cpu_state c;

			sample_put(&w, kind, counts[i]);
			assert_int_equal(sample_take(&w, 0, &c, NULL), 0);
			assert_int_equal(c.kind, kind);
			assert_int_equal(c.cores, 2);
			assert_int_equal(c.threads, 2);
			assert_int_equal(c.tsc_khz, 2596128);
			assert_int_equal(c.xcr0, 0xe7);
			assert_true(cpuid_equal(c.guest, guest));
			if (kind == CPU_KIND_PROCESSOR)
				assert_true(cpuid_equal(c.own, own));
			else
				assert_null(c.own);
			cpu_state_done(&c);
			state_writer_done(&w);
			free(guest);
			free(own);
		}
	}
}

static void test_truncated_section_is_refused(void **state)
{
	struct state_writer w;
	struct cpu_state c;
	struct err e = { 0 };

	(void)state;
	sample_put(&w, CPU_KIND_PROCESSOR, 3);
	for (size_t cut = 1; cut <= 28 + 4 + 3 * 28 + 4 + 4 * 28; cut++) {
		assert_int_equal(sample_take(&w, cut, &c, &e), -EINVAL);
		assert_int_equal(e.cls, ERR_CORRUPT);
		cpu_state_done(&c);
	}
	state_writer_done(&w);
}

/* Put seven fields of the head, a count of leaves and as many leaves, then a count of own leaves. */
static int made_take(uint32_t kind, uint32_t sockets, uint32_t promised, uint32_t there, uint32_t own)
{
	struct state_writer w;
	struct cpu_state c;
	int r;

	state_writer_init(&w);
	state_section_begin(&w, CPU_STATE_SECTION, "", CPU_STATE_VERSION);
	state_put_u32(&w, kind);
	state_put_u32(&w, sockets);
	state_put_u32(&w, 1);
	state_put_u32(&w, 1);
	state_put_u32(&w, 0);
	state_put_u64(&w, 0);
	state_put_u32(&w, promised);
	for (uint32_t i = 0; i < 7 * there; i++)
		state_put_u32(&w, i);
	state_put_u32(&w, own);
	state_section_end(&w);
	r = sample_take(&w, 0, &c, NULL);
	cpu_state_done(&c);
	state_writer_done(&w);
	return r;
}

static void test_impossible_values_are_refused(void **state)
{
	(void)state;
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 1, 2, 2, 0), 0);
	assert_int_equal(made_take(CPU_KIND_UNKNOWN, 1, 2, 2, 0), -EINVAL);
	assert_int_equal(made_take(3, 1, 2, 2, 0), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_PROCESSOR, 1, 2, 2, 0), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 0, 2, 2, 0), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 65, 2, 2, 0), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 1, 0, 0, 0), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 1, 3, 2, 0), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 1, 2, 3, 0), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 1, 2, 2, 1), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 1, CPUID_LEAVES_MAX + 1, CPUID_LEAVES_MAX + 1, 0), -EINVAL);
	assert_int_equal(made_take(CPU_KIND_VIRTUAL, 1, UINT32_MAX, 2, 0), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_section_reads_back),
		cmocka_unit_test(test_truncated_section_is_refused),
		cmocka_unit_test(test_impossible_values_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
