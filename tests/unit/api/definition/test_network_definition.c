/* Definitions of networks: what is accepted comes back the same, and what is wrong is refused with its key. */
#include "api/definition/definition.h"
#include "api/definition/network_definition.h"
#include "api/wire/json.h"
#include "base/err.h"
#include "base/util.h"
#include "base/uuid.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static int parse(const char *text, struct network_definition **ret, struct err *e)
{
	CLEANUP_JS struct json_object *o = json_tokener_parse(text);

	assert_non_null(o);
	return network_definition_parse(o, ret, e);
}

/* The definition with these keys is refused with an error that begins so. */
static void refuse(const char *keys, const char *why)
{
	struct network_definition *d = NULL;
	char text[4096];
	struct err e;

	snprintf(text, sizeof(text), "{\"name\":\"n\",%s}", keys);
	assert_int_equal(parse(text, &d, &e), -EINVAL);
	assert_int_equal(e.cls, ERR_INVALID);
	if (strncmp(e.msg, why, strlen(why)))
		fail_msg("%s\ninstead of\n%s", e.msg, why);
	assert_null(d);
}

#define FOUR(dhcp) "\"ipv4\":{\"address\":\"10.0.0.1\",\"prefix\":24,\"dhcp\":{" dhcp "}}"
#define SIX(dhcp) "\"ipv6\":{\"address\":\"fd00::1\",\"prefix\":64,\"dhcp\":{" dhcp "}}"

static const char whole[] =
	"{\"name\":\"lan\",\"uuid\":\"2f1c0c0e-5d3a-4b53-9c39-0d8f1c6a7b11\",\"mode\":\"route\",\"bridge\":\"br-lan\","
	"\"mac\":\"52:54:00:00:00:01\",\"mtu\":9000,\"stp\":true,\"dev\":\"eth0\",\"domain\":\"vms.example\",\"domain_local\":true,"
	"\"ipv4\":{\"address\":\"10.0.0.1\",\"prefix\":24,\"tftp_root\":\"/srv/tftp\",\"dhcp\":{\"ranges\":[{\"start\":\"10.0.0.10\",\"end\":\"10.0.0.20\"}],"
	"\"hosts\":[{\"mac\":\"52:54:00:00:00:02\",\"name\":\"web1\",\"address\":\"10.0.0.5\"}],\"lease_seconds\":600,"
	"\"boot_file\":\"boot/pxelinux.0\",\"boot_server\":\"10.0.0.7\"}},"
	"\"ipv6\":{\"address\":\"fd00::1\",\"prefix\":64,\"nat\":true,\"dhcp\":{\"ranges\":[],"
	"\"hosts\":[{\"duid\":\"00:03:00:01:52:54\",\"address\":\"fd00::5\"}]}},"
	"\"dns\":{\"enable\":true,\"forwarders\":[\"1.1.1.1\",\"2606:4700::1\"],\"hosts\":[{\"address\":\"10.0.0.1\",\"names\":[\"gw\",\"gw.vms.example\"]}]},"
	"\"egress\":{\"default\":\"deny\",\"rules\":[{\"allow\":\"192.0.2.0/24\",\"ports\":\"80\"},{\"deny\":\"any\"}]},"
	"\"users\":[1000,1001],\"groups\":[100],\"filter\":\"clean-traffic\",\"isolated_ports\":true}";

static void test_definition_comes_back_the_same(void **state)
{
	CLEANUP_JS struct json_object *o = json_tokener_parse(whole), *back = NULL, *request = NULL;
	struct network_definition *d = NULL;
	struct err e;

	(void)state;
	assert_int_equal(network_definition_parse(o, &d, &e), 0);
	back = network_definition_to_json(d);
	if (!json_object_equal(o, back))
		fail_msg("%s\ninstead of\n%s", json_object_to_json_string(back), json_object_to_json_string(o));
	/* The program knows neither users nor the rules of ports, and takes those of egress as a text. */
	request = network_definition_for_program(d);
	json_object_object_del(o, "users");
	json_object_object_del(o, "groups");
	json_object_object_del(o, "filter");
	json_object_object_del(o, "isolated_ports");
	js_put_str(o, "egress", "deny;allow any 80 192.0.2.0/24;deny any - any");
	assert_true(json_object_equal(o, request));
	network_definition_free(d);
}

