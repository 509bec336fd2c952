#include "tools/dns/settings.h"
#include "base/err.h"
#include "base/util.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REVERSE ".in-addr.arpa"
enum { TYPE_A = 1, TYPE_PTR = 12, TYPE_AAAA = 28 };

/* ---- lines ---- */

static bool address_parse(const char *text, uint8_t ret[EGRESS_ADDRESS_BYTES])
{
	memcpy(ret, egress_ipv4_form, EGRESS_IPV4_AT);
	return inet_pton(AF_INET, text, ret + EGRESS_IPV4_AT) == 1 || inet_pton(AF_INET6, text, ret) == 1;
}

static bool user_parse(struct settings *s, char *text)
{
	char *end;
	unsigned long user = strtoul(text, &end, 10);

	s->user = (uid_t)user;
	return isdigit((unsigned char)*text) && !*end && user && user < UINT32_MAX;
}

static bool egress_line_parse(struct settings *s, char *text)
{
	return egress_parse(text, &s->egress);
}

static bool listen_parse(struct settings *s, char *text)
{
	return s->nlisten < LISTEN_MAX && address_parse(text, s->listen[s->nlisten++]);
}

static bool gateway_parse(struct settings *s, char *text)
{
	return address_parse(text, s->gateway);
}

static bool own_parse(struct settings *s, char *text)
{
	struct egress_rule r = { 0 };

	if (s->nown == LISTEN_MAX || egress_target_parse(text, &r) || r.target != EGRESS_PREFIX)
		return false;
	s->own[s->nown].bits = r.bits;
	memcpy(s->own[s->nown++].address, r.address, sizeof(r.address));
	return true;
}

static void lower(char *text)
{
	for (; *text; text++)
		*text = (char)tolower((unsigned char)*text);
}

static bool domain_parse(struct settings *s, char *text)
{
	lower(text);
	return snprintf(s->domain, sizeof(s->domain), "%s", text) < (int)sizeof(s->domain);
}

static bool name_parse(struct settings *s, char *text)
{
	lower(text);
	s->names = must_alloc(reallocarray(s->names, s->nnames + 1, sizeof(*s->names)));
	s->names[s->nnames++] = must_alloc(strdup(text));
	return true;
}

static const struct {
	const char *word;
	bool (*parse)(struct settings *s, char *text);
} lines[] = {
	{ "user", user_parse }, { "egress", egress_line_parse }, { "listen", listen_parse }, { "gateway", gateway_parse },
	{ "own", own_parse }, { "domain", domain_parse }, { "name", name_parse },
};

static bool line_parse(struct settings *s, char *line)
{
	char *word = strsep(&line, " ");

	for (size_t i = 0; line && i < ARRAY_SIZE(lines); i++)
		if (!strcmp(word, lines[i].word))
			return lines[i].parse(s, line);
	return false;
}

static int names_compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

int settings_parse(char *text, struct settings *ret, struct err *e)
{
	for (char *line; (line = strsep(&text, "\n"));)
		if (*line && !line_parse(ret, line))
			return err_set(e, -EINVAL, ERR_INVALID, "cairn-dns: wrong line '%.40s'", line);
	if (!ret->user || !ret->nlisten || !ret->gateway[EGRESS_ADDRESS_BYTES - 1])
		return err_set(e, -EINVAL, ERR_INVALID, "cairn-dns: user, listen or gateway is missing");
	qsort(ret->names, ret->nnames, sizeof(*ret->names), names_compare);
	return 0;
}

void settings_done(struct settings *s)
{
	for (size_t i = 0; i < s->nnames; i++)
		free(s->names[i]);
	free(s->names);
}

/* ---- names and addresses ---- */

/* Is it the name of an IPv4 address of the network, such as 7.122.168.192.in-addr.arpa, and no other form of it? */
static bool name_is_own_address(const struct settings *s, const char *name)
{
	uint8_t address[EGRESS_ADDRESS_BYTES];
	unsigned b[4];
	char text[64];

	if (sscanf(name, "%3u.%3u.%3u.%3u", &b[3], &b[2], &b[1], &b[0]) != 4)
		return false;
	snprintf(text, sizeof(text), "%u.%u.%u.%u" REVERSE, b[3], b[2], b[1], b[0]);
	if (strcmp(text, name) != 0)
		return false;
	memcpy(address, egress_ipv4_form, EGRESS_IPV4_AT);
	for (unsigned i = 0; i < 4; i++) {
		if (b[i] > UINT8_MAX)
			return false;
		address[EGRESS_IPV4_AT + i] = (uint8_t)b[i];
	}
	for (unsigned i = 0; i < s->nown; i++)
		if (egress_prefix_has(&s->own[i], address))
			return true;
	return false;
}

static bool name_is_below_domain(const struct settings *s, const char *name)
{
	size_t n = strlen(name), own = strlen(s->domain);

	if (!own || n < own || strcmp(name + n - own, s->domain) != 0)
		return false;
	return n == own || name[n - own - 1] == '.';
}

bool settings_name_is_local(const struct settings *s, const char *name, uint16_t type)
{
	if (name_is_below_domain(s, name))
		return true;
	if (type == TYPE_PTR)
		return name_is_own_address(s, name);
	/* dnsmasq asks for other types of names without a dot, and of its hosts, elsewhere. */
	if (!*name || (type != TYPE_A && type != TYPE_AAAA))
		return false;
	return !strchr(name, '.') || (s->nnames && bsearch(&name, s->names, s->nnames, sizeof(*s->names), names_compare));
}

bool settings_address_opens(const struct settings *s, const uint8_t address[EGRESS_ADDRESS_BYTES])
{
	for (unsigned i = 0; i < s->nown; i++)
		if (egress_prefix_has(&s->own[i], address))
			return false;
	return egress_address_is_public(address);
}
