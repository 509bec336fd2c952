/* Egress rules of cairn-slirp: what each frame of a guest meets, and which addresses the resolver's answers open. */
#include "base/dns_message.c" /* its static functions write messages, too */
#include "tools/slirp/egress_filter.c"
#include "tools/slirp/guest_packet.c"

#include <arpa/inet.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define NOW (1000 * NS_PER_S)
#define PUBLIC "198.51.100.7"

static struct options options_of(const char *rules)
{
	struct options o = { .filtered = true, .nforwards = 1 };
	char text[4096];

	o.network.s_addr = htonl(0x0a000200);
	o.mask.s_addr = htonl(0xffffff00);
	o.gateway.s_addr = htonl(0x0a000202);
	o.resolver.s_addr = htonl(0x0a000203);
	o.first.s_addr = htonl(0x0a00020f);
	o.forwards[0] = (struct forward){ .fd = -1, .port = 22, .guest = o.first };
	snprintf(text, sizeof(text), "%s", rules);
	assert_true(egress_parse(text, &o.egress));
	return o;
}

static void address_of(const char *text, uint8_t address[EGRESS_ADDRESS_BYTES])
{
	memcpy(address, egress_ipv4_form, EGRESS_IPV4_AT);
	if (inet_pton(AF_INET, text, address + EGRESS_IPV4_AT) != 1)
		assert_int_equal(inet_pton(AF_INET6, text, address), 1);
}

struct packet {
	uint8_t bytes[200];
	size_t len;
};

/* Make a frame of the guest. type: of ICMP, or the flags of TCP. */
static struct packet packet_of(const char *to, uint8_t protocol, uint16_t from_port, uint16_t port, uint8_t type)
{
	struct packet p = { .bytes = { 2, 2, 2, 2, 2, 2, 4 } };
	uint8_t address[EGRESS_ADDRESS_BYTES], *ip = p.bytes + ETHERNET_BYTES, *next;
	bool ipv6 = strchr(to, ':');
	size_t bytes = protocol == IPPROTO_TCP ? TCP_BYTES : UDP_BYTES;

	address_of(to, address);
	store_be16(p.bytes + FRAME_TYPE_AT, ipv6 ? ETHERTYPE_IPV6 : ETHERTYPE_IP);
	if (ipv6) {
		ip[0] = 0x60;
		store_be16(ip + IPV6_LENGTH, (uint16_t)bytes);
		ip[IPV6_NEXT] = protocol;
		ip[IPV6_FROM] = 0xfe;
		memcpy(ip + IPV6_TO, address, sizeof(address));
		next = ip + IPV6_BYTES;
	} else {
		ip[0] = IPV4_NO_OPTIONS;
		store_be16(ip + IPV4_LENGTH, (uint16_t)(IPV4_BYTES + bytes));
		ip[IPV4_PROTOCOL] = protocol;
		store_be32(ip + IPV4_FROM, 0x0a00020f);
		memcpy(ip + IPV4_TO, address + EGRESS_IPV4_AT, 4);
		next = ip + IPV4_BYTES;
	}
	store_be16(next + PORT_FROM, from_port);
	store_be16(next + PORT_TO, port);
	if (protocol == IPPROTO_TCP) {
		next[TCP_OFFSET] = 0x50;
		next[TCP_FLAGS] = type;
	} else if (protocol == IPPROTO_UDP) {
		store_be16(next + UDP_LENGTH, UDP_BYTES);
	} else {
		next[0] = type;
	}
	p.len = (size_t)(next - p.bytes) + bytes;
	return p;
}

static enum egress_verdict judge(struct egress_filter *f, const struct packet *p, uint64_t now_ns)
{
	struct guest_packet read;

	return egress_filter_verdict(f, p->bytes, p->len, now_ns, &read);
}