static void test_defaults(void **state)
{
	struct network_definition *d = NULL;
	struct err e;

	(void)state;
	assert_int_equal(parse("{\"name\":\"n\",\"ipv4\":{\"address\":\"10.0.0.1\",\"prefix\":29}}", &d, &e), 0);
	assert_int_equal(d->mode, NETWORK_NAT);
	assert_string_equal(d->bridge, "");
	assert_false(uuid_is_set(d->uuid));
	assert_int_equal(d->users.n, 0);
	network_definition_free(d);
	assert_int_equal(parse("{\"name\":\"n\",\"mode\":\"isolated\"}", &d, &e), 0);
	network_definition_free(d);
	assert_int_equal(parse("{\"name\":\"n\",\"mode\":\"bridge\",\"bridge\":\"br0\",\"users\":[5]}", &d, &e), 0);
	network_definition_free(d);
}

static void test_names_are_checked(void **state)
{
	(void)state;
	refuse("\"name\":\"\"", "name: must have 1 to 63 characters");
	refuse("\"name\":\".n\"", "name: must begin with a letter or a digit");
	refuse("\"name\":\"a b\"", "name: may have letters, digits");
	refuse("\"bridge\":\"sixteen-letters-\"", "bridge: has 16 characters; a link's name has 1 to 15");
	refuse("\"bridge\":\"a/b\"", "bridge: may have letters, digits, \".\"");
	refuse("\"bridge\":\"a\\\"b\"", "bridge: may have letters, digits, \".\"");
	refuse("\"dev\":\"a*\"", "dev: may have letters, digits, \".\"");
	refuse("\"bridge\":\"all\"", "bridge: the kernel reserves the name \"all\"");
	refuse("\"mac\":\"01:00:00:00:00:01\"", "mac: 01:00:00:00:00:01 is a multicast address");
	refuse("\"mac\":\"52:54:00:00:00\"", "mac: \"52:54:00:00:00\" is not a MAC address");
	refuse("\"mac\":\"00:00:00:00:00:00\"", "mac: must not be all zeros");
	refuse("\"domain\":\"-a\"", "domain: \"-a\" is not a DNS name");
	refuse("\"domain\":\"a..b\"", "domain: \"a..b\" is not a DNS name");
	refuse("\"domain_local\":true," FOUR("\"ranges\":[{\"start\":\"10.0.0.2\",\"end\":\"10.0.0.9\"}]"), "domain_local: there is no domain");
	refuse("\"users\":[-1]", "users[0]: must be the number of a user or group");
	refuse("\"users\":{}", "users: must be an array");
}

static void test_addresses_are_checked(void **state)
{
	(void)state;
	refuse("\"mode\":\"nat\"", "ipv4 is missing; mode nat needs an address");
	refuse("\"ipv4\":{\"prefix\":24}", "ipv4: address or prefix is missing");
	refuse("\"ipv4\":{\"address\":\"10.0.0.1\"}", "ipv4: address or prefix is missing");
	refuse("\"ipv4\":{\"address\":\"10.0.0.1\",\"prefix\":30}", "ipv4.prefix: 30 is out of range");
	refuse("\"ipv6\":{\"address\":\"fd00::1\",\"prefix\":56}", "ipv6.prefix: 56 is out of range");
	refuse("\"ipv6\":{\"address\":\"fd00::1\",\"prefix\":80}", "ipv6.prefix: guests choose their addresses in networks of /64 only");
	refuse("\"ipv4\":{\"address\":\"10.0.0.0\",\"prefix\":24}", "ipv4.address: 10.0.0.0 is the address of the network");
	refuse("\"ipv4\":{\"address\":\"10.0.0.255\",\"prefix\":24}", "ipv4.address: 10.0.0.255 is the broadcast address");
	refuse("\"ipv4\":{\"address\":\"224.0.0.1\",\"prefix\":24}", "ipv4.address: 224.0.0.1 is not an address for a host");
	refuse("\"ipv4\":{\"address\":\"127.0.0.1\",\"prefix\":24}", "ipv4.address: 127.0.0.1 is not an address for a host");
	refuse("\"ipv4\":{\"address\":\"fd00::1\",\"prefix\":24}", "ipv4.address: \"fd00::1\" is not an IPv4 address");
	refuse("\"ipv6\":{\"address\":\"10.0.0.1\",\"prefix\":64}", "ipv6.address: \"10.0.0.1\" is not an IPv6 address");
	refuse("\"ipv6\":{\"address\":\"fe80::1\",\"prefix\":64}", "ipv6.address: fe80::1 is not an address for a host");
	refuse("\"mtu\":1000,\"ipv6\":{\"address\":\"fd00::1\",\"prefix\":64}", "mtu: 1000 is too small for IPv6");
	refuse("\"mode\":\"isolated\",\"dev\":\"eth0\"", "dev: needs mode nat or route");
	refuse("\"mode\":\"bridge\"", "bridge is missing");
	refuse("\"mode\":\"vepa\"", "dev is missing");
	refuse("\"mode\":\"private\",\"dev\":\"eth0\",\"bridge\":\"br0\"", "bridge: mode private has a bridge that exists or macvtap devices on dev");
	refuse("\"mode\":\"passthrough\",\"dev\":\"eth0\",\"isolated_ports\":true", "mode passthrough uses a link that exists as it is");
	refuse("\"mode\":\"bridge\",\"bridge\":\"br0\",\"mtu\":1500", "mode bridge uses a bridge that exists as it is");
}

