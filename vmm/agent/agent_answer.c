/* Parser of a guest agent's answers: an object with "return" or "error". Skips other members; anything else is
 * AGENT_GARBAGE. */
#include "vmm/agent/agent.h"
#include "vmm/vm_msg.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define DEPTH_MAX 16

struct cursor {
	const char *at, *end;
};

static void blanks_skip(struct cursor *c)
{
	while (c->at < c->end && strchr(" \t\r", *c->at) && *c->at)
		c->at++;
}

/* Return the next character that is not white space; 0 at the end. */
static char char_peek(struct cursor *c)
{
	blanks_skip(c);
	return c->at < c->end ? *c->at : 0;
}

static bool char_take(struct cursor *c, char want)
{
	if (char_peek(c) != want)
		return false;
	c->at++;
	return true;
}

/* Read a string's content, truncated to size. A backslash with the next character, and each unprintable byte, becomes a
 * '?'. buf NULL: skip the string. */
static bool string_read(struct cursor *c, char *buf, size_t size)
{
	size_t n = 0;

	if (!char_take(c, '"'))
		return false;
	for (; c->at < c->end && *c->at != '"'; c->at++) {
		char ch = *c->at;

		if (ch == '\\' && ++c->at == c->end)
			return false;
		if (ch == '\\' || !isprint((unsigned char)ch))
			ch = '?';
		if (buf && n + 1 < size)
			buf[n++] = ch;
	}
	if (buf)
		buf[n] = 0;
	return c->at++ < c->end;
}

static bool number_read(struct cursor *c, int64_t *ret)
{
	bool negative = char_take(c, '-');
	const char *from = c->at;
	int64_t n = 0;

	for (; c->at < c->end && isdigit((unsigned char)*c->at); c->at++) {
		if (n > (INT64_MAX - 9) / 10)
			return false;
		n = 10 * n + (*c->at - '0');
	}
	*ret = negative ? -n : n;
	return c->at > from;
}

/* Skip any value: count brackets, and parse strings to find their end. */
static bool value_skip(struct cursor *c)
{
	unsigned depth = 0;

	do {
		char ch = char_peek(c);

		if (!ch)
			return false;
		if (ch == '"') {
			if (!string_read(c, NULL, 0))
				return false;
			continue;
		}
		if ((ch == '{' || ch == '[') && ++depth > DEPTH_MAX)
			return false;
		if ((ch == '}' || ch == ']' || ch == ',' || ch == ':') && !depth)
			return false;
		if (ch == '}' || ch == ']')
			depth--;
		c->at++;
		/* Skip the rest of a word or a number. */
		while (!depth && c->at < c->end &&
			(isalnum((unsigned char)*c->at) || strchr("+-.", *c->at)) && *c->at &&
			(isalnum((unsigned char)ch) || ch == '-'))
			c->at++;
	} while (depth);
	return true;
}

static bool error_parse(struct cursor *c, struct agent_answer *ret)
{
	char key[16];

	if (!char_take(c, '{'))
		return false;
	while (!char_take(c, '}')) {
		bool good = string_read(c, key, sizeof(key)) && char_take(c, ':');

		if (good && !strcmp(key, "desc"))
			good = string_read(c, ret->desc, sizeof(ret->desc));
		else if (good)
			good = value_skip(c);
		if (!good || (!char_take(c, ',') && char_peek(c) != '}'))
			return false;
	}
	ret->kind = AGENT_ERROR;
	return true;
}

static bool return_parse(struct cursor *c, struct agent_answer *ret)
{
	char ch = char_peek(c);

	ret->kind = AGENT_RETURN;
	ret->is_number = ch == '-' || isdigit((unsigned char)ch);
	return ret->is_number ? number_read(c, &ret->number) : value_skip(c);
}

static bool object_parse(struct cursor *c, struct agent_answer *ret)
{
	char key[16];

	if (!char_take(c, '{'))
		return false;
	while (!char_take(c, '}')) {
		bool good = string_read(c, key, sizeof(key)) && char_take(c, ':');

		if (good && !strcmp(key, "return"))
			good = return_parse(c, ret);
		else if (good && !strcmp(key, "error"))
			good = error_parse(c, ret);
		else if (good)
			good = value_skip(c);
		if (!good || (!char_take(c, ',') && char_peek(c) != '}'))
			return false;
	}
	return !char_peek(c);
}

void agent_answer_parse(const char *line, size_t len, struct agent_answer *ret)
{
	struct cursor c = {line, line + len};

	*ret = (struct agent_answer){.kind = AGENT_GARBAGE};
	if (!object_parse(&c, ret))
		*ret = (struct agent_answer){.kind = AGENT_GARBAGE};
}

