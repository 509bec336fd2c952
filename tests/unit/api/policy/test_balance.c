/* The balance of processors and memory between VMs: on hosts that a model plays, with random VMs and loads. */
#include "api/policy/balance.h"
#include "base/util.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define VMS_MAX 12
#define ROUNDS 400
#define QUIET 50 /* rounds at the end in which nothing may change */

static unsigned seed;

static unsigned random_up_to(unsigned n)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 8) % (n + 1);
}

static double random_part(void)
{
	return random_up_to(10000) / 10000.0;
}

/* ---- processors ---- */

struct cpu_host {
	struct balance_cpu_state state;
	struct balance_cpu v[VMS_MAX];
	double wants[VMS_MAX]; /* processors */
	size_t n;
	double processors;
};

/* Share the processors by weight, as a fair scheduler does: what a VM does not want, the others get. */
static void scheduler_run(struct cpu_host *h)
{
	double left = h->processors, gets[VMS_MAX] = { 0 };

	for (size_t round = 0; round <= h->n; round++) {
		double weights = 0, given = 0;

		for (size_t i = 0; i < h->n; i++)
			weights += gets[i] < h->wants[i] ? h->v[i].shares : 0;
		for (size_t i = 0; i < h->n && weights > 0; i++) {
			double part = gets[i] < h->wants[i] ? MIN(left * h->v[i].shares / weights, h->wants[i] - gets[i]) : 0;

			gets[i] += part;
			given += part;
		}
		left -= given;
	}
	for (size_t i = 0; i < h->n; i++) {
		h->v[i].ran = gets[i];
		h->v[i].waited = h->wants[i] - gets[i];
	}
}

static void shares_check(const struct cpu_host *h)
{
	int64_t sum = 0;

	for (size_t i = 0; i < h->n; i++) {
		const struct balance_cpu *v = &h->v[i];

		if (v->shares < v->min || v->shares > v->max)
			fail_msg("VM %zu has %u shares, outside of %u to %u", i, v->shares, v->min, v->max);
		sum += (int64_t)v->shares - v->first;
	}
	assert_int_equal(sum, 0);
}

static void cpu_round(struct cpu_host *h)
{
	scheduler_run(h);
	balance_cpu(h->v, h->n, &h->state);
	shares_check(h);
}

static void cpu_vm_add(struct cpu_host *h, uint32_t min, uint32_t first, uint32_t max, double wants)
{
	h->v[h->n] = (struct balance_cpu){ .min = min, .first = first, .shares = first, .max = max };
	h->wants[h->n++] = wants;
}

static double wait_of(const struct cpu_host *h, size_t i)
{
	return h->v[i].waited / h->wants[i];
}

static void cpu_rounds(struct cpu_host *h, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		cpu_round(h);
}

static void test_shares_move_to_the_vm_that_waits(void **state)
{
	struct cpu_host h = { .processors = 2 };

	(void)state;
	cpu_vm_add(&h, 256, 1024, 8192, 4);
	cpu_vm_add(&h, 256, 1024, 8192, 1);
	cpu_rounds(&h, 60);
	assert_true(h.v[0].shares > 1400 && h.v[1].shares < 700);
	assert_true(__builtin_fabs(wait_of(&h, 0) - wait_of(&h, 1)) < 0.1);
	/* The load ends, and so does the shift. */
	h.wants[0] = 0.5;
	cpu_rounds(&h, 60);
	assert_int_equal(h.v[0].shares, 1024);
	assert_int_equal(h.v[1].shares, 1024);
}

static void test_shares_stop_at_the_bounds(void **state)
{
	struct cpu_host h = { .processors = 2 };

	(void)state;
	cpu_vm_add(&h, 1024, 1024, 1500, 8);
	cpu_vm_add(&h, 900, 1024, 1024, 1);
	cpu_vm_add(&h, 1024, 1024, 1024, 1);
	cpu_rounds(&h, 60);
	assert_int_equal(h.v[0].shares, 1148); /* the others give no more */
	assert_int_equal(h.v[1].shares, 900);
	assert_int_equal(h.v[2].shares, 1024);
}

static void test_nothing_changes_while_processors_suffice(void **state)
{
	struct cpu_host h = { .processors = 8 };

	(void)state;
	cpu_vm_add(&h, 2, 1024, 262144, 4);
	cpu_vm_add(&h, 2, 1024, 262144, 3.5);
	for (unsigned i = 0; i < 20; i++) {
		cpu_round(&h);
		assert_int_equal(h.v[0].shares, 1024);
	}
}

