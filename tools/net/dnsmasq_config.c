#include "tools/net/dnsmasq_config.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"
#include "tools/net/forks.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define LEASES_MAX 65536
#define DNS_QUESTIONS_MAX 16384 /* without an answer yet; one guest has at most 12000 (port_rules.c) */
#define RESOLV_MAX_BYTES (64 * KIB)

/* ---- name servers of the host ---- */

/* Return whether the file names a server that is not on loopback. */
static bool resolv_is_reachable(const char *path)
{
	CLEANUP_FREE char *text = NULL;
	struct address a;
	char server[64];
	size_t len;

	if (file_read(path, RESOLV_MAX_BYTES, &text, &len, NULL) < 0)
		return false;
	for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		if (sscanf(line, " nameserver %63s", server) == 1) {
			server[strcspn(server, "%")] = 0;
			if (!address_parse(server, AF_UNSPEC, &a) && !address_is_loopback(&a))
				return true;
		}
	return false;
}

const char *resolv_find(void)
{
	/* systemd-resolved keeps the servers that it asks itself in the second file. */
	static const char *const files[] = { "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf" };

	for (size_t i = 0; i < ARRAY_SIZE(files); i++)
		if (resolv_is_reachable(files[i]))
			return files[i];
	return NULL;
}

/* ---- configuration ---- */

static void lease_time_print(FILE *f, const struct subnet *s)
{
	if (s->lease_seconds == UINT32_MAX)
		fputs(",infinite\n", f);
	else
		fprintf(f, ",%" PRIu32 "\n", s->lease_seconds);
}

/* The suffix of an address range: the mask or the prefix, and the lease time. */
static void range_end_print(FILE *f, const struct subnet *s)
{
	struct address mask = { .family = AF_INET, .bytes = { 255, 255, 255, 255 } };
	char text[ADDRESS_TEXT_MAX];

	if (s->address.family == AF_INET) {
		mask = address_network(&mask, s->prefix);
		fprintf(f, ",%s", address_print(&mask, text));
	} else
		fprintf(f, ",%u", s->prefix);
	lease_time_print(f, s);
}

static void range_print(FILE *f, const struct subnet *s, const struct address *start, const struct address *end)
{
	char first[ADDRESS_TEXT_MAX], last[ADDRESS_TEXT_MAX];

	if (address_compare(start, end) > 0)
		return;
	fprintf(f, "dhcp-range=%s,%s", address_print(start, first), address_print(end, last));
	range_end_print(f, s);
}

/* Print a range without an address that is not for guests: dnsmasq's own. */
static void range_print_without(FILE *f, const struct subnet *s, const struct range *range, const struct address *taken)
{
	struct address before = address_step(taken, -1), after = address_step(taken, 1);

	if (address_compare(taken, &range->start) < 0 || address_compare(taken, &range->end) > 0) {
		range_print(f, s, &range->start, &range->end);
		return;
	}
	range_print(f, s, &range->start, &before);
	range_print(f, s, &after, &range->end);
}

static void ranges_print(FILE *f, const struct subnet *s, const struct address *service)
{
	struct address first = address_network(&s->address, s->prefix);
	char text[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < s->nranges; i++)
		range_print_without(f, s, &s->ranges[i], service);
	if (s->nranges || (!s->nhosts && s->address.family == AF_INET))
		return;
	fprintf(f, "dhcp-range=%s,%s", address_print(&first, text), s->nhosts ? "static" : "ra-only");
	range_end_print(f, s);
}

static void dhcp_ipv4_print(FILE *f, const struct network *n, const struct service *s)
{
	char text[ADDRESS_TEXT_MAX];

	ranges_print(f, &n->ipv4, &s->ipv4);
	if (network_is_forwarded(n))
		fprintf(f, "dhcp-option=option:router,%s\n", address_print(&n->ipv4.address, text));
	else
		fputs("dhcp-option=option:router\n", f);
	if (n->dns)
		fprintf(f, "dhcp-option=option:dns-server,%s\n", address_print(&s->ipv4, text));
	if (n->mtu)
		fprintf(f, "dhcp-option=option:mtu,%u\n", n->mtu);
	if (n->ipv4.boot_file)
		fprintf(f, "dhcp-boot=%s%s%s\n", n->ipv4.boot_file, n->ipv4.boot_server.family ? ",," : "",
			n->ipv4.boot_server.family ? address_print(&n->ipv4.boot_server, text) : "");
	/* Filters of ports check MAC addresses: by a client identifier, a guest would get another's lease. */
	fputs("dhcp-authoritative\ndhcp-no-override\ndhcp-ignore-clid\n", f);
}

static void dhcp_ipv6_print(FILE *f, const struct network *n, const struct service *s)
{
	char text[ADDRESS_TEXT_MAX];

	fputs("enable-ra\n", f);
	ranges_print(f, &n->ipv6, &s->ipv6);
	if (n->dns)
		fprintf(f, "dhcp-option=option6:dns-server,[%s]\n", address_print(&s->ipv6, text));
	if (!network_is_forwarded(n))
		fputs("ra-param=" SERVICE_LINK ",0,0\n", f); /* no router */
}

