/* request: parses and checks the daemon's request. docs/networks.md has the keys. All strings point into the JSON
 * object, which the request owns. */
#ifndef CAIRN_TOOLS_NET_REQUEST_H
#define CAIRN_TOOLS_NET_REQUEST_H

#include "tools/net/address.h"

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct json_object;

#define RANGES_MAX 64
#define HOSTS_MAX 4096
#define FORWARDERS_MAX 16
#define DNS_HOSTS_MAX 1024
#define DNS_NAMES_MAX 64 /* of one address */
#define USED_MAX 1024
#define PORT_ADDRESSES_MAX 64
#define PORTS_MAX 256
#define DEVS_MAX 16
#define PEERS_MAX 128

#define ID_MAX 40
#define ALIAS_PREFIX "cairn "

enum network_mode {
	MODE_NAT,
	MODE_ROUTE,
	MODE_ISOLATED,
	MODE_OPEN,   /* routed, without rules of its own */
	MODE_BRIDGE, /* a bridge that somebody else made; with dev: macvtap, as all modes below */
	MODE_PRIVATE,
	MODE_VEPA,
	MODE_PASSTHROUGH,
};

struct range {
	struct address start, end;
};

struct dhcp_host {
	const char *mac; /* NULL: an IPv6 host with a DUID */
	const char *duid, *name; /* each may be NULL */
	struct address address; /* family 0: none */
};

struct subnet {
	bool given;
	struct address address; /* of the bridge */
	unsigned prefix;
	bool nat; /* IPv6: masquerade as for IPv4 */
	bool dhcp;
	uint32_t lease_seconds;
	struct range ranges[RANGES_MAX];
	size_t nranges;
	struct dhcp_host *hosts; /* owned */
	size_t nhosts;
	const char *tftp_root, *boot_file; /* IPv4; NULL: none */
	struct address boot_server; /* family 0: dnsmasq */
};

struct dns_host {
	struct address address;
	const char *names[DNS_NAMES_MAX];
	size_t nnames;
};

/* A live clone's tap, or one with published ports (forks.h). */
struct fork {
	char tap[IFNAMSIZ]; /* empty: one of the request */
	uint8_t mac[MAC_BYTES]; /* the clone's */
	struct address address; /* the unique one */
	bool gone;		/* the port is to be removed */
	bool grouped;		/* has peers */
	struct address inner;	/* entered for its peers; family 0: none */
};

struct network {
	const char *name;
	const char *uuid;
	enum network_mode mode;
	const char *bridge;
	uint8_t mac[MAC_BYTES];
	unsigned mtu; /* 0: the kernel's default */
	bool stp;
	const char *dev; /* NULL: any link of the host; of a direct network (direct.h): that of its macvtap links */
	const char *devs[DEVS_MAX]; /* of a direct network: its links; dev, or several */
	size_t ndevs;
	const char *domain; /* NULL: none */
	bool domain_local;
	struct subnet ipv4, ipv6;
	bool dns;
	struct egress *egress; /* destinations that the guests may reach; owned; NULL: all */
	struct address forwarders[FORWARDERS_MAX];
	size_t nforwarders;
	struct dns_host *dns_hosts; /* owned */
	size_t ndns_hosts;
	struct fork *forks; /* owned; read by forks_read() */
	size_t nforks;
	/* Names of the network's parts, made from the UUID. */
	char table[ID_MAX];	  /* nft tables: "cairn_" and the UUID without dashes */
	char config[2 * ID_MAX];  /* dnsmasq's file, which marks its process: also made from the folder */
	char alias[2 * ID_MAX];	  /* of its bridge or macvtap links, which marks them: likewise */
	char veth[IFNAMSIZ];	  /* the host's end of the veth */
	uint8_t veth_mac[MAC_BYTES]; /* of its other end */
};

enum port_filter {
	FILTER_NO_SPOOFING,   /* no addresses that are known to be others' */
	FILTER_CLEAN_TRAFFIC, /* the guest's own addresses only */
	FILTER_NONE,
};

/* Another clone of a fork's group. */
struct peer {
	uint8_t mac[MAC_BYTES]; /* its source's, which its guest has */
	uint8_t own[MAC_BYTES]; /* the clone's */
};

struct port {
	const char *tap;
	uint8_t mac[MAC_BYTES];
	uint8_t guest_mac[MAC_BYTES]; /* another one that the guest may use; the same as mac: none */
	struct {
		bool given;
		uint8_t mac[MAC_BYTES]; /* the source's, which the guest has */
		struct address address; /* likewise; family 0: not given */
		bool has_source;
		uint8_t source[MAC_BYTES]; /* own MAC address of a source that is a fork itself */
		struct peer *peers;	   /* owned */
		size_t npeers;
	} fork;
	enum port_filter filter;
	bool isolated;
	bool reserve; /* choose an address for the port's MAC, which dnsmasq leases to no other one */
	bool continues; /* the guest runs already, or resumes a saved state, so it uses its lease */
	struct address addresses[PORT_ADDRESSES_MAX];
	size_t naddresses;
	struct address unique; /* chosen for the port's fork, or the reserved one; family 0: none */
};

enum verb {
	VERB_UP,
	VERB_DOWN,
	VERB_UPDATE,
	VERB_LEASES,
	VERB_CHECK,
	VERB_FREE,
	VERB_PORT_UP,
	VERB_PORT_DOWN,
	VERB_PORT_RESERVE,
	VERB_DENIED,
	VERB_BLOCKED,
};

struct request {
	struct json_object *json; /* owned */
	enum verb verb;
	const char *folder;
	struct network net;
	struct port *ports; /* owned; of port-up, port-down and port-reserve */
	size_t nports;
	bool many; /* the request has "ports", and so has the answer */
	struct range used[USED_MAX]; /* first and last address of each network */
	size_t nused;
	struct {
		const char *mac; /* NULL: of all */
		uint32_t skip, most;
		int64_t after; /* the key of an earlier page's last lease; -1: none */
	} leases;
};

/* Parse and check the whole request. ret: zeroed by the caller, who calls request_done() in any case. Returns 0;
 * -EINVAL with a sentence that names the key. */
int request_parse(const char *text, size_t len, struct request *ret, struct err *e);
void request_done(struct request *r);

/* Whether the network has a dnsmasq: DHCP, DNS or router advertisements. */
/* Return whether it has macvtap links in place of a bridge. */
bool network_is_direct(const struct network *n);
bool network_has_dnsmasq(const struct network *n);
/* Return whether the egress rules have names, so that cairn-dns answers the guests. */
bool network_has_names(const struct network *n);
/* Return whether the guests reach each other only, and not the host: an isolated network without addresses. */
bool network_is_apart(const struct network *n);
/* Return whether the host passes on packets between the network and others. */
bool network_is_forwarded(const struct network *n);
bool port_has_guest_mac(const struct port *p);
/* Return whether the text may be the name of a link, and can stand in a rule of nft. */
bool link_name_is_valid(const char *name);

#endif
