#include "api/net/tap.h"
#include "api/access/authors.h"
#include "api/access/rights.h"
#include "api/definition/definition.h"
#include "api/definition/vm_config.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>

#define TAP_FILE "/dev/net/tun"
#define VHOST_FILE "/dev/vhost-net"
#define TAP_NAMES "vnet%d"
/* A tap with rules (network_ports.h) gets a name that no other one has had, since rules may outlive their tap. */
#define TAP_UNIQUE_NAMES "vnet%08x"
/* Size of the virtio-net header before each frame (devices/virtio/virtio_net_header.h). */
#define HEADER_BYTES 12

struct tap {
	unsigned at; /* index of the interface */
	const char *bridge;
	bool unique; /* choose a name of TAP_UNIQUE_NAMES */
	unsigned queues;
	int fds[VM_QUEUE_PAIRS_MAX]; /* one for each queue; -1: not open */
	int sock; /* any socket: ioctls on network devices need one; borrowed */
	char name[IFNAMSIZ];
	int mtu;
	bool vhost; /* open /dev/vhost-net for each queue */
};

static struct ifreq interface_request(const char *device)
{
	struct ifreq r = { 0 };

	snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", device);
	return r;
}

static int tap_failed(const struct tap *t, const char *what, struct err *e)
{
	int error = errno;

	if (error == EPERM || error == EACCES)
		return err_set(e, -error, ERR_PERMISSION,
			"interfaces[%u]: attaching to bridge '%s' requires root (CAP_NET_ADMIN); define the VM in "
			"root's daemon, or set \"link\" to \"down\"", t->at, t->bridge);
	return err_set_errno(e, -error, "interfaces[%u]: %s", t->at, what);
}

static int bridge_find(struct tap *t, struct err *e)
{
	struct ethtool_drvinfo driver = { .cmd = ETHTOOL_GDRVINFO };
	struct ifreq r = interface_request(t->bridge);

	if (ioctl(t->sock, SIOCGIFMTU, &r) < 0) {
		if (errno != ENODEV)
			return tap_failed(t, t->bridge, e);
		return err_set(e, -ENODEV, ERR_NOT_FOUND,
			"interfaces[%u].source: there is no bridge '%s'; create it with: ip link add %s type bridge "
			"&& ip link set %s up", t->at, t->bridge, t->bridge, t->bridge);
	}
	t->mtu = r.ifr_mtu;
	r.ifr_data = (char *)&driver;
	if (ioctl(t->sock, SIOCETHTOOL, &r) == 0 && !strcmp(driver.driver, "bridge"))
		return 0;
	return err_set(e, -EINVAL, ERR_INVALID, "interfaces[%u].source: '%s' is not a bridge; give the name of a "
		"bridge (ip link show type bridge)", t->at, t->bridge);
}

/* Open a queue of the tap. r: its name and flags; the kernel completes the name. */
static int queue_open(struct tap *t, unsigned queue, struct ifreq *r, struct err *e)
{
	int fd = t->fds[queue] = open(TAP_FILE, O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
		return err_set(e, -errno, ERR_HOST,
			"interfaces[%u]: this host has no tap devices (" TAP_FILE "); load the module with: modprobe tun",
			t->at);
	if (fd < 0)
		return tap_failed(t, TAP_FILE, e);
	return ioctl(fd, TUNSETIFF, r) < 0 ? tap_failed(t, "cannot make a tap device", e) : 0;
}

int tap_name_make(unsigned at, char name[IFNAMSIZ], struct err *e)
{
	uint32_t number;

	if (getrandom(&number, sizeof(number), 0) != (ssize_t)sizeof(number))
		return err_set_errno(e, -errno, "interfaces[%u]: cannot choose a name for the tap device", at);
	snprintf(name, IFNAMSIZ, TAP_UNIQUE_NAMES, number);
	return 0;
}

static int tap_make(struct tap *t, struct err *e)
{
	struct ifreq r = interface_request(TAP_NAMES);
	int header = HEADER_BYTES, ret;

	if (t->unique && (ret = tap_name_make(t->at, r.ifr_name, e)) < 0)
		return ret;
	r.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL | (t->queues > 1 ? IFF_MULTI_QUEUE : 0));
	ret = queue_open(t, 0, &r, e);
	if (ret < 0)
		return ret;
	if (ioctl(t->fds[0], TUNSETVNETHDRSZ, &header) < 0 || ioctl(t->fds[0], TUNSETOFFLOAD, 0UL) < 0)
		return tap_failed(t, "cannot make a tap device", e);
	memcpy(t->name, r.ifr_name, sizeof(t->name));
	t->name[sizeof(t->name) - 1] = 0;
	/* The flags of the tap, but IFF_TUN_EXCL: it exists. */
	r.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
	for (unsigned i = 1; i < t->queues && !ret; i++)
		ret = queue_open(t, i, &r, e);
	return ret;
}

