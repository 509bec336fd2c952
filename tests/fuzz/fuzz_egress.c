/* fuzz_egress: libFuzzer target for the egress rules of cairn-slirp: frames of a guest, its questions to the resolver,
 * and the resolver's answers. An input is a sequence of two bytes of length and a message: a frame, or, if the length
 * is odd, an answer to the last question. */
#include "tests/fuzz/fuzz_api.h"

#include "base/bytes.h"
#include "base/util.h"
#include "base/dns_message.h"
#include "tools/slirp/egress_filter.h"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <string.h>

#define RULES "deny;allow tcp 443 *.example.org;allow tcp 80 192.0.2.0/24;allow udp 53 2001:db8::/32"
enum { IPV4 = ETHERNET_BYTES, IPV4_BYTES = 20, IPV6_BYTES = 40, PORT_TO = 2 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* The model's verdict on a frame, parsed as libslirp parses it. */
static bool frame_is_allowed(struct egress_filter *f, const uint8_t *frame, size_t len, uint64_t opened)
{
	const uint8_t *ip = frame + IPV4;
	uint8_t header;

	(void)f;
	if (load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_ARP)
		return true;
	if (load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_IPV6) {
		must(len >= IPV4 + IPV6_BYTES);
		if (ip[6] == IPPROTO_ICMPV6)
			return ip[IPV6_BYTES] != 128 || ip[24] == 0xfe;
		if (load_be32(ip + 24) == 0x20010db8)
			return ip[6] == IPPROTO_UDP && load_be16(ip + IPV6_BYTES + PORT_TO) == 53;
		return (ip[6] == IPPROTO_UDP && load_be16(ip + IPV6_BYTES + PORT_TO) == 547) || opened;
	}
	must(load_be16(frame + FRAME_TYPE_AT) == ETHERTYPE_IP && len >= IPV4 + IPV4_BYTES);
	must(ip[0] >> 4 == 4 && !(load_be16(ip + 6) & 0x3fff));
	header = (uint8_t)((ip[0] & 15) * 4);
	switch (ip[9]) {
	case IPPROTO_ICMP:
		return load_be32(ip + 16) >> 8 == 0x0a0002;
	case IPPROTO_UDP:
		return load_be16(ip + header + PORT_TO) == 67;
	case IPPROTO_TCP:
		return (load_be32(ip + 16) >> 8 == 0xc00002 && load_be16(ip + header + PORT_TO) == 80) || opened;
	default:
		return false;
	}
}

/* Take the message as an answer: what it opens must be public. Returns the number of addresses. */
static unsigned answer_take(struct egress_filter *f, const struct dns_question *q, const uint8_t *message, size_t len)
{
	struct dns_address list[DNS_ADDRESSES_MAX];
	unsigned n, opened = 0;

	if (!dns_answer_fits(q, q->id, message, len))
		return 0;
	n = dns_answer_addresses(q, message, len, list);
	must(n <= DNS_ADDRESSES_MAX);
	for (unsigned i = 0; i < n; i++) {
		if (!egress_filter_is_public(f, list[i].address))
			continue;
		must(load_be32(list[i].address + 12) >> 24 != 127 || list[i].address[0]);
		egress_filter_open(f, q->name, list[i].address, list[i].ttl_s, 1);
		opened++;
	}
	return opened;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct options o = { .filtered = true };
	struct dns_question q = { .id = 7, .type = 1, .bytes = 33, .name = "www.example.org" };
	struct egress_filter *f;
	struct guest_packet p;
	uint8_t query[DNS_QUERY_MAX], out[GUEST_ANSWER_HEADERS + DNS_ANSWER_MAX];
	char rules[] = RULES;
	uint64_t opened = 0;

	o.network.s_addr = htonl(0x0a000200);
	o.mask.s_addr = htonl(0xffffff00);
	o.gateway.s_addr = htonl(0x0a000202);
	o.resolver.s_addr = htonl(0x0a000203);
	must(egress_parse(rules, &o.egress) && !egress_filter_new(&o, &f, NULL));
	while (len > 2) {
		uint16_t header = load_le16(data);
		size_t n = MIN((size_t)header >> 1, len - 2);

		if (header & 1) {
			opened += answer_take(f, &q, data + 2, n);
		} else {
			enum egress_verdict verdict = egress_filter_verdict(f, data + 2, n, 2, &p);

			if (verdict == EGRESS_PASS)
				must(frame_is_allowed(f, data + 2, n, opened));
			if (verdict == EGRESS_DENY && p.protocol == IPPROTO_TCP)
				must(guest_packet_reset(&p, out) <= GUEST_ANSWER_HEADERS);
			if (verdict == EGRESS_QUESTION) {
				struct dns_question asked;

				must(p.data_bytes <= n);
				if (dns_question_parse(p.data, p.data_bytes, &asked) && egress_filter_takes_name(f, asked.name)) {
					must(strstr(asked.name, ".example.org") != NULL);
					must(dns_query_make(&asked, 7, query) <= DNS_QUERY_MAX);
					q = asked;
				}
				must(guest_packet_answer(&p, data + 2, MIN(n, DNS_ANSWER_MAX), out) <= sizeof(out));
			}
		}
		data += n + 2;
		len -= n + 2;
	}
	egress_filter_free(f);
	return 0;
}
