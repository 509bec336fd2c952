#include "api/net/forward_check.h"
#include "api/definition/definition.h"
#include "api/net/network.h"
#include "base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

/* Return whether the text is an address that a guest can have in the network. */
static bool is_guests(const struct network_subnet *s, const char *text)
{
	struct in_addr a;
	uint32_t own, mask = 0xffffffffu << (32 - s->prefix), host;

	memcpy(&own, s->address.s6_addr + 12, sizeof(own));
	if (inet_pton(AF_INET, text, &a) != 1)
		return false;
	host = ntohl(a.s_addr) & ~mask;
	return !((ntohl(a.s_addr) ^ ntohl(own)) & mask) && host && host != ~mask && a.s_addr != own;
}

static int forward_check(const struct network_definition *d, unsigned at, unsigned k, const struct definition_forward *f, bool is_clone, struct err *e)
{
	if (is_clone && f->guest[0])
		return err_set(e, -EINVAL, ERR_INVALID, "interfaces[%u].forwards[%u].guest: a live clone is reached at the address that "
			"network '%s' gives it; remove guest", at, k, d->name);
	if (f->guest[0] && !is_guests(&d->ipv4, f->guest))
		return err_set(e, -EINVAL, ERR_INVALID, "interfaces[%u].forwards[%u].guest: %s is not an address that the guest can have in "
			"network '%s'", at, k, f->guest, d->name);
	if (!f->guest[0] && !is_clone && !network_subnet_has_dhcp(&d->ipv4))
		return err_set(e, -EINVAL, ERR_INVALID, "interfaces[%u].forwards[%u].guest: network '%s' has no DHCP, so Cairn does not know the "
			"guest's address; give it as guest (--guest ADDRESS)", at, k, d->name);
	return 0;
}

int forward_check_network(struct vm_host *host, const struct definition_interface *face, unsigned at, bool is_clone,
	const struct definition_forward *list, unsigned n, struct err *e)
{
	const struct network *network = face->type == DEFINITION_NETWORK ? network_find_name(host, face->source) : NULL;
	const struct network_definition *d = network ? network->live : NULL;
	int r = 0;

	if (!d || !n)
		return 0;
	if (d->mode != NETWORK_NAT || !d->ipv4.given)
		return err_set(e, -EINVAL, ERR_INVALID, "interfaces[%u].forwards: network '%s' has mode %s%s, and ports lead to VMs on networks of mode "
			"nat with IPv4 only; use such a network, or an interface of type user", at, d->name, network_mode_name(d->mode),
			d->ipv4.given ? "" : " and no IPv4");
	for (unsigned k = 0; k < n && !r; k++)
		r = forward_check(d, at, k, &list[k], is_clone, e);
	return r;
}
