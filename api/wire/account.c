#include "api/wire/account.h"
#include "base/cleanup.h"
#include "base/util.h"

#include <limits.h>
#include <stdlib.h>

/* Time that an account gets in each round. */
#define ROUND_NS 250000
/* Most rounds for which an account is passed over, however long its commands took. */
#define DEBT_ROUNDS 40

static const struct account_limits limits_of[ACCOUNT_KINDS] = {
	/* A command of a user without a role can only be denied or ask for public information. The output has room
	 * for two schemas. */
	[ACCOUNT_STRANGERS] = { .text = { 4 * KIB, 64 }, .may_send_fds = false, .client_out_bytes = 128 * KIB,
		.out_bytes = 16 * MIB, .in_bytes = 16 * MIB, .calls = 64, .call_bytes = 16 * MIB },
	[ACCOUNT_USER] = { .text = { WIRE_TEXT_MAX, 16384 }, .may_send_fds = true, .client_out_bytes = MIB,
		.out_bytes = 16 * MIB, .in_bytes = 16 * MIB, .calls = 64, .call_bytes = 16 * MIB },
	[ACCOUNT_MASTER] = { .text = { WIRE_TEXT_MAX, 16384 }, .may_send_fds = true, .client_out_bytes = MIB,
		.out_bytes = SIZE_MAX, .in_bytes = SIZE_MAX, .calls = UINT_MAX, .call_bytes = SIZE_MAX },
};

struct account {
	struct accounts *all; /* NULL: freed */
	struct account *next;
	enum account_kind kind;
	uid_t uid; /* of strangers: 0 */
	unsigned members, calls;
	size_t in_bytes, out_bytes, call_bytes;
	struct account_member *first, *last; /* the calls that wait */
	/* The queue of accounts that the account is in. NULL: none of its clients may run. */
	struct queue *queue;
	struct account *queue_prev, *queue_next;
	int64_t credit_ns;
	uint64_t spent_at_ns; /* time of the last turn's end */
};

struct queue {
	struct account *first, *last;
};

/* Accounts with clients that may run. An account whose credit is used up waits in `spent` for the next round. */
struct ring {
	struct queue ready, spent;
};

struct accounts {
	struct account *list;
	struct ring masters, others;
	bool master_was_last;
	void (*wake)(void *opaque);
	void *opaque;
};

struct accounts *accounts_new(void (*wake)(void *opaque), void *opaque)
{
	struct accounts *all = must_alloc(calloc(1, sizeof(*all)));

	all->wake = wake;
	all->opaque = opaque;
	return all;
}

static bool is_unused(const struct account *a)
{
	return !a->members && !a->calls;
}

void accounts_free(struct accounts *all)
{
	if (!all)
		return;
	for (struct account *a = all->list, *next; a; a = next) {
		next = a->next;
		a->all = NULL; /* accounts with open calls stay until these end */
		if (is_unused(a))
			free(a);
	}
	free(all);
}

static bool ring_is_empty(const struct ring *r)
{
	return !r->ready.first && !r->spent.first;
}

bool accounts_are_empty(const struct accounts *all)
{
	for (const struct account *a = all->list; a; a = a->next)
		if (!is_unused(a) || a->in_bytes || a->out_bytes || a->call_bytes)
			return false;
	return !accounts_wait(all);
}

/* ---- the ring of accounts ---- */

static void queue_append(struct queue *q, struct account *a)
{
	a->queue = q;
	a->queue_next = NULL;
	a->queue_prev = q->last;
	if (q->last)
		q->last->queue_next = a;
	else
		q->first = a;
	q->last = a;
}

static void queue_remove(struct account *a)
{
	struct queue *q = a->queue;

	if (a->queue_prev)
		a->queue_prev->queue_next = a->queue_next;
	else
		q->first = a->queue_next;
	if (a->queue_next)
		a->queue_next->queue_prev = a->queue_prev;
	else
		q->last = a->queue_prev;
	a->queue = NULL;
}

static void ring_append(struct account *a)
{
	struct ring *r = a->kind == ACCOUNT_MASTER ? &a->all->masters : &a->all->others;

	queue_append(a->credit_ns > 0 ? &r->ready : &r->spent, a);
}

static bool may_run(const struct account *a)
{
	const struct account_limits *l = &limits_of[a->kind];

	return a->first && a->calls < l->calls && a->call_bytes < l->call_bytes;
}

/* Put the account into the ring when a client of it has a command to run and the account is below its limits of calls;
 * take it out when it has no such client, or has reached a limit. */
static void account_update(struct account *a)
{
	if (!a->all || may_run(a) == !!a->queue)
		return;
	if (a->queue) {
		queue_remove(a);
		return;
	}
	ring_append(a);
	a->all->wake(a->all->opaque);
}

/* Return the account that runs the next command. If none has credit, a new round begins. */
static struct account *ring_next(struct ring *r)
{
	while (!r->ready.first && r->spent.first) {
		struct account *a = r->spent.first;

		r->spent = (struct queue){ NULL, NULL };
		for (struct account *next; a; a = next) {
			next = a->queue_next;
			a->credit_ns += ROUND_NS;
			ring_append(a);
		}
	}
	return r->ready.first;
}

/* ---- accounts and their clients ---- */