static const struct {
	const char *what, *rules, *to;
	uint8_t protocol;
	uint16_t from_port, port;
	uint8_t type;
	enum egress_verdict verdict;
} rows[] = {
	{ "any address", "deny", PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
	{ "no rules of deny", "allow", PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_PASS },
	{ "an allowed prefix", "deny;allow any - 198.51.100.0/24", PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_PASS },
	{ "beside the prefix", "deny;allow any - 198.51.100.0/29", "198.51.100.8", IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
	{ "another port", "deny;allow tcp 443 any", PUBLIC, IPPROTO_TCP, 40000, 80, TCP_SYN, EGRESS_DENY },
	{ "another protocol", "deny;allow tcp 443 any", PUBLIC, IPPROTO_UDP, 40000, 443, 0, EGRESS_DENY },
	{ "a range of ports", "deny;allow tcp 80,8000-8100 any", PUBLIC, IPPROTO_TCP, 40000, 8100, TCP_SYN, EGRESS_PASS },
	{ "ports of ICMP", "deny;allow any 1-65535 any", PUBLIC, IPPROTO_ICMP, 0, 0, ICMP_ECHO, EGRESS_DENY },
	{ "first rule wins: deny", "allow;deny any - 198.51.100.7;allow any - any", PUBLIC, IPPROTO_UDP, 1, 1, 0, EGRESS_DENY },
	{ "first rule wins: allow", "deny;allow any - 198.51.100.7;deny any - any", PUBLIC, IPPROTO_UDP, 1, 1, 0, EGRESS_PASS },
	{ "IPv6 with IPv4's all", "deny;allow any - 0.0.0.0/0", "2001:db8::1", IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
	{ "IPv4 with IPv6's all", "deny;allow any - ::/0", PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
	{ "IPv6", "deny;allow any - 2001:db8::/32", "2001:db8::1", IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_PASS },
	{ "an IPv4-mapped address", "deny;allow any - ::/0", "::ffff:198.51.100.7", IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
	{ "NAT64", "deny;allow any - ::/0", "64:ff9b::a00:1", IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
	{ "NAT64 by default", "allow;deny any - 10.0.0.0/8", "64:ff9b::a00:1", IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
	{ "6to4 by default", "allow;deny any - 10.0.0.0/8", "2002:a00:1::1", IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
	{ "Teredo with all", "deny;allow any - any", "2001:0:a00:1::1", IPPROTO_UDP, 40000, 443, 0, EGRESS_DENY },
	{ "the gateway, host's loopback", "deny;allow any - 10.0.0.0/8", "10.0.2.2", IPPROTO_TCP, 40000, 22, TCP_SYN, EGRESS_DENY },
	{ "the gateway with all", "deny;allow any - any", "10.0.2.2", IPPROTO_TCP, 40000, 80, TCP_SYN, EGRESS_DENY },
	{ "the gateway, named", "deny;allow any - 10.0.2.2", "10.0.2.2", IPPROTO_TCP, 40000, 80, TCP_SYN, EGRESS_PASS },
	{ "the gateway, denied with all", "allow;deny any - any", "10.0.2.2", IPPROTO_TCP, 40000, 80, TCP_SYN, EGRESS_DENY },
	{ "another address of the network", "deny;allow any - any", "10.0.2.99", IPPROTO_TCP, 40000, 80, TCP_SYN, EGRESS_DENY },
	{ "broadcast, which libslirp sends to the host", "deny;allow any - any", "255.255.255.255", IPPROTO_UDP, 1, 80, 0, EGRESS_DENY },
	{ "the network's broadcast", "deny;allow any - any", "10.0.2.255", IPPROTO_UDP, 1, 80, 0, EGRESS_DENY },
	{ "IPv6 gateway", "deny;allow any - any", "fec0::2", IPPROTO_TCP, 40000, 80, TCP_SYN, EGRESS_DENY },
	{ "IPv6 network, which is the host's loopback", "deny;allow any - fec0::/10", "fec0::77", IPPROTO_TCP, 40000, 80, TCP_SYN, EGRESS_DENY },
	{ "all nodes, which is the host's loopback", "deny;allow any - any", "ff02::1", IPPROTO_UDP, 40000, 80, 0, EGRESS_DROP },
	{ "link-local", "deny;allow any - any", "fe80::2", IPPROTO_TCP, 40000, 80, TCP_SYN, EGRESS_DENY },
	{ "another resolver, UDP", "deny;allow tcp 443 any", "8.8.8.8", IPPROTO_UDP, 40000, 53, 0, EGRESS_DENY },
	{ "another resolver, TCP", "deny;allow tcp 443 any", "8.8.8.8", IPPROTO_TCP, 40000, 53, TCP_SYN, EGRESS_DENY },
	{ "another resolver, TLS", "deny;allow tcp 443 any", "8.8.8.8", IPPROTO_TCP, 40000, 853, TCP_SYN, EGRESS_DENY },
	{ "name server by its link-local address", "allow", "fe80::3", IPPROTO_UDP, 40000, 53, 0, EGRESS_QUESTION },
	{ "the resolver, UDP", "deny", "10.0.2.3", IPPROTO_UDP, 40000, 53, 0, EGRESS_QUESTION },
	{ "the resolver, IPv6", "deny", "fec0::3", IPPROTO_UDP, 40000, 53, 0, EGRESS_QUESTION },
	{ "the resolver, TCP", "allow", "10.0.2.3", IPPROTO_TCP, 40000, 53, TCP_SYN, EGRESS_DENY },
	{ "the resolver, another port", "allow", "10.0.2.3", IPPROTO_UDP, 40000, 123, 0, EGRESS_DENY },
	{ "ICMP", "deny;allow tcp - any", PUBLIC, IPPROTO_ICMP, 0, 0, ICMP_ECHO, EGRESS_DENY },
	{ "ICMP, allowed", "deny;allow icmp - any", PUBLIC, IPPROTO_ICMP, 0, 0, ICMP_ECHO, EGRESS_PASS },
	{ "ICMPv6, allowed", "deny;allow icmp - any", "2001:db8::1", IPPROTO_ICMPV6, 0, 0, ICMP6_ECHO, EGRESS_PASS },
	{ "ICMPv6", "deny", "2001:db8::1", IPPROTO_ICMPV6, 0, 0, ICMP6_ECHO, EGRESS_DENY },
	{ "other ICMP", "allow", PUBLIC, IPPROTO_ICMP, 0, 0, 13, EGRESS_DROP },
	{ "ICMPv6 in IPv4", "allow", PUBLIC, IPPROTO_ICMPV6, 0, 0, ICMP6_SOLICIT, EGRESS_DENY },
	{ "ICMP in IPv6", "allow", "2001:db8::1", IPPROTO_ICMP, 0, 0, ICMP_ECHO, EGRESS_DENY },
	{ "SCTP", "allow", PUBLIC, IPPROTO_SCTP, 1, 1, 0, EGRESS_DENY },
	{ "IPv4 in IPv4", "allow", PUBLIC, IPPROTO_IPIP, 1, 1, 0, EGRESS_DENY },
	{ "IPv6 in IPv4", "allow", PUBLIC, IPPROTO_IPV6, 1, 1, 0, EGRESS_DENY },
	{ "GRE", "allow", PUBLIC, IPPROTO_GRE, 1, 1, 0, EGRESS_DENY },
	{ "UDP-Lite", "allow", PUBLIC, 136, 1, 1, 0, EGRESS_DENY },
	{ "IPv6 fragment header", "allow", "2001:db8::1", IPPROTO_FRAGMENT, 1, 1, 0, EGRESS_DENY },
	{ "IPv6 hop-by-hop header", "allow", "2001:db8::1", IPPROTO_HOPOPTS, 1, 1, 0, EGRESS_DENY },
	{ "IPv6 routing header", "allow", "2001:db8::1", IPPROTO_ROUTING, 1, 1, 0, EGRESS_DENY },
	{ "IPv6 destination options", "allow", "2001:db8::1", IPPROTO_DSTOPTS, 1, 1, 0, EGRESS_DENY },
	{ "multicast", "deny", "239.255.255.250", IPPROTO_UDP, 1, 1900, 0, EGRESS_DROP },
	{ "DHCP", "deny", "255.255.255.255", IPPROTO_UDP, 68, 67, 0, EGRESS_PASS },
	{ "DHCP's port elsewhere", "deny", PUBLIC, IPPROTO_UDP, 68, 67, 0, EGRESS_DENY },
	{ "TFTP", "deny", "10.0.2.2", IPPROTO_UDP, 1, 69, 0, EGRESS_DENY },
	{ "DHCPv6", "deny", "ff02::1:2", IPPROTO_UDP, 546, 547, 0, EGRESS_PASS },
	{ "neighbour discovery", "deny", "ff02::1:ff00:2", IPPROTO_ICMPV6, 0, 0, ICMP6_SOLICIT, EGRESS_PASS },
	{ "ping of the gateway", "deny", "10.0.2.2", IPPROTO_ICMP, 0, 0, ICMP_ECHO, EGRESS_PASS },
	{ "answer to a forward's client", "deny", PUBLIC, IPPROTO_TCP, 22, 50000, TCP_SYN | TCP_ACK, EGRESS_PASS },
	{ "data to a forward's client", "deny", PUBLIC, IPPROTO_TCP, 22, 50000, TCP_ACK, EGRESS_PASS },
	{ "connection from a forward's port", "deny;allow any - any", PUBLIC, IPPROTO_TCP, 22, 443, TCP_SYN, EGRESS_DENY },
	{ "the same with other flags", "deny;allow any - any", PUBLIC, IPPROTO_TCP, 22, 443, TCP_SYN | TCP_FIN, EGRESS_DENY },
	{ "datagram from a forward's port", "deny", PUBLIC, IPPROTO_UDP, 22, 443, 0, EGRESS_DENY },
	{ "segment without a connection", "deny", PUBLIC, IPPROTO_TCP, 40000, 443, TCP_ACK, EGRESS_DENY },
	{ "answer that nobody asked for", "deny", PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN | TCP_ACK, EGRESS_DENY },
	{ "a name without an answer", "deny;allow any - www.example.org", PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN, EGRESS_DENY },
};

static void test_each_frame_meets_its_verdict(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct options o = options_of(rows[i].rules);
		struct packet p = packet_of(rows[i].to, rows[i].protocol, rows[i].from_port, rows[i].port, rows[i].type);
		struct egress_filter *f = NULL;
		enum egress_verdict got;

		assert_int_equal(egress_filter_new(&o, &f, NULL), 0);
		got = judge(f, &p, NOW);
		if (got != rows[i].verdict)
			fail_msg("%s with \"%s\": %u, not %u", rows[i].what, rows[i].rules, got, rows[i].verdict);
		assert_int_equal(egress_filter_counts(f)->packets, rows[i].verdict == EGRESS_DENY);
		egress_filter_free(f);
	}
}

/* Frames that are allowed until one byte changes. */
static void test_malformed_frames_are_denied(void **state)
{
	static const struct {
		const char *what;
		size_t at;
		uint8_t value;
		size_t len; /* 0: whole */
	} changes[] = {
		{ "IPv4 options", ETHERNET_BYTES, 0x46, 0 },
		{ "a short IPv4 header", ETHERNET_BYTES, 0x44, 0 },
		{ "IPv6's version in IPv4", ETHERNET_BYTES, 0x65, 0 },
		{ "the first fragment", ETHERNET_BYTES + IPV4_FRAGMENT, 0x20, 0 },
		{ "a later fragment", ETHERNET_BYTES + IPV4_FRAGMENT + 1, 1, 0 },
		{ "a reserved flag", ETHERNET_BYTES + IPV4_FRAGMENT, 0x80, 0 },
		{ "a length beyond the frame", ETHERNET_BYTES + IPV4_LENGTH + 1, 60, 0 },
		{ "a length without TCP's header", ETHERNET_BYTES + IPV4_LENGTH + 1, 39, 0 },
		{ "a VLAN", FRAME_TYPE_AT, 0x81, 0 },
		{ "an unknown protocol of Ethernet", FRAME_TYPE_AT, 0x88, 0 },
		{ "TCP's header beyond the packet", ETHERNET_BYTES + IPV4_BYTES + TCP_OFFSET, 0x60, 0 },
		{ "a short TCP header", ETHERNET_BYTES + IPV4_BYTES + TCP_OFFSET, 0x40, 0 },
		{ "a cut frame", 6, 4, ETHERNET_BYTES + IPV4_BYTES + 19 },
		{ "a frame of headers of Ethernet only", 6, 4, ETHERNET_BYTES },
	};
	struct options o = options_of("allow");
	struct egress_filter *f = NULL;
	struct packet good = packet_of(PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN);

	(void)state;
	assert_int_equal(egress_filter_new(&o, &f, NULL), 0);
	assert_int_equal(judge(f, &good, NOW), EGRESS_PASS);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		struct packet p = good;

		p.bytes[changes[i].at] = changes[i].value;
		p.len = changes[i].len ? changes[i].len : p.len;
		if (judge(f, &p, NOW) != EGRESS_DENY)
			fail_msg("%s passes", changes[i].what);
	}
	good.len = 13;
	assert_int_equal(judge(f, &good, NOW), EGRESS_DROP);
	egress_filter_free(f);
}

static void test_address_of_a_name_is_open_for_its_ports_and_time(void **state)
{
	struct options o = options_of("deny;allow tcp 443 *.example.org;allow any - 192.0.2.0/24");
	struct packet https = packet_of(PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN);
	struct packet http = packet_of(PUBLIC, IPPROTO_TCP, 40000, 80, TCP_SYN);
	struct packet data = packet_of(PUBLIC, IPPROTO_TCP, 40000, 443, TCP_ACK);
	uint8_t address[EGRESS_ADDRESS_BYTES];
	const uint64_t end = NOW + EGRESS_TTL_MIN_S * NS_PER_S;
	struct egress_filter *f = NULL;

	(void)state;
	address_of(PUBLIC, address);
	assert_int_equal(egress_filter_new(&o, &f, NULL), 0);
	egress_filter_open(f, "www.example.com", address, 1, NOW); /* no rule's name */
	assert_int_equal(judge(f, &https, NOW), EGRESS_DENY);
	egress_filter_open(f, "www.example.org", address, 1, NOW); /* a short TTL: 300 s */
	assert_int_equal(judge(f, &https, NOW), EGRESS_PASS);
	assert_int_equal(judge(f, &http, NOW), EGRESS_DENY);
	assert_int_equal(judge(f, &https, end - 1), EGRESS_PASS);
	/* Connections continue, also long after the end; new ones do not begin. */
	for (uint64_t now = end; now < end + 7200 * NS_PER_S; now += 200 * NS_PER_S) {
		assert_int_equal(judge(f, &data, now), EGRESS_PASS);
		assert_int_equal(judge(f, &https, now), EGRESS_DENY);
	}
	assert_int_equal(judge(f, &data, end + 8000 * NS_PER_S), EGRESS_DENY);
	egress_filter_free(f);
}

static void test_each_name_of_an_address_has_its_own_time(void **state)
{
	struct options o = options_of("deny;allow tcp 443 a.example.org;allow tcp 80 b.example.org");
	struct packet https = packet_of(PUBLIC, IPPROTO_TCP, 40000, 443, TCP_SYN);
	struct packet http = packet_of(PUBLIC, IPPROTO_TCP, 40000, 80, TCP_SYN);
	const uint64_t later = NOW + EGRESS_TTL_MIN_S * NS_PER_S;
	uint8_t address[EGRESS_ADDRESS_BYTES];
	struct egress_filter *f = NULL;

	(void)state;
	address_of(PUBLIC, address);
	assert_int_equal(egress_filter_new(&o, &f, NULL), 0);
	egress_filter_open(f, "a.example.org", address, 1, NOW);
	egress_filter_open(f, "b.example.org", address, 1, NOW + NS_PER_S);
	assert_int_equal(judge(f, &https, NOW + NS_PER_S), EGRESS_PASS);
	assert_int_equal(judge(f, &http, NOW + NS_PER_S), EGRESS_PASS);
	assert_int_equal(judge(f, &https, later), EGRESS_DENY);
	assert_int_equal(judge(f, &http, later), EGRESS_PASS);
	egress_filter_open(f, "b.example.org", address, 1, later);
	assert_int_equal(judge(f, &https, later), EGRESS_DENY);
	egress_filter_free(f);
}

static void test_open_addresses_are_bounded(void **state)
{
	struct options o = options_of("deny;allow any - *.example.org");
	uint8_t address[EGRESS_ADDRESS_BYTES];
	struct egress_filter *f = NULL;
	unsigned open = 0;

	(void)state;
	address_of("198.51.0.0", address);
	assert_int_equal(egress_filter_new(&o, &f, NULL), 0);
	for (unsigned i = 0; i < 20000; i++) {
		store_be16(address + 14, (uint16_t)i);
		egress_filter_open(f, "a.example.org", address, 60, NOW + i);
		assert_non_null(open_find(f, address, 1));
	}
	for (unsigned i = 0; i < 20000; i++) {
		store_be16(address + 14, (uint16_t)i);
		open += open_find(f, address, 1) != NULL;
	}
	assert_int_equal(open, SETS * WAYS);
	egress_filter_free(f);
}

static void test_only_public_addresses_are_opened(void **state)
{
	static const char *const closed[] = { "0.0.0.0", "10.1.2.3", "10.0.2.2", "100.64.0.1", "127.0.0.1", "169.254.169.254",
		"172.31.255.255", "192.168.0.1", "192.0.0.170", "198.19.0.1", "224.0.0.1", "255.255.255.255", "::", "::1",
		"fe80::1", "fec0::2", "fd00::1", "ff02::1", "64:ff9b::a00:1", "2002:a00:1::1", "2001:0:1::1", "::127.0.0.1" };
	static const char *const open[] = { PUBLIC, "1.1.1.1", "172.32.0.1", "2001:db8::1", "2606:4700::1" };
	struct options o = options_of("deny");
	uint8_t address[EGRESS_ADDRESS_BYTES];
	struct egress_filter *f = NULL;

	(void)state;
	assert_int_equal(egress_filter_new(&o, &f, NULL), 0);
	for (size_t i = 0; i < ARRAY_SIZE(closed); i++) {
		address_of(closed[i], address);
		if (egress_filter_is_public(f, address))
			fail_msg("%s is public", closed[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(open); i++) {
		address_of(open[i], address);
		if (!egress_filter_is_public(f, address))
			fail_msg("%s is not public", open[i]);
	}
	egress_filter_free(f);
}

static void test_first_rule_with_the_name_decides(void **state)
{
	static const struct {
		const char *rules, *name;
		bool takes;
	} names[] = {
		{ "deny", "example.org", false },
		{ "allow", "example.org", true },
		{ "deny;allow any - example.org", "example.org", true },
		{ "deny;allow any - example.org", "www.example.org", false },
		{ "deny;allow any - EXAMPLE.org.", "example.org", true },
		{ "deny;allow any - *.example.org", "example.org", false },
		{ "deny;allow any - *.example.org", "a.b.example.org", true },
		{ "deny;allow any - *.example.org", "notexample.org", false },
		{ "deny;allow any - *.example.org", "example.org.evil.net", false },
		{ "deny;deny any - bad.example.org;allow any - *.example.org", "bad.example.org", false },
		{ "deny;deny tcp 25 bad.example.org;allow any - *.example.org", "bad.example.org", true },
		{ "allow;deny any - *.example.org", "www.example.org", false },
		{ "deny;deny udp - any;allow tcp 443 any", "example.org", true },
		{ "deny;allow any - 0.0.0.0/0", "example.org", true },
		{ "deny;allow any - 192.0.2.0/24", "example.org", false },
		{ "deny;deny any - any;allow any - example.org", "example.org", false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		struct options o = options_of(names[i].rules);
		struct egress_filter *f = NULL;

		assert_int_equal(egress_filter_new(&o, &f, NULL), 0);
		if (egress_filter_takes_name(f, names[i].name) != names[i].takes)
			fail_msg("%s with \"%s\"", names[i].name, names[i].rules);
		egress_filter_free(f);
	}
}

/* ---- DNS messages ---- */

struct message {
	uint8_t bytes[1024];
	size_t len;
};

static void name_put(struct message *m, const char *name)
{
	m->len += name_write(name, m->bytes + m->len);
}

static void u16_put(struct message *m, uint16_t v)
{
	store_be16(m->bytes + m->len, v);
	m->len += 2;
}

static struct message question_of(const char *name, uint16_t type)
{
	struct message m = { .bytes = { 0x12, 0x34, 1, 0, 0, 1 }, .len = DNS_HEADER };

	name_put(&m, name);
	u16_put(&m, type);
	u16_put(&m, CLASS_IN);
	return m;
}

/* Add a record to an answer. pointer: 0: owner is a text. */
static void record_put(struct message *m, const char *owner, uint16_t pointer, uint16_t type, const void *data, uint16_t len)
{
	if (pointer)
		u16_put(m, pointer);
	else
		name_put(m, owner);
	u16_put(m, type);
	u16_put(m, CLASS_IN);
	u16_put(m, 0);
	u16_put(m, 60);
	u16_put(m, len);
	memcpy(m->bytes + m->len, data, len);
	m->len += len;
	m->bytes[DNS_FLAGS] |= ANSWER_BIT;
	store_be16(m->bytes + DNS_ANSWERS, (uint16_t)(load_be16(m->bytes + DNS_ANSWERS) + 1));
}

static void cname_put(struct message *m, const char *owner, const char *target)
{
	uint8_t data[256];

	record_put(m, owner, 0, TYPE_CNAME, data, (uint16_t)name_write(target, data));
}

static unsigned addresses_of(const struct message *m, const char *name, uint16_t type, struct dns_address *list)
{
	struct message asked = question_of(name, type);
	struct dns_question q;

	assert_true(dns_question_parse(asked.bytes, asked.len, &q));
	if (!dns_answer_fits(&q, 0x1234, m->bytes, m->len))
		return UINT_MAX;
	return dns_answer_addresses(&q, m->bytes, m->len, list);
}

static void test_questions_that_hide_something_are_refused(void **state)
{
	struct message good = question_of("Www.Example.ORG", TYPE_A), m;
	struct dns_question q;
	static const struct {
		const char *what;
		size_t at;
		uint8_t value;
	} changes[] = {
		{ "two questions", DNS_QUESTIONS + 1, 2 },
		{ "no question", DNS_QUESTIONS + 1, 0 },
		{ "an answer", DNS_FLAGS, 0x81 },
		{ "an update", DNS_FLAGS, 5 << 3 },
		{ "records of answers", DNS_ANSWERS + 1, 1 },
		{ "records of authority", DNS_ANSWERS + 3, 1 },
		{ "records that are not there", DNS_EXTRAS + 1, 1 },
		{ "a dot in a label", DNS_HEADER + 2, '.' },
		{ "a NUL in a label", DNS_HEADER + 2, 0 },
		{ "a pointer", DNS_HEADER, 0xc0 },
		{ "a reserved kind of label", DNS_HEADER, 0x41 },
		{ "a label beyond the message", DNS_HEADER, 60 },
		{ "another class", 0, 0 },
		{ "a transfer of a zone", 0, 0 },
	};

	(void)state;
	assert_true(dns_question_parse(good.bytes, good.len, &q));
	assert_string_equal(q.name, "www.example.org");
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		m = good;
		if (changes[i].at)
			m.bytes[changes[i].at] = changes[i].value;
		else
			m.bytes[m.len - (strstr(changes[i].what, "class") ? 1 : 3)] = TYPE_AXFR;
		if (dns_question_parse(m.bytes, m.len, &q))
			fail_msg("%s: taken", changes[i].what);
	}
	for (size_t len = 0; len < good.len; len++)
		assert_false(dns_question_parse(good.bytes, len, &q));
}

static void test_query_has_only_name_and_type_of_the_question(void **state)
{
	struct message m = question_of("wWw.eXample.org", TYPE_AAAA);
	uint8_t query[DNS_QUERY_MAX];
	struct dns_question q, again;
	size_t len;

	(void)state;
	m.bytes[DNS_CODE] = 0x7f;
	memcpy(m.bytes + m.len, "covert", 6);
	m.len += 6;
	assert_true(dns_question_parse(m.bytes, m.len, &q));
	len = dns_query_make(&q, 7, query);
	assert_int_equal(len, m.len - 6);
	assert_null(memmem(query, len, "covert", 6));
	assert_int_equal(query[DNS_CODE], 0);
	assert_true(dns_question_parse(query, len, &again));
	assert_string_equal(again.name, "www.example.org");
	assert_int_equal(again.id, 7);
}

static void test_answer_opens_addresses_of_the_asked_name_only(void **state)
{
	struct message m = question_of("www.example.org", TYPE_A);
	struct dns_address list[DNS_ADDRESSES_MAX];

	(void)state;
	record_put(&m, "evil.net", 0, TYPE_A, "\x01\x02\x03\x04", 4); /* unasked */
	cname_put(&m, "b.cdn.net", "c.cdn.net");		      /* in any order */
	cname_put(&m, "www.example.org", "B.CDN.net");
	record_put(&m, "b.cdn.net", 0, TYPE_A, "\x01\x02\x03\x05", 4); /* beside the chain */
	record_put(&m, "c.cdn.net", 0, TYPE_A, "\x01\x02\x03\x06", 4);
	record_put(&m, "c.cdn.net", 0, TYPE_A, "\x01\x02\x03\x07\x08", 5); /* not an address */
	assert_int_equal(addresses_of(&m, "www.example.org", TYPE_A, list), 1);
	assert_int_equal(list[0].address[15], 6);
	assert_int_equal(list[0].ttl_s, 60);
	/* The answer to another question, or with another id. */
	assert_int_equal(addresses_of(&m, "www.example.com", TYPE_A, list), UINT_MAX);
	assert_int_equal(addresses_of(&m, "www.example.org", TYPE_AAAA, list), UINT_MAX);
	m.bytes[0]++;
	assert_int_equal(addresses_of(&m, "www.example.org", TYPE_A, list), UINT_MAX);
}

static void test_loops_in_an_answer_end(void **state)
{
	struct message m = question_of("www.example.org", TYPE_A);
	struct dns_address list[DNS_ADDRESSES_MAX];
	const uint16_t self = (uint16_t)(0xc000 | m.len);

	(void)state;
	cname_put(&m, "www.example.org", "a.example.org");
	cname_put(&m, "a.example.org", "www.example.org");
	record_put(&m, NULL, 0xc00c, TYPE_A, "\x01\x02\x03\x04", 4);
	assert_true(addresses_of(&m, "www.example.org", TYPE_A, list) <= 1);
	/* A name that is a pointer to itself, and one that leads forwards. */
	m = question_of("www.example.org", TYPE_A);
	record_put(&m, NULL, self, TYPE_A, "\x01\x02\x03\x04", 4);
	record_put(&m, NULL, (uint16_t)(self + 200), TYPE_A, "\x01\x02\x03\x04", 4);
	record_put(&m, NULL, 0xc00c, TYPE_A, "\x01\x02\x03\x05", 4);
	assert_int_equal(addresses_of(&m, "www.example.org", TYPE_A, list), 1);
	assert_int_equal(list[0].address[15], 5);
	/* Cut anywhere, it is refused or gives less. */
	for (size_t len = 0; len < m.len; len++) {
		struct message cut = m;
		unsigned n;

		cut.len = len;
		n = addresses_of(&cut, "www.example.org", TYPE_A, list);
		assert_true(n == UINT_MAX || n == 0);
	}
}

/* ---- answers to the guest ---- */

static void test_denied_connection_gets_a_reset(void **state)
{
	static const char *const to[] = { PUBLIC, "2001:db8::1" };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(to); i++) {
		struct packet p = packet_of(to[i], IPPROTO_TCP, 40000, 443, TCP_SYN);
		struct guest_packet asked, answer;
		uint8_t out[GUEST_ANSWER_HEADERS];
		size_t len;

		assert_true(guest_packet_parse(p.bytes, p.len, &asked));
		len = guest_packet_reset(&asked, out);
		assert_true(guest_packet_parse(out, len, &answer));
		assert_memory_equal(answer.from, asked.to, sizeof(asked.to));
		assert_memory_equal(answer.to_mac, asked.from_mac, MAC_BYTES);
		assert_int_equal(answer.to_port, 40000);
		assert_int_equal(answer.flags, TCP_RST | TCP_ACK);
		assert_int_equal(answer.acknowledged, 1);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_frame_meets_its_verdict),
		cmocka_unit_test(test_malformed_frames_are_denied),
		cmocka_unit_test(test_address_of_a_name_is_open_for_its_ports_and_time),
		cmocka_unit_test(test_each_name_of_an_address_has_its_own_time),
		cmocka_unit_test(test_open_addresses_are_bounded),
		cmocka_unit_test(test_only_public_addresses_are_opened),
		cmocka_unit_test(test_first_rule_with_the_name_decides),
		cmocka_unit_test(test_questions_that_hide_something_are_refused),
		cmocka_unit_test(test_query_has_only_name_and_type_of_the_question),
		cmocka_unit_test(test_answer_opens_addresses_of_the_asked_name_only),
		cmocka_unit_test(test_loops_in_an_answer_end),
		cmocka_unit_test(test_denied_connection_gets_a_reset),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
