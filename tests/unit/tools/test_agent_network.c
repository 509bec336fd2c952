/* cairn-agent's network: which words of the kernel's command line are addresses. */
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tools/agent/network.c"

static void test_addresses(void **state)
{
	struct network n;

	(void)state;
	assert_true(network_parse("10.0.2.15/24,10.0.2.2,10.0.2.3", &n));
	assert_int_equal(ntohl(n.address.s_addr), 0x0a00020f);
	assert_int_equal(ntohl(n.mask.s_addr), 0xffffff00);
	assert_int_equal(ntohl(n.gateway.s_addr), 0x0a000202);
	assert_string_equal(n.address_text, "10.0.2.15");
	assert_string_equal(n.resolver_text, "10.0.2.3");
	assert_true(network_parse("192.168.100.111/8,255.255.255.255,192.168.100.100", &n));
	assert_int_equal(ntohl(n.mask.s_addr), 0xff000000);
	assert_true(network_parse("1.2.3.4/32,1.2.3.4,1.2.3.4", &n));
	assert_int_equal(ntohl(n.mask.s_addr), 0xffffffff);
}

static void test_other_words_are_no_addresses(void **state)
{
	static const char *const words[] = { "", "/", ",", "10.0.2.15", "10.0.2.15/24", "10.0.2.15/24,", "10.0.2.15/24,10.0.2.2", "10.0.2.15/24,10.0.2.2,",
		"10.0.2.15/24,10.0.2.2,10.0.2.3,", "10.0.2.15/24,10.0.2.2,10.0.2.3 ", "10.0.2.15/0,10.0.2.2,10.0.2.3", "10.0.2.15/33,10.0.2.2,10.0.2.3",
		"10.0.2.15/-1,10.0.2.2,10.0.2.3", "10.0.2.15/99999999999999999999,10.0.2.2,10.0.2.3", "10.0.2/24,10.0.2.2,10.0.2.3",
		"1000.0.2.15/24,10.0.2.2,10.0.2.3", "10.0.2.15/24x,10.0.2.2,10.0.2.3", "10.0.2.1500000000000000000000000000/24,10.0.2.2,10.0.2.3",
		"10.0.2.15/24,10.0.2.2/,10.0.2.3", "fe80::1/64,fe80::1,fe80::1" };
	struct network n;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (network_parse(words[i], &n))
			fail_msg("%s", words[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_other_words_are_no_addresses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