/* A bridge takes the lowest MAC address of its ports, so the tap gets a high one: else the bridge's address would
 * change with each VM. Set the MTU before attaching, since a bridge takes the MTU of its smallest port. */
static int tap_set_up(const struct tap *t, const uint8_t mac[DEFINITION_MAC_BYTES], struct err *e)
{
	struct ifreq r = interface_request(t->name);

	r.ifr_hwaddr.sa_family = ARPHRD_ETHER;
	memcpy(r.ifr_hwaddr.sa_data, mac, DEFINITION_MAC_BYTES);
	r.ifr_hwaddr.sa_data[0] = (char)0xfe;
	if (ioctl(t->sock, SIOCSIFHWADDR, &r) < 0)
		return tap_failed(t, "cannot give the tap device an address", e);
	r = interface_request(t->name);
	r.ifr_mtu = t->mtu;
	if (ioctl(t->sock, SIOCSIFMTU, &r) < 0)
		return tap_failed(t, "cannot give the tap device the bridge's MTU", e);
	return 0;
}

static int tap_plug_in(const struct tap *t, struct err *e)
{
	struct ifreq r = interface_request(t->bridge);

	r.ifr_ifindex = (int)if_nametoindex(t->name);
	if (ioctl(t->sock, SIOCBRADDIF, &r) < 0)
		return tap_failed(t, "cannot attach the tap device to the bridge", e);
	r = interface_request(t->name);
	if (ioctl(t->sock, SIOCGIFFLAGS, &r) < 0)
		return tap_failed(t, "cannot bring the tap device up", e);
	r.ifr_flags |= IFF_UP;
	return ioctl(t->sock, SIOCSIFFLAGS, &r) < 0 ? tap_failed(t, "cannot bring the tap device up", e) : 0;
}

int tap_attach(const char *name, const char *bridge, struct err *e)
{
	CLEANUP_CLOSE int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct tap t = { .bridge = bridge, .sock = sock };
	int r;

	snprintf(t.name, sizeof(t.name), "%s", name);
	r = tap_plug_in(&t, e);
	return r == -EBUSY ? 0 : r;
}

static bool bridge_is_listed(const char *list, const char *name)
{
	size_t n = strlen(name);

	for (const char *s = list; s; s = strchr(s, ',') ? strchr(s, ',') + 1 : NULL)
		if (!strncmp(s, name, n) && (!s[n] || s[n] == ','))
			return true;
	return false;
}

static void tap_drop(struct tap *t)
{
	for (unsigned i = 0; i < t->queues; i++)
		if (t->fds[i] >= 0)
			close(t->fds[i]);
}

