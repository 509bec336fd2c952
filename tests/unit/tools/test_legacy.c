/* The walk through a table of iptables-legacy: which packets the chain FORWARD drops. */
#include "tools/net/legacy.c" /* a program's file: in no library */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

#define TABLE_BYTES 8192

struct made {
	_Alignas(16) unsigned char bytes[TABLE_BYTES];
	struct legacy_table table;
};

struct spec {
	const char *in, *out; /* NULL: any; "virbr+": each that begins so */
	const char *match, *target; /* NULL: none; the standard target */
	int verdict;
	bool inverted, udp, is_goto;
};

static void link_put(char name[IFNAMSIZ], unsigned char mask[IFNAMSIZ], const char *link)
{
	size_t len = link ? strlen(link) : 0;

	if (!link)
		return;
	if (link[len - 1] == '+') {
		memcpy(name, link, len - 1);
		memset(mask, 0xff, len - 1);
	} else {
		memcpy(name, link, len);
		memset(mask, 0xff, len + 1);
	}
}

/* Add a rule. Returns its offset. */
static size_t rule_add(struct made *m, const struct spec *s)
{
	size_t at = m->table.bytes, head = m->table.ipv6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry);
	struct ip6t_entry *v6 = (void *)(m->bytes + at);
	struct ipt_entry *v4 = (void *)v6;
	size_t target = head + (s->match ? sizeof(struct xt_entry_match) : 0), end = target + sizeof(struct xt_standard_target);
	struct xt_standard_target *t = (void *)(m->bytes + at + target);

	assert_true(at + end <= sizeof(m->bytes));
	if (m->table.ipv6) {
		link_put(v6->ipv6.iniface, v6->ipv6.iniface_mask, s->in);
		link_put(v6->ipv6.outiface, v6->ipv6.outiface_mask, s->out);
		v6->ipv6.invflags = s->inverted ? IP6T_INV_VIA_OUT : 0;
		v6->ipv6.flags = (uint8_t)((s->udp ? IP6T_F_PROTO : 0) | (s->is_goto ? IP6T_F_GOTO : 0));
		v6->target_offset = (uint16_t)target;
		v6->next_offset = (uint16_t)end;
	} else {
		link_put(v4->ip.iniface, v4->ip.iniface_mask, s->in);
		link_put(v4->ip.outiface, v4->ip.outiface_mask, s->out);
		v4->ip.invflags = s->inverted ? IPT_INV_VIA_OUT : 0;
		v4->ip.flags = s->is_goto ? IPT_F_GOTO : 0;
		v4->ip.proto = s->udp ? IPPROTO_UDP : 0;
		v4->target_offset = (uint16_t)target;
		v4->next_offset = (uint16_t)end;
	}
	if (s->match) {
		struct xt_entry_match *match = (void *)(m->bytes + at + head);

		match->u.match_size = sizeof(*match);
		snprintf(match->u.user.name, sizeof(match->u.user.name), "%s", s->match);
	}
	t->target.u.target_size = sizeof(*t);
	snprintf(t->target.u.user.name, sizeof(t->target.u.user.name), "%s", s->target ? s->target : "");
	t->verdict = s->verdict;
	m->table.bytes += end;
	return at;
}

#define ACCEPT (-NF_ACCEPT - 1)
#define DROP (-NF_DROP - 1)
#define ADD(m, ...) rule_add(m, &(const struct spec){ __VA_ARGS__ })

static void table_begin(struct made *m, bool ipv6)
{
	memset(m, 0, sizeof(*m));
	m->table.entries = m->bytes;
	m->table.ipv6 = ipv6;
}

/* Begin with a chain that the rules may call, which ends with RETURN. Then the chain FORWARD begins. */
static void forward_begin(struct made *m)
{
	ADD(m, .verdict = XT_RETURN);
	m->table.forward = m->table.bytes;
}

static void forward_end(struct made *m, int policy)
{
	m->table.policy = ADD(m, .verdict = policy);
}

static bool drops_out(struct made *m)
{
	return legacy_table_drops(&m->table, "virbr0", "eth0", false);
}

static bool drops_answers(struct made *m)
{
	return legacy_table_drops(&m->table, "eth0", "virbr0", true);
}

