/* network_definition: the definition of a network of the host, parsed and checked. Its keys are those of the program
 * cairn-net (docs/networks.md), and the users who may connect VMs.
 * Threading: any thread. */
#ifndef CAIRN_API_DEFINITION_NETWORK_DEFINITION_H
#define CAIRN_API_DEFINITION_NETWORK_DEFINITION_H

#include "base/boot_file.h"

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct egress;
struct err;
struct json_object;

#define NETWORK_NAME_MAX 63 /* as for the source of an interface */
#define NETWORK_RANGES_MAX 16
#define NETWORK_HOSTS_MAX 256
#define NETWORK_DNS_HOSTS_MAX 128
#define NETWORK_DNS_NAMES_MAX 8
#define NETWORK_FORWARDERS_MAX 8
#define NETWORK_IDS_MAX 64
/* Limit of the canonical JSON, so that an answer with it is short enough for each client. */
#define NETWORK_TEXT_MAX (48 * 1024)
#define NETWORK_DOMAIN_MAX 253 /* RFC 1035, section 2.3.4, without the last dot */

/* The last three, and NETWORK_BRIDGE with a dev, are modes of macvtap: network_is_direct(). */
enum network_mode { NETWORK_NAT, NETWORK_ROUTE, NETWORK_ISOLATED, NETWORK_OPEN, NETWORK_BRIDGE, NETWORK_PRIVATE, NETWORK_VEPA,
	NETWORK_PASSTHROUGH };

/* Filters of a guest's tap: docs/networks.md, "Ports". */
enum network_filter { NETWORK_FILTER_OF_MODE, NETWORK_NO_SPOOFING, NETWORK_CLEAN_TRAFFIC, NETWORK_UNFILTERED };

struct network_range {
	struct in6_addr start, end;
};

/* A guest with a fixed address or name. */
struct network_host {
	char mac[18];	/* empty: none */
	char duid[400]; /* for IPv6; empty: none */
	char name[64];	/* one label; empty: none */
	struct in6_addr address; /* all zero: none */
};

/* IPv4 addresses are mapped: ::ffff:a.b.c.d. */
struct network_subnet {
	bool given;
	struct in6_addr address; /* the host's own */
	uint32_t prefix;
	bool nat; /* IPv6 only */
	bool dhcp_given;
	uint32_t lease_seconds; /* 0: the default; it may be given without ranges and hosts */
	struct network_range ranges[NETWORK_RANGES_MAX];
	uint32_t nranges;
	struct network_host *hosts; /* owned */
	uint32_t nhosts;
	/* IPv4 only */
	char *tftp_root; /* owned; NULL: no TFTP */
	char boot_file[BOOT_FILE_BYTES + 1]; /* empty: none */
	struct in6_addr boot_server; /* all zero: the network's own */
};

static inline bool network_subnet_has_dhcp(const struct network_subnet *s)
{
	return s->nranges || s->nhosts;
}

struct network_dns_host {
	struct in6_addr address;
	char names[NETWORK_DNS_NAMES_MAX][NETWORK_DOMAIN_MAX + 1];
	uint32_t nnames;
};

struct network_dns {
	bool given;
	bool off;
	struct in6_addr forwarders[NETWORK_FORWARDERS_MAX];
	uint32_t nforwarders;
	struct network_dns_host *hosts; /* owned */
	uint32_t nhosts;
};

/* Users or groups whose VMs may connect. */
struct network_ids {
	uint32_t list[NETWORK_IDS_MAX];
	uint32_t n;
};

#define NETWORK_DEVS_MAX 16
struct network_devs {
	char list[NETWORK_DEVS_MAX][IFNAMSIZ];
	uint32_t n;
};

struct network_definition {
	char name[NETWORK_NAME_MAX + 1];
	uint8_t uuid[16]; /* all zero: none given */
	uint8_t mode;	  /* enum network_mode */
	char bridge[IFNAMSIZ]; /* empty: none given */
	char mac[18];	       /* empty: none given */
	uint32_t mtu;	       /* 0: none given */
	bool stp;
	char dev[IFNAMSIZ]; /* empty: any; of a direct network: the link that its macvtap devices are on */
	struct network_devs devs; /* of a direct network, in place of dev: each guest gets one of them */
	char domain[NETWORK_DOMAIN_MAX + 1]; /* empty: none */
	bool domain_local;
	struct network_subnet ipv4, ipv6;
	struct network_dns dns;
	struct network_ids users, groups;
	struct egress *egress; /* destinations that the guests may reach (base/egress.h); owned; NULL: all */
	uint8_t filter;	     /* enum network_filter */
	bool isolated_ports; /* guests exchange no frames with one another */
};

/* Parse a network's definition. Returns 0; -EINVAL; -ENOMEM. The caller frees *ret_d with network_definition_free(). */
int network_definition_parse(struct json_object *o, struct network_definition **ret_d, struct err *e);
/* The same for a definition of the state folder, with the class ERR_UNSUPPORTED for what may be a newer Cairn's. */
int network_definition_parse_stored(struct json_object *o, struct network_definition **ret_d, struct err *e);
/* NULL allowed. */
void network_definition_free(struct network_definition *d);
/* Return the canonical JSON, owned by the caller. Parsing it gives an equal definition. */
struct json_object *network_definition_to_json(const struct network_definition *d);
/* The same without the keys that are the daemon's own: the request of cairn-net. */
struct json_object *network_definition_for_program(const struct network_definition *d);
/* Add devs, if the network has several links. */
void network_definition_put_devs(struct json_object *o, const struct network_definition *d);
const char *network_mode_name(unsigned mode);
/* Return whether guests are connected to a link of the host by macvtap devices, so that the network has no bridge. */
bool network_is_direct(const struct network_definition *d);
const char *network_filter_name(unsigned filter);

#endif