/* Open /dev/vhost-net for each queue, and add the files to c. */
static int vhost_add(struct config *c, const struct tap *t, struct err *e)
{
	for (unsigned i = 0; i < t->queues; i++) {
		int fd = open(VHOST_FILE, O_RDWR | O_CLOEXEC);
		unsigned at;

		if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
			return err_set(e, -errno, ERR_HOST, "interfaces[%u].vhost: this host has no " VHOST_FILE "; load the module with: "
				"modprobe vhost_net, or remove \"vhost\"", t->at);
		if (fd < 0)
			return err_set_errno(e, -errno, "interfaces[%u].vhost: " VHOST_FILE, t->at);
		at = config_add_fd(c, fd);
		if (at == VM_NO_FD)
			return err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files");
		c->vm.vhost_fds[t->at][i] = (uint16_t)at;
	}
	c->vm.vhost[t->at] = VM_VHOST_YES;
	return 0;
}

/* Detach all queues but the first, so that no frame waits in a queue that the guest's driver may never use. The VM's
 * process attaches those that the driver uses. */
static int queues_detach(const struct tap *t, struct err *e)
{
	struct ifreq r = { .ifr_flags = IFF_DETACH_QUEUE };

	for (unsigned i = 1; i < t->queues; i++)
		if (ioctl(t->fds[i], TUNSETQUEUE, &r) < 0)
			return tap_failed(t, "cannot detach a queue of the tap device", e);
	return 0;
}

/* Add the queues' files to c, which takes them. */
static int tap_hand_over(struct config *c, struct tap *t, struct err *e)
{
	struct vm_interface *v = &c->vm.interfaces[t->at];
	int r = queues_detach(t, e);

	if (r < 0)
		return r;
	for (unsigned i = 0; i < t->queues; i++) {
		unsigned at = config_add_fd(c, steal_fd(&t->fds[i]));

		if (at == VM_NO_FD)
			return err_set(e, -EMFILE, ERR_INVALID, "the VM has too many files");
		*(i ? &c->vm.pair_fds[t->at][i - 1] : &v->tap_fd) = (uint16_t)at;
	}
	v->mtu = (uint16_t)MIN(t->mtu, UINT16_MAX);
	snprintf(v->target, sizeof(v->target), "%.*s", (int)sizeof(v->target) - 1, t->name);
	return t->vhost ? vhost_add(c, t, e) : 0;
}

static int tap_add(struct config *c, unsigned at, const struct definition_interface *i, const char *bridge, int sock,
	struct err *e)
{
	struct tap t = { .at = at, .bridge = bridge, .unique = i->type == DEFINITION_NETWORK, .queues = MAX(i->queues, 1),
		.sock = sock, .vhost = i->vhost };
	int r = bridge_find(&t, e);

	for (unsigned k = 0; k < t.queues; k++)
		t.fds[k] = -1;
	if (!r)
		r = tap_make(&t, e);
	if (!r)
		r = tap_set_up(&t, i->mac, e);
	if (!r)
		r = tap_plug_in(&t, e);
	if (!r)
		r = tap_hand_over(c, &t, e);
	if (r < 0)
		tap_drop(&t);
	return r;
}

/* ---- macvtap ---- */

/* Open a queue of the macvtap link. The node of a link in another network namespace may have the same number. */
static int direct_queue_open(struct tap *t, unsigned queue, int index, struct err *e)
{
	struct ifreq own = { 0 }, flags = { 0 };
	int header = HEADER_BYTES, fd;
	char path[32];

	snprintf(path, sizeof(path), "/dev/tap%d", index);
	fd = t->fds[queue] = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return err_set(e, -ENOENT, ERR_HOST, "interfaces[%u]: %s is missing, the device of a macvtap link; Cairn needs devtmpfs or udev on /dev",
			t->at, path);
	if (fd < 0)
		return err_set_errno(e, -errno, "interfaces[%u]: %s", t->at, path);
	if (ioctl(fd, TUNGETIFF, &own) < 0 || strcmp(own.ifr_name, t->name) != 0)
		return err_set(e, -EEXIST, ERR_HOST, "interfaces[%u]: %s belongs to a link of another network namespace; try again", t->at, path);
	flags.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (t->queues > 1 ? IFF_MULTI_QUEUE : 0));
	if (ioctl(fd, TUNSETIFF, &flags) < 0 || ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(fd, TUNSETOFFLOAD, 0UL) < 0)
		return err_set_errno(e, -errno, "interfaces[%u]: cannot set up %s", t->at, path);
	return 0;
}

