#include "base/dns_message.h"
#include "base/bytes.h"
#include "base/util.h"

#include <ctype.h>
#include <string.h>

#define LABEL_MAX 63
#define NAME_TEXT 256 /* a name of an answer as text */
#define POINTER 0xc0
#define CNAMES_MAX 16
#define RECORDS_MAX 256 /* most records of an answer that are read */
enum { TYPE_A = 1, TYPE_CNAME = 5, TYPE_AAAA = 28, TYPE_OPT = 41, TYPE_AXFR = 252, TYPE_ANY = 255, TYPE_IXFR = 251 };
enum { CLASS_IN = 1 };
enum { QUERY_BITS = 0xf8, ANSWER_BIT = 0x80, OPCODE = 0x78, RECURSION = 1 }; /* bits of the byte at DNS_FLAGS */
#define EDNS_BYTES 11
#define EDNS_DNSSEC 0x8000
#define ROOM_DEFAULT 512
enum { RECORD_TYPE = 0, RECORD_CLASS = 2, RECORD_TTL = 4, RECORD_LENGTH = 8, RECORD_BYTES = 10 };

/* Read the name at *at as text in lower case. A pointer must lead backwards, behind the header; so it cannot loop.
 * strict: a name of a question, without pointers and of the characters of host names.
 * Sets *at behind the name. Returns false if it is not valid. */
static bool name_read(const uint8_t *message, size_t len, size_t *at, bool strict, char text[NAME_TEXT])
{
	size_t i = *at, lowest = *at, n = 0;
	bool jumped = false;

	for (;;) {
		uint8_t label = i < len ? message[i] : UINT8_MAX;

		if (i >= len)
			return false;
		if ((label & POINTER) == POINTER) {
			size_t to;

			if (strict || i + 2 > len)
				return false;
			to = load_be16(message + i) & 0x3fffu;
			if (to >= lowest || to < DNS_HEADER)
				return false;
			*at = jumped ? *at : i + 2;
			jumped = true;
			i = lowest = to;
			continue;
		}
		i++;
		if (!label)
			break;
		if (label > LABEL_MAX || i + label > len || n + label + 1 >= EGRESS_NAME_BYTES + 1)
			return false;
		if (n)
			text[n++] = '.';
		for (; label; label--, i++) {
			unsigned char c = message[i];

			/* A dot, NUL or the like in a label would make the text that of another name. */
			if (!isalnum(c) && c != '-' && c != '_')
				return false;
			text[n++] = (char)tolower(c);
		}
	}
	text[n] = 0;
	if (!jumped)
		*at = i;
	return true;
}

/* Skip a name of any characters. Returns false if it leaves the message. */
static bool name_skip(const uint8_t *message, size_t len, size_t *at)
{
	while (*at < len) {
		uint8_t label = message[*at];

		if ((label & POINTER) == POINTER) {
			*at += 2;
			return *at <= len;
		}
		if (label & POINTER)
			return false;
		*at += 1u + label;
		if (!label)
			return *at <= len;
	}
	return false;
}

/* ---- questions ---- */

static bool type_passes(uint16_t type)
{
	return type && type != TYPE_OPT && !(type >= 249 && type <= TYPE_ANY); /* TKEY, TSIG, zone transfers, ANY */
}

/* Read the record of EDNS behind the question. Returns false if there is anything else. */
static bool edns_read(const uint8_t *message, size_t len, struct dns_question *q)
{
	const uint8_t *record = message + q->bytes + 1;

	q->room = ROOM_DEFAULT;
	if (!load_be16(message + DNS_EXTRAS))
		return true;
	if (load_be16(message + DNS_EXTRAS) != 1 || len < q->bytes + EDNS_BYTES || message[q->bytes] ||
		load_be16(record + RECORD_TYPE) != TYPE_OPT)
		return false;
	q->edns = true;
	q->room = (uint16_t)MAX(ROOM_DEFAULT, MIN(load_be16(record + RECORD_CLASS), DNS_ANSWER_MAX));
	q->dnssec = load_be16(record + RECORD_TTL + 2) & EDNS_DNSSEC;
	return true;
}

bool dns_question_parse(const uint8_t *message, size_t len, struct dns_question *ret_q)
{
	char name[NAME_TEXT];
	size_t at = DNS_HEADER;

	*ret_q = (struct dns_question){ 0 };
	if (len < DNS_HEADER || (message[DNS_FLAGS] & QUERY_BITS) || load_be16(message + DNS_QUESTIONS) != 1 ||
		load_be16(message + DNS_ANSWERS) || load_be16(message + DNS_ANSWERS + 2) ||
		!name_read(message, len, &at, true, name) || at + 4 > len || strlen(name) >= EGRESS_NAME_BYTES)
		return false;
	ret_q->id = load_be16(message + DNS_ID);
	ret_q->type = load_be16(message + at);
	ret_q->bytes = at + 4;
	memcpy(ret_q->name, name, strlen(name) + 1);
	return load_be16(message + at + 2) == CLASS_IN && type_passes(ret_q->type) && edns_read(message, len, ret_q);
}

static size_t name_write(const char *name, uint8_t *out)
{
	size_t n = 0;

	while (*name) {
		size_t label = strcspn(name, ".");

		out[n++] = (uint8_t)label;
		memcpy(out + n, name, label);
		n += label;
		name += label + (name[label] == '.');
	}
	out[n++] = 0;
	return n;
}

