/* rom: a load brings the saved ROM back, and refuses one of another size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/err.h"
#include "devices/device.h"
#include "devices/legacy/rom.h"
#include "snapshot/state.h"

#include <errno.h>
#include <string.h>

static void test_saved_rom_is_loaded(void **state)
{
	uint8_t bytes[2048], other[sizeof(bytes)];
	struct state_reader r = { 0 };
	struct state_writer w;
	struct err e = { 0 };
	struct device *d;

	(void)state;
	memset(bytes, 0x5a, sizeof(bytes));
	assert_int_equal(rom_new(bytes, sizeof(bytes), &d, &e), 0);
	state_writer_init(&w);
	d->ops->save(d, &w);
	memset(bytes, 0, sizeof(bytes)); /* another file */
	r.buf = w.buf;
	r.len = w.len;
	assert_int_equal(d->ops->load(d, &r, 1, &e), 0);
	assert_true(state_reader_complete(&r));
	memset(other, 0x5a, sizeof(other));
	assert_memory_equal(bytes, other, sizeof(bytes));
	for (size_t n = sizeof(bytes) - 1; n <= sizeof(bytes) + 1; n += 2) {
		uint8_t more[sizeof(bytes) + 1] = { 1 };

		r = (struct state_reader){ .buf = more, .len = n };
		assert_int_equal(d->ops->load(d, &r, 1, &e), -EINVAL);
		assert_memory_equal(bytes, other, sizeof(bytes));
	}
	assert_non_null(strstr(e.msg, "saved with a BIOS of 2 KiB; this VM's has 2 KiB; give a file of the first size"));
	state_writer_done(&w);
	d->ops->free(d);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(test_saved_rom_is_loaded) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