static void test_ranges_are_checked(void **state)
{
	(void)state;
	refuse(FOUR(""), "ipv4.dhcp: has neither ranges nor hosts");
	refuse(FOUR("\"ranges\":[],\"hosts\":[]"), "ipv4.dhcp: has neither ranges nor hosts");
	refuse(FOUR("\"ranges\":[{\"start\":\"10.0.0.2\"}]"), "ipv4.dhcp.ranges[0]: start or end is missing");
	refuse(FOUR("\"ranges\":[{\"start\":\"10.0.1.2\",\"end\":\"10.0.1.3\"}]"), "ipv4.dhcp.ranges[0].start: 10.0.1.2 is outside the network 10.0.0.0/24");
	refuse(FOUR("\"ranges\":[{\"start\":\"10.0.0.2\",\"end\":\"10.0.0.255\"}]"), "ipv4.dhcp.ranges[0].end: 10.0.0.255 is the broadcast");
	refuse(FOUR("\"ranges\":[{\"start\":\"10.0.0.9\",\"end\":\"10.0.0.2\"}]"), "ipv4.dhcp.ranges[0].end: comes before start");
	refuse("\"ipv4\":{\"address\":\"10.0.0.5\",\"prefix\":24,\"dhcp\":{\"ranges\":[{\"start\":\"10.0.0.2\",\"end\":\"10.0.0.9\"}]}}",
		"ipv4.dhcp.ranges[0]: includes 10.0.0.5, the host's own address");
	refuse(FOUR("\"ranges\":[{\"start\":\"10.0.0.2\",\"end\":\"10.0.0.9\"},{\"start\":\"10.0.0.9\",\"end\":\"10.0.0.12\"}]"),
		"ipv4.dhcp.ranges[1]: overlaps dhcp.ranges[0]");
	refuse(SIX("\"ranges\":[{\"start\":\"fd00:0:0:1::2\",\"end\":\"fd00:0:0:1::3\"}]"),
		"ipv6.dhcp.ranges[0].start: fd00:0:0:1::2 is outside the network fd00::/64");
	refuse(FOUR("\"lease_seconds\":60,\"ranges\":[]"), "ipv4.dhcp.lease_seconds: 60 is out of range");
}

/* The name stands in a line of dnsmasq's configuration. */
static void test_network_boot_is_checked(void **state)
{
	static const char *const bad[] = { "", "a b", "a,b", "-a", "a#b", "a\\nb" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char text[512];

		snprintf(text, sizeof(text), FOUR("\"boot_file\":\"%s\""), bad[i]);
		refuse(text, "ipv4.dhcp.boot_file: must be the name of a file below tftp_root, or a URL");
	}
	refuse(FOUR("\"boot_file\":\"tag:x\""), "ipv4.dhcp.boot_file: must not begin with \"tag:\"");
	refuse(FOUR("\"boot_server\":\"10.0.0.7\""), "ipv4.dhcp.boot_file is missing; boot_server needs");
	refuse(SIX("\"boot_file\":\"a\""), "ipv6.dhcp: \"boot_file\" is not a key");
}

