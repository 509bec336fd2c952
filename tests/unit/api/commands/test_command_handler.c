/* Every row of the schema has exactly one handler, and every handler a row. */
#include "api/commands/command.h"
#include "api/qmp/qmp_handler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void check_table(enum dialect d, const struct command_handler *handlers)
{
	const struct command *c;
	size_t n = 0;

	while (schema_command(d, n))
		n++;
	for (size_t i = 0; handlers[i].name; i++) {
		c = schema_command(d, i);
		assert_non_null(c);
		assert_string_equal(handlers[i].name, c->name);
		assert_non_null(handlers[i].run);
		n--;
	}
	assert_int_equal(n, 0);
}

static void test_every_row_has_a_handler(void **state)
{
	(void)state;
	check_table(DIALECT_DAEMON, command_handlers);
	check_table(DIALECT_QEMU, qmp_handlers);
}

int main(void)
{
	static const struct CMUnitTest tests[] = { cmocka_unit_test(test_every_row_has_a_handler) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