/* Free the unused accounts whose debt would be paid off by now. */
static void paid_free(struct accounts *all, uint64_t now_ns)
{
	for (struct account **at = &all->list; *at;) {
		struct account *a = *at;

		if (!is_unused(a) || now_ns - a->spent_at_ns < DEBT_ROUNDS * ROUND_NS) {
			at = &a->next;
			continue;
		}
		*at = a->next;
		free(a);
	}
}

static struct account *account_find(struct accounts *all, enum account_kind kind, uid_t uid, uint64_t now_ns)
{
	struct account *a;

	paid_free(all, now_ns);
	for (a = all->list; a; a = a->next)
		if (a->kind == kind && a->uid == uid)
			return a;
	a = must_alloc(calloc(1, sizeof(*a)));
	*a = (struct account){ .all = all, .next = all->list, .kind = kind, .uid = uid, .credit_ns = ROUND_NS };
	all->list = a;
	return a;
}

/* An account in debt stays for some time: else its user would get new credit by connecting again. Few do, because each
 * has used up its credit within that time, or had a client when the last one joined. */
static void account_free_unused(struct account *a)
{
	if (!is_unused(a) || (a->all && a->credit_ns <= 0))
		return;
	for (struct account **at = a->all ? &a->all->list : NULL; at; at = &(*at)->next) {
		if (*at == a) {
			*at = a->next;
			break;
		}
	}
	free(a);
}

/* Remove the client from the queue of waiting clients. The caller calls account_update(). */
static void member_remove(struct account_member *m)
{
	struct account *a = m->account;

	if (!m->waits)
		return;
	if (m->prev)
		m->prev->next = m->next;
	else
		a->first = m->next;
	if (m->next)
		m->next->prev = m->prev;
	else
		a->last = m->prev;
	m->prev = m->next = NULL;
	m->waits = false;
}

void account_join(struct accounts *all, struct account_member *m, enum account_kind kind, uid_t uid, uint64_t now_ns)
{
	struct account *a = account_find(all, kind, kind == ACCOUNT_STRANGERS ? 0 : uid, now_ns);
	size_t in = m->in_bytes, out = m->out_bytes;
	bool waits = m->waits;

	if (m->account == a)
		return;
	a->members++;
	if (m->account)
		account_leave(m);
	m->account = a;
	account_set_bytes(m, in, out);
	if (waits)
		account_wait(m);
}

void account_leave(struct account_member *m)
{
	struct account *a = m->account;

	member_remove(m);
	account_set_bytes(m, 0, 0);
	m->account = NULL;
	a->members--;
	account_update(a);
	account_free_unused(a);
}

enum account_kind account_kind(const struct account_member *m)
{
	return m->account->kind;
}

const struct account_limits *account_limits(const struct account_member *m)
{
	return &limits_of[m->account->kind];
}

void account_set_bytes(struct account_member *m, size_t in_bytes, size_t out_bytes)
{
	struct account *a = m->account;

	a->in_bytes += in_bytes - m->in_bytes;
	a->out_bytes += out_bytes - m->out_bytes;
	m->in_bytes = in_bytes;
	m->out_bytes = out_bytes;
}

bool account_in_exceeded(const struct account_member *m)
{
	return m->account->in_bytes > account_limits(m)->in_bytes;
}

bool account_out_exceeded(const struct account_member *m)
{
	return m->account->out_bytes > account_limits(m)->out_bytes;
}

/* ---- turns ---- */

void account_wait(struct account_member *m)
{
	struct account *a = m->account;

	if (m->waits)
		return;
	m->waits = true;
	m->next = NULL;
	m->prev = a->last;
	if (a->last)
		a->last->next = m;
	else
		a->first = m;
	a->last = m;
	account_update(a);
}

void account_wait_end(struct account_member *m)
{
	member_remove(m);
	account_update(m->account);
}

bool accounts_wait(const struct accounts *all)
{
	return !ring_is_empty(&all->masters) || !ring_is_empty(&all->others);
}

struct account_member *accounts_next(struct accounts *all)
{
	struct account *master = ring_next(&all->masters), *other = ring_next(&all->others);
	struct account *a = master && (!other || !all->master_was_last) ? master : other;
	struct account_member *m;

	if (!a)
		return NULL;
	all->master_was_last = a == master;
	m = a->first;
	member_remove(m);
	/* Behind the other accounts, or out of the ring. */
	queue_remove(a);
	account_update(a);
	return m;
}

void account_spend(struct account_member *m, uint64_t ns, uint64_t now_ns)
{
	struct account *a = m->account;

	a->spent_at_ns = now_ns;
	a->credit_ns -= (int64_t)MIN(ns, (uint64_t)DEBT_ROUNDS * ROUND_NS);
	a->credit_ns = MAX(a->credit_ns, -(int64_t)DEBT_ROUNDS * ROUND_NS);
	if (!a->queue)
		return;
	queue_remove(a);
	ring_append(a);
}

void account_call_begin(struct account_member *m, struct account_call *call, size_t bytes)
{
	struct account *a = m->account;

	*call = (struct account_call){ a, bytes };
	a->calls++;
	a->call_bytes += bytes;
	account_update(a);
}

void account_call_end(struct account_call *call)
{
	struct account *a = STEAL_PTR(call->account);

	if (!a)
		return;
	a->calls--;
	a->call_bytes -= call->bytes;
	account_update(a);
	account_free_unused(a);
}