size_t dns_query_make(const struct dns_question *q, uint16_t id, uint8_t out[DNS_QUERY_MAX])
{
	size_t n = DNS_HEADER;

	memset(out, 0, DNS_HEADER);
	store_be16(out + DNS_ID, id);
	out[DNS_FLAGS] = RECURSION;
	store_be16(out + DNS_QUESTIONS, 1);
	n += name_write(q->name, out + n);
	store_be16(out + n, q->type);
	store_be16(out + n + 2, CLASS_IN);
	n += 4;
	if (!q->edns)
		return n;
	store_be16(out + DNS_EXTRAS, 1);
	memset(out + n, 0, EDNS_BYTES);
	store_be16(out + n + 1 + RECORD_TYPE, TYPE_OPT);
	store_be16(out + n + 1 + RECORD_CLASS, q->room);
	store_be16(out + n + 1 + RECORD_TTL + 2, q->dnssec ? EDNS_DNSSEC : 0);
	return n + EDNS_BYTES;
}

/* ---- answers ---- */

bool dns_answer_fits(const struct dns_question *q, uint16_t id, const uint8_t *message, size_t len)
{
	char name[NAME_TEXT];
	size_t at = DNS_HEADER;

	return len >= DNS_HEADER && load_be16(message + DNS_ID) == id && (message[DNS_FLAGS] & ANSWER_BIT) &&
		!(message[DNS_FLAGS] & OPCODE) && load_be16(message + DNS_QUESTIONS) == 1 &&
		name_read(message, len, &at, true, name) && !strcmp(name, q->name) && at + 4 <= len &&
		load_be16(message + at) == q->type && load_be16(message + at + 2) == CLASS_IN;
}

struct record {
	char owner[NAME_TEXT];
	uint16_t type;
	uint32_t ttl_s;
	size_t data, data_bytes;
};

/* Read the record at *at, and set *at behind it. Returns 1; 0: a record that does not matter; -1: not valid. */
static int record_read(const uint8_t *message, size_t len, size_t *at, struct record *ret)
{
	size_t name = *at;
	bool named = name_read(message, len, &name, false, ret->owner);
	const uint8_t *fields;

	if (!name_skip(message, len, at) || *at + RECORD_BYTES > len)
		return -1;
	fields = message + *at;
	ret->data = *at + RECORD_BYTES;
	ret->data_bytes = load_be16(fields + RECORD_LENGTH);
	*at = ret->data + ret->data_bytes;
	if (*at > len)
		return -1;
	ret->type = load_be16(fields + RECORD_TYPE);
	ret->ttl_s = load_be32(fields + RECORD_TTL);
	return named && load_be16(fields + RECORD_CLASS) == CLASS_IN;
}

/* Find the name to which a CNAME record of the answer leads. */
static bool cname_follow(const uint8_t *message, size_t len, size_t begin, unsigned n, char name[NAME_TEXT])
{
	struct record r;
	size_t at = begin;
	int got = 0;

	for (unsigned i = 0; i < n && got >= 0; i++) {
		got = record_read(message, len, &at, &r);
		if (got > 0 && r.type == TYPE_CNAME && !strcmp(r.owner, name)) {
			char target[NAME_TEXT];
			size_t to = r.data;

			if (!name_read(message, r.data + r.data_bytes, &to, false, target))
				return false;
			memcpy(name, target, strlen(target) + 1);
			return true;
		}
	}
	return false;
}

static bool address_take(const struct dns_question *q, const uint8_t *message, const struct record *r,
	struct dns_address *ret)
{
	if (r->type != q->type)
		return false;
	if (r->type == TYPE_A && r->data_bytes == 4) {
		memcpy(ret->address, egress_ipv4_form, EGRESS_IPV4_AT);
		memcpy(ret->address + EGRESS_IPV4_AT, message + r->data, 4);
	} else if (r->type == TYPE_AAAA && r->data_bytes == EGRESS_ADDRESS_BYTES &&
		memcmp(message + r->data, egress_ipv4_form, EGRESS_IPV4_AT) != 0) {
		memcpy(ret->address, message + r->data, EGRESS_ADDRESS_BYTES);
	} else {
		return false;
	}
	ret->ttl_s = r->ttl_s;
	return true;
}

unsigned dns_answer_addresses(const struct dns_question *q, const uint8_t *message, size_t len,
	struct dns_address ret[DNS_ADDRESSES_MAX])
{
	char name[NAME_TEXT];
	size_t begin = q->bytes, at;
	unsigned n, count = 0;
	struct record r;
	int got = 0;

	if (len < DNS_HEADER || begin > len)
		return 0;
	/* The question of the answer is as long as that of the query (dns_answer_fits()). */
	n = MIN(load_be16(message + DNS_ANSWERS), RECORDS_MAX);
	memcpy(name, q->name, sizeof(q->name));
	for (unsigned i = 0; i < CNAMES_MAX && cname_follow(message, len, begin, n, name); i++)
		;
	at = begin;
	for (unsigned i = 0; i < n && got >= 0 && count < DNS_ADDRESSES_MAX; i++) {
		got = record_read(message, len, &at, &r);
		if (got > 0 && !strcmp(r.owner, name) && address_take(q, message, &r, &ret[count]))
			count++;
	}
	return count;
}
