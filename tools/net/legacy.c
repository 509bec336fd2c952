#include "tools/net/legacy.h"
#include "base/cleanup.h"
#include "base/file.h"
#include "base/util.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>

#define TABLE_MAX (64 * MIB)
#define READS_MAX 10	/* the table may change between two questions */
#define DEPTH_MAX 64	/* of chains that call each other */
#define STEPS_MAX 100000 /* rules of one walk: a chain may be called often */

_Static_assert(sizeof(struct ipt_getinfo) == sizeof(struct ip6t_getinfo), "one layout for both families");
_Static_assert(offsetof(struct ipt_get_entries, entrytable) == offsetof(struct ip6t_get_entries, entrytable), "likewise");
_Static_assert(IPT_SO_GET_INFO == IP6T_SO_GET_INFO && IPT_SO_GET_ENTRIES == IP6T_SO_GET_ENTRIES, "likewise");

/* ---- reading ---- */

bool legacy_table_exists(bool ipv6)
{
	CLEANUP_FREE char *text = NULL;
	size_t len;

	return file_read(ipv6 ? "/proc/net/ip6_tables_names" : "/proc/net/ip_tables_names", 4096, &text, &len, NULL) == 0 &&
		strstr(text, "filter");
}

static int table_ask(int fd, bool ipv6, struct legacy_table *ret)
{
	struct ipt_getinfo info = { .name = "filter" };
	struct ipt_get_entries *got;
	socklen_t len = sizeof(info);
	int level = ipv6 ? IPPROTO_IPV6 : IPPROTO_IP;

	if (getsockopt(fd, level, IPT_SO_GET_INFO, &info, &len) < 0)
		return -errno;
	if (info.size > TABLE_MAX)
		return -EFBIG;
	len = (socklen_t)(sizeof(*got) + info.size);
	got = must_alloc(calloc(1, len));
	memcpy(got->name, info.name, sizeof(got->name));
	got->size = info.size;
	if (getsockopt(fd, level, IPT_SO_GET_ENTRIES, got, &len) < 0) {
		int r = -errno;

		free(got);
		return r;
	}
	*ret = (struct legacy_table){ .owned = got, .entries = (const unsigned char *)got->entrytable, .bytes = info.size,
		.forward = info.hook_entry[NF_INET_FORWARD], .policy = info.underflow[NF_INET_FORWARD], .ipv6 = ipv6 };
	return 0;
}

int legacy_table_read(bool ipv6, struct legacy_table *ret)
{
	CLEANUP_CLOSE int fd = socket(ipv6 ? AF_INET6 : AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	int r = fd < 0 ? -errno : -EAGAIN;

	for (unsigned i = 0; r == -EAGAIN && i < READS_MAX; i++)
		r = table_ask(fd, ipv6, ret);
	return r;
}

void legacy_table_done(struct legacy_table *t)
{
	free(STEAL_PTR(t->owned));
}

/* ---- rules ---- */

struct link_match {
	const char *name;
	const unsigned char *mask;
	bool inverted;
};

struct rule {
	struct link_match in, out;
	bool is_conditional; /* it also has conditions on addresses or protocols, or those of a match */
	bool is_tracking;    /* it asks for the state of the connection */
	bool is_goto;	     /* a chain that it calls returns to the caller of this one */
	const struct xt_entry_target *target;
	size_t next; /* offset of the next rule */
};

static bool is_zero(const void *data, size_t n)
{
	const unsigned char *c = data;

	while (n && !*c)
		c++, n--;
	return !n;
}

static void rule_read_ipv4(const struct ipt_entry *e, struct rule *ret)
{
	const struct ipt_ip *ip = &e->ip;

	*ret = (struct rule){ .in = { ip->iniface, ip->iniface_mask, ip->invflags & IPT_INV_VIA_IN },
		.out = { ip->outiface, ip->outiface_mask, ip->invflags & IPT_INV_VIA_OUT }, .is_goto = ip->flags & IPT_F_GOTO,
		.is_conditional = ip->smsk.s_addr || ip->dmsk.s_addr || ip->proto || (ip->flags & ~IPT_F_GOTO) ||
			(ip->invflags & ~(IPT_INV_VIA_IN | IPT_INV_VIA_OUT)) };
}

static void rule_read_ipv6(const struct ip6t_entry *e, struct rule *ret)
{
	const struct ip6t_ip6 *ip = &e->ipv6;

	*ret = (struct rule){ .in = { ip->iniface, ip->iniface_mask, ip->invflags & IP6T_INV_VIA_IN },
		.out = { ip->outiface, ip->outiface_mask, ip->invflags & IP6T_INV_VIA_OUT }, .is_goto = ip->flags & IP6T_F_GOTO,
		.is_conditional = !is_zero(&ip->smsk, sizeof(ip->smsk)) || !is_zero(&ip->dmsk, sizeof(ip->dmsk)) ||
			(ip->flags & ~IP6T_F_GOTO) || (ip->invflags & ~(IP6T_INV_VIA_IN | IP6T_INV_VIA_OUT)) };
}

/* Return whether a part of so many bytes lies within a limit, where a structure may begin. */
static bool part_fits(size_t at, size_t bytes, size_t limit)
{
	return at % _Alignof(struct xt_entry_target) == 0 && at <= limit && limit - at >= bytes;
}

static int matches_read(const unsigned char *rule, size_t at, size_t end, struct rule *ret)
{
	while (at < end) {
		const struct xt_entry_match *m = (const void *)(rule + at);

		if (!part_fits(at, sizeof(*m), end) || m->u.match_size < sizeof(*m) || m->u.match_size > end - at)
			return -EINVAL;
		if (!strncmp(m->u.user.name, "conntrack", sizeof(m->u.user.name)) || !strncmp(m->u.user.name, "state", sizeof(m->u.user.name)))
			ret->is_tracking = true;
		else if (strncmp(m->u.user.name, "comment", sizeof(m->u.user.name)) != 0)
			ret->is_conditional = true;
		at += m->u.match_size;
	}
	return 0;
}

/* Returns 0; -EINVAL: not as the kernel prints rules. */
static int rule_read(const struct legacy_table *t, size_t at, struct rule *ret)
{
	size_t head = t->ipv6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry), target, bytes;
	const unsigned char *rule = t->entries + at;

	if (!part_fits(at, head, t->bytes))
		return -EINVAL;
	if (t->ipv6) {
		const struct ip6t_entry *e = (const void *)rule;

		rule_read_ipv6(e, ret);
		target = e->target_offset;
		bytes = e->next_offset;
	} else {
		const struct ipt_entry *e = (const void *)rule;

		rule_read_ipv4(e, ret);
		target = e->target_offset;
		bytes = e->next_offset;
	}
	if (bytes > t->bytes - at || target < head || !part_fits(target, sizeof(*ret->target), bytes))
		return -EINVAL;
	ret->target = (const void *)(rule + target);
	ret->next = at + bytes;
	if (ret->target->u.target_size < sizeof(*ret->target) || ret->target->u.target_size > bytes - target)
		return -EINVAL;
	return matches_read(rule, head, target, ret);
}

