/* fake_figures: the time, the load and the addresses that fake_vm works with. */
#ifndef CAIRN_TESTS_HELPERS_FAKE_FIGURES_H
#define CAIRN_TESTS_HELPERS_FAKE_FIGURES_H

#include "vmm/vm_msg.h"

#include <arpa/inet.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* Return the creation time that an automatic snapshot's name contains, so that tests can create old ones. */
static uint64_t time_of(const char *name)
{
	struct tm tm = { 0 };

	if (!strptime(name, "auto-%Y-%m-%dT%H:%MZ", &tm))
		return 1763618897000000000ULL;
	return (uint64_t)timegm(&tm) * 1000000000ULL;
}

/* Report load of `much` units per nanosecond: half of a vCPU's time, and as many bytes in and out. */
static void works(struct vm_info *info, unsigned much)
{
	struct timespec ts;
	uint64_t all;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	all = much * ((uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec);
	for (unsigned i = 0; i < info->vcpus; i++)
		info->vcpu_ns[i] = all / 2;
	info->ndisks = info->ninterfaces = 2;
	for (unsigned i = 0; i < 2; i++) {
		info->disks[i].rd_bytes = all;
		info->disks[i].wr_bytes = 2 * all;
		info->interfaces[i].rx_bytes = 3 * all;
		info->interfaces[i].tx_bytes = 4 * all;
	}
}

static void disks_tell(struct vm_info *info, const struct vm_config *c, bool change)
{
	info->plugs = info->sets_medium = info->screens = change;
	info->groups = strstr(c->cmdline, "no-groups") ? 0 : strstr(c->cmdline, "no-group-forks") ? 1 : VM_GROUPS_FORK;
	info->sets_disks = change ? VM_SETS_DISK_TUNE : 0;
	info->copies_disks = change ? VM_RESIZES_DISKS : 0;
	info->ndisks = c->ndisks;
	for (unsigned i = 0; i < c->ndisks; i++)
		memcpy(info->disks[i].id, c->disks[i].id, sizeof(info->disks[i].id));
}

/* c: has one disk, which is not checked. */
static void disk_add(struct vm_config *to, const struct vm_config *c)
{
	if (to->ndisks < VM_DISKS_MAX)
		to->disks[to->ndisks++] = c->disks[0];
}

static void space_send(int sock, uint16_t version, uint64_t seq, int disk)
{
	struct vm_spaces s = { 0 };
	struct statvfs fs;

	if (disk >= 0 && !fstatvfs(disk, &fs)) {
		s.disks[0].free_bytes = fs.f_bavail * fs.f_frsize;
		s.disks[0].total_bytes = fs.f_blocks * fs.f_frsize;
	}
	channel_send(sock, version, VM_MSG_SPACES, seq, &s, sizeof(s), NULL, 0);
}

/* The guest has a driver for its balloon, which leaves it all memory. */
static void memory_tell(struct vm_info *info, const struct vm_config *c)
{
	info->sets_balloon = info->reclaims = 1;
	if (c->balloon)
		info->balloon = (struct vm_balloon_info){ .state = VM_BALLOON_WORKS, .guest_bytes = c->ram_bytes,
			.target_bytes = c->ram_bytes };
}

static void reclaimed_send(int sock, uint16_t version, uint64_t seq)
{
	struct vm_snapshot_done d = { .ram_bytes_shared = 8192 };

	channel_send(sock, version, VM_MSG_SNAPSHOT_DONE, seq, &d, sizeof(d), NULL, 0);
}

static void address_add(struct vm_addresses *all, const char *name, const uint8_t *mac, const char *text, uint8_t prefix)
{
	struct vm_address *x = &all->list[all->n++];

	snprintf(x->name, sizeof(x->name), "%s", name);
	x->has_mac = mac != NULL;
	if (mac)
		memcpy(x->mac, mac, sizeof(x->mac));
	x->prefix = prefix;
	x->family = !text ? VM_ADDRESS_NONE : strchr(text, ':') ? VM_ADDRESS_IPV6 : VM_ADDRESS_IPV4;
	if (text)
		inet_pton(x->family == VM_ADDRESS_IPV6 ? AF_INET6 : AF_INET, text, x->bytes);
}

/* mac: the guest's interface; NULL: it has none of its own. */
static void addresses_fill(struct vm_addresses *all, const uint8_t *mac, bool has_ip)
{
	static const uint8_t none[6], inside[6] = { 2, 0x42, 1, 2, 3, 4 };

	mac = mac ? mac : inside;
	address_add(all, "lo", none, "127.0.0.1", 8);
	address_add(all, "docker0", inside, "172.17.0.1", 16);
	address_add(all, "eth0", mac, "fe80::5054:ff:fe00:1", 64);
	if (has_ip) {
		address_add(all, "eth0", mac, "2001:db8::7", 64);
		address_add(all, "eth0", mac, "192.0.2.7", 24);
	}
	address_add(all, "tun\n\x1b[2J", NULL, NULL, 0);
}

#endif