static void test_idle_vm_and_vm_at_its_limit_get_nothing(void **state)
{
	struct cpu_host h = { .processors = 1 };

	(void)state;
	cpu_vm_add(&h, 512, 1024, 4096, 0.01);
	cpu_vm_add(&h, 512, 1024, 4096, 2);
	cpu_vm_add(&h, 512, 1024, 4096, 2);
	h.v[2].limit = 0.3;
	cpu_rounds(&h, 60);
	assert_true(h.v[2].shares <= 1024 && h.v[0].shares <= 1024);
}

static void test_one_step_is_small(void **state)
{
	struct cpu_host h = { .processors = 1 };
	uint32_t before;

	(void)state;
	cpu_vm_add(&h, 2, 1024, 262144, 8);
	cpu_vm_add(&h, 2, 1024, 262144, 0.4);
	for (unsigned i = 0; i < 60; i++) {
		before = h.v[1].shares;
		cpu_round(&h);
		assert_true(h.v[1].shares * 10 >= before * 6);
	}
}

static void test_random_loads_stay_in_bounds_and_settle(void **state)
{
	(void)state;
	for (seed = 1; seed < 3000; seed += 7) {
		struct cpu_host h = { .processors = 1 + random_up_to(15) };
		unsigned n = 1 + random_up_to(VMS_MAX - 1), quiet = 0;

		for (unsigned i = 0; i < n; i++) {
			uint32_t first = 2 + random_up_to(4000), min = 2 + random_up_to(first - 2), max = first + random_up_to(8000);

			cpu_vm_add(&h, min, first, max, random_up_to(3) ? 8 * random_part() : 0);
		}
		for (unsigned i = 0; i < ROUNDS; i++) {
			uint32_t before[VMS_MAX];

			for (unsigned k = 0; k < n; k++)
				before[k] = h.v[k].shares;
			cpu_round(&h);
			quiet++;
			for (unsigned k = 0; k < n; k++)
				if (h.v[k].shares != before[k])
					quiet = 0;
		}
		if (quiet < QUIET)
			fail_msg("seed %u: shares still change after %u rounds of a constant load", seed, ROUNDS);
	}
}

static void test_vms_that_come_and_go_keep_the_sum(void **state)
{
	struct cpu_host h = { .processors = 2 };

	(void)state;
	seed = 5;
	for (unsigned i = 0; i < 2000; i++) {
		if (h.n < VMS_MAX && random_up_to(10) == 0) {
			uint32_t first = 2 + random_up_to(2000);

			cpu_vm_add(&h, 2, first, first + random_up_to(4000), 4 * random_part());
		} else if (h.n && random_up_to(12) == 0) {
			h.n--;
		} else if (h.n) {
			h.wants[random_up_to((unsigned)h.n - 1)] = 4 * random_part();
		}
		cpu_round(&h);
	}
}

/* ---- memory ---- */

struct memory_host {
	struct balance_memory_state state;
	struct balance_memory v[VMS_MAX];
	uint64_t used[VMS_MAX];
	size_t n;
	uint64_t total, other; /* other: memory that no VM has */
	bool has_psi;
};

static void memory_vm_add(struct memory_host *h, uint64_t min_mib, uint64_t first_mib, uint64_t max_mib, uint64_t used_mib)
{
	h->v[h->n] = (struct balance_memory){ .min = min_mib * MIB, .first = first_mib * MIB, .target = first_mib * MIB, .max = max_mib * MIB,
		.guest = first_mib * MIB, .known = true };
	h->used[h->n++] = used_mib * MIB;
}

/* Guests fill all of their memory, at least with caches. Each time they follow the target a part of the way, but never
 * give memory that they use. */
static void guests_run(struct memory_host *h, struct balance_host *ret)
{
	uint64_t taken = h->other;

	for (size_t i = 0; i < h->n; i++) {
		struct balance_memory *v = &h->v[i];
		uint64_t aim = MAX(v->target, MIN(h->used[i], v->max));

		v->guest = v->guest > aim ? MAX(aim, v->guest - 256 * MIB) : MIN(aim, v->guest + 256 * MIB);
		v->available = v->guest - MIN(h->used[i], v->guest);
		taken += v->guest;
	}
	*ret = (struct balance_host){ .total = h->total, .available = h->total - MIN(taken, h->total) };
	ret->pressure = !h->has_psi ? NAN : (double)ret->available < 0.04 * (double)h->total ? 20 : 0;
}

static void memory_round(struct memory_host *h)
{
	uint64_t before[VMS_MAX], sum = 0, sum_before = 0;
	struct balance_host host;

	guests_run(h, &host);
	for (size_t i = 0; i < h->n; i++)
		before[i] = h->v[i].target;
	balance_memory(h->v, h->n, &host, &h->state);
	for (size_t i = 0; i < h->n; i++) {
		const struct balance_memory *v = &h->v[i];

		if (v->target < v->min || v->target > v->max)
			fail_msg("VM %zu: %llu MiB are outside of its bounds", i, (unsigned long long)(v->target / MIB));
		/* A guest keeps what it uses. */
		assert_true(v->target >= before[i] || v->target >= h->used[i]);
		assert_int_equal(v->target % 4096, 0);
		sum += v->target;
		sum_before += before[i];
	}
	if (h->state.is_short)
		assert_true(sum <= sum_before);
}

