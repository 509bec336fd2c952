/* cairn-dns: which names dnsmasq answers by itself, and which addresses a name may open. */
#include "tools/dns/settings.c" /* a program's file: in no library */

#include "base/egress_notice.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define SETTINGS                                                                                   \
	"user 108\negress deny;allow tcp 443 *.example.org\nlisten 192.168.122.254\nlisten fd00:7::53\n"                      \
	"gateway 192.168.122.1\nown 192.168.122.0/24\nown 2001:db8:7::/64\ndomain VMs.example\nname Gate.corp.net\nname a.corp.net\n"

static int parse(const char *text, struct settings *ret)
{
	char *copy = strdup(text);
	struct err e;
	int r;

	*ret = (struct settings){ 0 };
	r = settings_parse(copy, ret, &e);
	free(copy);
	return r;
}

static void test_names_that_dnsmasq_answers_by_itself(void **state)
{
	static const struct {
		const char *name;
		uint16_t type;
		bool local;
	} cases[] = {
		{ "web1", TYPE_A, true }, { "web1", TYPE_AAAA, true }, { "web1", 16, false }, { "", TYPE_A, false },
		{ "vms.example", TYPE_A, true }, { "a.b.vms.example", 16, true }, { "xvms.example", TYPE_A, false }, { "example", 16, false },
		{ "gate.corp.net", TYPE_A, true }, { "a.corp.net", TYPE_AAAA, true }, { "gate.corp.net", 16, false },
		{ "x.gate.corp.net", TYPE_A, false }, { "corp.net", TYPE_A, false }, { "7.122.168.192.in-addr.arpa", TYPE_PTR, true },
		{ "7.122.168.192.in-addr.arpa", 16, false }, { "7.123.168.192.in-addr.arpa", TYPE_PTR, false },
		{ "07.122.168.192.in-addr.arpa", TYPE_PTR, false }, { "x.7.122.168.192.in-addr.arpa", TYPE_PTR, false },
		{ "7.122.168.192.in-addr.arpa.x", TYPE_PTR, false }, { "263.122.168.192.in-addr.arpa", TYPE_PTR, false },
		{ "www.example.org", TYPE_A, false },
	};
	struct settings s;

	(void)state;
	assert_int_equal(parse(SETTINGS, &s), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		if (settings_name_is_local(&s, cases[i].name, cases[i].type) != cases[i].local)
			fail_msg("%s of type %u", cases[i].name, cases[i].type);
	settings_done(&s);
}

static void test_addresses_that_names_open(void **state)
{
	static const struct {
		const char *address;
		bool opens;
	} cases[] = {
		{ "198.51.100.7", true }, { "192.168.122.7", false }, { "10.0.0.1", false }, { "127.0.0.1", false }, { "2001:db8:8::1", true },
		{ "2001:db8:7::1", false }, { "fd00::1", false }, { "64:ff9b::1", false }, { "::1", false },
	};
	struct settings s;
	uint8_t address[EGRESS_ADDRESS_BYTES];

	(void)state;
	assert_int_equal(parse(SETTINGS, &s), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		assert_true(address_parse(cases[i].address, address));
		if (settings_address_opens(&s, address) != cases[i].opens)
			fail_msg("%s", cases[i].address);
	}
	settings_done(&s);
}

static void test_wrong_settings_are_refused(void **state)
{
	static const char *const texts[] = { "", "user 0\nlisten 10.0.0.2\ngateway 10.0.0.1\n", "user 1\ngateway 10.0.0.1\n",
		"user 1\nlisten 10.0.0.2\n", SETTINGS "x y\n", SETTINGS "listen 10.0.0.2\n", SETTINGS "own 10.0.0.0/8\n", SETTINGS "egress x\n",
		SETTINGS "user\n", "user 1\nlisten x\ngateway 10.0.0.1\n" };
	struct settings s;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		if (parse(texts[i], &s) != -EINVAL)
			fail_msg("%s", texts[i]);
		settings_done(&s);
	}
}

static void test_hashes_of_names_differ(void **state)
{
	struct egress_rule name = { 0 }, below = { 0 }, same = { 0 };

	(void)state;
	assert_null(egress_target_parse("example.org", &name));
	assert_null(egress_target_parse("*.example.org", &below));
	assert_null(egress_target_parse("EXAMPLE.org.", &same));
	assert_true(egress_rule_name_hash(&name) != egress_rule_name_hash(&below));
	assert_true(egress_rule_name_hash(&name) == egress_rule_name_hash(&same));
	assert_int_equal(notice_seconds(0), EGRESS_TTL_MIN_S);
	assert_int_equal(notice_seconds(NOTICE_TIMES - 1), EGRESS_TTL_MAX_S);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names_that_dnsmasq_answers_by_itself),
		cmocka_unit_test(test_addresses_that_names_open),
		cmocka_unit_test(test_wrong_settings_are_refused),
		cmocka_unit_test(test_hashes_of_names_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