static void each_family(void (*test)(struct made *m))
{
	static struct made m;

	for (int ipv6 = 0; ipv6 < 2; ipv6++) {
		table_begin(&m, ipv6);
		test(&m);
	}
}

static void policies(struct made *m)
{
	forward_begin(m);
	forward_end(m, ACCEPT);
	assert_false(drops_out(m));
	table_begin(m, m->table.ipv6);
	forward_begin(m);
	forward_end(m, DROP);
	assert_true(drops_out(m));
	assert_true(drops_answers(m));
}

static void policy_decides(void **state)
{
	(void)state;
	each_family(policies);
}

static void links(struct made *m)
{
	forward_begin(m);
	ADD(m, .in = "docker0", .out = "docker0", .inverted = true, .verdict = ACCEPT);
	ADD(m, .in = "virbr1", .verdict = ACCEPT);
	ADD(m, .in = "virbr0", .out = "eth0", .udp = true, .verdict = ACCEPT);
	ADD(m, .in = "virbr0", .match = "set", .verdict = ACCEPT);
	ADD(m, .target = "LOG");
	forward_end(m, DROP);
	assert_true(drops_out(m));
	table_begin(m, m->table.ipv6);
	forward_begin(m);
	ADD(m, .in = "virbr+", .out = "docker0", .inverted = true, .match = "comment", .verdict = ACCEPT);
	forward_end(m, DROP);
	assert_false(drops_out(m));
	assert_true(drops_answers(m));
}

static void rules_of_the_links_decide(void **state)
{
	(void)state;
	each_family(links);
}

static void tracked(struct made *m)
{
	forward_begin(m);
	ADD(m, .match = "conntrack", .verdict = DROP);
	ADD(m, .match = "conntrack", .verdict = ACCEPT);
	ADD(m, .target = "REJECT");
	forward_end(m, ACCEPT);
	assert_true(drops_out(m));
	assert_false(drops_answers(m));
}

static void tracked_connections_have_answers(void **state)
{
	(void)state;
	each_family(tracked);
}

static void calls(struct made *m)
{
	size_t user = ADD(m, .in = "virbr0", .verdict = ACCEPT);

	forward_begin(m);
	ADD(m, .verdict = (int)user);
	ADD(m, .out = "virbr0", .verdict = XT_RETURN);
	ADD(m, .verdict = ACCEPT);
	forward_end(m, DROP);
	assert_false(drops_out(m));
	assert_true(drops_answers(m)); /* a return from FORWARD is its policy */
	table_begin(m, m->table.ipv6);
	user = ADD(m, .in = "virbr0", .verdict = ACCEPT);
	forward_begin(m);
	ADD(m, .verdict = (int)user, .is_goto = true);
	ADD(m, .verdict = ACCEPT);
	forward_end(m, DROP);
	assert_true(drops_answers(m));
}

static void chains_call_each_other(void **state)
{
	(void)state;
	each_family(calls);
}

static void loops(struct made *m)
{
	size_t self = m->table.bytes;

	ADD(m, .verdict = (int)self);
	forward_begin(m);
	ADD(m, .verdict = (int)self);
	forward_end(m, DROP);
	assert_false(drops_out(m));
}

/* Each byte of a table with some wrong value: nothing outside of it is read. */
static void broken(struct made *m)
{
	ADD(m, .in = "virbr0", .match = "set", .verdict = ACCEPT);
	forward_begin(m);
	ADD(m, .in = "docker0", .verdict = ACCEPT);
	forward_end(m, DROP);
	for (size_t i = 0; i < m->table.bytes; i++)
		for (int bit = 0; bit < 8; bit++) {
			unsigned char *copy = malloc(m->table.bytes);
			struct legacy_table t = m->table;

			memcpy(copy, m->bytes, t.bytes);
			copy[i] ^= (unsigned char)(1 << bit);
			t.entries = copy;
			legacy_table_drops(&t, "virbr0", "eth0", false);
			free(copy);
		}
}

static void malformed_tables_do_no_harm(void **state)
{
	(void)state;
	each_family(loops);
	each_family(broken);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(policy_decides),
		cmocka_unit_test(rules_of_the_links_decide),
		cmocka_unit_test(tracked_connections_have_answers),
		cmocka_unit_test(chains_call_each_other),
		cmocka_unit_test(malformed_tables_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