static void memory_rounds(struct memory_host *h, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		memory_round(h);
}

static void memory_moves(bool has_psi)
{
	struct memory_host h = { .total = 8192 * MIB, .has_psi = has_psi };

	/* The first guest needs more, and the second has some to spare. */
	memory_vm_add(&h, 1024, 4096, 8192, 4000);
	memory_vm_add(&h, 1024, 4096, 4096, 1000);
	memory_rounds(&h, 200);
	assert_true(h.v[0].guest > 4400 * MIB && h.v[0].available > h.v[0].guest / 10);
	assert_true(h.v[1].target < 3000 * MIB && h.v[1].target >= 1024 * MIB);
	assert_false(h.state.is_short);
	/* The first guest ends: the other one gets back what it had. */
	h.v[0].known = false;
	h.v[0].guest = h.v[0].target = h.used[0] = 0;
	h.v[0].min = 0;
	memory_rounds(&h, 200);
	assert_int_equal(h.v[1].target, 4096 * MIB);
}

static void test_memory_moves_to_the_guest_that_needs_it(void **state)
{
	(void)state;
	memory_moves(true);
	memory_moves(false);
}

static void test_guest_that_is_unknown_is_left_alone(void **state)
{
	struct memory_host h = { .total = 4096 * MIB, .has_psi = true };

	(void)state;
	memory_vm_add(&h, 256, 2048, 2048, 100);
	memory_vm_add(&h, 256, 2048, 2048, 100);
	h.v[0].known = false;
	memory_rounds(&h, 50);
	assert_int_equal(h.v[0].target, 2048 * MIB);
	assert_true(h.v[1].target < 1900 * MIB);
	/* The same with a target outside of its bounds. */
	h.v[0].target = 100 * MIB;
	balance_memory(h.v, 1, &(struct balance_host){ .total = h.total, .available = h.total }, &h.state);
	assert_int_equal(h.v[0].target, 100 * MIB);
}

static void test_host_with_enough_memory_takes_none(void **state)
{
	struct memory_host h = { .total = 16384 * MIB, .has_psi = true };

	(void)state;
	memory_vm_add(&h, 256, 4096, 4096, 100);
	memory_vm_add(&h, 256, 4096, 6144, 4000);
	memory_rounds(&h, 100);
	assert_int_equal(h.v[0].target, 4096 * MIB);
	assert_true(h.v[1].target > 5000 * MIB); /* and gives to the one that needs more */
}

static void test_random_guests_stay_in_bounds_and_settle(void **state)
{
	(void)state;
	for (seed = 1; seed < 3000; seed += 7) {
		struct memory_host h = { .total = (1024 + random_up_to(32768)) * MIB, .has_psi = random_up_to(1) };
		unsigned n = 1 + random_up_to(VMS_MAX - 1), quiet = 0;

		for (unsigned i = 0; i < n; i++) {
			uint64_t first = 64 + random_up_to(8000), max = first + random_up_to(8000);

			memory_vm_add(&h, 1 + random_up_to((unsigned)first - 1), first, max, (uint64_t)((double)max * random_part()));
		}
		for (unsigned i = 0; i < ROUNDS; i++) {
			uint64_t before[VMS_MAX];

			for (unsigned k = 0; k < n; k++)
				before[k] = h.v[k].target;
			memory_round(&h);
			quiet++;
			for (unsigned k = 0; k < n; k++)
				if (h.v[k].target != before[k])
					quiet = 0;
		}
		if (quiet < QUIET)
			fail_msg("seed %u: memory still moves after %u rounds of a constant load", seed, ROUNDS);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shares_move_to_the_vm_that_waits),
		cmocka_unit_test(test_shares_stop_at_the_bounds),
		cmocka_unit_test(test_nothing_changes_while_processors_suffice),
		cmocka_unit_test(test_idle_vm_and_vm_at_its_limit_get_nothing),
		cmocka_unit_test(test_one_step_is_small),
		cmocka_unit_test(test_random_loads_stay_in_bounds_and_settle),
		cmocka_unit_test(test_vms_that_come_and_go_keep_the_sum),
		cmocka_unit_test(test_memory_moves_to_the_guest_that_needs_it),
		cmocka_unit_test(test_guest_that_is_unknown_is_left_alone),
		cmocka_unit_test(test_host_with_enough_memory_takes_none),
		cmocka_unit_test(test_random_guests_stay_in_bounds_and_settle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
