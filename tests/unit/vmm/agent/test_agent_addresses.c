/* Address answers of a guest: valid and malformed ones. */
#include "base/util.h"
#include "vmm/agent/agent.h"
#include "vmm/vm_msg.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static bool parse(const char *text, struct vm_addresses *all)
{
	return agent_addresses_parse(text, strlen(text), all);
}

/* Answer of qemu-ga 7.2. */
static const char usual[] =
	"{\"return\": [{\"name\": \"lo\", \"ip-addresses\": [{\"ip-address-type\": \"ipv4\", \"ip-address\": \"127.0.0.1\", "
	"\"prefix\": 8}, {\"ip-address-type\": \"ipv6\", \"ip-address\": \"::1\", \"prefix\": 128}], \"statistics\": "
	"{\"tx-packets\": 0, \"rx-bytes\": 0}, \"hardware-address\": \"00:00:00:00:00:00\"}, {\"name\": \"eth0\", "
	"\"ip-addresses\": [{\"ip-address-type\": \"ipv4\", \"ip-address\": \"10.0.2.15\", \"prefix\": 24}], \"statistics\": {}, "
	"\"hardware-address\": \"52:54:00:AB:cd:0f\"}, {\"name\": \"sit0\"}]}";

static void test_valid_answer_is_parsed(void **state)
{
	static const uint8_t mac[6] = { 0x52, 0x54, 0, 0xab, 0xcd, 0x0f }, ip[4] = { 10, 0, 2, 15 };
	struct vm_addresses all;

	(void)state;
	assert_true(parse(usual, &all));
	assert_int_equal(all.n, 4);
	assert_int_equal(all.cut, 0);
	assert_string_equal(all.list[1].name, "lo");
	assert_int_equal(all.list[1].family, VM_ADDRESS_IPV6);
	assert_int_equal(all.list[1].prefix, 128);
	assert_int_equal(all.list[1].has_mac, 1);
	assert_string_equal(all.list[2].name, "eth0");
	assert_int_equal(all.list[2].family, VM_ADDRESS_IPV4);
	assert_int_equal(all.list[2].prefix, 24);
	assert_memory_equal(all.list[2].bytes, ip, sizeof(ip));
	assert_memory_equal(all.list[2].mac, mac, sizeof(mac));
	assert_string_equal(all.list[3].name, "sit0");
	assert_int_equal(all.list[3].family, VM_ADDRESS_NONE);
	assert_int_equal(all.list[3].has_mac, 0);
	assert_true(parse("{\"return\":[]}", &all));
	assert_int_equal(all.n, 0);
}

/* Invalid addresses and MACs are skipped. */
static void test_invalid_addresses_are_skipped(void **state)
{
	struct vm_addresses all;

	(void)state;
	assert_true(parse("{\"return\":[{\"ip-addresses\":[{\"ip-address\":\"fe80::1%eth0\",\"prefix\":64},"
			  "{\"ip-address\":\"300.1.1.1\",\"prefix\":8},{\"ip-address\":\"1.2.3.4\",\"prefix\":33},"
			  "{\"ip-address\":\"::2\",\"prefix\":-1},{\"ip-address\":\"::2\",\"prefix\":129},{},"
			  "{\"ip-address\":\"1.2.3.4\"}],\"hardware-address\":\"52:54:00:ab:cd:0f:11\",\"name\":"
			  "\"Local Area Connection* 12 \xc3\xa9 of a long name\"}]}", &all));
	assert_int_equal(all.n, 2);
	assert_int_equal(all.list[0].family, VM_ADDRESS_IPV6);
	assert_int_equal(all.list[0].bytes[0], 0xfe);
	assert_int_equal(all.list[1].family, VM_ADDRESS_IPV4);
	assert_int_equal(all.list[1].prefix, 0);
	assert_int_equal(all.list[0].has_mac, 0);
	assert_string_equal(all.list[0].name, "Local Area Connection* 12 ?? of");
}

static void test_malformed_answers_are_refused(void **state)
{
	static const char *const bad[] = { "", "{", "[]", "{\"return\":{}}", "{\"return\":[}", "{\"return\":[{]}", "{\"return\":[[]]}",
		"{\"return\":[{\"name\":7}]}", "{\"return\":[{\"ip-addresses\":{}}]}", "{\"return\":[{\"ip-addresses\":[7]}]}",
		"{\"return\":[{\"ip-addresses\":[{\"prefix\":\"8\"}]}]}", "{\"return\":[{\"ip-addresses\":[{\"ip-address\":8}]}]}",
		"{\"return\":[{} {}]}", "{\"return\":[{\"hardware-address\":null}]}" };
	struct vm_addresses all;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		assert_false(parse(bad[i], &all));
}

static void test_too_many_addresses_are_truncated(void **state)
{
	struct vm_addresses all;
	char text[8192] = "{\"return\":[{}";

	(void)state;
	for (unsigned i = 1; i < VM_ADDRESSES_MAX; i++)
		strcat(text, ",{}");
	strcat(text, "]}");
	assert_true(parse(text, &all));
	assert_int_equal(all.n, VM_ADDRESSES_MAX);
	assert_int_equal(all.cut, 0);
	strcpy(text + strlen(text) - 2, ",{\"ip-addresses\":[{\"ip-address\":\"::2\"}],\"name\":\"x\"},{}]}");
	assert_true(parse(text, &all));
	assert_int_equal(all.n, VM_ADDRESSES_MAX);
	assert_int_equal(all.cut, 1);
	assert_string_equal(all.list[VM_ADDRESSES_MAX - 1].name, "");
}

static void test_any_bytes_are_parsed_safely(void **state)
{
	struct vm_addresses all;

	(void)state;
	srandom(1);
	for (unsigned i = 0; i < 20000; i++) {
		size_t len = 1 + (size_t)random() % (sizeof(usual) - 1);
		char *copy = malloc(len); /* so that the sanitizer sees a read past its end */

		memcpy(copy, usual, len);
		for (unsigned k = 0; k < i % 4; k++)
			copy[(size_t)random() % len] = (char)random();
		agent_addresses_parse(copy, len, &all);
		assert_true(all.n <= VM_ADDRESSES_MAX);
		for (uint32_t k = 0; k < all.n; k++)
			assert_true(strlen(all.list[k].name) < sizeof(all.list[k].name));
		free(copy);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_valid_answer_is_parsed),
		cmocka_unit_test(test_invalid_addresses_are_skipped),
		cmocka_unit_test(test_malformed_answers_are_refused),
		cmocka_unit_test(test_too_many_addresses_are_truncated),
		cmocka_unit_test(test_any_bytes_are_parsed_safely),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
