/* token_bucket: limits a flow to a rate, with bursts. A byte or a packet costs a token; the bucket fills with `rate`
 * tokens a second up to `depth`. The flow may pass while the bucket is not empty. It may take more than the bucket
 * has, so that a large packet passes whole, and then waits until that debt is paid. So over any time t, at most rate
 * * t + depth + one packet passes, and a flow that always wants more gets the rate. Threading: the owner's. */
#ifndef CAIRN_BASE_TOKEN_BUCKET_H
#define CAIRN_BASE_TOKEN_BUCKET_H

#include <stdint.h>

#define TOKEN_BUCKET_NS 1000000000U

/* All zeros: no limit. */
struct token_bucket {
	uint64_t rate;	/* tokens a second; 0: no limit */
	uint64_t depth; /* at least 1 with a rate; at most INT64_MAX */
	int64_t tokens;
	uint64_t rest;	/* earned parts of a token, in tokens / TOKEN_BUCKET_NS */
	uint64_t at_ns; /* monotonic time of the last refill */
};

static inline void token_bucket_refill(struct token_bucket *b, uint64_t now_ns)
{
	uint64_t passed_ns = now_ns > b->at_ns ? now_ns - b->at_ns : 0;
	unsigned __int128 earned = (unsigned __int128)passed_ns * b->rate + b->rest;
	unsigned __int128 whole = earned / TOKEN_BUCKET_NS;

	b->at_ns = now_ns;
	b->rest = (uint64_t)(earned % TOKEN_BUCKET_NS);
	if (whole >= (unsigned __int128)((__int128)b->depth - b->tokens)) {
		b->tokens = (int64_t)b->depth;
		b->rest = 0;
	} else {
		b->tokens += (int64_t)whole;
	}
}

/* Change the limit. A bucket without a limit becomes full; another one keeps its tokens, so that frequent changes give
 * no bursts. rate: 0: no limit. depth: 0 counts as 1. */
static inline void token_bucket_set(struct token_bucket *b, uint64_t rate, uint64_t depth, uint64_t now_ns)
{
	int64_t full = depth > INT64_MAX ? INT64_MAX : depth ? (int64_t)depth : 1;

	if (b->rate)
		token_bucket_refill(b, now_ns);
	if (!b->rate || b->tokens > full)
		b->tokens = full;
	b->rate = rate;
	b->depth = (uint64_t)full;
	b->rest = 0;
	b->at_ns = now_ns;
}

/* Returns 0 if the flow may pass now; otherwise for how many ns it has to wait. */
static inline uint64_t token_bucket_wait(struct token_bucket *b, uint64_t now_ns)
{
	unsigned __int128 ns;

	if (!b->rate)
		return 0;
	token_bucket_refill(b, now_ns);
	if (b->tokens > 0)
		return 0;
	ns = ((unsigned __int128)(1 - (__int128)b->tokens) * TOKEN_BUCKET_NS - b->rest + b->rate - 1) / b->rate;
	return ns > INT64_MAX ? INT64_MAX : (uint64_t)ns;
}

/* Take tokens for the amount that passes now. */
static inline void token_bucket_take(struct token_bucket *b, uint64_t tokens)
{
	if (b->rate)
		b->tokens -= (int64_t)tokens;
}

#endif