static void test_hosts_are_checked(void **state)
{
	(void)state;
	refuse(FOUR("\"hosts\":[{\"address\":\"10.0.0.2\"}]"), "ipv4.dhcp.hosts[0]: give its mac");
	refuse(SIX("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"duid\":\"00:01\",\"name\":\"a\"}]"), "ipv6.dhcp.hosts[0]: give either its mac or its duid");
	refuse(SIX("\"hosts\":[{\"duid\":\"0x1\",\"name\":\"a\"}]"), "ipv6.dhcp.hosts[0].duid: must be bytes in hexadecimal");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\"}]"), "ipv4.dhcp.hosts[0]: has neither a name nor an address");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"address\":\"10.0.0.1\"}]"), "ipv4.dhcp.hosts[0].address: is the host's own address");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"address\":\"10.1.0.2\"}]"), "ipv4.dhcp.hosts[0].address: 10.1.0.2 is outside");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"name\":\"a.b\"}]"), "ipv4.dhcp.hosts[0].name: is a name with a dot");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"name\":\"ignore\"}]"), "ipv4.dhcp.hosts[0].name: has a special meaning");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"name\":\"2h\"}]"), "ipv4.dhcp.hosts[0].name: has a special meaning");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"name\":\"12\"}]"), "ipv4.dhcp.hosts[0].name: has a special meaning");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"name\":\"a\"},{\"mac\":\"52:54:00:00:00:01\",\"name\":\"b\"}]"),
		"ipv4.dhcp.hosts[1].mac: 52:54:00:00:00:01 is also the mac of hosts[0]");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"name\":\"a\"},{\"mac\":\"52:54:00:00:00:02\",\"name\":\"A\"}]"),
		"ipv4.dhcp.hosts[1].name: A is also the name of hosts[0]");
	refuse(FOUR("\"hosts\":[{\"mac\":\"52:54:00:00:00:01\",\"address\":\"10.0.0.2\"},{\"mac\":\"52:54:00:00:00:02\",\"address\":\"10.0.0.2\"}]"),
		"ipv4.dhcp.hosts[1].address: 10.0.0.2 is also the address of hosts[0]");
	refuse("\"mode\":\"isolated\",\"dns\":{\"hosts\":[{\"address\":\"10.0.0.1\"}]}", "dns.hosts[0]: address or names are missing");
	refuse("\"mode\":\"isolated\",\"dns\":{\"forwarders\":[\"dns.example\"]}", "dns.forwarders[0]: \"dns.example\" is not an IP address");
	refuse("\"mode\":\"isolated\",\"dns\":{\"forwarders\":[\"127.0.0.53\"]}", "dns.forwarders[0]: 127.0.0.53 is not an address for a host");
}

/* Replace each member of a whole definition by values of other types: what is accepted can be printed and parsed. */
static void replace_each(struct json_object *root, struct json_object *o)
{
	static const char *const values[] = { "null", "true", "-1", "4294967296", "\"\"", "\"\\u0000\"", "[]", "{}", "[[]]", "\"x\"" };

	if (json_object_is_type(o, json_type_array))
		for (size_t i = 0; i < json_object_array_length(o); i++)
			replace_each(root, json_object_array_get_idx(o, i));
	if (!json_object_is_type(o, json_type_object))
		return;
	json_object_object_foreach(o, key, v)
	{
		struct json_object *was = json_object_get(v);

		replace_each(root, v);
		for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
			struct network_definition *d = NULL;
			struct err e;
			int r;

			json_object_object_add(o, key, json_tokener_parse(values[i]));
			r = network_definition_parse(root, &d, &e);
			assert_true(!r || e.msg[0]);
			if (!r) {
				CLEANUP_JS struct json_object *back = network_definition_to_json(d);
				struct network_definition *again = NULL;

				assert_int_equal(network_definition_parse(back, &again, &e), 0);
				network_definition_free(again);
			}
			network_definition_free(d);
		}
		json_object_object_add(o, key, was);
	}
}

static void test_values_of_other_types_are_refused(void **state)
{
	CLEANUP_JS struct json_object *o = json_tokener_parse(whole);

	(void)state;
	replace_each(o, o);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_definition_comes_back_the_same),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_names_are_checked),
		cmocka_unit_test(test_addresses_are_checked),
		cmocka_unit_test(test_ranges_are_checked),
		cmocka_unit_test(test_hosts_are_checked),
		cmocka_unit_test(test_network_boot_is_checked),
		cmocka_unit_test(test_values_of_other_types_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
