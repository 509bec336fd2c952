#include "vmm/machine/nic.h"
#include "base/err.h"
#include "base/loop.h"
#include "base/util.h"
#include "devices/dev_host.h"
#include "devices/virtio/virtio_net.h"
#include "vmm/kvm/thread_filter.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define LOOP_ENTRIES 64

/* at: index of the file in fds. Returns 0 or -errno. */
static int fd_take(int *fds, uint16_t at, int *ret)
{
	int flags;

	*ret = fds[at];
	fds[at] = -1;
	flags = fcntl(*ret, F_GETFL);
	return flags < 0 || fcntl(*ret, F_SETFL, flags | O_NONBLOCK) < 0 ? -errno : 0;
}

static int tap_take(struct nic *n, const struct vm_config *cfg, unsigned at, int *fds, struct err *e)
{
	int r;

	if (n->cfg->tap_fd == VM_NO_FD)
		return 0;
	r = fd_take(fds, n->cfg->tap_fd, &n->tap_fd);
	for (unsigned i = 1; i < n->pairs && !r; i++)
		r = fd_take(fds, cfg->pair_fds[at][i - 1], &n->more_fds[i - 1]);
	n->vhost = cfg->vhost[at] == VM_VHOST_YES;
	for (unsigned i = 0; i < n->pairs && n->vhost && !r; i++)
		r = fd_take(fds, cfg->vhost_fds[at][i], &n->vhost_fds[i]);
	if (r < 0)
		return err_set_errno(e, r, "%s", n->cfg->id);
	return n->on_main_loop ? 0 : loop_new(LOOP_ENTRIES, &n->loop, e);
}

static struct virtio_net_limit limit_of(const struct vm_interface_limit *l)
{
	return (struct virtio_net_limit){ .average = l->average, .peak = l->peak, .burst = l->burst, .packets = l->packets };
}

static struct virtio_net_limits limits_of(const struct vm_interface_limits *l)
{
	return (struct virtio_net_limits){ .in = limit_of(&l->in), .out = limit_of(&l->out) };
}

int nic_init(struct nic *n, struct dev_host *h, struct pci_host *p, const struct vm_config *cfg, unsigned at,
	int *fds, struct device **ret_dev, struct err *e)
{
	const struct vm_interface *i = &cfg->interfaces[at];
	struct virtio_net_config c = { .name = i->id, .mtu = i->mtu, .user = i->user, .slot = cfg->interface_slots[at],
		.link_down = cfg->link_down[at], .limits = limits_of(&cfg->limits[at]) };
	int r;

	n->cfg = i;
	n->pairs = MAX(cfg->queue_pairs[at], 1u);
	n->is_uncounted = cfg->vhost[at] != VM_VHOST_NO;
	n->tap_fd = -1;
	for (unsigned k = 0; k < ARRAY_SIZE(n->more_fds); k++)
		n->more_fds[k] = -1;
	for (unsigned k = 0; k < ARRAY_SIZE(n->vhost_fds); k++)
		n->vhost_fds[k] = -1;
	r = tap_take(n, cfg, at, fds, e);
	if (r < 0)
		return r;
	memcpy(c.mac, i->mac, sizeof(c.mac));
	c.tap_fd = n->tap_fd;
	c.pairs = n->pairs;
	memcpy(c.more_fds, n->more_fds, sizeof(c.more_fds));
	c.vhost = n->vhost;
	memcpy(c.vhost_fds, n->vhost_fds, sizeof(c.vhost_fds));
	c.loop = n->loop ? n->loop : h->loop;
	r = virtio_net_new(h, p, &c, &n->dev, e);
	if (!r)
		*ret_dev = n->dev;
	return r;
}

static void *nic_thread(void *opaque)
{
	struct nic *n = opaque;

	pthread_setname_np(pthread_self(), n->cfg->id);
	thread_filter_enter(n->kvm, THREAD_NET, n->loop, -1);
	loop_run(n->loop);
	return NULL;
}

int nic_start(struct nic *n, const struct kvm *k, struct err *e)
{
	int r;

	n->kvm = k;
	r = n->loop ? -pthread_create(&n->thread, NULL, nic_thread, n) : 0;

	n->thread_made = n->loop && !r;
	return r < 0 ? err_set_errno(e, r, "cannot start the thread of interface %s", n->cfg->id) : 0;
}

void nic_stop(struct nic *n)
{
	if (!n->thread_made)
		return;
	loop_stop(n->loop);
	pthread_join(n->thread, NULL);
	n->thread_made = false;
}

void nic_done(struct nic *n)
{
	loop_free(n->loop);
	if (n->tap_fd >= 0)
		close(n->tap_fd);
	for (unsigned i = 1; i < n->pairs; i++)
		if (n->more_fds[i - 1] >= 0)
			close(n->more_fds[i - 1]);
	for (unsigned i = 0; i < n->pairs && n->vhost; i++)
		if (n->vhost_fds[i] >= 0)
			close(n->vhost_fds[i]);
}

void nic_set_limits(struct nic *n, const struct vm_interface_limits *limits)
{
	struct virtio_net_limits l = limits_of(limits);

	virtio_net_set_limits(n->dev, &l);
}

int nic_set_link(struct nic *n, bool up, struct err *e)
{
	if (up && n->tap_fd < 0)
		return err_set(e, -EPERM, ERR_WRONG_STATE, "interface %s has had no network since the VM's start, because its link was "
			"down then; set the link up with --config, and restart the VM", n->cfg->id);
	virtio_net_set_link(n->dev, up);
	return 0;
}

void nic_hold_vhost(struct nic *n, bool hold)
{
	virtio_net_hold_vhost(n->dev, hold);
}

void nic_mark(struct nic *n, uint64_t key)
{
	virtio_net_mark(n->dev, key);
}

void nic_revert(struct nic *n, uint64_t key)
{
	virtio_net_revert(n->dev, key);
}

void nic_info(struct nic *n, struct vm_interface_info *ret)
{
	struct virtio_net_stats s;

	virtio_net_stats(n->dev, &s);
	memcpy(ret->id, n->cfg->id, sizeof(ret->id));
	memcpy(ret->target, n->cfg->target, sizeof(ret->target));
	memcpy(ret->mac, n->cfg->mac, sizeof(ret->mac));
	ret->link_up = s.link_up;
	ret->vhost = n->is_uncounted;
	ret->rx_bytes = s.rx_bytes;
	ret->rx_packets = s.rx_packets;
	ret->rx_errors = s.rx_errors;
	ret->rx_drops = s.rx_drops;
	ret->tx_bytes = s.tx_bytes;
	ret->tx_packets = s.tx_packets;
	ret->tx_errors = s.tx_errors;
	ret->tx_drops = s.tx_drops;
}

void nic_carry(struct nic *n, const struct vm_interface_info *before)
{
	const struct virtio_net_stats s = { before->rx_bytes, before->rx_packets, before->rx_errors, before->rx_drops,
		before->tx_bytes, before->tx_packets, before->tx_errors, before->tx_drops, false };

	virtio_net_carry(n->dev, &s);
}

void nic_show(struct nic *n, _Atomic uint64_t *shown)
{
	virtio_net_show(n->dev, shown);
}