int tap_add_direct(struct config *c, unsigned at, unsigned queues, bool vhost, const char *name, struct err *e)
{
	CLEANUP_CLOSE int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct tap t = { .at = at, .queues = MAX(queues, 1), .sock = sock, .vhost = vhost };
	struct ifreq r = interface_request(name);
	int index = (int)if_nametoindex(name), ret = 0;

	if (!index || sock < 0 || ioctl(sock, SIOCGIFMTU, &r) < 0)
		return err_set_errno(e, -errno, "interfaces[%u]: macvtap link %s", at, name);
	t.mtu = r.ifr_mtu;
	snprintf(t.name, sizeof(t.name), "%s", name);
	for (unsigned i = 0; i < t.queues; i++)
		t.fds[i] = -1;
	for (unsigned i = 0; i < t.queues && !ret; i++)
		ret = direct_queue_open(&t, i, index, e);
	if (!ret)
		ret = tap_hand_over(c, &t, e);
	if (ret < 0)
		tap_drop(&t);
	return ret;
}

/* ---- bridges ---- */

/* Check that the user may use the bridge: a port on it reaches everything else that root attached to it. */
static int bridge_check(const struct definition *d, unsigned at, const char *allowed, struct err *e)
{
	const char *bridge = d->interfaces[at].source;
	const struct rights *author = author_of_interface(d, &d->interfaces[at]);

	if (!author || bridge_is_listed(allowed, bridge))
		return 0;
	return err_set(e, -EPERM, ERR_PERMISSION,
		"interfaces[%u].source: user %u defined the VM and may not use bridge '%s'; let root define the VM, "
		"or start the daemon with: cairnd --allow-bridge %s", at, (unsigned)author->uid, bridge, bridge);
}

/* Return the bridge of an interface that needs a tap, borrowed. Returns -errno if the interface may not use it. */
static int bridge_of(const struct definition *d, unsigned at, const struct tap_rules *rules, const char **ret, struct err *e)
{
	*ret = d->interfaces[at].source;
	if (d->interfaces[at].type == DEFINITION_BRIDGE)
		return bridge_check(d, at, rules->bridges_for_all, e);
	if (rules->network_bridge)
		return rules->network_bridge(rules->opaque, d, at, ret, e);
	return err_set(e, -ENOTSUP, ERR_UNSUPPORTED, "interfaces[%u]: network '%s' belongs to the daemon; define and start the VM "
		"there, or use an interface of type user", at, d->interfaces[at].source);
}

/* c: NULL: look for the bridges only. */
static int taps_each(struct config *c, const struct definition *d, const struct tap_rules *rules, struct err *e)
{
	CLEANUP_CLOSE int sock = -1;
	const char *bridge;
	int r = 0;

	for (unsigned i = 0; i < d->ninterfaces && !r; i++) {
		if (d->interfaces[i].type == DEFINITION_USER || d->interfaces[i].link)
			continue;
		if (sock < 0)
			sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		r = sock < 0 ? err_set_errno(e, -errno, "socket") : bridge_of(d, i, rules, &bridge, e);
		if (!r && bridge)
			r = c ? tap_add(c, i, &d->interfaces[i], bridge, sock, e) :
				bridge_find(&(struct tap){ .at = i, .bridge = bridge, .sock = sock }, e);
	}
	return r;
}

int taps_add(struct config *c, const struct definition *d, const struct tap_rules *rules, struct err *e)
{
	return taps_each(c, d, rules, e);
}

int taps_check(const struct definition *d, const struct tap_rules *rules, struct err *e)
{
	return taps_each(NULL, d, rules, e);
}
