#include "tools/login/limits.h"
#include "base/hash.h"
#include "base/util.h"
#include "tools/login/message.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <string.h>

/* Tries that may fail at once, and then one for each `seconds`. A token is a millisecond of `seconds`. */
static const struct {
	unsigned burst, seconds;
} rules[LIMIT_KINDS] = {
	[LIMIT_USER_AT_ADDRESS] = { 10, 30 },
	[LIMIT_ADDRESS] = { 30, 10 },
	/* More than one address may try, so that a stranger elsewhere does not lock the user out at once. */
	[LIMIT_USER] = { 60, 10 },
};

#define TOKENS_PER_S 1000

void limits_init(struct limits *l, uint64_t seed)
{
	*l = (struct limits){ .seed = seed };
}

/* Returns NULL if the kind does not limit it. */
static struct token_bucket *row_of(struct limits *l, unsigned kind, const char *user, const char *address, uint64_t now_ns)
{
	uint64_t h = hash_add(HASH_BEGIN, &l->seed, sizeof(l->seed));
	struct token_bucket *b;
	struct in6_addr six;

	if (kind == LIMIT_ADDRESS && !login_address_is_remote(address))
		return NULL;
	if (kind != LIMIT_USER && inet_pton(AF_INET6, address, &six) == 1)
		h = hash_add(h, &six, 8);
	else if (kind != LIMIT_USER)
		h = hash_add(h, address, strlen(address) + 1);
	/* Some databases of users do not tell capitals from small letters. */
	for (; kind != LIMIT_ADDRESS && *user; user++)
		h = hash_add(h, &(char){ (char)tolower((unsigned char)*user) }, 1);
	h ^= h >> 32; /* the lowest bits of the hash depend on too few of the data's */
	b = &l->rows[kind][h % LIMITS_ROWS];
	if (!b->rate)
		token_bucket_set(b, TOKENS_PER_S, rules[kind].burst * rules[kind].seconds * TOKENS_PER_S, now_ns);
	return b;
}

/* ---- a row is full of tokens, and a failure costs those of `seconds` ---- */

unsigned limits_wait(struct limits *l, const char *user, const char *address, uint64_t now_ns)
{
	unsigned most = 0;

	for (unsigned i = 0; i < LIMIT_KINDS; i++) {
		struct token_bucket *b = row_of(l, i, user, address, now_ns);
		int64_t cost = (int64_t)rules[i].seconds * TOKENS_PER_S;

		if (!b)
			continue;
		token_bucket_refill(b, now_ns);
		if (b->tokens < cost)
			most = MAX(most, (unsigned)DIV_ROUND_UP(cost - b->tokens, TOKENS_PER_S));
	}
	return most;
}

static void tokens_add(struct limits *l, const char *user, const char *address, uint64_t now_ns, int sign)
{
	for (unsigned i = 0; i < LIMIT_KINDS; i++) {
		struct token_bucket *b = row_of(l, i, user, address, now_ns);

		if (!b)
			continue;
		token_bucket_refill(b, now_ns);
		b->tokens = MIN(b->tokens + sign * (int64_t)rules[i].seconds * TOKENS_PER_S, (int64_t)b->depth);
	}
}

void limits_take(struct limits *l, const char *user, const char *address, uint64_t now_ns)
{
	tokens_add(l, user, address, now_ns, -1);
}

void limits_return(struct limits *l, const char *user, const char *address, uint64_t now_ns)
{
	tokens_add(l, user, address, now_ns, 1);
}
