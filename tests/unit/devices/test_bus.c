#include "fixture.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

struct probe {
	uint64_t off, value;
	unsigned size, reads, writes;
};

static uint64_t probe_read(void *opaque, uint64_t off, unsigned size)
{
	struct probe *p = opaque;

	p->off = off;
	p->size = size;
	p->reads++;
	return 0x1122334455667788ULL;
}

static void probe_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct probe *p = opaque;

	p->off = off;
	p->size = size;
	p->value = value;
	p->writes++;
}

static const struct bus_ops probe_ops = { probe_read, probe_write };

static void finds_the_range_and_masks_values(void **state)
{
	struct bus *b = bus_new();
	struct probe p[3] = { 0 };
	uint64_t v;

	(void)state;
	assert_int_equal(bus_add(b, 0x100, 0x10, &probe_ops, &p[0]), 0);
	assert_int_equal(bus_add(b, 0x80, 0x10, &probe_ops, &p[1]), 0);
	assert_int_equal(bus_add(b, 0x110, 8, &probe_ops, &p[2]), 0);
	assert_true(bus_read(b, 0x10c, 4, &v));
	assert_int_equal(v, 0x55667788);
	assert_int_equal(p[0].off, 0xc);
	assert_true(bus_write(b, 0x117, 1, 0xfff));
	assert_int_equal(p[2].value, 0xff);
	assert_true(bus_read(b, 0x80, 8, &v));
	assert_int_equal(p[1].size, 8);
	/* Unclaimed address, across a range's end, or an odd size: no handler, all ones. */
	assert_false(bus_read(b, 0x90, 1, &v));
	assert_true(v == UINT64_MAX);
	assert_false(bus_read(b, 0x10e, 4, &v));
	assert_false(bus_read(b, 0x100, 3, &v));
	assert_false(bus_read(b, 0x100, 0, &v));
	assert_false(bus_write(b, 0, 4, 0));
	bus_free(b);
}

static void refuses_overlaps(void **state)
{
	struct bus *b = bus_new();
	struct probe p;
	uint64_t v;

	(void)state;
	memset(&p, 0, sizeof(p));
	assert_int_equal(bus_add(b, 0x100, 0x10, &probe_ops, &p), 0);
	assert_int_equal(bus_add(b, 0x100, 0x10, &probe_ops, &p), -EEXIST);
	assert_int_equal(bus_add(b, 0x10f, 1, &probe_ops, &p), -EEXIST);
	assert_int_equal(bus_add(b, 0xf8, 9, &probe_ops, &p), -EEXIST);
	assert_int_equal(bus_add(b, 0x0, 0x1000, &probe_ops, &p), -EEXIST);
	assert_int_equal(bus_add(b, 0x200, 0, &probe_ops, &p), -EINVAL);
	assert_int_equal(bus_add(b, UINT64_MAX, 2, &probe_ops, &p), -EINVAL);
	assert_int_equal(bus_add(b, UINT64_MAX - 7, 8, &probe_ops, &p), 0);
	assert_true(bus_read(b, UINT64_MAX - 7, 8, &v));
	assert_false(bus_read(b, UINT64_MAX - 3, 8, &v));
	assert_int_equal(bus_add(b, 0xf8, 8, &probe_ops, &p), 0);
	bus_remove(b, 0x100, &v); /* not the owner */
	assert_true(bus_read(b, 0x100, 1, &v));
	bus_remove(b, 0x100, &p);
	assert_false(bus_read(b, 0x100, 1, &v));
	bus_free(b);
}

/* ---- removal while handlers run ---- */

struct slow {
	struct bus *bus;
	atomic_bool inside, leave;
};

static uint64_t slow_read(void *opaque, uint64_t off, unsigned size)
{
	struct slow *s = opaque;

	(void)off;
	(void)size;
	atomic_store(&s->inside, true);
	while (!atomic_load(&s->leave))
		usleep(100);
	atomic_store(&s->inside, false);
	return 0;
}

static void self_write(void *opaque, uint64_t off, unsigned size, uint64_t value)
{
	struct slow *s = opaque;

	(void)off;
	(void)size;
	bus_remove(s->bus, 0x10, s); /* must not wait for itself */
	assert_int_equal(bus_add(s->bus, value, 0x10, NULL, s), -EINVAL);
}

static const struct bus_ops slow_ops = { slow_read, self_write };

static void *reader(void *opaque)
{
	struct slow *s = opaque;
	uint64_t v;

	bus_read(s->bus, 0x10, 1, &v);
	return NULL;
}

static void *leaver(void *opaque)
{
	struct slow *s = opaque;

	usleep(20000);
	atomic_store(&s->leave, true);
	return NULL;
}

static void removal_waits_for_handlers(void **state)
{
	struct slow s = { .bus = bus_new() };
	pthread_t a, b;

	(void)state;
	assert_int_equal(bus_add(s.bus, 0x10, 0x10, &slow_ops, &s), 0);
	assert_int_equal(pthread_create(&a, NULL, reader, &s), 0);
	while (!atomic_load(&s.inside))
		usleep(100);
	assert_int_equal(pthread_create(&b, NULL, leaver, &s), 0);
	bus_remove(s.bus, 0x10, &s);
	assert_false(atomic_load(&s.inside));
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	/* A handler may remove its own range without a wait for itself. */
	assert_int_equal(bus_add(s.bus, 0x10, 0x10, &slow_ops, &s), 0);
	assert_true(bus_write(s.bus, 0x10, 1, 0x40));
	assert_false(bus_write(s.bus, 0x10, 1, 0x40));
	bus_free(s.bus);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_the_range_and_masks_values),
		cmocka_unit_test(refuses_overlaps),
		cmocka_unit_test(removal_waits_for_handlers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