static bool link_fits(const struct link_match *m, const char *link)
{
	char name[IFNAMSIZ] = { 0 };
	bool differs = false;

	memcpy(name, link, strnlen(link, IFNAMSIZ - 1));
	for (size_t i = 0; i < IFNAMSIZ; i++)
		differs = differs || ((unsigned char)(name[i] ^ m->name[i]) & m->mask[i]);
	return differs == m->inverted;
}

/* ---- the way of a packet ---- */

enum verdict { ACCEPTS, DROPS, RETURNS, CONTINUES };

struct walk {
	const struct legacy_table *table;
	const char *in, *out;
	bool answers;
	unsigned steps;
};

static enum verdict chain_walk(struct walk *w, size_t at, unsigned depth);

/* Follow a rule that applies. */
static enum verdict rule_follow(struct walk *w, const struct rule *rule, unsigned depth)
{
	const struct xt_standard_target *s = (const void *)rule->target;
	enum verdict v;

	if (!strncmp(rule->target->u.user.name, "REJECT", sizeof(rule->target->u.user.name)))
		return DROPS;
	if (rule->target->u.user.name[0])
		return CONTINUES; /* LOG and the like */
	if (rule->target->u.target_size < sizeof(*s))
		return ACCEPTS;
	if (s->verdict == XT_RETURN)
		return RETURNS;
	if (s->verdict < 0)
		return s->verdict == -NF_DROP - 1 ? DROPS : ACCEPTS;
	if ((size_t)s->verdict == rule->next)
		return CONTINUES; /* a rule without a target */
	v = chain_walk(w, (size_t)s->verdict, depth + 1);
	return v == RETURNS && !rule->is_goto ? CONTINUES : v;
}

static enum verdict chain_walk(struct walk *w, size_t at, unsigned depth)
{
	struct rule rule;

	while (depth < DEPTH_MAX && w->steps++ < STEPS_MAX && rule_read(w->table, at, &rule) == 0) {
		enum verdict v = CONTINUES;

		if (link_fits(&rule.in, w->in) && link_fits(&rule.out, w->out) && !rule.is_conditional) {
			if (!rule.is_tracking)
				v = rule_follow(w, &rule, depth);
			else if (w->answers && rule_follow(w, &rule, depth) == ACCEPTS)
				v = ACCEPTS;
		}
		if (v == RETURNS && !depth && at != w->table->policy)
			rule.next = w->table->policy;
		else if (v != CONTINUES)
			return v;
		at = rule.next;
	}
	return ACCEPTS;
}

bool legacy_table_drops(const struct legacy_table *t, const char *in, const char *out, bool answers)
{
	struct walk w = { t, in, out, answers, 0 };

	return chain_walk(&w, t->forward, 0) == DROPS;
}