/* ---- guest-network-get-interfaces ---- */

/* Take the comma between two members, or look for the end of the list or object. Returns false if there is neither. */
static bool next_or(struct cursor *c, char end)
{
	return char_take(c, ',') || char_peek(c) == end;
}

/* Parse the text of an address into *x; sets VM_ADDRESS_NONE when the text is no address. */
static void address_set(struct vm_address *x, char *text)
{
	text[strcspn(text, "%")] = 0; /* "fe80::1%eth0": cut the zone off */
	x->family = inet_pton(AF_INET, text, x->bytes) == 1    ? VM_ADDRESS_IPV4
		    : inet_pton(AF_INET6, text, x->bytes) == 1 ? VM_ADDRESS_IPV6
							       : VM_ADDRESS_NONE;
}

static bool address_parse(struct cursor *c, struct vm_address *x)
{
	char key[16], text[64];
	int64_t prefix = 0;

	x->family = VM_ADDRESS_NONE;
	if (!char_take(c, '{'))
		return false;
	while (!char_take(c, '}')) {
		bool good = string_read(c, key, sizeof(key)) && char_take(c, ':');

		if (good && !strcmp(key, "ip-address")) {
			good = string_read(c, text, sizeof(text));
			if (good)
				address_set(x, text);
		} else if (good && !strcmp(key, "prefix")) {
			good = number_read(c, &prefix);
		} else if (good) {
			good = value_skip(c);
		}
		if (!good || !next_or(c, '}'))
			return false;
	}
	if (prefix < 0 || prefix > (x->family == VM_ADDRESS_IPV4 ? 32 : 128))
		x->family = VM_ADDRESS_NONE;
	x->prefix = (uint8_t)prefix;
	return true;
}

static void address_add(struct vm_addresses *all, const struct vm_address *x)
{
	if (all->n == VM_ADDRESSES_MAX)
		all->cut = 1;
	else
		all->list[all->n++] = *x;
}

static bool address_list_parse(struct cursor *c, struct vm_addresses *all)
{
	if (!char_take(c, '['))
		return false;
	while (!char_take(c, ']')) {
		struct vm_address x = {0};

		if (!address_parse(c, &x) || !next_or(c, ']'))
			return false;
		if (x.family)
			address_add(all, &x);
	}
	return true;
}

static void mac_set(struct vm_address *x, const char *text)
{
	unsigned m[6];
	char rest;

	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%c", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5], &rest) != 6)
		return;
	for (size_t i = 0; i < 6; i++)
		x->mac[i] = (uint8_t)m[i];
	x->has_mac = 1;
}

/* Parse an interface; its members come in any order. */
static bool interface_parse(struct cursor *c, struct vm_addresses *all)
{
	struct vm_address its = {0};
	uint32_t from = all->n;
	char key[20], text[24];

	if (!char_take(c, '{'))
		return false;
	while (!char_take(c, '}')) {
		bool good = string_read(c, key, sizeof(key)) && char_take(c, ':');

		if (good && !strcmp(key, "name")) {
			good = string_read(c, its.name, sizeof(its.name));
		} else if (good && !strcmp(key, "hardware-address")) {
			good = string_read(c, text, sizeof(text));
			if (good)
				mac_set(&its, text);
		} else if (good && !strcmp(key, "ip-addresses")) {
			good = address_list_parse(c, all);
		} else if (good) {
			good = value_skip(c);
		}
		if (!good || !next_or(c, '}'))
			return false;
	}
	if (all->n == from)
		address_add(all, &its);
	for (uint32_t i = from; i < all->n; i++) {
		memcpy(all->list[i].name, its.name, sizeof(its.name));
		memcpy(all->list[i].mac, its.mac, sizeof(its.mac));
		all->list[i].has_mac = its.has_mac;
	}
	return true;
}

bool agent_addresses_parse(const char *line, size_t len, struct vm_addresses *ret)
{
	struct cursor c = {line, line + len};
	char key[16];

	*ret = (struct vm_addresses){0};
	if (!char_take(&c, '{'))
		return false;
	while (!char_take(&c, '}')) {
		bool good = string_read(&c, key, sizeof(key)) && char_take(&c, ':');

		if (good && !strcmp(key, "return")) {
			good = char_take(&c, '[');
			while (good && !char_take(&c, ']'))
				good = interface_parse(&c, ret) && next_or(&c, ']');
		} else if (good) {
			good = value_skip(&c);
		}
		if (!good || !next_or(&c, '}'))
			return false;
	}
	return true;
}