static void servers_print(FILE *f, const struct network *n, const char *resolv)
{
	char text[ADDRESS_TEXT_MAX];

	fprintf(f, "dns-forward-max=%d\n", DNS_QUESTIONS_MAX);
	if (n->nforwarders || !resolv || !network_is_forwarded(n))
		fputs("no-resolv\n", f);
	else
		fprintf(f, "resolv-file=%s\n", resolv);
	for (size_t i = 0; i < n->nforwarders; i++)
		fprintf(f, "server=%s\n", address_print(&n->forwarders[i], text));
}

void config_print(FILE *f, const struct network *n, const struct service *s, const char *resolv)
{
	fprintf(f, "# Written by cairn-net for network %s; changes are lost.\n", n->name);
	fprintf(f, "pid-file=\nno-hosts\ndomain-needed\nno-ping\nbind-interfaces\ninterface=" SERVICE_LINK "\n%s-interface=lo\n"
	      "quiet-dhcp\nquiet-dhcp6\nquiet-ra\n", network_has_names(n) ? "no-dhcp" : "except");
	if (network_has_names(n))
		fprintf(f, "listen-address=127.0.0.1\nport=%d\n", DNSMASQ_PORT);
	fprintf(f, "dhcp-leasefile=" SERVICE_FOLDER "/" LEASES "\ndhcp-hostsfile=" SERVICE_FOLDER "/" DHCP_HOSTS
		"\naddn-hosts=" SERVICE_FOLDER "/" DNS_HOSTS "\ndhcp-lease-max=%d\n", LEASES_MAX);
	if (n->dns)
		servers_print(f, n, resolv);
	else
		fputs("port=0\n", f);
	if (n->domain) {
		fprintf(f, "domain=%s\nexpand-hosts\n", n->domain);
		/* A name that no rule has must not be asked elsewhere, and cairn-dns takes all of the domain. */
		if (n->domain_local || network_has_names(n))
			fprintf(f, "local=/%s/\n", n->domain);
	}
	/* No guest becomes the proxy of the others by its name (CERT VU#598349). */
	fputs("dhcp-name-match=set:proxy,wpad\ndhcp-ignore-names=tag:proxy\ndhcp-ignore-names=tag:taken\n", f);
	if (n->ipv4.tftp_root)
		fputs("enable-tftp\ntftp-root=" SERVICE_FOLDER "/" TFTP_FOLDER "\n", f);
	if (n->ipv4.dhcp)
		dhcp_ipv4_print(f, n, s);
	if (n->ipv6.given)
		dhcp_ipv6_print(f, n, s);
}

/* ---- hosts ---- */

/* Find the address that is reserved for a fixed host (forks.h). NULL: none. */
static const struct address *reserved_for(const struct network *n, const struct dhcp_host *h)
{
	for (size_t i = 0; i < n->nforks; i++)
		if (!n->forks[i].gone && h->mac && fork_is_host(h, n->forks[i].mac, NULL))
			return &n->forks[i].address;
	return NULL;
}

/* A reserved address comes before the host's own: published ports lead to it, so its guest must keep it. The host's own
 * then gets a line that no client matches (dhcp-ignore-clid), so that dnsmasq leases the address to nobody. */
static void hosts_print(FILE *f, const struct network *n, const struct subnet *s)
{
	bool v4 = s->address.family == AF_INET;
	char text[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < s->nhosts; i++) {
		const struct dhcp_host *h = &s->hosts[i];
		const struct address *own = h->address.family ? &h->address : NULL, *a = v4 ? reserved_for(n, h) : NULL;

		a = a ? a : own;
		fprintf(f, "%s%s", h->duid ? "id:" : "", h->duid ? h->duid : h->mac);
		if (a)
			fprintf(f, v4 ? ",%s" : ",[%s]", address_print(a, text));
		if (h->name)
			fprintf(f, ",%s\n%s,set:taken", h->name, h->name); /* the second line is for clients that claim the name */
		fputc('\n', f);
		if (own && !address_equal(own, a))
			fprintf(f, "id:reserved,%s\n", address_print(own, text));
	}
}

static bool has_fixed_host(const struct network *n, const struct fork *k)
{
	for (size_t i = 0; i < n->ipv4.nhosts; i++)
		if (fork_is_host(&n->ipv4.hosts[i], k->mac, &k->address))
			return true;
	return false;
}

void dhcp_hosts_print(FILE *f, const struct network *n)
{
	char mac[MAC_TEXT_MAX], text[ADDRESS_TEXT_MAX];

	hosts_print(f, n, &n->ipv4);
	hosts_print(f, n, &n->ipv6);
	for (size_t i = 0; i < n->nforks; i++)
		if (!n->forks[i].gone && !has_fixed_host(n, &n->forks[i])) /* dnsmasq does not start with an address twice */
			fprintf(f, "%s,%s\n", mac_print(n->forks[i].mac, mac), address_print(&n->forks[i].address, text));
}

void dns_hosts_print(FILE *f, const struct network *n)
{
	char text[ADDRESS_TEXT_MAX];

	for (size_t i = 0; i < n->ndns_hosts; i++) {
		fputs(address_print(&n->dns_hosts[i].address, text), f);
		for (size_t j = 0; j < n->dns_hosts[i].nnames; j++)
			fprintf(f, " %s", n->dns_hosts[i].names[j]);
		fputc('\n', f);
	}
}
