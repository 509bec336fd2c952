/* dnsmasq_config: the text of dnsmasq's files. */
#ifndef CAIRN_TOOLS_NET_DNSMASQ_CONFIG_H
#define CAIRN_TOOLS_NET_DNSMASQ_CONFIG_H

#include "tools/net/request.h"
#include "tools/net/rules.h"

#include <stdio.h>

/* As dnsmasq sees it. */
#define SERVICE_LINK "svc0"
#define SERVICE_FOLDER "/tmp"
#define DHCP_HOSTS "dhcp-hosts"
#define DNS_HOSTS "dns-hosts"
#define LEASES "state/leases"
#define TFTP_FOLDER "tftp" /* the network's tftp_root is mounted there */
/* The port at which dnsmasq answers cairn-dns, on loopback (tools/dns/resolver.h); jail.c closes it to the guests. */
#define DNSMASQ_PORT 5300

/* Print the configuration. resolv: a file with the host's name servers; NULL: there are none that dnsmasq can reach. */
void config_print(FILE *f, const struct network *n, const struct service *s, const char *resolv);
/* Print the fixed hosts of DHCP, and the names of DNS. dnsmasq reads both again after SIGHUP. */
void dhcp_hosts_print(FILE *f, const struct network *n);
void dns_hosts_print(FILE *f, const struct network *n);

/* Find the file with the host's name servers. Returns a constant; NULL if all of them listen on loopback. */
const char *resolv_find(void);

#endif
